//! Sessions: what they rely on is set, read back, and set again behind handlers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::schema::{self, Error};

/// Longest time of the statements that make a session fit for its next use. Beyond it the server has
/// vanished, or is still at work for somebody who has gone; the session is closed.
const CARE_TIMEOUT: Duration = Duration::from_secs(5);

/// Does the same as `DISCARD ALL`, but keeps prepared statements and plans, as sqlx does.
const CLEAN: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
                     UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// Statements that take a session back from a handler. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reset {
    settings: Arc<str>,
}

impl Reset {
    /// The handler's settings must not be those of the row's update and of the commit: they could make it
    /// asynchronous, look for the row elsewhere, or leave a prepared transaction that another role owns.
    /// RESET undoes what was set for the transaction, too, and is itself undone with it.
    ///
    /// The savepoint's end proves that the block is still the one that the handler was given, and it takes
    /// with it what the handler may have left open inside.
    pub(super) fn end_handler(&self, savepoint: &str) -> String {
        format!(
            "SET CONSTRAINTS ALL IMMEDIATE; RELEASE SAVEPOINT {savepoint}; \
             RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; {}",
            self.settings
        )
    }
}

/// Settings, and the database, that every session relies on.
#[derive(Debug)]
pub(super) struct Session {
    reset: Reset,
    clean: Arc<str>,
    read_back: Arc<str>,
    /// The id beside the barrier's table, once it is known.
    database_id: OnceLock<String>,
}

impl Session {
    /// Sessions with these settings. They are given at the connection's start as well; a pooler in between
    /// may drop them there.
    /// Those of the service, `more`, hold where they say nothing else.
    pub(super) fn new(
        settings: &[(&'static str, String); 9],
        more: &[(String, String)],
        role: Option<&str>,
    ) -> Self {
        let role = role.map(literal);
        let is_ours = |name: &str| settings.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let more = more.iter().filter(|(name, _)| !is_ours(name));
        let more = more.map(|(name, value)| (name.as_str(), literal(value)));
        let ours = settings.iter().map(|(name, value)| (*name, literal(value)));
        let settings: Vec<(&str, String)> = more.chain(ours).collect();
        let set =
            settings.iter().map(|(name, value)| format!("set_config('{name}', {value}, false)"));
        let role_set = role.iter().map(|role| format!("set_config('role', {role}, false)"));
        let set = format!("SELECT {}", set.chain(role_set).collect::<Vec<_>>().join(", "));
        // Keepalives are zero, whatever is set, where the connection is a socket of the same machine.
        let kept = settings.iter().filter(|(name, _)| !name.starts_with("tcp_"));
        let kept = kept.map(|(name, value)| format!("('{name}', {value})")).collect::<Vec<_>>();
        // The role is not among the settings that the server shows.
        let role = role.unwrap_or_else(|| "current_user".to_owned());
        let read_back = format!(
            "SELECT string_agg(name || ' is ' || setting || ' instead of ' || wanted, ', ')
             FROM (SELECT name, setting, wanted
                   FROM pg_settings JOIN (VALUES {}) AS w (name, wanted) USING (name)
                   UNION ALL SELECT 'role', current_user::text, {role}::text) AS read
             WHERE setting <> wanted",
            kept.join(", ")
        );
        Self {
            clean: format!("{CLEAN}; {set}").into(),
            reset: Reset { settings: set.into() },
            read_back: read_back.into(),
            database_id: OnceLock::new(),
        }
    }

    pub(super) fn reset(&self) -> &Reset {
        &self.reset
    }

    pub(super) fn database_id(&self) -> Option<&str> {
        self.database_id.get().map(String::as_str)
    }

    /// Learns the database's id, or compares it with the one that is known.
    pub(super) fn is_at(&self, id: String) -> Result<(), Error> {
        match self.database_id.get_or_init(|| id.clone()) {
            known if *known == id => Ok(()),
            known => Err(Error::OtherDatabase { known: known.clone(), found: id }),
        }
    }

    /// Makes a new session one of ours, or says what is wrong with it.
    pub(super) async fn set_up(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let set = sqlx::raw_sql(AssertSqlSafe(Arc::clone(&self.reset.settings)));
        set.execute(&mut *connection).await?;
        let read_back = sqlx::query_scalar(AssertSqlSafe(Arc::clone(&self.read_back)));
        let differs: Option<String> =
            read_back.persistent(false).fetch_one(&mut *connection).await?;
        if let Some(differs) = differs {
            let text = format!(
                "a session of this database, or of the pooler before it, does not keep its settings: {differs}"
            );
            return Err(sqlx::Error::Configuration(text.into()));
        }
        if !is_primary(connection).await? {
            return Err(sqlx::Error::Configuration("the server is a standby".into()));
        }
        if self.database_id.get().is_some() {
            let id = sqlx::query_scalar(schema::READ_ID).persistent(false);
            let id = id.fetch_one(&mut *connection).await?;
            self.is_at(id).map_err(|error| sqlx::Error::Configuration(error.into()))?;
        }
        Ok(())
    }

    /// Makes a session as it was; answers whether it may be used again.
    pub(super) async fn clean(&self, connection: &mut PgConnection) -> sqlx::Result<bool> {
        // A handler may have left a transaction open inside its own: sqlx then ended that one only.
        if connection.is_in_transaction() {
            return Ok(false);
        }
        let clean = sqlx::raw_sql(AssertSqlSafe(Arc::clone(&self.clean)));
        let cleaned = tokio::time::timeout(CARE_TIMEOUT, clean.execute(connection)).await;
        match cleaned {
            Ok(cleaned) => Ok(cleaned.is_ok()),
            // It is closed without another word to the server.
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }
}

/// Writes a text in SQL, whatever the session takes a backslash for.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// Tells whether the session's server is the primary: after a switchover the sessions stay where they
/// were, and nothing can be written there.
pub(super) async fn is_primary(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let asked = sqlx::query_scalar("SELECT NOT pg_is_in_recovery()").fetch_one(connection);
    match tokio::time::timeout(CARE_TIMEOUT / 2, asked).await {
        Ok(told) => told,
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_database_has_one_id() {
        let settings = [(); 9].map(|()| ("lock_timeout", "1".to_owned()));
        let session = Session::new(&settings, &[], None);
        assert_eq!(session.database_id(), None);
        session.is_at("a".to_owned()).expect("the first one");
        session.is_at("a".to_owned()).expect("the same");
        let error = session.is_at("b".to_owned()).expect_err("another one");
        assert!(matches!(error, Error::OtherDatabase { .. }), "{error:?}");
        assert_eq!(session.database_id(), Some("a"));
    }

    #[test]
    fn the_services_settings_are_set_and_read_back_as_ours_are() {
        let settings = [(); 9].map(|()| ("lock_timeout", "1".to_owned()));
        let more = [("search_path", "it's, a\\b"), ("Lock_Timeout", "7")];
        let more = more.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let Session { reset, read_back, clean, .. } = Session::new(&settings, &more, None);
        let set = "set_config('search_path', E'it''s, a\\\\b', false)";
        assert!(reset.settings.contains(set) && clean.contains(set), "{}", reset.settings);
        assert!(read_back.contains("('search_path', E'it''s, a\\\\b')"), "{read_back}");
        assert!(!reset.settings.contains('7'), "ours hold: {}", reset.settings);
    }
}
