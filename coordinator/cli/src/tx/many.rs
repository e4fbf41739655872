//! `unanimo tx retry --all`: one act on many transactions, no faster than they bear it.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use unanimo_proto::v1::{self, TransactionState as State};

use super::Server;
use super::client::{self, Client};
use super::operate::not_sent;
use crate::error::Error;
use crate::output::{self, clean};

/// Pause between two lines about how far it is.
const PROGRESS: Duration = Duration::from_secs(5);

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
    /// Every transaction that is active, committing or aborting and meets the conditions, instead of one; not those that are
    /// scheduled or in doubt
    #[arg(long, conflicts_with_all = ["name", "gid", "branch"])]
    all: bool,
    /// With --all: only those with a branch at this participant
    #[arg(
        long,
        value_name = "NAME",
        requires = "all",
        conflicts_with = "name",
        default_value = "",
        hide_default_value = true
    )]
    participant: String,
    /// With --all: only those that need an operator
    #[arg(long, requires = "all", conflicts_with = "name")]
    attention: bool,
    /// With --all: only those whose gid begins with this prefix
    #[arg(
        long,
        value_name = "PREFIX",
        requires = "all",
        conflicts_with = "name",
        default_value = "",
        hide_default_value = true
    )]
    gid_prefix: String,
    /// With --all: tell how many there are, and do nothing
    #[arg(long, requires = "all", conflicts_with = "name")]
    dry_run: bool,
    /// With --all: most transactions a second
    #[arg(long, value_name = "NUMBER", requires = "all", conflicts_with = "name", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pace: u32,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Done {
    matched: usize,
    sent: usize,
    not_sent: usize,
    failed: usize,
    unreadable: usize,
    left: usize,
    dry_run: bool,
}

impl Many {
    /// Sends the waiting calls of each transaction that meets the conditions.
    pub(super) async fn retry(
        self,
        server: &Server,
        client: &mut Client,
        operator: &str,
    ) -> Result<ExitCode, Error> {
        let mut done = Done { dry_run: self.dry_run, ..Done::default() };
        let found = self.find(client, &mut done).await?;
        done.matched = found.len();
        let ended = match self.dry_run {
            true => Ok(()),
            false => self.send(client, operator, found, &mut done).await,
        };
        // Also where it ends early: whoever goes on has to know how far it came.
        if server.json {
            output::print_json(&done)?;
        } else {
            output::print(&done.text())?;
        }
        ended?;
        Ok(if done.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Finds the transactions. Those that nobody can read are told, and left out.
    async fn find(&self, client: &mut Client, done: &mut Done) -> Result<Vec<String>, Error> {
        let states = [State::Active, State::Committing, State::Aborting];
        let mut request = v1::ListTransactionsRequest {
            states: states.map(i32::from).to_vec(),
            attention: self.attention,
            gid_prefix: self.gid_prefix.clone(),
            participant: self.participant.clone(),
            page_size: u32::MAX,
            ..Default::default()
        };
        let mut found = Vec::new();
        loop {
            let page = patiently(async || {
                let asked = client.request(request.clone());
                Ok(client.coordinator.list_transactions(asked).await?.into_inner())
            });
            let page = page.await?;
            for tx in page.transactions {
                if tx.unreadable.is_empty() {
                    found.push(tx.tx_id);
                } else {
                    let why = clean(&tx.unreadable);
                    output::note(&format!("{}: left out: failed to {why}", tx.tx_id));
                    done.unreadable += 1;
                }
            }
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                // The oldest first: they have waited longest.
                found.reverse();
                return Ok(found);
            }
        }
    }

    async fn send(
        &self,
        client: &mut Client,
        operator: &str,
        found: Vec<String>,
        done: &mut Done,
    ) -> Result<(), Error> {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.pace);
        // One that was late is not made up for at once.
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Instant::now();
        let (mut put_off, mut count) = (0, 0);
        for tx_id in found {
            pace.tick().await;
            count += 1;
            done.left = done.matched - count;
            match retry(client, operator, &tx_id).await {
                Ok(sent) => {
                    put_off = 0;
                    *if sent { &mut done.sent } else { &mut done.not_sent } += 1;
                }
                Err(error) => {
                    done.failed += 1;
                    put_off = if error.is_passing() { put_off + 1 } else { 0 };
                    // A caller who is refused one is refused all, and a coordinator that is away answers none.
                    let is_of_all = !error.is_of_one() && !error.is_passing();
                    if is_of_all || put_off == PUT_OFF_MAX {
                        return Err(error.into());
                    }
                    output::note(&format!("{tx_id}: {}", clean(&error.to_string())));
                }
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                output::note(&format!("{count} of {} transactions", done.matched));
            }
        }
        Ok(())
    }
}

/// Sends the waiting calls of one transaction, and tells whether there were any.
async fn retry(client: &mut Client, operator: &str, tx_id: &str) -> Result<bool, client::Error> {
    let answer = patiently(async || {
        let request = client.request(v1::RetryTransactionRequest {
            tx_id: tx_id.to_owned(),
            operator: operator.to_owned(),
            ..Default::default()
        });
        Ok(client.operator.retry_transaction(request).await?.into_inner())
    });
    Ok(answer.await?.transaction.is_some_and(|tx| not_sent(&tx, "").is_none()))
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

impl Done {
    fn text(self) -> String {
        let Self { matched, sent, not_sent, failed, unreadable, left, dry_run } = self;
        let unreadable = match unreadable {
            0 => String::new(),
            number => format!("; {number} more cannot be read"),
        };
        if dry_run {
            return format!("{matched} transactions would be retried{unreadable}\n");
        }
        let left = if left == 0 { String::new() } else { format!(", {left} were not tried") };
        format!(
            "{matched} transactions: calls of {sent} were sent, of {not_sent} none was due, {failed} failed{left}{unreadable}\n"
        )
    }
}
