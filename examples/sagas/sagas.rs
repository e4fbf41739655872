//! Three sagas to replay, each with its participants: a trip, an order and a pipeline.
//!
//! The program `saga` runs one of them: it starts a coordinator in a process of its own and the
//! participants in this one, breaks something if it is told to, shows what happened, and checks in the
//! participants' databases that nothing is half done.

pub mod args;
pub mod example;
pub mod faults;
mod host;
pub mod logbook;
pub mod order;
pub mod pipeline;
mod rows;
mod run;
mod show;
mod submit;
pub mod trip;

use std::process::ExitCode;

use clap::Parser;

pub use self::args::Args;
pub use self::example::Example;

/// Commands of `unanimo` that this program runs, too: the first one as its own coordinator.
const COMMANDS: [&str; 4] = ["serve", "tx", "replay", "saga"];

/// Runs the example that the process's arguments name, and returns the exit code: 0 if nothing is half
/// done, whether the saga is committed or aborted; 6 if a participant has ended otherwise than was decided; 7 if an option's
/// step was not reached.
#[must_use]
pub fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    if COMMANDS.contains(&command.as_str()) {
        return unanimo::main();
    }
    let args = Args::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: failed to start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ran = runtime.block_on(async {
        tokio::select! {
            ran = run::run(&args) => ran,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("end: it was interrupted")),
        }
    });
    // Calls whose answers are lost on purpose never end.
    runtime.shutdown_background();
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: failed to {error:#}");
            ExitCode::FAILURE
        }
    }
}
