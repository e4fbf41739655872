//! The binary `unanimo` as tests start it: the same library, built with what tests need.

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimo_coordinator::cli::main()
}
