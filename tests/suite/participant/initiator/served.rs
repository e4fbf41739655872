//! Sagas of the SDK's builder that a coordinator runs, with a participant of the SDK.

use std::time::{Duration, Instant};

use sqlx::{SqliteConnection, SqlitePool};
use unanimo_coordinator::{Builder, Running};
use unanimo_sdk::client::{
    AbortCause, Child, Compensation, Error, Executed, Lock, PreparedStep, Step, StepAction,
};
use unanimo_sdk::{
    Call, Client, Json, Outcome, Participant, PhaseTwoError, PrepareError, Saga, Serve, Serving,
    Sqlite, Tcc, refuse,
};
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use crate::coordinator::{config, sqlite_url};

const FLIGHT: StepAction<Json<String>, Json<u64>> = StepAction::new("trips", "book");
const ROOM: StepAction<(), Json<String>> = StepAction::tcc("trips", "reserve");
/// Inputs of a payment: the number of the flight, and the room.
type Bought = (Json<u64>, Json<String>);

const PAY: StepAction<Json<u64>, Json<String>, Bought> =
    StepAction::new("trips", "pay").inputs(["ticket", "room"]);

async fn note(db: &mut SqliteConnection, deed: String) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO deed (what) VALUES ($1)").bind(deed).execute(db).await.map(drop)
}

struct Book;

impl Saga<Sqlite> for Book {
    type Payload = Json<String>;
    type Output = Json<u64>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<String>>,
    ) -> Result<Json<u64>, PrepareError> {
        note(db, format!("book {}", *call.payload)).await?;
        Ok(Json(4711))
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        _: &Call<Json<String>>,
        Json(ticket): Json<u64>,
    ) -> Result<(), PhaseTwoError> {
        Ok(note(db, format!("return {ticket}")).await?)
    }
}

struct Reserve;

impl Tcc<Sqlite> for Reserve {
    type Payload = ();
    type Output = Json<String>;

    async fn try_(
        &self,
        _: &mut SqliteConnection,
        _: &Call<()>,
    ) -> Result<Json<String>, PrepareError> {
        Ok(Json("room-7".to_owned()))
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        _: &Call<()>,
        room: Json<String>,
    ) -> Result<(), PhaseTwoError> {
        Ok(note(db, format!("confirm {}", *room)).await?)
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        _: &Call<()>,
        room: Json<String>,
    ) -> Result<(), PhaseTwoError> {
        Ok(note(db, format!("cancel {}", *room)).await?)
    }
}

struct Pay;

impl Saga<Sqlite> for Pay {
    type Payload = Json<u64>;
    type Output = Json<String>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<u64>>,
    ) -> Result<Json<String>, PrepareError> {
        let Json(ticket) = call.input::<Json<u64>>("ticket")?;
        let Json(room) = call.input::<Json<String>>("room")?;
        if *call.payload == 0 {
            return refuse("NO_MONEY", "nothing is left");
        }
        note(db, format!("pay {ticket} {room}")).await?;
        Ok(Json(format!("receipt of {ticket} and {room}")))
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        _: &Call<Json<u64>>,
        Json(receipt): Json<String>,
    ) -> Result<(), PhaseTwoError> {
        Ok(note(db, format!("refund {receipt}")).await?)
    }
}

/// A coordinator, and the participant `trips` that notes what it did for good.
struct World {
    client: Client,
    deeds: SqlitePool,
    trips: Serving,
    running: Running,
}

impl World {
    async fn start() -> Self {
        let running = Builder::new(config(&sqlite_url())).start().await.unwrap();
        let coordinator = format!("http://{}", running.grpc_address().unwrap());
        let file = run_folder().join(format!("{}.db", Uuid::now_v7()));
        let url = format!("sqlite:{}?mode=rwc", file.display());
        let deeds = SqlitePool::connect(&url).await.unwrap();
        sqlx::raw_sql("CREATE TABLE deed (what text)").execute(&deeds).await.unwrap();
        let trips = Participant::new("trips", Sqlite::open(&file).await.unwrap())
            .saga("book", Book)
            .tcc("reserve", Reserve)
            .saga("pay", Pay);
        let serve = Serve::on("127.0.0.1:0").register_with(&coordinator);
        let mut trips = trips.serve(serve).await.unwrap();
        trips.registered().await.unwrap();
        Self { client: Client::new(coordinator).unwrap(), deeds, trips, running }
    }

    async fn deeds(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT what FROM deed").fetch_all(&self.deeds).await.unwrap()
    }

    async fn stop(self) {
        self.trips.stop().await.unwrap();
        self.running.stop().await.unwrap();
    }
}

fn flight<'s>() -> Step<'s, Json<u64>> {
    FLIGHT.step("flight", Json("Lisbon".to_owned()))
}

fn yes<O: std::fmt::Debug>(executed: Executed<PreparedStep<O>>) -> PreparedStep<O> {
    match executed {
        Executed::Prepared(step) => step,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_saga_of_the_builder_runs_and_its_outputs_flow() {
    let world = World::start().await;
    let (trip, (ticket, receipt)) = world.client.saga("trip").steps(|saga| {
        let flight = saga.add(flight());
        let room = saga.add(ROOM.step("room", ()));
        let pay = PAY.step("pay", Json(9)).inputs((&flight, &room));
        let pay = saga.add(pay.pivot().compensation(Compensation::None));
        let home = FLIGHT.step("home", Json("Rome".to_owned())).after(&pay);
        saga.add(home.compensation(Compensation::None));
        (flight.output(), pay.output())
    });
    let outcome = trip.with_outputs().wait_until_ended().submit().await.unwrap();
    assert!(outcome.is_committed(), "{outcome}");
    assert_eq!(outcome.output(&ticket).unwrap(), Json(4711));
    assert_eq!(*outcome.output(&receipt).unwrap(), "receipt of 4711 and room-7");
    let mut deeds = world.deeds().await;
    assert_eq!(deeds[..2], ["book Lisbon", "pay 4711 room-7"]);
    deeds[2..].sort();
    assert_eq!(deeds[2..], ["book Rome", "confirm room-7"]);
    world.stop().await;
}

#[tokio::test]
async fn a_saga_of_the_builder_is_undone() {
    let world = World::start().await;
    let (trip, ()) = world.client.saga("trip").steps(|saga| {
        let flight = saga.add(flight());
        let room = saga.add(ROOM.step("room", ()).after(&flight));
        saga.add(PAY.step("pay", Json(0)).inputs((&flight, &room)));
    });
    let outcome = trip.wait_until_ended().submit().await.unwrap();
    let Outcome::Aborted(aborted) = outcome else { panic!("{outcome}") };
    assert_eq!(aborted.to_string(), "aborted: pay refused: nothing is left (NO_MONEY)");
    assert_eq!(world.deeds().await, ["book Lisbon", "cancel room-7", "return 4711"]);
    world.stop().await;
}

#[tokio::test]
async fn a_saga_is_driven_from_code_and_its_outputs_flow() {
    let world = World::start().await;
    for (gid, money) in [("pays", 9), ("does-not", 0)] {
        let draft = world.client.saga(gid).wait_until_ended();
        let mut trip = draft.begin().await.unwrap();
        let flight = yes(trip.execute_step(flight()).await.unwrap());
        assert_eq!(flight.output().unwrap(), Json(4711));
        let room = yes(trip.execute_step(ROOM.step("room", ())).await.unwrap());
        let pay = PAY.step("pay", Json(money)).inputs((&flight.step, &room.step));
        match trip.execute_step(pay).await.unwrap() {
            Executed::Prepared(pay) => {
                assert_eq!(*pay.output().unwrap(), "receipt of 4711 and room-7");
                assert!(trip.commit().await.unwrap().is_committed());
            }
            Executed::Refused(refusal) => {
                assert_eq!((money, &*refusal.reason), (0, "NO_MONEY"));
                assert!(trip.rollback().await.unwrap().is_aborted());
            }
            other => panic!("{other:?}"),
        }
    }
    let mut deeds = world.deeds().await;
    assert_eq!(deeds[..3], ["book Lisbon", "pay 4711 room-7", "confirm room-7"]);
    assert_eq!(deeds[3], "book Lisbon");
    deeds[4..].sort();
    assert_eq!(deeds[4..], ["cancel room-7", "return 4711"]);
    world.stop().await;
}

#[tokio::test]
async fn a_child_of_the_builder_ends_as_its_parent() {
    let world = World::start().await;
    let (trip, ()) = world.client.saga("trip").steps(|saga| {
        let flight = saga.add(flight());
        let rooms = Child::tcc(|rooms| {
            rooms.add(ROOM.step("one", ()));
            rooms.add(ROOM.step("two", ()));
        });
        saga.add(rooms.step("rooms").after(&flight));
    });
    let outcome = trip.wait_until_ended().submit().await.unwrap();
    assert!(outcome.is_committed(), "{outcome}");
    let rooms = world.client.find("trip.rooms").with_outputs().await.unwrap();
    assert!(rooms.is_committed(), "{rooms}");
    assert_eq!(*rooms.output(&ROOM.output_of("two")).unwrap(), "room-7");
    assert_eq!(world.deeds().await, ["book Lisbon", "confirm room-7", "confirm room-7"]);
    world.stop().await;
}

#[tokio::test]
async fn a_transaction_starts_later_and_a_lock_names_its_holder() {
    let world = World::start().await;
    let room = |gid: &str| world.client.tcc(gid).branch("room", "trips", "reserve", ());
    let began = Instant::now();
    let later = room("later").start_delay(Duration::from_secs(1)).submit().await.unwrap();
    assert!(later.is_committed() && began.elapsed() >= Duration::from_secs(1), "{later}");

    let lock = || Lock::exclusive("room:7").wait_at_most(Duration::ZERO);
    let holder = world.client.saga("holder").lock(lock()).begin().await.unwrap();
    let locked = room("locked").lock(lock()).submit().await.unwrap();
    let Outcome::Aborted(aborted) = locked else { panic!("{locked}") };
    assert_eq!(aborted.cause, AbortCause::Locked);
    for word in ["room:7", "holder"] {
        assert!(aborted.detail.contains(word), "{}", aborted.detail);
    }
    assert!(holder.rollback().await.unwrap().is_aborted());
    world.stop().await;
}

/// A step that is given to `begin` and refuses is told there.
#[tokio::test]
async fn a_begin_whose_steps_refuse_is_no_success() {
    let world = World::start().await;
    let begin = async |gid: &str, money| {
        let (trip, ()) = world.client.saga(gid).steps(|saga| {
            let flight = saga.add(flight());
            let room = saga.add(ROOM.step("room", ()));
            let pay = saga.add(PAY.step("pay", Json(money)).inputs((&flight, &room)));
            saga.add(FLIGHT.step("home", Json("Rome".to_owned())).after(&pay));
        });
        trip.wait_until_ended().begin().await
    };
    let error = begin("does-not", 0).await.unwrap_err();
    let words = "aborted at branch pay, which refused: NO_MONEY: nothing is left";
    assert_eq!(error.to_string(), words);
    let Error::Aborted { branch_id, refusal: Some(refusal), .. } = error else { panic!("{error}") };
    assert_eq!((&*branch_id, &*refusal.reason), ("pay", "NO_MONEY"));
    assert!(world.client.find("does-not").await.unwrap().is_aborted());
    let error = begin("does-not", 0).await.unwrap_err();
    assert!(matches!(error, Error::Aborted { .. }), "{error}");
    let trip = begin("pays", 9).await.unwrap();
    assert!(trip.commit().await.unwrap().is_committed());
    world.stop().await;
}

/// S10: where a branch is not taken the first one has happened all the same: that is told, and undone.
#[tokio::test]
async fn s10_a_begin_of_which_a_branch_is_not_taken_is_rolled_back_and_says_so() {
    let world = World::start().await;
    let client = world.client.clone().wait_at_most(Duration::from_secs(2));
    let cases = [("bad", "trips", "no such"), ("unknown", "nobody", "reserve")];
    for (number, (gid, participant, action)) in cases.into_iter().enumerate() {
        let draft = client.tcc(gid).timeout(Duration::from_secs(600));
        let draft = draft.branch("one", "trips", "reserve", ());
        let draft = draft.branch("two", participant, action, ()).wait_until_accepted();
        let error = draft.branch("three", "trips", "reserve", ()).begin().await.unwrap_err();
        let text = error.to_string();
        let Error::NotExecuted { tx_id, branch_id, outcome, error } = error else {
            panic!("{gid}: {text}")
        };
        assert!(text.contains(&tx_id) && text.ends_with("the transaction is aborted"), "{text}");
        assert_eq!((&*branch_id, outcome), ("two", unanimo_proto::v1::Outcome::Aborted));
        assert!(matches!(&*error, Error::Rejected { .. }), "{error}");
        let found = client.find(gid).wait_until_ended().await.unwrap();
        let Outcome::Aborted(found) = found else { panic!("{found}") };
        assert_eq!((found.tx_id, found.cause), (tx_id, AbortCause::Rollback));
        assert_eq!(world.deeds().await, vec!["cancel room-7"; number + 1], "the first, at once");
    }
    // A gid of its own that was committed before stays so.
    let mut before = client.tcc("before").begin().await.unwrap();
    let _ = before.execute("one", "trips", "reserve", ()).await.unwrap();
    assert!(before.commit().await.unwrap().is_committed());
    let draft = client.tcc("before").branch("one", "trips", "reserve", ());
    let error = draft.branch("two", "trips", "reserve", ()).begin().await.unwrap_err();
    let Error::NotExecuted { outcome, .. } = &error else { panic!("{error}") };
    assert_eq!(*outcome, unanimo_proto::v1::Outcome::Committed, "{error}");
    world.stop().await;
}

/// S10: a payload that cannot be written is known before anything is sent.
#[tokio::test]
async fn s10_a_begin_with_a_payload_that_cannot_be_written_begins_nothing() {
    let world = World::start().await;
    let bad = || unanimo_sdk::Payload::new("", " bad");
    let draft = world.client.tcc("bad").branch("one", "trips", "reserve", ());
    let error = draft.branch("two", "trips", "reserve", bad()).begin().await.unwrap_err();
    assert!(matches!(&error, Error::Payload { branch_id, .. } if branch_id == "two"), "{error}");
    const BAD: StepAction<unanimo_sdk::Payload, ()> = StepAction::new("trips", "book");
    let (draft, ()) = world.client.saga("bad-step").steps(|saga| {
        saga.add(flight());
        saga.add(BAD.step("two", bad()));
    });
    let error = draft.begin().await.unwrap_err();
    assert!(matches!(&error, Error::Payload { branch_id, .. } if branch_id == "two"), "{error}");
    for gid in ["bad", "bad-step"] {
        let unknown = world.client.find(gid).await.unwrap_err();
        let Error::Rejected { reason, .. } = unknown else { panic!("{unknown}") };
        assert_eq!(reason, "GID_UNKNOWN");
    }
    assert!(world.deeds().await.is_empty());
    world.stop().await;
}
