//! `unanimo tx list --follow`: each transaction that begins, as it comes.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_proto::v1;

use super::client::{self, Client};
use super::{Server, json, list};
use crate::error::Error;
use crate::output::{self, clean, folded};

/// Shortest pause between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Pause after a look, as a multiple of the time that it took: few matches among many transactions cost much.
const SPARE: u32 = 10;

/// Seconds before the newest transaction that are looked at again: its time is that of the process that began it, whose clock
/// may be ahead of another one's, and rows may appear in another order than they were created in.
const AGAIN_SECS: i64 = 120;

/// Fewest columns behind the others in which a gid begins. Where there are fewer it begins below, behind [`BELOW`] columns.
const GID_MIN: usize = 20;
const BELOW: usize = 4;

/// Seconds and nanoseconds at which a transaction was created.
type Created = (i64, i32);

/// Prints what begins from now on, or from the request's `created_from`.
pub(super) async fn run(
    server: &Server,
    client: &mut Client,
    request: v1::ListTransactionsRequest,
) -> Result<ExitCode, Error> {
    let until = server.timeout.map(|timeout| Instant::now() + timeout.0);
    let is_from_now = request.created_from.is_none();
    let mut following = Following::start(client, request).await?;
    if is_from_now {
        output::note("each transaction that begins from now on:");
    }
    let mut is_away = false;
    loop {
        let began = Instant::now();
        let pause = match following.look(client).await {
            Ok(begun) => {
                is_away = false;
                begun.into_iter().try_for_each(|tx| print(server, tx))?;
                EVERY.max(began.elapsed().saturating_mul(SPARE))
            }
            // A coordinator that is away comes back. It is told once.
            Err(error) if error.is_retryable() => {
                if !std::mem::replace(&mut is_away, true) {
                    let error = clean(&error.at(&server.endpoint).to_string());
                    output::note(&format!(
                        "no answer, and asked again until there is one: {error}"
                    ));
                }
                EVERY
            }
            Err(error) => return Err(error.into()),
        };
        let next = Instant::now() + pause;
        match until {
            Some(until) if until <= next => {
                tokio::time::sleep_until(until).await;
                return Ok(ExitCode::SUCCESS);
            }
            _ => tokio::time::sleep_until(next).await,
        }
    }
}

/// Transactions that are known so far. All times are those of the answers: the clock here may be another one.
struct Following {
    /// Conditions, and `created_from` as the user gave it.
    request: v1::ListTransactionsRequest,
    /// Those that were listed, of the time that is looked at again.
    known: HashMap<String, Created>,
    newest: Option<Created>,
    /// Those that were created until then have begun before.
    after: Option<Created>,
}

impl Following {
    /// Begins after what is listed now, unless the request says from when on.
    async fn start(
        client: &mut Client,
        request: v1::ListTransactionsRequest,
    ) -> Result<Self, client::Error> {
        let request = v1::ListTransactionsRequest { page_size: u32::MAX, ..request };
        let mut this = Self { request, known: HashMap::new(), newest: None, after: None };
        if this.request.created_from.is_some() {
            return Ok(this);
        }
        let newest = v1::ListTransactionsRequest { page_size: 1, ..Default::default() };
        this.newest = page(client, &newest).await?.transactions.first().and_then(created);
        let mut request = this.next();
        loop {
            let page = page(client, &request).await?;
            let oldest = page.transactions.last().and_then(created);
            page.transactions.iter().for_each(|tx| this.remember(tx));
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(this);
            }
            // All that is on the following pages is older.
            if oldest.is_some() {
                this.after = oldest;
                return Ok(this);
            }
        }
    }

    /// Returns those that have begun since the last look, the oldest first.
    async fn look(&mut self, client: &mut Client) -> Result<Vec<v1::Transaction>, client::Error> {
        let mut request = self.next();
        let mut begun = Vec::new();
        loop {
            let page = page(client, &request).await?;
            let (listed, before) = (page.transactions.len(), begun.len());
            begun.extend(page.transactions.into_iter().filter(|tx| !self.knows(tx)));
            let is_known = listed > 0 && begun.len() == before;
            request.page_token = page.next_page_token;
            if is_known || request.page_token.is_empty() {
                break;
            }
        }
        begun.iter().for_each(|tx| self.remember(tx));
        if let Some(from) = self.next().created_from {
            self.known.retain(|_, created| created.0 >= from.seconds);
        }
        begun.reverse();
        Ok(begun)
    }

    /// Makes the request for the first page of a look.
    fn next(&self) -> v1::ListTransactionsRequest {
        let again = self.newest.map(|(seconds, _)| seconds - AGAIN_SECS);
        // Never before the time that was asked for.
        let created_from = match (self.request.created_from, again) {
            (Some(from), Some(again)) if from.seconds >= again => Some(from),
            (from, None) => from,
            (_, Some(seconds)) => Some(prost_types::Timestamp { seconds, nanos: 0 }),
        };
        v1::ListTransactionsRequest { created_from, ..self.request.clone() }
    }

    fn knows(&self, tx: &v1::Transaction) -> bool {
        self.known.contains_key(&tx.tx_id)
            || self.after.zip(created(tx)).is_some_and(|(after, created)| created <= after)
    }

    fn remember(&mut self, tx: &v1::Transaction) {
        let created = created(tx);
        self.newest = self.newest.max(created);
        // One without a time is never forgotten, so that it is told once.
        self.known.insert(tx.tx_id.clone(), created.unwrap_or((i64::MAX, 0)));
    }
}

fn created(tx: &v1::Transaction) -> Option<Created> {
    tx.created_at.map(|at| (at.seconds, at.nanos))
}

async fn page(
    client: &mut Client,
    request: &v1::ListTransactionsRequest,
) -> Result<v1::ListTransactionsResponse, client::Error> {
    let request = client.request(request.clone());
    Ok(client.coordinator.list_transactions(request).await?.into_inner())
}

fn print(server: &Server, tx: v1::Transaction) -> Result<(), Error> {
    if server.json {
        return output::print_json(&json::Transaction::new(tx, json::View::List));
    }
    output::print(&line(output::columns(), &tx))
}

/// Makes the line of a transaction. In a narrow terminal its gid goes on below.
fn line(columns: usize, tx: &v1::Transaction) -> String {
    let [created, gid, mode, state, attention] = list::row(tx).map(|cell| clean(&cell));
    let head = format!("{created}  {mode:<4}  {state:<10}");
    let rest = format!("{gid}  {attention}");
    let behind = head.chars().count() + 2;
    match columns.saturating_sub(behind) < GID_MIN {
        false => format!("{head}  {}\n", folded(columns, behind, &rest)),
        true => format!("{}\n{:BELOW$}{}\n", head.trim_end(), "", folded(columns, BELOW, &rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_the_terminal_and_keeps_the_whole_gid() {
        let gid: String = (0..128).map(|n| char::from(b'a' + n % 26)).collect();
        let tx = |gid: &str| v1::Transaction {
            gid: gid.to_owned(),
            mode: v1::Mode::Saga.into(),
            state: v1::TransactionState::Committing.into(),
            created_at: Some(prost_types::Timestamp { seconds: 1_790_000_000, nanos: 0 }),
            stalled: true,
            attention: true,
            ..Default::default()
        };
        for columns in [40, 59, 60, 80, 81, 200] {
            let text = line(columns, &tx(&gid));
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest <= columns), "{columns}: {text}");
            let letters: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            assert!(letters.contains(&gid) && letters.ends_with("stalled"), "{columns}: {text}");
            assert!(text.lines().skip(1).all(|line| line.starts_with("    ")), "{text}");
        }
        for columns in [80, usize::MAX] {
            let text = line(columns, &tx("order-4711"));
            assert!(text.ends_with("Z  saga  committing  order-4711  stalled\n"), "{text}");
        }
        assert_eq!(line(usize::MAX, &tx(&gid)).lines().count(), 1);
    }
}
