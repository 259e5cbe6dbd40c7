#!/usr/bin/env bash
# The same payment sent twice is charged once, though the program knows nothing of keys.
. "$(dirname "$0")/../lib.sh"
mesh
cd "$(dirname "$0")"
port=$(free_port)
start run --name payments --port "$port" -- python3 payments.py "$port"
payments=$EDGE/charge
as=(-H 'Host: payments.default.mesh.localhost')
until_ok curl -sf "${as[@]}" "$payments"
"$BYRNIE" apply keys.yaml
keyless() { [ "$(curl -s -o /dev/null -w '%{http_code}' "${as[@]}" -d 'amount=30' "$payments")" = 400 ]; }
until_ok keyless
echo "without a key: 400"
pay() { curl -s -i "${as[@]}" -H "Idempotency-Key: \"$1\"" -d "$2" "$payments"; }
pay order-42 amount=30 | tail -n 1
echo
pay order-42 amount=30 >"$BYRNIE_DATA_DIR/again"
grep -i '^idempotency-status: replayed' "$BYRNIE_DATA_DIR/again"
echo "sent twice: $(curl -s "${as[@]}" "$payments")"
pay order-42 amount=31 | head -n 1
echo "another payment under the same key: refused"
