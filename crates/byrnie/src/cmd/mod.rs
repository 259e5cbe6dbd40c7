// SPDX-License-Identifier: Apache-2.0
//! The commands, one file each. A command has `Args` and `run(Args, &Globals) -> anyhow::Result<Exit>`;
//! to add one, declare its module, name it in [`Command`] and in [`run`].

use crate::failure::{self, Exit};
use crate::globals::Globals;
use crate::supervise;
use clap::{CommandFactory as _, Parser, Subcommand};

mod allow;
mod apply;
mod canary;
mod cert;
mod child;
mod completion;
mod delete;
mod demo_service;
mod edges;
mod explain;
mod fault;
mod get;
mod history;
mod lint;
mod outbox;
mod proxies;
mod run;
mod saga;
mod site;
mod stat;
mod status;
mod successor;
mod token;
mod undo;
mod up;
mod upgrade;
mod version;

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "byrnie",
    version,
    about = "A service mesh in one binary",
    after_help = "Begin with:\n  byrnie up --demo\n\nExit status: 0 fine, 1 a problem was found, 2 usage, 3 server unreachable",
    disable_help_subcommand = true,
    propagate_version = false
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Every command. Order is the order of the help.
#[derive(Subcommand, Debug)]
enum Command {
    Up(up::Args),
    Run(run::Args),
    Upgrade(upgrade::Args),
    Apply(apply::Args),
    Get(get::Args),
    Delete(delete::Args),
    Lint(lint::Args),
    History(history::Args),
    Undo(undo::Args),
    Allow(allow::Allow),
    Deny(allow::Deny),
    Canary(canary::Args),
    Fault(fault::Fault),
    Status(status::Args),
    Stat(stat::Args),
    Edges(edges::Args),
    Proxies(proxies::Args),
    Explain(explain::Args),
    Saga(saga::Args),
    Outbox(outbox::Args),
    Cert(cert::Args),
    Site(site::Args),
    Token(token::Args),
    #[command(hide = true)]
    Child(child::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    Successor(successor::Args),
    #[command(hide = true)]
    DemoService(demo_service::Args),
    Version(version::Args),
}

/// Reads the command line, runs the command and says how the process ends.
pub(crate) fn main() -> Exit {
    let cli = Cli::parse();
    run(cli.command, &cli.globals).unwrap_or_else(|error| failure::report(&error))
}

fn run(command: Command, globals: &Globals) -> anyhow::Result<Exit> {
    match command {
        Command::Apply(args) => apply::run(&args, globals),
        Command::Get(args) => get::run(&args, globals),
        Command::Delete(args) => delete::run(&args, globals),
        Command::Lint(args) => lint::run(&args, globals),
        Command::History(args) => history::run(&args, globals),
        Command::Undo(args) => undo::run(&args, globals),
        Command::Allow(args) => allow::run_allow(&args, globals),
        Command::Deny(args) => allow::run_deny(&args, globals),
        Command::Canary(args) => canary::run(&args, globals),
        Command::Fault(args) => fault::run_fault(&args, globals),
        Command::Status(args) => status::run(&args, globals),
        Command::Stat(args) => stat::run(&args, globals),
        Command::Edges(args) => edges::run(&args, globals),
        Command::Proxies(args) => proxies::run(&args, globals),
        Command::Explain(args) => explain::run(&args, globals),
        Command::Saga(args) => saga::run(&args, globals),
        Command::Cert(args) => cert::run(&args, globals),
        Command::Site(args) => site::run(&args, globals),
        Command::Outbox(args) => outbox::run(&args, globals),
        Command::Token(args) => token::run(&args, globals),
        Command::Child(args) => child::run(&args),
        Command::Successor(args) => successor::run(&args, globals),
        Command::Upgrade(args) => upgrade::run(&args, globals),
        Command::Completion(args) => completion::run(&args, &mut Cli::command()),
        Command::DemoService(args) => demo_service::run(&args, globals),
        Command::Run(args) => {
            supervise::take_means()?;
            run::run(args, globals)
        }
        Command::Up(args) => {
            supervise::take_means()?;
            up::run(&args, globals)
        }
        Command::Version(args) => version::run(&args, globals),
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_shown_command_has_three_examples() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.lines().filter(|line| line.trim_start().starts_with("byrnie ")).count();
            assert!(examples >= 3, "{} shows {examples} examples", command.get_name());
        }
    }

    #[test]
    fn every_command_that_a_code_advises_exists() {
        for code in byrnie_model::code::ALL {
            let quoted = [code.title, code.effect, code.next].join(" ");
            for advice in quoted.split('`').skip(1).step_by(2).filter_map(|quote| quote.strip_prefix("byrnie ")) {
                let mut command = Cli::command();
                let mut words = advice.split(' ');
                while command.has_subcommands() {
                    let found = words.next().and_then(|word| command.find_subcommand(word)).cloned();
                    command = found.unwrap_or_else(|| panic!("{}: there is no `byrnie {advice}`", code.id));
                }
            }
        }
    }
}
