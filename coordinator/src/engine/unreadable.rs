//! Transactions that cannot be read: each harms itself alone.
//!
//! One that is met is set aside, with an alarm, and goes on. What is set aside is read again now and
//! then, a few at a time: somebody may have repaired it, or this may be a version that knows what an
//! earlier one did not. One that can be read is adopted by the next scan, and its alarm is cleared.

use std::time::Duration;

use unanimo_core::TxId;

use super::Handle;
use crate::alarm::TRANSACTION_UNREADABLE;
use crate::lines::Lines;
use crate::store::{self, Key, Stored, Unreadable};

/// Pause between two looks at what is set aside. Whoever has repaired a row waits for it.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

/// Transactions of one look. A whole table that cannot be read costs six reads a second.
const LOOK_MAX: u32 = 64;

/// Reads of one look that may fail. The next look goes on after the last of them: one row does not stop the
/// looks at those after it, and a database that fails is not asked for each.
const FAILURES_MAX: u32 = 4;

/// Alarms of single transactions in a [`TELL_WINDOW`]. What goes beyond is counted: a whole table that cannot
/// be read is one alarm, not one for each row.
const TELL_MAX: u64 = 8;

/// Time in which alarms are counted.
const TELL_WINDOW: Duration = Duration::from_secs(60);

/// Returns the bound of the alarms.
pub(super) fn alarms() -> Lines {
    Lines::new(TELL_MAX, TELL_WINDOW)
}

/// The looks at what is set aside. They end with the process.
#[derive(Debug)]
pub(crate) struct Service {
    engine: Handle,
}

impl Service {
    /// Makes the looks of this engine.
    pub(crate) fn new(engine: Handle) -> Self {
        Self { engine }
    }

    /// Looks for as long as the process lives.
    pub(crate) async fn run(self) {
        let mut after = None;
        loop {
            tokio::time::sleep(LOOK_PAUSE).await;
            after = match self.engine.read_set_aside(after).await {
                Ok(next) => next,
                Err(error) => {
                    let error = store::in_full(&error);
                    tracing::warn!(error, "failed to look at what is set aside; it is repeated");
                    None
                }
            };
        }
    }
}

impl Handle {
    /// Reads what is set aside, from after this transaction on. Returns the one after which the next look
    /// goes on; `None` if it begins anew.
    async fn read_set_aside(&self, after: Option<TxId>) -> Result<Option<TxId>, store::Error> {
        let aside = self.shared.store.transactions().all_set_aside(after, LOOK_MAX).await?;
        let mut failures = 0;
        for tx_id in &aside {
            // An earlier incarnation may have done it, or the purge, or a begin under its gid.
            let is_new = self.shared.set_aside.lock().await.insert(*tx_id);
            match self.read(&Key::Tx(*tx_id)).await {
                Ok(None) if is_new => self.tell_unreadable(&Unreadable {
                    tx_id: *tx_id,
                    gid: String::new(),
                    problem: "find any row of it: nothing but its gid is stored".to_owned(),
                }),
                Ok(_) => {}
                Err(store::Error::Unreadable(unreadable)) if is_new => {
                    self.tell_unreadable(&unreadable);
                }
                Err(error) if error.is_of_rows() => {}
                Err(error) => {
                    let error = store::in_full(&error);
                    tracing::warn!(%tx_id, error, "failed to read a transaction that is set aside");
                    failures += 1;
                    if failures >= FAILURES_MAX {
                        return Ok(Some(*tx_id));
                    }
                }
            }
        }
        let is_full = u32::try_from(aside.len()).is_ok_and(|len| len >= LOOK_MAX);
        Ok(aside.last().copied().filter(|_| is_full))
    }

    /// Sets transactions aside that cannot be read: whoever adopts goes on without them.
    pub(super) async fn set_aside(&self, unreadable: &[Unreadable]) {
        if unreadable.is_empty() {
            return;
        }
        unreadable.iter().for_each(|unreadable| self.tell_unreadable(unreadable));
        let tx_ids: Vec<TxId> = unreadable.iter().map(|unreadable| unreadable.tx_id).collect();
        let (store, me) = (&self.shared.store, self.shared.me);
        match store.transactions().set_aside(me, &tx_ids, true).await {
            Ok(()) => self.shared.set_aside.lock().await.extend(tx_ids),
            Err(error) => {
                let error = store::in_full(&error);
                tracing::warn!(error, "failed to set transactions aside; the next scan does it");
            }
        }
    }

    fn tell_unreadable(&self, Unreadable { tx_id, gid, problem }: &Unreadable) {
        let Some(rest) = self.shared.unreadable_alarms.take() else { return };
        if rest > 0 {
            tracing::error!(
                alarm = TRANSACTION_UNREADABLE,
                transactions = rest,
                "more stored transactions cannot be read; tx list --attention names them"
            );
        }
        tracing::error!(
            %tx_id,
            gid,
            problem,
            alarm = TRANSACTION_UNREADABLE,
            "a stored transaction cannot be read; it is set aside, and all others go on"
        );
    }

    /// Reads a transaction. One that cannot be read is set aside; one that can be read again is not any
    /// longer.
    pub(super) async fn read(&self, key: &Key) -> Result<Option<Stored>, store::Error> {
        let found = self.shared.store.transactions().find(key).await;
        let found = match (found, key) {
            // Damaged rows, on which the database itself gives up.
            (Err(error), Key::Tx(tx_id)) if error.is_of_rows() => Err(unreadable_of(*tx_id, error)),
            (found, _) => found,
        };
        match &found {
            Err(store::Error::Unreadable(unreadable)) => {
                let known = self.shared.set_aside.lock().await.contains(&unreadable.tx_id);
                if !known {
                    self.set_aside(std::slice::from_ref(&**unreadable)).await;
                }
            }
            Ok(Some(stored)) => {
                let tx_id = stored.record.identity.tx_id;
                let was_set_aside = self.shared.set_aside.lock().await.contains(&tx_id);
                if was_set_aside {
                    tracing::info!(%tx_id, "the transaction can be read again");
                    let transactions = self.shared.store.transactions();
                    transactions.set_aside(self.shared.me, &[tx_id], false).await?;
                    self.shared.set_aside.lock().await.remove(&tx_id);
                }
            }
            Ok(None) | Err(_) => {}
        }
        found
    }
}

fn unreadable_of(tx_id: TxId, error: store::Error) -> store::Error {
    match error {
        store::Error::Unreadable(_) => error,
        error => {
            let (gid, problem) = (String::new(), store::in_full(&error));
            store::Error::Unreadable(Box::new(Unreadable { tx_id, gid, problem }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_table_that_cannot_be_read_is_few_alarms() {
        let alarms = alarms();
        let told = (0..50_000).filter(|_| alarms.take().is_some()).count();
        assert_eq!(told, TELL_MAX as usize);
    }
}
