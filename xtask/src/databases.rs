// SPDX-License-Identifier: Apache-2.0
//! A PostgreSQL and a MariaDB for what needs one: made anew below `target`, on loopback alone, trusting everybody there, and
//! ended with their owner.

use crate::bench::process::{Process, free_port, is_on_path, wait_for};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whose both servers are when root starts them: they refuse to be root's. The number of `nobody`.
const NOBODY: u32 = 65_534;
/// Where Debian puts what isn't on the path, by version.
const POSTGRES_FOLDERS: &str = "/usr/lib/postgresql";
/// What single-user mode is told, a line each.
const POSTGRES_DATABASES: &str = "create database plain
create database strict
alter database strict set default_transaction_isolation = 'serializable'
";
const MARIADB_DATABASE: &str = "create database barrier;
create user barrier@'127.0.0.1';
grant all on barrier.* to barrier@'127.0.0.1';
";

/// A running PostgreSQL.
pub(crate) struct Postgres(#[expect(dead_code, reason = "it ends when it's dropped")] Process, u16);

/// A running MariaDB.
pub(crate) struct MariaDb(#[expect(dead_code, reason = "it ends when it's dropped")] Process, u16);

/// A PostgreSQL that doesn't run yet, of the superuser `postgres`, with its database of that name.
pub(crate) struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    /// Where it will listen.
    pub(crate) port: u16,
}

impl Cluster {
    /// Makes one below `scratch`, if PostgreSQL is installed, and has it run `statements`, one a line.
    pub(crate) fn make(scratch: &Path, statements: &str) -> Result<Option<Self>> {
        let Some(programs) = postgres_programs() else { return Ok(None) };
        let folder = std::path::absolute(scratch.join("postgres"))?;
        fresh(&folder)?;
        let mut initdb = program(&folder, "initdb", &programs.join("initdb"))?;
        initdb.args(["-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync"]);
        done(&folder, "initdb", &mut initdb, "")?;
        let mut single = program(&folder, "single", &programs.join("postgres"))?;
        done(&folder, "single", single.args(["--single", "-D", "data", "postgres"]), statements)?;
        let said = std::fs::read_to_string(folder.join("single.log"))?;
        if said.contains("ERROR:") {
            bail!("postgres --single: {said}");
        }
        Ok(Some(Self { folder, programs, port: free_port()? }))
    }

    /// The words of the command that serves it, durable as it comes; options may follow.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if is_root() {
            let user = NOBODY.to_string();
            words.extend(["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"].map(str::to_owned));
        }
        let (program, data) = (self.programs.join("postgres"), self.folder.join("data"));
        words.extend([program.display().to_string(), "-D".to_owned(), data.display().to_string()]);
        words.extend(["-p".to_owned(), self.port.to_string()]);
        let options = ["listen_addresses=127.0.0.1", "unix_socket_directories="];
        words.extend(options.iter().flat_map(|option| ["-c".to_owned(), (*option).to_owned()]));
        words
    }
}

impl Postgres {
    /// Starts one if it's installed, with two databases: `plain`, and `strict`, whose transactions are serializable. What it
    /// has committed doesn't outlive the machine.
    pub(crate) fn start(scratch: &Path) -> Result<Option<Self>> {
        let Some(cluster) = Cluster::make(scratch, POSTGRES_DATABASES)? else { return Ok(None) };
        let words = cluster.words();
        let log = File::create(cluster.folder.join("postgres.log"))?;
        let mut server = Command::new(&words[0]);
        server.args(&words[1..]).args(["-c", "fsync=off"]).env("LC_ALL", "C");
        server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let server = serve(&cluster.folder, "postgres", &mut server, "ready to accept connections")?;
        Ok(Some(Self(server, cluster.port)))
    }

    /// Of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.1)
    }
}

impl MariaDb {
    /// Starts one if it's installed, with one database.
    pub(crate) fn start(scratch: &Path) -> Result<Option<Self>> {
        let installed = ["mariadb-install-db", "mariadbd"].into_iter().all(is_installed);
        installed.then(|| mariadb(scratch)).transpose()
    }

    /// Of its database.
    pub(crate) fn url(&self) -> String {
        format!("mysql://barrier@127.0.0.1:{}/barrier", self.1)
    }
}

/// Debian keeps servers where only root's path leads.
fn is_installed(program: &str) -> bool {
    is_on_path(program) || Path::new("/usr/sbin").join(program).is_file()
}

/// The folder of PostgreSQL's programs; empty if they are on the path.
fn postgres_programs() -> Option<PathBuf> {
    if ["initdb", "postgres"].into_iter().all(is_on_path) {
        return Some(PathBuf::new());
    }
    let versions = std::fs::read_dir(POSTGRES_FOLDERS).ok()?.flatten().map(|version| version.path().join("bin"));
    versions.filter(|folder| folder.join("initdb").is_file()).max()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// An empty folder that the server's user owns.
fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    if is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY))?;
    }
    Ok(())
}

/// A program as the server's user, its words in English to NAME.log of `folder`.
fn program(folder: &Path, name: &str, program: &Path) -> Result<Command> {
    let log = File::create(folder.join(format!("{name}.log")))?;
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").current_dir(folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Ok(command)
}

/// Runs a program to its end, told `input`.
fn done(folder: &Path, name: &str, command: &mut Command, input: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).spawn().with_context(|| {
        format!("cannot start {name}; as root it runs as user {NOBODY}, who must be able to reach {}", folder.display())
    })?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    let status = child.wait()?;
    if status.success() { Ok(()) } else { bail!("{name} failed ({status}): see {}/{name}.log", folder.display()) }
}

/// Starts a server and waits until it says that it is ready.
fn serve(folder: &Path, name: &str, command: &mut Command, ready: &str) -> Result<Process> {
    let server = Process::of(command.spawn().with_context(|| format!("cannot start {name}"))?);
    let log = folder.join(format!("{name}.log"));
    let says = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(ready));
    wait_for(&format!("{name} is ready, by {}", log.display()), says)?;
    Ok(server)
}

fn mariadb(scratch: &Path) -> Result<MariaDb> {
    let (folder, port) = (scratch.join("mariadb"), free_port()?);
    fresh(&folder)?;
    let at = |name: &str| format!("{}/{name}", folder.display());
    let data = format!("--datadir={}", at("data"));
    let mut install = program(&folder, "install", Path::new("mariadb-install-db"))?;
    install.args(["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"]);
    done(&folder, "install", &mut install, "")?;
    std::fs::write(folder.join("init.sql"), MARIADB_DATABASE)?;
    let home = if is_on_path("mariadbd") { Path::new("") } else { Path::new("/usr/sbin") };
    let mut server = program(&folder, "mariadbd", &home.join("mariadbd"))?;
    server
        .args(["--no-defaults", &data, "--bind-address=127.0.0.1", "--skip-name-resolve"])
        .arg(format!("--port={port}"));
    for (option, file) in [("--socket", "s"), ("--pid-file", "pid"), ("--init-file", "init.sql")] {
        server.arg(format!("{option}={}", at(file)));
    }
    server.arg("--innodb-flush-log-at-trx-commit=0");
    Ok(MariaDb(serve(&folder, "mariadbd", &mut server, "ready for connections")?, port))
}
