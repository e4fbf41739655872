//! Transactions that are owed to participants which cannot be reached: they leave memory, and come back when these answer.

use std::time::{Duration, Instant};

use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    BranchSpec, ChildTransaction, Mode, Outcome, Resolution, RetryTransactionRequest,
    SubmitTransactionRequest, WaitFor, WatchTransactionRequest, watch_transaction_request,
};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::http::{http_call, http_get};
use super::super::operators::resolve;
use super::super::participants::register;
use super::super::process::Process;
use super::super::sagas::saga;
use super::super::{World, branch, millis, sqlite_url, tcc};
use super::{at, on_both, on_sqlite, submit_all};

/// Transactions that are owed.
pub(super) const OWED: usize = 160;

/// Most that stay in memory of one participant: a quarter of the places.
pub(super) const KEPT: usize = 60;

pub(super) fn parking(mut config: unanimo_coordinator::Config) -> unanimo_coordinator::Config {
    // No standby is promoted here.
    unanimo_coordinator::engine::Handle::park_after(Duration::ZERO);
    config.stalled_after = Period::secs(1);
    config.transactions_max = 4 * KEPT;
    config.call_timeout = Period::secs(20);
    config.phase_two_backoff = Period::millis(100);
    config.phase_two_backoff_max = Period::millis(500);
    config
}

/// Most that have a turn beside those that stay.
const TURN: usize = 8;

/// Commits that a participant got.
fn commits(remote: &Scripted) -> usize {
    remote.seen().iter().filter(|seen| seen.operation == "commit").count()
}

/// Has these committed, and owed to `sick`, which fails from then on.
pub(super) async fn owe(world: &World, sick: &Scripted, requests: Vec<SubmitTransactionRequest>) {
    sick.hold(true);
    for (answered, _) in submit_all(world, requests).await {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed);
    }
    sick.set_mood(Mood::FailingInPhaseTwo);
    sick.hold(false);
}

/// Transactions that may be in memory besides: those of the last probes.
pub(super) const PROBED: usize = 4;

/// Waits until no more are in memory than stay there.
pub(super) async fn parked(world: &World, kept: usize) {
    let engine = world.running.engine();
    let what = format!("all but {kept} to leave memory");
    until(&what, async || (engine.in_flight().0 <= kept + PROBED).then_some(())).await;
}

/// Asserts that all have their Commit, and none anything else.
pub(super) async fn assert_all_committed(world: &World, sick: &Scripted) {
    let engine = world.running.engine();
    until("all to end", async || (engine.in_flight().0 == 0).then_some(())).await;
    for n in 0..OWED {
        let shown = world.get_until(&format!("g{n}"), "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
        let calls = sick.calls(&shown.tx_id, &shown.branches[0].branch_id);
        assert_eq!(calls[0], "prepare");
        assert!(calls.len() > 1 && calls[1..].iter().all(|call| *call == "commit"), "{calls:?}");
    }
}

async fn watch(
    world: &World,
    gid: &str,
) -> tonic::Streaming<unanimo_proto::v1::WatchTransactionResponse> {
    let request = WatchTransactionRequest {
        key: Some(watch_transaction_request::Key::Gid(gid.into())),
        ..Default::default()
    };
    world.client().watch_transaction(request).await.unwrap().into_inner()
}

/// They leave memory; others' work goes on; a restart brings none of them; once the participant is back they come
/// little by little, and each ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_l5_what_is_owed_to_one_that_fails_leaves_memory_and_comes_back() {
    for config in on_both().await {
        let world = World::start(parking(config)).await;
        let sick = Scripted::default();
        register(&world, "sick", &sick.serve().await).await;
        let requests = (0..OWED).map(|n| at("sick", &format!("g{n}"), "ok", 30_000));
        owe(&world, &sick, requests.collect()).await;
        parked(&world, KEPT).await;
        until("the metric to tell", async || {
            let (_, metrics) = http_get(&world, "/metrics").await;
            let name = "unanimo_participant_transactions_parked{participant=\"sick\"} ";
            let value = metrics.lines().find_map(|line| line.strip_prefix(name))?;
            (value.parse::<usize>().unwrap() >= OWED - KEPT - PROBED).then_some(())
        })
        .await;
        // A look leaves it where it is.
        for n in 0..OWED {
            let shown = world.get(&format!("g{n}")).await;
            assert_eq!((shown.outcome(), shown.ended_at), (Outcome::Committed, None));
            assert!(shown.waiting.unwrap().sentence.contains("participant sick"));
        }
        assert!(world.running.engine().in_flight().0 <= KEPT + TURN + PROBED, "none was woken");
        let all = (0..100).map(|n| tcc(&format!("w{n}"), &["ok"]));
        for (answered, _) in submit_all(&world, all).await {
            assert_eq!(answered.unwrap().outcome(), Outcome::Committed, "L3");
        }
        parked(&world, KEPT).await;

        let world = world.crash_and_restart().await;
        let engine = world.running.engine();
        // Until it is known to fail, as many come as if it were back, beside those that were in memory.
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(3) {
            let (live, _) = engine.in_flight();
            assert!(live <= 2 * KEPT + 4 * PROBED, "L5: {live} in memory after a restart");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        parked(&world, KEPT).await;
        let (before, since) = (commits(&sick), Instant::now());
        sick.set_mood(Mood::Well);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let calls = commits(&sick) - before;
        #[expect(clippy::cast_precision_loss, reason = "a few calls")]
        let few = calls as f64 <= 64.0 + 400.0 * since.elapsed().as_secs_f64();
        assert!(few, "{calls} calls in {:?}", since.elapsed());
        assert_all_committed(&world, &sick).await;
    }
}

/// A follower sees the end, an operator's word ends one, and his retry sends what is owed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_acts_on_one_that_is_parked_or_follows_it_wakes_it() {
    let world = World::start(parking(on_sqlite())).await;
    let sick = Scripted::default();
    register(&world, "sick", &sick.serve().await).await;
    let requests = (0..OWED).map(|n| at("sick", &format!("g{n}"), "ok", 30_000));
    owe(&world, &sick, requests.collect()).await;
    parked(&world, KEPT).await;
    // More than stay in memory.
    let mut watches = Vec::new();
    for n in 0..=KEPT {
        watches.push(watch(&world, &format!("g{n}")).await);
    }
    for n in 0..=KEPT {
        let tx_id = world.get(&format!("g{}", OWED - 1 - n)).await.tx_id;
        let before = sick.calls(&tx_id, "a").len();
        let operator = "ann".to_owned();
        let retry =
            RetryTransactionRequest { tx_id: tx_id.clone(), operator, ..Default::default() };
        world.operator().retry_transaction(retry).await.unwrap();
        until("the retry", async || (sick.calls(&tx_id, "a").len() > before).then_some(())).await;
    }
    let tx_id = world.get("g100").await.tx_id;
    let word = resolve(&tx_id, "a", Resolution::Committed);
    world.operator().resolve_branch(word).await.unwrap();
    let shown = world.get_until("g100", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(shown.outcome(), Outcome::Committed);
    // What was woken leaves again, but for those that are followed.
    parked(&world, 2 * KEPT + 1).await;
    sick.set_mood(Mood::Well);
    for mut watch in watches {
        let ends = async {
            while let Some(next) = watch.message().await.unwrap() {
                if next.transaction.unwrap().ended_at.is_some() {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(Duration::from_secs(30), ends).await.unwrap());
    }
    assert_all_committed(&world, &sick).await;
}

/// Those that fail by themselves, and are the oldest, are in nobody's way: others end, and the breaker of a participant that
/// works stays closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_l3_those_that_fail_by_themselves_keep_nobody_out_of_memory() {
    let world = World::start(parking(on_sqlite())).await;
    let sick = Scripted::default();
    register(&world, "sick", &sick.serve().await).await;
    let action = |n| if n < OWED / 2 { "commit-fail-1000000" } else { "ok" };
    let requests = (0..OWED).map(|n| at("sick", &format!("g{n}"), action(n), 30_000));
    owe(&world, &sick, requests.collect()).await;
    parked(&world, KEPT).await;
    sick.set_mood(Mood::Well);
    // Those in memory may all be such: what is begun finds out that the participant works.
    until("new work to be taken", async || {
        let request = at("sick", "new", "ok", 30_000);
        world.client().submit_transaction(request).await.ok()
    })
    .await;
    for n in OWED / 2..OWED {
        let shown = world.get_until(&format!("g{n}"), "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
    }
    let more = (0..20).map(|n| at("sick", &format!("m{n}"), "ok", 30_000));
    for (answered, _) in submit_all(&world, more).await {
        assert_eq!(answered.unwrap().outcome(), Outcome::Committed, "L3");
    }
    assert!(world.running.engine().in_flight().0 <= 2 * KEPT + PROBED, "L5");
}

/// One that waits for two participants comes back for whichever answers first. A child and its parent end, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_for_two_comes_back_for_each() {
    let mut config = parking(on_sqlite());
    // Sixteen stay in memory of both.
    config.transactions_max = 64;
    let world = World::start(config).await;
    let (sick, ill) = (Scripted::default(), Scripted::default());
    register(&world, "sick", &sick.serve().await).await;
    register(&world, "ill", &ill.serve().await).await;
    let both = |n: usize| {
        let mut request = tcc(&format!("b{n}"), &["ok", "ok"]);
        request.timeout = millis(30_000);
        request.branches[0].participant = "sick".into();
        request.branches[1].participant = "ill".into();
        request
    };
    ill.hold(true);
    let owes = BranchSpec { participant: "sick".into(), ..branch("x", "ok") };
    let (mode, branches) = (Mode::Tcc.into(), vec![owes]);
    let child = ChildTransaction { mode, branches, ..Default::default() };
    let around = BranchSpec { branch_id: "in".into(), child: Some(child), ..Default::default() };
    let mut family = saga("family", vec![around]);
    family.wait_for = WaitFor::Decided.into();
    owe(&world, &sick, (0..40).map(both).chain([family]).collect()).await;
    ill.set_mood(Mood::FailingInPhaseTwo);
    ill.hold(false);
    let engine = world.running.engine();
    // Besides the family stays, and half of the others have left at least.
    parked(&world, 17).await;
    ill.set_mood(Mood::Well);
    until("those that are owed to one that is well", async || {
        let mut all = true;
        for n in 0..40 {
            let shown = world.get(&format!("b{n}")).await;
            all &= shown.branches[1].ended_at.is_some();
            assert_eq!(shown.ended_at, None);
        }
        all.then_some(())
    })
    .await;
    parked(&world, 17).await;
    sick.set_mood(Mood::Well);
    until("all to end", async || (engine.in_flight().0 == 0).then_some(())).await;
    for gid in (0..40).map(|n| format!("b{n}")).chain(["family".into()]) {
        let shown = world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
        assert_eq!(shown.outcome(), Outcome::Committed);
    }
}

/// Value of a metric of a process; nothing if there is none.
async fn metric(process: &Process, name: &str) -> Option<usize> {
    let metrics = http_call(process.admin_address(), "GET", "/metrics", &[], b"").await.body;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().parse().ok()
}

/// Waits for minutes, if need be.
async fn long_until(what: &str, process: &Process, done: impl Fn(usize, usize) -> bool) {
    let started = Instant::now();
    loop {
        let live = metric(process, "unanimo_transactions_live ").await.unwrap_or(0);
        let name = "unanimo_participant_transactions_parked{participant=\"p\"} ";
        let parked = metric(process, name).await.unwrap_or(0);
        if done(live, parked) {
            return;
        }
        let patience = Duration::from_secs(1_800);
        assert!(started.elapsed() < patience, "{what}: {live} live, {parked} parked");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Parks many, and prints the memory of the process as it goes: `TEST_PARKED` sets their number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes, and measures: TEST_PARKED sets the number"]
#[expect(clippy::print_stdout, reason = "it measures, for a person")]
async fn l5_many_that_are_parked_cost_no_memory() {
    let count = std::env::var("TEST_PARKED").map_or(100_000, |n| n.parse().unwrap());
    let places = (count * 2).to_string();
    let arguments = [
        ["--transactions-max", &places],
        ["--participant-share", "100"],
        ["--stalled-after", "2s"],
        ["--call-timeout", "30m"],
    ];
    let arguments: Vec<String> = arguments.as_flattened().iter().map(ToString::to_string).collect();
    let url = sqlite_url();
    let mut process = Process::start(&url, &arguments).await;
    process.client().submit_transaction(tcc("first", &["ok"])).await.unwrap();
    let mib = |process: &mut Process| process.resident() >> 20;
    println!("{} MiB before", mib(&mut process));
    process.p.hold(true);
    let mut submits = tokio::task::JoinSet::new();
    for n in 0..count {
        let mut client = process.client();
        let mut request = tcc(&format!("m{n}"), &["ok"]);
        request.timeout = millis(3_600_000);
        submits.spawn(async move { client.submit_transaction(request).await.unwrap() });
        if submits.len() >= 64 {
            submits.join_next().await.unwrap().unwrap();
        }
    }
    submits.join_all().await;
    println!("{} MiB with {count} in memory", mib(&mut process));
    process.p.set_mood(Mood::FailingInPhaseTwo);
    process.p.hold(false);
    let kept = 1_000 + 64;
    long_until("to be parked", &process, |live, parked| live <= kept && parked > 0).await;
    println!("{} MiB once they have left", mib(&mut process));
    drop(process);
    let mut process = Process::start(&url, &arguments).await;
    process.p.set_mood(Mood::FailingInPhaseTwo);
    tokio::time::sleep(Duration::from_secs(10)).await;
    println!("{} MiB after a restart, {} at most", mib(&mut process), process.resident_max() >> 20);
    let live = metric(&process, "unanimo_transactions_live ").await.unwrap();
    assert!(live <= 4_000, "L5: {live}");
    let started = Instant::now();
    process.p.set_mood(Mood::Well);
    long_until("to end", &process, |live, parked| live + parked == 0).await;
    println!("all ended in {:?}; {} MiB at most", started.elapsed(), process.resident_max() >> 20);
}
