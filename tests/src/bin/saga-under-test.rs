//! Program `saga` of the examples: it is also the coordinator that it starts. The first life of that
//! coordinator kills itself at the crash point that the environment names.

use std::process::ExitCode;

/// Variable with `POINT:VISIT`.
const CRASH_AT: &str = "SAGA_CRASH_AT";

/// Variable with the path of a file, which is made by the life that is to crash.
const CRASH_FILE: &str = "SAGA_CRASH_FILE";

fn main() -> ExitCode {
    let is_coordinator = std::env::args().nth(1).is_some_and(|command| command == "serve");
    if let (true, Ok(crash), Ok(file)) =
        (is_coordinator, std::env::var(CRASH_AT), std::env::var(CRASH_FILE))
        && std::fs::File::create_new(file).is_ok()
    {
        unanimo_tests::crash::arm_at(&crash);
    }
    unanimo_examples::sagas::main()
}
