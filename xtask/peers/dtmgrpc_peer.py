"""dtm's gRPC service, by gRPC's own Python library on both ends: saga, message with check-back and TCC.

Called as: dtmgrpc_peer.py CONSOLE_PORT TOKEN

Messages are written by hand from the public protocol's field numbers, so that nothing here comes from what is tested.
"""
import json
import sys
import threading
import time
import urllib.request
from concurrent import futures

import grpc

calls = []
lock = threading.Lock()


def field(number, value):
    """One field: text and bytes with a length, numbers as varints, dicts as maps, lists repeated; nothing for a zero."""
    if isinstance(value, dict):
        return b"".join(field(number, field(1, k) + field(2, v)) for k, v in value.items())
    if isinstance(value, list):
        return b"".join(varint(number << 3 | 2) + varint(len(v)) + v for v in value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value if value else b""


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(*values):
    return b"".join(field(number, value) for number, value in values)


def request(gid, kind, steps=None, payloads=(), check="", wait=False, timeout=0, custom=""):
    options = message((1, int(wait)), (2, timeout), (5, {"x-tenant": "blue"}))
    steps = json.dumps(steps and [{"action": action, "compensate": back} for action, back in steps])
    return message((1, gid), (2, kind), (3, options), (4, custom), (5, list(payloads)), (6, check), (7, steps))


class Participant(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rsplit("/", 1)[1]

        def handle(payload, context):
            told = dict(context.invocation_metadata())
            with lock:
                before = sum(call[1] == name for call in calls)
                calls.append((told["dtm-gid"], name, told["dtm-trans_type"], told["dtm-branch_id"], told["dtm-op"], payload, told.get("x-tenant")))
            if name == "Refuse":
                context.abort(grpc.StatusCode.ABORTED, "FAILURE")
            if name == "Slow" and before == 0:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "ONGOING")
            return b""

        return grpc.unary_unary_rpc_method_handler(handle)


server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Participant(),))
busi = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}/busi.Busi/"
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")


def dtm(method, body=b"", token=sys.argv[2]):
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return channel.unary_unary(f"/dtmgimp.Dtm/{method}")(body, metadata=metadata, timeout=60)


def new_gid():
    answer = dtm("NewGid")
    assert answer[0] == 10 and answer[1] == len(answer) - 2, answer
    return answer[2:].decode()


def refused(code, method, *args):
    try:
        dtm(method, *args)
    except grpc.RpcError as error:
        assert error.code() == code, error
        return error.details()
    raise AssertionError(f"{method} was let through")


def status(gid):
    """As dtm's HTTP API tells it: its gRPC service has no such question."""
    asked = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}/api/dtmsvr/query?gid={gid}", headers={"authorization": f"Bearer {sys.argv[2]}"})
    return json.load(urllib.request.urlopen(asked))["transaction"]["status"]


def of(gid):
    with lock:
        return [call[1:] for call in calls if call[0] == gid]


def until(what, holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, f"never saw {what}: {calls}"
        time.sleep(0.02)


money = bytes(range(256))

# Saga: done, though one is at it for a while; then one that is refused and taken back.
gid = new_gid()
body = request(gid, "saga", [(busi + "Out", busi + "OutBack"), (busi + "Slow", busi + "SlowBack")], [money, b""], wait=True)
assert dtm("Submit", body) == dtm("Submit", body) == b""
assert of(gid) == [
    ("Out", "saga", "01", "action", money, "blue"),
    ("Slow", "saga", "02", "action", b"", "blue"),
    ("Slow", "saga", "02", "action", b"", "blue"),
], of(gid)
gid = new_gid()
refused(grpc.StatusCode.ABORTED, "Submit", request(gid, "saga", [(busi + "Out", busi + "OutBack"), (busi + "Refuse", busi + "RefuseBack")], [money, money], wait=True))
assert [call[0] for call in of(gid)] == ["Out", "Refuse", "RefuseBack", "OutBack"], of(gid)
assert of(gid)[3] == ("OutBack", "saga", "01", "compensate", money, "blue")
# Side by side, but for an order.
gid = new_gid()
order = json.dumps({"concurrent": True, "orders": {"2": [0, 1]}})
dtm("Submit", request(gid, "saga", [(busi + f"Part{n}", busi + "Back") for n in range(3)], [b""] * 3, wait=True, custom=order))
assert of(gid)[2][0] == "Part2", of(gid)

# Message: prepared and submitted; asked for when its creator is silent; dropped when that one says no.
gid = new_gid()
body = request(gid, "msg", [(busi + "Mail", "")], [money], check=busi + "Prepared")
dtm("Prepare", body)
dtm("Submit", body)
until("the message", lambda: of(gid) == [("Mail", "msg", "01", "action", money, "blue")])
gid, dropped = new_gid(), new_gid()
dtm("Prepare", request(gid, "msg", [(busi + "Mail", "")], [money], check=busi + "Prepared", timeout=1))
dtm("Prepare", request(dropped, "msg", [(busi + "Mail", "")], [money], check=busi + "Refuse", timeout=1))
until("the check", lambda: [call[0] for call in of(gid)] == ["Prepared", "Mail"])
assert of(gid)[0][1:4] == ("msg", "00", "msg"), of(gid)
until("the refusal", lambda: of(dropped))
until("its end", lambda: status(dropped) == "failed")
assert [call[0] for call in of(dropped)] == ["Refuse"], of(dropped)

# TCC: confirmed, then cancelled. The tries are the client's own.
for verb, op in (("Submit", "confirm"), ("Abort", "cancel")):
    gid = new_gid()
    dtm("Prepare", request(gid, "tcc"))
    for branch in ("01", "02"):
        data = {"confirm": busi + "Confirm", "cancel": busi + "Cancel"}
        dtm("RegisterBranch", message((1, gid), (2, "tcc"), (3, branch), (5, data), (6, money)))
    dtm(verb, request(gid, "tcc"))
    until(op, lambda: sorted(call[2:5] for call in of(gid)) == [("01", op, money), ("02", op, money)])

# Without the token nobody gets in; what can't be read is refused with words.
for token in ("", "wrong" * 8):
    refused(grpc.StatusCode.UNAUTHENTICATED, "NewGid", b"", token)
refused(grpc.StatusCode.INVALID_ARGUMENT, "Submit", b"\xff" * 9)
assert "workflow" in refused(grpc.StatusCode.UNIMPLEMENTED, "PrepareWorkflow")
server.stop(None)
print("grpcio: saga, message and TCC by dtm's gRPC service, with gRPC branches")
