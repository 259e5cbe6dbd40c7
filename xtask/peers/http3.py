# SPDX-License-Identifier: Apache-2.0
"""HTTP/3 by aioquic, and a program that is asked by it.

http3.py serve PORT              a program of HTTP/1.1
http3.py ask PORT CA HOST PLAN   asks by one connection, all at once unless a request says otherwise; shows a certificate if
                                 a file with it and one with its key follow
http3.py flood PORT CA HOST PLAN the same, while many handshakes have begun that nobody goes on with
http3.py again PORT CA HOST PLAN FILE   the same, with the session ticket in FILE if there is one; the last that is given is left there

PLAN is a JSON list of requests: what each may hold is read in `Client.send`. A line of JSON tells what came of all of
them; with "stay" as the last element, lines follow: what the server says of the connection, until it closes.
"""

import asyncio
import http.server
import json
import os
import pickle
import socket
import ssl
import sys
import threading
import time

# Seconds for an answer: a busy machine is slow, not wrong.
PATIENCE = 90
# More than a server carries out before clients have to show where they are.
HANDSHAKES = 80
CHUNK = bytes(range(256)) * 256


def body_of(length):
    return (CHUNK * (length // len(CHUNK) + 1))[:length]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # Five, as it is otherwise: what comes beyond that the kernel drops, to be sent again after a second, two, four ...
    request_queue_size = 1024


class Program(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    came, left = threading.Event(), threading.Event()

    def log_message(self, *_):
        pass

    def say(self, body, **headers):
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self):
        # aioquic would wait for a body of the length that a HEAD announces.
        self.send_response(200)
        self.end_headers()
        self.close_connection = True

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/hang":
            self.came.set()
            if not self.connection.recv(1):
                self.left.set()
            self.close_connection = True
        elif path in ("/came", "/left"):
            event = self.came if path == "/came" else self.left
            self.say(str(event.wait(20)).encode())
        elif path == "/early":
            self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
            self.say(b"done")
        elif path == "/trailers":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n0\r\nx-end: yes\r\n\r\n")
        elif path == "/large":
            self.say(body_of(int(query)))
        else:
            seen = {name.lower(): value for name, value in self.headers.items()}
            self.say(json.dumps({"path": self.path, **seen}).encode(), content_type="application/json")

    def do_POST(self):
        if self.headers.get("transfer-encoding") != "chunked":
            return self.say(self.rfile.read(int(self.headers.get("content-length", 0))))
        body, trailers = b"", b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            trailers += line.strip()
        self.say(body, x_trailer=trailers.decode())


def serve(port):
    Server(("127.0.0.1", port), Program).serve_forever()


def client():
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.buffer import Buffer
    from aioquic.h3.connection import FrameType, H3Connection
    from aioquic.h3.events import DataReceived, HeadersReceived
    from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset

    class Client(QuicConnectionProtocol):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.h3 = H3Connection(self._quic)
            self.asked, self.closed = {}, asyncio.get_running_loop().create_future()
            self.control, self.goaways = bytearray(), []

        def control_came(self, data):
            """Tells of GOAWAY, which aioquic passes over. Frames of control come whole."""
            self.control += data
            rest, goaways = Buffer(data=bytes(self.control)), []
            rest.pull_uint_var()
            while not rest.eof():
                kind, payload = rest.pull_uint_var(), Buffer(data=rest.pull_bytes(rest.pull_uint_var()))
                if kind == FrameType.GOAWAY:
                    goaways.append(payload.pull_uint_var())
            for goaway in goaways[len(self.goaways) :]:
                print(json.dumps({"goaway": goaway}), flush=True)
            self.goaways = goaways

        def send(self, wanted, host):
            """Keys: `method`, `path`, `host`, `headers` (a list of pairs), `lines` (in place of all of these), `body` (so many
            bytes), `trailers`, `frames` (hexadecimal, in place of the head and all else), `opens` (the same on a stream of its
            own), `cancel` (gives the answer up once it is asked for), `then` (asks only after the one before), `leave`
            (resets the request)."""
            if "opens" in wanted:
                stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
                self._quic.send_stream_data(stream, bytes.fromhex(wanted["opens"]))
                self.transmit()
                return None
            stream = self._quic.get_next_available_stream_id()
            answer = {"interim": [], "headers": {}, "done": asyncio.get_running_loop().create_future()}
            self.asked[stream], answer["wanted"], answer["body"] = answer, wanted, bytearray()
            answer["stream"] = stream
            if "frames" in wanted:
                self._quic.send_stream_data(stream, bytes.fromhex(wanted["frames"]), end_stream=not wanted.get("open"))
                self.transmit()
                return answer
            lines = wanted.get("lines") or [
                (":method", wanted.get("method", "POST" if "body" in wanted else "GET")),
                (":scheme", "https"),
                (":authority", wanted.get("host", host)),
                (":path", wanted.get("path", "/")),
                *wanted.get("headers", []),
            ]
            lines = [(name.encode(), value.encode()) for name, value in lines]
            bare = "body" not in wanted and "trailers" not in wanted and not wanted.get("open")
            self.h3.send_headers(stream, lines, end_stream=bare)
            if "body" in wanted:
                self.h3.send_data(stream, body_of(wanted["body"]), end_stream="trailers" not in wanted)
            if "trailers" in wanted:
                trailers = [(name.encode(), value.encode()) for name, value in wanted["trailers"]]
                self.h3.send_headers(stream, trailers, end_stream=True)
            if wanted.get("leave"):
                self._quic.reset_stream(stream, 0x10C)
                self._quic.stop_stream(stream, 0x10C)
                self.end(answer)
            self.transmit()
            return answer

        def end(self, answer, **more):
            answer.update(more)
            if not answer["done"].done():
                answer["done"].set_result(None)

        def quic_event_received(self, event):
            if isinstance(event, ConnectionTerminated):
                for answer in self.asked.values():
                    self.end(answer)
                if not self.closed.done():
                    self.closed.set_result(event.error_code)
            if isinstance(event, StreamReset) and event.stream_id in self.asked:
                self.end(self.asked[event.stream_id], reset=event.error_code)
            if isinstance(event, StopSendingReceived) and event.stream_id in self.asked:
                self.asked[event.stream_id]["stopped"] = event.error_code
            if isinstance(event, StreamDataReceived) and event.stream_id == 3:
                self.control_came(event.data)
            for came in self.h3.handle_event(event):
                answer = self.asked.get(came.stream_id)
                if isinstance(came, HeadersReceived):
                    lines = {name.decode(): value.decode() for name, value in came.headers}
                    status = lines.get(":status", "")
                    if status.startswith("1"):
                        answer["interim"].append(lines)
                    elif status:
                        answer["headers"] = lines
                    else:
                        answer["trailers"] = lines
                if isinstance(came, DataReceived):
                    answer["body"] += came.data
                if came.stream_ended:
                    self.end(answer)

        def told(self, answer):
            body = bytes(answer["body"])
            told = {name: value for name, value in answer.items() if name not in ("body", "wanted", "done", "stream")}
            whole, text = body == body_of(len(body)), body[:2000].decode(errors="replace")
            status = answer["headers"].get(":status")
            return {**told, "status": status, "length": len(body), "whole": whole, "text": text}

    return Client


def flood(port, host):
    """Begins handshakes, and answers nothing."""
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.connection import QuicConnection

    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(HANDSHAKES):
        begun = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["h3"], server_name=host))
        begun.connect(("127.0.0.1", port), now=time.time())
        for datagram, to in begun.datagrams_to_send(now=time.time()):
            sender.sendto(datagram, to)
    return sender


def keep(configuration, file):
    """Has a connection go on with the session of the ticket in this file, and its last ticket left there; answers how many came."""
    tickets = []
    if os.path.exists(file):
        with open(file, "rb") as kept:
            configuration.session_ticket = pickle.load(kept)

    def given(ticket):
        tickets.append(ticket)
        with open(file, "wb") as kept:
            pickle.dump(ticket, kept)

    return given, tickets


async def ask(port, ca, host, plan, shown, file=None):
    from aioquic.asyncio import connect
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name=host, verify_mode=ssl.CERT_REQUIRED
    )
    configuration.load_verify_locations(ca)
    if shown:
        configuration.load_cert_chain(*shown)
    stay = plan[-1:] == ["stay"]
    given, tickets = keep(configuration, file) if file else (None, [])
    try:
        async with connect(
            "127.0.0.1", port, configuration=configuration, create_protocol=client(), session_ticket_handler=given
        ) as session:
            answers = []
            for wanted in plan[: len(plan) - stay]:
                if wanted.get("then"):
                    await asyncio.wait_for(answers[-1]["done"], PATIENCE)
                if wanted.get("cancel"):
                    given_up = answers[wanted["cancel"] - 1]
                    session._quic.stop_stream(given_up["stream"], 0x10C)
                    session.end(given_up)
                    session.transmit()
                answers.append(session.send(wanted, host))
            answers = [answer for answer in answers if answer is not None]
            # What comes too late is told as it is by then.
            if answers:
                await asyncio.wait([answer["done"] for answer in answers], timeout=PATIENCE)
            for answer in answers:
                answer["late"] = not answer["done"].done()
            if any("opens" in wanted for wanted in plan if wanted != "stay"):
                await asyncio.wait_for(asyncio.shield(session.closed), PATIENCE)
            closed = session.closed.result() if session.closed.done() else None
            told = {"answers": [session.told(answer) for answer in answers], "closed": closed}
            # Of aioquic's own: nothing tells it outside.
            told["retried"] = session._quic._retry_source_connection_id is not None
            told["resumed"], told["tickets"] = session._quic.tls.session_resumed, len(tickets)
            print(json.dumps(told), flush=True)
            if stay:
                code = await asyncio.wait_for(session.closed, 60)
                print(json.dumps({"closed": code}), flush=True)
    except ConnectionError:
        print(json.dumps({"answers": [], "closed": "no handshake"}), flush=True)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    flooded = flood(int(sys.argv[2]), sys.argv[4]) if sys.argv[1] == "flood" else None
    file, shown = (sys.argv[6], sys.argv[7:]) if sys.argv[1] == "again" else (None, sys.argv[6:])
    asyncio.run(ask(int(sys.argv[2]), sys.argv[3], sys.argv[4], json.loads(sys.argv[5]), shown, file))
