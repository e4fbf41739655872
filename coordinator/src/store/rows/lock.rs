//! Answers about locks.

use sqlx::FromRow;
use unanimo_core::{Gid, Incarnation, LockName};
use uuid::Uuid;

use super::super::{Error, LockTake, LockTaken};
use super::corrupt;

/// Result of a request for locks, with what stood in its way.
#[derive(Debug, FromRow)]
pub(in crate::store) struct TakenRow {
    /// The claimant may write.
    unfenced: bool,
    /// Its transaction is its own and has not ended.
    open: bool,
    name: Option<String>,
    holder: Option<Uuid>,
    older: Option<bool>,
    waits: Option<bool>,
    blocks_older: Option<bool>,
}

impl TakenRow {
    /// Nothing stood in its way.
    pub(in crate::store) const GRANTED: Self = Self {
        unfenced: true,
        open: true,
        name: None,
        holder: None,
        older: None,
        waits: None,
        blocks_older: None,
    };
    /// Its transaction can take no locks.
    pub(in crate::store) const NOT_OPEN: Self = Self { open: false, ..Self::GRANTED };

    pub(in crate::store) fn is_granted(&self) -> bool {
        self.name.is_none()
    }

    /// The transaction that stands in the way.
    pub(in crate::store) fn holder(&self) -> Option<Uuid> {
        self.holder
    }

    pub(in crate::store) fn into_taken(
        self,
        me: Incarnation,
        take: &LockTake,
        gid: Option<String>,
    ) -> Result<LockTaken, Error> {
        if !self.unfenced {
            return Err(Error::Fenced(me));
        }
        if !self.open {
            return Err(Error::NotOpen(take.tx_id));
        }
        let (Some(name), Some(older)) = (self.name, self.older) else {
            return Ok(LockTaken::Granted);
        };
        Ok(LockTaken::Held {
            lock: LockName::full(&name).map_err(|_| corrupt("locks.name", &name))?,
            // It is only told. A holder whose gid cannot be read stands in the way all the same.
            holder: Gid::full(&gid.unwrap_or_default())
                .or_else(|_| Gid::full("unreadable"))
                .expect("it is a gid"),
            older,
            waits: self.waits.unwrap_or(false),
            blocks_older: self.blocks_older.unwrap_or(false),
        })
    }
}
