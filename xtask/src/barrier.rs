// SPDX-License-Identifier: Apache-2.0
//! The participants' barriers, each by the shared suite of `barrier/cases.json`: on SQLite, on a PostgreSQL of its own (as it
//! comes, and serializable), and on a MariaDB of its own. Drivers are pinned and kept below `target/barrier`. A language or
//! a database that isn't installed is left out, and named.

use crate::bench::process::{is_on_path, target};
use crate::databases::{MariaDb, Postgres};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Python's drivers, and what they need.
const WHEELS: [&str; 4] = ["psycopg==3.3.9", "psycopg-binary==3.3.9", "PyMySQL==1.2.3", "typing_extensions==4.16.0"];
/// What copies Java's drivers, which `pom.xml` pins.
const COPY_JARS: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// A language: its name, the programs that its suite takes, and what installs the drivers and makes the suite's command.
type Language = (&'static str, &'static [&'static str], fn(&Place) -> Result<Command>);

const LANGUAGES: [Language; 5] = [
    ("Rust", &[], rust),
    ("Python", &["python3"], python),
    ("Go", &["go"], go),
    ("Node", &["node", "npm"], node),
    ("Java", &["javac", "java", "mvn"], java),
];

/// Where the libraries are, and where drivers and databases go.
struct Place {
    source: PathBuf,
    scratch: PathBuf,
}

impl Place {
    /// A folder of the scratch, and whether it still has to be filled, because what is `wanted` in it has changed.
    fn folder(&self, name: &str, wanted: &str) -> Result<(PathBuf, bool)> {
        let folder = self.scratch.join(name);
        std::fs::create_dir_all(&folder)?;
        let is_filled = std::fs::read_to_string(folder.join("installed.txt")).is_ok_and(|text| text == wanted);
        Ok((folder, !is_filled))
    }

    fn is_filled(folder: &Path, wanted: &str) -> Result<()> {
        Ok(std::fs::write(folder.join("installed.txt"), wanted)?)
    }
}

/// Runs the suites of all languages that are there; false if one failed.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let scratch = std::path::absolute(target(root).join("barrier"))?;
    std::fs::create_dir_all(&scratch)?;
    let place = Place { source: root.join("barrier"), scratch };
    let databases = (Postgres::start(&place.scratch)?, MariaDb::start(&place.scratch)?);
    let rounds = rounds(databases.0.as_ref(), databases.1.as_ref());
    let mut all_passed = true;
    for (name, tools, suite) in LANGUAGES {
        if let Some(tool) = tools.iter().find(|tool| !is_on_path(tool)) {
            println!("skipped: {name} ({tool} isn't installed)");
            continue;
        }
        // One language's failure doesn't hide another's.
        let passed =
            suite(&place).and_then(|mut command| passes(name, &mut command, &rounds)).unwrap_or_else(|error| {
                println!("{name}: {error:#}");
                false
            });
        all_passed &= passed;
    }
    Ok(all_passed)
}

/// What each suite runs against, one after the other: a name, and variables with URLs.
type Round = (String, Vec<(&'static str, String)>);

fn rounds(postgres: Option<&Postgres>, mariadb: Option<&MariaDb>) -> Vec<Round> {
    let (mut name, mut databases) = ("SQLite".to_owned(), Vec::new());
    let mut rounds = Vec::new();
    match postgres {
        Some(postgres) => {
            name.push_str(", PostgreSQL");
            databases.push(("BARRIER_POSTGRES", postgres.url("plain")));
            let strict = vec![("BARRIER_POSTGRES", postgres.url("strict"))];
            rounds.push(("SQLite, PostgreSQL as serializable".to_owned(), strict));
        }
        None => println!("skipped: PostgreSQL (initdb isn't installed)"),
    }
    match mariadb {
        Some(mariadb) => {
            name.push_str(", MariaDB");
            databases.push(("BARRIER_MYSQL", mariadb.url()));
        }
        None => println!("skipped: MariaDB (mariadbd isn't installed)"),
    }
    rounds.insert(0, (name, databases));
    rounds
}

/// Runs one suite against each set of databases.
fn passes(name: &str, suite: &mut Command, rounds: &[Round]) -> Result<bool> {
    let mut all_passed = true;
    for (what, databases) in rounds {
        println!("{name}, {what}:");
        for variable in ["BARRIER_POSTGRES", "BARRIER_MYSQL"] {
            match databases.iter().find(|(name, _)| *name == variable) {
                Some((_, url)) => suite.env(variable, url),
                None => suite.env_remove(variable),
            };
        }
        all_passed &= suite.status().with_context(|| format!("cannot start the suite of {name}"))?.success();
    }
    Ok(all_passed)
}

fn done(command: &mut Command, name: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if status.success() { Ok(()) } else { bail!("{name} failed: {status}") }
}

fn rust(_: &Place) -> Result<Command> {
    let mut suite = Command::new(env!("CARGO"));
    suite.args(["test", "--locked", "--quiet", "-p", "byrnie-sdk", "--test", "cases"]);
    Ok(suite)
}

fn python(place: &Place) -> Result<Command> {
    let wanted = WHEELS.join("\n");
    let (wheels, is_empty) = place.folder("python", &wanted)?;
    if is_empty {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--only-binary", ":all:", "--target"]).arg(&wheels);
        done(pip.args(WHEELS), "pip")?;
        Place::is_filled(&wheels, &wanted)?;
    }
    let mut suite = Command::new("python3");
    suite.args(["-m", "unittest"]).current_dir(place.source.join("python"));
    suite.env("PYTHONPATH", wheels).env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(suite)
}

fn go(place: &Place) -> Result<Command> {
    let (library, suites) = (place.source.join("go"), place.source.join("go").join("suite"));
    for module in [&library, &suites] {
        done(Command::new("go").args(["vet", "./..."]).current_dir(module), "go vet")?;
    }
    let mut suite = Command::new("go");
    suite.args(["test", "-count=1", "./..."]).current_dir(suites);
    Ok(suite)
}

fn node(place: &Place) -> Result<Command> {
    let source = place.source.join("node");
    let wanted = std::fs::read_to_string(source.join("package-lock.json"))?;
    let (modules, is_empty) = place.folder("node", &wanted)?;
    if is_empty {
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(source.join(file), modules.join(file))?;
        }
        done(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&modules), "npm ci")?;
        Place::is_filled(&modules, &wanted)?;
    }
    let mut suite = Command::new("node");
    // The suite looks for its drivers from the working directory.
    suite.args(["--test", "--test-reporter=dot"]).arg(source.join("suite.test.mjs")).current_dir(modules);
    Ok(suite)
}

fn java(place: &Place) -> Result<Command> {
    let source = place.source.join("java");
    let wanted = std::fs::read_to_string(source.join("pom.xml"))?;
    let (folder, is_empty) = place.folder("java", &wanted)?;
    let (jars, classes) = (folder.join("jars"), folder.join("classes"));
    if is_empty {
        // Older versions would stand beside the new ones.
        drop(std::fs::remove_dir_all(&jars));
        let mut mvn = Command::new("mvn");
        mvn.args(["-q", "-B", COPY_JARS]).arg(format!("-DoutputDirectory={}", jars.display())).current_dir(&source);
        done(&mut mvn, "mvn")?;
        Place::is_filled(&folder, &wanted)?;
    }
    let jars = jars.join("*");
    let mut javac = Command::new("javac");
    javac.args(["-Xlint:all", "-Werror", "--release", "17", "-d"]).arg(&classes).arg("-cp").arg(&jars);
    for file in ["src/main/java/dev/byrnie/barrier/Barrier.java", "src/test/java/dev/byrnie/barrier/Suite.java"] {
        javac.arg(source.join(file));
    }
    done(&mut javac, "javac")?;
    let mut suite = Command::new("java");
    // The driver would tell of each error that the suite makes on purpose.
    suite.arg("-Dmariadb.logging.disable=true").arg("-cp").arg(format!("{}:{}", classes.display(), jars.display()));
    suite.arg("dev.byrnie.barrier.Suite").arg(&place.source);
    Ok(suite)
}
