//! Time of day and identifiers of transactions. Other parts of the coordinator take them as
//! arguments, and never ask the system. Leases, pauses, timeouts and measurements use the monotonic
//! clock, which their modules read themselves.

use std::fmt;
use std::time::SystemTime;

use unanimo_core::{Timestamp, TxId};
use uuid::Uuid;

/// Source of the time of day and of new identifiers.
pub trait Env: Send + Sync + fmt::Debug {
    /// Returns the time of day.
    fn now(&self) -> Timestamp;

    /// Returns the time of day in nanoseconds since 1970, for spans. By default it is as coarse as [`Self::now`].
    fn nanos(&self) -> u64 {
        self.now().0.saturating_mul(1_000_000)
    }

    /// Returns the time of day that the database has told. An environment that goes by another time has it there, too.
    fn of_database(&self, told: Timestamp) -> Timestamp {
        told
    }

    /// Makes the identifier of a transaction that begins now. It carries that time.
    fn tx_id(&self, now: Timestamp) -> TxId;
}

/// Environment of the system: its clock and its random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnv;

impl Env for SystemEnv {
    fn now(&self) -> Timestamp {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn nanos(&self) -> u64 {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn tx_id(&self, now: Timestamp) -> TxId {
        let nanos = u32::try_from(now.0 % 1000).unwrap_or(0) * 1_000_000;
        let time = uuid::Timestamp::from_unix(uuid::NoContext, now.0 / 1000, nanos);
        TxId(Uuid::new_v7(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_carries_its_time_and_is_new() {
        let now = SystemEnv.now();
        let (one, two) = (SystemEnv.tx_id(now), SystemEnv.tx_id(now));
        assert_eq!(one.created_ms(), now.0);
        assert_ne!(one, two);
        assert_eq!(TxId::parse(&one.to_string()), Ok(one));
    }
}
