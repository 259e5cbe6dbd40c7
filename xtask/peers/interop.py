# SPDX-License-Identifier: Apache-2.0
"""gRPC's interop cases with grpcio: `interop.py serve PORT`, or `interop.py call HOST:PORT DIRECT`.

DIRECT is the server itself, HOST:PORT the way to it through the mesh: spans are compared.

Messages are plain bytes: a request is JSON, a line end and a payload. What is tested is what proxies can
break: framing, metadata, trailers, status, deadlines, cancelling, compression and flow control.
"""

import concurrent.futures
import json
import statistics
import sys
import threading
import time

import grpc

# How many sleeping calls have begun, and when some were given up.
begun, cancelled = [], []

DEADLINE_MS = 100
# How far from its deadline a call may end.
DEADLINE_ERROR_MS = 20
DEADLINES = 15
# How long a cancel may take to the server.
CANCEL_MS = 50
# Cancels, in batches: half of them may have met a neighbour's load.
BATCHES = 10
CANCELS_PER_BATCH = 10
# Programs on the way through the mesh that must be scheduled, where without it there is one: what a busy machine costs
# that one, it costs each.
PROGRAMS = 3
# For who compresses by what comes before the message.
COMPRESSED = (("x-compress", "1"),)


def read(request):
    head, _, payload = request.partition(b"\n")
    return json.loads(head or b"{}"), payload


def ask(payload=b"", **fields):
    return json.dumps(fields).encode() + b"\n" + payload


def echo_metadata(context):
    given = dict(context.invocation_metadata())
    if "x-initial" in given:
        context.send_initial_metadata((("x-initial", given["x-initial"]),))
    if "x-trailing-bin" in given:
        context.set_trailing_metadata((("x-trailing-bin", given["x-trailing-bin"]),))


def fail(context, fields):
    if "code" in fields:
        context.set_code(list(grpc.StatusCode)[fields["code"]])
        context.set_details(fields.get("message", ""))
    return "code" in fields


def unary(request, context):
    fields, payload = read(request)
    echo_metadata(context)
    if fields.get("compress"):
        context.set_compression(grpc.Compression.Gzip)
    if fail(context, fields):
        return b""
    return b"x" * fields["size"] if "size" in fields else payload


def collect(requests, context):
    return str(sum(len(read(request)[1]) for request in requests)).encode()


def spread(request, context):
    fields, _ = read(request)
    if fields.get("compress"):
        context.set_compression(grpc.Compression.Gzip)
    for size in fields["sizes"]:
        yield b"x" * size


def ping_pong(requests, context):
    echo_metadata(context)
    for request in requests:
        fields, _ = read(request)
        if fail(context, fields):
            return
        time.sleep(fields.get("sleep", 0))
        yield b"x" * fields.get("size", 0)


def sleeping(requests, context):
    ended = threading.Event()
    context.add_callback(lambda: (cancelled.append(time.monotonic()), ended.set()))
    echo_metadata(context)
    begun.append(1)
    ended.wait(30)
    yield b""


def count(request, context):
    return json.dumps([len(begun), cancelled]).encode()


class Service(grpc.GenericRpcHandler):
    methods = {
        "Empty": grpc.unary_unary_rpc_method_handler(lambda request, context: b""),
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Spread": grpc.unary_stream_rpc_method_handler(spread),
        "PingPong": grpc.stream_stream_rpc_method_handler(ping_pong),
        "Sleeping": grpc.stream_stream_rpc_method_handler(sleeping),
        "Cancelled": grpc.unary_unary_rpc_method_handler(count),
    }

    def service(self, call):
        service, _, method = call.method.lstrip("/").partition("/")
        return self.methods.get(method) if service == "byrnie.Interop" else None


def serve(port):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(64))
    server.add_generic_rpc_handlers((Service(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


class Client:
    def __init__(self, address, direct=None):
        self.direct = Client(direct) if direct else None
        self.channel = grpc.insecure_channel(address)
        path = "/byrnie.Interop/"
        self.empty = self.channel.unary_unary(path + "Empty")
        self.unary = self.channel.unary_unary(path + "Unary")
        self.collect = self.channel.stream_unary(path + "Collect")
        self.spread = self.channel.unary_stream(path + "Spread")
        self.ping_pong = self.channel.stream_stream(path + "PingPong")
        self.sleeping = self.channel.stream_stream(path + "Sleeping")
        self.cancelled = self.channel.unary_unary(path + "Cancelled")

    def sleepers(self):
        return json.loads(self.cancelled(b""))

    def late(self):
        """By how many milliseconds a call ends after its deadline."""
        begun = time.monotonic()
        self.fails(
            grpc.StatusCode.DEADLINE_EXCEEDED, self.ping_pong, iter([ask(sleep=0.5)]), timeout=DEADLINE_MS / 1000
        )
        return (time.monotonic() - begun) * 1000 - DEADLINE_MS

    def cancel(self, answered):
        """In how many milliseconds the server hears that a call was given up which had reached it."""
        held, before = threading.Event(), self.sleepers()
        metadata = (("x-initial", "1"),) if answered else ()
        call = self.sleeping(iter(lambda: held.wait(10) and None, None), metadata=metadata)
        while self.sleepers()[0] == before[0]:
            pass
        if answered:
            call.initial_metadata()
        begun = time.monotonic()
        call.cancel()
        held.set()
        while len(told := self.sleepers()[1]) == len(before[1]):
            assert time.monotonic() - begun < 10, "the server never heard of it"
        return (told[-1] - begun) * 1000

    def fails(self, code, call, *args, **kwargs):
        try:
            answer = call(*args, **kwargs)
            list(answer) if hasattr(answer, "__next__") else None
        except grpc.RpcError as error:
            assert error.code() == code, error
            return error
        raise AssertionError(f"{code} expected")

    def empty_unary(self):
        assert self.empty(b"") == b""

    def large_unary(self):
        assert len(self.unary(ask(b"y" * 271828, size=314159))) == 314159

    def client_compressed_unary(self):
        answer = self.unary(ask(b"y" * 27182), compression=grpc.Compression.Gzip)
        assert answer == b"y" * 27182

    def server_compressed_unary(self):
        assert len(self.unary(ask(size=314159, compress=True), metadata=COMPRESSED)) == 314159

    def client_streaming(self):
        sizes = [27182, 8, 1828, 45904]
        assert self.collect(ask(b"y" * size) for size in sizes) == b"74922"

    def client_compressed_streaming(self):
        sizes = [27182, 45904]
        assert self.collect((ask(b"y" * size) for size in sizes), compression=grpc.Compression.Gzip) == b"73086"

    def server_streaming(self):
        sizes = [31415, 9, 2653, 58979]
        assert [len(answer) for answer in self.spread(ask(sizes=sizes))] == sizes

    def server_compressed_streaming(self):
        sizes = [31415, 92653]
        assert [len(answer) for answer in self.spread(ask(sizes=sizes, compress=True), metadata=COMPRESSED)] == sizes

    def ping_pong_in_turns(self):
        turns, answers = [31415, 9, 2653, 58979], []
        more = threading.Semaphore(1)

        def requests():
            for size in turns:
                more.acquire(timeout=10)
                yield ask(size=size)

        for answer in self.ping_pong(requests()):
            answers.append(len(answer))
            more.release()
        assert answers == turns, answers

    def empty_stream(self):
        assert list(self.ping_pong(iter(()))) == []

    def custom_metadata(self):
        binary = bytes(range(256))
        given = (("x-initial", "test_initial"), ("x-trailing-bin", binary))
        _, call = self.unary.with_call(ask(b"y"), metadata=given)
        assert ("x-initial", "test_initial") in call.initial_metadata(), call.initial_metadata()
        assert ("x-trailing-bin", binary) in call.trailing_metadata(), call.trailing_metadata()
        stream = self.ping_pong(iter([ask(size=1)]), metadata=given)
        assert len(list(stream)) == 1
        assert ("x-initial", "test_initial") in stream.initial_metadata()
        assert ("x-trailing-bin", binary) in stream.trailing_metadata()

    def status_code_and_message(self):
        error = self.fails(grpc.StatusCode.UNKNOWN, self.unary, ask(code=2, message="test status message"))
        assert error.details() == "test status message"
        error = self.fails(grpc.StatusCode.UNKNOWN, self.ping_pong, iter([ask(code=2, message="test status message")]))
        assert error.details() == "test status message"

    def special_status_message(self):
        message = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
        error = self.fails(grpc.StatusCode.UNKNOWN, self.unary, ask(code=2, message=message))
        assert error.details() == message, error.details()

    def unimplemented_method(self):
        self.fails(grpc.StatusCode.UNIMPLEMENTED, self.channel.unary_unary("/byrnie.Interop/Nothing"), b"")

    def unimplemented_service(self):
        self.fails(grpc.StatusCode.UNIMPLEMENTED, self.channel.unary_unary("/byrnie.Nobody/Empty"), b"")

    def all_status_codes(self):
        for at, code in enumerate(grpc.StatusCode):
            if code != grpc.StatusCode.OK:
                self.fails(code, self.unary, ask(code=at, message="x"))

    def cancel_after_begin(self):
        held = threading.Event()

        def requests():
            # Or all could be over before it's cancelled.
            held.wait(10)
            yield ask()

        call = self.collect.future(requests())
        call.cancel()
        held.set()
        assert call.cancelled()

    def cancel_after_first_response(self):
        held = threading.Event()

        def requests():
            yield ask(size=9)
            held.wait(10)

        call = self.ping_pong(requests())
        assert len(next(call)) == 9
        call.cancel()
        held.set()
        self.fails(grpc.StatusCode.CANCELLED, lambda: next(call))

    def timeout_on_sleeping_server(self):
        spans = [(self.late(), self.direct.late()) for _ in range(DEADLINES)]
        earliest = min(span for span, _ in spans)
        late, without = map(statistics.median, zip(*spans))
        print(f"    deadlines ended {late:.1f} ms late (median), {without:.1f} ms without a mesh")
        assert earliest >= -DEADLINE_ERROR_MS and late <= DEADLINE_ERROR_MS + PROGRAMS * max(without, 0), spans

    def deadline_of_the_mesh_amid_an_answer(self):
        # The library isn't told of it: what it reports is what the proxy says.
        call = self.ping_pong(iter([ask(size=9), ask(sleep=5)]), metadata=(("x-byrnie-deadline-ms", "2000"),))
        assert len(next(call)) == 9
        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: next(call))

    def cancel_reaches_the_server(self):
        def batch(client):
            return [client.cancel(at % 2 == 0) for at in range(CANCELS_PER_BATCH)]

        batches = [(batch(self), batch(self.direct)) for _ in range(BATCHES)]
        worst, without = (statistics.median(map(max, spans)) for spans in zip(*batches))
        usual = statistics.median(span for spans, _ in batches for span in spans)
        print(
            f"    a cancel reached the server after {usual:.1f} ms (median), {worst:.1f} ms (worst of ten, median), "
            f"{without:.1f} ms without a mesh"
        )
        assert worst <= CANCEL_MS + PROGRAMS * without, batches

    def concurrent_large_unary(self):
        calls = [self.unary.future(ask(b"y" * 271828, size=314159)) for _ in range(20)]
        assert all(len(call.result()) == 314159 for call in calls)

    def rpc_soak(self):
        for _ in range(300):
            assert self.unary(ask(b"soak")) == b"soak"


def call(address, direct):
    client = Client(address, direct)
    helpers = ("__init__", "fails", "sleepers", "late", "cancel")
    names = [name for name, case in vars(Client).items() if callable(case) and name not in helpers]
    for name in names:
        getattr(client, name)()
        print(f"  grpc {name}: ok", flush=True)
    print(f"{len(names)} gRPC cases passed")


if __name__ == "__main__":
    {"serve": serve, "call": call}[sys.argv[1]](*sys.argv[2:])
