// SPDX-License-Identifier: Apache-2.0
//! The children of `up` and `run`. They're spawned from the main thread, which lives as long as the
//! process, through the hidden command `child`: it asks the kernel to end the program when its parent
//! dies, however that dies, and then becomes the program. So no child is ever orphaned.

mod process;
mod signals;

pub(crate) use process::{Exit, Process, become_program, has_ended};
pub(crate) use signals::{Signal, Signals};
