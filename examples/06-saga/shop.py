"""One participant of an order: inventory, payments or shipping. Plain HTTP, no SDK.

Its effects live in a file of its own, one line each. The Idempotency-Key that comes with every call makes a
repeated call harmless; a compensation that comes before its action closes the door to it.
"""
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, journal = int(sys.argv[1]), sys.argv[2]
undoes = {"release": "reserve", "refund": "charge"}


def done():
    if not os.path.exists(journal):
        return {}
    with open(journal) as lines:
        return dict(line.rstrip("\n").split(" ", 1) for line in lines)


def write(key, what):
    with open(journal, "a") as lines:
        lines.write(f"{key} {what}\n")
        lines.flush()
        os.fsync(lines.fileno())


class Participant(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        verb = self.path.strip("/")
        transaction = f"{self.headers['Txn-Id']}/{self.headers['Txn-Branch']}"
        known = done()
        if verb in undoes:
            if f"{transaction}/{verb}" not in known:
                write(f"{transaction}/{verb}", "null" if f"{transaction}/{undoes[verb]}" not in known else "undone")
            return self.say(200, {"undone": verb})
        if f"{transaction}/{verb}" in known:
            return self.say(200, {"again": verb})
        if any(f"{transaction}/{undo}" in known for undo, action in undoes.items() if action == verb):
            return self.say(409, {"error": "too late"})
        if verb == "charge" and asked["amount"] > 100:
            return self.say(409, {"error": "card declined"})
        write(f"{transaction}/{verb}", "done")
        if verb == "charge" and asked.get("crash"):
            # The money is taken, and nobody hears of it.
            os._exit(1)
        self.say(200, {"done": verb})

    def say(self, status, answer):
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", port), Participant).serve_forever()
