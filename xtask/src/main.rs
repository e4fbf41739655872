//! Every chore of this repository: `cargo xtask help`.

#[path = "../../tests/src/installed.rs"]
#[expect(unreachable_pub, reason = "the tests' harness has the same file as a public module")]
mod installed;

mod chart;
mod ci;
mod dist;
mod docs;
mod kills;
mod links;
mod msrv;
mod packages;
mod publish;
mod python;
mod soak;
mod step;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use self::step::cargo;

const HELP: &str = "\
cargo xtask CHORE

  test [--postgres VERSION | --mysqld PATH] [ARGS…]  run every test; installs PostgreSQL, MariaDB, Python, Chromium and
                 libfaketime if they are not there; ARGS go to `cargo test`; with a version, such as 18.6.0, the servers are
                 of that one, which Maven fetches; with a program of MySQL, the tests of MariaDB run over that
  ci             what must pass before a change is accepted: tidy, links, chart, formatting, clippy, generated
                 files, tests, a short soak, packages, documentation; ends with the seconds of each
  tidy           the rules that a program can see: sizes, layers, words, manifests; --report lists
                 every violation with a count for each folder, and fails for none
  codegen        make the gRPC code anew from proto/unanimo; --accept makes the present contract the
                 baseline that later ones must be compatible with
  chart          check the chart of Helm, and render it where Helm is installed or Go can install it;
                 --accept makes its schema, README and rendered examples anew
  docs           make docs/reference anew from the code
  bench [ARGS…]  measure transactions per second beside plain commits, built for a release; --seconds N for each figure,
                 --check to fail where the journal does not do its work or TLS costs too much; bench tls
                 [--rounds N]: TLS's cost alone; bench greedy: another one's time beside a greedy caller, with
                 --check to fail where it doubles; bench layout: what PostgreSQL spends on each; bench flat
                 [--count N] [--hold SECONDS]: everything beside N that have finished and beside few, and with a
                 snapshot held open; bench purge [--count N]: what the purge costs, and leaves to others; bench
                 pages [--count N]: the dashboard's pages beside N that have finished, with --check to fail where
                 one takes 200 ms; bench conversion [--count N]: the first start on N of the version before the
                 log; bench recovery [--count N]: how soon N are back that a killed process left in flight, with --check
                 to fail where that takes ten seconds; bench owed [--count N]: N that are owed to a participant which is gone; bench sagas
                 [--count N]: N sagas of ten steps, and the memory that they take; bench sleepers [--count N]
                 [--begun]: N that start tomorrow, or with --begun sleep between two steps
  soak [--minutes N]  half of the participants dead, one slow, the database bounced, the clocks set: memory
                 must be flat, the healthy served as before, nothing half done; 1 minute if not said;
                 then a participant comes back to which very much is owed
  kills          the examples of sagas with the coordinator, or a participant, killed at every durable step, on
                 both stores, and at random moments: many minutes
  histories      record what tests/histories lacks of this version; what is there is never written again
  package        pack every published crate, and build what was packed; --each lets cargo verify each
                 alone, and installs the program from its package: slow, for a release
  dist           build the program for a release, and pack it with its manual, completions and unit, and with
                 checksums and a bill of materials beside it: the same bytes each time; --program FILE takes one
                 that is built; --check --program FILE makes nothing, and compares two archives of it
  msrv           build with the oldest Rust that Cargo.toml promises, if rustup has it
  links          check that every relative link of every page leads to a file and a heading
  hygiene        cargo-deny and cargo-machete, where they are installed
  help           this text
";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    std::env::set_current_dir(root()).context("enter the repository")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["test", rest @ ..] => ci::test(rest),
        ["ci"] => ci::ci(),
        ["tidy", rest @ ..] => tidy::tidy(rest),
        ["codegen", rest @ ..] => docs::codegen(rest),
        ["chart", rest @ ..] => chart::chart(rest),
        ["docs"] => docs::reference(),
        ["bench", rest @ ..] => {
            packages::ensure(&[packages::POSTGRES])?;
            let bench = ["run", "--release", "--quiet", "-p", "unanimo-bench", "--"];
            cargo(bench.iter().chain(rest))
        }
        ["soak", rest @ ..] => soak::soak(rest),
        ["kills", rest @ ..] => kills::kills(rest),
        ["histories"] => cargo([
            "test",
            "-p",
            "unanimo-tests",
            "--test",
            "suite",
            "histories::add_what_is_missing",
            "--",
            "--ignored",
            "--nocapture",
        ]),
        ["package", rest @ ..] => publish::package(rest),
        ["dist", rest @ ..] => dist::dist(rest),
        ["msrv"] => msrv::msrv(),
        ["hygiene"] => ci::hygiene(),
        ["links"] => links::check(),
        [] | ["help" | "--help" | "-h"] => {
            eprint!("{HELP}");
            Ok(())
        }
        _ => bail!("there is no chore `{}`\n\n{HELP}", arguments.join(" ")),
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A variant of the benchmark's subcommands is a line of four spaces, its name, and what follows a name.
    #[test]
    fn the_help_names_every_benchmark() {
        let program = std::fs::read_to_string(root().join("tests/bench/src/main.rs"))
            .expect("the benchmark names its subcommands");
        let (_, variants) =
            program.split_once("enum Measure {\n").expect("the benchmark names its subcommands");
        let (variants, _) =
            variants.split_once("\n}\n").expect("the benchmark names its subcommands");
        let lines = variants.lines().zip(variants.lines().skip(1));
        let named = lines.filter_map(|(before, line)| {
            if before.contains("hide = true") {
                return None;
            }
            let line = line.strip_prefix("    ")?;
            line.starts_with(|c: char| c.is_ascii_uppercase())
                .then(|| line.trim_end_matches([',', ' ', '{']).to_lowercase())
        });
        let named: Vec<String> = named.collect();
        assert!(named.len() > 9 && named.contains(&"sagas".to_owned()), "{named:?}");
        let help = HELP.split_whitespace().collect::<Vec<_>>().join(" ");
        for name in named {
            assert!(help.contains(&format!("bench {name}")), "no bench {name}");
        }
    }
}
