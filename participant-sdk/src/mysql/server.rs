//! Abilities of a server that two-phase commit needs, which are found out at the start.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::error;
use crate::schema::Error;

/// Asks the server why it cannot prepare transactions; `None` if it can.
pub(super) async fn cannot_prepare(
    connection: &mut MySqlConnection,
) -> Result<Option<String>, Error> {
    let version = sqlx::query_scalar("SELECT VERSION()").persistent(false);
    let version: String = version.fetch_one(&mut *connection).await.map_err(Error::Connect)?;
    if let Some(why) = too_old(&version) {
        return Ok(Some(why));
    }
    let galera = sqlx::raw_sql("SHOW GLOBAL VARIABLES LIKE 'wsrep_on'");
    let galera = galera.fetch_optional(&mut *connection).await.map_err(Error::Connect)?;
    let galera: Option<String> = galera.and_then(|row| row.try_get_unchecked(1).ok());
    if galera.is_some_and(|on| on.eq_ignore_ascii_case("ON")) {
        let why = "the server is a node of Galera (wsrep_on), which knows no XA transactions";
        return Ok(Some(why.to_owned()));
    }
    match sqlx::raw_sql(AssertSqlSafe("XA RECOVER")).fetch_all(&mut *connection).await {
        Ok(_) => Ok(None),
        Err(error) => match error::number(&error) {
            Some(_) => Ok(Some(format!(
                "the database refused to list prepared transactions (XA RECOVER): {error}; on MySQL the \
                 participant's user needs it: GRANT XA_RECOVER_ADMIN ON *.* TO …"
            ))),
            None => Err(Error::Connect(error)),
        },
    }
}

/// Settings that decide what a crash of the server loses. MariaDB and MySQL know all of them.
const DURABILITY: &str =
    "SELECT CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS CHAR), CAST(@@GLOBAL.log_bin AS CHAR),
        CAST(@@GLOBAL.sync_binlog AS CHAR)";

/// Warns if a crash of the server's machine may take back what it has committed: a vote, and an end.
pub(super) async fn warn_if_not_durable(connection: &mut MySqlConnection) -> Result<(), Error> {
    let told = sqlx::query_as(DURABILITY).persistent(false).fetch_one(connection).await;
    let (flush, has_log, sync): (String, String, String) = told.map_err(Error::Connect)?;
    for setting in not_durable(&flush, &has_log, &sync) {
        tracing::warn!(
            setting,
            "a crash of the database server's machine may take back votes that were answered, and ends: see \
             docs/own-database.md"
        );
    }
    Ok(())
}

fn not_durable(flush: &str, has_log: &str, sync: &str) -> Vec<String> {
    let mut found = Vec::new();
    // MariaDB's 3 is 1, and flushes at more places.
    if !["1", "3"].contains(&flush) {
        found.push(format!("innodb_flush_log_at_trx_commit = {flush}, and not 1"));
    }
    // A commit that the binary log lacks is rolled back by the recovery.
    if ["1", "ON"].contains(&has_log) && sync != "1" {
        found.push(format!("sync_binlog = {sync}, and not 1"));
    }
    found
}

/// The first versions of MariaDB and MySQL in which a prepared transaction survives the end of its session,
/// a restart, and both with a binary log.
const MARIADB_MIN: [u32; 3] = [10, 5, 2];
const MYSQL_MIN: [u32; 3] = [8, 0, 30];

/// Returns the reason against a version, if it is too old.
fn too_old(version: &str) -> Option<String> {
    let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
    let (name, min) = if is_mariadb { ("MariaDB", MARIADB_MIN) } else { ("MySQL", MYSQL_MIN) };
    let found = numbers(version);
    if found.is_some_and(|found| found >= min) {
        return None;
    }
    let [major, minor, patch] = min;
    let breaks = if is_mariadb || found.is_some_and(|found| found < [5, 7, 7]) {
        "an older one rolls a prepared transaction back when its session ends"
    } else {
        "in an older one a crash can leave its binary log and its prepared transactions in disagreement"
    };
    Some(format!("the server is {version}, and {name} {major}.{minor}.{patch} is needed: {breaks}"))
}

/// Reads the three numbers that a version begins with. MariaDB may put `5.5.5-` before its own.
fn numbers(version: &str) -> Option<[u32; 3]> {
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let digits = version.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut numbers = digits.split('.').map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_settings_that_may_lose_a_vote_are_found() {
        for (flush, has_log, sync, expected) in [
            ("1", "0", "0", &[] as &[&str]),
            ("3", "OFF", "0", &[]),
            ("1", "ON", "1", &[]),
            ("1", "1", "0", &["sync_binlog = 0, and not 1"]),
            ("2", "0", "0", &["innodb_flush_log_at_trx_commit = 2, and not 1"]),
            (
                "0",
                "ON",
                "100",
                &["innodb_flush_log_at_trx_commit = 0, and not 1", "sync_binlog = 100, and not 1"],
            ),
        ] {
            assert_eq!(not_durable(flush, has_log, sync), expected);
        }
    }

    #[test]
    fn s7_a_server_that_loses_prepared_transactions_is_refused_with_a_sentence() {
        for (version, breaks) in [
            ("10.4.34-MariaDB", "when its session ends"),
            ("10.5.1-MariaDB-log", "when its session ends"),
            ("5.5.5-10.4.13-MariaDB-1:10.4.13+maria~bionic", "when its session ends"),
            ("5.5.68-MariaDB", "when its session ends"),
            ("5.6.51", "when its session ends"),
            ("5.7.6-m16", "when its session ends"),
            ("5.7.44-log", "binary log"),
            ("8.0.29", "binary log"),
            ("somebody's", "binary log"),
        ] {
            let why = too_old(version).unwrap_or_default();
            assert!(why.contains(breaks) && why.contains(version), "{version}: {why}");
        }
        for version in [
            "10.5.2-MariaDB",
            "10.11.19-MariaDB-0+deb12u1",
            "5.5.5-10.6.4-MariaDB",
            "11.8.1-MariaDB-ubu2404",
            "8.0.30",
            "8.0.36-28",
            "8.4.0",
            "9.1.0-commercial",
        ] {
            assert_eq!(too_old(version), None, "{version}");
        }
    }
}
