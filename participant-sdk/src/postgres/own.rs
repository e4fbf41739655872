//! Connections of the service's own making: its options, its pool, its role.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};

use super::driver::{self, Sqlx};
use super::over_sqlx::from_sqlx;
use super::session::Settings;
use super::{Postgres, PostgresOptions, error};
use crate::resource::{SWEEP_CONNECTIONS, follow};
use crate::schema::Error;

/// Name that the server shows for the sessions, unless the service gives another one.
pub(super) const APPLICATION_NAME: &str = "unanimo-participant";

impl PostgresOptions {
    /// Connects with these options, as [`connect`](Self::connect) does with a URL. Of the options
    /// everything holds that the participant does not need otherwise, such as TLS, the application's name
    /// and the logging of statements.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn connect_with(self, options: PgConnectOptions) -> Result<Postgres, Error> {
        self.open_sqlx(options, Vec::new()).await
    }

    /// Opens the pools, with connections of these options and, on top, these settings.
    pub(super) async fn open_sqlx(
        self,
        given: PgConnectOptions,
        more: Vec<(String, String)>,
    ) -> Result<Postgres, Error> {
        let (settings, role) = (self.session_settings(), self.role.clone());
        let driver = Sqlx::new(Given::new(given, more.clone(), settings, role));
        self.open(driver, &more).await
    }

    /// Connects as this pool does: with its options, the later ones too, and with the settings and the role
    /// that its `after_connect` gives a session.
    ///
    /// The sessions are the participant's own, beside the pool's: what handlers do to a session never
    /// meets the service's other work, nor the other way round, and a pool that is used up keeps neither
    /// Prepares nor Commits waiting. So the database is asked for the pool's connections and, besides,
    /// [`prepare_connections`](Self::prepare_connections),
    /// [`phase_two_connections`](Self::phase_two_connections) and two.
    ///
    /// A change by [`Pool::set_connect_options`](sqlx::Pool::set_connect_options), such as a rotated
    /// password, holds for the participant's new connections a second later; those that are open stay.
    /// The pool is kept for that until it is closed or the participant ends. Closing it does not end the
    /// participant.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect); the pool is closed, or a limit of the server, the database or the
    /// role is lower than the number of connections.
    pub async fn from_pool(mut self, pool: PgPool) -> Result<Postgres, Error> {
        if pool.is_closed() {
            return Err(Error::Unfit("the pool is closed".to_owned()));
        }
        let options = pool.connect_options();
        // A session as the pool makes them. One that is in use may have settings of whoever used it last.
        let like = pool.options().clone().min_connections(0).max_connections(1);
        let like = like.connect_lazy_with(PgConnectOptions::clone(&options));
        let mut session = like.acquire().await.map_err(Error::Connect)?;
        let more = settings_of(&mut session).await.map_err(Error::Connect)?;
        let role: Option<String> =
            sqlx::query_scalar("SELECT current_user WHERE current_user <> session_user")
                .fetch_optional(&mut *session)
                .await
                .map_err(Error::Connect)?;
        let own = [self.prepare_connections, self.phase_two_connections, SWEEP_CONNECTIONS];
        there_is_room(&mut session, pool.options().get_max_connections(), own).await?;
        drop(session);
        like.close().await;
        self.role = self.role.or(role);
        let postgres = self.open_sqlx(PgConnectOptions::clone(&options), more).await?;
        postgres.follow(pool, options);
        Ok(postgres)
    }

    /// Works as this role in every session, as `SET ROLE` does. A prepared transaction belongs to the role
    /// that prepared it, and only that one, or a superuser, can end it. With a role that all logins share,
    /// a new login ends what an old one has prepared. Each login must be a member of the role.
    #[must_use]
    pub fn as_role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }
}

impl Postgres {
    /// Connects with [default options](PostgresOptions), as [`PostgresOptions::connect_with`] does.
    ///
    /// # Errors
    /// As of [`PostgresOptions::connect_with`].
    pub async fn connect_with(options: PgConnectOptions) -> Result<Self, Error> {
        PostgresOptions::default().connect_with(options).await
    }

    /// Connects as this pool does, with [default options](PostgresOptions): see
    /// [`PostgresOptions::from_pool`].
    ///
    /// # Errors
    /// As of [`PostgresOptions::from_pool`].
    pub async fn from_pool(pool: PgPool) -> Result<Self, Error> {
        PostgresOptions::default().from_pool(pool).await
    }

    /// Opens new connections with these options from now on, such as a rotated login or a fresh token.
    /// Those that are open stay, and what is at work on them ends there.
    pub fn set_connect_options(&self, options: PgConnectOptions) {
        let given = self.set_up.driver.given();
        given.set(options);
        let connect = given.for_sessions();
        for pool in [&self.prepare, &self.phase_two, &self.sweep] {
            pool.set_connect_options(connect.clone());
        }
    }

    /// Follows the options of a pool.
    fn follow(&self, pool: PgPool, from: Arc<PgConnectOptions>) {
        let set_up = Arc::downgrade(&self.set_up);
        let pools = [&self.prepare, &self.phase_two, &self.sweep].map(Clone::clone);
        follow(pool, from, move |changed| {
            let Some(set_up) = set_up.upgrade() else { return false };
            if let Some(options) = changed {
                let given = set_up.driver.given();
                given.set(options);
                let connect = given.for_sessions();
                pools.iter().for_each(|pool| pool.set_connect_options(connect.clone()));
                tracing::info!("connections to the database are opened with new options");
            }
            true
        });
    }
}

/// Options that connections are opened with. They may change while the participant lives.
#[derive(Debug)]
pub(super) struct Given {
    options: RwLock<PgConnectOptions>,
    /// Settings of the service's sessions.
    more: Vec<(String, String)>,
    /// Settings of the sessions that operations run in.
    settings: Settings,
    role: Option<String>,
}

impl Given {
    pub(super) fn new(
        options: PgConnectOptions,
        more: Vec<(String, String)>,
        settings: Settings,
        role: Option<String>,
    ) -> Self {
        let given = Self { options: RwLock::new(PgConnectOptions::new()), more, settings, role };
        given.set(options);
        given
    }

    fn set(&self, options: PgConnectOptions) {
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name(APPLICATION_NAME),
        };
        // Given at the connection's start, they are what RESET goes back to.
        let more = self.more.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let role = self.role.iter().map(|role| ("role", role.as_str()));
        let options = options.options(more.chain(role));
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = options;
    }

    fn get(&self) -> PgConnectOptions {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Options of the sessions that operations run in.
    pub(super) fn for_sessions(&self) -> PgConnectOptions {
        self.get().options(self.settings.clone())
    }

    /// Opens a connection with these settings, too.
    pub(super) async fn connect(
        &self,
        settings: &[(&str, String)],
    ) -> Result<PgConnection, driver::Error> {
        let options = self.get().options(settings.iter().map(|(name, value)| (*name, value)));
        let error = match options.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) => from_sqlx(error),
        };
        Err(match &self.role {
            Some(role) if error::is_no_such_role(&error) => {
                let login = self.get().get_username().to_owned();
                error::may_not_work_as(role, &login, &error)
            }
            _ => error,
        })
    }
}

/// Settings that a session has been given since it was opened.
async fn settings_of(session: &mut PgConnection) -> sqlx::Result<Vec<(String, String)>> {
    let settings = "SELECT name, setting FROM pg_settings
                    WHERE source = 'session' AND name NOT LIKE 'transaction%'";
    sqlx::query_as(settings).fetch_all(session).await
}

/// Fails if the pool's connections and the participant's cannot all be open at once.
async fn there_is_room(
    session: &mut PgConnection,
    of_the_pool: u32,
    own: [u32; 3],
) -> Result<(), Error> {
    let limits: Vec<(String, i32)> = sqlx::query_as(
        "SELECT 'the server (max_connections)', current_setting('max_connections')::int
         UNION ALL
         SELECT 'the role ' || rolname, rolconnlimit FROM pg_roles
         WHERE rolname = session_user AND NOT rolsuper
         UNION ALL
         SELECT 'the database ' || datname, datconnlimit FROM pg_database, pg_roles
         WHERE datname = current_database() AND rolname = session_user AND NOT rolsuper",
    )
    .fetch_all(session)
    .await
    .map_err(Error::Connect)?;
    // A negative one is none.
    let limits: BTreeMap<String, u32> = limits
        .into_iter()
        .filter_map(|(of, limit)| Some((of, u32::try_from(limit).ok()?)))
        .collect();
    let [prepare, phase_two, sweep] = own;
    let all = [of_the_pool, prepare, phase_two, sweep].into_iter().fold(0, u32::saturating_add);
    match limits.into_iter().find(|(_, limit)| *limit < all) {
        None => Ok(()),
        Some((of, limit)) => Err(Error::Unfit(format!(
            "{of} allows {limit} at once, and there would be {all}: {of_the_pool} of the pool, {prepare} for \
             Prepares, {phase_two} for Commits and Cancels, {sweep} for the sweeper; make the pool smaller, or \
             set prepare_connections and phase_two_connections"
        ))),
    }
}
