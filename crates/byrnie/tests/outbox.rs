// SPDX-License-Identifier: Apache-2.0
//! The outbox over a real mesh and PostgreSQL: what is committed arrives, also if the relay is killed; what is rolled back
//! doesn't. `cargo xtask test postgres` runs it.

mod mesh;

use mesh::participant::{Participant, fine};
use mesh::{Mesh, Program, byrnie, until};
use sqlx::PgPool;
use std::collections::BTreeSet;

const ROWS: i64 = 300;

fn relay(mesh: &Mesh, url: &str) -> Program {
    let args = ["--name", "shop-outbox", "--uses", "transactions.byrnie"];
    let mut command = byrnie();
    command.env("DATABASE_URL", url);
    let relay = mesh.run_by(command, &args, &[env!("CARGO_BIN_EXE_byrnie"), "outbox"]);
    relay.wait_for_line("relaying byrnie_outbox");
    relay
}

#[test]
#[ignore = "it needs PostgreSQL, which `cargo xtask test postgres` starts"]
fn what_is_committed_arrives() {
    let url = mesh::postgres();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mesh = Mesh::up(&[]);
    // Before there is a table, it says what to do.
    let early = mesh.cli(&["outbox", "--database", &url, "--coordinator", "http://127.0.0.1:1"]);
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(!early.status.success() && said.contains("byrnie outbox --schema"), "{said}");
    let pool = runtime.block_on(PgPool::connect(&url)).unwrap();
    let run = |sql: &'static str| runtime.block_on(sqlx::raw_sql(sql).execute(&pool)).unwrap();
    let schema: &'static str = mesh.ok(&["outbox", "--schema"]).leak();
    run(schema);
    let mail = Participant::new(&mesh, "mail", |_, before| if before == 3 { (503, String::new()) } else { fine() });
    let relaying = relay(&mesh, &url);
    // Until it may, rows wait.
    run("insert into byrnie_outbox (call, body) values ('POST mail/welcome', '{\"n\": 0}')");
    let left = |condition: &str| -> i64 {
        let count = format!("select count(*) from byrnie_outbox where {condition}");
        let count = sqlx::query_scalar(sqlx::AssertSqlSafe(count));
        runtime.block_on(count.fetch_one(&pool)).unwrap()
    };
    until("a refused hand-over", || relaying.log(), || left("attempts > 0") == 1);
    assert_eq!(mail.calls(), Vec::<String>::new());
    mesh.ok(&["allow", "shop-outbox", "transactions.byrnie"]);
    mesh.ok(&["allow", "shop-outbox", "mail"]);
    until("the first row to be taken", || relaying.log(), || left("true") == 0);
    // Rolled back, given up, and many, while the relay is killed.
    run("begin; insert into byrnie_outbox (call) values ('POST mail/never'); rollback");
    run("insert into byrnie_outbox (call) values ('PUSH it somewhere')");
    run("insert into byrnie_outbox (call, body)
         select 'POST mail/welcome', jsonb_build_object('n', n) from generate_series(1, 300) n");
    until("the first of many", || relaying.log(), || mail.calls().len() > 10);
    relaying.signal("KILL");
    let again = relay(&mesh, &url);
    until("all to be taken", || format!("{} {}", left("true"), again.log()), || left("refused is null") == 0);
    let arrived = || -> BTreeSet<String> { mail.seen.lock().unwrap().iter().map(|asked| asked.body.clone()).collect() };
    let wanted: BTreeSet<String> = (0..=ROWS).map(|n| format!("{{\"n\":{n}}}")).collect();
    until("all to arrive", || format!("{:?}", arrived()), || arrived() == wanted);
    assert!(mail.calls().iter().all(|call| call == "/welcome"), "what was rolled back never arrives");
    let keys: BTreeSet<String> =
        mail.seen.lock().unwrap().iter().map(|asked| asked.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys.len(), wanted.len(), "a row that is handed over twice is one message");
    let given_up: String =
        runtime.block_on(sqlx::query_scalar("select refused from byrnie_outbox").fetch_one(&pool)).unwrap();
    assert!(given_up.contains("PUSH"), "{given_up}");
}
