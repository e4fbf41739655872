//! Transactions that are parked, and who comes upon them: another coordinator, a fault of the store, a clock that is set,
//! questions and acts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tonic::Code;
use unanimo_coordinator::Config;
use unanimo_proto::v1::inquired_branch::Branch as Named;
use unanimo_proto::v1::{
    BranchSpec, ForgetTransactionRequest, Heuristic, InquireBranchesRequest, InquiredBranch,
    ListParticipantsRequest, Outcome, Resolution, SubmitTransactionRequest, Verdict, WaitFor,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::clocks::Clock;
use super::super::http::http_call;
use super::super::operators::resolve;
use super::super::participants::register;
use super::super::sagas::{saga, step};
use super::super::{World, millis, tcc};
use super::parked::{KEPT, OWED, PROBED, assert_all_committed, owe, parked, parking};
use super::{at, lasting, on_sqlite, submit_all};
use crate::store::execute;

/// Starts a coordinator with a participant `sick`.
async fn with_sick(config: Config) -> (World, Scripted) {
    let world = World::start(parking(config)).await;
    let sick = Scripted::default();
    register(&world, "sick", &sick.serve().await).await;
    (world, sick)
}

fn owed() -> Vec<SubmitTransactionRequest> {
    (0..OWED).map(|n| at("sick", &format!("g{n}"), "ok", 30_000)).collect()
}

/// Number of transactions out of memory that wait for a participant, as it is listed.
async fn listed(world: &World, name: &str) -> usize {
    let request = ListParticipantsRequest::default();
    let listed = world.directory().list_participants(request).await.unwrap().into_inner();
    let found = listed.participants.into_iter().find(|listed| listed.name == name);
    found.map_or(0, |found| found.transactions_parked as usize)
}

/// L2, L5: another coordinator adopts what was in memory. They stay out of its memory, are listed, and are delivered when the
/// participant is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l2_l5_what_is_parked_outlives_its_coordinator() {
    let config = lasting(&Server::shared().database().await);
    let (world, sick) = with_sick(config).await;
    let heir = Config { node: "two".parse().unwrap(), ..world.config.clone() };
    let p = world.p.clone();
    let goes = async {
        owe(&world, &sick, owed()).await;
        parked(&world, KEPT).await;
        drop(world);
    };
    // It waits as a standby until the other one has gone.
    let (heir, ()) = tokio::join!(World::start_with(heir, p), goes);
    let engine = heir.running.engine();
    until("those in memory to be adopted", async || (engine.in_flight().0 > 0).then_some(())).await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let (live, _) = engine.in_flight();
        assert!(live <= 2 * KEPT + 4 * PROBED, "L5: {live} in memory after the adoption");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    parked(&heir, KEPT).await;
    let out = OWED - KEPT - PROBED;
    until("them to be listed", async || (listed(&heir, "sick").await >= out).then_some(())).await;
    let admin = heir.running.admin_address().unwrap();
    // The number changes while they are counted anew.
    until("the page to show them", async || {
        let number = listed(&heir, "sick").await;
        let page = http_call(admin, "GET", "/participants", &[], b"").await.body;
        let cell = format!("<td class=\"number\">{number}</td>");
        (page.contains(">parked</th>") && page.contains(&cell)).then_some(())
    })
    .await;
    sick.set_mood(Mood::Well);
    assert_all_committed(&heir, &sick).await;
    until("none to be listed", async || (listed(&heir, "sick").await == 0).then_some(())).await;
}

/// L3: a fault of the store where those of one participant are brought back is in nobody else's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_those_of_one_participant_that_cannot_be_read_keep_no_others_waiting() {
    let url = Server::shared().database().await;
    let (world, sick) = with_sick(lasting(&url)).await;
    // By its name it comes first.
    let ill = Scripted::default();
    register(&world, "ill", &ill.serve().await).await;
    owe(&world, &sick, owed()).await;
    // They leave their places to the others.
    parked(&world, KEPT).await;
    let of_ill = (0..OWED).map(|n| at("ill", &format!("i{n}"), "ok", 30_000));
    owe(&world, &ill, of_ill.collect()).await;
    parked(&world, KEPT).await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'it is refused'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON unanimo.waits FOR EACH ROW
            WHEN (OLD.participant = 'ill') EXECUTE FUNCTION refuse()";
    execute(&url, refuse).await;
    sick.set_mood(Mood::Well);
    ill.set_mood(Mood::Well);
    for n in 0..OWED {
        let shown = world.get_until(&format!("g{n}"), "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed, "L3");
    }
    let mut open = 0;
    for n in 0..OWED {
        open += usize::from(world.get(&format!("i{n}")).await.ended_at.is_none());
    }
    assert!(open > 0, "some are still out of memory");
    execute(&url, "DROP TRIGGER refuse ON unanimo.waits").await;
    for n in 0..OWED {
        world.get_until(&format!("i{n}"), "its end", |t| t.ended_at.is_some()).await;
    }
}

/// L1: while the participant fails, some of those out of memory have their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_some_that_are_parked_have_their_turn_while_the_participant_fails() {
    let (world, sick) = with_sick(on_sqlite()).await;
    owe(&world, &sick, owed()).await;
    parked(&world, KEPT).await;
    let before = sick.seen().len();
    let tried = || -> BTreeSet<String> {
        sick.seen()[before..].iter().map(|seen| seen.tx_id.clone()).collect()
    };
    let started = Instant::now();
    // At least eight more than those that stay have been tried, in one turn and the one behind it.
    let most = KEPT + PROBED;
    while tried().len() <= most {
        assert!(started.elapsed() < Duration::from_secs(180), "L1: {} were tried", tried().len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(world.running.engine().in_flight().0 <= 2 * KEPT, "L5");
    sick.set_mood(Mood::Well);
    assert_all_committed(&world, &sick).await;
}

/// S11, S12: a question is answered by the decision, an act that is not allowed changes nothing, and an operator's word
/// that differs from the decision is kept until it is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_s12_questions_and_acts_about_one_that_is_parked() {
    let (world, sick) = with_sick(on_sqlite()).await;
    owe(&world, &sick, owed()).await;
    parked(&world, KEPT).await;
    // The first that were decided stay in memory: of all that were, most are not.
    let mut branches = Vec::new();
    for n in 0..OWED {
        let tx_id = world.get(&format!("g{n}")).await.tx_id;
        branches.push(InquiredBranch { tx_id, branch: Some(Named::BranchId("a".into())) });
    }
    let request = InquireBranchesRequest {
        participant: "sick".into(),
        branches,
        cluster_id: world.cluster_id().await,
        ..Default::default()
    };
    let told = world.client().inquire_branches(request).await.unwrap().into_inner();
    assert_eq!(told.verdicts.len(), OWED);
    for result in &told.verdicts {
        assert_eq!((result.verdict(), result.ended), (Verdict::Commit, false), "S12");
    }
    let gid = |n: usize| format!("g{n}");
    for n in 0..OWED {
        let tx_id = world.get(&gid(n)).await.tx_id;
        let forget = ForgetTransactionRequest {
            tx_id: tx_id.clone(),
            operator: "ann".into(),
            note: "the bank is closed".into(),
            ..Default::default()
        };
        let status = world.operator().forget_transaction(forget.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "S11: nobody has resolved it");
        if n < OWED - KEPT {
            continue;
        }
        let word = resolve(&tx_id, "a", Resolution::RolledBack);
        world.operator().resolve_branch(word).await.unwrap();
        let shown = world.get_until(&gid(n), "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.heuristic(), Heuristic::Mixed, "S11");
        assert_eq!(shown.outcome(), Outcome::Committed, "S4");
        world.operator().forget_transaction(forget).await.unwrap();
    }
    sick.set_mood(Mood::Well);
    for n in 0..OWED - KEPT {
        let shown = world.get_until(&gid(n), "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(
            (shown.outcome(), shown.heuristic()),
            (Outcome::Committed, Heuristic::None),
            "S12"
        );
    }
}

/// L1: a clock that is set either way loses none, and brings not all of them at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_l5_a_clock_that_is_set_loses_none_that_is_parked() {
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
    for jump in [-DAY_MS, DAY_MS] {
        let clock = Arc::new(Clock::default());
        let config = parking(on_sqlite());
        let world = World::start_at(config, Scripted::default(), Arc::clone(&clock) as _).await;
        let sick = Scripted::default();
        register(&world, "sick", &sick.serve().await).await;
        owe(&world, &sick, owed()).await;
        parked(&world, KEPT).await;
        clock.set(jump);
        let (engine, started) = (world.running.engine(), Instant::now());
        while started.elapsed() < Duration::from_secs(4) {
            let (live, _) = engine.in_flight();
            assert!(live <= 2 * KEPT + 4 * PROBED, "L5: {live} in memory after {jump}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sick.set_mood(Mood::Well);
        assert_all_committed(&world, &sick).await;
    }
}

/// S1, S7: Cancels that are owed leave memory and come back, and none of them is a Commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_s7_cancels_that_are_owed_leave_memory_and_come_back() {
    let (world, sick) = with_sick(on_sqlite()).await;
    sick.set_mood(Mood::FailingInPhaseTwo);
    let aborts = |n: usize| {
        let mut request = tcc(&format!("g{n}"), &["ok", "refuse"]);
        request.branches[0].participant = "sick".into();
        request.timeout = millis(30_000);
        request
    };
    // Some at once: who fails long enough is given nothing more.
    sick.hold(true);
    let submitting = submit_all(&world, (0..OWED).map(aborts));
    let released = async {
        until("all to be asked", async || (sick.seen().len() >= OWED).then_some(())).await;
        sick.hold(false);
    };
    let (answered, ()) = tokio::join!(submitting, released);
    for (answered, _) in answered {
        assert_eq!(answered.unwrap().outcome(), Outcome::Aborted);
    }
    parked(&world, KEPT).await;
    sick.set_mood(Mood::Well);
    let engine = world.running.engine();
    until("all to end", async || (engine.in_flight().0 == 0).then_some(())).await;
    for n in 0..OWED {
        let shown = world.get_until(&format!("g{n}"), "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Aborted);
        let calls = sick.calls(&shown.tx_id, &shown.branches[0].branch_id);
        assert!(calls.last() == Some(&"cancel") && !calls.contains(&"commit"), "S1: {calls:?}");
    }
}

/// S7: a saga that is past its pivot waits for a step out of memory, and goes forward once that can be done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_sagas_that_are_past_their_pivot_leave_memory_and_go_forward() {
    let (world, sick) = with_sick(on_sqlite()).await;
    let past = |n: usize| {
        let pivot = BranchSpec { pivot: true, ..step("pay", "ok", &[]) };
        let after = BranchSpec { participant: "sick".into(), ..step("send", "ok", &["pay"]) };
        let mut request = saga(&format!("g{n}"), vec![pivot, after]);
        (request.wait_for, request.timeout) = (WaitFor::Decided.into(), millis(30_000));
        request
    };
    sick.hold(true);
    for (answered, _) in submit_all(&world, (0..OWED).map(past)).await {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
    }
    sick.set_mood(Mood::Failing);
    sick.hold(false);
    parked(&world, KEPT).await;
    sick.set_mood(Mood::Well);
    let engine = world.running.engine();
    until("all to end", async || (engine.in_flight().0 == 0).then_some(())).await;
    for n in 0..OWED {
        let shown = world.get_until(&format!("g{n}"), "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        let calls = sick.calls(&shown.tx_id, "send");
        assert!(!calls.is_empty() && calls.iter().all(|call| *call == "prepare"), "{calls:?}");
    }
}
