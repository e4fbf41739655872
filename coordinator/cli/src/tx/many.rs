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

/// Transactions of one command, by condition.
#[derive(Debug, clap::Args)]
pub(super) struct Many {
    /// Every transaction that has not ended and meets the conditions, instead of one
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
        let found = self.find(client).await?;
        let mut done = Done { matched: found.len(), dry_run: self.dry_run, ..Done::default() };
        if !self.dry_run {
            self.send(client, operator, found, &mut done).await?;
        }
        if server.json {
            output::print_json(&done)?;
        } else {
            output::print(&done.text())?;
        }
        Ok(if done.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn find(&self, client: &mut Client) -> Result<Vec<String>, Error> {
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
            let asked = client.request(request.clone());
            let page = client.coordinator.list_transactions(asked).await;
            let page = page.map_err(client::Error::from)?.into_inner();
            found.extend(page.transactions.into_iter().map(|tx| tx.tx_id));
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
        for tx_id in found {
            pace.tick().await;
            let request = client.request(v1::RetryTransactionRequest {
                tx_id: tx_id.clone(),
                operator: operator.to_owned(),
                ..Default::default()
            });
            match client.operator.retry_transaction(request).await.map_err(client::Error::from) {
                Ok(answer) => {
                    let tx = answer.into_inner().transaction;
                    let sent = tx.is_some_and(|tx| not_sent(&tx, "").is_none());
                    *if sent { &mut done.sent } else { &mut done.not_sent } += 1;
                }
                // Whoever may not do it may do none of them, and no coordinator answers none.
                Err(error) if !error.is_of_one() => return Err(error.into()),
                Err(error) => {
                    output::note(&format!("{tx_id}: {}", clean(&error.to_string())));
                    done.failed += 1;
                }
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let so_far = done.sent + done.not_sent + done.failed;
                output::note(&format!("{so_far} of {} transactions", done.matched));
            }
        }
        Ok(())
    }
}

impl Done {
    fn text(self) -> String {
        let Self { matched, sent, not_sent, failed, dry_run } = self;
        if dry_run {
            return format!("{matched} transactions would be retried\n");
        }
        format!(
            "{matched} transactions: calls of {sent} were sent, of {not_sent} none was due, {failed} failed\n"
        )
    }
}
