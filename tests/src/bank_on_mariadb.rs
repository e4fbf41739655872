//! The example's TCC bank in MariaDB's SQL.

use sqlx::{MySqlConnection, MySqlPool};
use unanimo_examples::Posting;
use unanimo_sdk::{Call, FinishError, Json, MySql, Participant, PrepareError, Tcc, refuse};

/// The bank's actions: `debit` and `credit`.
#[must_use]
pub fn bank(name: &str, database: MySql) -> Participant<MySql> {
    Participant::new(name, database).tcc("debit", DEBIT).tcc("credit", CREDIT)
}

/// Makes the table and the accounts.
///
/// # Errors
/// The database does not let it.
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

/// All accounts: name, money that is there, money that is held, money that is coming in.
///
/// # Errors
/// The database does not answer.
pub async fn balances(pool: &MySqlPool) -> sqlx::Result<Vec<(String, i64, i64, i64)>> {
    sqlx::query_as("SELECT id, cents, held, incoming FROM account").fetch_all(pool).await
}

/// What a posting changes by this much: money that is there, that is held, and that is coming in.
type Change = [i64; 3];

/// An action by what each of its operations changes, for each cent.
struct Action {
    try_: Change,
    confirm: Change,
    cancel: Change,
}

const DEBIT: Action = Action { try_: [-1, 1, 0], confirm: [0, -1, 0], cancel: [1, -1, 0] };
const CREDIT: Action = Action { try_: [0, 0, 1], confirm: [1, 0, -1], cancel: [0, 0, -1] };

impl Tcc<MySql> for Action {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        call.payload.check()?;
        match post(db, self.try_, &call.payload).await? {
            1 => Ok(()),
            _ => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", call.payload.account)),
        }
    }

    async fn confirm(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), FinishError> {
        post(db, self.confirm, &call.payload).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), FinishError> {
        post(db, self.cancel, &call.payload).await?;
        Ok(())
    }
}

/// How many accounts it changed: none of which too little would be left.
async fn post(db: &mut MySqlConnection, change: Change, posting: &Posting) -> sqlx::Result<u64> {
    let [cents, held, incoming] = change.map(|sign| sign * posting.cents);
    let post = sqlx::query(
        "UPDATE account SET cents = cents + ?, held = held + ?, incoming = incoming + ?
         WHERE id = ? AND cents + ? >= 0",
    );
    let post = post.bind(cents).bind(held).bind(incoming).bind(&posting.account).bind(cents);
    Ok(post.execute(db).await?.rows_affected())
}
