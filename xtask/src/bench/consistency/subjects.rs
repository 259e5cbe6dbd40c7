// SPDX-License-Identifier: Apache-2.0
//! Who is measured: the coordinator of `byrnie up` with its embedded store and on PostgreSQL, and dtm with its own default
//! store (BoltDB) and on the same PostgreSQL. All that belongs to a subject, its database as well, has one processor.

use super::super::byrnie::Mesh;
use super::super::process::{Process, Side, Stage, free_port, is_on_path, loopback, wait_open};
use super::options::Options;
use super::postgres::Postgres;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

/// Who may be beside byrnie with its own store.
pub(super) const PEERS: [&str; 3] = ["dtm", "dtm-postgres", "byrnie-postgres"];
/// Whose figure is held against whose.
pub(super) const PAIRS: [(&str, &str); 3] =
    [("byrnie", "dtm"), ("byrnie", "dtm-postgres"), ("byrnie-postgres", "dtm-postgres")];
/// dtm, pinned.
const DTM: (&str, &str) = ("github.com/dtm-labs/dtm", "1.19.0");

/// A coordinator that runs.
pub(super) struct Subject {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// Where it serves dtm's API, and with which credentials.
    pub(super) to: SocketAddr,
    pub(super) token: String,
    coordinator: Process,
    way: Way,
    /// Ended after the coordinators that share it.
    database: Option<Rc<Postgres>>,
}

/// How a coordinator is started, at first and after a crash.
enum Way {
    Byrnie(Mesh, Option<String>),
    Dtm { program: PathBuf, dir: PathBuf },
}

impl Way {
    fn start(&self, stage: &Stage, name: &str, to: SocketAddr) -> Result<Process> {
        match self {
            Self::Byrnie(mesh, database) => {
                let to = to.to_string();
                let words = ["up", "--listen", &to].into_iter();
                let kept = database.iter().flat_map(|url| ["--transactions", url]);
                mesh.start(stage, Side::Proxy, name, &words.chain(kept).collect::<Vec<_>>())
            }
            Self::Dtm { program, dir } => {
                // It keeps its file in the directory where it is started.
                let (dir, program) = (dir.to_string_lossy(), program.to_string_lossy());
                stage.start(Side::Proxy, name, "env", &["-C", &dir, &program, "-c", "conf.yml"])
            }
        }
    }
}

impl Subject {
    /// Starts everybody that was asked for, or is there.
    pub(super) fn all(stage: &Stage, options: &Options) -> Result<Vec<Self>> {
        let mut subjects = vec![Self::own(stage)?];
        let mut database: Option<Rc<Postgres>> = None;
        for name in PEERS {
            let missing = match name {
                "dtm" => missing(&["go"]),
                "dtm-postgres" => missing(&["go", "initdb", "postgres"]),
                _ => missing(&["initdb", "postgres"]),
            };
            if missing.is_none() && options.wants(name).0 && name.ends_with("-postgres") && database.is_none() {
                let schema = if is_on_path("go") { schema()? } else { String::new() };
                database = Some(Rc::new(Postgres::start(stage, &schema)?));
            }
            match (options.wants(name), missing) {
                ((true, _), None) if name == "dtm" => subjects.push(dtm(stage, name, None)?),
                ((true, _), None) if name == "dtm-postgres" => subjects.push(dtm(stage, name, database.clone())?),
                ((true, _), None) => subjects.push(byrnie(stage, name, database.clone())?),
                ((true, true), Some(program)) => bail!("{name} needs {program} on PATH"),
                ((true, false), Some(program)) => eprintln!("skipped: {name} needs {program} on PATH"),
                ((false, _), _) => {}
            }
        }
        Ok(subjects)
    }

    /// Starts byrnie alone, with its own store.
    pub(super) fn own(stage: &Stage) -> Result<Self> {
        byrnie(stage, "byrnie", None)
    }

    /// The processes whose CPU time counts.
    pub(super) fn processes(&self) -> Vec<u32> {
        [self.coordinator.pid()].into_iter().chain(self.database.as_ref().map(|database| database.pid())).collect()
    }

    /// Ends the coordinator without a word, and starts it again; not waited for. Its database goes on.
    pub(super) fn crash(&mut self, stage: &Stage) -> Result<()> {
        self.coordinator.kill()?;
        self.coordinator = self.way.start(stage, &format!("{}-again", self.name), self.to)?;
        Ok(())
    }

    /// The mesh whose coordinator it is, if it has one.
    pub(super) fn mesh(&self) -> Option<&Mesh> {
        match &self.way {
            Way::Byrnie(mesh, _) => Some(mesh),
            Way::Dtm { .. } => None,
        }
    }

    /// Waits until it takes requests.
    pub(super) fn wait(&self) -> Result<()> {
        wait_open(self.name, self.to)
    }
}

pub(super) fn missing(programs: &[&'static str]) -> Option<&'static str> {
    programs.iter().copied().find(|program| !is_on_path(program))
}

fn byrnie(stage: &Stage, name: &'static str, database: Option<Rc<Postgres>>) -> Result<Subject> {
    let (mesh, version) = Mesh::new(stage, &format!("mesh-sagas-{name}"))?;
    let to = loopback(free_port()?);
    let url = database.as_ref().map(|database| format!("postgresql://postgres@127.0.0.1:{}/postgres", database.port));
    let way = Way::Byrnie(mesh.clone(), url);
    let coordinator = way.start(stage, &format!("{name}-sagas"), to)?;
    mesh.wait()?;
    Ok(Subject { name, version, to, token: mesh.token()?, coordinator, way, database })
}

fn dtm(stage: &Stage, name: &'static str, database: Option<Rc<Postgres>>) -> Result<Subject> {
    let program = install(&stage.root)?;
    let dir = stage.dir.join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    let store = match &database {
        // Its own defaults, with fewer connections than its five hundred, which a small machine does better with.
        Some(database) => format!(
            "Store:\n  Driver: postgres\n  Host: 127.0.0.1\n  User: postgres\n  Port: {}\n  Db: postgres\n  \
             MaxOpenConns: 100\n  MaxIdleConns: 100\n",
            database.port
        ),
        None => "Store:\n  Driver: boltdb\n".to_owned(),
    };
    let to = loopback(free_port()?);
    let (grpc, rpc) = (free_port()?, free_port()?);
    // What it would write about each saga costs it time; byrnie writes none either.
    let rest = format!("HttpPort: {}\nGrpcPort: {grpc}\nJsonRpcPort: {rpc}\nLogLevel: error\n", to.port());
    std::fs::write(dir.join("conf.yml"), store + &rest)?;
    let way = Way::Dtm { program, dir };
    let coordinator = way.start(stage, name, to)?;
    wait_open(name, to)?;
    Ok(Subject { name, version: DTM.1.to_owned(), to, token: "none".to_owned(), coordinator, way, database })
}

/// dtm, built by Go with the versions of all that it needs which its own module names.
pub(crate) fn install(root: &Path) -> Result<PathBuf> {
    let dir = std::path::absolute(super::super::process::target(root).join("peers").join("go"))?;
    let program = dir.join("dtm");
    let told = dir.join("dtm.version");
    if std::fs::read_to_string(&told).is_ok_and(|text| text == DTM.1) && program.exists() {
        return Ok(program);
    }
    std::fs::create_dir_all(&dir)?;
    let built = Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(module()?).status()?;
    if !built.success() {
        bail!("go build of {}@v{} failed", DTM.0, DTM.1);
    }
    std::fs::write(told, DTM.1)?;
    Ok(program)
}

/// Where Go keeps dtm's module, fetched if it isn't there.
fn module() -> Result<PathBuf> {
    let (module, version) = DTM;
    let said = Command::new("go").args(["mod", "download", "-json", &format!("{module}@v{version}")]).output()?;
    let told: Value = serde_json::from_slice(&said.stdout).context("go mod download -json")?;
    match told["Dir"].as_str() {
        Some(dir) => Ok(dir.into()),
        None => bail!("go mod download {module}@v{version}: {}", told["Error"]),
    }
}

/// The tables that dtm wants in a database, as its own module has them.
fn schema() -> Result<String> {
    let file = module()?.join("sqls").join("dtmsvr.storage.postgres.sql");
    std::fs::read_to_string(&file).with_context(|| file.display().to_string())
}
