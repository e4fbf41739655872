//! Program `saga` of the examples: it is also the coordinator that it starts. The first life of that
//! coordinator kills itself at the crash point that the environment names.
//!
//! `participant EXAMPLE NAME FILE` serves one participant of an example instead, in a process of its own.

use std::process::ExitCode;

use unanimo_examples::sagas::args::Name;
use unanimo_sdk::{Serve, Sqlite};
use unanimo_tests::joining::say;

/// Variable with `POINT:VISIT`.
const CRASH_AT: &str = "SAGA_CRASH_AT";

/// Variable with the path of a file, which is made by the life that is to crash.
const CRASH_FILE: &str = "SAGA_CRASH_FILE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["participant", example, name, file] = words[..] {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        return match runtime.block_on(serve(example, name, file)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let is_coordinator = words.first() == Some(&"serve");
    if let (true, Ok(crash), Ok(file)) =
        (is_coordinator, std::env::var(CRASH_AT), std::env::var(CRASH_FILE))
        && std::fs::File::create_new(file).is_ok()
    {
        unanimo_tests::crash::arm_at(&crash);
    }
    unanimo_examples::sagas::main()
}

/// Serves a participant, whose tables are there, until the process dies.
async fn serve(example: &str, name: &str, file: &str) -> Result<(), Box<dyn std::error::Error>> {
    unanimo_tests::crash::arm();
    let examples = [Name::Trip, Name::Order, Name::Pipeline].map(Name::example);
    let example = examples.iter().find(|known| known.name == example).ok_or("no such example")?;
    let program = example.programs.iter().find(|program| program.name == name);
    let program = program.ok_or("no participant of this name")?;
    let participant = (program.participant)(program.name, Sqlite::open(file).await?);
    let serving = participant.serve(Serve::on("127.0.0.1:0")).await?;
    say(&format!("grpc http://{}", serving.address()));
    serving.until_stopped().await?;
    Ok(())
}
