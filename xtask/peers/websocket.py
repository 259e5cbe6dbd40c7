# SPDX-License-Identifier: Apache-2.0
"""WebSockets by wsproto: `websocket.py serve http1|http2 PORT`, or `websocket.py call HOST:PORT ROUNDS NAME`.

The program echoes messages and says goodbye with the code that it was told. The caller does both over HTTP/1 and
over HTTP/2 (RFC 8441, by the package h2), whatever the program speaks; it asks for the host NAME.
"""

import os
import socket
import sys
import threading

import h2.config
import h2.connection
import h2.events
from h2.settings import SettingCodes
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage


class Over1:
    """A client's WebSocket over HTTP/1.1."""

    def __init__(self, host, port, name):
        self.socket = socket.create_connection((host, port), 20)
        self.ws = WSConnection(ConnectionType.CLIENT)
        self.socket.sendall(self.ws.send(Request(host=name, target="/chat")))
        accepted = self.events()
        assert isinstance(accepted[0], AcceptConnection), accepted
        self.kept = accepted[1:]

    def events(self):
        self.ws.receive_data(self.socket.recv(1 << 16) or None)
        return list(self.ws.events())

    def next(self):
        while not self.kept:
            self.kept = self.events()
        return self.kept.pop(0)

    def send(self, event):
        self.socket.sendall(self.ws.send(event))

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)
        assert self.socket.recv(1) == b"", "more after the goodbye"
        self.socket.close()


class Over2:
    """A client's WebSocket over one stream of HTTP/2."""

    def __init__(self, host, port, name):
        self.socket = socket.create_connection((host, port), 20)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.kept, self.ended, self.status = [], False, None
        self.ws = Connection(ConnectionType.CLIENT)
        while self.h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL) != 1:
            self.pump()
        self.stream = self.h2.get_next_available_stream_id()
        asked = {":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/chat"}
        asked |= {":authority": name, "sec-websocket-version": "13"}
        self.h2.send_headers(self.stream, list(asked.items()))
        while self.status is None:
            self.pump()
        assert self.status == "200", self.status

    def pump(self):
        self.socket.sendall(self.h2.data_to_send())
        got = self.socket.recv(1 << 16)
        assert got, "the connection closed"
        for event in self.h2.receive_data(got):
            if isinstance(event, h2.events.ResponseReceived):
                self.status = dict(event.headers)[":status"]
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if event.data:
                    self.ws.receive_data(event.data)
                    self.kept += list(self.ws.events())
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = True
            assert not isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)), event
        self.socket.sendall(self.h2.data_to_send())

    def next(self):
        while not self.kept:
            self.pump()
        return self.kept.pop(0)

    def send(self, event):
        data = self.ws.send(event)
        while data:
            room = min(self.h2.local_flow_control_window(self.stream), self.h2.max_outbound_frame_size, len(data))
            if room == 0:
                self.pump()
            else:
                self.h2.send_data(self.stream, data[:room])
                data = data[room:]
        self.socket.sendall(self.h2.data_to_send())

    def end(self):
        self.h2.end_stream(self.stream)
        while not self.ended:
            self.pump()
        self.socket.close()


def reply(event):
    """What the program answers; None for nothing."""
    if isinstance(event, Request):
        return AcceptConnection()
    if isinstance(event, (TextMessage, BytesMessage)):
        return type(event)(event.data, message_finished=event.message_finished)
    return event.response() if isinstance(event, CloseConnection) else None


def serve1(connection):
    ws = WSConnection(ConnectionType.SERVER)
    while True:
        got = connection.recv(1 << 16)
        if not got:
            return connection.close()
        ws.receive_data(got)
        for event in ws.events():
            answer = reply(event)
            if answer:
                connection.sendall(ws.send(answer))


def serve2(connection):
    config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
    server = h2.connection.H2Connection(config)
    server.local_settings = h2.settings.Settings(client=False, initial_values={SettingCodes.ENABLE_CONNECT_PROTOCOL: 1})
    server.initiate_connection()
    sockets, waiting = {}, {}
    while True:
        connection.sendall(server.data_to_send())
        got = connection.recv(1 << 16)
        if not got:
            return connection.close()
        for event in server.receive_data(got):
            if isinstance(event, h2.events.RequestReceived):
                asked = dict(event.headers)
                assert (asked[":method"], asked[":protocol"], asked[":path"]) == ("CONNECT", "websocket", "/chat")
                assert "sec-websocket-key" not in asked, asked
                server.send_headers(event.stream_id, [(":status", "200")])
                sockets[event.stream_id], waiting[event.stream_id] = Connection(ConnectionType.SERVER), b""
            elif isinstance(event, h2.events.DataReceived):
                server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                if not event.data:
                    continue
                ws = sockets[event.stream_id]
                ws.receive_data(event.data)
                for message in ws.events():
                    answer = reply(message)
                    waiting[event.stream_id] += ws.send(answer) if answer else b""
            elif isinstance(event, h2.events.StreamEnded):
                server.end_stream(event.stream_id)
        for stream in [stream for stream, data in waiting.items() if data]:
            while waiting[stream]:
                room = min(server.local_flow_control_window(stream), server.max_outbound_frame_size)
                if room == 0:
                    break
                server.send_data(stream, waiting[stream][:room])
                waiting[stream] = waiting[stream][room:]


def serve(version, port):
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        target = serve1 if version == "http1" else serve2
        threading.Thread(target=target, args=(connection,), daemon=True).start()


def gather(client):
    """One whole message."""
    parts = []
    while True:
        event = client.next()
        assert isinstance(event, (TextMessage, BytesMessage)), event
        parts.append(event.data)
        if event.message_finished:
            return parts[0][:0].join(parts)


def talk(kind, host, port, name, size):
    client = kind(host, port, name)
    client.send(TextMessage("grüß dich"))
    assert gather(client) == "grüß dich"
    payload = os.urandom(size)
    client.send(BytesMessage(payload))
    assert gather(client) == payload
    client.send(CloseConnection(code=4321, reason="enough"))
    goodbye = client.next()
    assert isinstance(goodbye, CloseConnection) and goodbye.code == 4321, goodbye
    client.end()


def call(address, rounds, name):
    host, port = address.rsplit(":", 1)
    for kind in (Over1, Over2):
        talk(kind, host, int(port), name, 60_000)
        for _ in range(rounds):
            talk(kind, host, int(port), name, 2000)
        print(f"{kind.__name__}: {rounds + 1} passed")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        call(sys.argv[2], int(sys.argv[3]), sys.argv[4])
