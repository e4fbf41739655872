//! Sessions: what they rely on is set, read back, and set again behind handlers.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::driver::{Connection, Error};
use super::durable::Standbys;
use super::statements;
use crate::schema;

/// Longest time of the statements that make a session fit for its next use. Beyond it the server has
/// vanished, or is still at work for somebody who has gone; the session is closed.
const CARE_TIMEOUT: Duration = Duration::from_secs(5);

/// Does the same as `DISCARD ALL`, but keeps prepared statements and plans, as drivers do.
const CLEAN: &str = "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; \
                     UNLISTEN *; SELECT pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES";

/// Asks for what may have changed since a session was used last.
///
/// Services that speak PostgreSQL's protocol may not know the setting.
const LOOK: &str = "SELECT NOT pg_is_in_recovery(),
    coalesce(current_setting('synchronous_standby_names', true), '') <> ''";

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

/// Names and values of the settings that operations rely on.
pub(super) type Settings = [(&'static str, String); 9];

/// Care that each session needs: its [`Pool`](super::driver::Pool) runs it. Cheap to clone.
///
/// It sets what operations rely on, and reads it back; it refuses a standby and another database; and it
/// takes from a session what a handler has left there: settings, roles, cursors, locks, temporary tables.
#[derive(Clone, Debug)]
pub struct Care(Arc<Session>);

/// Settings, and the database, that every session relies on.
#[derive(Debug)]
struct Session {
    settings: Settings,
    reset: Reset,
    clean: String,
    read_back: String,
    /// The id beside the barrier's table, once it is known.
    database_id: OnceLock<String>,
    standbys: Standbys,
}

impl Care {
    /// Makes a new session one of the participant's, or says what is wrong with it. Run it once, behind
    /// the connect.
    ///
    /// # Errors
    /// The session cannot be used: close it.
    pub async fn set_up<C: Connection>(&self, connection: &mut C) -> Result<(), Error> {
        connection.run(&self.0.reset.settings).await?;
        let differs: (Option<String>,) =
            statements::one(connection, &self.0.read_back, &[]).await?;
        if let Some(differs) = differs.0 {
            let text = format!(
                "a session of this database, or of the pooler before it, does not keep its settings: {differs}"
            );
            return Err(Error::refused(text));
        }
        if !self.is_fit(connection).await? {
            return Err(Error::refused("the server is a standby"));
        }
        if self.0.database_id.get().is_some() {
            let (id,) = statements::one(connection, schema::READ_ID, &[]).await?;
            self.is_at(id).map_err(Error::refused)?;
        }
        Ok(())
    }

    /// Tells whether a session that was used before can be used again: its server is the primary, and
    /// answers. After a switchover the sessions stay where they were, and nothing can be written there. Run
    /// it instead of a ping, before each use but the first.
    ///
    /// # Errors
    /// The session cannot be used: close it.
    pub async fn is_fit<C: Connection>(&self, connection: &mut C) -> Result<bool, Error> {
        let asked = statements::one(connection, LOOK, &[]);
        let bound = CARE_TIMEOUT / 2;
        let told: Result<(bool, bool), _> = match tokio::time::timeout(bound, asked).await {
            Ok(told) => told,
            Err(_) => return Err(Error::silent(bound)),
        };
        let (is_primary, is_synchronous) = told?;
        if is_primary && is_synchronous {
            self.0.standbys.are_there();
        }
        Ok(is_primary)
    }

    /// Makes a session as it was, behind each use and outside of a transaction.
    ///
    /// # Errors
    /// The session cannot be used again: close it.
    pub async fn clean<C: Connection>(&self, connection: &mut C) -> Result<(), Error> {
        match tokio::time::timeout(CARE_TIMEOUT, connection.run(&self.0.clean)).await {
            Ok(cleaned) => cleaned,
            Err(_) => Err(Error::silent(CARE_TIMEOUT)),
        }
    }

    /// Returns names and values of the settings of sessions that operations run in.
    #[must_use]
    pub fn settings(&self) -> &[(&'static str, String)] {
        &self.0.settings
    }

    /// Care for sessions with these settings. Those of the service, `more`, hold where they say nothing else.
    pub(super) fn new(settings: Settings, more: &[(String, String)], role: Option<&str>) -> Self {
        let role = role.map(literal);
        let is_ours = |name: &str| settings.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let more = more.iter().filter(|(name, _)| !is_ours(name));
        let more = more.map(|(name, value)| (name.as_str(), literal(value)));
        let ours = settings.iter().map(|(name, value)| (*name, literal(value)));
        let all: Vec<(&str, String)> = more.chain(ours).collect();
        let set = all.iter().map(|(name, value)| format!("set_config('{name}', {value}, false)"));
        let role_set = role.iter().map(|role| format!("set_config('role', {role}, false)"));
        let set = format!("SELECT {}", set.chain(role_set).collect::<Vec<_>>().join(", "));
        // Keepalives are zero, whatever is set, where the connection is a socket of the same machine.
        let kept = all.iter().filter(|(name, _)| !name.starts_with("tcp_"));
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
        Self(Arc::new(Session {
            clean: format!("{CLEAN}; {set}"),
            reset: Reset { settings: set.into() },
            read_back,
            database_id: OnceLock::new(),
            standbys: Standbys::default(),
            settings,
        }))
    }

    pub(super) fn reset(&self) -> &Reset {
        &self.0.reset
    }

    pub(super) fn standbys(&self) -> &Standbys {
        &self.0.standbys
    }

    pub(super) fn database_id(&self) -> Option<&str> {
        self.0.database_id.get().map(String::as_str)
    }

    /// Learns the database's id, or compares it with the one that is known.
    pub(super) fn is_at(&self, id: String) -> Result<(), schema::Error> {
        match self.0.database_id.get_or_init(|| id.clone()) {
            known if *known == id => Ok(()),
            known => Err(schema::Error::OtherDatabase { known: known.clone(), found: id }),
        }
    }
}

/// Writes a text in SQL, whatever the session takes a backslash for.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!("E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_database_has_one_id() {
        let care = Care::new([(); 9].map(|()| ("lock_timeout", "1".to_owned())), &[], None);
        assert_eq!(care.database_id(), None);
        care.is_at("a".to_owned()).expect("the first one");
        care.is_at("a".to_owned()).expect("the same");
        let error = care.is_at("b".to_owned()).expect_err("another one");
        assert!(matches!(error, schema::Error::OtherDatabase { .. }), "{error:?}");
        assert_eq!(care.database_id(), Some("a"));
    }

    #[test]
    fn the_services_settings_are_set_and_read_back_as_ours_are() {
        let settings = [(); 9].map(|()| ("lock_timeout", "1".to_owned()));
        let more = [("search_path", "it's, a\\b"), ("Lock_Timeout", "7")];
        let more = more.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let care = Care::new(settings, &more, None);
        let Session { reset, read_back, clean, .. } = &*care.0;
        let set = "set_config('search_path', E'it''s, a\\\\b', false)";
        assert!(reset.settings.contains(set) && clean.contains(set), "{}", reset.settings);
        assert!(read_back.contains("('search_path', E'it''s, a\\\\b')"), "{read_back}");
        assert!(!reset.settings.contains('7'), "ours hold: {}", reset.settings);
    }
}
