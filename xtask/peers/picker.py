# SPDX-License-Identifier: Apache-2.0
"""An endpoint picker on grpcio, by the protocol of the Gateway API Inference Extension: picks by the model that a request's
body names. What it knows of protobuf is written down here by itself, so that it proves the wire and not byrnie's own words.

picker.py PORT MODEL=PORT...: the model is served by the member that listens on that port."""

import json
import sys
import threading
from concurrent import futures

import grpc

PICKED = "x-gateway-destination-endpoint"
PAUSE = threading.Event()


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, payload):
    """A field of bytes, or of a number."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    if isinstance(payload, str):
        payload = payload.encode()
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def parse(data):
    """The fields of a message, by number: a list of what each holds."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            value = number()
        elif tag & 7 == 2:
            length = number()
            value = data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {tag & 7}")
        found.setdefault(tag >> 3, []).append(value)
    return found


def headers_of(http_headers):
    lines = {}
    for line in parse(parse(http_headers).get(1, [b""])[0]).get(1, []):
        said = parse(line)
        lines[said[1][0].decode()] = said.get(3, [b""])[0].decode()
    return lines


def metadata_of(message, namespace, key):
    """google.protobuf.Value within the Struct of a namespace of metadata_context."""
    for entry in parse(message.get(8, [b""])[0]).get(1, []):
        entry = parse(entry)
        if entry[1][0].decode() != namespace:
            continue
        for inner in parse(entry[2][0]).get(1, []):
            inner = parse(inner)
            if inner[1][0].decode() == key:
                return parse(inner[2][0])
    return {}


def members_of(message):
    value = metadata_of(message, "envoy.lb.subset_hint", PICKED + "-subset")
    return [parse(one)[3][0].decode() for one in parse(value.get(6, [b""])[0]).get(1, [])]


def set_header(name, value):
    return field(1, field(1, field(1, name) + field(3, value)))


def pick(endpoints, more=b""):
    """A HeadersResponse, with the same endpoints in dynamic metadata."""
    mutation = set_header(PICKED, endpoints) + more
    inner = field(1, field(1, PICKED) + field(2, field(3, endpoints)))
    outer = field(1, field(1, "envoy.lb") + field(2, field(5, inner)))
    return field(1, field(1, field(2, mutation))) + field(8, outer)


def pieces(body):
    """BodyResponses that give the body back in pieces."""
    size = 62 * 1024
    for at in range(0, max(len(body), 1), size):
        piece, last = body[at : at + size], at + size >= len(body)
        streamed = field(1, piece) + (field(2, 1) if last else b"")
        yield field(3, field(1, field(3, field(3, streamed))))


def immediate(status, text):
    headers = set_header("content-type", "application/json") + set_header("retry-after", "7")
    return field(7, field(1, field(1, status)) + field(2, headers) + field(3, text))


def say(text):
    print(text, flush=True)


def process(serving):
    def answers(requests, context):
        head, members, body = {}, [], b""
        for data in requests:
            message = parse(data)
            if 2 in message:
                head, members = headers_of(message[2][0]), members_of(message)
                config = parse(message[11][0])
                say(f"asked {head[':method']} {head[':path']} of {len(members)}, modes {config.get(1)} {config.get(2)}")
                if parse(message[2][0]).get(3):
                    yield pick(members[0])
            elif 4 in message:
                piece = parse(message[4][0])
                body += piece.get(1, [b""])[0]
                if piece.get(2):
                    yield from judge(body, members, serving, context)
            elif 3 in message:
                value = metadata_of(message, "envoy.lb", PICKED + "-served")
                say(f"served {headers_of(message[3][0])[':status']} by {value[3][0].decode()}")
                yield field(2, field(1, b""))
        say("ended")

    return answers


def judge(body, members, serving, context):
    asked = json.loads(body)
    model = asked["model"]
    say(f"picks for {model} of {len(body)} bytes")
    at = {name: one for name, port in serving.items() for one in members if one.endswith(":" + port)}
    if model == "busy":
        yield immediate(429, '{"error": "too busy"}')
    elif model == "outside":
        yield pick("192.0.2.7:80")
        yield from pieces(body)
    elif model == "late":
        # Until the proxy gives it up.
        context.add_callback(lambda: say("given up"))
        while context.is_active():
            PAUSE.wait(0.05)
    elif model == "either":
        yield pick("192.0.2.7:80, " + at["large"])
        yield from pieces(body)
    elif model == "adapter":
        changed = json.dumps(asked | {"model": "small-v2"}).encode()
        yield pick(at["small"], set_header("x-picked-for", "adapter") + field(2, "x-secret"))
        yield from pieces(changed)
    else:
        yield pick(at[model])
        yield from pieces(body)


def main():
    serving = dict(word.split("=") for word in sys.argv[2:])
    handler = grpc.stream_stream_rpc_method_handler(process(serving))
    service = grpc.method_handlers_generic_handler("envoy.service.ext_proc.v3.ExternalProcessor", {"Process": handler})
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
    server.add_generic_rpc_handlers((service,))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    say("picks")
    server.wait_for_termination()


main()
