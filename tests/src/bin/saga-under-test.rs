//! Program `saga` of the examples: it is also the coordinator that it starts.

use std::process::ExitCode;

fn main() -> ExitCode {
    unanimo_examples::sagas::main()
}
