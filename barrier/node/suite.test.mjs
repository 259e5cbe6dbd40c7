// SPDX-License-Identifier: Apache-2.0
// Runs the shared suite: `npm test`, on SQLite, and on what BARRIER_POSTGRES and BARRIER_MYSQL name as URLs.
// The drivers are looked for from the working directory.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Rejected, message, messageSync, run, runSync } from "./mesh-barrier.mjs";

const require = createRequire(join(process.cwd(), "package.json"));
const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const { cases } = JSON.parse(read("../cases.json"));
const POOL = 8;
const LOST_RACE = {
  postgres: "do $$ begin raise exception using errcode = '40001'; end $$",
  mysql: "signal sqlstate '40001' set mysql_errno = 1213",
};

class Boom extends Error {}

/** One database: how to run a statement and read its rows, and how to open and close. */
const databases = {
  sqlite: {
    open() {
      this.dir = mkdtempSync(join(tmpdir(), "barrier-"));
      this.db = new (require("better-sqlite3"))(join(this.dir, "test.db"));
    },
    query: (db, text) => (/^select/.test(text) ? db.prepare(text).raw().all() : void db.exec(text)),
    close() {
      this.db.close();
      rmSync(this.dir, { recursive: true });
    },
  },
  postgres: {
    url: process.env.BARRIER_POSTGRES,
    open() {
      this.db = new (require("pg").Pool)({ connectionString: this.url, max: POOL });
      this.db.on("error", () => {}); // a connection that is broken on purpose
    },
    query: async (db, text) => (await db.query({ text, rowMode: "array" })).rows,
    close() {
      return this.db.end();
    },
  },
  mysql: {
    url: process.env.BARRIER_MYSQL,
    open() {
      this.db = require("mysql2/promise").createPool({ uri: this.url, connectionLimit: POOL });
    },
    query: async (db, text) => (await db.query({ sql: text, rowsAsArray: true }))[0],
    close() {
      return this.db.end();
    },
  },
};

for (const [dialect, base] of Object.entries(databases)) {
  const skip = dialect !== "sqlite" && !base.url && `BARRIER_${dialect.toUpperCase()} names no database`;
  describe(dialect, { skip }, () => {
    before(() => base.open());
    after(() => base.close());

    const query = (text) => base.query(base.db, text);

    async function fresh() {
      await query("drop table if exists mesh_barrier");
      await query("drop table if exists account");
      await query(read(`../schema/${dialect}.sql`).trim().replace(/;$/, ""));
      await query("create table account (id int primary key, balance int not null)");
      await query("insert into account values (1, 100)");
    }

    const add = (amount) => `update account set balance = balance + (${amount}) where id = 1`;

    /** What the business says once its statements are done. */
    function said(plan) {
      if (plan.raises) throw new Boom();
      if (plan.rejects) throw new Rejected(plan.rejects.status, plan.rejects.body);
      return { status: plan.status, body: plan.body };
    }

    const business = (plan, ran) => async (client) => {
      ran.push(plan);
      await base.query(client, add(plan.add));
      if (ran.length <= (plan.conflicts ?? 0)) {
        await base.query(client, LOST_RACE[dialect]).catch((cause) => Promise.reject(new Error("paying", { cause })));
      }
      if (!plan.swallows) return said(plan);
      await base.query(client, "select * from there_is_no_such_table").catch(() => {});
    };
    const businessSync = (plan, ran) => (db) => {
      ran.push(plan);
      base.query(db, add(plan.add));
      return said(plan);
    };

    function call({ headers, business: plan }, ran) {
      const made = plan && (dialect === "sqlite" ? businessSync : business)(plan, ran);
      return run(base.db, headers, made).catch((error) => ({ raises: true, error }));
    }

    /** The creator of a message: its own change and the message, in one transaction. */
    async function make(step) {
      if (dialect === "sqlite") {
        const creator = base.db.transaction(() => {
          base.db.exec(add(step.add));
          messageSync(base.db, step.message);
        });
        try {
          creator.immediate();
          return { status: 200 };
        } catch (no) {
          return no.answer ?? assert.fail(no);
        }
      }
      const client = await (dialect === "postgres" ? base.db.connect() : base.db.getConnection());
      try {
        await client.query("begin");
        await client.query(add(step.add));
        await message(client, step.message);
        await client.query("commit");
        return { status: 200 };
      } catch (no) {
        await client.query("rollback");
        return no.answer ?? assert.fail(no);
      } finally {
        client.release();
      }
    }

    for (const { name, on, steps, balance, rows } of cases.filter(({ on }) => on?.includes(dialect) ?? true)) {
      test(name, async () => {
        await fresh();
        for (const step of steps) {
          const { runs = 0, ...expected } = step.expect;
          const ran = [];
          const copies = Array.from({ length: step.copies ?? 1 });
          const answers = await Promise.all(copies.map(() => ("message" in step ? make(step) : call(step, ran))));
          for (const answer of answers) {
            const found = Object.fromEntries(Object.keys(expected).map((member) => [member, answer[member]]));
            assert.deepEqual(found, expected, `${JSON.stringify(step)}: ${answer.error}`);
          }
          assert.equal(ran.length, runs, "how often the business ran");
        }
        assert.deepEqual(await query("select balance from account"), [[balance]]);
        const kept = await query("select txn, branch, op, by_op, response from mesh_barrier");
        const text = (row) => JSON.stringify(row.map((cell) => (Buffer.isBuffer(cell) ? cell.toString() : cell)));
        assert.deepEqual(kept.map(text).sort(), rows.map(text).sort());
      });
    }

    const key = { "Idempotency-Key": "k" };

    test("what isn't well-formed is refused", async () => {
      const headers = { "Txn-Id": "\ud800", "Txn-Branch": "b", "Txn-Op": "action" };
      const answer = await run(base.db, headers, () => {});
      assert.deepEqual(answer, { status: 400, body: "Txn-Id isn't well-formed Unicode" });
      const twice = await run(base.db, { "txn-id": ["a", "b"] }, () => {});
      assert.deepEqual(twice, { status: 400, body: "there is more than one txn-id" });
    });

    test("a connection that breaks isn't used again", { skip: dialect !== "postgres" && "only PostgreSQL's can be broken so" }, async () => {
      await fresh();
      const fatal = (client) => client.query("select pg_terminate_backend(pg_backend_pid())");
      await assert.rejects(run(base.db, key, fatal));
      assert.deepEqual(await run(base.db, key, () => "done"), { status: 200, body: "done" });
    });

    test("an answer that can't be kept rolls back", async () => {
      await fresh();
      for (const odd of ["a\0b", { status: 700 }, { body: "\udc00" }, { body: 5 }]) {
        await assert.rejects(async () => run(base.db, key, () => odd));
      }
      assert.deepEqual(await query("select txn from mesh_barrier"), []);
    });
  });
}

test("a promise over better-sqlite3 is refused, and rolled back", () => {
  databases.sqlite.open();
  const { db } = databases.sqlite;
  db.exec(read("../schema/sqlite.sql"));
  assert.throws(() => runSync(db, { "idempotency-key": "k" }, async () => "x"), /can't return a promise/);
  assert.equal(db.inTransaction, false);
  databases.sqlite.close();
});
