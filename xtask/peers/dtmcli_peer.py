"""dtm's own Python client, unchanged, against byrnie: saga, message and TCC.

Called as: dtmcli_peer.py CONSOLE_PORT TOKEN
"""
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dtmcli import msg, saga, tcc, utils

server = f"http://byrnie:{sys.argv[2]}@127.0.0.1:{sys.argv[1]}/api/dtmsvr"
calls = []


class Participant(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        calls.append((path, dict(pair.split("=", 1) for pair in self.path.split("?")[1].split("&"))))
        self.send_response(409 if path == "/refuse" else 200)
        body = b'{"dtm_result":"SUCCESS"}'
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


httpd = ThreadingHTTPServer(("127.0.0.1", 0), Participant)
threading.Thread(target=httpd.serve_forever, daemon=True).start()
busi = f"http://127.0.0.1:{httpd.server_port}"


def until(what, holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"never saw {what}: {calls}"
        time.sleep(0.02)


def called(gid, path):
    return any(p == path and q["gid"] == gid for p, q in calls)


# Saga: done, then one that is refused and taken back.
gid = utils.gen_gid(server)
saga.Saga(server, gid).add({"amount": 30}, busi + "/out", busi + "/out-back").add({"amount": 30}, busi + "/in", busi + "/in-back").submit()
until("the saga's end", lambda: called(gid, "/in"))
assert not called(gid, "/out-back")
gid = utils.gen_gid(server)
refused = saga.Saga(server, gid).add({"amount": 30}, busi + "/out", busi + "/out-back").add({}, busi + "/refuse", busi + "/refuse-back")
refused.trans_base.wait_result = True
try:
    refused.submit()
    sys.exit("a refused saga was called a success")
except utils.DTMFailureError:
    pass
assert called(gid, "/out-back")

# Message: prepared and sent; submitted by the client; dropped when its local part fails.
gid = utils.gen_gid(server)
msg.Msg(server, gid).add({"amount": 30}, busi + "/in").do_and_submit(busi + "/prepared", lambda barrier: None)
until("the message", lambda: called(gid, "/in"))
gid = utils.gen_gid(server)


def fails(_):
    raise utils.DTMFailureError("no money")


try:
    msg.Msg(server, gid).add({"amount": 30}, busi + "/in").do_and_submit(busi + "/prepared", fails)
    sys.exit("the local failure was swallowed")
except utils.DTMFailureError:
    pass
assert not called(gid, "/in")

# TCC: confirmed, then cancelled.
gid = utils.gen_gid(server)
assert tcc.tcc_global_transaction(server, gid, lambda t: [t.call_branch({"amount": 30}, busi + "/try", busi + "/confirm", busi + "/cancel") for _ in range(2)]) == gid
until("both confirms", lambda: sum(p == "/confirm" and q["gid"] == gid for p, q in calls) == 2)
gid = utils.gen_gid(server)
assert tcc.tcc_global_transaction(server, gid, lambda t: t.call_branch({}, busi + "/refuse", busi + "/confirm", busi + "/cancel")) == ""
until("the cancel", lambda: called(gid, "/cancel"))
assert not called(gid, "/confirm")

# Without the token nobody gets in.
assert utils.requests.get(server.replace(sys.argv[2], "wrong" * 8) + "/newGid").status_code == 401
print("dtmcli: saga, message and TCC as its own server runs them")
