//! Every call ends before its own deadline, as it is documented, whatever it waits for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tonic::{Code, Request, Status};
use unanimo_coordinator::config::Period;
use unanimo_coordinator::engine::Answer;
use unanimo_core::TxId;
use unanimo_proto::v1::{
    BeginTransactionRequest, CommitTransactionRequest, DeregisterEndpointRequest,
    EnlistBranchRequest, ExecuteBranchRequest, ExportTransactionRequest, ForgetTransactionRequest,
    GetServerInfoRequest, GetTransactionRequest, InquireBranchesRequest, InquiredBranch,
    ListTransactionsRequest, Mode, Outcome, RegisterEndpointRequest, Resolution,
    ResolveBranchRequest, RetryTransactionRequest, RollbackTransactionRequest,
    WatchTransactionRequest, export_transaction_request, get_transaction_request, inquired_branch,
    rollback_transaction_request, watch_transaction_request,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;

use super::held::{Holder, both};
use super::over_http::calls;
use super::{World, branch, config, tcc};

/// Transactions that the calls are about.
struct About {
    /// It is open.
    open: String,
    /// It has ended, and is heuristic: only the store knows it.
    ended: String,
    cluster_id: String,
}

impl About {
    async fn make(world: &World) -> Self {
        let open = world.begin("open", Mode::Tcc).await.unwrap().tx_id;
        world.execute(&open, branch("a", "ok")).await.unwrap();
        let ended = world.submit(tcc("ended", &["commit-heuristic"])).await.unwrap().tx_id;
        world.get_until("ended", "its end", |t| t.ended_at.is_some()).await;
        Self { open, ended, cluster_id: world.cluster_id().await }
    }
}

/// Answer to a call, in short.
fn told<T>(answer: Result<tonic::Response<T>, Status>) -> Result<T, Code> {
    answer.map(tonic::Response::into_inner).map_err(|status| status.code())
}

/// Calls everything with so much patience; returns each call's name, answer and time.
async fn call_all(
    world: &World,
    about: &About,
    patience: Duration,
) -> Vec<(&'static str, Result<(), Code>, Duration)> {
    let mut calls = tokio::task::JoinSet::new();
    macro_rules! call {
        ($client:ident.$method:ident($request:expr)) => {{
            let mut client = world.$client();
            let mut request = Request::new($request);
            request.set_timeout(patience);
            calls.spawn(async move {
                let started = Instant::now();
                let answer = told(client.$method(request).await);
                (stringify!($method), answer.map(|_| ()), started.elapsed())
            });
        }};
    }
    let (open, ended) = (|| about.open.clone(), || about.ended.clone());
    let (operator, note) = (|| "ann".to_owned(), || "by hand".to_owned());
    let gid = format!("new{}", uuid::Uuid::now_v7());
    call!(client.submit_transaction(tcc(&gid, &["ok"])));
    call!(client.begin_transaction(BeginTransactionRequest {
        gid: format!("{gid}b"),
        mode: Mode::Tcc.into(),
        ..Default::default()
    }));
    let new = |name: &str| Some(branch(&format!("{name}{}", patience.as_millis()), "ok"));
    call!(client.execute_branch(ExecuteBranchRequest {
        tx_id: open(),
        branch: new("b"),
        ..Default::default()
    }));
    call!(client.enlist_branch(EnlistBranchRequest {
        tx_id: open(),
        branch: new("c"),
        ..Default::default()
    }));
    for tx_id in [open(), ended()] {
        call!(client.commit_transaction(CommitTransactionRequest {
            tx_id: tx_id.clone(),
            ..Default::default()
        }));
        call!(client.rollback_transaction(RollbackTransactionRequest {
            key: Some(rollback_transaction_request::Key::TxId(tx_id.clone())),
            ..Default::default()
        }));
        call!(client.get_transaction(GetTransactionRequest {
            key: Some(get_transaction_request::Key::TxId(tx_id.clone())),
            include_timeline: true,
            ..Default::default()
        }));
        let key = watch_transaction_request::Key::TxId(tx_id.clone());
        call!(
            client.watch_transaction(WatchTransactionRequest {
                key: Some(key),
                ..Default::default()
            })
        );
        let key = export_transaction_request::Key::TxId(tx_id.clone());
        call!(
            client.export_transaction(ExportTransactionRequest {
                key: Some(key),
                ..Default::default()
            })
        );
        call!(operator.retry_transaction(RetryTransactionRequest {
            tx_id: tx_id.clone(),
            operator: operator(),
            ..Default::default()
        }));
        call!(operator.resolve_branch(ResolveBranchRequest {
            tx_id: tx_id.clone(),
            branch_id: "a".into(),
            resolution: Resolution::Hazard.into(),
            operator: operator(),
            note: note(),
            ..Default::default()
        }));
        call!(operator.forget_transaction(ForgetTransactionRequest {
            tx_id: tx_id.clone(),
            operator: operator(),
            note: note(),
            ..Default::default()
        }));
    }
    let key = rollback_transaction_request::Key::Gid(format!("{gid}c"));
    call!(
        client.rollback_transaction(RollbackTransactionRequest {
            key: Some(key),
            ..Default::default()
        })
    );
    call!(client.list_transactions(ListTransactionsRequest::default()));
    // So many that each of them alone must not take long.
    let asked = |tx_id: &String| InquiredBranch {
        tx_id: tx_id.clone(),
        branch: Some(inquired_branch::Branch::BranchId("a".into())),
    };
    call!(client.inquire_branches(InquireBranchesRequest {
        participant: "p".into(),
        branches: [&about.open, &about.ended].repeat(64).into_iter().map(asked).collect(),
        cluster_id: about.cluster_id.clone(),
        ..Default::default()
    }));
    call!(client.get_server_info(GetServerInfoRequest {}));
    call!(directory.register_endpoint(RegisterEndpointRequest {
        participant: "q".into(),
        endpoint: "http://127.0.0.1:9".into(),
        instance_id: "one".into(),
        ..Default::default()
    }));
    call!(directory.deregister_endpoint(DeregisterEndpointRequest {
        participant: "q".into(),
        endpoint: "http://127.0.0.1:9".into(),
        instance_id: "one".into(),
        ..Default::default()
    }));
    calls.join_all().await
}

/// Codes of a client whose deadline has passed.
const TOO_LATE: [Code; 2] = [Code::Cancelled, Code::DeadlineExceeded];

/// Rounds in which too many calls may be late: a busy machine delays now these and now those. What waits for the store
/// is late in each round.
const ROUNDS: usize = 5;

/// Patiences of a round, in milliseconds.
const PATIENCES_MS: [u64; 6] = [300, 400, 500, 600, 700, 1500];

/// In some round no more than one call of a hundred is late, and none is late in all of them.
async fn all_end_in_time(world: &World, about: &About) {
    let (mut always, mut rounds) = (None::<BTreeSet<Late>>, Vec::new());
    for _ in 0..ROUNDS {
        let (mut calls, mut late) = (0, Vec::new());
        for patience in PATIENCES_MS.map(Duration::from_millis) {
            // As many at once that a fault of some per cent is seen.
            let call = || call_late(world, about, patience);
            let (one, two, three) = tokio::join!(call(), call(), call());
            for (called, of) in [one, two, three] {
                calls += called;
                late.extend(of);
            }
        }
        rounds.push((late.len(), calls));
        let seen = BTreeSet::from_iter(late);
        always = Some(always.map_or_else(|| seen.clone(), |known| &known & &seen));
        let is_rare = rounds.iter().any(|(late, calls)| late * 100 <= *calls);
        if is_rare && always.as_ref().is_some_and(BTreeSet::is_empty) {
            return;
        }
    }
    panic!("late, and of how many calls, in each round: {rounds:?}; in each of them: {always:?}");
}

/// Name of a call that was late, and its patience.
type Late = (&'static str, Duration);

/// Calls everything, and returns the number of calls, and what was late.
async fn call_late(world: &World, about: &About, patience: Duration) -> (usize, Vec<Late>) {
    let (mut calls, mut late) = (0, Vec::new());
    for (name, answer, took) in call_all(world, about, patience).await {
        calls += 1;
        let code = answer.err().unwrap_or(Code::Ok);
        if TOO_LATE.contains(&code) {
            eprintln!("{name} with {patience:?}: {code:?} after {took:?}");
            late.push((name, patience));
            continue;
        }
        let decides = ["submit", "execute", "commit_", "rollback"];
        if decides.iter().any(|prefix| name.starts_with(prefix)) {
            let known = [Code::Ok, Code::FailedPrecondition, Code::InvalidArgument];
            assert!(known.contains(&code), "{name} with {patience:?}: {code:?}");
        }
    }
    (calls, late)
}

/// Waves of calls over HTTP, and how often each rpc is in one: as many that one of fifty which waits for the store is seen.
const WAVES: usize = 8;
const IN_WAVE: usize = 3;

/// Waves in which calls may be late, each rpc in one of them: a machine that stands still for seconds delays all calls of a
/// wave. Calls that wait for the store are late in most waves, whichever they are.
const LATE_WAVES_MAX: usize = 2;

/// Longest time for a call of some hundred milliseconds in a busy machine. What waits for the store takes five seconds and
/// more: until a statement is given up.
const BUSY_MAX: Duration = Duration::from_secs(4);

/// Over HTTP nothing but the coordinator itself ends a call whose time is over. So one that waits for the store, and not
/// until its own deadline, takes seconds, and one that a busy machine delays does not, but in a wave that it delays whole.
async fn none_waits_for_the_store(world: &World, about: &About) {
    let address = world.running.admin_address().unwrap();
    let (mut made, mut waves, mut failed) = (0, Vec::new(), Vec::new());
    for _ in 0..WAVES {
        let mut wave = tokio::task::JoinSet::new();
        let each = || calls(&about.open, &about.ended, &about.cluster_id);
        for call in (0..IN_WAVE).flat_map(|_| each()) {
            wave.spawn(async move {
                let started = Instant::now();
                let patience = [("grpc-timeout", "300m")];
                let told = call.over_http_with(address, &patience);
                let told = tokio::time::timeout(BUSY_MAX, told).await;
                (call.rpc, told.ok().map(|reply| reply.code), started.elapsed())
            });
        }
        let wave = wave.join_all().await;
        made += wave.len();
        // A gateway's codes of what was cut off: 499 of CANCELLED, 504 of DEADLINE_EXCEEDED.
        let is_late = |code: &Option<u16>| !matches!(code, Some(200..=498 | 500..=503));
        let late = wave.iter().filter(|(_, code, _)| is_late(code)).copied().collect::<Vec<_>>();
        // INTERNAL is no answer, however soon it comes.
        failed.extend(wave.into_iter().filter(|(_, code, _)| *code == Some(500)));
        if !late.is_empty() {
            waves.push(late);
        }
    }
    assert!(failed.is_empty(), "of {made} calls these have failed: {failed:?}");
    let rpcs = waves.iter().map(|late| BTreeSet::from_iter(late.iter().map(|(rpc, ..)| *rpc)));
    let rpcs: Vec<&str> = rpcs.flatten().collect();
    let is_once = BTreeSet::from_iter(&rpcs).len() == rpcs.len();
    let is_rare = is_once && waves.len() <= LATE_WAVES_MAX;
    assert!(is_rare, "of {made} calls these wait for the store, wave by wave: {waves:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_in_time_while_the_store_is_held_up() {
    for world in both().await {
        let about = About::make(&world).await;
        let holder = Holder::of(&world).await;
        all_end_in_time(&world, &about).await;
        none_waits_for_the_store(&world, &about).await;
        holder.let_go().await;
    }
}

/// Reads do not come back either, and then the lease is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_ends_in_time_while_the_database_does_not_answer() {
    let server = Server::start();
    let proxy = Proxy::start(server.socket()).await;
    let world = World::start(config(&proxy.url(&server.database().await))).await;
    let about = About::make(&world).await;
    proxy.hold(true);
    none_waits_for_the_store(&world, &about).await;
    all_end_in_time(&world, &about).await;
    let mut request = Request::new(GetTransactionRequest {
        key: Some(get_transaction_request::Key::Gid("open".into())),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(400));
    let status = world.client().get_transaction(request).await.unwrap_err();
    assert_eq!(super::describe(&status).1, "STORE_UNAVAILABLE");
    proxy.hold(false);
}

/// The database does not answer, and Forget has to read: its caller's time is up long before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_forget_waits_for_no_store_beyond_its_callers_patience() {
    let server = Server::shared();
    let proxy = Proxy::start(server.socket()).await;
    let mut config = config(&proxy.url(&server.database().await));
    config.lease = Period::secs(60);
    let world = World::start(config).await;
    let about = About::make(&world).await;
    let tx_id = TxId(about.ended.parse().unwrap());
    proxy.hold(true);
    let patience = Duration::from_millis(200);
    let started = Instant::now();
    let deadline = tokio::time::Instant::now() + patience;
    let (ann, note) = ("ann".to_owned(), "by hand".to_owned());
    let told = world.running.engine().forget(tx_id, ann, note, deadline).await;
    assert!(matches!(told, Ok(Answer::NotYet(None))), "{told:?}");
    let took = started.elapsed();
    // It took five where the store was awaited without the call's deadline.
    assert!(took < Duration::from_secs(4), "{took:?}");
    proxy.hold(false);
    world.running.stop().await.unwrap();
}

/// A watch that is given a deadline is told to go on from its last revision.
#[tokio::test]
async fn a_watch_ends_before_its_deadline() {
    let mut config = config(&super::sqlite_url());
    config.wait_max = Period::secs(10);
    let world = World::start(config).await;
    let about = About::make(&world).await;
    let key = watch_transaction_request::Key::TxId(about.open.clone());
    let request = WatchTransactionRequest { key: Some(key), ..Default::default() };
    let mut request = Request::new(request);
    request.set_timeout(Duration::from_secs(1));
    let started = Instant::now();
    let mut watch = world.client().watch_transaction(request).await.unwrap().into_inner();
    let shown = watch.message().await.unwrap().unwrap().transaction.unwrap();
    assert_eq!(shown.outcome(), Outcome::NotDecided);
    let status = watch.message().await.unwrap_err();
    assert_eq!(super::describe(&status).1, "TRANSACTION_MOVING");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}
