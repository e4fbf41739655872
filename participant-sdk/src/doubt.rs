//! Questions to a participant's database about branches in doubt and rows to purge.

mod columns;
mod questions;

use std::time::{Duration, SystemTime};

use uuid::Uuid;

#[cfg(feature = "mysql")]
pub(crate) use self::columns::TxIdColumn;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::columns::age;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::columns::is_ahead;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use self::columns::{DoubtRow, OpenRow, Row};
pub(crate) use self::columns::{NamedRow, committed, count, doubt, limit, millis, named, open};
pub(crate) use self::questions::position;
#[cfg(feature = "sqlite")]
pub(crate) use self::questions::purge_undone;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use self::questions::{Question, answer_questions};
use crate::payload::Payload;
use crate::resource::{Fault, sealed};

/// A branch that is prepared here, and whose decision is not known here.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The coordinator group that it belongs to.
    pub cluster_id: String,
    pub tx_id: Uuid,
    pub branch: BranchName,
    /// Since it was prepared, by the database's clock. Of a step: since the coordinator was last known
    /// to know of it.
    pub age: Duration,
    /// It is a step of a saga: done, and to be compensated or not.
    pub is_step: bool,
    /// It was prepared at a time that is still to come by the database's clock, which was set back since: nobody knows
    /// its age.
    pub is_ahead: bool,
}

impl Doubt {
    /// Returns for how long it has been in doubt at most: for ever, if nobody knows its age.
    pub(crate) fn known_age(&self) -> Duration {
        if self.is_ahead { Duration::MAX } else { self.age }
    }
}

/// All that is known of a branch's name.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BranchName {
    /// Of a prepared transaction, in whose name it is: the branch's row is not visible yet.
    Number(u16),
    /// Of a row.
    Id(String),
}

/// Key of a branch's row.
pub(crate) type RowKey = (Uuid, String);

/// A row that says that its branch is committed.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub cluster_id: String,
    pub key: RowKey,
    /// As the database orders them, whatever its unit.
    pub prepare_until: i64,
}

/// Change of rows that the coordinator was asked about.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// Rows in state `committed` are deleted.
    Purge,
    /// Rows in state `committed` without `prepare_until` get one, the present: their transaction has
    /// ended, and the coordinator sends nothing for them any more.
    Bound,
    /// Steps in state `prepared` become `committed`: their saga is.
    CommitSteps,
    /// Steps in state `prepared` are known to the coordinator: they are asked about later and later.
    KeepSteps,
    /// Steps in state `prepared` are asked about in each sweep, whatever is told of them: they are as old as the longest
    /// pause, if they were older. So they are asked about in the next sweep, too, and a neighbour sees that somebody
    /// [looks after them](Sweepable::names).
    MarkSteps,
}

/// A branch that is prepared, without its output.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    pub key: RowKey,
    pub action: String,
    pub mode: String,
}

/// Branches that are prepared under a participant's name, of one coordinator group.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub participant: String,
    pub cluster_id: String,
    pub count: u64,
    /// Age of the oldest one, by the database's clock.
    pub oldest: Duration,
}

/// A number of branches in doubt, the age of the oldest, and a number of steps that are done.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub count: u64,
    pub oldest: Duration,
    pub steps: u64,
}

/// Rows of one coordinator group.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRows {
    pub cluster_id: String,
    pub rows: u64,
    /// Those of them that are prepared.
    pub prepared: u64,
}

/// History of a database server: what it has committed, and in which order.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct History {
    /// Id of the servers that stem from one beginning.
    pub system: i64,
    /// Number of this history among theirs. A promoted standby, and a restored backup, begin a new one.
    pub timeline: i64,
}

/// History of the server that the database is on, and the one that was noted for a participant.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histories {
    pub present: History,
    pub noted: Option<History>,
    /// It was noted a moment ago.
    pub is_fresh: bool,
    /// Time at which it was noted.
    pub noted_at: Option<SystemTime>,
    /// Bytes that the server had written to its log, durably.
    pub written: i64,
    /// Time of the last commit that the server had received when its history began, by the clock of the one
    /// before; `None` if it does not know that any more.
    pub replayed_until: Option<SystemTime>,
}

/// Longest time for which a step whose saga runs is not asked about. The statements of
/// [`Sweepable::prepared_rows`] have it, too.
pub(crate) const STEP_PAUSE_MAX: Duration = Duration::from_secs(60 * 60);

/// Rows that are looked through for those of other groups. It is done once at a start, and does not have
/// to find them all.
pub(crate) const GROUP_ROWS_MAX: u32 = 100_000;

/// Questions of the sweeper to a participant's database. All ages are by the database's own clock.
/// Only rows and prepared transactions of the participant that is named are looked at.
#[doc(hidden)]
pub trait Sweepable: sealed::Sealed + Send + Sync + 'static {
    /// Every prepared transaction, oldest first: the server limits how many there can be. A database
    /// that prepares none has none.
    fn prepared_transactions(
        &self,
        participant: &str,
    ) -> impl Future<Output = Result<Vec<Doubt>, Fault>> + Send {
        let _ = participant;
        std::future::ready(Ok(Vec::new()))
    }

    /// Counts rows by coordinator group, of the first [`GROUP_ROWS_MAX`].
    fn group_rows(
        &self,
        participant: &str,
    ) -> impl Future<Output = Result<Vec<GroupRows>, Fault>> + Send;

    /// Counts the rows in state `prepared`, steps of sagas by themselves.
    fn count_prepared(
        &self,
        participant: &str,
    ) -> impl Future<Output = Result<Count, Fault>> + Send;

    /// At most `limit` rows in state `prepared` for longer than `grace`, ordered by key, after that
    /// key; and those whose age nobody knows, because it is negative. Of the steps of sagas only those that are due: after [`RowChange::KeepSteps`] each waits for
    /// half of what it has lived, at most an hour.
    fn prepared_rows(
        &self,
        participant: &str,
        grace: Duration,
        after: Option<&RowKey>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Doubt>, Fault>> + Send;

    /// Counts rows in state `prepared` whose `tx_id` is none, which only a hand can have written: no other question finds
    /// them. Where the column has a type of its own there are none.
    fn unreadable_rows(
        &self,
        participant: &str,
    ) -> impl Future<Output = Result<u64, Fault>> + Send {
        let _ = participant;
        std::future::ready(Ok(0))
    }

    /// Every name that something has been prepared under for so long in this database, rows and prepared transactions. Of
    /// the steps of sagas only those that nobody has changed for three hours: who looks after them asks once an
    /// hour at least, and [keeps](RowChange::KeepSteps) or [marks](RowChange::MarkSteps) them.
    fn names(&self, too_old: Duration) -> impl Future<Output = Result<Vec<Named>, Fault>> + Send;

    /// Age of the oldest prepared transaction of the whole server, whoever has made it: while it lasts, no
    /// row that died since is removed by VACUUM, and no logical replication slot can be made. `None` if
    /// there is none, or the database knows no such thing.
    fn oldest_prepared(&self) -> impl Future<Output = Result<Option<Duration>, Fault>> + Send {
        std::future::ready(Ok(None))
    }

    /// The histories of the server. `None` where the database knows no such thing.
    fn histories(
        &self,
        participant: &str,
    ) -> impl Future<Output = Result<Option<Histories>, Fault>> + Send {
        let _ = participant;
        std::future::ready(Ok(None))
    }

    /// Notes that this history is known to the participant, and that the present time belongs to it.
    fn note_history(
        &self,
        participant: &str,
        history: History,
    ) -> impl Future<Output = Result<(), Fault>> + Send {
        let _ = (participant, history);
        std::future::ready(Ok(()))
    }

    /// Those of these branches that have a row, in any state. It is asked where there are histories.
    fn rows_here(
        &self,
        participant: &str,
        keys: &[RowKey],
    ) -> impl Future<Output = Result<Vec<RowKey>, Fault>> + Send {
        let _ = participant;
        std::future::ready(Ok(keys.to_vec()))
    }

    /// At most `limit` rows in state `prepared`, ordered by key, after that key.
    fn open_rows(
        &self,
        participant: &str,
        after: Option<&RowKey>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Open>, Fault>> + Send;

    /// The output of such a row; `None` if it is not there any more.
    fn open_output(
        &self,
        participant: &str,
        key: &RowKey,
    ) -> impl Future<Output = Result<Option<Payload>, Fault>> + Send;

    /// Returns the time of day by the database's clock, in milliseconds since 1970.
    fn clock_ms(&self) -> impl Future<Output = Result<i64, Fault>> + Send;

    /// Deletes at most `limit` rows whose branch left nothing behind (states `read_only`, `refused`
    /// and `cancelled`) and whose `prepare_until` is before `until_ms`, in milliseconds since 1970; tells how
    /// many. The database's clock does not count.
    fn purge_undone(
        &self,
        participant: &str,
        until_ms: i64,
        limit: usize,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;

    /// At most `limit` rows in state `committed` whose `prepare_until` was `retention` ago, ordered
    /// by `prepare_until` and key, after that one.
    fn committed_rows(
        &self,
        participant: &str,
        retention: Duration,
        after: Option<&Committed>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Committed>, Fault>> + Send;

    /// At most `limit` rows in state `committed` without `prepare_until` that have been so for
    /// `retention`, ordered by key, after that key.
    fn unbounded_rows(
        &self,
        participant: &str,
        retention: Duration,
        after: Option<&RowKey>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Committed>, Fault>> + Send;

    /// Changes those of these rows that are in the change's state; tells how many.
    fn change_rows(
        &self,
        participant: &str,
        keys: &[RowKey],
        change: RowChange,
    ) -> impl Future<Output = Result<u64, Fault>> + Send;
}
