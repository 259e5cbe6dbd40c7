#!/usr/bin/env bash
# Denied by default, allowed by one command, denied again by another.
. "$(dirname "$0")/../lib.sh"
mesh
cd "$(dirname "$0")"
server=$(free_port)
start run --name vault --port "$server" -- python3 -m http.server --bind 127.0.0.1 "$server"
# The caller writes the status that it gets into a file, ten times a second.
caller=$(free_port)
start run --name caller --port "$caller" --uses vault -- python3 caller.py "$caller" "$BYRNIE_DATA_DIR/status"
sees() { [ "$(cat "$BYRNIE_DATA_DIR/status")" = "$1" ]; }
until_ok sees 403
echo "caller gets 403: nothing allows it"
"$BYRNIE" allow caller vault
until_ok sees 200
echo "after byrnie allow, caller gets 200"
"$BYRNIE" delete AccessPolicy allow-caller-to-vault
until_ok sees 403
echo "after delete, 403 again"
