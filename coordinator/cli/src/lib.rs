//! The command line of the program `unanimo`, as a function: [`main`].
//!
//! A library so that the program can be built again with crash points, for tests. What a program
//! embeds is `unanimo-coordinator`.
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

use clap::Parser;

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
    let cli = match Cli::try_parse() {
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
