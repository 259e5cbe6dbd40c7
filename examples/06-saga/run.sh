#!/usr/bin/env bash
# An order over three services that know nothing of each other: all of it happens, or none of it stays.
. "$(dirname "$0")/../lib.sh"
mesh
cd "$(dirname "$0")"
for service in inventory payments shipping; do
  port=$(free_port)
  start run --name "$service" --port "$port" --restart on-failure -- python3 shop.py "$port" "$BYRNIE_DATA_DIR/$service"
  until_ok python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)"
done
# How often something stands in a participant's own file.
count() { grep -c " $2\$" "$BYRNIE_DATA_DIR/$1" 2>/dev/null || true; }

"$BYRNIE" saga start order.json --wait 20 | grep -q ^SUCCEEDED
echo "a good order: SUCCEEDED, stock $(count inventory done), charges $(count payments done), parcels $(count shipping done)"

sed 's/"amount": 30/"amount": 300/' order.json > "$BYRNIE_DATA_DIR/dear.json"
"$BYRNIE" saga start "$BYRNIE_DATA_DIR/dear.json" --wait 20 > "$BYRNIE_DATA_DIR/said" || true
grep -q '^COMPENSATED.*card declined' "$BYRNIE_DATA_DIR/said"
echo "a declined card: COMPENSATED, the stock is back, parcels $(count shipping done)"

sed 's/"amount": 30/"amount": 30, "crash": true/' order.json > "$BYRNIE_DATA_DIR/crash.json"
"$BYRNIE" saga start "$BYRNIE_DATA_DIR/crash.json" --wait 25 | grep -q ^SUCCEEDED
echo "a service killed in the middle: SUCCEEDED, charges $(count payments done)"

"$BYRNIE" apply -f place-order.yaml
for _ in first again; do "$BYRNIE" saga start place-order --input '{"order": 42, "sku": "a1", "amount": 30}' --wait 20; done | tee "$BYRNIE_DATA_DIR/said"
test "$(sort -u "$BYRNIE_DATA_DIR/said" | grep -c ^SUCCEEDED)" = 1
echo "a defined order, started twice under one key: one run, charges $(count payments done)"
"$BYRNIE" saga list
