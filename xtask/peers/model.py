# SPDX-License-Identifier: Apache-2.0
"""A server of models: says who it is, and what it was asked. model.py PORT NAME"""

import http.server
import json
import sys


class Model(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"] or 0))
        told = {
            "server": sys.argv[2],
            "length": len(body),
            "model": json.loads(body)["model"] if body else None,
            "picked": self.headers["x-gateway-destination-endpoint"],
            "for": self.headers["x-picked-for"],
            "secret": self.headers["x-secret"],
        }
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Model).serve_forever()
