//! `--all` of `unanimo tx retry`, `resolve` and `forget`: one act on many transactions, no faster than they bear it.

mod act;
mod asked;

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::time::MissedTickBehavior;
use unanimo_proto::v1;

pub(super) use self::act::{Act, By};
use super::Server;
use super::client::{self, Client};
use super::filter::Filter;
use crate::error::Error;
use crate::output::{self, clean};
use crate::progress::Progress;

/// Transactions a second, where nothing else is said.
const PACE: u32 = 50;

/// Attempts for a call that is put off, and for one that comes back because too much is in flight.
const ATTEMPTS_MAX: u32 = 5;
const PATIENCE_MAX: u32 = 20;

/// Pauses between two attempts where the answer names none: the first one, after which they double, and the longest of all.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Transactions in a row that are put off, after which the rest is left.
const PUT_OFF_MAX: u32 = 3;

/// Transactions of one command, by condition.
#[derive(Debug, clap::Args)]
pub(super) struct Many {
    /// Every transaction that the act is for and that meets the conditions, instead of one
    #[arg(long)]
    all: bool,
    /// With --all: tell how many there are, and do nothing
    #[arg(long, requires = "all")]
    dry_run: bool,
    /// With --all: do not ask whether to go on. Needed where there is no terminal to ask at
    #[arg(long, requires = "all", conflicts_with = "dry_run")]
    yes: bool,
    /// With --all: most transactions a second [default: 50]
    #[arg(long, value_name = "NUMBER", requires = "all",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pace: Option<u32>,
    #[command(flatten, next_help_heading = "Conditions, with --all")]
    filter: Filter,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Done {
    act: &'static str,
    matched: usize,
    done: usize,
    nothing_due: usize,
    /// The same two, of a retry alone: its first names.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_sent: Option<usize>,
    failed: usize,
    unreadable: usize,
    left: usize,
    dry_run: bool,
}

impl Many {
    /// Tells whether nothing is done, and only counted.
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Does the act on each transaction that meets the conditions, once somebody has agreed.
    pub(super) async fn run(
        self,
        server: &Server,
        client: &mut Client,
        act: Act,
        by: By,
    ) -> Result<ExitCode, Error> {
        let request = self.request(&act, &by)?;
        let mut done = Done { act: act.name(), dry_run: self.dry_run, ..Done::default() };
        let found = find(client, request, &act, &mut done).await?;
        (done.matched, done.left) = (found.len(), found.len());
        let ended = match self.dry_run || found.is_empty() {
            true => Ok(true),
            false => self.act(client, &act, &by, found, &mut done).await,
        };
        if act.is_retry() {
            (done.sent, done.not_sent) = (Some(done.done), Some(done.nothing_due));
        }
        if self.dry_run {
            done.left = 0;
        }
        // Also where it ends early: whoever goes on has to know how far it came.
        if server.json {
            output::print_json(&done)?;
        } else {
            output::print(&act.told(done))?;
        }
        Ok(if ended? && done.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Makes the request for the transactions, after what is missing was told.
    fn request(&self, act: &Act, by: &By) -> Result<v1::ListTransactionsRequest, client::Error> {
        let lacks = |why: &str| Err(client::Error::Lacks(why.to_owned()));
        if by.note.is_empty() && !self.dry_run {
            return lacks("--all needs --note: your reason, for the history and the audit");
        }
        if act.is_resolve() && self.filter.participant.is_none() {
            return lacks("--all needs --participant: branches are resolved for one at a time");
        }
        let mut request = self.filter.clone().request()?;
        act.narrow(&mut request)?;
        request.page_size = u32::MAX;
        Ok(request)
    }

    /// Asks, and goes from one transaction to the next. Tells whether somebody agreed.
    async fn act(
        &self,
        client: &mut Client,
        act: &Act,
        by: &By,
        found: Vec<String>,
        done: &mut Done,
    ) -> Result<bool, Error> {
        let pace = self.pace.unwrap_or(PACE);
        let participant = self.filter.participant.as_deref().unwrap_or_default();
        let what = act.says(done.matched, participant, pace);
        if !self.yes && !asked::is_agreed(&what).await? {
            output::note("nothing was done");
            return Ok(false);
        }
        let mut pace = tokio::time::interval(Duration::from_secs(1) / pace);
        // One that was late is not made up for at once.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut progress = Progress::of("transactions", u64::try_from(done.matched).ok());
        let (mut put_off, mut count) = (0, 0);
        for tx_id in found {
            pace.tick().await;
            count += 1;
            done.left -= 1;
            match act.on(client, by, &tx_id, participant).await {
                Ok(is_done) => {
                    put_off = 0;
                    *if is_done { &mut done.done } else { &mut done.nothing_due } += 1;
                }
                Err(error) => {
                    done.failed += 1;
                    put_off = if error.is_passing() { put_off + 1 } else { 0 };
                    // A caller who is refused one is refused all, and a coordinator that is away answers none.
                    let is_of_all = !error.is_of_one() && !error.is_passing();
                    if is_of_all || put_off == PUT_OFF_MAX {
                        return Err(error.into());
                    }
                    progress.note(&format!("{tx_id}: {}", clean(&error.to_string())));
                }
            }
            progress.at(count);
        }
        Ok(true)
    }
}

/// Finds the transactions, the oldest first: they have waited longest. Those that nobody can read are told, and left out.
async fn find(
    client: &mut Client,
    mut request: v1::ListTransactionsRequest,
    act: &Act,
    done: &mut Done,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut progress = Progress::of("transactions found", None);
    loop {
        let page = patiently(async || {
            let asked = client.request(request.clone());
            Ok(client.coordinator.list_transactions(asked).await?.into_inner())
        });
        let page = page.await?;
        for tx in page.transactions {
            if !tx.unreadable.is_empty() {
                let why = clean(&tx.unreadable);
                progress.note(&format!("{}: left out: failed to {why}", tx.tx_id));
                done.unreadable += 1;
            } else if act.is_for(&tx) {
                found.push(tx.tx_id);
            }
        }
        progress.at(u64::try_from(found.len()).unwrap_or(u64::MAX));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            found.reverse();
            return Ok(found);
        }
    }
}

/// Makes a call, again where the coordinator puts it off, and returns the last answer.
async fn patiently<T>(
    mut call: impl AsyncFnMut() -> Result<T, client::Error>,
) -> Result<T, client::Error> {
    let (mut attempt, mut pause) = (1, PAUSE);
    loop {
        let error = match call().await {
            Err(error) if error.is_passing() => error,
            came => return came,
        };
        let attempts = if error.is_too_much() { PATIENCE_MAX } else { ATTEMPTS_MAX };
        if attempt >= attempts {
            return Err(error);
        }
        tokio::time::sleep(error.delay().unwrap_or(pause).clamp(PAUSE / 10, PAUSE_MAX)).await;
        pause *= 2;
        attempt += 1;
    }
}
