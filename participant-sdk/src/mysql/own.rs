//! Connections of the service's own making: its options, its pool.

use std::sync::{Arc, PoisonError};

use sqlx::mysql::{MySqlConnectOptions, MySqlPool};

use super::{MySql, MySqlOptions};
use crate::resource::{SWEEP_CONNECTIONS, follow};
use crate::schema::Error;

impl MySqlOptions {
    /// Connects with these options, as [`connect`](Self::connect) does with a URL. Of the options
    /// everything holds but the time zone, which is UTC here.
    ///
    /// # Errors
    /// As of [`connect`](Self::connect).
    pub async fn connect_with(self, options: MySqlConnectOptions) -> Result<MySql, Error> {
        self.open(options).await
    }

    /// Connects as this pool does, with its options, the later ones too. What its `after_connect` does is
    /// not done here: give a role by `SET DEFAULT ROLE`, and settings by the server's configuration.
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
    /// As of [`connect`](Self::connect); the pool is closed, or the server allows fewer connections.
    pub async fn from_pool(self, pool: MySqlPool) -> Result<MySql, Error> {
        if pool.is_closed() {
            return Err(Error::Unfit("the pool is closed".to_owned()));
        }
        let options = pool.connect_options();
        let own = [self.prepare_connections, self.phase_two_connections, SWEEP_CONNECTIONS];
        let mysql = self.open(MySqlConnectOptions::clone(&options)).await?;
        mysql.there_is_room(pool.options().get_max_connections(), own).await?;
        mysql.follow(pool, options);
        Ok(mysql)
    }
}

impl MySql {
    /// Connects with [default options](MySqlOptions), as [`MySqlOptions::connect_with`] does.
    ///
    /// # Errors
    /// As of [`MySqlOptions::connect_with`].
    pub async fn connect_with(options: MySqlConnectOptions) -> Result<Self, Error> {
        MySqlOptions::default().connect_with(options).await
    }

    /// Connects as this pool does, with [default options](MySqlOptions): see
    /// [`MySqlOptions::from_pool`].
    ///
    /// # Errors
    /// As of [`MySqlOptions::from_pool`].
    pub async fn from_pool(pool: MySqlPool) -> Result<Self, Error> {
        MySqlOptions::default().from_pool(pool).await
    }

    /// Opens new connections with these options from now on, such as a rotated login. They must lead to the
    /// same database. Connections that are open stay, and what is at work on them ends there.
    pub fn set_connect_options(&self, options: MySqlConnectOptions) {
        let options = completed(options);
        for pool in [&self.prepare, &self.phase_two, &self.sweep] {
            pool.set_connect_options(options.clone());
        }
        *self.set_up.given.write().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// Follows the options of a pool.
    fn follow(&self, pool: MySqlPool, from: Arc<MySqlConnectOptions>) {
        let set_up = Arc::downgrade(&self.set_up);
        let pools = [&self.prepare, &self.phase_two, &self.sweep].map(MySqlPool::clone);
        follow(pool, from, move |changed| {
            let Some(set_up) = set_up.upgrade() else { return false };
            if let Some(options) = changed.map(completed) {
                pools.iter().for_each(|pool| pool.set_connect_options(options.clone()));
                *set_up.given.write().unwrap_or_else(PoisonError::into_inner) = options;
                tracing::info!("connections to the database are opened with new options");
            }
            true
        });
    }

    /// Fails if the pool's connections and the participant's cannot all be open at once.
    async fn there_is_room(&self, of_the_pool: u32, own: [u32; 3]) -> Result<(), Error> {
        // Of the account, which is 0 where it has no limit of its own, and of the server.
        let limits =
            "SELECT CAST(@@max_user_connections AS signed), CAST(@@max_connections AS signed)";
        let limits = sqlx::query_as(limits).fetch_one(&self.sweep).await;
        let (of_the_account, of_the_server): (i64, i64) = limits.map_err(Error::Connect)?;
        let limit = [of_the_account, of_the_server].into_iter().filter(|limit| *limit > 0).min();
        let [prepare, phase_two, sweep] = own;
        let all = [of_the_pool, prepare, phase_two, sweep].into_iter().map(i64::from).sum();
        match limit {
            Some(limit) if limit < all => Err(Error::Unfit(format!(
                "the server, or the account (max_connections, max_user_connections), allows {limit} at once, \
                 and there would be {all}: {of_the_pool} of the pool, {prepare} for Prepares, {phase_two} for \
                 Commits and Cancels, {sweep} for the sweeper; make the pool smaller, or set \
                 prepare_connections and phase_two_connections"
            ))),
            _ => Ok(()),
        }
    }
}

/// Returns options as sessions need them.
pub(super) fn completed(options: MySqlConnectOptions) -> MySqlConnectOptions {
    options.timezone(Some("+00:00".to_owned()))
}
