//! Work outside of the participant's database (promises S7, S8 and S11): the same cases on every database.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use unanimo_proto::v1::cancel_response::Answer as Cancelled;
use unanimo_proto::v1::prepare_response::Answer as Voted;
use unanimo_proto::v1::{HeuristicKind, Mode};
use unanimo_sdk::{
    Call, Isolation, Json, Participant, PhaseTwoError, PrepareError, SagaOutside, Service,
    TccOutside, fail, refuse, working,
};
use uuid::Uuid;

use super::databases::Database;
use super::direct::{Branch, branch, refused};

/// The cases as tests, once for each database and isolation.
macro_rules! on_every_database {
    ($($case:ident,)*) => {
        on_every_database!(@ postgres, Postgres, ReadCommitted, $($case,)*);
        on_every_database!(@ postgres_repeatable_read, Postgres, RepeatableRead, $($case,)*);
        on_every_database!(@ tokio_postgres, OverTokio, ReadCommitted, $($case,)*);
        on_every_database!(@ mariadb, MySql, ReadCommitted, $($case,)*);
        on_every_database!(@ sqlite, Sqlite, ReadCommitted, $($case,)*);
    };
    (@ $module:ident, $database:ident, $isolation:ident, $($case:ident,)*) => {
        mod $module {
            use unanimo_sdk::Isolation;

            use super::World;
            use crate::participant::databases::$database;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(World::<$database>::open(Isolation::$isolation).await).await;
                }
            )*
        }
    };
}

on_every_database!(
    s7_what_died_behind_its_request_is_cancelled_outside_and_once,
    s8_a_cancel_of_what_never_happened_is_done_and_leaves_a_tombstone,
    s7_a_cancel_that_fails_outside_comes_again,
    s7_no_refusal_leaves_anything_outside,
    s7_a_refusal_is_not_stored_before_it_is_undone,
    what_must_succeed_is_not_undone,
    s8_a_cancel_waits_for_the_prepare_that_is_at_work,
    s8_a_prepare_waits_for_the_cancel_that_is_at_work,
    s8_cancels_at_once_call_the_handler_once,
    s8_prepare_races_cancel_and_nothing_is_held,
    s7_a_yes_is_cancelled_with_its_output,
    s11_a_cancel_that_ends_its_transaction_is_never_done_without_its_row,
    what_cannot_be_read_never_happened,
);

/// Deeds of a call, beside its request to the other service and its effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Deed {
    #[default]
    Work,
    Fail,
    Refuse,
    Working,
    /// Breaks a rule of the database.
    Break,
    Wait,
    WaitAndFail,
    /// Ends its transaction.
    Commit,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Job {
    first: Deed,
    back: Deed,
}

/// The other service: whom it holds something for, who was released, and each call to release.
#[derive(Debug, Default)]
struct Elsewhere {
    held: BTreeSet<Uuid>,
    released: BTreeSet<Uuid>,
    releases: Vec<(Uuid, Option<u8>)>,
}

#[derive(Clone, Debug)]
struct Pay {
    elsewhere: Arc<Mutex<Elsewhere>>,
    at_work: Arc<Semaphore>,
    goes_on: Arc<Semaphore>,
    isolation: Isolation,
}

impl Pay {
    fn elsewhere(&self) -> std::sync::MutexGuard<'_, Elsewhere> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn first<D: Database>(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
    ) -> Result<Json<u8>, PrepareError> {
        effect::<D>(db, call.branch.tx_id, "try").await?;
        {
            let mut elsewhere = self.elsewhere();
            if elsewhere.released.contains(&call.branch.tx_id) {
                return refuse("RELEASED", "this key was released");
            }
            elsewhere.held.insert(call.branch.tx_id);
        }
        match call.payload.first {
            Deed::Refuse => refuse("NO", "said the handler"),
            Deed::Fail => fail("as if the process died"),
            Deed::Working => working(Duration::from_millis(7)),
            Deed::WaitAndFail => {
                self.wait().await;
                fail("as if the process died")
            }
            Deed::Wait => {
                self.wait().await;
                Ok(Json(7))
            }
            Deed::Break => {
                D::run(db, "INSERT INTO effect VALUES (NULL, 'try')".to_owned()).await?;
                Ok(Json(7))
            }
            Deed::Work | Deed::Commit => Ok(Json(7)),
        }
    }

    async fn back<D: Database>(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        output: Option<Json<u8>>,
    ) -> Result<(), PhaseTwoError> {
        effect::<D>(db, call.branch.tx_id, "cancel").await?;
        {
            let mut elsewhere = self.elsewhere();
            elsewhere.releases.push((call.branch.tx_id, output.map(|Json(output)| output)));
            elsewhere.held.remove(&call.branch.tx_id);
            elsewhere.released.insert(call.branch.tx_id);
        }
        match call.payload.back {
            Deed::Fail => fail("as if the process died"),
            Deed::Working => working(Duration::from_millis(7)),
            Deed::Wait => {
                self.wait().await;
                Ok(())
            }
            Deed::Commit => {
                // Errors are swallowed, as a careless handler does.
                let _ = D::run(db, "COMMIT".to_owned()).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn wait(&self) {
        self.at_work.add_permits(1);
        self.goes_on.acquire().await.unwrap().forget();
    }
}

async fn effect<D: Database>(
    db: &mut D::Connection,
    tx_id: Uuid,
    what: &str,
) -> Result<u64, D::Error> {
    D::run(db, format!("INSERT INTO effect VALUES ('{tx_id}', '{what}')")).await
}

impl<D: Database> TccOutside<D> for Pay {
    type Payload = Json<Job>;
    type Output = Json<u8>;

    async fn try_(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
    ) -> Result<Json<u8>, PrepareError> {
        self.first::<D>(db, call).await
    }

    async fn confirm(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        _: Json<u8>,
    ) -> Result<(), PhaseTwoError> {
        effect::<D>(db, call.branch.tx_id, "confirm").await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        output: Option<Json<u8>>,
    ) -> Result<(), PhaseTwoError> {
        self.back::<D>(db, call, output).await
    }

    fn isolation(&self) -> Isolation {
        self.isolation
    }
}

impl<D: Database> SagaOutside<D> for Pay {
    type Payload = Json<Job>;
    type Output = Json<u8>;

    async fn run(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
    ) -> Result<Json<u8>, PrepareError> {
        self.first::<D>(db, call).await
    }

    async fn compensate(
        &self,
        db: &mut D::Connection,
        call: &Call<Json<Job>>,
        output: Option<Json<u8>>,
    ) -> Result<(), PhaseTwoError> {
        self.back::<D>(db, call, output).await
    }

    fn isolation(&self) -> Isolation {
        self.isolation
    }
}

/// A participant on a database of its own, and the other service.
struct World<D: Database> {
    pool: D::Pool,
    service: Service<D>,
    pay: Pay,
}

impl<D: Database> Clone for World<D> {
    fn clone(&self) -> Self {
        let Self { pool, service, pay } = self;
        Self { pool: pool.clone(), service: service.clone(), pay: pay.clone() }
    }
}

/// An answer without what the cases do not look at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Yes,
    No(String),
    Done,
    Working,
    Heuristic(HeuristicKind),
    Nothing,
}

fn no(reason: &str) -> Answer {
    Answer::No(reason.to_owned())
}

impl<D: Database> World<D> {
    async fn open(isolation: Isolation) -> Self {
        let (resource, pool) = D::open().await;
        let table = "CREATE TABLE effect (tx_id varchar(36) NOT NULL, what varchar(16))";
        D::run_outside(&pool, table.to_owned()).await;
        let pay = Pay {
            elsewhere: Arc::default(),
            at_work: Arc::new(Semaphore::new(0)),
            goes_on: Arc::new(Semaphore::new(0)),
            isolation,
        };
        let participant = Participant::new("p", resource)
            .tcc_outside("pay", pay.clone())
            .saga_outside("step", pay.clone());
        Self { pool, service: participant.service().unwrap(), pay }
    }

    async fn prepare(&self, branch: &Branch) -> Answer {
        match branch.prepare(&self.service).await {
            Ok(Voted::Prepared(_)) => Answer::Yes,
            Ok(Voted::Working(_)) => Answer::Working,
            Ok(answer) => Answer::No(refused(answer)),
            Err(_) => Answer::Nothing,
        }
    }

    async fn cancel(&self, branch: &Branch) -> Answer {
        match branch.cancel(&self.service).await {
            Ok(Cancelled::Done(_)) => Answer::Done,
            Ok(Cancelled::Working(_)) => Answer::Working,
            Ok(Cancelled::Heuristic(heuristic)) => Answer::Heuristic(heuristic.kind()),
            Err(_) => Answer::Nothing,
        }
    }

    /// Cancels until that has an end.
    async fn cancelled(&self, branch: &Branch) -> Answer {
        loop {
            match self.cancel(branch).await {
                Answer::Working | Answer::Nothing => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                end => return end,
            }
        }
    }

    fn is_held(&self, branch: &Branch) -> bool {
        self.pay.elsewhere().held.contains(&branch.tx_id())
    }

    /// Outputs of each call to release.
    fn releases(&self, branch: &Branch) -> Vec<Option<u8>> {
        let elsewhere = self.pay.elsewhere();
        let of_it = elsewhere.releases.iter().filter(|(key, _)| *key == branch.tx_id());
        of_it.map(|(_, output)| *output).collect()
    }

    /// Number of effects of phase one, and of Cancel, in the database.
    async fn effects(&self, branch: &Branch) -> (i64, i64) {
        let tx_id = branch.tx_id();
        let count = async |what: &str| {
            let count =
                format!("SELECT count(*) FROM effect WHERE tx_id = '{tx_id}' AND what = '{what}'");
            D::number(&self.pool, count).await
        };
        (count("try").await, count("cancel").await)
    }

    async fn state(&self, branch: &Branch) -> Option<String> {
        let tx_id = branch.tx_id();
        let state = format!("SELECT state FROM unanimo_barrier WHERE tx_id = '{tx_id}'");
        D::text(&self.pool, state).await
    }
}

fn of(mode: Mode, first: Deed, back: Deed) -> Branch {
    let action = if mode == Mode::Tcc { "pay" } else { "step" };
    with(branch(mode, action), first, back)
}

fn tcc(first: Deed, back: Deed) -> Branch {
    of(Mode::Tcc, first, back)
}

/// The same branch that is asked for otherwise.
fn with(branch: Branch, first: Deed, back: Deed) -> Branch {
    Branch { payload: serde_json::to_vec(&Job { first, back }).unwrap().into(), ..branch }
}

fn that_is_late(branch: Branch) -> Branch {
    let ago = SystemTime::now() - Duration::from_secs(60);
    Branch { prepare_until: Some(ago.into()), ..branch }
}

async fn s7_what_died_behind_its_request_is_cancelled_outside_and_once<D: Database>(
    world: World<D>,
) {
    for mode in [Mode::Tcc, Mode::Saga] {
        let branch = of(mode, Deed::Fail, Deed::Work);
        assert_eq!(world.prepare(&branch).await, Answer::Nothing);
        assert!(world.is_held(&branch));
        assert_eq!(world.state(&branch).await, None, "nothing tells of it");
        for _ in 0..2 {
            assert_eq!(world.cancel(&branch).await, Answer::Done);
            assert!(!world.is_held(&branch), "S7: {mode:?}");
            assert_eq!(world.releases(&branch), [None], "S8: behind the tombstone, no call");
        }
        assert_eq!(world.effects(&branch).await, (0, 1), "S7");
        assert_eq!(world.state(&branch).await.as_deref(), Some("cancelled"));
        let late = with(branch, Deed::Work, Deed::Work);
        assert_eq!(world.prepare(&late).await, no("ALREADY_ENDED"), "S8");
        assert!(!world.is_held(&late), "S8");
    }
    // One that says "working" has left nothing in the database either.
    let branch = tcc(Deed::Working, Deed::Work);
    assert_eq!(world.prepare(&branch).await, Answer::Working);
    assert_eq!(world.cancel(&branch).await, Answer::Done);
    assert!(!world.is_held(&branch), "S7");
}

async fn s8_a_cancel_of_what_never_happened_is_done_and_leaves_a_tombstone<D: Database>(
    world: World<D>,
) {
    let branch = tcc(Deed::Work, Deed::Work);
    for _ in 0..3 {
        assert_eq!(world.cancel(&branch).await, Answer::Done, "S8");
        assert_eq!(world.releases(&branch), [None]);
    }
    assert_eq!(world.prepare(&branch).await, no("ALREADY_ENDED"), "S8");
    assert_eq!(world.effects(&branch).await, (0, 1), "S8");
    assert!(!world.is_held(&branch), "S8");
}

async fn s7_a_cancel_that_fails_outside_comes_again<D: Database>(world: World<D>) {
    let branch = tcc(Deed::Fail, Deed::Fail);
    assert_eq!(world.prepare(&branch).await, Answer::Nothing);
    assert_eq!(world.cancel(&branch).await, Answer::Nothing);
    assert_eq!(world.state(&branch).await, None, "it is not said to be done");
    let still = with(branch.clone(), Deed::Work, Deed::Working);
    assert_eq!(world.cancel(&still).await, Answer::Working);
    assert_eq!(world.effects(&branch).await, (0, 0), "S7");
    let well = with(branch, Deed::Work, Deed::Work);
    assert_eq!(world.cancel(&well).await, Answer::Done);
    assert_eq!(world.releases(&well), [None, None, None]);
    assert_eq!(world.effects(&well).await, (0, 1), "S7: once in the database");
}

/// Nobody sends a Cancel to a branch that voted no.
async fn s7_no_refusal_leaves_anything_outside<D: Database>(world: World<D>) {
    let late = tcc(Deed::Fail, Deed::Work);
    assert_eq!(world.prepare(&late).await, Answer::Nothing);
    let broken = tcc(Deed::Break, Deed::Work);
    let voted = world.prepare(&broken).await;
    assert!(matches!(voted, Answer::No(_)), "what the database says of the work: {voted:?}");
    for (branch, reason) in [
        (tcc(Deed::Refuse, Deed::Work), Some("NO")),
        (of(Mode::Saga, Deed::Refuse, Deed::Work), Some("NO")),
        (that_is_late(late), Some("TOO_LATE")),
        (broken, None),
    ] {
        let voted = world.prepare(&branch).await;
        assert!(reason.is_none_or(|reason| voted == no(reason)), "{voted:?}");
        assert!(!world.is_held(&branch), "S7: {reason:?}");
        assert_eq!(world.state(&branch).await.as_deref(), Some("refused"));
        assert_eq!(world.effects(&branch).await, (0, 1), "S7: {reason:?}");
        assert_eq!(world.cancel(&branch).await, Answer::Done);
        assert_eq!(world.prepare(&branch).await, voted, "the stored answer");
        assert_eq!(world.releases(&branch), [None], "S8: {reason:?}");
    }
}

async fn s7_a_refusal_is_not_stored_before_it_is_undone<D: Database>(world: World<D>) {
    for branch in [tcc(Deed::Refuse, Deed::Fail), that_is_late(tcc(Deed::Work, Deed::Fail))] {
        assert_eq!(world.prepare(&branch).await, Answer::Nothing);
        assert_eq!(world.state(&branch).await, None);
        let still = with(branch.clone(), Deed::Refuse, Deed::Working);
        assert_eq!(world.prepare(&still).await, Answer::Working);
        assert_eq!(world.effects(&branch).await, (0, 0), "S7");
        let well = with(branch, Deed::Refuse, Deed::Work);
        let voted = world.prepare(&well).await;
        assert!(matches!(voted, Answer::No(_)), "{voted:?}");
        assert_eq!(world.state(&well).await.as_deref(), Some("refused"));
        assert!(!world.is_held(&well), "S7");
    }
}

/// A no is then no vote: the work comes again, and must find its key.
async fn what_must_succeed_is_not_undone<D: Database>(world: World<D>) {
    let branch = Branch {
        must_succeed: true,
        prepare_until: None,
        requires: vec!["must_succeed".to_owned()],
        ..of(Mode::Saga, Deed::Refuse, Deed::Work)
    };
    assert_eq!(world.prepare(&branch).await, no("NO"));
    assert!(world.releases(&branch).is_empty());
    let well = with(branch, Deed::Work, Deed::Work);
    assert_eq!(world.prepare(&well).await, Answer::Yes);
    assert!(world.is_held(&well));
}

async fn s8_a_cancel_waits_for_the_prepare_that_is_at_work<D: Database>(world: World<D>) {
    for (deed, releases) in [(Deed::Wait, Some(7)), (Deed::WaitAndFail, None)] {
        let branch = tcc(deed, Deed::Work);
        let at_work = {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move { world.prepare(&branch).await })
        };
        world.pay.at_work.acquire().await.unwrap().forget();
        assert_eq!(world.cancel(&branch).await, Answer::Working, "S8");
        assert!(world.releases(&branch).is_empty(), "S8: its request is still on its way");
        let cancel = {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move { world.cancelled(&branch).await })
        };
        world.pay.goes_on.add_permits(1);
        let voted = at_work.await.unwrap();
        assert_eq!(voted, if releases.is_some() { Answer::Yes } else { Answer::Nothing });
        assert_eq!(cancel.await.unwrap(), Answer::Done);
        assert_eq!(world.releases(&branch), [releases], "S7");
        assert!(!world.is_held(&branch), "S7");
    }
}

async fn s8_a_prepare_waits_for_the_cancel_that_is_at_work<D: Database>(world: World<D>) {
    let branch = tcc(Deed::Work, Deed::Wait);
    let at_work = {
        let (world, branch) = (world.clone(), branch.clone());
        tokio::spawn(async move { world.cancel(&branch).await })
    };
    world.pay.at_work.acquire().await.unwrap().forget();
    assert_eq!(world.prepare(&branch).await, Answer::Working, "S8");
    world.pay.goes_on.add_permits(1);
    assert_eq!(at_work.await.unwrap(), Answer::Done);
    assert_eq!(world.prepare(&branch).await, no("ALREADY_ENDED"), "S8");
    assert_eq!(world.effects(&branch).await, (0, 1), "S8");
    assert!(!world.is_held(&branch), "S8");
}

async fn s8_cancels_at_once_call_the_handler_once<D: Database>(world: World<D>) {
    let branch = tcc(Deed::Work, Deed::Work);
    let cancels: Vec<_> = (0..8)
        .map(|_| {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move { world.cancelled(&branch).await })
        })
        .collect();
    for cancel in cancels {
        assert_eq!(cancel.await.unwrap(), Answer::Done);
    }
    assert_eq!(world.effects(&branch).await, (0, 1), "S8");
}

async fn s8_prepare_races_cancel_and_nothing_is_held<D: Database>(world: World<D>) {
    for round in 0..30 {
        let deed = if round % 2 == 0 { Deed::Work } else { Deed::Fail };
        let branch = tcc(deed, Deed::Work);
        let prepare = {
            let (world, branch) = (world.clone(), branch.clone());
            tokio::spawn(async move { world.prepare(&branch).await })
        };
        assert_eq!(world.cancelled(&branch).await, Answer::Done);
        prepare.await.unwrap();
        let again = with(branch, Deed::Work, Deed::Work);
        assert_eq!(world.prepare(&again).await, no("ALREADY_ENDED"), "S8");
        assert!(!world.is_held(&again), "S8: round {round}");
        assert_eq!(world.effects(&again).await.1, 1, "S7: round {round}");
    }
}

async fn s7_a_yes_is_cancelled_with_its_output<D: Database>(world: World<D>) {
    for mode in [Mode::Tcc, Mode::Saga] {
        let branch = of(mode, Deed::Work, Deed::Work);
        assert_eq!(world.prepare(&branch).await, Answer::Yes);
        assert_eq!(world.cancel(&branch).await, Answer::Done);
        assert_eq!(world.releases(&branch), [Some(7)]);
        assert_eq!(world.effects(&branch).await, (1, 1), "S7");
    }
    let branch = tcc(Deed::Work, Deed::Work);
    assert_eq!(world.prepare(&branch).await, Answer::Yes);
    branch.commit(&world.service).await.unwrap();
    assert!(world.is_held(&branch));
    assert_eq!(world.cancel(&branch).await, Answer::Heuristic(HeuristicKind::Commit), "S11");
}

/// A handler that commits by itself has committed the row, which says so. Where it could not commit, nothing is
/// left of it.
async fn s11_a_cancel_that_ends_its_transaction_is_never_done_without_its_row<D: Database>(
    world: World<D>,
) {
    let branch = tcc(Deed::Work, Deed::Commit);
    assert_eq!(world.cancel(&branch).await, Answer::Nothing);
    let well = with(branch, Deed::Work, Deed::Work);
    match world.state(&well).await.as_deref() {
        None => {
            assert_eq!(world.effects(&well).await, (0, 0));
            assert_eq!(world.cancel(&well).await, Answer::Done);
        }
        Some(state) => {
            assert_eq!(state, "running", "S11");
            let hazard = Answer::Heuristic(HeuristicKind::Hazard);
            assert_eq!(world.cancel(&well).await, hazard, "S11");
        }
    }
    assert_eq!(world.effects(&well).await, (0, 1), "S7");
}

async fn what_cannot_be_read_never_happened<D: Database>(world: World<D>) {
    let unreadable = |branch: Branch| Branch { payload: "{".into(), ..branch };
    let branch = unreadable(tcc(Deed::Work, Deed::Work));
    assert_eq!(world.prepare(&branch).await, no("PAYLOAD_UNREADABLE"));
    assert_eq!(world.cancel(&branch).await, Answer::Done);
    let never = unreadable(tcc(Deed::Work, Deed::Work));
    assert_eq!(world.cancel(&never).await, Answer::Done);
    assert_eq!(world.prepare(&never).await, no("ALREADY_ENDED"), "S8");
    assert!(world.releases(&branch).is_empty() && world.releases(&never).is_empty());
}

/// A no that only the commit finds: the work's transaction is gone by then.
async fn s7_a_no_of_the_commit_is_undone<D: Database>(handler_adds: &str) {
    let (resource, pool) = D::open().await;
    for table in [
        "CREATE TABLE parent (id integer PRIMARY KEY)",
        "CREATE TABLE child (of_it integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE one (id integer PRIMARY KEY)",
        "INSERT INTO one VALUES (1)",
    ] {
        D::run_outside(&pool, table.to_owned()).await;
    }
    let adds = Adds { sql: handler_adds.to_owned(), releases: Arc::default() };
    let participant = Participant::new("p", resource).tcc_outside("add", adds.clone());
    let service = participant.service().unwrap();
    let branch = branch(Mode::Tcc, "add");
    for _ in 0..2 {
        let voted = branch.prepare(&service).await.unwrap();
        assert!(matches!(voted, Voted::Refused(_)), "{voted:?}");
        assert_eq!(*adds.releases.lock().unwrap(), 1, "S7: before the no is stored, and once");
    }
    assert!(matches!(branch.cancel(&service).await.unwrap(), Cancelled::Done(_)));
    assert_eq!(*adds.releases.lock().unwrap(), 1);
}

/// Runs a statement, and counts its cancels.
#[derive(Clone, Debug)]
struct Adds {
    sql: String,
    releases: Arc<Mutex<u32>>,
}

impl<D: Database> TccOutside<D> for Adds {
    type Payload = ();
    type Output = ();

    async fn try_(&self, db: &mut D::Connection, _: &Call<()>) -> Result<(), PrepareError> {
        D::run(db, self.sql.clone()).await?;
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut D::Connection,
        _: &Call<()>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut D::Connection,
        _: &Call<()>,
        _: Option<()>,
    ) -> Result<(), PhaseTwoError> {
        *self.releases.lock().unwrap() += 1;
        Ok(())
    }
}

#[tokio::test]
async fn s7_a_deferred_constraint_is_undone_on_postgres() {
    s7_a_no_of_the_commit_is_undone::<unanimo_sdk::Postgres>("INSERT INTO child VALUES (4711)")
        .await;
}

#[tokio::test]
async fn s7_a_deferred_constraint_is_undone_on_sqlite() {
    s7_a_no_of_the_commit_is_undone::<unanimo_sdk::Sqlite>("INSERT INTO child VALUES (4711)").await;
}

/// The conflict rolls the whole transaction back, the row with it.
#[tokio::test]
async fn s7_a_conflict_that_rolls_back_is_undone_on_sqlite() {
    s7_a_no_of_the_commit_is_undone::<unanimo_sdk::Sqlite>(
        "INSERT OR ROLLBACK INTO one VALUES (1)",
    )
    .await;
}
