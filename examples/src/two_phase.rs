//! Bank by two-phase commit: plain work in a local transaction that PostgreSQL keeps prepared.

use sqlx::postgres::PgConnection;
use unanimo_sdk::{Call, Json, Participant, Postgres, PrepareError, TwoPhase, refuse};

use crate::accounts::{self, Posting};
use crate::tcc::{no_account, post};

/// Makes the participant, with the actions `debit` and `credit`.
#[must_use]
pub fn bank(name: &str, database: Postgres) -> Participant<Postgres> {
    Participant::new(name, database).two_phase("debit", Debit).two_phase("credit", Credit)
}

/// Action that takes money from an account.
#[derive(Clone, Copy, Debug)]
pub struct Debit;

/// Action that gives money to an account.
#[derive(Clone, Copy, Debug)]
pub struct Credit;

impl TwoPhase for Debit {
    type Payload = Json<Posting>;

    async fn prepare(
        &self,
        db: &mut PgConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        call.payload.check()?;
        let take = "UPDATE account SET cents = cents - $2 WHERE id = $1 AND cents >= $2";
        match post(db, take, call).await? {
            1 => Ok(()),
            _ if accounts::exists(db, &call.payload.account).await? => {
                refuse("INSUFFICIENT_FUNDS", format!("{} has too little", call.payload.account))
            }
            _ => Err(no_account(call)),
        }
    }
}

impl TwoPhase for Credit {
    type Payload = Json<Posting>;

    async fn prepare(
        &self,
        db: &mut PgConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        call.payload.check()?;
        match post(db, "UPDATE account SET cents = cents + $2 WHERE id = $1", call).await? {
            1 => Ok(()),
            _ => Err(no_account(call)),
        }
    }
}
