// SPDX-License-Identifier: Apache-2.0
//! Writes access-log lines where they belong, on a thread of its own: a full pipe or a slow disk costs
//! lines, never requests.

use crate::config::AccessLog;
use byrnie_base::mailbox::Receiver;
use byrnie_net::runtime::{self, Core};
use std::fs::OpenOptions;
use std::io::Write;

/// Starts the writer, if lines are wanted. It ends when every core is gone.
pub(crate) fn start(log: &AccessLog, mut lines: Receiver<Vec<u8>>) -> Option<Core> {
    let mut out: Box<dyn Write + Send> = match log {
        AccessLog::Off => return None,
        AccessLog::Stdout => Box::new(std::io::stdout()),
        AccessLog::File(path) => match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Box::new(file),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "access log can't be opened; lines are dropped");
                return None;
            }
        },
    };
    let write = async move {
        let mut failing = false;
        while let Some(batch) = lines.receive().await {
            match out.write_all(&batch).and_then(|()| out.flush()) {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(%error, "access log can't be written; lines are dropped until it can");
                }
                Err(_) => {}
            }
        }
    };
    runtime::spawn_core("byrnie-log", None, move || write).ok()
}
