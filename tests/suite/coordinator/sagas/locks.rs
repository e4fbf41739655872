//! Locks: names that transactions hold against each other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sqlx::Connection;
use unanimo_coordinator::Config;
use unanimo_proto::v1::{
    AbortCause, BeginTransactionRequest, BranchSpec, BranchState, ChildTransaction,
    EnlistBranchRequest, HeldLock, Lock, LockMode, Mode, Outcome, SubmitTransactionRequest,
    Transaction,
};
use unanimo_tests::scripted::Seen;

use super::super::{World, describe, millis, tcc};
use super::bad_input::child_step;
use super::{accept, called, ended, on_both, order, saga, step};

fn lock(mode: LockMode, wait_ms: i64) -> Vec<Lock> {
    vec![Lock { name: "account:42".into(), mode: mode.into(), wait_max: millis(wait_ms) }]
}

fn exclusive(wait_ms: i64) -> Vec<Lock> {
    lock(LockMode::Exclusive, wait_ms)
}

/// A saga of one step that takes locks at its begin.
fn locking(gid: &str, action: &str, locks: Vec<Lock>) -> SubmitTransactionRequest {
    SubmitTransactionRequest { locks, ..saga(gid, vec![step("a", action, &[])]) }
}

fn granted(tx: &Transaction) -> Vec<bool> {
    tx.locks.iter().map(|lock| lock.granted).collect()
}

/// One holds it at a time, whatever the mode of its transaction, until it has ended; then who waits goes
/// on at once.
#[tokio::test]
async fn one_holds_an_exclusive_lock_until_it_has_ended() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let first = SubmitTransactionRequest { locks: exclusive(0), ..tcc("first", &["ok"]) };
        let first = world.submit(first).await.unwrap();
        assert_eq!(first.outcome(), Outcome::Committed, "decided, and its Commit is held");
        let second = accept(&world, locking("second", "ok", exclusive(20_000))).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(world.p.calls(&second, "a"), [""; 0]);
        let waiting = world.get("second").await;
        assert_eq!(waiting.branches[0].state(), BranchState::Waiting);
        let name = || "account:42".to_owned();
        let expected = |granted| HeldLock {
            name: name(),
            mode: LockMode::Exclusive.into(),
            granted,
            holder_gid: if granted { String::new() } else { "first".into() },
            ..Default::default()
        };
        assert_eq!(waiting.locks, [expected(false)], "the holder is named");
        assert_eq!(world.get("first").await.locks, [expected(true)]);
        world.p.hold(false);
        let shown = ended(&world, "second").await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        assert_eq!(shown.locks, []);
        let seen = world.p.seen();
        let place = |tx_id: &str, operation: &str| {
            seen.iter().position(|s| s.tx_id == tx_id && s.operation == operation).unwrap()
        };
        assert!(place(&first.tx_id, "commit") < place(&second, "prepare"));
    }
}

/// Many may share it, and none of them shares it with one that wants it for itself.
#[tokio::test]
async fn many_share_a_lock() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let one = accept(&world, locking("one", "gated", lock(LockMode::Shared, 0))).await;
        let two = accept(&world, locking("two", "gated", lock(LockMode::Shared, 0))).await;
        called(&world, &one, "a", 1).await;
        called(&world, &two, "a", 1).await;
        let alone = accept(&world, locking("alone", "ok", exclusive(20_000))).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.p.calls(&alone, "a"), [""; 0]);
        world.p.hold(false);
        for gid in ["one", "two", "alone"] {
            assert_eq!(ended(&world, gid).await.outcome(), Outcome::Committed);
        }
    }
}

/// A younger one waits for as long as it says, and is then told who holds it. What it has done is
/// compensated.
#[tokio::test]
async fn a_younger_one_gives_up_and_is_told_the_holder() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let first = accept(&world, locking("first", "gated", exclusive(0))).await;
        called(&world, &first, "a", 1).await;
        let began = std::time::Instant::now();
        let second = world.submit(locking("second", "ok", exclusive(300))).await.unwrap();
        assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
        assert_eq!(second.outcome(), Outcome::Aborted);
        assert_eq!(second.abort_cause(), AbortCause::Locked);
        assert_eq!(second.abort_detail, "lock account:42 is held by transaction first");
        assert_eq!(world.p.calls(&second.tx_id, "a"), [""; 0]);

        let locked = BranchSpec { locks: exclusive(0), ..step("b", "ok", &["a"]) };
        let third = accept(&world, saga("third", vec![step("a", "ok", &[]), locked])).await;
        let shown = world.get_until("third", "its decision", |t| t.decided_at.is_some()).await;
        assert_eq!(shown.abort_cause(), AbortCause::Locked);
        assert_eq!(shown.abort_branch_id, "b");
        assert_eq!(shown.abort_detail, "lock account:42 is held by transaction first");
        world.p.hold(false);
        ended(&world, "third").await;
        assert_eq!(order(&world, &third, "cancel"), ["a"]);
        assert_eq!(ended(&world, "first").await.outcome(), Outcome::Committed);
    }
}

/// Two share a lock, and then each wants it alone: the younger one is told of the older one, and never of itself.
#[tokio::test]
async fn nobody_is_told_to_wait_for_itself() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let alone = BranchSpec { locks: exclusive(1_500), ..step("b", "ok", &["a"]) };
        let both = |gid: &str| {
            let branches = vec![step("a", "gated", &[]), alone.clone()];
            SubmitTransactionRequest { locks: lock(LockMode::Shared, 0), ..saga(gid, branches) }
        };
        for gid in ["first", "second"] {
            let tx_id = accept(&world, both(gid)).await;
            called(&world, &tx_id, "a", 1).await;
        }
        world.p.hold(false);
        let told = std::cell::RefCell::new(BTreeSet::new());
        let second = world
            .get_until("second", "its decision", |tx| {
                told.borrow_mut().extend(tx.locks.iter().map(|lock| lock.holder_gid.clone()));
                tx.decided_at.is_some()
            })
            .await;
        let told = told.into_inner();
        assert!(!told.contains("second"), "{told:?}");
        assert_eq!(second.abort_cause(), AbortCause::Locked);
        let detail = &second.abort_detail;
        assert!(detail.contains("transaction first"), "{detail}");
        assert_eq!(ended(&world, "first").await.outcome(), Outcome::Committed);
    }
}

/// A younger one waits for no longer than it says, however often the coordinator is started again meanwhile: before its
/// begin, and before a step.
#[tokio::test]
async fn a_wait_goes_on_over_crashes() {
    on_both(async |world: World| {
        world.p.hold(true);
        let first = accept(&world, locking("first", "gated", exclusive(0))).await;
        called(&world, &first, "a", 1).await;
        let began = Instant::now();
        accept(&world, locking("begin", "ok", exclusive(6_000))).await;
        let locked = BranchSpec { locks: exclusive(6_000), ..step("b", "ok", &["a"]) };
        accept(&world, saga("step", vec![step("a", "ok", &[]), locked])).await;
        let waits = |tx: &Transaction| tx.locks.iter().any(|lock| lock.holder_gid == "first");
        world.get_until("step", "its wait", waits).await;
        let mut world = world;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            world = world.crash_and_restart().await;
        }
        let restarted = Instant::now();
        for gid in ["begin", "step"] {
            let shown = world.get_until(gid, "its decision", |t| t.decided_at.is_some()).await;
            assert_eq!(shown.abort_cause(), AbortCause::Locked);
            assert_eq!(shown.abort_detail, "lock account:42 is held by transaction first");
        }
        assert!(began.elapsed() >= Duration::from_secs(6), "{:?}", began.elapsed());
        let took = restarted.elapsed();
        assert!(took < Duration::from_secs(5), "the wait began anew: {took:?} after the restart");
        world.p.hold(false);
    })
    .await;
}

/// An initiator that calls a participant itself is told to only once the transaction has its locks.
#[tokio::test]
async fn a_branch_is_enlisted_once_the_locks_are_had() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let first = accept(&world, locking("first", "gated", exclusive(0))).await;
        called(&world, &first, "a", 1).await;
        let begin = BeginTransactionRequest {
            gid: "second".into(),
            mode: Mode::Saga.into(),
            locks: exclusive(20_000),
            ..Default::default()
        };
        let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
        let enlist = async |patience_ms| {
            let branch = Some(step("a", "ok", &[]));
            let message =
                EnlistBranchRequest { tx_id: tx_id.clone(), branch, ..Default::default() };
            let mut request = tonic::Request::new(message);
            request.set_timeout(Duration::from_millis(patience_ms));
            world.client().enlist_branch(request).await
        };
        let status = enlist(500).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().contains("waits for its locks"), "{}", status.message());
        let (enlisted, ()) = tokio::join!(enlist(10_000), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            world.p.hold(false);
        });
        assert_eq!(enlisted.unwrap().into_inner().context.unwrap().branch_id, "a");
        assert_eq!(granted(&world.get("second").await), [true]);
    }
}

/// Two-phase commit takes its locks at the begin as others do: nothing is prepared before, and they are free at its end.
#[tokio::test]
async fn a_two_phase_commit_takes_its_locks_first() {
    let two_phase = |gid: &str, wait_ms| SubmitTransactionRequest {
        locks: exclusive(wait_ms),
        mode: Mode::TwoPhaseCommit.into(),
        ..tcc(gid, &["ok"])
    };
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let first = world.submit(two_phase("first", 0)).await.unwrap();
        assert_eq!(first.outcome(), Outcome::Committed, "decided, and its Commit is held");
        let refused = world.submit(two_phase("refused", 0)).await.unwrap();
        assert_eq!(refused.outcome(), Outcome::Aborted);
        let shown = ended(&world, "refused").await;
        assert_eq!(shown.abort_cause(), AbortCause::Locked);
        let second = accept(&world, two_phase("second", 20_000)).await;
        super::super::until("the wait", async || {
            let waiting = world.get("second").await;
            waiting.locks.first().is_some_and(|lock| lock.holder_gid == "first").then_some(())
        })
        .await;
        for tx_id in [&refused.tx_id, &second] {
            assert_eq!(world.p.calls(tx_id, "a"), [""; 0], "nothing is prepared before");
        }
        world.p.hold(false);
        assert_eq!(ended(&world, "second").await.outcome(), Outcome::Committed);
        assert_eq!(world.p.calls(&second, "a"), ["prepare", "commit"]);
    }
}

/// A lock on a name, which is waited for as good as for ever.
fn patient(name: &str) -> Vec<Lock> {
    vec![Lock { name: name.into(), mode: 0, wait_max: millis(3_600_000) }]
}

/// A saga of two steps, each with a lock. The second one comes some time after the first.
fn crossing(gid: &str, action: &str, names: [&str; 2], delay_ms: i64) -> SubmitTransactionRequest {
    let first = BranchSpec { locks: patient(names[0]), ..step("a", action, &[]) };
    let second =
        BranchSpec { locks: patient(names[1]), delay: millis(delay_ms), ..step("b", "ok", &["a"]) };
    let request = saga(gid, vec![first, second]);
    SubmitTransactionRequest { timeout: millis(7_200_000), ..request }
}

/// L1: of two that hold what the other one wants, the older one waits and the younger one gives up at once, though both
/// would wait for an hour.
#[tokio::test]
async fn l1_two_that_wait_for_each_other_do_not_wait_for_ever() {
    on_both(async |world: World| {
        world.p.hold(true);
        let older = accept(&world, crossing("older", "gated", ["x", "y"], 0)).await;
        called(&world, &older, "a", 1).await;
        let younger = accept(&world, crossing("younger", "gated", ["y", "x"], 0)).await;
        called(&world, &younger, "a", 1).await;
        world.p.hold(false);
        let released = Instant::now();
        let younger_ended = ended(&world, "younger").await;
        assert_eq!(ended(&world, "older").await.outcome(), Outcome::Committed);
        let took = released.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(younger_ended.abort_cause(), AbortCause::Locked);
        assert_eq!(younger_ended.abort_branch_id, "b");
        assert_eq!(
            younger_ended.abort_detail,
            "lock x is held by transaction older; an older transaction waits for a lock that this one holds"
        );
        assert_eq!(order(&world, &younger, "cancel"), ["a"]);
        assert_eq!(order(&world, &older, "prepare"), ["a", "b"]);
    })
    .await;
}

/// L1: a family is one in a circle: the lock that its top holds is in the way, and its child waits.
#[tokio::test]
async fn l1_a_child_gives_up_for_the_lock_of_its_parent() {
    on_both(async |world: World| {
        world.p.hold(true);
        let older = accept(&world, crossing("older", "gated", ["x", "y"], 0)).await;
        called(&world, &older, "a", 1).await;
        let locked = BranchSpec { locks: patient("x"), ..step("c", "ok", &[]) };
        let (mode, branches) = (Mode::Saga.into(), vec![locked]);
        let child = ChildTransaction { mode, branches, ..Default::default() };
        let steps = vec![step("a", "gated", &[]), child_step("b", child, &["a"])];
        let request = saga("parent", steps);
        let (locks, timeout) = (patient("y"), millis(7_200_000));
        let parent = SubmitTransactionRequest { locks, timeout, ..request };
        let parent = accept(&world, parent).await;
        called(&world, &parent, "a", 1).await;
        world.p.hold(false);
        let released = Instant::now();
        assert_eq!(ended(&world, "older").await.outcome(), Outcome::Committed);
        let shown = ended(&world, "parent").await;
        let took = released.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(shown.outcome(), Outcome::Aborted);
        assert_eq!(world.get("parent.b").await.abort_cause(), AbortCause::Locked);
        assert_eq!(order(&world, &parent, "cancel"), ["a"]);
    })
    .await;
}

/// L1: who waits for an older one, and asks seldom by then, learns at once that an older one has begun to wait for what
/// it holds.
#[tokio::test]
async fn l1_who_waits_already_gives_up_as_soon_as_it_is_in_the_way() {
    const PAIRS: usize = 6;
    on_both(async |world: World| {
        for pair in 0..PAIRS {
            let (x, y) = (format!("x{pair}"), format!("y{pair}"));
            let request = crossing(&format!("older-{pair}"), "ok", [&x, &y], 6_000);
            let older = accept(&world, request).await;
            called(&world, &older, "a", 1).await;
            accept(&world, crossing(&format!("younger-{pair}"), "ok", [&y, &x], 0)).await;
        }
        for pair in 0..PAIRS {
            let older = ended(&world, &format!("older-{pair}")).await;
            assert_eq!(older.outcome(), Outcome::Committed);
            let younger = ended(&world, &format!("younger-{pair}")).await;
            assert_eq!(younger.abort_cause(), AbortCause::Locked);
            let at = |time: Option<prost_types::Timestamp>| {
                let time = time.unwrap();
                time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000
            };
            let waited = at(older.ended_at) - at(older.created_at) - 6_000;
            assert!(waited < 2_000, "the older one waited for {waited} ms");
        }
    })
    .await;
}

/// L1: of twelve that cross each other, and would all wait for an hour, the oldest has both locks next each time, and one
/// that stands in its way gives up: nobody else does.
#[tokio::test]
async fn l1_of_a_crowd_that_crosses_at_least_half_commits() {
    on_both(async |world: World| {
        world.p.hold(true);
        for n in 0..12 {
            let names = if n % 2 == 0 { ["x", "y"] } else { ["y", "x"] };
            let tx_id = accept(&world, crossing(&format!("s{n}"), "gated", names, 0)).await;
            if n < 2 {
                called(&world, &tx_id, "a", 1).await;
            }
        }
        world.p.hold(false);
        let released = Instant::now();
        let mut committed = Vec::new();
        for n in 0..12 {
            let shown = ended(&world, &format!("s{n}")).await;
            match shown.outcome() {
                Outcome::Committed => committed.push(n),
                _ => assert_eq!(shown.abort_cause(), AbortCause::Locked, "{shown:?}"),
            }
        }
        let took = released.elapsed();
        assert!(took < Duration::from_secs(8), "{took:?}");
        assert!(committed.len() >= 6 && committed[0] == 0, "{committed:?} committed");
    })
    .await;
}

/// A lock survives a crash of the coordinator, and is given back at the end after it.
#[tokio::test]
async fn s3_locks_survive_a_restart() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.hold(true);
        let first = accept(&world, locking("first", "gated", exclusive(0))).await;
        called(&world, &first, "a", 1).await;
        let second = accept(&world, locking("second", "ok", exclusive(20_000))).await;
        let world = world.crash_and_restart().await;
        called(&world, &first, "a", 2).await;
        assert_eq!(granted(&world.get("first").await), [true]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(world.p.calls(&second, "a"), [""; 0]);
        world.p.hold(false);
        assert_eq!(ended(&world, "first").await.outcome(), Outcome::Committed);
        assert_eq!(ended(&world, "second").await.outcome(), Outcome::Committed);
        let third = world.submit(locking("third", "ok", exclusive(0))).await.unwrap();
        assert_eq!(third.outcome(), Outcome::Committed, "all of them were given back");
    }
}

/// Transactions that wait for one lock.
const WAITERS: usize = 1_000;

/// Transactions one after the other that nobody holds up: the measure of a hand-over.
const ALONE: u32 = 40;

/// Ids of transactions in the order in which the participant saw them, each once for all of its calls that
/// follow each other.
fn turns(seen: &[Seen]) -> Vec<&str> {
    let mut turns: Vec<&str> = seen.iter().map(|seen| &*seen.tx_id).collect();
    turns.dedup();
    turns
}

/// Submits a transaction with a lock of its own, and waits for its end.
async fn alone(world: &World, number: u32) {
    let locks = vec![Lock { name: format!("own:{number}"), ..exclusive(0).remove(0) }];
    let request = SubmitTransactionRequest { locks, ..tcc(&format!("alone-{number}"), &["ok"]) };
    accept(world, request).await;
    ended(world, &format!("alone-{number}")).await;
}

/// L3, L5: of a thousand that wait for one lock, those whose time runs out are told who holds it, and all others
/// have it one after the other, the oldest first, each alone until its Commit is answered. A hand-over takes about as
/// long as a transaction that nobody holds up; each that waits has one of the places that there are; and the store
/// is asked by a few at once, and written to a few times for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_a_thousand_wait_for_one_lock() {
    let url = unanimo_tests::postgres::Server::shared().database().await;
    let transactions_max = 1 + WAITERS;
    let config = super::super::config(&url);
    let world = World::start(Config { transactions_max, participant_share: 100, ..config }).await;
    let started = Instant::now();
    for number in 0..ALONE {
        alone(&world, number).await;
    }
    let per_transaction = started.elapsed() / ALONE;

    world.p.hold(true);
    let first = accept(&world, locking("first", "gated", exclusive(0))).await;
    called(&world, &first, "a", 1).await;
    let waiting = |gid: &str, wait_ms| {
        let (locks, timeout) = (exclusive(wait_ms), millis(300_000));
        SubmitTransactionRequest { locks, timeout, ..tcc(gid, &["ok"]) }
    };
    let mut patient = Vec::new();
    for n in 0..WAITERS {
        let is_patient = n % 10 != 0;
        let wait_ms = if is_patient { 300_000 } else { 1_000 };
        let tx_id = accept(&world, waiting(&format!("w{n}"), wait_ms)).await;
        patient.extend(is_patient.then_some((tx_id, format!("w{n}"))));
    }
    for n in (0..WAITERS).step_by(10) {
        let shown = ended(&world, &format!("w{n}")).await;
        assert_eq!((shown.outcome(), shown.abort_cause()), (Outcome::Aborted, AbortCause::Locked));
        assert_eq!(shown.abort_detail, "lock account:42 is held by transaction first");
    }
    // Each that waits has a place. Theirs are taken by others, and there is none for one more.
    for n in 0..WAITERS / 10 {
        let gid = format!("late-{n}");
        patient.push((accept(&world, waiting(&gid, 300_000)).await, gid));
    }
    let status = world.submit(waiting("one-more", 0)).await.unwrap_err();
    assert_eq!(describe(&status).1, "OVERLOADED");
    check_store(&url).await;
    let before = world.p.seen().len();
    world.p.hold(false);
    let started = Instant::now();
    for (_, gid) in &patient {
        let shown = ended(&world, gid).await;
        assert_eq!(shown.outcome(), Outcome::Committed, "{shown:?}");
    }
    let per_hand_over = started.elapsed() / u32::try_from(patient.len()).unwrap();
    eprintln!("{per_hand_over:?} a hand-over, {per_transaction:?} a transaction alone");
    let seen = world.p.seen();
    let calls = &seen[before..];
    // In the participant's own record: nobody comes in between, and nobody overtakes.
    let expected: Vec<&str> =
        std::iter::once(&*first).chain(patient.iter().map(|(tx_id, _)| &**tx_id)).collect();
    assert_eq!(turns(calls), expected[usize::from(calls[0].tx_id != first)..]);
    assert!(per_hand_over < 3 * per_transaction, "{per_hand_over:?}, not {per_transaction:?}");
}

/// Those that wait come again and again, a few at once, and write nothing.
async fn check_store(url: &str) {
    let mut raw = sqlx::PgConnection::connect(url).await.unwrap();
    let written = "SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'locks'";
    let at_once = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE '%pg_advisory_xact_lock%'
            AND state = 'active' AND pid <> pg_backend_pid()";
    for _ in 0..20 {
        let taking: i64 = sqlx::query_scalar(at_once).fetch_one(&mut raw).await.unwrap();
        assert!(taking <= 4, "{taking} at once");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let rows: i64 = sqlx::query_scalar(written).fetch_one(&mut raw).await.unwrap();
    let most = i64::try_from(WAITERS * 12 / 10).unwrap() + i64::from(ALONE);
    assert!(rows <= most, "{rows} rows were written");
}
