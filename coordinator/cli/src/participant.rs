//! `unanimo participant`: the participants that a coordinator knows, and a check of one.

pub(super) mod check;
mod found;
mod list;
mod show;

use std::process::ExitCode;

pub(super) use self::found::processes;
use super::error::Error;

/// List participants, and check one that you write
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(check::Args),
    List(list::Args),
    Show(show::Args),
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    let args = match args.command {
        Command::List(args) => return list::run(&args),
        Command::Show(args) => return show::run(&args),
        Command::Check(args) => args,
    };
    // Several threads: calls that are sent at once are to arrive at once.
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| Error::System { doing: "start threads", source })?;
    runtime.block_on(check::run(args))
}
