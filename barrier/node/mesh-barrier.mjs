// SPDX-License-Identifier: Apache-2.0
/**
 * A participant's barrier: each call of a transaction takes effect once, in the right order, in this program's own database.
 * For `pg`, `mysql2/promise` and `better-sqlite3`; needs the table of `../schema`. Guarantee and limits: `../README.md`.
 *
 * @typedef {{status: number, body: string}} Answer what the caller gets: an HTTP status and a text without U+0000
 */

const ATTEMPTS_MAX = 10; // of one transaction that loses races in the database
const [TXN_BYTES_MAX, BRANCH_BYTES_MAX, OP_BYTES_MAX] = [160, 64, 16]; // the columns of the table
const OPS = ["action", "try", "compensate", "cancel", "confirm", "complete", "check"];
const UNDOES = { compensate: "action", cancel: "try" };
const RACES = new Set(["40001", "40P01", 1205, 1213, 1020]); // PostgreSQL's codes; MySQL's and MariaDB's numbers
const BUSINESS = Symbol("the business's turn");

/** Thrown by a business that says no: its transaction is rolled back, and the answer passes on. */
export class Rejected extends Error {
  constructor(status = 409, body = "") {
    super(`${status} ${body}`);
    this.answer = { status, body };
  }
}

/**
 * Lets `business(client)` run if this call hasn't taken effect before; resolves to the answer for the caller.
 *
 * The business works with the client that it gets, must not commit, and may be called up to 10 times, each time after a
 * rollback. It returns nothing (200), a text (200) or an `Answer`, or a promise of these; a status of 400 and above, or a
 * thrown `Rejected`, is a no. Whatever else it throws rolls back and is thrown here. A call for `check` needs no business.
 * Bad headers are answered 400.
 *
 * @param db a pool of `pg` or `mysql2/promise`, or a client or connection of these that has no open transaction; with
 *   better-sqlite3 this is `runSync`
 * @param headers `request.headers`, a `Headers`, or any object of names and values; names have no case
 * @returns {Promise<Answer>}
 */
export async function run(db, headers, business) {
  if (isSqlite(db)) return runSync(db, headers, business);
  const call = read(headers, business);
  if (call.answer) return call.answer;
  if (typeof db.promise === "function") throw new TypeError("mysql2 without promises: give it db.promise()");
  const client = "totalCount" in db ? await db.connect() : "getConnection" in db ? await db.getConnection() : db;
  let broken;
  // A connection that breaks also says so by an event, which ends the process where nobody listens; the query fails as well.
  if (client !== db) client.on("error", ignore);
  try {
    for (let attempt = 1; ; attempt++) {
      try {
        return await transaction(client, call, business);
      } catch (error) {
        broken = error?.rollback;
        if (!isRace(error) || broken || attempt === ATTEMPTS_MAX) throw error;
      }
      await new Promise((woken) => setTimeout(woken, Math.random() * 10 * attempt));
    }
  } finally {
    // A connection that couldn't roll back must not serve anybody else.
    if (client !== db) {
      client.off("error", ignore);
      if (broken && client.destroy) client.destroy();
      else client.release(Boolean(broken));
    }
  }
}

const ignore = () => {};

/** Whether the database ended the transaction for the sake of another, also if the business has wrapped its word. */
const isRace = (error) => error != null && (RACES.has(error.code) || RACES.has(error.errno) || isRace(error.cause));

/** The same over `better-sqlite3`, whose one connection can't wait: `business(db)` returns its answer, not a promise. */
export function runSync(db, headers, business) {
  const call = read(headers, business);
  if (call.answer) return call.answer;
  db.exec("begin immediate");
  try {
    const steps = pass(call, "sqlite");
    let step = steps.next();
    while (!step.done) step = steps.next(step.value === BUSINESS ? business(db) : askSync(db, step.value));
    db.exec(step.value.commit ? "commit" : "rollback");
    return step.value.answer;
  } catch (error) {
    if (db.inTransaction) db.exec("rollback");
    if (error instanceof Rejected) return error.answer;
    throw error;
  }
}

/**
 * Says, in the creator's own open transaction, that message `id` is made. Throws `Rejected` (409) if its check came first or
 * it exists already: then roll back. With better-sqlite3 this is `messageSync`.
 */
export async function message(client, id) {
  if (isSqlite(client)) return messageSync(client, id);
  const steps = create(id, dialectOf(client));
  let step = steps.next();
  while (!step.done) step = steps.next(await ask(client, step.value));
}

/** The same over `better-sqlite3`. */
export function messageSync(db, id) {
  const steps = create(id, "sqlite");
  let step = steps.next();
  while (!step.done) step = steps.next(askSync(db, step.value));
}

async function transaction(client, call, business) {
  await client.query("begin");
  try {
    const steps = pass(call, dialectOf(client));
    let step = steps.next();
    while (!step.done) step = steps.next(await (step.value === BUSINESS ? business(client) : ask(client, step.value)));
    await client.query(step.value.commit ? "commit" : "rollback");
    return step.value.answer;
  } catch (error) {
    await client.query("rollback").catch((rollback) => Object.assign(error, { rollback }));
    if (error instanceof Rejected && !error.rollback) return error.answer;
    throw error;
  }
}

/** The protocol: yields statements and the business's turn, gets what became of each, returns the answer. */
function* pass({ txn, branch, op }, dialect) {
  if (op === "check") {
    const known = !(yield* insert(dialect, txn, "00", "msg", "rollback")) && (yield* row(dialect, txn, "00", "msg"));
    const made = known && known.by_op === "msg";
    const answer = made ? { status: 200, body: "" } : { status: 409, body: "the message was never sent" };
    return { answer, commit: true };
  }
  const settled = { answer: { status: 200, body: "" }, commit: true };
  const undone = UNDOES[op];
  if (undone) {
    // Whoever undoes what never came holds its place, so that it comes too late. A repetition finds its own row there.
    if (yield* insert(dialect, txn, branch, undone, op)) return settled;
    if ((yield* row(dialect, txn, branch, undone)).by_op === op) return settled;
  }
  const own = op === "complete" ? "confirm" : op;
  if (!(yield* insert(dialect, txn, branch, own, own))) {
    if (op !== "action" && op !== "try") return settled;
    const { by_op, response } = yield* row(dialect, txn, branch, op);
    if (by_op !== op) throw new Rejected(409, `too late: ${by_op} came first`);
    return { answer: { status: Number(response.slice(0, 3)), body: response.slice(4) }, commit: true };
  }
  const answer = judged(yield BUSINESS);
  const commit = answer.status < 400;
  // Kept for every operation: where the business has hidden a database error, this statement fails.
  const keep = "update mesh_barrier set response = ? where txn = ? and branch = ? and op = ?";
  if (commit) yield { dialect, text: keep, values: [`${answer.status} ${answer.body}`, txn, branch, own] };
  return { answer, commit };
}

function* create(id, dialect) {
  fits("the message's id", id, TXN_BYTES_MAX);
  if (yield* insert(dialect, id, "00", "msg", "msg")) return;
  const made = (yield* row(dialect, id, "00", "msg")).by_op === "msg";
  throw new Rejected(409, made ? `message ${id} exists already` : `too late: the check of message ${id} came first`);
}

/** Whether the row is new; waits for a transaction that holds the same. */
function* insert(dialect, ...values) {
  const verb = { sqlite: "insert or ignore", mysql: "insert ignore", postgres: "insert" }[dialect];
  const tail = dialect === "postgres" ? " on conflict do nothing" : "";
  const text = `${verb} into mesh_barrier (txn, branch, op, by_op) values (?, ?, ?, ?)${tail}`;
  return (yield { dialect, text, values }).count === 1;
}

/** Who made the row, and the answer kept there. MySQL's older snapshot might not show it: so with a lock. */
function* row(dialect, ...values) {
  const tail = dialect === "mysql" ? " lock in share mode" : "";
  const text = `select by_op, response from mesh_barrier where txn = ? and branch = ? and op = ?${tail}`;
  const [found] = (yield { dialect, text, values, reads: true }).rows;
  if (!found) throw new Error(`somebody deletes rows of mesh_barrier that are in use: ${values.join(" ")}`);
  return found;
}

async function ask(client, { dialect, text, values }) {
  if (dialect === "postgres") {
    let at = 0;
    const { rowCount, rows } = await client.query(text.replace(/\?/g, () => `$${++at}`), values);
    return { count: rowCount, rows };
  }
  const [found] = await client.query(text, values);
  return { count: found.affectedRows, rows: found };
}

function askSync(db, { text, values, reads }) {
  const statement = db.prepare(text);
  return reads ? { rows: statement.all(...values) } : { count: statement.run(...values).changes };
}

const isSqlite = (db) => typeof db.pragma === "function" && "inTransaction" in db;
/** pg's clients can `escapeIdentifier`; mysql2's promise connections can `execute`. */
function dialectOf(client) {
  if (typeof client.escapeIdentifier === "function") return "postgres";
  if (typeof client.execute === "function" && typeof client.promise !== "function") return "mysql";
  throw new TypeError("neither a client of pg, mysql2/promise nor better-sqlite3");
}

function judged(said) {
  if (typeof said?.then === "function") throw new TypeError("a business over better-sqlite3 can't return a promise");
  const { status = 200, body = "" } = typeof said === "string" ? { body: said } : (said ?? {});
  if (!Number.isInteger(status) || status < 200 || status > 599) throw new RangeError(`a business answered ${status}`);
  if (typeof body !== "string" || body.includes("\0") || !body.isWellFormed()) {
    throw new TypeError("a business answers a well-formed text without U+0000");
  }
  return { status, body };
}

/** The transaction, the branch and the operation of a call, or the answer to one that has none. */
function read(headers, business) {
  try {
    const call = names(headers);
    if (typeof business !== "function" && call.op !== "check") throw new TypeError(`no business for Txn-Op ${call.op}`);
    return call;
  } catch (error) {
    if (error instanceof Rejected) return error;
    throw error;
  }
}

function names(headers) {
  const found = {};
  for (const [name, value] of typeof headers.entries === "function" ? headers.entries() : Object.entries(headers)) {
    const lower = name.toLowerCase();
    if (!["txn-id", "txn-branch", "txn-op", "idempotency-key"].includes(lower) || value === undefined) continue;
    if (lower in found || Array.isArray(value)) throw new Rejected(400, `there is more than one ${lower}`);
    found[lower] = value;
  }
  if (found["txn-id"] === undefined) {
    const key = found["idempotency-key"];
    if (key === undefined) throw new Rejected(400, "there is neither Txn-Id nor Idempotency-Key");
    return { txn: fits("Idempotency-Key", unquoted(key), TXN_BYTES_MAX), branch: "-", op: "action" };
  }
  const txn = fits("Txn-Id", found["txn-id"], TXN_BYTES_MAX);
  const branch = fits("Txn-Branch", found["txn-branch"], BRANCH_BYTES_MAX);
  const op = fits("Txn-Op", found["txn-op"], OP_BYTES_MAX);
  if (!OPS.includes(op)) throw new Rejected(400, `Txn-Op is none of ${OPS.join(", ")}`);
  return { txn, branch, op };
}

function fits(name, text, most) {
  if (text === undefined) throw new Rejected(400, `${name} is missing`);
  if (text === "") throw new Rejected(400, `${name} is empty`);
  if (Buffer.byteLength(text) > most) throw new Rejected(400, `${name} is longer than ${most} bytes`);
  if (/[\0-\x1f\x7f]/.test(text)) throw new Rejected(400, `${name} has a control character in it`);
  if (!text.isWellFormed()) throw new Rejected(400, `${name} isn't well-formed Unicode`);
  return text;
}

/** A key as RFC 8941 quotes it, or the same characters bare. */
function unquoted(value) {
  const bare = value.replace(/^[ \t\r\n\f]+|[ \t\r\n\f]+$/g, "");
  const quoted = /^"((?:[ !#-[\]-~]|\\["\\])*)"$/.exec(bare);
  if (quoted) return quoted[1].replace(/\\(.)/g, "$1");
  if (/^[!#-+\--:<-[\]-~]*$/.test(bare)) return bare;
  throw new Rejected(400, "Idempotency-Key isn't a string in quotes of printable ASCII");
}
