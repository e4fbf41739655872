//! Accounts in a table of MariaDB.

use sqlx::{MySqlConnection, MySqlPool};

use super::{Accounts, Change};

/// Creates the table and the accounts.
///
/// # Errors
/// The database's error.
pub async fn create(pool: &MySqlPool, accounts: &[(String, i64)]) -> sqlx::Result<()> {
    sqlx::raw_sql(
        "CREATE TABLE account (
             id       varchar(64) PRIMARY KEY,
             cents    bigint      NOT NULL CHECK (cents >= 0),
             held     bigint      NOT NULL DEFAULT 0 CHECK (held >= 0),
             incoming bigint      NOT NULL DEFAULT 0 CHECK (incoming >= 0)
         ) ENGINE = InnoDB",
    )
    .execute(pool)
    .await?;
    for (id, cents) in accounts {
        let open = sqlx::query("INSERT INTO account (id, cents) VALUES (?, ?)");
        open.bind(id).bind(cents).execute(pool).await?;
    }
    Ok(())
}

/// Returns all accounts: name, cents, held, incoming.
///
/// # Errors
/// The database's error.
pub async fn balances(pool: &MySqlPool) -> sqlx::Result<Vec<(String, i64, i64, i64)>> {
    sqlx::query_as("SELECT id, cents, held, incoming FROM account").fetch_all(pool).await
}

impl Accounts for MySqlConnection {
    type Error = sqlx::Error;

    async fn post(&mut self, account: &str, [cents, held, incoming]: Change) -> sqlx::Result<u64> {
        let post = sqlx::query(
            "UPDATE account SET cents = cents + ?, held = held + ?, incoming = incoming + ?
             WHERE id = ? AND cents + ? >= 0",
        );
        let post = post.bind(cents).bind(held).bind(incoming).bind(account).bind(cents);
        Ok(post.execute(self).await?.rows_affected())
    }
}
