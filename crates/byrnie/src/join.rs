// SPDX-License-Identifier: Apache-2.0
//! How `run` and `agent` come into a mesh on this machine: the data directory says where it is and who
//! vouches for it, the console gives a join token for one identity.

use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use byrnie_model::{Identity, code};
use byrnie_net::serve::Method;
use byrnie_net::serve::client::{Client, Outgoing, Reply};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Longest wait for the console.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Certificates that vouch for the mesh's identities, in the data directory.
pub(crate) const ROOTS_FILE: &str = "roots.pem";

/// Where each instance of `run` keeps its key: a folder `NAME-PID`, PID in hexadecimal, in the data
/// directory.
pub(crate) const WORKLOADS_DIR: &str = "workloads";

/// What a newcomer needs.
pub(crate) struct Grant {
    /// Who it becomes.
    pub identity: Identity,
    /// Proves to the certificate authority that it may.
    pub token: String,
    /// Certificates that vouch for the control plane.
    pub roots_pem: String,
    /// Where the control plane is.
    pub control: SocketAddr,
}

/// What would be decided on a request.
pub(crate) struct Decision {
    /// `allow`, `deny` and so on.
    pub decision: String,
    /// The rule that comes nearest, and what it lacks.
    nearest: String,
}

impl Decision {
    /// Whether not even the nearest rule is for this caller.
    pub(crate) fn is_stranger(&self) -> bool {
        self.nearest.is_empty() || self.nearest.contains("you are ")
    }
}

/// The console of the mesh in the data directory.
pub(crate) struct Console(Client);

impl Console {
    /// Finds the console.
    pub(crate) fn find(globals: &Globals) -> Result<Self, Failure> {
        let token = globals.operator_token()?;
        let client = Client::new(&globals.console_url(), Some(&token));
        client.map(Self).map_err(|error| Failure::usage(error.to_string()))
    }

    /// Asks for the right to become a workload of this account.
    pub(crate) async fn join(&self, globals: &Globals, namespace: &str, account: &str) -> Result<Grant, Failure> {
        let asked = json!({"workload": format!("{namespace}/{account}"), "ttlSeconds": 300, "uses": 1});
        let answer = self.post("/api/v1/tokens", &asked).await?;
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let identity = Identity::parse(&text("identity"))
            .map_err(|error| Failure::new(code::UNREACHABLE.id, format!("the console gave no identity: {error}")))?;
        let path = globals.data_dir.join(ROOTS_FILE);
        let roots_pem = std::fs::read_to_string(&path).map_err(|error| crate::failure::of_file(&path, &error))?;
        let port = port(globals, "control").ok_or_else(|| {
            Failure::new(code::UNREACHABLE.id, "ports.json names no control port")
                .next("start the mesh again with `byrnie up`")
        })?;
        let control = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Grant { identity, token: text("token"), roots_pem, control })
    }

    /// What would be decided on a request.
    pub(crate) async fn decision(&self, namespace: &str, from: &str, request: &str) -> Result<Decision, Failure> {
        let asked = json!({"request": request, "from": from, "namespace": namespace});
        let answer = self.post("/api/v1/explain", &asked).await?;
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Ok(Decision { decision: text("decision"), nearest: text("nearest") })
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = Outgoing::with_body(Method::POST, path, "application/json", body.to_string());
        let reply = self.0.send(request, TIMEOUT).await.map_err(|error| {
            let mut failure = Failure::new(code::UNREACHABLE.id, format!("the console does not answer: {error}"));
            failure.exit = Exit::Unreachable;
            failure.at(self.0.server()).next("check that `byrnie up` runs with this --data-dir")
        })?;
        read(&reply)
    }
}

fn read(reply: &Reply) -> Result<Value, Failure> {
    if reply.status.is_success() {
        return serde_json::from_slice(&reply.body)
            .map_err(|error| Failure::new(code::UNREACHABLE.id, format!("the console's answer is no JSON: {error}")));
    }
    let mut failure: Failure = serde_json::from_slice(&reply.body).unwrap_or_default();
    if failure.detail.is_empty() {
        failure = Failure::new(code::UNREACHABLE.id, format!("the console answered {}", reply.status));
    }
    failure.exit = Exit::Problem;
    Err(failure)
}

/// A port of the mesh in the data directory.
pub(crate) fn port(globals: &Globals, name: &str) -> Option<u16> {
    let text = std::fs::read(globals.data_dir.join("ports.json")).ok()?;
    let ports: Value = serde_json::from_slice(&text).ok()?;
    u16::try_from(ports[name].as_u64()?).ok()
}
