//! Accounts of a bank, in a table of its own PostgreSQL database.

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgConnection;
use unanimo_sdk::{PhaseTwoError, PrepareError, fail, refuse};

/// Payload of every action of a bank: an account and an amount.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Posting {
    /// Name of the account.
    pub account: String,
    /// Amount in cents, more than zero.
    pub cents: i64,
}

impl Posting {
    /// Checks the amount: a negative debit would add money.
    ///
    /// # Errors
    /// A refusal if the amount is not more than zero.
    pub fn check(&self) -> Result<(), PrepareError> {
        match self.cents {
            1.. => Ok(()),
            cents => refuse("BAD_AMOUNT", format!("cents must be more than zero, is {cents}")),
        }
    }

    /// Runs a statement with the account and the cents, and returns the number of accounts that it changed.
    ///
    /// # Errors
    /// The database's error.
    pub async fn post(&self, db: &mut PgConnection, statement: &'static str) -> sqlx::Result<u64> {
        let statement = sqlx::query(statement).bind(&self.account).bind(self.cents);
        Ok(statement.execute(db).await?.rows_affected())
    }

    /// Runs a statement of phase two. An account that has vanished since phase one, or has another name, is not
    /// passed over: the call comes again, and an operator sees a transaction that does not end. Nor is one that
    /// was made anew, and holds nothing: the statement asks for what phase one has written.
    ///
    /// # Errors
    /// The database's error, or that there is not exactly one such account.
    pub async fn finish(
        &self,
        db: &mut PgConnection,
        statement: &'static str,
    ) -> Result<(), PhaseTwoError> {
        match self.post(db, statement).await? {
            1 => Ok(()),
            found => fail(format!(
                "account {} with these {} cents is gone: must be 1 row, found {found}",
                self.account, self.cents
            )),
        }
    }

    /// Refuses a posting to an account that does not exist.
    ///
    /// # Errors
    /// Always.
    pub fn no_account(&self) -> Result<(), PrepareError> {
        refuse("NO_SUCH_ACCOUNT", format!("there is no account {}", self.account))
    }
}

/// Does as [`open`] on a connection of the pool.
///
/// # Errors
/// The database's error.
pub async fn create(pool: &PgPool, accounts: &[(String, i64)]) -> sqlx::Result<()> {
    open(&mut *pool.acquire().await?, accounts).await
}

/// Creates the table, and the accounts that do not exist yet.
///
/// # Errors
/// The database's error.
pub async fn open(db: &mut PgConnection, accounts: &[(String, i64)]) -> sqlx::Result<()> {
    // `held` is money of prepared debits that have not ended, `incoming` that of prepared credits.
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS account (
             id       text   PRIMARY KEY,
             cents    bigint NOT NULL CHECK (cents >= 0),
             held     bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
             incoming bigint NOT NULL DEFAULT 0 CHECK (incoming >= 0)
         )",
    )
    .execute(&mut *db)
    .await?;
    for (id, cents) in accounts {
        sqlx::query("INSERT INTO account (id, cents) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(id)
            .bind(cents)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

/// Tells whether an account exists.
///
/// # Errors
/// The database's error.
pub async fn exists(db: &mut PgConnection, account: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM account WHERE id = $1)")
        .bind(account)
        .fetch_one(db)
        .await
}

/// Returns all accounts in order of name: name, cents, held, incoming.
///
/// # Errors
/// The database's error.
pub async fn balances(pool: &PgPool) -> sqlx::Result<Vec<(String, i64, i64, i64)>> {
    sqlx::query_as("SELECT id, cents, held, incoming FROM account ORDER BY id")
        .fetch_all(pool)
        .await
}
