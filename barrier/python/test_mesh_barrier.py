# SPDX-License-Identifier: Apache-2.0
"""Runs the shared suite: `python -m unittest`, on SQLite, and on what BARRIER_POSTGRES and BARRIER_MYSQL name as URLs."""

import json
import os
import sqlite3
import tempfile
import threading
import unittest
from pathlib import Path
from urllib.parse import urlsplit

import mesh_barrier
from mesh_barrier import Rejected

HERE = Path(__file__).resolve().parent
CASES = json.loads((HERE.parent / "cases.json").read_text("utf-8"))["cases"]
LOST_RACE = {
    "postgres": "do $$ begin raise exception using errcode = '40001'; end $$",
    "mysql": "signal sqlstate '40001' set mysql_errno = 1213",
}


class Boom(Exception):
    """A failure of the program."""


class Suite:
    """All cases against one database, which `connect` opens."""

    dialect = ""

    def connect(self):
        raise NotImplementedError

    def execute(self, *statements):
        conn = self.connect()
        try:
            rows = None
            for statement in statements:
                cursor = conn.cursor()
                cursor.execute(statement)
                rows = cursor.fetchall() if cursor.description else None
            conn.commit()
            return rows and list(rows)
        finally:
            conn.close()

    def setUp(self):
        schema = (HERE.parent / "schema" / f"{self.dialect}.sql").read_text("utf-8")
        self.execute(
            "drop table if exists mesh_barrier",
            "drop table if exists account",
            schema.strip().rstrip(";"),
            "create table account (id int primary key, balance int not null)",
            "insert into account values (1, 100)",
        )

    def business(self, plan, ran, begun):
        def business(cursor):
            ran.append(plan)
            begun()
            cursor.execute(f"update account set balance = balance + ({plan['add']}) where id = 1")
            if plan.get("conflicts", 0) >= len(ran):
                cursor.execute(LOST_RACE[self.dialect])
            if plan.get("raises"):
                raise Boom()
            if "rejects" in plan:
                raise Rejected(plan["rejects"]["status"], plan["rejects"]["body"])
            if plan.get("swallows"):
                try:
                    cursor.execute("select * from there_is_no_such_table")
                except Exception:
                    return None
            return plan["status"], plan["body"]

        return business

    def call(self, step, ran, begun):
        conn = self.connect()
        try:
            plan = step.get("business")
            answer = mesh_barrier.run(conn, step["headers"], plan and self.business(plan, ran, begun))
            return {"status": answer.status, "body": answer.body}
        except Exception as error:
            return {"raises": True, "error": repr(error)}
        finally:
            conn.close()

    def make(self, step):
        """The creator of a message: its own change and the message, in one transaction."""
        conn = self.connect()
        try:
            conn.cursor().execute(f"update account set balance = balance + ({step['add']}) where id = 1")
            mesh_barrier.message(conn, step["message"])
            conn.commit()
            return {"status": 200}
        except Rejected as no:
            conn.rollback()
            return no.answer._asdict()
        finally:
            conn.close()

    def together(self, step, ran):
        """All copies at one time: the business that runs waits until all are on their way."""
        copies = step.get("copies", 1)
        begun = threading.Barrier(copies)
        first = threading.Event()
        answers = [None] * copies

        def one(at):
            begun.wait()
            first.set()
            answers[at] = self.call(step, ran, first.wait)

        threads = [threading.Thread(target=one, args=(at,)) for at in range(copies)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def test_shared_cases(self):
        for case in CASES:
            if self.dialect not in case.get("on", [self.dialect]):
                continue
            with self.subTest(case["name"]):
                self.setUp()
                for at, step in enumerate(case["steps"], 1):
                    ran, expected = [], dict(step["expect"])
                    answers = [self.make(step)] if "message" in step else self.together(step, ran)
                    self.assertEqual(len(ran), expected.pop("runs", 0), f"step {at}: how often the business ran; {answers}")
                    for answer in answers:
                        found = {name: answer.get(name) for name in expected}
                        self.assertEqual(found, expected, f"step {at}: {answer}")
                self.assertEqual(self.execute("select balance from account"), [(case["balance"],)])
                rows = self.execute("select txn, branch, op, by_op, response from mesh_barrier")
                rows = [[v.decode() if isinstance(v, bytes) else v for v in row] for row in rows]
                self.assertEqual(sorted(map(repr, rows)), sorted(map(repr, case["rows"])))

    def test_an_open_transaction_is_refused(self):
        conn = self.connect()
        conn.cursor().execute("update account set balance = 5")
        headers = {"Idempotency-Key": "k"}
        with self.assertRaises((ValueError, sqlite3.OperationalError)):
            mesh_barrier.run(conn, headers, lambda cursor: None)
        conn.rollback()
        conn.close()
        self.assertEqual(self.execute("select balance from account"), [(100,)])

    def test_a_connection_in_autocommit_is_as_good(self):
        conn = self.connect()
        if self.dialect == "mysql":
            conn.autocommit(True)
        elif self.dialect == "postgres":
            conn.autocommit = True
        else:
            conn.isolation_level = None
        headers = {"Idempotency-Key": "k"}
        with self.assertRaises(Boom):
            mesh_barrier.run(conn, headers, self.business({"add": 7, "raises": True}, [], lambda: None))
        ran = []
        for _ in range(2):
            answer = mesh_barrier.run(conn, headers, self.business({"add": 7, "status": 201, "body": "x"}, ran, lambda: None))
            self.assertEqual(answer, (201, "x"))
        conn.close()
        self.assertEqual((len(ran), self.execute("select balance from account")), (1, [(107,)]))

    def test_a_header_given_twice_is_refused(self):
        headers = [("Txn-Id", "a"), ("txn-id", "b")]
        conn = self.connect()
        answer = mesh_barrier.run(conn, headers, None)
        conn.close()
        self.assertEqual(answer, (400, "there is more than one txn-id"))


class Sqlite(Suite, unittest.TestCase):
    dialect = "sqlite"

    def setUp(self):
        if not hasattr(self, "place"):
            self.place = tempfile.TemporaryDirectory()
            self.addCleanup(self.place.cleanup)
        super().setUp()

    def connect(self):
        return sqlite3.connect(Path(self.place.name) / "test.db", timeout=60)


@unittest.skipUnless("BARRIER_POSTGRES" in os.environ, "BARRIER_POSTGRES names no database")
class Postgres(Suite, unittest.TestCase):
    dialect = "postgres"

    def connect(self):
        import psycopg

        return psycopg.connect(os.environ["BARRIER_POSTGRES"])


@unittest.skipUnless("BARRIER_MYSQL" in os.environ, "BARRIER_MYSQL names no database")
class Mysql(Suite, unittest.TestCase):
    dialect = "mysql"

    def connect(self):
        import pymysql

        url = urlsplit(os.environ["BARRIER_MYSQL"])
        return pymysql.connect(
            host=url.hostname, port=url.port or 3306, user=url.username, password=url.password or "", database=url.path[1:]
        )


if __name__ == "__main__":
    unittest.main()
