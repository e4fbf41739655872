//! The audit: an operator's act is entered before it is carried out, and its outcome before it is answered; a call that
//! is denied is entered behind its answer.

use prost::Message;
use prost_types::Timestamp;
use tokio::time::Instant;
use tonic::{Request, Status};
use tonic_types::StatusExt;
use unanimo_core::{Namespace, TxId};
use unanimo_proto::v1;

use super::access::Access;
use super::error::{code_name, from_engine, from_store, not_audited, too_many_acts};
use super::namespace::is_inside;
use super::{Api, page, parse};
use crate::audit::{self, ACTS_MAX, Entry, Kind, Link, Unwritten};
use crate::engine;
use crate::store::{self, AuditRange, AuditRow, Key};
use crate::wire::time_to_wire;

/// Pages of the whole audit that are looked through for a page of a namespace's.
const AUDIT_PAGES_MAX: usize = 10;

/// Act of an operator.
#[derive(Debug, Default)]
pub(super) struct Act {
    pub(super) tx_id: String,
    pub(super) gid: String,
    pub(super) branch_id: String,
    /// Name that the caller gave.
    pub(super) operator: String,
    pub(super) note: String,
}

impl Act {
    /// Makes the act of an operator of this name on a transaction.
    pub(super) fn on(tx_id: TxId, operator: &str, note: &str) -> Self {
        Self {
            tx_id: tx_id.to_string(),
            operator: operator.to_owned(),
            note: note.to_owned(),
            ..Self::default()
        }
    }
}

/// Answer to an act.
pub(super) trait Answered {
    /// Returns the transaction's `tx_id` and gid, where it tells them, and the outcome in a word.
    fn told(&self) -> (&str, &str, &str);
}

macro_rules! answered {
    ($($response:ident),*) => {
        $(impl Answered for v1::$response {
            fn told(&self) -> (&str, &str, &str) {
                let tx = self.transaction.as_ref();
                tx.map_or(("", "", ""), |tx| (&tx.tx_id, &tx.gid, ""))
            }
        })*
    };
}

answered!(RetryTransactionResponse, ResolveBranchResponse, ForgetTransactionResponse);

impl Answered for v1::RollbackTransactionResponse {
    fn told(&self) -> (&str, &str, &str) {
        let result = self.result.as_ref();
        result.map_or(("", "", ""), |result| {
            let outcome = match result.outcome() {
                v1::Outcome::Committed => "committed",
                v1::Outcome::Aborted => "aborted",
                _ => "not decided",
            };
            (&result.tx_id, "", outcome)
        })
    }
}

impl Api {
    /// Carries an act out between its two entries, in a task that goes on when the caller goes away. It does not begin
    /// once this time is over: whoever has given it up may do something else meanwhile.
    ///
    /// # Errors
    /// The act's own; or too many are under way, or it cannot be entered in time, and was not carried out; or
    /// its outcome cannot be entered.
    pub(super) async fn audited<T: Answered + Send + 'static>(
        &self,
        access: &Access,
        act: Act,
        by: Instant,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        let (trail, asked) = (self.audit.clone(), access.entry(Kind::Asked, act));
        let place = trail.place().ok_or_else(|| too_many_acts(ACTS_MAX))?;
        let acting = tokio::spawn(async move {
            let _place = place;
            let late = Err(not_audited(Unwritten::Late));
            let not_done = Entry { kind: Kind::Answered, ..outcome::<T>(asked.clone(), &late) };
            let of = trail.ask(asked.clone(), not_done, by).await.map_err(not_audited)?;
            let answer = if Instant::now() < by {
                crash_point!("audit-before-act");
                let answer = work.await;
                crash_point!("audit-after-act");
                answer
            } else {
                late
            };
            let answered = Entry { kind: Kind::Answered, of, ..outcome(asked, &answer) };
            trail.answer(answered).await.map_err(from_store)?;
            answer
        });
        acting.await.unwrap_or_else(|_| Err(from_engine(engine::Error::Stopped)))
    }

    /// Counts a denied call for the log and for the audit.
    pub(super) fn note_denied(&self, access: &Access, why: &'static str, about: Option<&Key>) {
        self.known.denials.note(access.name(), access.rpc_name(), why);
        let (tx_id, gid) = about.map(named).unwrap_or_default();
        let note = why.to_owned();
        self.audit.denied(access.entry(Kind::Denied, Act { tx_id, gid, note, ..Act::default() }));
    }

    /// Counts a call for what is in another namespace. Its entry has the name of the identity alone, so that it is none of
    /// the caller's namespace: by an entry those who list it there would learn that something was there.
    pub(super) fn note_stranger(&self, access: &Access, key: &Key) {
        let why = "of another namespace";
        self.known.denials.note(access.name(), access.rpc_name(), why);
        let (tx_id, gid) = named(key);
        let act = Act { tx_id, gid, note: why.to_owned(), ..Act::default() };
        let entry = access.entry(Kind::Denied, act);
        self.audit.denied(Entry { identity: access.name().to_owned(), ..entry });
    }

    /// Lists the audit.
    pub(super) async fn audit_page(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<v1::ListAuditResponse, Status> {
        let access = Access::of(&request);
        let v1::ListAuditRequest { page_size, page_token, newest_first, .. } = request.into_inner();
        let from = u64::try_from(parse::version_token(&page_token)?.0).unwrap_or(0);
        let range = match (newest_first, from) {
            (false, from) => AuditRange::After(from),
            (true, 0) => AuditRange::Before(u64::MAX),
            (true, from) => AuditRange::Before(from),
        };
        let limit = page::size(page_size);
        if let Some(namespace) = access.namespace() {
            return self.audit_inside(namespace, range, limit as usize).await.map_err(from_store);
        }
        let read = audit::page(self.store.audit(), range, limit.saturating_add(1)).await;
        let (ends, rows) = read.map_err(from_store)?;
        let more = rows.len() > limit as usize;
        let shown = rows.into_iter().take(limit as usize).map(entry);
        let (entries, whole) = page::fitting(shown, page::PAGE_BYTES_MAX);
        let last = entries.last().filter(|_| more || !whole);
        let number = last.and_then(|entry| entry.link.as_ref()).map(|link| link.number);
        Ok(v1::ListAuditResponse {
            next_page_token: number.map(|number| number.to_string()).unwrap_or_default(),
            entries,
            purged: Some(link(ends.purged)),
            last: Some(link(ends.last)),
        })
    }
}

impl Api {
    /// Lists what callers of a namespace have done. The ends of the chain are of all, and not told: it cannot be verified
    /// without the entries between.
    async fn audit_inside(
        &self,
        namespace: &Namespace,
        mut range: AuditRange,
        limit: usize,
    ) -> Result<v1::ListAuditResponse, store::Error> {
        let (mut entries, mut bytes): (Vec<v1::AuditEntry>, usize) = (Vec::new(), 0);
        for _ in 0..AUDIT_PAGES_MAX {
            let rows = self.store.audit().page(range, page::PAGE_MAX).await?;
            let is_last = rows.len() < page::PAGE_MAX as usize;
            for row in rows {
                let number = row.link.number;
                let entry = entry(row);
                if is_inside(namespace, &entry.identity) {
                    bytes += entry.encoded_len();
                    let is_full = entries.len() == limit || bytes > page::PAGE_BYTES_MAX;
                    if is_full && !entries.is_empty() {
                        return Ok(v1::ListAuditResponse {
                            next_page_token: number_of(range),
                            entries,
                            ..Default::default()
                        });
                    }
                    entries.push(entry);
                }
                range = match range {
                    AuditRange::After(_) => AuditRange::After(number),
                    AuditRange::Before(_) => AuditRange::Before(number),
                };
            }
            if is_last {
                return Ok(v1::ListAuditResponse { entries, ..Default::default() });
            }
        }
        Ok(v1::ListAuditResponse {
            next_page_token: number_of(range),
            entries,
            ..Default::default()
        })
    }
}

/// Returns the number from which a list goes on.
fn number_of(range: AuditRange) -> String {
    let (AuditRange::After(number) | AuditRange::Before(number)) = range;
    number.to_string()
}

impl Access {
    /// Makes an entry about this call.
    fn entry(&self, kind: Kind, act: Act) -> Entry {
        let Act { tx_id, gid, branch_id, operator, note } = act;
        Entry {
            identity: self.initiator(),
            roles: self.roles(),
            operator,
            address: self.address(),
            act: self.rpc_name().to_owned(),
            tx_id,
            gid,
            branch_id,
            reason: note,
            ..Entry::new(kind)
        }
    }
}

fn named(key: &Key) -> (String, String) {
    match key {
        Key::Tx(tx_id) => (tx_id.to_string(), String::new()),
        Key::Gid(gid) => (String::new(), gid.to_string()),
    }
}

/// Adds the outcome to the entry of an act.
fn outcome<T: Answered>(asked: Entry, answer: &Result<T, Status>) -> Entry {
    match answer {
        Ok(answer) => {
            let (tx_id, gid, outcome) = answer.told();
            let or = |told: &str, asked: String| match told {
                "" => asked,
                told => told.to_owned(),
            };
            let outcome = match outcome {
                "" => "OK".to_owned(),
                outcome => format!("OK ({outcome})"),
            };
            Entry { tx_id: or(tx_id, asked.tx_id), gid: or(gid, asked.gid), outcome, ..asked }
        }
        Err(status) => {
            let details = status.get_error_details();
            let reason = details.error_info().map(|info| format!(" ({})", info.reason));
            let outcome = format!("{}{}", code_name(status.code()), reason.unwrap_or_default());
            Entry { outcome, ..asked }
        }
    }
}

fn link(link: Link) -> v1::AuditLink {
    v1::AuditLink { number: link.number, hash: link.hash.into() }
}

/// Makes an entry for the wire; one that cannot be read has its place alone.
fn entry(row: AuditRow) -> v1::AuditEntry {
    let occurred_at: Option<Timestamp> = Some(time_to_wire(row.at));
    let place = v1::AuditEntry { link: Some(link(row.link)), occurred_at, ..Default::default() };
    let Some(entry) = Entry::decode(&row.body) else { return place };
    let kind = match entry.kind {
        Kind::Asked => v1::AuditKind::Asked,
        Kind::Answered => v1::AuditKind::Answered,
        Kind::Denied => v1::AuditKind::Denied,
        Kind::Changed => v1::AuditKind::Changed,
        Kind::Purged => v1::AuditKind::Purged,
    };
    let roles = entry.roles.split(',').filter(|role| !role.is_empty());
    v1::AuditEntry {
        kind: kind.into(),
        roles: roles.map(str::to_owned).collect(),
        identity: entry.identity,
        operator: entry.operator,
        address: entry.address,
        act: entry.act,
        tx_id: entry.tx_id,
        gid: entry.gid,
        branch_id: entry.branch_id,
        reason: entry.reason,
        outcome: entry.outcome,
        of: entry.of,
        count: entry.count,
        ..place
    }
}
