//! `unanimo top`: the whole system at a glance, again and again.

mod screen;
mod snapshot;

use std::process::ExitCode;
use std::time::Duration;

use unanimo_coordinator::config::Period;

use self::screen::Screen;
use self::snapshot::Snapshot;
use crate::error::Error;
use crate::output::{self, is_terminal};
use crate::tx::Server;
use crate::tx::client::Client;

/// Shortest pause between two looks: each asks the coordinator to count.
const EVERY_MIN: Duration = Duration::from_millis(500);

/// Show what the coordinator does, and what needs a person, until `q` is pressed
///
/// Rates are those of the last 10 seconds (begun) and of the last minute (committed, aborted); a number with a + is a limit at
/// which counting stopped. Where standard output is no terminal, or with --once, one look is printed, and the command ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): a line for each look, without end unless --once is given: an object with at, begun_per_second, committed_per_second,
  aborted_per_second (numbers), counts (a number for each state), at_least (a list of the rates and states of which there may
  be more), oldest_undecided_seconds, oldest_owed_seconds (null without any), stalled, heuristic, unreadable, attention (a list of
  objects with tx_id, gid, state, reason), participants (a list of objects with name, endpoints, alive).")]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// Pause between two looks
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    every: Period,
    /// Print one look, and end
    #[arg(long)]
    once: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    args.server.block_on(look(args)).map(|()| ExitCode::SUCCESS)
}

async fn look(args: &Args) -> Result<(), Error> {
    let Args { server, every, once } = args;
    let mut client = Client::connect(server).await?;
    // The first one is asked before the screen is taken, so that its error is an ordinary one.
    let mut snapshot = Snapshot::take(&mut client).await?;
    if server.json {
        loop {
            output::print_json(&snapshot)?;
            if *once {
                return Ok(());
            }
            tokio::time::sleep(every.0.max(EVERY_MIN)).await;
            snapshot = Snapshot::take(&mut client).await?;
        }
    }
    if *once || !is_terminal() {
        return output::print(&snapshot.text(&server.endpoint, usize::MAX));
    }
    let mut screen = Screen::open()?;
    let mut shown = snapshot.text(&server.endpoint, screen.lines());
    loop {
        screen.show(&shown)?;
        if screen.ended_within(every.0.max(EVERY_MIN)).await {
            return Ok(());
        }
        shown = match Snapshot::take(&mut client).await {
            Ok(snapshot) => snapshot.text(&server.endpoint, screen.lines()),
            // A coordinator that is away comes back: the last numbers stay, and the error is above them.
            Err(error) => {
                let last = snapshot.text(&server.endpoint, screen.lines().saturating_sub(3));
                format!("{}\n{last}", snapshot::failure(&error.at(&server.endpoint)))
            }
        };
    }
}
