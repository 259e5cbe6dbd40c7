#!/usr/bin/env bash
# Two versions of a service; a route sends all calls to the first, then all to the second.
. "$(dirname "$0")/../lib.sh"
mesh
cd "$(dirname "$0")"
for version in v1 v2; do
  port=$(free_port)
  start run --name greeter --labels "version=$version" --port "$port" -- \
    python3 -m http.server --bind 127.0.0.1 --directory "$version" "$port"
done
"$BYRNIE" apply -f services.yaml -f all-v1.yaml
call() { curl -fsS -H 'Host: greeter.default.mesh.localhost' "$EDGE/version.txt"; }
says() { [ "$(call)" = "$1" ]; }
until_ok says v1
for _ in $(seq 20); do says v1; done
echo "all calls reach v1"
"$BYRNIE" apply -f all-v2.yaml
until_ok says v2
for _ in $(seq 20); do says v2; done
echo "after one apply, all calls reach v2"
"$BYRNIE" undo
until_ok says v1
echo "after undo, v1 again"
