//! A bank's accounts, in a table of its own PostgreSQL database.

use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgConnection;
use unanimo_sdk::{PrepareError, refuse};

/// The argument of every action of a bank: so much money of one account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Posting {
    /// Which account.
    pub account: String,
    /// How much, in cents; more than zero.
    pub cents: i64,
}

impl Posting {
    /// Refuses what is no amount: a negative debit would be a gift.
    ///
    /// # Errors
    /// The amount is not more than zero.
    pub fn check(&self) -> Result<(), PrepareError> {
        match self.cents {
            1.. => Ok(()),
            cents => refuse("BAD_AMOUNT", format!("cents must be more than zero, is {cents}")),
        }
    }
}

/// Makes the table, and the accounts that are not there yet.
///
/// # Errors
/// The database does not let it.
pub async fn create(pool: &PgPool, accounts: &[(String, i64)]) -> sqlx::Result<()> {
    // `held` is money of debits that are neither confirmed nor cancelled, `incoming` of credits.
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS account (
             id       text   PRIMARY KEY,
             cents    bigint NOT NULL CHECK (cents >= 0),
             held     bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
             incoming bigint NOT NULL DEFAULT 0 CHECK (incoming >= 0)
         )",
    )
    .execute(pool)
    .await?;
    for (id, cents) in accounts {
        sqlx::query("INSERT INTO account (id, cents) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(id)
            .bind(cents)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// Whether there is such an account.
///
/// # Errors
/// The database does not answer.
pub async fn exists(db: &mut PgConnection, account: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM account WHERE id = $1)")
        .bind(account)
        .fetch_one(db)
        .await
}

/// All accounts: name, money that is there, money that is held, money that is coming in.
///
/// # Errors
/// The database does not answer.
pub async fn balances(pool: &PgPool) -> sqlx::Result<Vec<(String, i64, i64, i64)>> {
    sqlx::query_as("SELECT id, cents, held, incoming FROM account ORDER BY id")
        .fetch_all(pool)
        .await
}
