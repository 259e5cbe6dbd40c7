// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask dist`: byrnie as it's released. It's built twice: first so that it counts how often it goes which way
//! while the bench's loads run, then by what was counted. A program in the folder of the result is whole: it gets
//! there by a change of name.

use super::bench::process::{Build, is_on_path, target};
use super::bench::train::train;
use anyhow::{Context, Result, bail};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is built: the product, and the programs by which the bench loads and measures it.
const PROGRAMS: [&str; 2] = ["byrnie", "byrnie-bench"];

/// Builds, trains, builds again, and says where the result is.
///
/// # Errors
/// If a tool is missing, a build or a load failed.
pub(crate) fn run(root: &Path) -> Result<()> {
    if !is_on_path("taskset") {
        bail!("taskset is needed (Debian: util-linux)");
    }
    let toolchain = Toolchain::find(root)?;
    let dir = target(root).join("dist");
    let (build, counts) = (dir.join("build"), dir.join("counts"));
    // What is there is of another time, or of one that was broken off: a new program never stands beside an old one.
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
    }
    fs::create_dir_all(&counts).with_context(|| counts.display().to_string())?;

    println!("== 1 of 4: a build that counts");
    let built = toolchain.build(root, &build, &format!("-Cprofile-generate={}", counts.display()))?;
    println!("\n== 2 of 4: the bench's loads on it");
    train(root, Build::Counting(built, counts.clone()))?;
    println!("\n== 3 of 4: what was counted");
    let profile = toolchain.merge(&counts, &dir)?;
    println!("\n== 4 of 4: the build that uses it");
    let built = toolchain.build(root, &build, &format!("-Cprofile-use={}", profile.display()))?;
    for name in PROGRAMS {
        fs::rename(built.join(name), dir.join(name)).with_context(|| format!("{name} can't be put in its place"))?;
    }
    // Counted again, the next build has none of this in common with it.
    for done in [&build, &counts] {
        fs::remove_dir_all(done)?;
    }
    fs::remove_file(&profile)?;
    let size = fs::metadata(dir.join("byrnie"))?.len() as f64 / f64::from(1 << 20);
    println!("\n{}: {size:.1} MiB; `cargo xtask bench --dist` measures it", dir.join("byrnie").display());
    Ok(())
}

/// What of the toolchain is needed.
struct Toolchain {
    host: String,
    profdata: PathBuf,
}

impl Toolchain {
    fn find(root: &Path) -> Result<Self> {
        let ask = |words: &[&str]| -> Result<String> {
            let said = Command::new("rustc").args(words).current_dir(root).output().context("rustc")?;
            Ok(String::from_utf8(said.stdout)?)
        };
        let about = ask(&["-vV"])?;
        let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        let tools = Path::new(ask(&["--print", "sysroot"])?.trim()).join("lib/rustlib").join(host).join("bin");
        let profdata = tools.join("llvm-profdata");
        if !profdata.is_file() {
            bail!("llvm-profdata of this toolchain is needed: rustup component add llvm-tools");
        }
        Ok(Self { host: host.to_owned(), profdata })
    }

    /// Builds with `flag` besides those of the environment; where the programs are.
    fn build(&self, root: &Path, dir: &Path, flag: &str) -> Result<PathBuf> {
        let (encoded, plain) = (std::env::var("CARGO_ENCODED_RUSTFLAGS"), std::env::var("RUSTFLAGS"));
        let mut cargo = Command::new(env!("CARGO"));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(encoded.ok(), plain.ok(), flag)).current_dir(root);
        // With a target of their own, build scripts and macros have neither flag.
        cargo.args(["build", "--release", "--locked", "--target", &self.host, "--target-dir"]).arg(dir);
        cargo.args(PROGRAMS.iter().flat_map(|name| ["-p", name]));
        if !cargo.status()?.success() {
            bail!("the build failed: see above");
        }
        Ok(dir.join(&self.host).join("release"))
    }

    /// Makes one profile of what every process has counted. Its name tells it from others: cargo knows a profile by
    /// its name alone, and would take what was built by an older one for fresh.
    fn merge(&self, counts: &Path, dir: &Path) -> Result<PathBuf> {
        let merged = counts.join("merged.profdata");
        let mut merge = Command::new(&self.profdata);
        if !merge.arg("merge").arg("-o").arg(&merged).arg(counts).status()?.success() {
            bail!("llvm-profdata failed: see above");
        }
        let bytes = fs::read(&merged)?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&bytes);
        let profile = dir.join(format!("{:016x}.profdata", hasher.finish()));
        fs::rename(&merged, &profile)?;
        println!("{} KiB", bytes.len() >> 10);
        Ok(profile)
    }
}

/// The flags of the environment, and one more, as cargo takes them.
fn flags(encoded: Option<String>, plain: Option<String>, more: &str) -> String {
    let own = encoded
        .unwrap_or_else(|| plain.iter().flat_map(|text| text.split_whitespace()).collect::<Vec<_>>().join("\x1f"));
    if own.is_empty() { more.to_owned() } else { format!("{own}\x1f{more}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_are_kept() {
        let text = |word: &str| Some(word.to_owned());
        assert_eq!(flags(None, None, "-Cnew=a b"), "-Cnew=a b");
        assert_eq!(flags(None, text("-Ca  -Cb"), "-Cnew"), "-Ca\x1f-Cb\x1f-Cnew");
        // As cargo reads them: the encoded ones go before the others.
        assert_eq!(flags(text("-Cc=d e"), text("-Ca"), "-Cnew"), "-Cc=d e\x1f-Cnew");
    }
}
