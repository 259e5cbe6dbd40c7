// SPDX-License-Identifier: Apache-2.0
//! A bank: a service over PostgreSQL that takes part in transactions by the barrier, and at whose door calls are lost, doubled
//! and late.
#![expect(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "a test's program")]

use byrnie_base::Rng;
use byrnie_sdk::barrier::{self, Answer, Call, Message, MessageId, Op};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Accounts of each bank.
pub const ACCOUNTS: i64 = 20;
/// What each has at first.
pub const OPENING: i64 = 1_000;
/// The account that takes nothing.
pub const CLOSED: i64 = 19;

/// Of a hundred calls: so many lose their answer, and as many come twice.
const TROUBLE_PERCENT: u64 = 5;

/// What the program of a bank is told by its environment.
pub const NAME: &str = "BANK_NAME";
pub const PORT: &str = "BANK_PORT";
pub const URL: &str = "BANK_URL";
pub const LATE_MS: &str = "BANK_LATE_MS";

/// A pool on the schema of one bank.
pub async fn connect(url: &str, name: &str, connections: u32) -> PgPool {
    let options: PgConnectOptions = url.parse().unwrap();
    let options = options.options([("search_path", schema(name).as_str())]);
    PgPoolOptions::new().max_connections(connections).connect_with(options).await.unwrap()
}

fn schema(name: &str) -> String {
    name.replace('-', "_")
}

/// Makes the tables of a bank anew.
pub async fn open(url: &str, name: &str) -> PgPool {
    let pool = connect(url, name, 1).await;
    let schema = schema(name);
    let made = format!(
        "drop schema if exists {schema} cascade; create schema {schema};
         {};
         create table account (id bigint primary key, balance bigint not null, held bigint not null default 0);
         create table effect (txn text not null, balance bigint not null, held bigint not null);
         insert into account (id, balance) select id, {OPENING} from generate_series(0, {}) id",
        include_str!("../../../../barrier/schema/postgres.sql").trim().trim_end_matches(';'),
        ACCOUNTS - 1
    );
    sqlx::raw_sql(AssertSqlSafe(made)).execute(&pool).await.unwrap();
    pool
}

/// What an operation adds to what an account has and holds, in amounts, and whether it may be refused.
fn changes(path: &str) -> Option<(i64, i64, bool)> {
    Some(match path {
        "/take" => (-1, 0, true),
        "/give" => (1, 0, true),
        "/untake" => (1, 0, false),
        "/ungive" => (-1, 0, false),
        "/hold" => (-1, 1, true),
        "/settle" => (0, -1, false),
        "/release" => (1, -1, false),
        "/promise" => (0, 0, true),
        "/keep" => (1, 0, false),
        "/forget" => (0, 0, false),
        _ => return None,
    })
}

async fn change(
    tx: &mut Transaction<'static, Postgres>,
    txn: &str,
    path: &str,
    body: &Value,
) -> Result<Answer, sqlx::Error> {
    let (balance, held, refusable) = changes(path).unwrap();
    // An undo is told what was asked.
    let asked = if body["request"].is_null() { body } else { &body["request"] };
    let (account, amount) = (asked["account"].as_i64().unwrap(), asked["amount"].as_i64().unwrap());
    let update = "update account set balance = balance + $2, held = held + $3
                  where id = $1 and (not $4 or (id <> $5 and balance + $2 >= 0))";
    let update =
        sqlx::query(update).bind(account).bind(balance * amount).bind(held * amount).bind(refusable).bind(CLOSED);
    if update.execute(&mut **tx).await?.rows_affected() == 0 {
        return Ok(Answer::new(409, "refused"));
    }
    let effect =
        sqlx::query("insert into effect values ($1, $2, $3)").bind(txn).bind(balance * amount).bind(held * amount);
    effect.execute(&mut **tx).await?;
    Ok(Answer::new(200, "{}"))
}

struct Bank {
    name: String,
    pool: PgPool,
    transactions: SocketAddr,
    late: Duration,
    rng: RefCell<Rng>,
}

/// The whole program; it ends by being killed.
pub fn serve() {
    let told = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} isn't set"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let name = told(NAME);
        let seed = u64::from(std::process::id());
        let bank = Rc::new(Bank {
            pool: connect(&told(URL), &name, 8).await,
            name,
            transactions: told("BYRNIE_TRANSACTIONS_URL").strip_prefix("http://").unwrap().parse().unwrap(),
            late: Duration::from_millis(told(LATE_MS).parse().unwrap()),
            rng: RefCell::new(Rng::new(seed)),
        });
        let port: u16 = told(PORT).parse().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        println!("bank is open");
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let bank = Rc::clone(&bank);
            tokio::task::spawn_local(async move {
                let service = service_fn(move |request| Rc::clone(&bank).take(request));
                // The other side's end of a connection is its own affair.
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
}

impl Bank {
    /// One call as the network has it: late, twice, or with its answer lost after what it asked for was done.
    async fn take(self: Rc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
        let path = request.uri().path().to_owned();
        let mut headers: Vec<(String, Vec<u8>)> =
            request.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        // dtm says in the query which call it is.
        if !request.headers().contains_key("txn-id") {
            let words = request.uri().query().unwrap_or_default().split('&').filter_map(|word| word.split_once('='));
            for (word, name) in [("gid", "txn-id"), ("branch_id", "txn-branch"), ("op", "txn-op")] {
                let value = words.clone().find(|(key, _)| *key == word).map(|(_, value)| value.as_bytes().to_vec());
                headers.extend(value.map(|value| (name.to_owned(), value)));
            }
        }
        let body = request.into_body().collect().await.map_err(|_| "cut off")?.to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (late, twice, lost) = {
            let mut rng = self.rng.borrow_mut();
            let late = if rng.percent(TROUBLE_PERCENT) { rng.below(1 + self.late.as_millis() as u64) } else { 0 };
            (late, rng.percent(TROUBLE_PERCENT), rng.percent(TROUBLE_PERCENT))
        };
        tokio::time::sleep(Duration::from_millis(late)).await;
        let first = self.answer(&path, &headers, &body);
        let answer = if twice { tokio::join!(first, self.answer(&path, &headers, &body)).0 } else { first.await };
        if lost {
            return Err("the answer is lost");
        }
        let (status, text) = answer;
        Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
    }

    async fn answer(&self, path: &str, headers: &[(String, Vec<u8>)], body: &Value) -> (u16, String) {
        if path == "/pay" {
            return self.pay(body).await.unwrap_or_else(|why| (503, why));
        }
        let call = match Call::of(headers.iter().map(|(name, value)| (name, value))) {
            Ok(call) => call,
            Err(why) => return (400, why.to_string()),
        };
        if path != "/check" && changes(path).is_none() {
            return (404, String::new());
        }
        let business = async |tx: &mut Transaction<'static, Postgres>| change(tx, &call.txn, path, body).await;
        match barrier::run(&self.pool, &call, business).await {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (500, error.to_string()),
        }
    }

    /// Takes from an account here and gives elsewhere, by a message: prepared, then sent with the commit of the taking.
    async fn pay(&self, body: &Value) -> Result<(u16, String), String> {
        let id = body["id"].as_str().unwrap();
        let message = json!({"id": id, "check": format!("GET {}/check", self.name), "check_after_ms": 1_000, "branches": [
            {"name": "give", "action": format!("POST {}/give", body["to"].as_str().unwrap()),
             "body": {"account": body["into"], "amount": body["amount"]}, "retry": {"first_ms": 20, "cap_ms": 500}}]});
        let (status, prepared) = self.ask("/txn/v1/messages?prepare", &message).await?;
        if !matches!(status, 200 | 201) {
            return Err(format!("prepare: {status} {prepared}"));
        }
        let broken = |error: sqlx::Error| error.to_string();
        let mut tx = self.pool.begin().await.map_err(broken)?;
        let made = barrier::message(&mut tx, &MessageId::new(id).unwrap()).await.map_err(broken)?;
        let mut done = match made {
            Message::Made => change(&mut tx, id, "/take", body).await.map_err(broken)?.status == 200,
            Message::Exists => true,
            Message::GivenUp => false,
        };
        if done {
            tx.commit().await.map_err(broken)?;
        } else {
            tx.rollback().await.map_err(broken)?;
        }
        if !done {
            // Another try of the same may have taken the money meanwhile. So it's the barrier that closes the door, and then
            // nobody comes through it any more.
            let check = Call { txn: id.to_owned(), branch: "00".to_owned(), op: Op::Check };
            let asked = barrier::run(&self.pool, &check, async |_| Ok(Answer::new(500, "")));
            done = asked.await.map_err(broken)?.status == 200;
        }
        let verb = if done { "submit" } else { "abort" };
        // If it doesn't get there, the coordinator asks.
        drop(self.ask(&format!("/txn/v1/{id}:{verb}"), &json!({})).await);
        Ok((if done { 200 } else { 409 }, String::new()))
    }

    /// Asks the coordinator, through this program's own proxy.
    async fn ask(&self, path: &str, body: &Value) -> Result<(u16, String), String> {
        let wrong = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(self.transactions).await.map_err(wrong)?;
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: transactions.byrnie\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.map_err(wrong)?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.map_err(wrong)?;
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or("no answer")?, text))
    }
}
