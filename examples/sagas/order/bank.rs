//! Bank: takes money from an account, and gives it, by try, confirm, cancel.

use serde::Deserialize;
use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PhaseTwoError, PrepareError, Sqlite, Tcc, refuse};

use crate::sagas::logbook;
use crate::sagas::rows::one_row;

/// `held` is money of debits that are not decided, `incoming` that of credits.
pub(super) const TABLES: &str = "
CREATE TABLE account (id text PRIMARY KEY, cents integer NOT NULL CHECK (cents >= 0),
                      held integer NOT NULL DEFAULT 0 CHECK (held >= 0),
                      incoming integer NOT NULL DEFAULT 0 CHECK (incoming >= 0),
                      is_blocked integer NOT NULL DEFAULT false);
INSERT INTO account (id, cents) VALUES ('customer', 10000), ('shop', 50000);";

pub(super) fn bank(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).tcc("debit", Debit).tcc("credit", Credit)
}

/// Payload of both actions.
#[derive(Debug, Deserialize)]
pub(super) struct Posting {
    account: String,
    cents: i64,
}

struct Debit;

impl Tcc<Sqlite> for Debit {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(&self, db: &mut SqliteConnection, call: &Posted) -> Result<(), PrepareError> {
        let hold = "UPDATE account SET cents = cents - $2, held = held + $2
                    WHERE id = $1 AND cents >= $2 AND NOT is_blocked AND $2 > 0";
        if post(db, hold, call).await? == 0 {
            return refuse("DECLINED", "the account is blocked, or has too little");
        }
        logbook::done(db, call, format!("held {} cents", call.payload.cents)).await?;
        Ok(())
    }

    async fn confirm(&self, db: &mut SqliteConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        let pay = "UPDATE account SET held = held - $2 WHERE id = $1 AND held >= $2";
        finish(db, pay, call).await?;
        logbook::confirmed(db, call, format!("paid {} cents", call.payload.cents)).await?;
        Ok(())
    }

    async fn cancel(&self, db: &mut SqliteConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        let release = "UPDATE account SET cents = cents + $2, held = held - $2
                       WHERE id = $1 AND held >= $2";
        finish(db, release, call).await?;
        logbook::undone(db, call, format!("released {} cents", call.payload.cents)).await?;
        Ok(())
    }
}

struct Credit;

impl Tcc<Sqlite> for Credit {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(&self, db: &mut SqliteConnection, call: &Posted) -> Result<(), PrepareError> {
        let announce = "UPDATE account SET incoming = incoming + $2
                        WHERE id = $1 AND NOT is_blocked AND $2 > 0";
        if post(db, announce, call).await? == 0 {
            return refuse("DECLINED", "the account is blocked");
        }
        logbook::done(db, call, format!("announced {} cents", call.payload.cents)).await?;
        Ok(())
    }

    async fn confirm(&self, db: &mut SqliteConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        let arrive = "UPDATE account SET cents = cents + $2, incoming = incoming - $2
                      WHERE id = $1 AND incoming >= $2";
        finish(db, arrive, call).await?;
        logbook::confirmed(db, call, format!("received {} cents", call.payload.cents)).await?;
        Ok(())
    }

    async fn cancel(&self, db: &mut SqliteConnection, call: &Posted, (): ()) -> PhaseTwoResult {
        let withdraw =
            "UPDATE account SET incoming = incoming - $2 WHERE id = $1 AND incoming >= $2";
        finish(db, withdraw, call).await?;
        logbook::undone(db, call, format!("withdrew {} cents", call.payload.cents)).await?;
        Ok(())
    }
}

type Posted = Call<Json<Posting>>;

type PhaseTwoResult = Result<(), PhaseTwoError>;

async fn post(
    db: &mut SqliteConnection,
    statement: &'static str,
    call: &Posted,
) -> sqlx::Result<u64> {
    let Posting { account, cents } = &*call.payload;
    Ok(sqlx::query(statement).bind(account).bind(cents).execute(db).await?.rows_affected())
}

/// Runs a statement of phase two: what try has held or announced must be there.
async fn finish(
    db: &mut SqliteConnection,
    statement: &'static str,
    call: &Posted,
) -> PhaseTwoResult {
    let Posting { account, cents } = &*call.payload;
    one_row(post(db, statement, call).await?, format_args!("account {account} with {cents} cents"))
}
