//! Banks of the examples on other databases and drivers than theirs: the same handlers on each of them.

pub mod mariadb;
pub mod tokio_postgres;

use unanimo_examples::Posting;
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, PrepareError, Resource, Tcc, TwoPhase,
    TwoPhaseResource, fail, refuse,
};

/// Makes the participant of TCC, with the actions `debit` and `credit`.
#[must_use]
pub fn tcc<R: Resource<Connection: Accounts>>(name: &str, database: R) -> Participant<R> {
    Participant::new(name, database).tcc("debit", DEBIT).tcc("credit", CREDIT)
}

/// Makes the participant of two-phase commit, with the same actions.
#[must_use]
pub fn two_phase<R: TwoPhaseResource<Connection: Accounts>>(
    name: &str,
    database: R,
) -> Participant<R> {
    Participant::new(name, database).two_phase("debit", DEBIT).two_phase("credit", CREDIT)
}

/// Changes of cents, held and incoming.
pub type Change = [i64; 3];

/// All that the handlers ask of a connection.
pub trait Accounts: Send + 'static {
    /// Error of the driver.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Changes an account, and returns the number of changed accounts: 0 if the account does not exist
    /// or would have too little left.
    fn post(
        &mut self,
        account: &str,
        change: Change,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;
}

/// Action, given by the change that each of its operations makes for each cent of a posting.
struct Action {
    try_: Change,
    confirm: Change,
    cancel: Change,
}

const DEBIT: Action = Action { try_: [-1, 1, 0], confirm: [0, -1, 0], cancel: [1, -1, 0] };
const CREDIT: Action = Action { try_: [0, 0, 1], confirm: [1, 0, -1], cancel: [0, 0, -1] };

impl<R: Resource<Connection: Accounts>> Tcc<R> for Action {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut R::Connection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        begin(db, self.try_, &call.payload).await
    }

    async fn confirm(
        &self,
        db: &mut R::Connection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        finish(db, self.confirm, &call.payload).await
    }

    async fn cancel(
        &self,
        db: &mut R::Connection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        finish(db, self.cancel, &call.payload).await
    }
}

/// The change as a whole: the database keeps it prepared.
impl<R: TwoPhaseResource<Connection: Accounts>> TwoPhase<R> for Action {
    type Payload = Json<Posting>;

    async fn prepare(
        &self,
        db: &mut R::Connection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        begin(db, [self.try_[0] + self.confirm[0], 0, 0], &call.payload).await
    }
}

async fn begin(
    db: &mut impl Accounts,
    of_a_cent: Change,
    posting: &Posting,
) -> Result<(), PrepareError> {
    posting.check()?;
    match post(db, of_a_cent, posting).await? {
        1 => Ok(()),
        _ => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", posting.account)),
    }
}

async fn finish(
    db: &mut impl Accounts,
    of_a_cent: Change,
    posting: &Posting,
) -> Result<(), PhaseTwoError> {
    match post(db, of_a_cent, posting).await? {
        1 => Ok(()),
        found => fail(format!("there are {found} accounts {}", posting.account)),
    }
}

async fn post<A: Accounts>(
    db: &mut A,
    of_a_cent: Change,
    posting: &Posting,
) -> Result<u64, A::Error> {
    db.post(&posting.account, of_a_cent.map(|sign| sign * posting.cents)).await
}
