// SPDX-License-Identifier: Apache-2.0
//! The children of `up` and `run`. They're spawned from the main thread, which lives as long as the
//! process, through the hidden command `child`. For a child of byrnie's own it asks the kernel to end it
//! when its parent dies, however that dies, and then becomes it. Below `run` stands any program, which may
//! start others: there the command stays as a keeper, which ends them all. A proxy that was upgraded is a child too. So nothing is ever orphaned.

mod keeper;
mod means;
mod process;
mod signals;

pub(crate) use keeper::keep;
pub(crate) use means::take as take_means;
pub(crate) use process::{Exit, Process, Terminal, become_binary, become_program, own_binary, take_stdin, tie_to};
pub(crate) use signals::{Signal, Signals};
