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

impl Postgres {
    /// Starts one if it's installed, with two databases: `plain`, and `strict`, whose transactions are serializable.
    pub(crate) fn start(scratch: &Path) -> Result<Option<Self>> {
        postgres_programs().map(|programs| postgres(scratch, &programs)).transpose()
    }

    /// Of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql://barrier@127.0.0.1:{}/{database}", self.1)
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

fn postgres(scratch: &Path, programs: &Path) -> Result<Postgres> {
    let (folder, port) = (scratch.join("postgres"), free_port()?);
    fresh(&folder)?;
    let mut initdb = program(&folder, "initdb", &programs.join("initdb"))?;
    initdb.args(["-D", "data", "-A", "trust", "-U", "barrier", "-E", "UTF8", "--locale=C", "--no-sync"]);
    done(&folder, "initdb", &mut initdb, "")?;
    let mut single = program(&folder, "databases", &programs.join("postgres"))?;
    done(&folder, "databases", single.args(["--single", "-D", "data", "postgres"]), POSTGRES_DATABASES)?;
    let mut server = program(&folder, "postgres", &programs.join("postgres"))?;
    server.args(["-D", "data", "-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    server.args(["-c", "unix_socket_directories=", "-c", "fsync=off"]);
    Ok(Postgres(serve(&folder, "postgres", &mut server, "ready to accept connections")?, port))
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
