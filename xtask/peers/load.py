# SPDX-License-Identifier: Apache-2.0
"""Load that programs of grpcio report beside their answers: `load.py serve PORT NAME UTILIZATION`, or
`load.py call HOST:PORT NAME=SHARE...`, which calls until each program gets its share of a hundred calls.

The reports are ORCA's, out of band: `xds.service.orca.v3.OpenRcaService`.
"""

import collections
import concurrent.futures
import struct
import sys
import time

import grpc

PATIENCE = 60
WHO = "/byrnie.Load/Who"
REPORTS = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"


def varint(message, at):
    number, shift = 0, 0
    while True:
        number |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 0x80:
            return number, at


def numbers(message):
    """The numbers of a message by field; bytes are a message within it."""
    found, at = {}, 0
    while at < len(message):
        key, at = varint(message, at)
        number, at = varint(message, at)
        if key & 7 == 2:
            found[key >> 3] = numbers(message[at : at + number])
            at += number
        else:
            found[key >> 3] = number
    return found


def report(utilization):
    """An OrcaLoadReport of a program that does a hundred requests a second."""
    return b"\x09" + struct.pack("<d", utilization) + b"\x31" + struct.pack("<d", 100.0)


def serve(port, name, utilization):
    def reports(request, context):
        interval = numbers(request)[1]
        while context.is_active():
            yield report(float(utilization))
            time.sleep(interval.get(1, 0) + interval.get(2, 0) / 1e9)

    methods = {
        WHO: grpc.unary_unary_rpc_method_handler(lambda request, context: name.encode()),
        REPORTS: grpc.unary_stream_rpc_method_handler(reports),
    }

    class Service(grpc.GenericRpcHandler):
        def service(self, call):
            return methods.get(call.method)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((Service(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def call(address, *wanted):
    wanted = {name: int(share) for name, share in (one.split("=") for one in wanted)}
    who = grpc.insecure_channel(address).unary_unary(WHO)
    deadline = time.monotonic() + PATIENCE
    while True:
        shares = collections.Counter(who(b"", wait_for_ready=True).decode() for _ in range(100))
        if all(abs(shares[name] - share) <= 2 for name, share in wanted.items()):
            print(f"  of 100 calls: {dict(shares)}")
            return
        assert time.monotonic() < deadline, f"{dict(shares)} of 100 calls, where {wanted} was wanted"


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
