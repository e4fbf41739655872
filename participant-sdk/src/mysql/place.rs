//! Place of the database: a copy of it, which has the same id, is elsewhere.
//!
//! MySQL's servers have an id that was made at random, MariaDB's have none: there the place is the server's machine,
//! port and folder. All nodes of Galera, and all members of a replication group, are one place. A replica has another
//! one than its primary, and so the place changes when it is promoted.

use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::MySql;
use super::error::fault;
use crate::resource::Fault;
use crate::schema::Error;

const KNOWN: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN
    ('wsrep_on', 'group_replication_group_name', 'server_uuid', 'server_uid')";

/// Makes the statement that tells the place, of what this server knows.
pub(super) async fn statement(connection: &mut MySqlConnection) -> Result<String, Error> {
    let rows = sqlx::raw_sql(KNOWN).fetch_all(connection).await.map_err(Error::Connect)?;
    let column = |row: &MySqlRow, n: usize| row.try_get_unchecked::<String, _>(n).ok();
    let told: Vec<(String, String)> =
        rows.iter().filter_map(|row| Some((column(row, 0)?, column(row, 1)?))).collect();
    Ok(of(&told))
}

fn of(told: &[(String, String)]) -> String {
    let knows = |name: &str, is: &dyn Fn(&str) -> bool| {
        told.iter().any(|(known, value)| known.eq_ignore_ascii_case(name) && is(value))
    };
    let is_something = |value: &str| !value.is_empty();
    let server = if knows("wsrep_on", &|value| value.eq_ignore_ascii_case("ON")) {
        "(SELECT variable_value FROM information_schema.global_status
          WHERE variable_name = 'WSREP_CLUSTER_STATE_UUID')"
    } else if knows("group_replication_group_name", &is_something) {
        "@@GLOBAL.group_replication_group_name"
    } else if knows("server_uuid", &is_something) {
        "@@GLOBAL.server_uuid"
    } else if knows("server_uid", &is_something) {
        "@@GLOBAL.server_uid, @@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.datadir"
    } else {
        "@@GLOBAL.hostname, @@GLOBAL.port, @@GLOBAL.datadir"
    };
    format!("SELECT CONCAT('my.', LEFT(SHA2(CONCAT_WS('/', {server}, DATABASE()), 256), 40))")
}

impl MySql {
    pub(super) async fn read_place(&self) -> Result<Option<String>, Fault> {
        const DOING: &str = "read where the database is";
        let mut reading = self.sweeping().await?;
        let statement = AssertSqlSafe(self.place.to_string());
        let read = sqlx::query_scalar(statement).persistent(false).fetch_one(&mut *reading).await;
        let read: Option<String> = read.map_err(fault(DOING))?;
        reading.release();
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_one_group_are_one_place() {
        let told = |names: &[(&str, &str)]| -> Vec<(String, String)> {
            names.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        for (names, is_of) in [
            (told(&[("wsrep_on", "ON"), ("server_uid", "u")]), "WSREP_CLUSTER_STATE_UUID"),
            (told(&[("wsrep_on", "OFF"), ("server_uid", "u")]), "@@GLOBAL.server_uid, "),
            (told(&[("server_uuid", "u"), ("group_replication_group_name", "g")]), "group_name"),
            (told(&[("group_replication_group_name", ""), ("server_uuid", "u")]), "server_uuid,"),
            (told(&[]), "('/', @@GLOBAL.hostname, "),
        ] {
            assert!(of(&names).contains(is_of), "{names:?}: {}", of(&names));
        }
    }
}
