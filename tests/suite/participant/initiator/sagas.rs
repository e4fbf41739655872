//! Sagas from the initiator's side: typed steps, one by one, and what their outcomes tell.

use std::time::{Duration, SystemTime};

use super::*;
use unanimo_sdk::client::{Lock as Held, OutputError, PreparedStep, Step, StepAction};

const FLIGHT: StepAction<Json<String>, Json<u64>> = StepAction::new("airline", "book");
const ROOM: StepAction<(), ()> = StepAction::tcc("hotel", "reserve");
const MAIL: StepAction<(), (), (Json<u64>,)> = StepAction::new("mailer", "mail").inputs(["ticket"]);

const OTHER_TX: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

fn prepared(json: &'static str) -> ExecuteBranchResponse {
    let output = Some(Payload { data: json.into(), media_type: "application/json".to_owned() });
    let (vote, outcome) = (Vote::Prepared.into(), Outcome::NotDecided.into());
    ExecuteBranchResponse { vote, output, outcome, ..Default::default() }
}

fn yes<O: std::fmt::Debug>(executed: Executed<PreparedStep<O>>) -> PreparedStep<O> {
    match executed {
        Executed::Prepared(step) => step,
        other => panic!("{other:?}"),
    }
}

fn flight<'s>() -> Step<'s, Json<u64>> {
    FLIGHT.step("flight", Json("Lisbon".to_owned()))
}

#[tokio::test]
async fn a_saga_is_driven_step_by_step() {
    let mut fake = Fake::new(Outcome::Committed.into());
    fake.executed = prepared("4711");
    let draft = fake.client().await.saga("trip").lock(Held::exclusive("seat:1"));
    let mut trip = draft.begin().await.unwrap();
    let flight = yes(trip.execute_step(flight()).await.unwrap());
    assert_eq!(flight.output().unwrap(), Json(4711));
    let room = yes(trip.execute_step(ROOM.step("room", ())).await.unwrap());
    let mail = MAIL.step("mail", ()).inputs((&flight.step,)).after(&room.step);
    let _ = yes(trip.execute_step(mail).await.unwrap());
    assert!(trip.commit().await.unwrap().is_committed());

    let begun = fake.begun.lock().unwrap().remove(0);
    assert_eq!((begun.mode(), begun.requires), (Mode::Saga, vec!["saga".into(), "locks".into()]));
    assert_eq!(begun.locks[0].name, "seat:1");
    let run = std::mem::take(&mut *fake.run.lock().unwrap());
    let plain = |at: usize, requires: &[&str]| {
        let branch = run[at].branch.as_ref().unwrap();
        assert_eq!(run[at].requires, requires, "{branch:?}");
        branch
    };
    assert_eq!(plain(0, &[]).participant, "airline");
    assert_eq!(plain(1, &[]).mode(), Mode::Tcc);
    let mail = plain(2, &["saga"]);
    assert_eq!(mail.depends_on, ["flight", "room"]);
    let inputs: Vec<_> = mail.inputs.iter().map(|i| (&*i.name, &*i.branch_id)).collect();
    assert_eq!(inputs, [("ticket", "flight")]);
}

#[tokio::test]
async fn a_step_of_another_transaction_is_refused_before_anything_is_sent() {
    let fakes = [TX, OTHER_TX].map(|tx_id| {
        let mut fake = Fake::new(Outcome::NotDecided.into());
        (fake.executed, fake.result.tx_id) = (prepared("1"), tx_id.to_owned());
        fake
    });
    let mut one = fakes[0].client().await.saga("one").begin().await.unwrap();
    let mut other = fakes[1].client().await.saga("other").begin().await.unwrap();
    let of_one = yes(one.execute_step(flight()).await.unwrap());
    let mail = || MAIL.step("mail", ()).inputs((&of_one.step,));
    let error = other.execute_step(mail()).await.unwrap_err();
    assert!(matches!(error, Error::Request(_)), "{error:?}");
    let said = format!("depends_on of mail must name steps of this transaction, not of {TX}");
    assert_eq!(error.to_string(), said);
    assert!(fakes[1].run.lock().unwrap().is_empty());
    let _ = yes(one.execute_step(mail()).await.unwrap());
}

#[tokio::test]
async fn a_transaction_that_is_begun_starts_at_once() {
    let fake = Fake::new(Outcome::NotDecided.into());
    let client = fake.client().await;
    for draft in [
        client.saga("g").start_delay(Duration::from_secs(1)),
        client.tcc("g").start_at(SystemTime::UNIX_EPOCH),
    ] {
        let error = draft.begin().await.unwrap_err();
        assert!(matches!(&error, Error::Request(field) if field.field == "start_at"), "{error}");
    }
    assert!(fake.asked().is_empty());
}

/// A coordinator that serves no sagas says so, and nothing has happened.
#[tokio::test]
async fn a_coordinator_without_sagas_is_named_as_the_reason() {
    for reason in ["FEATURE_UNSUPPORTED", "MODE_UNIMPLEMENTED"] {
        let metadata = [("retryable", "false"), ("effect", "none"), ("feature", "saga")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let details = ErrorDetails::with_error_info(reason, "unanimo", HashMap::from(metadata));
        let status = Status::with_error_details(Code::Unimplemented, "saga is not known", details);
        let client = Fake::new(Outcome::NotDecided.into()).refusing(status).client().await;
        let (draft, ()) = client.saga("g").steps(|saga| {
            saga.add(ROOM.step("room", ()));
        });
        for error in [draft.clone().submit().await.unwrap_err(), draft.begin().await.unwrap_err()] {
            assert_eq!(error.to_string(), format!("saga is not known ({reason})"));
            assert!(matches!(error, Error::Rejected { retryable: false, .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_saga_tells_why_it_was_aborted() {
    for (cause, detail, said) in [
        (AbortCause::GaveUp, "", "aborted: pay did not vote within the bounds of its attempts"),
        (
            AbortCause::Locked,
            "lock account:42 is held by trip-1",
            "aborted: a lock was not had in time; lock account:42 is held by trip-1",
        ),
        (AbortCause::Parent, "", "aborted: its parent was aborted"),
        (AbortCause::Unspecified, "a new reason", "aborted; a new reason"),
    ] {
        let mut fake = Fake::new(Outcome::Aborted.into());
        fake.result.abort_cause = cause.into();
        fake.result.abort_branch_id = "pay".to_owned();
        fake.result.abort_detail = detail.to_owned();
        let client = fake.client().await;
        let heard = client.saga("g").submit().await;
        let Ok(Heard::Aborted(aborted)) = &heard else { panic!("{heard:?}") };
        assert_eq!((aborted.cause, &*aborted.detail), (cause, detail));
        assert_eq!(aborted.to_string(), said);
        let heard = client.find("g").await;
        let Ok(Heard::Aborted(aborted)) = &heard else { panic!("{heard:?}") };
        assert_eq!((aborted.cause, &*aborted.detail), (cause, detail));
    }
}

#[tokio::test]
async fn outputs_are_read_by_the_step_that_made_them() {
    let json = |data: &'static str| Payload { data: data.into(), ..Default::default() };
    let mut fake = Fake::new(Outcome::Committed.into());
    let branch = |branch_id: &str, output, output_dropped| BranchResult {
        branch_id: branch_id.to_owned(),
        vote: Vote::Prepared.into(),
        output,
        output_dropped,
        ..Default::default()
    };
    fake.result.branches = vec![
        branch("flight", Some(json("7")), false),
        branch("other", Some(json("\"text\"")), false),
        branch("large", None, true),
        branch("room", None, false),
    ];
    let client = fake.client().await;
    let (trip, (flight, room)) = client.saga("g").with_outputs().steps(|saga| {
        let flight = saga.add(flight());
        let room = saga.add(ROOM.step("room", ()).after(&flight));
        (flight.output(), room.output())
    });
    let outcome = trip.submit().await.unwrap();
    assert_eq!(outcome.output(&flight).unwrap(), Json(7));
    outcome.output(&room).unwrap();
    let of = |branch_id: &str| outcome.output(&FLIGHT.output_of(branch_id)).unwrap_err();
    assert!(matches!(of("none"), OutputError::NoStep { branch_id } if branch_id == "none"));
    assert!(matches!(of("large"), OutputError::Dropped { branch_id } if branch_id == "large"));
    assert!(matches!(of("room"), OutputError::Missing { branch_id } if branch_id == "room"));
    assert!(matches!(of("other"), OutputError::Format { branch_id, .. } if branch_id == "other"));

    fake.result.outcome = LATER;
    let outcome = fake.client().await.saga("g").submit().await.unwrap();
    assert!(matches!(outcome.output(&flight), Err(OutputError::NotDecided)));
}
