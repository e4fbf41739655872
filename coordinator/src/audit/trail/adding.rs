//! Entries that are added to the chain, whatever becomes of the database's answers.

use super::{End, Trail, Unwritten};
use crate::alarm::DATABASE_WENT_BACK;
use crate::audit::chain::{hash_of, hex};
use crate::audit::entry::Entry;
use crate::audit::named::changed;
use crate::store::{self, AuditEnds, AuditLink, AuditRange, AuditRow};

/// Attempts to add to the end of the chain. Somebody else is there before only if an answer of the database was lost.
const ATTEMPTS_MAX: u32 = 5;

impl Trail {
    /// Adds entries to the chain, and returns the number of the first one. `otherwise` follows on them if they turn out
    /// later to be written.
    pub(super) async fn add(
        &self,
        end: &mut End,
        entries: &[Entry],
        purged: Option<AuditLink>,
        otherwise: Option<Entry>,
    ) -> Result<u64, Unwritten> {
        let added = self.add_to(end, entries, purged, otherwise).await;
        if let Err(unwritten) = &added {
            self.tell_failed(unwritten);
        }
        // It is to be tried again, though nothing else waits.
        let is_open = end.open().next().is_some();
        self.waiting().is_open = is_open;
        if is_open {
            self.0.wake.notify_one();
        }
        added
    }

    pub(super) fn tell_failed(&self, unwritten: &Unwritten) {
        self.0.metrics.audit_failed();
        tracing::warn!(error = unwritten.to_string(), "failed to write the audit");
    }

    async fn add_to(
        &self,
        end: &mut End,
        entries: &[Entry],
        purged: Option<AuditLink>,
        otherwise: Option<Entry>,
    ) -> Result<u64, Unwritten> {
        let follows = self.whole(end).await.map_err(Unwritten::No)?;
        let rows = self.rows(&follows, entries.iter().map(Entry::encode));
        let first = follows.number + 1;
        // Until it is written nobody knows the end: this future may be dropped, and an answer be lost.
        end.push(&rows, purged.clone(), otherwise);
        match self.0.store.audit().append(self.0.me, follows, rows, purged).await {
            Ok(true) => {
                self.is_there(end);
                // Whoever waits for it knows that it is written.
                drop(end.otherwise());
                Ok(first)
            }
            Ok(false) => {
                let first = self.repair(end).await.map_err(Unwritten::Later)?;
                drop(end.otherwise());
                Ok(first)
            }
            Err(error) if is_refused(&error) => {
                end.take_back();
                // Nothing follows on what will never be written.
                drop(end.otherwise());
                Err(Unwritten::No(error))
            }
            Err(error) => Err(Unwritten::Later(error)),
        }
    }

    /// Has all in the database that is remembered, and returns its last link.
    pub(super) async fn whole(&self, end: &mut End) -> Result<AuditLink, store::Error> {
        if end.sure().is_none() {
            let first = self.repair(end).await?;
            self.waiting().is_open = false;
            if let Some(otherwise) = end.otherwise() {
                self.later(Entry { of: first, ..otherwise });
            }
        }
        end.sure().cloned().ok_or(store::Error::AuditMoves)
    }

    /// Compares the database with what is remembered, and writes again what it lacks. Returns the number of the first
    /// entry of which nobody knew whether it was there.
    async fn repair(&self, end: &mut End) -> Result<u64, store::Error> {
        let audit = self.0.store.audit();
        end.doubt();
        for _ in 0..ATTEMPTS_MAX {
            let AuditEnds { purged, last } = audit.ends().await?;
            let Some(own) = end.last().cloned() else {
                end.begin(last);
                end.is_there();
                return Ok(end.first_open());
            };
            let first = end.first_open();
            match end.behind(&last) {
                // Somebody else has purged as much, or more: it would never be added, and hold up all behind it.
                Some(rows)
                    if !rows.is_empty()
                        && end.purged().is_some_and(|own| own.number <= purged.number) =>
                {
                    end.take_back();
                    return Err(store::Error::AuditMoves);
                }
                Some(rows) => {
                    let lost = rows.len().saturating_sub(end.open().count());
                    if rows.is_empty()
                        || audit.append(self.0.me, last.clone(), rows, end.purged()).await?
                    {
                        if lost > 0 {
                            let (from, to) = (last.number + 1, last.number + lost as u64);
                            let what = format!("entries {from} to {to}");
                            self.tell_lost(&what, "they are written again as they were");
                        }
                        self.is_there(end);
                        return Ok(first);
                    }
                }
                // Somebody else has added to it.
                None if self.has(&own).await? => {
                    self.is_there(end);
                    end.begin(last);
                    end.is_there();
                    return Ok(first);
                }
                None => self.begin_elsewhere(end, last).await?,
            }
        }
        Err(store::Error::AuditMoves)
    }

    /// Goes on behind a link that this writer does not know, with what it has not written yet.
    async fn begin_elsewhere(&self, end: &mut End, last: AuditLink) -> Result<(), store::Error> {
        if let Some(known) = end.acknowledged().cloned()
            && !self.has(&known).await?
        {
            let what = format!("entries up to {}, or some of them,", known.number);
            self.tell_lost(&what, "others are in their place");
        }
        let (purges, rows) = (end.purged().is_some(), end.take_back());
        end.begin(last.clone());
        if purges {
            // What it says of the chain is not true any more.
            return Err(store::Error::AuditMoves);
        }
        let rows = self.rows(&last, rows.into_iter().map(|row| row.body));
        let otherwise = end.otherwise();
        end.push(&rows, None, otherwise);
        Ok(())
    }

    /// Tells that the database lacks what it has acknowledged.
    fn tell_lost(&self, what: &str, more: &str) {
        let what = format!("the database has lost {what} that it had acknowledged; {more}");
        tracing::error!(alarm = DATABASE_WENT_BACK, what, "entries of the audit are lost");
        self.later(changed("database", &what));
    }

    /// Tells whether an entry is in the chain as it was written.
    async fn has(&self, link: &AuditLink) -> Result<bool, store::Error> {
        if link.number == 0 {
            return Ok(true);
        }
        let range = AuditRange::After(link.number - 1);
        let rows = self.0.store.audit().page(range, 1).await?;
        Ok(rows.first().is_some_and(|row| row.link == *link))
    }

    /// Notes that the database has all that is remembered, and tells the log: whoever keeps it elsewhere can compare.
    fn is_there(&self, end: &mut End) {
        for row in end.open() {
            if let Some(entry) = Entry::decode(&row.body) {
                log(row.link.number, &entry);
            }
        }
        if let Some(AuditLink { number, hash }) = end.last() {
            let hash = hex(hash);
            tracing::info!(target: "unanimo::audit", number, hash, "the audit has a new end");
        }
        end.is_there();
    }

    fn rows(&self, follows: &AuditLink, bodies: impl Iterator<Item = Vec<u8>>) -> Vec<AuditRow> {
        let at = self.0.env.now();
        let mut before = follows.clone();
        let row = |body: Vec<u8>| {
            let number = before.number + 1;
            before = AuditLink { number, hash: hash_of(&before.hash, number, at, &body) };
            AuditRow { link: before.clone(), at, body }
        };
        bodies.map(row).collect()
    }
}

/// Tells whether the database has said that a write was not done, and would not be if it came again: with a class of
/// PostgreSQL's errors that ends a statement before it is committed. Of all others nobody knows.
fn is_refused(error: &store::Error) -> bool {
    if matches!(error, store::Error::Fenced(_)) {
        return true;
    }
    let store::Error::Database { source, .. } = error else { return false };
    let code = source.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.len() == 5 && ["22", "23", "42"].contains(&&code[..2]))
}

/// Tells the log of an entry.
fn log(number: u64, entry: &Entry) {
    let Entry { identity, operator, address, act, tx_id, gid, branch_id, outcome, count, .. } =
        entry;
    tracing::info!(
        target: "unanimo::audit",
        number, kind = entry.kind.name(), identity, operator, address, act, tx_id, gid, branch_id, outcome, count,
        "audited"
    );
}
