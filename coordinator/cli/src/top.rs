//! `unanimo top`: the whole system at a glance, again and again.

mod page;
mod screen;
mod snapshot;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_coordinator::config::Period;

use self::screen::Screen;
use self::snapshot::Snapshot;
use crate::error::Error;
use crate::output::{self, is_terminal};
use crate::tx::Server;
use crate::tx::client::Client;

/// Shortest pause between two looks: each asks the coordinator to count.
const EVERY_MIN: Duration = Duration::from_millis(500);

/// Pause after a look, as a multiple of the time that it took: counting a million transactions costs much.
const SPARE: u32 = 10;

/// Show what the coordinator does, and what needs a person, until `q` is pressed
///
/// Rates are those of the last 10 seconds (begun) and of the last minute (committed, aborted); a number with a + is a limit at
/// which counting stopped. Refused ones, times to decision and calls of participants are those of the coordinator that
/// answers, in its last ten minutes, as are the lines over time, those in flight, and the age of those in doubt. Rates and ages go by
/// that coordinator's clock. Where standard output is no terminal, or with --once, one look is printed, and the command ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): a line for each look, without end unless --once is given: an
  object with at, begun_per_second, committed_per_second, aborted_per_second
  (numbers), counts (a number for each state), at_least (a list of the rates,
  states and ages of which there may be more), oldest_undecided_seconds,
  oldest_owed_seconds (null without any), stalled, heuristic, unreadable,
  attention (a list of objects with tx_id, gid, state, reason), participants
  (a list of objects with name, endpoints, alive, configured, failing, calls,
  failed, owed, call_p99_ms, last_error), refused_per_second (null for callers
  of a namespace), decision_p50_ms, decision_p99_ms (null without any; of the
  last ten minutes, as are calls and failed), in_flight,
  oldest_in_doubt_seconds (null without any), newest (a list as attention),
  steps (a list of objects with seconds, begun, committed, aborted, refused,
  in_flight, decision_p99_ms: the last ten minutes, oldest
  first). `participants` in at_least says that there are more of them.")]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    /// Pause between two looks; ten times as long as a look takes, where that is more
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
    let mut began = Instant::now();
    // The first one is asked before the screen is taken, so that its error is an ordinary one.
    let mut snapshot = Snapshot::take(&mut client).await?;
    if server.json {
        loop {
            output::print_json(&snapshot)?;
            if *once {
                return Ok(());
            }
            tokio::time::sleep(pause(every.0, began.elapsed())).await;
            began = Instant::now();
            snapshot = Snapshot::take(&mut client).await?;
        }
    }
    if *once || !is_terminal() {
        return output::print(&page::text(&snapshot, &server.endpoint, usize::MAX));
    }
    let mut screen = Screen::open()?;
    let mut shown = page::text(&snapshot, &server.endpoint, screen.lines());
    let mut next = pause(every.0, began.elapsed());
    loop {
        screen.show(shown)?;
        if screen.unless_ended(tokio::time::sleep(next)).await.is_none() {
            return Ok(());
        }
        began = Instant::now();
        let Some(taken) = screen.unless_ended(Snapshot::take(&mut client)).await else {
            return Ok(());
        };
        (shown, next) = match taken {
            Ok(taken) => {
                snapshot = taken;
                let next = pause(every.0, began.elapsed());
                (page::text(&snapshot, &server.endpoint, screen.lines()), next)
            }
            // A coordinator that is away comes back: the last numbers stay, and the error is above them.
            Err(error) => {
                let last =
                    page::text(&snapshot, &server.endpoint, screen.lines().saturating_sub(3));
                let failure = page::failure(&error.at(&server.endpoint));
                (format!("{failure}\n{last}"), every.0.max(EVERY_MIN))
            }
        };
    }
}

/// Returns the pause after a look that took so long.
fn pause(every: Duration, took: Duration) -> Duration {
    every.max(EVERY_MIN).max(took.saturating_mul(SPARE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_takes_a_tenth_of_the_time_at_most() {
        let secs = Duration::from_secs;
        assert_eq!(pause(secs(2), Duration::from_millis(100)), secs(2));
        assert_eq!(pause(secs(2), secs(3)), secs(30));
        assert_eq!(pause(Duration::ZERO, Duration::ZERO), EVERY_MIN);
    }
}
