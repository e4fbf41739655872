//! Program `unanimo`, which kills itself at the crash point that the environment names.

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimo_tests::crash::arm();
    unanimo::main()
}
