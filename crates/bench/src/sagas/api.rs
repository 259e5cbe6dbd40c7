// SPDX-License-Identifier: Apache-2.0
//! dtm's API as a client uses it: the very same requests for every coordinator.

use super::message::Incoming;
use super::participants::BRANCHES;
use anyhow::{Context, Result, bail};
use byrnie_net::io::{self, Stream};
use byrnie_net::runtime;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A connection that can't be opened within this is an error.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A request that takes longer is an error.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long a coordinator waits for the answer of a branch, in seconds: longer than any that is held.
const BRANCH_SECONDS: u64 = 60;

/// Where a coordinator is, and what it calls.
#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) to: SocketAddr,
    /// Credentials, which one that asks for none doesn't look at.
    pub(super) token: String,
    /// The host of each branch: an address, or a service of the mesh.
    pub(super) hosts: Vec<String>,
}

/// A connection to a coordinator, opened when it's needed.
#[derive(Default)]
pub(super) struct Line(Option<(Stream, Incoming)>);

impl Api {
    /// Submits a saga; with `wait`, until it is done.
    pub(super) async fn submit(&self, line: &mut Line, gid: &str, wait: bool) -> Result<()> {
        let step =
            |at: &String| json!({"action": format!("http://{at}/do"), "compensate": format!("http://{at}/undo")});
        let body = json!({
            "gid": gid, "trans_type": "saga", "steps": self.hosts.iter().map(step).collect::<Vec<_>>(),
            "payloads": vec!["{\"amount\": 30}"; BRANCHES], "wait_result": wait, "request_timeout": BRANCH_SECONDS,
        });
        let answer = self.ask(line, "POST", "submit", &body.to_string()).await?;
        let answer: Value = serde_json::from_slice(&answer).context("the answer to submit")?;
        if answer["dtm_result"] == "SUCCESS" { Ok(()) } else { bail!("submit: {answer}") }
    }

    /// Whether a saga has ended as it should; an error if it ended otherwise.
    pub(super) async fn is_done(&self, line: &mut Line, gid: &str) -> Result<bool> {
        let answer = self.ask(line, "GET", &format!("query?gid={gid}"), "").await?;
        let answer: Value = serde_json::from_slice(&answer).context("the answer to query")?;
        match answer["transaction"]["status"].as_str() {
            Some("succeed") => Ok(true),
            Some("submitted") => Ok(false),
            other => bail!("{gid} is {other:?}"),
        }
    }

    /// The body of the answer, which must be a 200. After an error the connection isn't used again.
    async fn ask(&self, line: &mut Line, method: &str, verb: &str, body: &str) -> Result<Vec<u8>> {
        let request = format!(
            "{method} /api/dtmsvr/{verb} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.to,
            self.token,
            body.len()
        );
        let (mut stream, mut incoming) = match line.0.take() {
            Some(open) => open,
            None => (io::connect(self.to, CONNECT_MAX).await?.into(), Incoming::default()),
        };
        let asked = async {
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            incoming.next(&mut stream).await?.context("closed before the answer")
        };
        let message = runtime::timeout(ANSWER_MAX, asked).await.context("no answer in time")??;
        if !message.last {
            line.0 = Some((stream, incoming));
        }
        if !message.start.starts_with("HTTP/1.1 200") {
            bail!("{verb}: {}: {}", message.start, String::from_utf8_lossy(&message.body));
        }
        Ok(message.body)
    }
}
