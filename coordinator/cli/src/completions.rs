//! `unanimo completions`.

use std::process::ExitCode;

use clap::CommandFactory;

use super::error::Error;
use super::{Cli, output};

/// Print a script that completes commands and flags in a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  unanimo completions bash > /etc/bash_completion.d/unanimo
  unanimo completions zsh > \"${fpath[1]}/_unanimo\"
  unanimo completions fish > ~/.config/fish/completions/unanimo.fish")]
pub(super) struct Args {
    /// Shell that reads the script
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "unanimo", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
