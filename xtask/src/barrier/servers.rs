// SPDX-License-Identifier: Apache-2.0
//! A PostgreSQL and a MariaDB for the suites: made anew below `target`, on loopback alone, trusting everybody there, and
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

/// Variables with the URLs that a suite gets.
pub(super) type Databases = Vec<(&'static str, String)>;

/// The servers that are installed.
pub(super) struct Servers {
    postgres: Option<(Process, u16)>,
    mariadb: Option<(Process, u16)>,
}

impl Servers {
    /// Starts what is installed, and says what isn't.
    pub(super) fn start(scratch: &Path) -> Result<Self> {
        let postgres = match postgres_programs() {
            Some(programs) => Some(postgres(scratch, &programs)?),
            None => {
                println!("skipped: PostgreSQL (initdb isn't installed)");
                None
            }
        };
        let mariadb = if ["mariadb-install-db", "mariadbd"].into_iter().all(is_installed) {
            Some(mariadb(scratch)?)
        } else {
            println!("skipped: MariaDB (mariadbd isn't installed)");
            None
        };
        Ok(Self { postgres, mariadb })
    }

    /// What each suite runs against, one after the other.
    pub(super) fn rounds(&self) -> Vec<(String, Databases)> {
        let postgres =
            |port: u16, name: &str| ("BARRIER_POSTGRES", format!("postgresql://barrier@127.0.0.1:{port}/{name}"));
        let (mut names, mut databases) = ("SQLite".to_owned(), Databases::new());
        let mut rounds = Vec::new();
        if let Some((_, port)) = self.postgres {
            names.push_str(", PostgreSQL");
            databases.push(postgres(port, "plain"));
            rounds.push(("SQLite, PostgreSQL as serializable".to_owned(), vec![postgres(port, "strict")]));
        }
        if let Some((_, port)) = self.mariadb {
            names.push_str(", MariaDB");
            databases.push(("BARRIER_MYSQL", format!("mysql://barrier@127.0.0.1:{port}/barrier")));
        }
        rounds.insert(0, (names, databases));
        rounds
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

fn postgres(scratch: &Path, programs: &Path) -> Result<(Process, u16)> {
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
    Ok((serve(&folder, "postgres", &mut server, "ready to accept connections")?, port))
}

fn mariadb(scratch: &Path) -> Result<(Process, u16)> {
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
    Ok((serve(&folder, "mariadbd", &mut server, "ready for connections")?, port))
}
