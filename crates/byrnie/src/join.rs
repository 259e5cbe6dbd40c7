// SPDX-License-Identifier: Apache-2.0
//! How `run` and `agent` come into a mesh on this machine: the data directory says where it is and who
//! vouches for it, the console gives a join token for one identity.

use crate::failure::{Exit, Failure};
use crate::globals::Globals;
use byrnie_base::Text;
use byrnie_model::{Identity, code};
use byrnie_net::runtime;
use byrnie_net::serve::Method;
use byrnie_net::serve::client::{Client, Outgoing, Reply};
use byrnie_proxy::{Address, Tokens};
use serde_json::{Value, json};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for the console.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Certificates that vouch for the mesh's identities, in the data directory.
pub(crate) const ROOTS_FILE: &str = "roots.pem";

/// Where each instance of `run` keeps its key: a folder `NAME-PID`, PID in hexadecimal, in the data
/// directory.
const WORKLOADS_DIR: &str = "workloads";

/// What a newcomer needs.
pub(crate) struct Grant {
    /// Who it becomes.
    pub identity: Identity,
    /// Proves to the certificate authority that it may; `None` for one who is known already.
    pub token: Option<String>,
    /// Certificates that vouch for the control plane.
    pub roots_pem: String,
    /// Where the control plane is.
    pub control: SocketAddr,
}

/// Where one instance of `run` keeps its key, and who it is.
pub(crate) struct Place {
    /// Who it becomes, and by whom.
    pub grant: Grant,
    /// Its name in the mesh.
    pub instance: String,
    /// Its folder.
    pub state_dir: PathBuf,
    /// Says that the folder is in use; the kernel lets go of it when this process ends, however it does.
    _lock: File,
}

/// File in an instance's folder by which a successor can take its place.
const PLACE_FILE: &str = "place.json";
/// File in an instance's folder that its process holds locked.
const LOCK_FILE: &str = "lock";
/// How long the control plane may take to answer whether it's there.
const GLANCE: Duration = Duration::from_millis(200);
/// Longest wait for a mesh that has begun to start, and the pause between two looks.
const START_PATIENCE: Duration = Duration::from_secs(10);
const START_LOOK: Duration = Duration::from_millis(50);

impl Place {
    /// A new place, with who is here written down.
    fn new(grant: Grant, instance: String, state_dir: PathBuf) -> Result<Self, Failure> {
        let lock = std::fs::create_dir_all(&state_dir).and_then(|()| lock(&state_dir));
        let lock = lock.map_err(|error| crate::failure::of_file(&state_dir, &error))?;
        let path = state_dir.join(PLACE_FILE);
        let text = json!({
            "instance": instance,
            "identity": grant.identity.to_string(),
            "control": grant.control.to_string(),
        });
        std::fs::write(&path, text.to_string()).map_err(|error| crate::failure::of_file(&path, &error))?;
        Ok(Self { grant, instance, state_dir, _lock: lock })
    }

    /// The place of an instance whose process has ended, moved to `state_dir`: of several that look for one,
    /// one gets it.
    fn left_behind(globals: &Globals, name: &str, who: (&str, &str), state_dir: &Path) -> Option<Self> {
        let roots_pem = std::fs::read_to_string(globals.data_dir.join(ROOTS_FILE)).ok()?;
        let folders = std::fs::read_dir(globals.data_dir.join(WORKLOADS_DIR)).ok()?;
        for folder in folders.flatten().map(|folder| folder.path()) {
            if owner(&folder) != Some(name) {
                continue;
            }
            // Whoever has the lock is the only one to read and to move it.
            let Some((lock, (grant, instance))) = lock(&folder).ok().zip(read_place(&folder, &roots_pem)) else {
                continue;
            };
            let identity = &grant.identity;
            let fits = (identity.namespace().as_str(), identity.service_account().as_str()) == who;
            if fits && std::fs::rename(&folder, state_dir).is_ok() {
                return Some(Self { grant, instance, state_dir: state_dir.to_owned(), _lock: lock });
            }
        }
        None
    }

    /// Forgets the key, which is of no use to anyone any more: unless the mesh is away, and a successor needs it.
    pub(crate) async fn leave(self) {
        if byrnie_net::io::connect(self.grant.control, GLANCE).await.is_ok() {
            drop(std::fs::remove_dir_all(self.state_dir));
        }
    }
}

/// What a folder says about who was there.
fn read_place(folder: &Path, roots_pem: &str) -> Option<(Grant, String)> {
    let text = std::fs::read(folder.join(PLACE_FILE)).ok()?;
    let value: Value = serde_json::from_slice(&text).ok()?;
    let identity = Identity::parse(value["identity"].as_str()?).ok()?;
    let control = value["control"].as_str()?.parse().ok()?;
    let grant = Grant { identity, token: None, roots_pem: roots_pem.to_owned(), control };
    Some((grant, value["instance"].as_str()?.to_owned()))
}

/// Takes a folder for this process, unless a process that runs has it.
fn lock(folder: &Path) -> std::io::Result<File> {
    let file = File::options().write(true).create(true).truncate(false).open(folder.join(LOCK_FILE))?;
    file.try_lock()?;
    Ok(file)
}

/// Removes the keys of instances of `run` that ended without a word; one that runs keeps its own.
pub(crate) fn forget_the_dead(data_dir: &Path) {
    let Ok(folders) = std::fs::read_dir(data_dir.join(WORKLOADS_DIR)) else { return };
    for folder in folders.flatten().map(|folder| folder.path()) {
        if let Ok(_lock) = lock(&folder) {
            // What can't be removed now is tried again at the next start.
            drop(std::fs::remove_dir_all(folder));
        }
    }
}

/// Every instance that has a folder, by name.
pub(crate) fn instances(data_dir: &Path) -> Vec<(String, PathBuf)> {
    let folders = std::fs::read_dir(data_dir.join(WORKLOADS_DIR)).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        folders.filter_map(|folder| Some((folder.file_name().to_str()?.to_owned(), folder.path()))).collect();
    found.sort();
    found
}

/// The name of the instances that a folder of [`WORKLOADS_DIR`] belongs to one of.
pub(crate) fn owner(folder: &Path) -> Option<&str> {
    folder.file_name()?.to_str()?.rsplit_once('-').map(|(name, _)| name)
}

/// What would be decided on a request.
pub(crate) struct Decision {
    /// `allow`, `deny` and so on.
    pub decision: String,
    /// Why, by the name that metrics and logs have for it.
    pub reason: String,
    /// What it would be answered with.
    pub status: u64,
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
    /// Finds the console; waits for one that is about to be there.
    pub(crate) async fn find_soon(globals: &Globals) -> Result<Self, Failure> {
        let begun = runtime::now().mono;
        // A mesh that starts has its store, and says only then where it is.
        while is_absent(globals) && starts(globals) && runtime::now().mono.since(begun) < START_PATIENCE {
            runtime::sleep(START_LOOK).await;
        }
        Self::find(globals)
    }

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
        Ok(Grant { identity, token: Some(text("token")), roots_pem, control })
    }

    /// A place for a new instance of `name`. While the mesh is away, that of an instance which was killed: what
    /// it kept lets its successor serve.
    pub(crate) async fn place(&self, globals: &Globals, name: &str, who: (&str, &str)) -> Result<Place, Failure> {
        let workloads = globals.data_dir.join(WORKLOADS_DIR);
        let instance = format!("{name}-{:x}", std::process::id());
        let state_dir = workloads.join(&instance);
        let away = is_absent(globals);
        let joined = match away {
            true => Err(Failure::new(code::UNREACHABLE.id, "no mesh runs here")),
            false => self.join(globals, who.0, who.1).await,
        };
        match joined {
            Ok(grant) => Place::new(grant, instance, state_dir),
            Err(failure) if away || failure.exit == Exit::Unreachable => {
                let left = Place::left_behind(globals, name, who, &state_dir);
                if left.is_some() {
                    eprintln!("  ! the mesh is away: {name} goes on by what an earlier instance kept");
                }
                match left {
                    Some(place) => Ok(place),
                    // Whatever is at the usual port is asked after all: it says what is wrong.
                    None if away => Place::new(self.join(globals, who.0, who.1).await?, instance, state_dir),
                    None => Err(failure),
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// What would be decided on a request.
    pub(crate) async fn decision(&self, namespace: &str, from: &str, request: &str) -> Result<Decision, Failure> {
        let asked = json!({"request": request, "from": from, "namespace": namespace});
        let answer = self.post("/api/v1/explain", &asked).await?;
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        let status = answer["status"].as_u64().unwrap_or_default();
        Ok(Decision { decision: text("decision"), reason: text("reason"), status, nearest: text("nearest") })
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

/// Whether nothing says where the console is.
fn is_absent(globals: &Globals) -> bool {
    globals.server.is_none() && port(globals, "console").is_none()
}

/// Whether a mesh of this directory runs or is about to.
fn starts(globals: &Globals) -> bool {
    byrnie_store::disk::holder(&globals.data_dir.join("store.redb")).is_some_and(|holder| holder.contains("byrnie"))
}

/// A port of the mesh in the data directory.
pub(crate) fn port(globals: &Globals, name: &str) -> Option<u16> {
    let text = std::fs::read(globals.data_dir.join("ports.json")).ok()?;
    let ports: Value = serde_json::from_slice(&text).ok()?;
    u16::try_from(ports[name].as_u64()?).ok()
}

/// Where the mesh on this machine says that its control plane is; while it says nothing, where it was first.
pub(crate) fn address(globals: &Globals, first: SocketAddr) -> Address {
    let globals = globals.clone();
    Address::new(move || match port(&globals, "control") {
        Some(port) => SocketAddr::new(first.ip(), port),
        None => first,
    })
}

/// The first token, then, for as long as the program runs, whatever the console gives: a machine
/// that slept longer than a certificate holds comes back by that.
pub(crate) fn tokens(globals: &Globals, identity: &Identity, first: Option<String>) -> Tokens {
    let first = std::sync::Mutex::new(first);
    let (globals, identity) = (globals.clone(), identity.clone());
    Tokens::new(move || {
        let first = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (globals, identity) = (globals.clone(), identity.clone());
        Box::pin(async move {
            if let Some(token) = first {
                return Ok(Text::from(token));
            }
            let again = async {
                let console = Console::find(&globals)?;
                console.join(&globals, identity.namespace(), identity.service_account()).await
            };
            let grant = again.await.map_err(|failure: Failure| failure.detail)?;
            grant.token.map(Text::from).ok_or_else(|| "the console gave no token".to_owned())
        })
    })
}
