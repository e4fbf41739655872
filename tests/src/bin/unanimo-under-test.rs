//! The coordinator's own program, which kills itself at a point that the environment names.

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimo_tests::crash::arm();
    unanimo::main()
}
