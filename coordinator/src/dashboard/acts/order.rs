//! Work of an act: the calls for one transaction, and the way through many of them.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::super::Looking;
use super::super::data::{Found, List, Tx};
use super::super::filter::Filter;
use super::runs::{Ended, Run, detail};
use super::words;
use crate::api::http::{Act, encoded};

/// Time between two transactions of many: at most a hundred a second.
const PACE: Duration = Duration::from_millis(10);

/// Transactions of a page that is read on the way.
const PAGE: u32 = 100;

/// Attempts for a transaction whose call comes back because too much is in flight.
const ATTEMPTS_MAX: u32 = 20;

/// Act with everything that its calls need.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) act: Act,
    pub(super) looking: Looking,
    pub(super) operator: String,
    pub(super) note: String,
    /// Branch of one transaction; for a retry empty for all.
    pub(super) branch: String,
    pub(super) resolution: String,
    /// Output of the branch in JSON; empty without one.
    pub(super) output: String,
    pub(super) released: bool,
}

/// Transactions that the page before an act on many has counted.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) filter: Filter,
    /// Time of the page.
    pub(super) made: Timestamp,
    /// All of them by `tx_id`, if they were few.
    pub(super) only: Option<HashSet<String>>,
}

impl Counted {
    /// Tells whether a transaction was counted, or was at least there for this act.
    pub(super) fn has(&self, act: Act, tx: &Tx) -> bool {
        let since = if act == Act::Forget { &tx.ended_at } else { &tx.created_at };
        match &self.only {
            Some(only) => only.contains(&tx.tx_id),
            None => since.parse::<Timestamp>().is_ok_and(|since| since <= self.made),
        }
    }
}

/// Tells whether an act on many is for a transaction of a list. The end of a branch may be the decision of its transaction:
/// so many are not resolved before they are decided.
pub(super) fn is_for(act: Act, tx: &Tx) -> bool {
    let is_open = tx.ended_at.is_empty() && tx.unreadable.is_empty();
    match act {
        Act::Retry => is_open,
        Act::Resolve => is_open && !tx.decided_at.is_empty(),
        Act::Forget => tx.may_be_forgotten(),
    }
}

impl Order {
    /// Acts on one transaction.
    pub(super) async fn one(self, run: &Run, tx_id: &str, name: &str) {
        let came = match self.act {
            Act::Resolve => self.resolve(tx_id, &self.branch).await.map(|tx| self.said(&tx)),
            _ => self.call(tx_id).await.map(|tx| self.said(&tx)),
        };
        run.note(tx_id, name, came);
        run.end(Ended::Whole);
    }

    /// Acts on the transactions that were counted, one after the other, and on so many at most.
    pub(super) async fn many(self, run: &Run, counted: Counted) {
        let ended = self.through(run, counted).await.unwrap_or_else(|problem| {
            tracing::warn!(act = ?self.act, why = detail(&problem), "an act on many transactions ends early");
            Ended::Failed(detail(&problem))
        });
        run.end(ended);
    }

    /// Returns how it ended; the error is why it cannot go on.
    async fn through(&self, run: &Run, mut counted: Counted) -> Result<Ended, Value> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acted = 0;
        loop {
            let address = format!("/v1/transactions?{}&pageSize={PAGE}", counted.filter.question());
            let page: List = self.looking.get(&address).await?;
            if run.is_stopped() {
                return Ok(Ended::Stopped);
            }
            for tx in &page.transactions {
                if !is_for(self.act, tx) || !counted.has(self.act, tx) {
                    continue;
                }
                if acted == run.total {
                    return Ok(Ended::Whole);
                }
                pace.tick().await;
                if run.is_stopped() {
                    return Ok(Ended::Stopped);
                }
                acted += 1;
                let came = self.patiently(run, tx, &counted.filter.participant).await;
                if let Err(problem) = &came
                    && is_of_all(problem)
                {
                    return Err(problem.clone());
                }
                run.note(&tx.tx_id, tx.name(), came);
            }
            if page.next_page_token.is_empty() || acted == run.total {
                return Ok(Ended::Whole);
            }
            counted.filter = counted.filter.after(&page.next_page_token);
        }
    }

    /// Acts on one of many, again where too much is in flight.
    async fn patiently(&self, run: &Run, tx: &Tx, participant: &str) -> Result<String, Value> {
        let mut attempt = 1;
        loop {
            let came = match self.act {
                Act::Resolve => self.resolve_all(&tx.tx_id, participant).await,
                _ => self.call(&tx.tx_id).await.map(|_| String::new()),
            };
            match came {
                Err(problem) if problem["status"] == 429 && attempt < ATTEMPTS_MAX => {
                    let after = problem["retryAfterMs"].as_u64().unwrap_or(100).clamp(10, 1_000);
                    sleep(Duration::from_millis(after)).await;
                    if run.is_stopped() {
                        return Err(problem);
                    }
                    attempt += 1;
                }
                came => return came,
            }
        }
    }

    /// Resolves every branch of a participant that was called and has not ended; one that is refused does not keep the
    /// others from it.
    async fn resolve_all(&self, tx_id: &str, participant: &str) -> Result<String, Value> {
        let found: Found = self.looking.get(&format!("/v1/tx/{}", encoded(tx_id))).await?;
        let branches = found.transaction.branches.iter();
        let owed = branches.filter(|of| of.participant == participant && of.may_be_resolved());
        let owed: Vec<_> = owed.map(|of| of.branch_id.clone()).collect();
        if owed.is_empty() {
            return Err(json!({ "detail": format!("no call to {participant} is owed") }));
        }
        let (count, mut refusals) = (owed.len(), Vec::new());
        for branch in owed {
            match self.resolve(tx_id, &branch).await {
                Ok(_) => {}
                Err(problem) if problem["status"] == 429 || is_of_all(&problem) => {
                    return Err(problem);
                }
                Err(problem) => refusals.push((branch, problem)),
            }
        }
        refused_of(count, &refusals)
    }

    async fn resolve(&self, tx_id: &str, branch: &str) -> Result<Tx, Value> {
        let mut body = json!({
            "resolution": self.resolution, "operator": self.operator, "note": self.note,
        });
        if !self.output.is_empty() {
            let data = BASE64_STANDARD.encode(&self.output);
            body["output"] = json!({ "data": data, "mediaType": "application/json" });
            body["requires"] = json!(["resolve_output"]);
        }
        let address = format!("/v1/tx/{}/branches/{}:resolve", encoded(tx_id), encoded(branch));
        self.looking.post(&address, &body).await.map(|found: Found| found.transaction)
    }

    async fn call(&self, tx_id: &str) -> Result<Tx, Value> {
        let (name, body) = match self.act {
            Act::Forget => {
                let released = self.released;
                (
                    "forget",
                    json!({"operator": self.operator, "note": self.note, "released": released}),
                )
            }
            _ => (
                "retry",
                json!({"operator": self.operator, "note": self.note, "branchId": self.branch}),
            ),
        };
        let address = format!("/v1/tx/{}:{name}", encoded(tx_id));
        self.looking.post(&address, &body).await.map(|found: Found| found.transaction)
    }

    /// Returns what was done, in words.
    fn said(&self, tx: &Tx) -> String {
        match self.act {
            Act::Retry if !tx.ended_at.is_empty() => {
                "Nothing was sent: the transaction has ended.".to_owned()
            }
            Act::Retry => "The calls that waited are sent now.".to_owned(),
            Act::Resolve => {
                let branch = &self.branch;
                let never = words::never_done(tx, branch).map(|never| format!(" {never}"));
                let never = never.unwrap_or_default();
                format!(
                    "Branch {branch} has ended by your word. Its participant is told nothing more of it, and may still \
                     hold what it had prepared or reserved: look there.{never}"
                )
            }
            Act::Forget => {
                "The alarm is cleared. Your name and reason stay in the history.".to_owned()
            }
        }
    }
}

/// Returns what came of so many branches of one transaction. Where a part of them was resolved, it is no plain refusal.
pub(super) fn refused_of(count: usize, refusals: &[(String, Value)]) -> Result<String, Value> {
    let Some((branch, problem)) = refusals.first() else { return Ok(String::new()) };
    let (done, why) = (count - refusals.len(), detail(problem));
    let said = format!("{done} of {count} branches were resolved, but not {branch}: {why}");
    let status = if done == 0 { problem["status"].clone() } else { Value::Null };
    Err(json!({ "status": status, "detail": said }))
}

/// Tells whether a problem is one for every transaction: the caller is not known any more or may not, or the coordinator
/// stops, or its database is away.
pub(super) fn is_of_all(problem: &Value) -> bool {
    !matches!(problem["status"].as_u64(), Some(400 | 404 | 409 | 429) | None)
        || (problem["status"].is_null() && problem["detail"].is_null())
}
