//! `unanimo tx list --follow`: each transaction that begins, as it comes.

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use unanimo_proto::v1;

use super::client::{self, Client};
use super::{Server, json, list};
use crate::error::Error;
use crate::output::{self, clean};

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Seconds before the newest one that are looked at again: the rows of two transactions may appear in another order than they were
/// created in.
const AGAIN_SECS: i64 = 10;

/// Prints what begins from now on, or from the request's `created_from`.
pub(super) async fn run(
    server: &Server,
    client: &mut Client,
    mut request: v1::ListTransactionsRequest,
) -> Result<ExitCode, Error> {
    let now = Timestamp::now();
    let start = v1_time(now.as_second());
    let mut newest = *request.created_from.get_or_insert(start);
    let until = server.timeout.map(|timeout| Instant::now() + timeout.0);
    let mut seen = HashSet::new();
    loop {
        let mut page = pages(client, &request).await?;
        page.reverse();
        let again = std::mem::take(&mut seen);
        for tx in page {
            seen.insert(tx.tx_id.clone());
            let created = tx.created_at.unwrap_or(start);
            if (created.seconds, created.nanos) > (newest.seconds, newest.nanos) {
                newest = created;
            }
            if !again.contains(&tx.tx_id) {
                print(server, tx)?;
            }
        }
        // Never before the time that was asked for.
        let from = request.created_from.map_or(0, |from| from.seconds);
        if newest.seconds - AGAIN_SECS > from {
            request.created_from = Some(v1_time(newest.seconds - AGAIN_SECS));
        }
        let next = Instant::now() + EVERY;
        match until {
            Some(until) if until <= next => {
                tokio::time::sleep_until(until).await;
                return Ok(ExitCode::SUCCESS);
            }
            _ => tokio::time::sleep_until(next).await,
        }
    }
}

/// Lists all pages, newest first.
async fn pages(
    client: &mut Client,
    request: &v1::ListTransactionsRequest,
) -> Result<Vec<v1::Transaction>, Error> {
    let mut request = v1::ListTransactionsRequest { page_size: u32::MAX, ..request.clone() };
    let mut found = Vec::new();
    loop {
        let asked = client.request(request.clone());
        let page = client.coordinator.list_transactions(asked).await;
        let page = page.map_err(client::Error::from)?.into_inner();
        found.extend(page.transactions);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(found);
        }
    }
}

fn print(server: &Server, tx: v1::Transaction) -> Result<(), Error> {
    if server.json {
        return output::print_json(&json::Transaction::new(tx, json::View::List));
    }
    let [created, gid, mode, state, attention] = list::row(&tx).map(|cell| clean(&cell));
    let line = format!("{created}  {mode:<4}  {state:<10}  {gid}  {attention}");
    output::print(&format!("{}\n", line.trim_end()))
}

fn v1_time(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}
