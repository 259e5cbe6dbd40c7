"""Charges for every POST that reaches it, as a program does that knows nothing of keys. GET says how often."""

import http.server
import sys

charges = 0


class Payments(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        self.answer(200, f"{charges} charges")

    def do_POST(self) -> None:
        global charges
        self.rfile.read(int(self.headers.get("content-length", 0)))
        charges += 1
        self.answer(201, f"charge {charges}")

    def log_message(self, *_: object) -> None:
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Payments).serve_forever()
