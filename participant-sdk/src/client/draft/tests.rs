//! The request that a draft makes, field by field.

use std::time::{Duration, SystemTime};

use unanimo_proto::v1::{
    BranchSpec, ChildTransaction, Compensation, Lock as WireLock, LockMode, Mode, Payload,
    RetryPolicy, StepInput, SubmitTransactionRequest, WaitFor,
};

use crate::Json;
use crate::client::{Child, Client, Draft, Error, Lock, Retry, Step, StepAction};

const FLIGHT: StepAction<Json<String>, Json<u64>> = StepAction::new("airline", "book");
const ROOM: StepAction<(), Json<String>> = StepAction::tcc("hotel", "reserve");
const LEDGER: StepAction<(), ()> = StepAction::two_phase("bank", "post");
const PAY: StepAction<Json<u8>, (), (Json<u64>, Json<String>)> =
    StepAction::new("bank", "pay").inputs(["ticket", "room"]);
const MAIL: StepAction<(), ()> = StepAction::new("mailer", "mail");

fn client() -> Client {
    Client::new("http://127.0.0.1:1").expect("an endpoint")
}

fn request(draft: Draft) -> SubmitTransactionRequest {
    draft.into_request().expect("a request")
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn lock(name: &str, mode: LockMode, wait_max: Option<prost_types::Duration>) -> WireLock {
    WireLock { name: name.to_owned(), mode: mode.into(), wait_max }
}

fn plain(branch_id: &str, participant: &str, action: &str) -> BranchSpec {
    let text = |text: &str| text.to_owned();
    BranchSpec {
        branch_id: text(branch_id),
        participant: text(participant),
        action: text(action),
        payload: Some(Payload::default()),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_saga_says_what_its_steps_say() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let (draft, ()) = client().saga("trip").steps(|saga| {
        let retry = Retry::attempts(5)
            .backoff(Duration::from_secs(1), Duration::from_secs(9))
            .give_up_after(Duration::from_secs(30));
        let flight = FLIGHT.step("flight", Json("Lisbon".to_owned())).retry(retry);
        let flight = flight.attempt_timeout(Duration::from_secs(7)).delay(Duration::from_secs(3));
        let seat = Lock::exclusive("seat:1").wait_at_most(Duration::ZERO);
        let flight = saga.add(flight.start_at(at).lock(seat).lock(Lock::shared("plane")));
        let room = saga.add(ROOM.step("room", ()).compensation(Compensation::Kept));
        let pay = PAY.step("pay", Json(9)).after(&room).inputs((&flight, &room));
        let pay = saga.add(pay.pivot().compensation(Compensation::None));
        saga.add(MAIL.step("mail", ()).after(&pay).after(&pay).input("seat", &flight));
    });
    let request = request(draft);
    let json = |text: &'static str| {
        Some(Payload { data: text.into(), media_type: "application/json".to_owned() })
    };
    let input = |name: &str, branch_id: &str| StepInput {
        name: name.to_owned(),
        branch_id: branch_id.to_owned(),
    };
    let expected = [
        BranchSpec {
            payload: json("\"Lisbon\""),
            retry: Some(RetryPolicy {
                attempts_max: 5,
                backoff_min: Some(seconds(1)),
                backoff_max: Some(seconds(9)),
                give_up_after: Some(seconds(30)),
            }),
            attempt_timeout: Some(seconds(7)),
            delay: Some(seconds(3)),
            start_at: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
            locks: vec![
                lock("seat:1", LockMode::Exclusive, Some(seconds(0))),
                lock("plane", LockMode::Shared, None),
            ],
            ..plain("flight", "airline", "book")
        },
        BranchSpec {
            mode: Mode::Tcc.into(),
            compensation: Compensation::Kept.into(),
            ..plain("room", "hotel", "reserve")
        },
        BranchSpec {
            payload: json("9"),
            depends_on: vec!["room".to_owned(), "flight".to_owned()],
            inputs: vec![input("ticket", "flight"), input("room", "room")],
            pivot: true,
            compensation: Compensation::None.into(),
            ..plain("pay", "bank", "pay")
        },
        BranchSpec {
            depends_on: vec!["pay".to_owned(), "flight".to_owned()],
            inputs: vec![input("seat", "flight")],
            ..plain("mail", "mailer", "mail")
        },
    ];
    assert_eq!(request.branches, expected);
    assert_eq!((&*request.gid, request.mode()), ("trip", Mode::Saga));
    assert_eq!(request.requires, ["saga", "locks"]);
}

#[tokio::test]
async fn a_child_is_a_step_with_steps_of_its_own() {
    let (draft, ()) = client().saga("order").steps(|saga| {
        let first = saga.add(MAIL.step("first", ()));
        let payment = Child::tcc(|payment| {
            payment.add(LEDGER.step("ledger", ()));
        });
        let payment = payment.timeout(Duration::from_secs(9)).lock(Lock::exclusive("a"));
        saga.add(payment.step("payment").after(&first));
    });
    let request = request(draft);
    let ledger =
        BranchSpec { mode: Mode::TwoPhaseCommit.into(), ..plain("ledger", "bank", "post") };
    let child = ChildTransaction {
        mode: Mode::Tcc.into(),
        branches: vec![ledger],
        timeout: Some(seconds(9)),
        locks: vec![lock("a", LockMode::Exclusive, None)],
    };
    let payment = BranchSpec {
        branch_id: "payment".to_owned(),
        depends_on: vec!["first".to_owned()],
        child: Some(child),
        ..Default::default()
    };
    assert_eq!(request.branches, [plain("first", "mailer", "mail"), payment]);
    assert_eq!(request.requires, ["saga", "locks"]);
}

#[tokio::test]
async fn a_transaction_of_any_mode_starts_later_and_takes_locks() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    for (draft, mode) in [
        (client().tcc("g"), Mode::Tcc),
        (client().two_phase("g"), Mode::TwoPhaseCommit),
        (client().saga("g"), Mode::Saga),
    ] {
        let saga = if mode == Mode::Saga { "saga," } else { "" };
        let draft = || draft.clone().branch("b", "p", "a", ());
        let told = request(draft());
        assert_eq!(told.requires.join(","), saga.trim_end_matches(','));
        assert_eq!((told.start_at, told.start_delay, told.locks), (None, None, vec![]));
        let told = request(draft().start_delay(Duration::from_secs(1)).start_at(at));
        assert_eq!(told.requires.join(","), format!("{saga}start_later"));
        let start = prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 };
        assert_eq!((told.start_at, told.start_delay), (Some(start), None));
        let told = request(draft().start_at(at).start_delay(Duration::from_secs(60)));
        assert_eq!((told.start_at, told.start_delay), (None, Some(seconds(60))));
        let told = request(draft().lock(Lock::shared("a")).lock(Lock::exclusive("b")));
        assert_eq!(told.requires.join(","), format!("{saga}locks"));
        let locks: Vec<_> = told.locks.iter().map(|lock| (&*lock.name, lock.mode())).collect();
        assert_eq!(locks, [("a", LockMode::Shared), ("b", LockMode::Exclusive)]);
        assert_eq!((told.mode(), told.branches.len()), (mode, 1));
    }
}

#[tokio::test]
async fn fields_of_steps_are_never_dropped_by_a_coordinator_without_sagas() {
    type Change = fn(Step<'_, ()>) -> Step<'_, ()>;
    let changes: [Change; 6] = [
        |step| step.pivot(),
        |step| step.compensation(Compensation::Kept),
        |step| step.retry(Retry::for_at_most(Duration::from_secs(1))),
        |step| step.attempt_timeout(Duration::from_secs(1)),
        |step| step.delay(Duration::from_secs(1)),
        |step| step.start_at(SystemTime::UNIX_EPOCH),
    ];
    for change in changes {
        let (draft, ()) = client().tcc("g").steps(|steps| {
            steps.add(change(MAIL.step("b", ())));
        });
        assert_eq!(request(draft).requires, ["saga"]);
    }
    let (draft, ()) = client().tcc("g").steps(|steps| {
        steps.add(Child::saga(|_| ()).step("b"));
    });
    assert_eq!(request(draft).requires, ["saga"]);
    let (draft, ()) = client().tcc("g").steps(|steps| {
        let first = steps.add(MAIL.step("first", ()));
        steps.add(MAIL.step("b", ()).after(&first));
    });
    assert_eq!(request(draft).requires, ["saga"]);
    let within = Child::saga(|child| {
        child.add(MAIL.step("b", ()).lock(Lock::exclusive("a")));
    });
    let (draft, ()) = client().saga("g").steps(|steps| {
        steps.add(within.step("child"));
    });
    assert_eq!(request(draft).requires, ["saga", "locks"]);
    let (draft, ()) = client().tcc("g").steps(|steps| {
        steps.add(MAIL.step("b", ()));
    });
    assert!(request(draft).requires.is_empty());
}

#[tokio::test]
async fn a_draft_says_how_its_outcome_is_waited_for() {
    let (draft, ()) = client().saga("g").steps(|_| ());
    let draft = draft.timeout(Duration::from_secs(90)).metadata("k", "v").with_outputs();
    let told = request(draft.wait_until_ended());
    assert_eq!((told.timeout, told.wait_for()), (Some(seconds(90)), WaitFor::Ended));
    assert_eq!(told.metadata.get("k").map(String::as_str), Some("v"));
    assert!(told.include_outputs);
}

#[tokio::test]
async fn a_payload_that_cannot_be_written_names_its_step() {
    const BAD: StepAction<crate::Payload, ()> = StepAction::new("p", "a");
    let bad = || crate::Payload::new("", " bad");
    let child = Child::saga(|child| {
        child.add(BAD.step("inner", bad()));
    });
    let (outer, ()) = client().saga("g").steps(|steps| {
        let step = steps.add(BAD.step("outer", bad()).pivot());
        steps.add(MAIL.step("after", ()).after(&step));
    });
    let (inner, ()) = client().saga("g").steps(|steps| {
        steps.add(child.step("child").pivot());
    });
    for (draft, named) in [(outer, "outer"), (inner, "inner")] {
        let error = draft.into_request().expect_err("no payload");
        let Error::Payload { branch_id, .. } = error else { panic!("{error}") };
        assert_eq!(branch_id, named);
    }
}

#[tokio::test]
async fn a_redelivery_begins_nothing_and_a_coordinator_that_cannot_promise_it_refuses() {
    let draft = || client().tcc("order-1").branch("a", "p", "act", ());
    let plain = request(draft());
    assert!(!plain.require_existing && plain.requires.is_empty());
    let again = request(draft().must_exist());
    assert!(again.require_existing);
    assert_eq!(again.requires, ["require_existing"]);
    assert_eq!(again.branches, plain.branches);
}
