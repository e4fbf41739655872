//! Statements for the server.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{MySqlOptions, sweep};
use crate::handler::Branch;

/// A plain insert: of `ON DUPLICATE KEY UPDATE` one cannot tell whether it inserted.
const INSERT: &str = "
INSERT INTO {table}
    (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, output, reason, message,
     prepare_until_ms, created_at, changed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', ?, ?, ?, SYSDATE(6), SYSDATE(6))";

/// A locking read: a snapshot would hide the row that the insert met. It shares the lock that the
/// failed insert left behind. `FOR UPDATE` would have two of these wait for each other.
const FIND: &str = "
SELECT state, output, output_type, reason, message FROM {table}
WHERE tx_id = ? AND branch_id = ? LOCK IN SHARE MODE";

/// Of the row as it is committed.
const READ: &str = "
SELECT state, output, output_type, reason, message FROM {table} WHERE tx_id = ? AND branch_id = ?";

const LOCK: &str = "
SELECT state, output, output_type, reason, message FROM {table}
WHERE tx_id = ? AND branch_id = ? FOR UPDATE";

const MARK: &str = "
UPDATE {table}
SET state = ?, output = ?, output_type = ?, reason = ?, message = ?, changed_at = SYSDATE(6)
WHERE tx_id = ? AND branch_id = ?";

/// Sets what a session relies on: a new one, and one behind a handler, before the row is updated.
///
/// `autocommit` is off because a deadlock ends the whole transaction: a handler that swallows the
/// error and goes on would otherwise commit statement by statement. And it only reads, as our own
/// transactions say that they write: what comes after a transaction that is lost fails. The two servers
/// name some limits differently, in comments that only one of them reads.
const SETTINGS: &str = "
USE {database};
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY;
SET autocommit = 0, time_zone = '+00:00', timestamp = DEFAULT, foreign_key_checks = 1,
    unique_checks = 1, character_set_client = utf8mb4, sql_select_limit = DEFAULT,
    sql_mode = CONCAT(@@GLOBAL.sql_mode,
        ',STRICT_ALL_TABLES,PIPES_AS_CONCAT,NO_ENGINE_SUBSTITUTION'),
    innodb_lock_wait_timeout = {lock_secs}, lock_wait_timeout = {lock_secs},
    wait_timeout = {idle_secs}
    /*M! , max_statement_time = {statement_secs}, idle_transaction_timeout = {idle_secs} */
    /*!80000 , max_execution_time = {statement_ms} */";

/// Ends what a use of a session has left open or locked, also by `GET_LOCK`, and asks whether the session is else
/// as it was. If it is not it is closed: nothing undoes a temporary table, or a variable that a handler has made.
const CLEAN: &str = "
ROLLBACK;
UNLOCK TABLES;
DO RELEASE_ALL_LOCKS();
USE {database};
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY;
SET autocommit = 0, wait_timeout = {idle_secs};
{own};
SELECT {counted} = @unanimo_own
    /*M! AND NOT EXISTS
        (SELECT 1 FROM information_schema.user_variables WHERE variable_name <> 'unanimo_own') */";

/// Notes the number of changes of a session that are counted, as that of its owner's own.
const BASELINE: &str = "DO @unanimo_own := {counted}";

/// Statements of this session that may have left something on it: settings, roles, temporary tables and sequences,
/// handlers of tables, prepared statements. The server counts them, in procedures and triggers, too.
const COUNTED: &str = "(SELECT CAST(SUM(variable_value) AS SIGNED)
    FROM /*M! information_schema */ /*!80000 performance_schema */ .session_status
    WHERE variable_name IN ('Com_set_option', 'Com_set_role', 'Com_create_table',
        'Com_create_temporary_table', 'Com_create_sequence', 'Com_ha_open', 'Com_prepare_sql'))";

/// Reads back what matters most of that: a proxy may have kept it from the server.
const READ_BACK: &str = "
SELECT CONCAT_WS(' ', @@autocommit = 0, @@time_zone, @@foreign_key_checks = 1,
    @@innodb_lock_wait_timeout,
    /*M! @@tx_isolation, @@tx_read_only = 1 */
    /*!80000 @@transaction_isolation, @@transaction_read_only = 1 */,
    @@sql_mode LIKE '%STRICT_ALL_TABLES%', DATABASE())";

/// Writes a row of nobody, which nobody else sees, and takes it back: its commit is behind everything that was read
/// before. Its key sorts behind those of all branches: in front of one it could fall into a gap that others have locked
/// who have found that one, and wait for one another.
const NOTHING: &str = "
INSERT INTO {table}
    (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, output, reason, message,
     created_at, changed_at)
VALUES ('{tx_id}', '-', '-', '-', '-', '-', '2pc', 'refused', '', '', '', SYSDATE(6), SYSDATE(6));
DELETE FROM {table} WHERE tx_id = '{tx_id}' AND branch_id = '-'";

const STATE: &str = "SELECT state FROM {table} WHERE tx_id = ? AND branch_id = ?";

/// Everybody sees it if the handler commits by itself.
const CLAIM: &str =
    "UPDATE {table} SET state = 'running' WHERE tx_id = '{tx_id}' AND branch_id = {branch_id}";

/// The statements for one database. They name it, because a handler may have turned to another one,
/// and what is prepared then stays with that for as long as the connection lives.
#[derive(Clone, Debug)]
pub(super) struct Statements {
    pub(super) clean: Arc<str>,
    pub(super) baseline: Arc<str>,
    pub(super) settings: Arc<str>,
    pub(super) read_back: Arc<str>,
    /// Text that is read back from a session that keeps its settings.
    pub(super) expected: Arc<str>,
    nothing: Arc<str>,
    /// Longest wait for a lock of any kind.
    pub(super) lock_secs: Arc<str>,
    pub(super) state: Arc<str>,
    claim: Arc<str>,
    pub(super) insert: Arc<str>,
    pub(super) find: Arc<str>,
    pub(super) lock: Arc<str>,
    pub(super) read: Arc<str>,
    pub(super) mark: Arc<str>,
    pub(super) sweep: sweep::Statements,
}

impl Statements {
    pub(super) fn new(database: &str, options: &MySqlOptions) -> Self {
        let name = database;
        let database = format!("`{}`", name.replace('`', "``"));
        let table = format!("{database}.unanimo_barrier");
        let of_table = |statement: &str| statement.replace("{table}", &table).into();
        let statement_ms = options.statement_timeout.as_millis().clamp(1, u128::from(u32::MAX));
        let statement_secs = format!("{}.{:03}", statement_ms / 1000, statement_ms % 1000);
        let lock_secs = whole_secs(options.lock_timeout);
        let settings = SETTINGS
            .replace("{database}", &database)
            .replace("{lock_secs}", &lock_secs)
            .replace("{idle_secs}", &whole_secs(options.idle_timeout))
            .replace("{statement_secs}", &statement_secs)
            .replace("{statement_ms}", &statement_ms.to_string());
        Self {
            clean: CLEAN
                .replace("{database}", &database)
                .replace("{idle_secs}", &whole_secs(options.idle_timeout))
                .replace("{own}", &own(2))
                .replace("{counted}", COUNTED)
                .into(),
            baseline: BASELINE.replace("{counted}", COUNTED).into(),
            settings: format!("{}; {settings}", own(2)).into(),
            read_back: READ_BACK.into(),
            expected: format!("1 +00:00 1 {lock_secs} READ-COMMITTED 1 1 {name}").into(),
            nothing: of_table(NOTHING),
            lock_secs: lock_secs.into(),
            state: of_table(STATE),
            claim: of_table(CLAIM),
            insert: of_table(INSERT),
            find: of_table(FIND),
            lock: of_table(LOCK),
            read: of_table(READ),
            mark: of_table(MARK),
            sweep: sweep::Statements::new(&table),
        }
    }

    /// Returns the statement that says in a branch's row that phase two is at work.
    pub(super) fn claim(&self, branch: &Branch) -> String {
        // In digits: whatever it is, it is no more than a text.
        let branch_id = branch.branch_id.bytes().map(|byte| format!("{byte:02x}"));
        let branch_id = format!("_ascii x'{}'", branch_id.collect::<String>());
        let claim = self.claim.replace("{tx_id}", &branch.tx_id.to_string());
        claim.replace("{branch_id}", &branch_id)
    }

    /// Returns statements that write something and change nothing.
    pub(super) fn nothing(&self) -> String {
        let (last, random) = ("ffffffff-ffff-", Uuid::now_v7().to_string());
        self.nothing.replace("{tx_id}", &format!("{last}{}", &random[last.len()..]))
    }
}

/// Returns the statement that counts changes of the session that are its owner's own: so many times `SET`.
pub(super) fn own(changes: u8) -> String {
    format!("DO @unanimo_own := @unanimo_own + {changes}")
}

/// Setting of a session that holds something outside of a transaction, a lock by name or a transaction that is
/// prepared: if its process vanishes the server ends it in seconds. It is never idle for as long otherwise.
pub(super) const VANISHES_SOON: &str = "wait_timeout = 5";

/// Returns statements that begin a transaction which sees what is committed and what is not.
pub(super) fn begin_reading_all() -> String {
    let own = own(1);
    format!("{own}; SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; START TRANSACTION READ ONLY")
}

/// The server takes no fractions and at most a year, and 0 means at once or never.
fn whole_secs(timeout: Duration) -> String {
    timeout.as_millis().div_ceil(1000).clamp(1, 31_536_000).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_nobody_comes_behind_those_of_all_branches() {
        let statements = Statements::new("it", &MySqlOptions::default());
        let keys = [(); 2].map(|()| {
            let nothing = statements.nothing();
            let key = nothing.split("VALUES ('").nth(1).and_then(|rest| rest.get(..36));
            let key = key.expect("a key").to_owned();
            assert!(nothing.contains(&format!("WHERE tx_id = '{key}'")), "it is undone: {nothing}");
            key
        });
        let latest = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, 99_999_999_999, 0));
        for key in &keys {
            assert!(*key > latest.to_string(), "{key}");
            assert!(Uuid::parse_str(key).is_ok(), "{key}");
        }
        assert_ne!(keys[0], keys[1], "two at once do not meet");
    }

    #[test]
    fn timeouts_are_rounded_up_and_bounded() {
        let options = MySqlOptions::default()
            .lock_timeout(Duration::from_millis(1))
            .statement_timeout(Duration::from_millis(1500))
            .idle_timeout(Duration::MAX);
        let session = Statements::new("it`s", &options).settings;
        for part in [
            "USE `it``s`;",
            "innodb_lock_wait_timeout = 1, lock_wait_timeout = 1,\n    wait_timeout = 31536000\n",
            "max_statement_time = 1.500, idle_transaction_timeout = 31536000 */",
            "max_execution_time = 1500 */",
        ] {
            assert!(session.contains(part), "{part}: {session}");
        }
    }
}
