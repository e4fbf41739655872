//! Runs a saga with its participants, and shows what happened.

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimo_examples::sagas::main()
}
