//! Handlers of a bank, which is an ordinary participant: TCC on SQLite, two-phase commit on
//! PostgreSQL.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, SqliteConnection};
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, Postgres, PrepareError, Sqlite, Tcc, TwoPhase, fail,
    refuse,
};

/// Change of an account, in cents: negative takes money, positive gives it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Posting {
    pub(super) account: String,
    pub(super) cents: i64,
}

pub(super) fn on_sqlite(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).tcc("post", Post)
}

pub(super) fn on_postgres(name: &str, database: Postgres) -> Participant<Postgres> {
    Participant::new(name, database).two_phase("post", Post)
}

struct Post;

type Posted = Call<Json<Posting>>;

/// Money that is taken moves from `cents` to `held` in try; money that is given arrives in confirm.
impl Tcc<Sqlite> for Post {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(&self, db: &mut SqliteConnection, call: &Posted) -> Result<(), PrepareError> {
        let hold = "UPDATE account SET cents = cents + min($2, 0), held = held + $2
                    WHERE id = $1 AND cents + $2 >= 0";
        match post(db, hold, call).await? {
            0 => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", call.payload.account)),
            _ => Ok(()),
        }
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Posted,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let confirm = "UPDATE account SET cents = cents + max($2, 0), held = held - $2
                       WHERE id = $1";
        finish(db, confirm, call).await
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        call: &Posted,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let release = "UPDATE account SET cents = cents - min($2, 0), held = held - $2
                       WHERE id = $1";
        finish(db, release, call).await
    }
}

async fn post(db: &mut SqliteConnection, sql: &'static str, call: &Posted) -> sqlx::Result<u64> {
    let Posting { account, cents } = &*call.payload;
    Ok(sqlx::query(sql).bind(account).bind(cents).execute(db).await?.rows_affected())
}

/// Runs a statement of phase two: the account must be there.
async fn finish(
    db: &mut SqliteConnection,
    sql: &'static str,
    call: &Posted,
) -> Result<(), PhaseTwoError> {
    match post(db, sql, call).await? {
        1 => Ok(()),
        found => {
            fail(format!("account {} is gone: must be 1 row, found {found}", call.payload.account))
        }
    }
}

/// Plain work: PostgreSQL keeps the local transaction prepared, and hides its changes until Commit.
impl TwoPhase for Post {
    type Payload = Json<Posting>;

    async fn prepare(&self, db: &mut PgConnection, call: &Posted) -> Result<(), PrepareError> {
        let Posting { account, cents } = &*call.payload;
        let change = "UPDATE account SET cents = cents + $2 WHERE id = $1 AND cents + $2 >= 0";
        let changed = sqlx::query(change).bind(account).bind(cents).execute(db).await?;
        match changed.rows_affected() {
            0 => refuse("INSUFFICIENT_FUNDS", format!("{account} has too little")),
            _ => Ok(()),
        }
    }
}
