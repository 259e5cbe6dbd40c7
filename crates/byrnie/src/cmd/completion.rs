// SPDX-License-Identifier: Apache-2.0
//! `byrnie completion SHELL`: the shell's own completion script.

use crate::failure::Exit;

/// Print a completion script for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  byrnie completion bash > ~/.local/share/bash-completion/completions/byrnie
  byrnie completion zsh > ~/.zfunc/_byrnie
  byrnie completion fish > ~/.config/fish/completions/byrnie.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, command: &mut clap::Command) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "byrnie", &mut script);
    crate::output::write(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Fine)
}
