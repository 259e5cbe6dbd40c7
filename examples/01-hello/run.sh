#!/usr/bin/env bash
# An ordinary program, Python's file server, joins the mesh and is reached through the edge.
. "$(dirname "$0")/../lib.sh"
mesh
port=$(free_port)
cd "$(dirname "$0")"
start run --name hello --port "$port" -- python3 -m http.server --bind 127.0.0.1 "$port"
until_ok curl -fsS -H 'Host: hello.default.mesh.localhost' "$EDGE/hello.txt"
curl -fsS -H 'Host: hello.default.mesh.localhost' "$EDGE/hello.txt"
