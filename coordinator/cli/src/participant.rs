//! `unanimo participant`: commands that call a participant directly, without a coordinator.

pub(super) mod check;

use std::process::ExitCode;

use super::error::Error;

/// Check a participant that you write
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(check::Args),
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    // Several threads: calls that are sent at once are to arrive at once.
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| Error::System { doing: "start threads", source })?;
    runtime.block_on(async {
        match args.command {
            Command::Check(args) => check::run(args).await,
        }
    })
}
