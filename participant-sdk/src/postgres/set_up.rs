//! Connections that set the database up.

use std::sync::OnceLock;

use super::driver::{Care, Connection, Driver};
use super::session::literal;
use super::{MIGRATION_LOCK_TIMEOUT, error, statements};
use crate::schema::{CONNECT_MAX, Error, LOOK_MAX, within};

/// Set-up of the database, which comes once.
#[derive(Debug)]
pub(super) struct SetUp<D> {
    pub(super) driver: D,
    pub(super) care: Care,
    pub(super) role: Option<String>,
    /// The table is there as this version needs it.
    pub(super) is_made: OnceLock<()>,
}

impl<D: Driver> SetUp<D> {
    /// A connection for statements that set something up. They wait for nobody for long: whoever waits
    /// for a lock of a prepared transaction keeps out everybody who comes behind.
    pub(super) async fn connect(&self) -> Result<D::Connection, Error> {
        within(CONNECT_MAX, self.open()).await
    }

    async fn open(&self) -> Result<D::Connection, Error> {
        let mut settings = vec![
            ("lock_timeout", MIGRATION_LOCK_TIMEOUT.as_millis().to_string()),
            ("default_transaction_read_only", "off".to_owned()),
        ];
        let mut connection = self.driver.connect(&settings).await?;
        // Last, so that nothing else is said to fail because of it.
        settings.extend(self.role.iter().map(|role| ("role", role.clone())));
        let set = settings
            .iter()
            .map(|(name, value)| format!("SELECT set_config('{name}', {}, false)", literal(value)));
        let set = connection.run(&set.collect::<Vec<_>>().join("; ")).await;
        match (&self.role, set) {
            (_, Ok(())) => {}
            (Some(role), Err(error)) if error::is_no_such_role(&error) => {
                let login = "SELECT session_user::text";
                let (login,): (String,) = statements::one(&mut connection, login, &[]).await?;
                return Err(error::may_not_work_as(role, &login, &error).into());
            }
            (_, Err(error)) => return Err(error.into()),
        }
        Ok(connection)
    }

    /// Opens a session as the pools do, and closes it.
    pub(super) async fn try_session(&self) -> Result<(), Error> {
        let mut real = self.driver.connect(self.care.settings()).await?;
        self.care.set_up(&mut real).await?;
        real.close().await;
        Ok(())
    }
}

/// Tells whether the server allows prepared transactions.
pub(super) async fn can_prepare<D: Driver>(set_up: &SetUp<D>) -> Result<bool, Error> {
    let asked = async {
        let mut connection = set_up.connect().await?;
        let max = "SELECT current_setting('max_prepared_transactions')";
        let (prepared_max,): (String,) = statements::one(&mut connection, max, &[]).await?;
        connection.close().await;
        Ok(prepared_max != "0")
    };
    within(LOOK_MAX, asked).await
}
