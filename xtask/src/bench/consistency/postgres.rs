// SPDX-License-Identifier: Apache-2.0
//! A PostgreSQL of the bench's own: fresh, durable as it comes, on loopback, on the processor of the proxies.

use super::super::process::{Process, Side, Stage, loopback, wait_open};
use crate::databases::Cluster;
use anyhow::{Context, Result};

/// A server that runs; its directory is removed with the next one's start.
pub(super) struct Postgres {
    pub(super) port: u16,
    server: Process,
}

impl Postgres {
    /// Makes a cluster, puts `schema` into its database `postgres`, and starts it.
    pub(super) fn start(stage: &Stage, schema: &str) -> Result<Self> {
        // Single-user mode takes one statement a line.
        let statements: String =
            schema.split(';').map(|one| one.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect();
        let cluster = Cluster::make(&stage.dir, &statements)?.context("PostgreSQL isn't installed")?;
        let mut words = cluster.words();
        words.extend(["-c", "max_connections=150"].map(str::to_owned));
        let rest: Vec<&str> = words[1..].iter().map(String::as_str).collect();
        let server = stage.start(Side::Proxy, "postgres", &words[0], &rest)?;
        wait_open("postgres", loopback(cluster.port))?;
        Ok(Self { port: cluster.port, server })
    }

    pub(super) fn pid(&self) -> u32 {
        self.server.pid()
    }
}
