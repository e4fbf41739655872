//! Handlers that are closures, and handlers that are the same on several databases.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sqlx::{MySqlConnection, PgConnection, SqliteConnection};
use unanimo_proto::v1::prepare_response::Answer as Voted;
use unanimo_proto::v1::{Mode, cancel_response, commit_response};
use unanimo_sdk::{
    Call, Json, MySql, Participant, Payload, PhaseTwoError, Postgres, PrepareError, Prost,
    Resource, Service, Sqlite, Tcc, TokioConnection, TwoPhaseResource, fail, refuse, working,
};

use super::databases::{Database, OverTokio};
use super::direct::{Branch, branch, refused};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Posting {
    account: String,
    cents: i64,
}

/// All that the handlers ask of a database.
trait Accounts: Send + 'static {
    type Error: std::error::Error + Send + Sync + 'static;

    /// Adds cents to an account, unless it would have too few; tells whether it was done.
    fn add(
        &mut self,
        account: &str,
        cents: i64,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;
}

impl Accounts for PgConnection {
    type Error = sqlx::Error;

    async fn add(&mut self, account: &str, cents: i64) -> sqlx::Result<bool> {
        let add = "UPDATE account SET cents = cents + $2 WHERE id = $1 AND cents + $2 >= 0";
        let done = sqlx::query(add).bind(account).bind(cents).execute(self).await?;
        Ok(done.rows_affected() == 1)
    }
}

impl Accounts for SqliteConnection {
    type Error = sqlx::Error;

    async fn add(&mut self, account: &str, cents: i64) -> sqlx::Result<bool> {
        let add = "UPDATE account SET cents = cents + $2 WHERE id = $1 AND cents + $2 >= 0";
        let done = sqlx::query(add).bind(account).bind(cents).execute(self).await?;
        Ok(done.rows_affected() == 1)
    }
}

impl Accounts for MySqlConnection {
    type Error = sqlx::Error;

    async fn add(&mut self, account: &str, cents: i64) -> sqlx::Result<bool> {
        let add = "UPDATE account SET cents = cents + ? WHERE id = ? AND cents + ? >= 0";
        let done = sqlx::query(add).bind(cents).bind(account).bind(cents).execute(self).await?;
        Ok(done.rows_affected() == 1)
    }
}

impl Accounts for TokioConnection {
    type Error = tokio_postgres::Error;

    async fn add(&mut self, account: &str, cents: i64) -> Result<bool, Self::Error> {
        let add = "UPDATE account SET cents = cents + $2 WHERE id = $1 AND cents + $2 >= 0";
        Ok(self.execute(add, &[&account, &cents]).await? == 1)
    }
}

/// A handler of a type of its own, once for all databases.
struct Debit;

impl<R: Resource<Connection: Accounts>> Tcc<R> for Debit {
    type Payload = Json<Posting>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut R::Connection,
        call: &Call<Json<Posting>>,
    ) -> Result<(), PrepareError> {
        match db.add(&call.payload.account, -call.payload.cents).await? {
            true => Ok(()),
            false => refuse("INSUFFICIENT_FUNDS", "too little"),
        }
    }

    async fn confirm(
        &self,
        _: &mut R::Connection,
        _: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut R::Connection,
        call: &Call<Json<Posting>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        db.add(&call.payload.account, call.payload.cents).await?;
        Ok(())
    }
}

/// The same bank on any of the databases: closures, and the handler above.
fn bank<R: Resource<Connection: Accounts>>(database: R) -> Participant<R> {
    Participant::new("p", database)
        .tcc("debit", Debit)
        .tcc_fn("debit-fn", async |db, Json(debit): Json<Posting>| {
            match db.add(&debit.account, -debit.cents).await? {
                true => Ok(()),
                false => refuse("INSUFFICIENT_FUNDS", format!("{} has too little", debit.account)),
            }
        })
        .confirm(async |_, _| Ok(()))
        .cancel(async |db, Json(debit)| match db.add(&debit.account, debit.cents).await? {
            true => Ok(()),
            false => fail("the account is gone"),
        })
        .saga_fn("pay", pay)
        .compensate(async |db, Json(debit), Json(cents)| {
            db.add(&debit.account, cents).await?;
            Ok(())
        })
        .uncompensated_fn("tip", async |db, Json(tip): Json<Posting>| {
            db.add(&tip.account, tip.cents).await?;
            Ok(())
        })
}

/// A function does as a closure does.
async fn pay<C: Accounts>(
    db: &mut C,
    Json(debit): Json<Posting>,
) -> Result<Json<i64>, PrepareError> {
    match db.add(&debit.account, -debit.cents).await? {
        true => Ok(Json(debit.cents)),
        false => refuse("INSUFFICIENT_FUNDS", "too little"),
    }
}

async fn opened<D: Database>() -> (D, D::Pool) {
    let (resource, pool) = D::open().await;
    let table = "CREATE TABLE account (id varchar(16) PRIMARY KEY, cents bigint NOT NULL)";
    D::run_outside(&pool, table.to_owned()).await;
    D::run_outside(&pool, "INSERT INTO account VALUES ('alice', 100)".to_owned()).await;
    (resource, pool)
}

async fn cents<D: Database>(pool: &D::Pool) -> i64 {
    D::number(pool, "SELECT cents FROM account WHERE id = 'alice'".to_owned()).await
}

fn of(mode: Mode, action: &str, cents: i64) -> Branch {
    let posting = Posting { account: "alice".to_owned(), cents };
    Branch { payload: serde_json::to_vec(&posting).unwrap().into(), ..branch(mode, action) }
}

async fn is_prepared<R: Resource>(service: &Service<R>, branch: &Branch) -> bool {
    matches!(branch.prepare(service).await, Ok(Voted::Prepared(_)))
}

async fn is_cancelled<R: Resource>(service: &Service<R>, branch: &Branch) -> bool {
    matches!(branch.cancel(service).await, Ok(cancel_response::Answer::Done(_)))
}

async fn is_committed<R: Resource>(service: &Service<R>, branch: &Branch) -> bool {
    matches!(branch.commit(service).await, Ok(commit_response::Answer::Done(_)))
}

/// Each action once, undone or not, with duplicates.
async fn one_bank_on_every_database<D: Database<Connection: Accounts>>() {
    let (resource, pool) = opened::<D>().await;
    let service = bank(resource).service().unwrap();
    for (mode, action) in [(Mode::Tcc, "debit"), (Mode::Tcc, "debit-fn"), (Mode::Saga, "pay")] {
        let branch = of(mode, action, 30);
        assert!(is_prepared(&service, &branch).await, "{action}");
        assert!(is_prepared(&service, &branch).await, "{action}");
        assert_eq!(cents::<D>(&pool).await, 70, "S7: {action}");
        assert!(is_cancelled(&service, &branch).await, "{action}");
        assert!(is_cancelled(&service, &branch).await, "{action}");
        assert_eq!(cents::<D>(&pool).await, 100, "S7: {action}");
        let refusal = of(mode, action, 101).prepare(&service).await.unwrap();
        assert_eq!(refused(refusal), "INSUFFICIENT_FUNDS");
        let unreadable = Branch { payload: "{".into(), ..of(mode, action, 1) };
        assert_eq!(refused(unreadable.prepare(&service).await.unwrap()), "PAYLOAD_UNREADABLE");
        let first = of(mode, action, 30);
        assert!(is_cancelled(&service, &first).await, "S8");
        assert_eq!(refused(first.prepare(&service).await.unwrap()), "ALREADY_ENDED", "S8");
        assert_eq!(cents::<D>(&pool).await, 100, "S8: {action}");
    }
    let debit = of(Mode::Tcc, "debit-fn", 10);
    assert!(is_prepared(&service, &debit).await && is_committed(&service, &debit).await);
    let tip = of(Mode::Saga, "tip", 5);
    assert!(is_prepared(&service, &tip).await);
    assert!(!is_cancelled(&service, &tip).await, "nothing makes up for it");
    assert_eq!(cents::<D>(&pool).await, 95);
    // What phase two needs is gone: it is not said to be done.
    let debit = of(Mode::Tcc, "debit-fn", 10);
    assert!(is_prepared(&service, &debit).await);
    D::run_outside(&pool, "UPDATE account SET id = 'bob'".to_owned()).await;
    let error = debit.cancel(&service).await.unwrap_err();
    assert!(error.message().contains("the account is gone"), "{error}");
    D::run_outside(&pool, "UPDATE account SET id = 'alice'".to_owned()).await;
    assert!(is_cancelled(&service, &debit).await);
    assert_eq!(cents::<D>(&pool).await, 95);
}

#[tokio::test]
async fn s7_one_bank_is_right_on_postgres() {
    one_bank_on_every_database::<Postgres>().await;
}

#[tokio::test]
async fn s7_one_bank_is_right_over_tokio_postgres() {
    one_bank_on_every_database::<OverTokio>().await;
}

#[tokio::test]
async fn s7_one_bank_is_right_on_mariadb() {
    one_bank_on_every_database::<MySql>().await;
}

#[tokio::test]
async fn s7_one_bank_is_right_on_sqlite() {
    one_bank_on_every_database::<Sqlite>().await;
}

/// Two-phase commit by closures, on the databases that can prepare.
async fn a_two_phase_bank<D: Database<Connection: Accounts> + TwoPhaseResource>() {
    let (resource, pool) = opened::<D>().await;
    let participant = Participant::new("p", resource)
        .two_phase_fn("debit", async |db, Json(debit): Json<Posting>| {
            match db.add(&debit.account, -debit.cents).await? {
                true => Ok(()),
                false => refuse("INSUFFICIENT_FUNDS", "too little"),
            }
        })
        .read_only_fn("look", async |db, Json(of): Json<Posting>| {
            let count = format!("SELECT 1 FROM account WHERE id = '{}'", of.account);
            D::run(db, count).await?;
            Ok(())
        })
        .read_only_fn("write", async |db, Json(of): Json<Posting>| {
            db.add(&of.account, of.cents).await?;
            Ok(())
        });
    let service = participant.service().unwrap();
    let [kept, undone] = [30, 20].map(|cents| of(Mode::TwoPhaseCommit, "debit", cents));
    assert!(is_prepared(&service, &kept).await);
    assert_eq!(cents::<D>(&pool).await, 100, "nobody sees it");
    assert!(is_committed(&service, &kept).await);
    assert!(is_prepared(&service, &undone).await);
    assert!(is_cancelled(&service, &undone).await);
    assert_eq!(cents::<D>(&pool).await, 70);
    let refusal = of(Mode::TwoPhaseCommit, "debit", 71).prepare(&service).await.unwrap();
    assert_eq!(refused(refusal), "INSUFFICIENT_FUNDS");
    let look = of(Mode::TwoPhaseCommit, "look", 0).prepare(&service).await.unwrap();
    assert!(matches!(look, Voted::ReadOnly(_)), "{look:?}");
    let write = of(Mode::TwoPhaseCommit, "write", 1).prepare(&service).await;
    assert!(!matches!(write, Ok(Voted::ReadOnly(_) | Voted::Prepared(_))), "{write:?}");
    assert_eq!(cents::<D>(&pool).await, 70);
}

#[tokio::test]
async fn s2_a_two_phase_closure_is_prepared_on_postgres() {
    a_two_phase_bank::<Postgres>().await;
}

#[tokio::test]
async fn s2_a_two_phase_closure_is_prepared_over_tokio_postgres() {
    a_two_phase_bank::<OverTokio>().await;
}

#[tokio::test]
async fn s2_a_two_phase_closure_is_prepared_on_mariadb() {
    a_two_phase_bank::<MySql>().await;
}

/// Closures may take and answer each kind of payload and output, state of their own, "working", and errors.
#[tokio::test]
async fn closures_take_and_answer_what_the_traits_do() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let calls = Arc::new(AtomicU32::new(0));
    let (tried, confirmed) = (Arc::clone(&calls), Arc::clone(&calls));
    let participant = Participant::new("p", database)
        .tcc_fn("bytes", async move |_, payload: Bytes| {
            tried.fetch_add(1, Ordering::SeqCst);
            Ok(payload)
        })
        .confirm(async move |_, payload, output| {
            confirmed.fetch_add(10, Ordering::SeqCst);
            if payload == output { Ok(()) } else { fail("another output") }
        })
        .cancel(async |_, _, _| working(Duration::from_millis(7)))
        .tcc_fn("payload", async |_, Payload { data, .. }: Payload| {
            Ok(Payload::new(data, "text/x-own"))
        })
        .confirm(async |_, _, output| {
            let is_own = output.media_type == "text/x-own";
            if is_own { Ok(()) } else { fail(format!("{}", output.media_type)) }
        })
        .cancel(async |_, _, _| Ok(()))
        .tcc_fn("message", async |_, call: Call<Prost<prost_types::Duration>>| {
            Ok(Prost(prost_types::Duration { seconds: call.payload.seconds + 1, nanos: 0 }))
        })
        .confirm(async |_, call, Prost(output)| {
            let of = &call.branch.branch_id;
            if output.seconds == 8 { Ok(()) } else { fail(format!("{of}: {}", output.seconds)) }
        })
        .cancel(async |_, _, _| Ok(()))
        .tcc_fn("nothing", async |_, ()| {
            let number: u32 = "no number".parse()?;
            refuse::<()>("NUMBER", format!("{number}"))
        })
        .confirm(async |_, ()| Ok(()))
        .cancel(async |_, ()| fail("never"))
        .tcc_fn("later", async |_, ()| working::<(), PrepareError>(Duration::from_millis(1500)))
        .confirm(async |_, ()| Ok(()))
        .cancel(async |_, ()| Ok(()));
    let service = participant.service().unwrap();
    let with = |action: &str, payload: &[u8]| {
        let payload = Bytes::copy_from_slice(payload);
        Branch { payload, ..branch(Mode::Tcc, action) }
    };
    for (action, payload) in [("bytes", &b"x"[..]), ("payload", b"x"), ("message", &[8, 7])] {
        let branch = with(action, payload);
        assert!(is_prepared(&service, &branch).await, "{action}");
        assert!(is_committed(&service, &branch).await, "{action}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 11, "what a closure owns is shared by its calls");
    let branch = with("bytes", b"x");
    assert!(is_prepared(&service, &branch).await);
    let answer = branch.cancel(&service).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");

    let error = with("nothing", b"").prepare(&service).await.unwrap_err();
    assert!(error.message().contains("invalid digit"), "an error is no vote: {error}");
    let answer = with("later", b"").prepare(&service).await.unwrap();
    let Voted::Working(pause) = answer else { panic!("{answer:?}") };
    assert_eq!(pause.retry_after.unwrap().nanos, 500_000_000);
}

/// A name that is given twice, or that breaks the rules, is told as with the traits.
#[tokio::test]
async fn mistakes_in_the_making_are_told() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let twice = Participant::new("p", database.clone())
        .uncompensated_fn("a", async |_, ()| Ok(()))
        .tcc_fn("a", async |_, ()| Ok(()))
        .confirm(async |_, ()| Ok(()))
        .cancel(async |_, ()| Ok(()));
    assert!(twice.service().unwrap_err().to_string().contains("action a must be given once"));
    let bad = Participant::new("p", database)
        .saga_fn("not a name", async |_, ()| Ok(()))
        .compensate(async |_, ()| Ok(()));
    assert!(bad.service().unwrap_err().to_string().contains("\"not a name\""));
}
