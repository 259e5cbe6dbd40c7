// SPDX-License-Identifier: Apache-2.0
//! Two network namespaces and what lies between them. All of it is gone with the processes that hold it, and these with the bench.

use super::options::{Condition, Options};
use crate::bench::process::{Process, Side, Stage, life, wait_for};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// Addresses of the two sides (RFC 5737: for examples, so that nothing else has them).
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// Packets that a device holds for the link until it's given a turn.
const DEVICE_PACKETS_MAX: &str = "16384";

/// Which congestion control connections have; a new namespace's is the machine's.
pub(super) const CONGESTION: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

/// The network between a caller and a callee.
pub(super) struct Wire {
    link: Process,
    /// Where clients and callers are.
    pub(super) near: Namespace,
    /// Where callees and the app are.
    pub(super) far: Namespace,
}

/// What the link has carried, both ways together.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Carried {
    pub(super) packets: u64,
    pub(super) lost: u64,
    pub(super) without_room: u64,
}

/// The link's process and its log.
const LINK: &str = "loss-link";

impl Wire {
    pub(super) fn start(stage: &Stage, options: &Options, condition: Condition) -> Result<Self> {
        let (near, far) = (Namespace::new(stage, "loss-near")?, Namespace::new(stage, "loss-far")?);
        for side in [&near, &far] {
            side.tell(stage, "ip", &["link", "set", "lo", "up"])?;
            if let Some(name) = &options.congestion {
                // The file is that of the namespace of whoever writes.
                side.tell(stage, "sh", &["-c", &format!("echo \"$0\" > {CONGESTION}"), name])?;
            }
        }
        let (delay, loss) = (format!("delay={}", condition.delay.as_micros()), format!("loss={}", condition.loss));
        let words = ["link", "near=near", "far=far", &delay, &loss, &format!("seed={}", options.seed)];
        let link = near.start(stage, Side::Load, LINK, &stage.tool, &words)?;
        wait_for("the link", || said(stage).is_ok_and(|said| said.starts_with("ready")))?;
        near.tell(stage, "ip", &["link", "set", "far", "netns", &far.holder.pid().to_string()])?;
        for (side, device, address) in [(&near, "near", NEAR), (&far, "far", FAR)] {
            side.tell(stage, "ip", &["address", "add", &format!("{address}/24"), "dev", device])?;
            side.tell(stage, "ip", &["link", "set", device, "txqueuelen", DEVICE_PACKETS_MAX, "up"])?;
        }
        Ok(Self { link, near, far })
    }

    /// Ends it; what it has carried.
    pub(super) fn end(self, stage: &Stage) -> Result<Carried> {
        drop(self.link);
        let said = said(stage)?;
        let last = said.lines().last().context("the link said nothing")?;
        serde_json::from_str(last).with_context(|| format!("the link said `{last}`"))
    }
}

/// What the link has said.
fn said(stage: &Stage) -> Result<String> {
    Ok(std::fs::read_to_string(stage.dir.join(format!("{LINK}.log")))?)
}

/// Before a program's name: it ends when the bench does, even if that is killed.
const TIED: [&str; 3] = ["setpriv", "--pdeathsig", "TERM"];

/// A network namespace, by the process that holds it.
pub(super) struct Namespace {
    holder: Process,
}

impl Namespace {
    fn new(stage: &Stage, name: &str) -> Result<Self> {
        let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
        let own = of("self")?;
        let holder =
            stage.start(Side::Load, name, "unshare", &[&["--net"], &TIED[..], &["sleep", &life()]].concat())?;
        let pid = holder.pid().to_string();
        wait_for("a network namespace", || of(&pid).is_ok_and(|its| its != own))?;
        Ok(Self { holder })
    }

    /// A program that is to run here, not started.
    pub(super) fn command(&self, stage: &Stage, side: Side, program: &Path, args: &[&str]) -> Command {
        stage.command(side, "nsenter", &borrowed(&self.words(program, args)))
    }

    /// Starts a program here; what it says goes to NAME.log.
    pub(super) fn start(
        &self,
        stage: &Stage,
        side: Side,
        name: &str,
        program: &Path,
        args: &[&str],
    ) -> Result<Process> {
        stage.start(side, name, "nsenter", &borrowed(&self.words(program, args)))
    }

    /// How `nsenter` is told to become a program, here.
    fn words(&self, program: &Path, args: &[&str]) -> Vec<String> {
        let (place, program) = (format!("--net=/proc/{}/ns/net", self.holder.pid()), program.to_string_lossy());
        [&[&*place], &TIED[..], &[&*program], args].concat().into_iter().map(str::to_owned).collect()
    }

    /// Runs a program here to its end.
    fn tell(&self, stage: &Stage, program: &str, args: &[&str]) -> Result<()> {
        let output = self.command(stage, Side::Load, Path::new(program), args).output()?;
        if output.status.success() {
            return Ok(());
        }
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())
    }
}

/// Words as they are passed on.
pub(super) fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
