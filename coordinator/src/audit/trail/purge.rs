//! Entries whose retention is over.

use std::sync::atomic::Ordering;
use std::time::Duration;

use unanimo_core::Timestamp;

use super::{Trail, Unwritten};
use crate::alarm::AUDIT_TAMPERED;
use crate::audit::chain::{Verifier, hex};
use crate::audit::entry::{Entry, Kind};
use crate::audit::page::page;
use crate::store::{self, AuditEnds, AuditLink, AuditRange};

/// Entries that one purge takes.
const PURGE_MAX: u32 = 1_000;

/// Time past the retention before a purge begins: so that there is an entry about a purge a day, and not one for
/// each entry that is purged.
const PURGE_SLACK: Duration = Duration::from_secs(24 * 60 * 60);

impl Trail {
    /// Removes entries that are older than the retention, and leaves an entry about it; returns their number. What is
    /// not as it was written is kept: it is evidence.
    pub(crate) async fn purge(
        &self,
        now: Timestamp,
        retention: Duration,
    ) -> Result<u64, store::Error> {
        let older_than = |period: Duration| {
            let ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
            now.0.saturating_sub(ms)
        };
        let (cutoff, begins) =
            (older_than(retention), older_than(retention.saturating_add(PURGE_SLACK)));
        let audit = self.0.store.audit();
        // Whatever is purged by another incarnation meanwhile: entries begin behind the purge that is read with them.
        let all = AuditRange::After(0);
        let (AuditEnds { last, .. }, first) = page(audit, all, 1).await?;
        self.compare(&last);
        let Some(first) = first.first() else { return Ok(0) };
        if first.at.0 >= begins {
            self.tell_ahead(first.link.number, first.at, now);
            return Ok(0);
        }
        let (AuditEnds { purged: start, .. }, rows) = page(audit, all, PURGE_MAX).await?;
        let mut verifier = Verifier::new(start, None);
        let (mut count, mut last) = (0, verifier.last().clone());
        for row in &rows {
            if row.at.0 >= cutoff {
                self.tell_ahead(row.link.number, row.at, now);
                break;
            }
            if let Err(broken) = verifier.take(&row.link, row.at, &row.body) {
                if !self.0.is_tampered.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        alarm = AUDIT_TAMPERED,
                        %broken,
                        "the audit is not as it was written; nothing of it is purged"
                    );
                }
                return Ok(0);
            }
            (count, last) = (count + 1, row.link.clone());
        }
        self.0.is_tampered.store(false, Ordering::Relaxed);
        let (of, reason) = (last.number, hex(&last.hash));
        let entry = Entry { of, reason, count, ..Entry::new(Kind::Purged) };
        let mut end = self.0.end.lock().await;
        match self.add(&mut end, &[entry], Some(last), None).await {
            Ok(_) | Err(Unwritten::Late) => Ok(count),
            Err(Unwritten::No(error) | Unwritten::Later(error)) => Err(error),
        }
    }

    /// Has the end looked at again if the database has another one: a failover may have lost entries.
    fn compare(&self, last: &AuditLink) {
        // Whoever writes finds it out.
        let Ok(mut end) = self.0.end.try_lock() else { return };
        if end.sure().is_some_and(|own| own != last) {
            end.doubt();
            self.waiting().is_open = true;
            self.0.wake.notify_one();
        }
    }

    /// Tells once of an entry whose time is yet to come: a clock was ahead, and nothing behind it is purged before.
    fn tell_ahead(&self, number: u64, at: Timestamp, now: Timestamp) {
        let is_ahead = now.until(at) > PURGE_SLACK;
        if is_ahead && self.0.told_ahead.swap(number, Ordering::Relaxed) != number {
            tracing::warn!(
                number,
                at_ms = at.0,
                "an entry of the audit was written by a clock that was ahead: it, and what is behind it, is purged once \
                 its retention is over by its own time"
            );
        }
    }
}
