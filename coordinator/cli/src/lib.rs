//! The command line of the program `unanimo`, as a function: [`main`].
//!
//! It is a library so that tests can build the program once more with crash points, and so that examples
//! can start a coordinator in a process of its own ([`child`]). To embed a coordinator in a program, use
//! `unanimo-coordinator`.
//!
//! A command is a variant of `Command` and a module with its `Args` and `run`.

pub mod child;

mod audit;
mod browser;
mod certs;
mod completions;
mod config;
mod demo;
mod error;
mod events;
mod interruptions;
mod logging;
mod man;
mod output;
mod participant;
mod progress;
mod reference;
mod replay;
mod saga;
mod serve;
mod token;
mod top;
mod tx;
mod view;
mod webhook;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use unanimo_coordinator::config::unknown_variables;

/// Exit codes of all commands, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  success; `tx submit` and `saga run`: the transaction is committed, or
     with --wait accepted accepted and not decided yet; `tx rollback`: aborted
  1  failure: the command failed, the coordinator cannot be reached, or it
     refused the request; `tx submit` and `saga run`: and no transaction was
     begun by it; `tx rollback`: or the transaction was committed before;
     `participant check`: a guarantee is broken, or not all could be checked;
     `saga check`: a definition has a mistake; `replay`: something differs;
     `audit verify`: nobody can tell
  2  wrong usage: an argument, a setting or a field of a transaction's file
     breaks a rule. The error names it, and nothing has changed
  3  `serve`: fenced, another coordinator adopts its transactions; or its
     database was moved, restored or removed under it
  4  `tx submit` and `saga run`: the transaction is aborted
  5  `tx submit`, `saga run` and `tx rollback`: the transaction is not decided
     yet, or with --wait ended not ended, or nobody knows: run the same
     command again
  6  `tx submit`, `saga run`, `tx watch` and `tx rollback`: the transaction is
     decided, and a branch ended otherwise, or nobody can tell how: an
     operator has to look at it. What has ended is told: for all branches
     `tx submit` and `saga run` need --wait ended
  7  `audit verify`: an entry is not as it was written, or the file is not
     whole";

/// Form of the output in JSON and of errors, for `--help`.
const JSON: &str = "\
JSON:
  With --json standard output has JSON alone: one value, or a line for each,
  as the help of the command says, and nothing where it fails before it has
  any. Errors and remarks are told on standard error as without it: a line
  that begins with `error: `; where the coordinator has refused the request a
  line `  reason: REASON (CODE)` below, by docs/reference/errors.md; and
  perhaps a line that begins with `hint: `. The exit code tells the kind.";

/// Exit codes of a command that has no more of its own, for its `--help`.
const USUAL_EXIT_CODES: &str = "\
Exit codes: 0 success; 1 the command failed, or the coordinator cannot be
  reached or refused the request; 2 an argument is wrong, or the coordinator
  found that a field breaks a rule.";

/// Coordinates transactions over several services: two-phase commit, TCC and sagas, over gRPC
#[derive(Debug, Parser)]
#[command(name = "unanimo", version, arg_required_else_help = true, after_help = format!("{EXIT_CODES}\n\n{JSON}"))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Args),
    Config(config::Args),
    Tx(tx::Args),
    Events(events::Args),
    Webhook(webhook::Args),
    Top(top::Args),
    Saga(saga::Args),
    Replay(replay::Args),
    View(view::Args),
    Participant(participant::Args),
    Audit(audit::Args),
    Certs(certs::Args),
    Token(token::Args),
    Demo(demo::Args),
    Completions(completions::Args),
    Man(man::Args),
    #[command(hide = true)]
    Reference(reference::Args),
}

/// Runs the command that the process's arguments name, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let matches = with_exit_codes(Cli::command()).try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            // A failure to print the help or the error cannot be reported anywhere.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let result = read_no_unknown_variable(&cli.command).and_then(|()| match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Tx(args) => tx::run(args),
        Command::Events(args) => events::run(args),
        Command::Webhook(args) => webhook::run(args),
        Command::Top(args) => top::run(&args),
        Command::Saga(args) => saga::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::View(args) => view::run(&args),
        Command::Participant(args) => participant::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Certs(args) => certs::run(args),
        Command::Token(args) => token::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Reference(args) => reference::run(&args),
    });
    result.unwrap_or_else(|error| {
        error.print();
        error.exit_code()
    })
}

/// Refuses a variable that begins as ours do and is none, for each command that reads any: whoever
/// misspelt it would get the default.
fn read_no_unknown_variable(command: &Command) -> Result<(), error::Error> {
    let reads = match command {
        Command::Serve(_)
        | Command::Config(_)
        | Command::Tx(_)
        | Command::Events(_)
        | Command::Webhook(_)
        | Command::Top(_)
        | Command::Saga(_)
        | Command::Audit(_) => true,
        Command::Replay(_)
        | Command::View(_)
        | Command::Participant(_)
        | Command::Certs(_)
        | Command::Token(_)
        | Command::Demo(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Reference(_) => false,
    };
    let unknown = if reads { unknown_variables(std::env::vars_os()) } else { Vec::new() };
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(unanimo_coordinator::config::Error::Invalid(unknown).into()),
    }
}

/// Adds the exit codes to the help of each command that does not describe its own.
fn with_exit_codes(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|command| {
        let command = with_exit_codes(command);
        let texts = [command.get_after_long_help(), command.get_long_about()];
        let texts = texts.map(|text| text.map(ToString::to_string).unwrap_or_default());
        if command.has_subcommands() || texts.iter().any(|text| text.contains("Exit codes")) {
            return command;
        }
        let [before, _] = texts;
        let gap = if before.is_empty() { "" } else { "\n\n" };
        command.after_long_help(format!("{before}{gap}{USUAL_EXIT_CODES}"))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::with_exit_codes(super::Cli::command()).debug_assert();
    }

    /// Texts behind the options have line ends of their own: a line that is longer than the terminal would be wrapped once
    /// more, and the rest of it stand alone.
    #[test]
    fn the_help_of_every_command_fits_eighty_columns_without_a_second_wrap() {
        let mut open = vec![super::with_exit_codes(super::Cli::command()).term_width(80)];
        let (mut count, mut wrong) = (0, Vec::new());
        while let Some(mut command) = open.pop() {
            let texts = [command.get_after_help(), command.get_after_long_help()];
            let texts = texts.map(|text| text.map(ToString::to_string).unwrap_or_default());
            let help = command.render_long_help().to_string();
            let name = command.get_name();
            for line in texts.iter().flat_map(|text| text.lines()) {
                if line.chars().count() > 78 || !help.lines().any(|shown| shown == line) {
                    wrong.push(format!("{name}: {line}"));
                }
            }
            // clap does not wrap the usage.
            for line in help.lines().filter(|line| !line.starts_with("Usage: ")) {
                if line.chars().count() > 80 && line.trim().contains(' ') {
                    wrong.push(format!("{name}: {line}"));
                }
            }
            count += 1;
            open.extend(command.get_subcommands().cloned().map(|command| command.term_width(80)));
        }
        assert!(count > 30, "{count} commands");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Commands that answer something have `--json`. The others are named here, with what they print.
    #[test]
    fn every_command_that_answers_has_json() {
        let without = [
            ("completions", "a script for a shell"),
            ("demo", "a story"),
            ("man", "pages of the manual"),
            ("saga schema", "JSON, always"),
            ("serve", "its log, which is JSON with --log-format json"),
        ];
        let mut root = super::Cli::command();
        root.build();
        let (mut open, mut found) = (vec![(String::new(), root)], Vec::new());
        while let Some((path, command)) = open.pop() {
            let inner = command.get_subcommands();
            // What the parser adds, and what is for the makers of these pages.
            let inner = inner.filter(|inner| inner.get_name() != "help" && !inner.is_hide_set());
            for inner in inner.cloned() {
                open.push((format!("{path} {}", inner.get_name()).trim().to_owned(), inner));
            }
            let has_json = command.get_arguments().any(|arg| arg.get_id() == "json");
            if !command.has_subcommands() && !has_json {
                found.push(path);
            }
        }
        found.sort();
        assert_eq!(found, without.map(|(name, _)| name));
    }
}
