#!/usr/bin/env bash
# One route: testers by a header, old links by a redirect, and a copy of all else to the next version.
. "$(dirname "$0")/../lib.sh"
mesh
cd "$(dirname "$0")"
for version in v1 v2; do
  port=$(free_port)
  start run --name greeter --labels "version=$version" --port "$port" -- \
    python3 -m http.server --bind 127.0.0.1 --directory "$version" "$port"
done
"$BYRNIE" apply -f services.yaml -f routes.yaml
call() { curl -fsS -H 'Host: greeter.default.mesh.localhost' "$@"; }
says() { [ "$(call "${@:2}" "$EDGE/version.txt")" = "$1" ]; }
until_ok says v1
until_ok says v2 -H 'x-canary: yes'
for _ in $(seq 10); do says v1; says v2 -H 'x-canary: yes'; done
echo "testers reach v2, all others v1"
location=$(call -o /dev/null -w '%{http_code} %{redirect_url}' "$EDGE/old/version.txt")
case "$location" in
  "301 http://greeter.default.mesh.localhost"*/version.txt) echo "old links are sent on" ;;
  *) echo "got $location" >&2; exit 1 ;;
esac
"$BYRNIE" explain "GET http://greeter.default.mesh.localhost/version.txt" --from edge | grep "copied to greeter-v2"
