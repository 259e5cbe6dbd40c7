# SPDX-License-Identifier: Apache-2.0
"""A participant's barrier: each call of a transaction takes effect once, in the right order, in this program's own database.

Works on plain DB-API 2.0 connections to SQLite, PostgreSQL (psycopg, psycopg2), MySQL and MariaDB (PyMySQL, mysqlclient,
mysql-connector-python), and needs the table of `../schema`. The guarantee and its limits: `../README.md`.
"""

import random
import re
import time
from typing import Callable, Iterable, Mapping, NamedTuple, Optional, Union

ATTEMPTS_MAX = 10  # of one transaction that loses races in the database
TXN_BYTES_MAX, BRANCH_BYTES_MAX, OP_BYTES_MAX = 160, 64, 16  # the columns of the table
OPS = ("action", "try", "compensate", "cancel", "confirm", "complete", "check")
UNDOES = {"compensate": "action", "cancel": "try"}
RACES = {"40001", "40P01", 1205, 1213, 1020}  # PostgreSQL's SQLSTATEs; MySQL's and MariaDB's numbers


class Answer(NamedTuple):
    """What the caller gets: an HTTP status and a text without U+0000."""

    status: int
    body: str = ""


class Rejected(Exception):
    """Raised by a business that says no: its transaction is rolled back, and the answer passes on."""

    def __init__(self, status: int = 409, body: str = ""):
        super().__init__(f"{status} {body}")
        self.answer = Answer(status, body)


Headers = Union[Mapping[str, str], Iterable[tuple]]
Business = Callable[..., Union[None, str, tuple, Answer]]


def run(conn, headers: Headers, business: Optional[Business] = None, dialect: Optional[str] = None) -> Answer:
    """Lets `business(cursor)` run if this call hasn't taken effect before, and gives the answer for the caller.

    The connection must have no open transaction: one is begun here, and committed or rolled back. `business` works with the
    cursor, must not commit, and may be called up to ATTEMPTS_MAX times, each time after a rollback. It returns None (200), a
    text (200), or a status and a text; a status of 400 and above, or Rejected, is a no. Whatever else it raises rolls back and
    is raised here. A call for `check` needs no business. Bad headers are answered 400. `dialect` is "sqlite", "postgres" or
    "mysql", for connections whose class doesn't tell.
    """
    try:
        txn, branch, op = _names(headers)
    except Rejected as no:
        return no.answer
    if business is None and op != "check":
        raise ValueError(f"no business for Txn-Op {op}")
    db = _Database(conn, dialect)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            db.begin()
            answer = _pass(db, txn, branch, op, business)
            db.end("commit" if answer.status < 400 or op == "check" else "rollback")
            return answer
        except Rejected as no:
            db.end("rollback")
            return no.answer
        except BaseException as error:
            db.end("rollback")
            if not _is_race(error) or attempt == ATTEMPTS_MAX:
                raise
        time.sleep(random.uniform(0, 0.01 * attempt))
    raise AssertionError("unreachable")


def message(conn, message_id: str, dialect: Optional[str] = None) -> None:
    """Says, in the creator's own open transaction, that message `message_id` is made. Raises Rejected (409) if its check came
    first or it exists already: then roll back."""
    _fits("the message's id", message_id, TXN_BYTES_MAX)
    db = _Database(conn, dialect)
    if not db.insert(message_id, "00", "msg", "msg"):
        by_op, _ = db.row(message_id, "00", "msg")
        made = by_op == "msg"
        raise Rejected(409, f"message {message_id} exists already" if made else f"too late: the check of message {message_id} came first")


def _pass(db, txn, branch, op, business) -> Answer:
    if op == "check":
        if not db.insert(txn, "00", "msg", "rollback") and db.row(txn, "00", "msg")[0] == "msg":
            return Answer(200)
        return Answer(409, "the message was never sent")
    if op in UNDOES:
        # Whoever undoes what never came holds its place, so that it comes too late. A repetition finds its own row there.
        if db.insert(txn, branch, UNDOES[op], op) or db.row(txn, branch, UNDOES[op])[0] == op:
            return Answer(200)
    own = "confirm" if op == "complete" else op
    if not db.insert(txn, branch, own, own):
        if op not in ("action", "try"):
            return Answer(200)
        by_op, response = db.row(txn, branch, op)
        if by_op != op:
            raise Rejected(409, f"too late: {by_op} came first")
        status, _, body = response.partition(" ")
        return Answer(int(status), body)
    answer = _answer(business(db.cursor))
    if answer.status < 400:
        # Kept for every operation: where the business has hidden a database error, this statement fails.
        db.keep(txn, branch, own, f"{answer.status} {answer.body}")
    return answer


def _answer(said) -> Answer:
    answer = Answer(200) if said is None else Answer(200, said) if isinstance(said, str) else Answer(*said)
    if not 200 <= answer.status <= 599:
        raise ValueError(f"a business answered {answer.status}: a status is 200 to 599")
    if "\0" in answer.body:
        raise ValueError("a business answered a text with U+0000 in it")
    return answer


def _names(headers: Headers):
    """The transaction, the branch and the operation of a call; raises Rejected (400)."""
    found = {}
    for name, value in headers.items() if hasattr(headers, "items") else headers:
        name = str(name).lower()
        if name in ("txn-id", "txn-branch", "txn-op", "idempotency-key"):
            if name in found:
                raise Rejected(400, f"there is more than one {name}")
            found[name] = value
    if "txn-id" not in found:
        if "idempotency-key" not in found:
            raise Rejected(400, "there is neither Txn-Id nor Idempotency-Key")
        return _fits("Idempotency-Key", _unquoted(found["idempotency-key"]), TXN_BYTES_MAX), "-", "action"
    txn = _fits("Txn-Id", found["txn-id"], TXN_BYTES_MAX)
    branch = _fits("Txn-Branch", found.get("txn-branch"), BRANCH_BYTES_MAX)
    op = _fits("Txn-Op", found.get("txn-op"), OP_BYTES_MAX)
    if op not in OPS:
        raise Rejected(400, f"Txn-Op is none of {', '.join(OPS)}")
    return txn, branch, op


def _fits(name: str, text: Optional[str], most: int) -> str:
    if text is None:
        raise Rejected(400, f"{name} is missing")
    if not text:
        raise Rejected(400, f"{name} is empty")
    if len(text.encode("utf-8", "surrogatepass")) > most:
        raise Rejected(400, f"{name} is longer than {most} bytes")
    if re.search("[\0-\x1f\x7f]", text):
        raise Rejected(400, f"{name} has a control character in it")
    return text


def _unquoted(value: str) -> str:
    """A key as RFC 8941 quotes it, or the same characters bare."""
    value = value.strip(" \t\r\n\f")
    quoted = re.fullmatch(r'"((?:[ !#-\[\]-~]|\\["\\])*)"', value)
    if quoted:
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if not re.fullmatch(r'[!#-+\--:<-\[\]-~]*', value):
        raise Rejected(400, "Idempotency-Key isn't a string in quotes of printable ASCII")
    return value


def _is_race(error: BaseException) -> bool:
    codes = [getattr(error, name, None) for name in ("sqlstate", "pgcode", "errno")] + list(error.args[:1])
    return any(isinstance(code, (str, int)) and code in RACES for code in codes)


class _Database:
    """The table's statements in the words of one database and driver."""

    def __init__(self, conn, dialect: Optional[str]):
        module = type(conn).__module__.lower()
        names = {"sqlite": "sqlite", "psycopg": "postgres", "mysql": "mysql"}
        self.dialect = dialect or next((names[part] for part in names if part in module), None)
        if self.dialect not in names.values():
            raise ValueError(f'a connection of {module}: say dialect="sqlite", "postgres" or "mysql"')
        self.conn, self.cursor = conn, conn.cursor()

    def begin(self) -> None:
        automatic = getattr(self.conn, "autocommit", None)
        # With `autocommit=False` sqlite3 (3.12) has always begun; its first statement, an insert, takes the lock.
        if self.dialect == "sqlite" and automatic is not False:
            self.cursor.execute("begin immediate")
        elif self.dialect == "mysql" or automatic is True:
            self._refuse_open()
            self.cursor.execute("begin")
        elif self.dialect == "postgres":
            self._refuse_open()

    def _refuse_open(self) -> None:
        # How psycopg, mysql-connector-python and PyMySQL each tell of an open transaction.
        state = getattr(getattr(self.conn, "info", None), "transaction_status", 0)
        if state or getattr(self.conn, "in_transaction", False) or getattr(self.conn, "server_status", 0) & 1:
            raise ValueError("the connection has an open transaction: commit it or roll it back first")

    def end(self, word: str) -> None:
        if getattr(self.conn, "autocommit", None) is True and self.dialect != "mysql":
            self.cursor.execute(word)
        else:
            getattr(self.conn, word)()

    def _execute(self, statement: str, *values: str):
        self.cursor.execute(statement.replace("%s", "?") if self.dialect == "sqlite" else statement, values)
        return self.cursor

    def insert(self, txn: str, branch: str, op: str, by_op: str) -> bool:
        """Whether the row is new; waits for a transaction that holds the same."""
        verb = {"sqlite": "insert or ignore", "mysql": "insert ignore", "postgres": "insert"}[self.dialect]
        tail = " on conflict do nothing" if self.dialect == "postgres" else ""
        statement = f"{verb} into mesh_barrier (txn, branch, op, by_op) values (%s, %s, %s, %s){tail}"
        return self._execute(statement, txn, branch, op, by_op).rowcount == 1

    def row(self, txn: str, branch: str, op: str):
        """Who made the row, and the answer kept there. MySQL's older snapshot might not show it: so with a lock."""
        tail = " lock in share mode" if self.dialect == "mysql" else ""
        statement = f"select by_op, response from mesh_barrier where txn = %s and branch = %s and op = %s{tail}"
        found = self._execute(statement, txn, branch, op).fetchone()
        if found is None:
            raise RuntimeError(f"somebody deletes rows of mesh_barrier that are in use: {txn} {branch} {op}")
        return found

    def keep(self, txn: str, branch: str, op: str, response: str) -> None:
        statement = "update mesh_barrier set response = %s where txn = %s and branch = %s and op = %s"
        self._execute(statement, response, txn, branch, op)
