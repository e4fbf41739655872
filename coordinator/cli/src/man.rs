//! `unanimo man`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;

use super::error::Error;
use super::{Cli, output, with_exit_codes};

/// Write the pages of the manual, one for each command
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example: unanimo man /usr/local/share/man/man1; then `man unanimo-tx-submit`")]
pub(super) struct Args {
    /// Folder to write them to; it is made if it is not there
    folder: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let failed = |source| Error::System { doing: "write the pages of the manual", source };
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    let command = with_exit_codes(Cli::command()).disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.folder).map_err(failed)?;
    output::print(&format!("Written to {}.\n", args.folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
