#!/usr/bin/env bash
# A gateway lets the outside in by host: all of *.shop.test reaches v2, classic.shop.test v1.
. "$(dirname "$0")/../lib.sh"
mesh
cd "$(dirname "$0")"
for version in v1 v2; do
  port=$(free_port)
  start run --name greeter --labels "version=$version" --port "$port" -- \
    python3 -m http.server --bind 127.0.0.1 --directory "$version" "$port"
done
"$BYRNIE" apply -f services.yaml -f gateway.yaml
says() { [ "$(curl -fsS -H "Host: $2" "$EDGE/version.txt")" = "$1" ]; }
until_ok says v2 www.shop.test
until_ok says v1 classic.shop.test
echo "the gateway tells hosts apart"
code=$(curl -sS -o /dev/null -w '%{http_code}' -H 'Host: www.other.test' "$EDGE/version.txt")
[ "$code" = 404 ] && echo "no other host gets in"
"$BYRNIE" get gateway public -o json | python3 -c \
  'import json, sys; print(json.load(sys.stdin)["status"]["listeners"][0]["attachedRoutes"], "routes are attached")'
"$BYRNIE" explain "GET http://classic.shop.test/version.txt" --from edge
