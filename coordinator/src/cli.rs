//! The command line: what the binary `unanimo` does with its arguments.
//!
//! A command is a variant of `Command` and a module with its `Args` and `run`.

mod config;
mod demo;
mod error;
mod logging;
mod output;
mod participant;
mod reference;
mod serve;
mod tx;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::config::Config;

/// What a program may conclude from the process's exit code.
const EXIT_CODES: &str = "\
Exit codes:
  0  done; of `tx submit`: committed
  1  failed: it did not start, ended on an error, or was refused by the coordinator; of
     `participant check`: a guarantee is broken, or none could be checked
  2  bad usage: an argument, the configuration or the form of a transaction's file is wrong; nothing
     was sent
  3  of `serve`: fenced, another process has taken over
  4  of `tx submit`: aborted
  5  of `tx submit`: not decided yet";

/// Coordinates transactions over several services: two-phase commit and TCC, over gRPC
#[derive(Debug, Parser)]
#[command(name = "unanimo", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Args),
    Config(config::Args),
    Tx(tx::Args),
    Participant(participant::Args),
    Demo(demo::Args),
    #[command(hide = true)]
    Reference(reference::Args),
}

/// Runs what the process's arguments say.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody reads it: then nobody misses it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Tx(args) => tx::run(args),
        Command::Participant(args) => participant::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Reference(args) => reference::run(&args),
    };
    result.unwrap_or_else(|error| {
        error.print();
        error.exit_code()
    })
}

/// The arguments, with the settings' defaults in the help texts.
fn command() -> clap::Command {
    let mut command = Cli::command();
    for with_settings in ["serve", "config"] {
        command = command.mut_subcommand(with_settings, show_defaults);
    }
    command
}

fn show_defaults(command: clap::Command) -> clap::Command {
    let settings = Config::described().into_iter().filter(|setting| !setting.env.is_empty());
    settings.fold(command, |command, setting| {
        let help = setting.help.replace('\n', " ");
        // In the file a list or a text, here as it would stand behind the flag.
        let default = setting.default.replace(['"', '[', ']'], "");
        command.mut_arg(setting.key.replace('-', "_"), |arg| {
            arg.help(format!("{help} [default: {default}]"))
        })
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_are_consistent() {
        super::command().debug_assert();
    }
}
