# SPDX-License-Identifier: Apache-2.0
"""gRPC's negative cases of HTTP/2 with grpcio: `negative.py DIRECT MESH`, either HOST:PORT of the example `interop unruly`.

Each is asked of the server itself, then through the mesh.
"""

import json
import sys

import grpc

ASKED_BYTES = 271828
ANSWER_BYTES = 314159
# Calls at once.
CALLS = 10
# How often a connection is left amid calls until one of them is left out by it.
LEAVES_MAX = 50
# Longer than anything here takes.
PATIENCE_S = 30


class Client:
    def __init__(self, address):
        self.call = grpc.insecure_channel(address).unary_unary("/byrnie.Unruly/Call")

    def begin(self, case, size=ASKED_BYTES):
        return self.call.future(json.dumps({"case": case}).encode() + b"\n" + b"y" * size, timeout=PATIENCE_S)

    def ask(self, case, size=ASKED_BYTES):
        assert len(self.begin(case, size).result()) == ANSWER_BYTES, case

    def together(self, case, size=ASKED_BYTES):
        calls = [self.begin(case, size) for _ in range(CALLS)]
        assert all(len(call.result()) == ANSWER_BYTES for call in calls), case

    def told(self):
        return json.loads(self.begin("told", 0).result())


def goaway(client):
    client.ask("goaway")
    client.ask("goaway")
    first, second = client.told()["served"]
    assert first != second, "asked again where it was told to leave"


def goaway_amid_calls(client):
    """Calls that a GOAWAY leaves out are answered all the same, each once."""
    for _ in range(LEAVES_MAX):
        client.together("goaway_amid_calls", 0)
        told = client.told()
        assert len(told["served"]) == CALLS, told
        if told["left_out"]:
            return
    raise AssertionError("no call was ever left out by a GOAWAY")


def ping(client):
    client.ask("ping")
    assert client.told()["pings"] == [4, 4]


def max_streams(client):
    # The first lets the server tell its limit.
    client.ask("max_streams")
    client.together("max_streams")
    told = client.told()
    assert told["most"] == 1 and len(told["served"]) == 1 + CALLS, told


def reset(client, case):
    try:
        client.begin(case).result()
    except grpc.RpcError as error:
        # Nothing was asked twice: the call may have done something.
        assert len(client.told()["served"]) == 1
        return error.code()
    raise AssertionError(f"{case}: the call was to fail")


def main(*addresses):
    direct, mesh = map(Client, addresses)
    direct.told()
    for case in (goaway, goaway_amid_calls, ping, max_streams):
        case(direct)
        case(mesh)
        print(f"  http2 {case.__name__}: ok", flush=True)
    for case in ("rst_after_header", "rst_during_data", "rst_after_data"):
        expected, found = reset(direct, case), reset(mesh, case)
        assert found == expected, f"{case}: {found}, and {expected} without a mesh"
        print(f"  http2 {case}: {found.name}, {expected.name} without a mesh", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
