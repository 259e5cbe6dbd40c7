// SPDX-License-Identifier: Apache-2.0
//! What the disk gives by itself: how often a second 4 KiB can be appended and made durable. No durable step of
//! anybody is quicker.

use super::super::{now, process::Stage};
use anyhow::Result;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

const SPAN: Duration = Duration::from_millis(700);
const PIECE: [u8; 4096] = [7; 4096];

/// Syncs a second, and the median of one in microseconds.
pub(super) fn measure(stage: &Stage) -> Result<(f64, f64)> {
    let path = stage.dir.join("disk");
    let mut file = File::create(&path)?;
    let (start, mut each) = (now(), Vec::new());
    while start.elapsed() < SPAN {
        let one = now();
        file.write_all(&PIECE)?;
        file.sync_data()?;
        each.push(one.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(&path)?;
    each.sort_unstable();
    let median = each.get(each.len() / 2).map_or(f64::NAN, |one| one.as_secs_f64() * 1e6);
    Ok((each.len() as f64 / seconds, median))
}
