// SPDX-License-Identifier: Apache-2.0
//! One binary: every role and every command of byrnie. Here the process begins and its exit status is
//! made; what each command does is in `cmd`, one file a command.

mod assets;
mod cmd;
mod console;
mod demo;
mod documents;
mod failure;
mod globals;
mod handover;
mod join;
mod log;
mod mesh;
mod outbound;
mod output;
mod supervise;

fn main() -> std::process::ExitCode {
    cmd::main().into()
}
