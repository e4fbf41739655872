//! Code of the service's that panics where no handler runs: in the sweeper, and in interceptors. What it is called by
//! goes on, and a person is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tonic::Code;
use unanimo_proto::v1::Mode;
use unanimo_sdk::client::Executed;
use unanimo_sdk::driver::{Care, Driver, Error, Pool};
use unanimo_sdk::{
    Call, Coordinator as At, Decode, Encode, Participant, PayloadError, PhaseTwoError, Postgres,
    PrepareError, Register, Serve, Sqlite, Sweep, Tcc,
};
use unanimo_testing::Coordinator;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::plain_driver::{Plain, PlainConnection, PlainPool, PlainSession};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::{Branch, branch};
use super::promoted_losses::noted;
use super::sweeper::{Reserve, two_sweeps};

/// Value whose new version panics where it reads what the old one has written.
#[derive(Debug, Default)]
struct Value<const PANICS: bool>;

impl<const PANICS: bool> Encode for Value<PANICS> {
    fn encode(&self) -> Result<Bytes, PayloadError> {
        Ok(Bytes::from_static(b"old"))
    }
}

impl<const PANICS: bool> Decode for Value<PANICS> {
    fn decode(_: &Bytes) -> Result<Self, PayloadError> {
        assert!(!PANICS, "no such variant");
        Ok(Self)
    }
}

struct Work<const PAYLOAD: bool, const OUTPUT: bool>;

impl<const PAYLOAD: bool, const OUTPUT: bool> Tcc<Sqlite> for Work<PAYLOAD, OUTPUT> {
    type Payload = Value<PAYLOAD>;
    type Output = Value<OUTPUT>;

    async fn try_(
        &self,
        _: &mut sqlx::SqliteConnection,
        _: &Call<Value<PAYLOAD>>,
    ) -> Result<Value<OUTPUT>, PrepareError> {
        Ok(Value)
    }

    async fn confirm(
        &self,
        _: &mut sqlx::SqliteConnection,
        _: &Call<Value<PAYLOAD>>,
        _: Value<OUTPUT>,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut sqlx::SqliteConnection,
        _: &Call<Value<PAYLOAD>>,
        _: Value<OUTPUT>,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// A value that cannot be read is told at the start, whichever way it fails, and the sweeper goes on.
#[tokio::test]
async fn l4_what_a_new_version_panics_at_is_told_and_the_sweeper_goes_on() {
    let (alarms, _listening) = Alarms::listen();
    let coordinator = Coordinator::start().await.unwrap();
    let (database, _pool) = <Sqlite as Database>::open().await;
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let old = Participant::new("p", database.clone());
    let old = old.tcc("payload", Work::<false, false>).tcc("output", Work::<false, false>);
    let mut old = old.serve(serve).await.unwrap();
    old.registered().await.unwrap();
    let client = coordinator.client().unwrap();
    let mut tx = client.tcc("open").begin().await.unwrap();
    for action in ["payload", "output"] {
        let executed = tx.execute(action, "p", action, Value::<false>).await.unwrap();
        assert!(matches!(executed, Executed::Prepared(_)), "{executed:?}");
    }
    old.stop().await.unwrap();

    let new = Participant::new("p", database);
    let new = new.tcc("payload", Work::<true, false>).tcc("output", Work::<false, true>);
    let new = new.service().unwrap();
    let sweep = Sweep::default().interval(Duration::from_millis(20));
    let sweeper = new.sweep([coordinator.endpoint()], sweep).unwrap();
    for (alarm, action) in
        [("open_output_unreadable", "output"), ("open_payload_unreadable", "payload")]
    {
        let line = until(alarm, async || alarms.named(alarm).pop()).await;
        let action = format!("action=\"{action}\"");
        assert!(line.contains("it panicked: no such variant") && line.contains(&action), "{line}");
    }
    let from = sweeper.in_doubt().sweeps;
    until("sweeps", async || {
        let told = sweeper.in_doubt();
        (told.known && told.count == 2 && told.sweeps > from + 2).then_some(())
    })
    .await;
    assert_eq!(alarms.named("sweep_panicked"), [""; 0]);
    sweeper.stop().await;
    coordinator.stop().await.unwrap();
}

/// Driver that panics when it is told to.
#[derive(Clone, Debug)]
struct Panicking(Plain, Arc<Asked>);

#[derive(Clone, Debug)]
struct PanickingPool(PlainPool, Arc<Asked>);

/// Number of sessions that were asked for, and whether that panics.
#[derive(Debug, Default)]
struct Asked {
    sessions: AtomicUsize,
    panics: AtomicBool,
}

impl Driver for Panicking {
    type Connection = PlainConnection;
    type Pool = PanickingPool;

    async fn connect(&self, settings: &[(&str, String)]) -> Result<PlainConnection, Error> {
        self.0.connect(settings).await
    }

    fn pool(&self, sessions_max: u32, care: Care) -> PanickingPool {
        PanickingPool(self.0.pool(sessions_max, care), Arc::clone(&self.1))
    }
}

impl Pool for PanickingPool {
    type Connection = PlainConnection;
    type Session = PlainSession;

    async fn acquire(&self) -> Result<PlainSession, Error> {
        self.1.sessions.fetch_add(1, Ordering::SeqCst);
        assert!(!self.1.panics.load(Ordering::SeqCst), "the driver was told to");
        self.0.acquire().await
    }
}

/// Its figures are not known meanwhile, and are known again afterwards.
#[tokio::test]
async fn l4_a_sweep_that_panics_is_told_and_the_next_one_begins() {
    let (alarms, _listening) = Alarms::listen();
    let url = Server::shared().database().await;
    let asked = Arc::new(Asked::default());
    let driver = Panicking(Plain(url.parse().unwrap()), Arc::clone(&asked));
    let database = Postgres::over(driver).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let sweep = Sweep::default().interval(Duration::from_millis(20));
    let sweeper = service.sweep(["http://127.0.0.1:9"], sweep).unwrap();
    let is_known = async |known: bool| {
        (sweeper.in_doubt().sweeps > 0 && sweeper.in_doubt().known == known).then_some(())
    };
    until("a sweep", async || is_known(true).await).await;
    asked.panics.store(true, Ordering::SeqCst);
    until("figures that are not known", async || is_known(false).await).await;
    let line = until("the alarm", async || alarms.named("sweep_panicked").pop()).await;
    assert!(line.contains("the driver was told to"), "{line}");
    asked.panics.store(false, Ordering::SeqCst);
    until("figures that are known again", async || is_known(true).await).await;
    sweeper.stop().await;
}

/// Nobody else knows how far a process has seen its database's history come: no note tells it where a snapshot was put back
/// meanwhile.
#[tokio::test]
async fn s11_a_sweep_that_panics_forgets_nothing_of_the_history() {
    let (alarms, _listening) = Alarms::listen();
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    let asked = Arc::new(Asked::default());
    let driver = Panicking(Plain(url.parse().unwrap()), Arc::clone(&asked));
    let database = Postgres::over(driver).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let sweep = Sweep::default().interval(Duration::from_millis(20));
    let sweeper = service.sweep(["http://127.0.0.1:9"], sweep).unwrap();
    until("the note", async || noted(&pool).await).await;
    two_sweeps(&sweeper).await;
    asked.panics.store(true, Ordering::SeqCst);
    until("the alarm", async || alarms.named("sweep_panicked").pop()).await;
    let back = "UPDATE unanimo_barrier_timeline SET noted_at = noted_at - interval '10 minutes'";
    sqlx::raw_sql(back).execute(&pool).await.unwrap();
    two_sweeps(&sweeper).await;
    assert_eq!(alarms.named("database_promoted"), [""; 0]);
    asked.panics.store(false, Ordering::SeqCst);
    until("the alarm of the history", async || alarms.named("database_promoted").pop()).await;
    sweeper.stop().await;
}

/// L1: a process that does not register asks where its database is when a call names another place. A driver that has
/// panicked at that is asked again.
#[tokio::test]
async fn l1_a_place_is_asked_for_again_behind_a_driver_that_has_panicked() {
    let url = Server::shared().database().await;
    let asked = Arc::new(Asked::default());
    let driver = Panicking(Plain(url.parse().unwrap()), Arc::clone(&asked));
    let database = Postgres::over(driver).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let serving = service.serve(Serve::on("127.0.0.1:0").without_sweep()).await.unwrap();
    let mut elsewhere = Branch { payload: Bytes::from("x"), ..branch(Mode::Tcc, "ok") };
    elsewhere.context.database_place = "elsewhere".to_owned();
    for panics in [true, false] {
        asked.panics.store(panics, Ordering::SeqCst);
        let before = asked.sessions.load(Ordering::SeqCst);
        until("the question", async || {
            let refused = elsewhere.prepare(&service).await.unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
            (asked.sessions.load(Ordering::SeqCst) > before).then_some(())
        })
        .await;
    }
    serving.stop().await.unwrap();
}

/// The registration is made by the next attempt, and is never taken for one before that.
#[tokio::test]
async fn an_interceptor_that_panics_ends_no_registration() {
    let coordinator = Coordinator::start().await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let at = At::at(coordinator.endpoint()).intercept(move |call| {
        assert!(counted.fetch_add(1, Ordering::SeqCst) > 0, "the first call is not liked");
        Ok(call)
    });
    let (database, _pool) = <Sqlite as Database>::open().await;
    let serve = Serve::on("127.0.0.1:0").register_with(at).without_sweep();
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let mut serving = participant.serve(serve).await.unwrap();
    let registered = tokio::time::timeout(Duration::from_secs(30), serving.registered()).await;
    registered.expect("it goes on").expect("it is registered");
    assert!(calls.load(Ordering::SeqCst) > 1, "it was not called again");
    let client = coordinator.client().unwrap();
    let draft = client.tcc("tx").branch("a", "p", "ok", Bytes::from("x"));
    let outcome = draft.wait_until_ended().submit().await.unwrap();
    assert!(outcome.is_committed(), "{outcome:?}");
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// Neither does a driver that panics where it is asked for the place of its database, before each registration.
#[tokio::test]
async fn a_driver_that_panics_ends_no_registration() {
    let coordinator = Coordinator::start().await.unwrap();
    let url = Server::shared().database().await;
    let asked = Arc::new(Asked::default());
    let driver = Panicking(Plain(url.parse().unwrap()), Arc::clone(&asked));
    let database = Postgres::over(driver).await.unwrap();
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint()).without_sweep();
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let mut serving = participant.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    for panics in [true, false] {
        asked.panics.store(panics, Ordering::SeqCst);
        // The registration behind a question is made by the time of the next one.
        let before = asked.sessions.load(Ordering::SeqCst);
        until("two questions", async || {
            (asked.sessions.load(Ordering::SeqCst) > before + 1).then_some(())
        })
        .await;
        let registered =
            tokio::time::timeout(Duration::from_millis(20), serving.registered()).await;
        registered.expect("it goes on").expect("it is registered");
    }
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

/// At the start it is an error, and no panic of whoever starts the participant.
#[tokio::test]
async fn a_driver_that_panics_at_the_start_is_an_error() {
    let url = Server::shared().database().await;
    let asked = Arc::new(Asked::default());
    let driver = Panicking(Plain(url.parse().unwrap()), Arc::clone(&asked));
    let database = Postgres::over(driver).await.unwrap();
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    asked.panics.store(true, Ordering::SeqCst);
    let served = service.serve(Serve::on("127.0.0.1:0").without_sweep()).await;
    let registered = service.register(Register::at("http://127.0.0.1:9").without_sweep()).await;
    for error in [served.map(drop).unwrap_err(), registered.map(drop).unwrap_err()] {
        let told = "open a session of the database: its driver panicked: the driver was told to";
        assert_eq!(error.to_string(), told);
    }
    // Each has asked for the place before.
    assert!(asked.sessions.load(Ordering::SeqCst) >= 4);
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// So is a set-up of the service's own that panics.
#[tokio::test]
async fn a_set_up_that_panics_is_an_error() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let participant = participant.set_up_fn(async |_| -> Result<(), BoxError> {
        panic!("no table is made");
    });
    let served = participant.serve(Serve::on("127.0.0.1:0").without_sweep()).await;
    let error = served.map(drop).unwrap_err();
    let told = "it panicked: no table is made";
    assert_eq!(std::error::Error::source(&error).map(ToString::to_string).as_deref(), Some(told));
}
