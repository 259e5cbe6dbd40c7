# What every example does first: find the binary, start a mesh in a folder of its own, end it at exit.
set -euo pipefail
if [ -z "${BYRNIE:-}" ]; then
  cargo build --release --locked --package byrnie
  BYRNIE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/release/byrnie
fi
export BYRNIE_DATA_DIR
BYRNIE_DATA_DIR=$(mktemp -d)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  wait || true
  rm -rf "$BYRNIE_DATA_DIR"
}
trap finish EXIT

# byrnie, with the noise of its start in a file that is shown if something fails.
start() {
  "$BYRNIE" "$@" 2>>"$BYRNIE_DATA_DIR/log" &
  pids+=($!)
}

# Tries a command until it succeeds, for a minute at most, as the machine may be busy.
until_ok() {
  for _ in $(seq 600); do
    if "$@" >/dev/null 2>&1; then return 0; fi
    sleep 0.1
  done
  echo "never succeeded: $*" >&2
  cat "$BYRNIE_DATA_DIR/log" >&2
  return 1
}

mesh() {
  start up
  until_ok test -s "$BYRNIE_DATA_DIR/ports.json"
  EDGE=http://127.0.0.1:$(python3 -c "import json;print(json.load(open('$BYRNIE_DATA_DIR/ports.json'))['edge'])")
}

# A TCP port that is free now, from below those that the system gives away by itself, to whoever calls or listens next.
free_port() {
  python3 -c '
import random, socket
while True:
    try: print(socket.create_server(("127.0.0.1", random.randrange(20000, 32000))).getsockname()[1])
    except OSError: continue
    break'
}
