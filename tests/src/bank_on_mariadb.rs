//! Banks of the examples in the SQL of MariaDB.

use sqlx::{MySqlConnection, MySqlPool};
use unanimo_examples::Posting;
use unanimo_sdk::{
    Call, Json, MySql, Participant, PhaseTwoError, PrepareError, Tcc, TwoPhase, refuse,
};

/// Makes the participant of TCC, with the actions `debit` and `credit`.
#[must_use]
pub fn bank(name: &str, database: MySql) -> Participant<MySql> {
    Participant::new(name, database).tcc("debit", DEBIT).tcc("credit", CREDIT)
}

/// Makes the participant of two-phase commit, with the same actions.
#[must_use]
pub fn two_phase_bank(name: &str, database: MySql) -> Participant<MySql> {
    Participant::new(name, database).two_phase("debit", DEBIT).two_phase("credit", CREDIT)
}

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

/// Changes of cents, held and incoming, for each cent of a posting.
type Change = [i64; 3];

/// Action, given by the change that each of its operations makes.
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
    ) -> Result<(), PhaseTwoError> {
        post(db, self.confirm, &call.payload).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        post(db, self.cancel, &call.payload).await?;
        Ok(())
    }
}

/// The change as a whole: the database keeps it prepared.
impl TwoPhase<MySql> for Action {
    type Payload = Json<Posting>;

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        call.payload.check()?;
        let whole = [self.try_[0] + self.confirm[0], 0, 0];
        match post(db, whole, &call.payload).await? {
            1 => Ok(()),
            _ => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", call.payload.account)),
        }
    }
}

/// Changes an account, and returns the number of changed accounts: 0 if the account does not exist
/// or would have too little left.
async fn post(db: &mut MySqlConnection, change: Change, posting: &Posting) -> sqlx::Result<u64> {
    let [cents, held, incoming] = change.map(|sign| sign * posting.cents);
    let post = sqlx::query(
        "UPDATE account SET cents = cents + ?, held = held + ?, incoming = incoming + ?
         WHERE id = ? AND cents + ? >= 0",
    );
    let post = post.bind(cents).bind(held).bind(incoming).bind(&posting.account).bind(cents);
    Ok(post.execute(db).await?.rows_affected())
}
