//! Lock that keeps the preparation of a branch's XA transaction and its end apart.
//!
//! MariaDB lets go of a prepared transaction in two steps: its own list calls the name free, and only then
//! does InnoDB take the transaction for one that anybody may end. XA COMMIT and XA ROLLBACK that come in
//! between find the name and no transaction. The server answers that it is done, forgets the name, and has
//! ended nothing: the transaction keeps its locks, and nobody can name it any more.
//!
//! So XA PREPARE runs under a user-level lock (`GET_LOCK`), and XA COMMIT and XA ROLLBACK do, too. Such a lock
//! is the whole server's, as the names of XA transactions are. Its session keeps it through the transaction's
//! end, and loses it when it ends.

use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::xid::Xid;

/// Offset and prime of FNV-1a with 64 bits. All versions of a participant must come to the same name.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The lock of one branch. Its name says which: at most 64 characters are allowed, so cluster and participant
/// are in it as a hash.
#[derive(Debug)]
pub(super) struct BranchLock(String);

impl BranchLock {
    pub(super) fn of(xid: &Xid) -> Self {
        let names = xid.cluster_id.bytes().chain(*b"/").chain(xid.participant.bytes());
        let hash =
            names.fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
        Self(format!("unanimo:{}:{:04x}:{hash:016x}", xid.tx_id.simple(), xid.number))
    }

    /// Returns the statement that waits for it for up to some seconds. Its row is true once it is held.
    pub(super) fn take(&self, secs: &str) -> String {
        format!("SELECT GET_LOCK('{}', {secs})", self.0)
    }

    /// Returns the statement that gives it back.
    pub(super) fn give_back(&self) -> String {
        format!("DO RELEASE_LOCK('{}')", self.0)
    }

    /// Returns the question whether this session, which holds it, still bears its own number: an applier of a
    /// replica bears that of the session whose work it repeats, and names temporary tables by it.
    pub(super) fn is_session_itself(&self) -> String {
        format!("SELECT IS_USED_LOCK('{}') = @@pseudo_thread_id", self.0)
    }
}

/// Runs statements, and returns the last row's word: true or false.
pub(super) async fn asks(
    connection: &mut MySqlConnection,
    statements: String,
) -> sqlx::Result<bool> {
    let rows = sqlx::raw_sql(AssertSqlSafe(statements)).fetch_all(connection).await?;
    is_true(&rows)
}

fn is_true(rows: &[MySqlRow]) -> sqlx::Result<bool> {
    let Some(row) = rows.last() else { return Ok(false) };
    row.try_get_unchecked::<Option<i64>, _>(0).map(|word| word == Some(1))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::names::{CLUSTER_BYTES_MAX, NAME_BYTES_MAX};

    fn lock(cluster_id: &str, participant: &str, number: u16) -> BranchLock {
        let tx_id = Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057);
        let (cluster_id, participant) = (cluster_id.to_owned(), participant.to_owned());
        BranchLock::of(&Xid { cluster_id, participant, tx_id, number })
    }

    #[test]
    fn s7_all_versions_name_a_branchs_lock_the_same() {
        let expected = "unanimo:01890a5dac96774bbcceb302099a8057:0007:f6deff190dbb1fb5";
        assert_eq!(lock("c", "p", 7).0, expected);
    }

    #[test]
    fn each_branch_has_a_lock_of_its_own_and_its_name_fits() {
        let longest = lock(&"c".repeat(CLUSTER_BYTES_MAX), &"p".repeat(NAME_BYTES_MAX), u16::MAX);
        let all =
            [longest, lock("c", "p", 1), lock("c", "p", 2), lock("d", "p", 1), lock("c", "q", 1)];
        for (at, lock) in all.iter().enumerate() {
            assert!(lock.0.len() <= 64, "{}", lock.0);
            assert!(all[..at].iter().all(|other| other.0 != lock.0), "{}", lock.0);
        }
    }
}
