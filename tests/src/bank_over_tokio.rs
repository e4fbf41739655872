//! Banks of the examples over `tokio-postgres`. Their tables are those of the examples.

use unanimo_examples::Posting;
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, Postgres, PrepareError, Tcc, TokioConnection,
    TokioPostgres, TwoPhase, refuse,
};

type Database = Postgres<TokioPostgres>;

/// Makes the participant of TCC, with the actions `debit` and `credit`.
#[must_use]
pub fn bank(name: &str, database: Database) -> Participant<Database> {
    Participant::new(name, database).tcc("debit", DEBIT).tcc("credit", CREDIT)
}

/// Makes the participant of two-phase commit, with the same actions.
#[must_use]
pub fn two_phase_bank(name: &str, database: Database) -> Participant<Database> {
    Participant::new(name, database).two_phase("debit", DEBIT).two_phase("credit", CREDIT)
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

impl Tcc<Database> for Action {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut TokioConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        call.payload.check()?;
        taken(post(db, self.try_, &call.payload).await?, &call.payload)
    }

    async fn confirm(
        &self,
        db: &mut TokioConnection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        found(post(db, self.confirm, &call.payload).await?)
    }

    async fn cancel(
        &self,
        db: &mut TokioConnection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        found(post(db, self.cancel, &call.payload).await?)
    }
}

/// The change as a whole: the database keeps it prepared.
impl TwoPhase<Database> for Action {
    type Payload = Json<Posting>;

    async fn prepare(
        &self,
        db: &mut TokioConnection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        call.payload.check()?;
        let whole = [self.try_[0] + self.confirm[0], 0, 0];
        taken(post(db, whole, &call.payload).await?, &call.payload)
    }
}

fn taken(accounts: u64, posting: &Posting) -> Result<(), PrepareError> {
    match accounts {
        1 => Ok(()),
        _ => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", posting.account)),
    }
}

fn found(accounts: u64) -> Result<(), PhaseTwoError> {
    match accounts {
        1 => Ok(()),
        _ => Err(PhaseTwoError::Failed("the account is gone".into())),
    }
}

/// Changes an account, and returns the number of changed accounts: 0 if the account does not exist
/// or would have too little left.
async fn post(
    db: &TokioConnection,
    change: Change,
    posting: &Posting,
) -> Result<u64, tokio_postgres::Error> {
    let [cents, held, incoming] = change.map(|sign| sign * posting.cents);
    let post = db.prepare_cached(
        "UPDATE account SET cents = cents + $1, held = held + $2, incoming = incoming + $3
         WHERE id = $4 AND cents + $1 >= 0",
    );
    db.execute(&post.await?, &[&cents, &held, &incoming, &posting.account]).await
}
