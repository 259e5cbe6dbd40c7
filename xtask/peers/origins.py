# SPDX-License-Identifier: Apache-2.0
"""Servers of HTTP/1 that others have written, each with the same program: it notes what it was asked, and answers with the target.

usage: origins.py KIND PORT NOTES    a line of JSON in NOTES for each request whose body came whole: method, target, host, body
"""

import asyncio
import json
import os
import sys


def note(method, target, host, body):
    line = json.dumps({"method": method, "target": target, "host": host, "body": body.decode("latin-1")})
    # One write, so that no line is within another.
    os.write(NOTES, (line + "\n").encode())


async def asgi(scope, receive, send):
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return
        body, more = body + event.get("body", b""), event.get("more_body", False)
    query = scope["query_string"].decode("latin-1")
    target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
    hosts = [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"host"]
    note(scope["method"], target, ",".join(hosts), body)
    answer = target.encode("latin-1")
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer})


def wsgi(environ, start_response):
    length = environ.get("CONTENT_LENGTH")
    # Of a body without a length the end is where the server says.
    body = environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read() if chunked(environ) else b""
    if length and len(body) < int(length):
        raise ConnectionError("closed within a body")
    target = environ.get("RAW_URI") or environ["REQUEST_URI"]
    note(environ["REQUEST_METHOD"], target, environ.get("HTTP_HOST", ""), body)
    answer = target.encode("latin-1")
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer]


def chunked(environ):
    return "chunked" in environ.get("HTTP_TRANSFER_ENCODING", "").lower()


def serve_uvicorn(http, port):
    import uvicorn

    uvicorn.run(asgi, port=port, http=http, ws="none", lifespan="off", log_level="critical", timeout_keep_alive=300)


def serve_granian(port):
    from granian.server.embed import Server

    asyncio.run(Server(asgi, port=port, interface="asgi", log_enabled=False).serve())


def serve_gunicorn(port):
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):
        def load_config(self):
            for name, value in {"bind": f"127.0.0.1:{port}", "worker_class": "gthread", "threads": 32, "keepalive": 300}.items():
                self.cfg.set(name, value)

        def load(self):
            return wsgi

    Application().run()


def serve_waitress(port):
    import waitress

    waitress.serve(wsgi, host="127.0.0.1", port=port, threads=16, channel_timeout=300)


def serve_cheroot(port):
    from cheroot.wsgi import Server

    Server(("127.0.0.1", port), wsgi, numthreads=32, timeout=300).start()


def serve_tornado(port):
    from tornado import httputil
    from tornado.httpserver import HTTPServer

    def answer(request):
        note(request.method, request.uri, ",".join(request.headers.get_list("Host")), request.body)
        body = request.uri.encode("latin-1")
        start = httputil.ResponseStartLine("HTTP/1.1", 200, "OK")
        request.connection.write_headers(start, httputil.HTTPHeaders({"Content-Length": str(len(body))}))
        if request.method != "HEAD":
            request.connection.write(body)
        request.connection.finish()

    async def main():
        HTTPServer(answer).listen(port, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(main())


def serve_aiohttp(port):
    from aiohttp import web

    async def answer(request):
        body = await request.read()
        target = request.raw_path
        note(request.method, target, ",".join(request.headers.getall("Host", [])), body)
        return web.Response(body=target.encode("latin-1"))

    async def main():
        runner = web.ServerRunner(web.Server(answer, keepalive_timeout=300))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.Event().wait()

    asyncio.run(main())


KINDS = {
    "uvicorn-h11": lambda port: serve_uvicorn("h11", port),
    "uvicorn-httptools": lambda port: serve_uvicorn("httptools", port),
    "granian": serve_granian,
    "gunicorn": serve_gunicorn,
    "waitress": serve_waitress,
    "cheroot": serve_cheroot,
    "tornado": serve_tornado,
    "aiohttp": serve_aiohttp,
}

if __name__ == "__main__":
    kind, port, notes = sys.argv[1:]
    NOTES = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    KINDS[kind](int(port))
