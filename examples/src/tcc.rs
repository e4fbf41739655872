//! Bank by try, confirm, cancel: a debit holds the money first, a credit announces it.

use sqlx::postgres::PgConnection;
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, Postgres, PrepareError, Refusal, Tcc, refuse,
};

use crate::accounts::{self, Posting};

/// Makes the participant, with the actions `debit` and `credit`.
#[must_use]
pub fn bank(name: &str, database: Postgres) -> Participant<Postgres> {
    Participant::new(name, database).tcc("debit", Debit).tcc("credit", Credit)
}

/// Action that takes money from an account.
#[derive(Clone, Copy, Debug)]
pub struct Debit;

/// Action that gives money to an account.
#[derive(Clone, Copy, Debug)]
pub struct Credit;

impl Tcc<Postgres> for Debit {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(&self, db: &mut PgConnection, call: &Posted) -> Result<(), PrepareError> {
        call.payload.check()?;
        let hold = "UPDATE account SET cents = cents - $2, held = held + $2
                    WHERE id = $1 AND cents >= $2";
        match post(db, hold, call).await? {
            1 => Ok(()),
            _ if accounts::exists(db, &call.payload.account).await? => {
                refuse("INSUFFICIENT_FUNDS", format!("{} has too little", call.payload.account))
            }
            _ => Err(no_account(call)),
        }
    }

    async fn confirm(&self, db: &mut PgConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        finish(db, "UPDATE account SET held = held - $2 WHERE id = $1", call).await
    }

    async fn cancel(&self, db: &mut PgConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        let release = "UPDATE account SET cents = cents + $2, held = held - $2 WHERE id = $1";
        finish(db, release, call).await
    }
}

impl Tcc<Postgres> for Credit {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(&self, db: &mut PgConnection, call: &Posted) -> Result<(), PrepareError> {
        call.payload.check()?;
        let announce = "UPDATE account SET incoming = incoming + $2 WHERE id = $1";
        match post(db, announce, call).await? {
            1 => Ok(()),
            _ => Err(no_account(call)),
        }
    }

    async fn confirm(&self, db: &mut PgConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        let arrive = "UPDATE account SET cents = cents + $2, incoming = incoming - $2
                      WHERE id = $1";
        finish(db, arrive, call).await
    }

    async fn cancel(&self, db: &mut PgConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        finish(db, "UPDATE account SET incoming = incoming - $2 WHERE id = $1", call).await
    }
}

type Posted = Call<Json<Posting>>;

type PhaseTwoResult = Result<(), PhaseTwoError>;

/// Runs a statement for a posting, and returns the number of accounts that it changed.
pub(crate) async fn post(
    db: &mut PgConnection,
    statement: &'static str,
    call: &Call<Json<Posting>>,
) -> sqlx::Result<u64> {
    let Posting { account, cents } = &*call.payload;
    let done = sqlx::query(statement).bind(account).bind(cents).execute(db).await?;
    Ok(done.rows_affected())
}

/// Runs a statement of phase two. An account that has vanished since phase one is not passed over: the call
/// comes again, and an operator sees a transaction that does not end.
async fn finish(
    db: &mut PgConnection,
    statement: &'static str,
    call: &Call<Json<Posting>>,
) -> PhaseTwoResult {
    match post(db, statement, call).await? {
        1 => Ok(()),
        found => {
            let text = format!("there are {found} accounts {}", call.payload.account);
            Err(PhaseTwoError::Failed(text.into()))
        }
    }
}

/// Makes the refusal of a posting to an account that does not exist.
pub(crate) fn no_account(call: &Call<Json<Posting>>) -> PrepareError {
    let message = format!("there is no account {}", call.payload.account);
    PrepareError::Refused(Refusal::new("NO_SUCH_ACCOUNT", message))
}
