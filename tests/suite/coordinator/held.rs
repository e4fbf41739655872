//! The database is held up, on both stores: what is asked for meanwhile is told when it is on the disk,
//! refusals and operators' acts included, or not at all.

use std::pin::pin;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Executor};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    AbortCause, BranchSpec, EnlistBranchRequest, ExecuteBranchRequest, ExecuteBranchResponse,
    ForgetTransactionRequest, InquireBranchesRequest, InquiredBranch, Mode, Outcome, Resolution,
    ResolveBranchRequest, RetryTransactionRequest, Verdict, Vote, inquired_branch,
};
use unanimo_tests::postgres::Server;

use super::{World, branch, config, describe, sqlite_url, tcc, until};

/// As long as something must not be told. Answers take a few milliseconds.
const MEANWHILE: Duration = Duration::from_millis(400);

/// A session that lets nobody else write transactions.
pub(super) enum Holder {
    Postgres(PgConnection),
    Sqlite(SqliteConnection),
}

impl Holder {
    pub(super) async fn of(world: &World) -> Self {
        let url = world.config.database_url.expose();
        if url.starts_with("sqlite") {
            let mut session = SqliteConnection::connect(url).await.unwrap();
            session.execute("BEGIN IMMEDIATE").await.unwrap();
            return Self::Sqlite(session);
        }
        let mut session = PgConnection::connect(url).await.unwrap();
        session.execute("BEGIN").await.unwrap();
        session.execute("LOCK TABLE log IN EXCLUSIVE MODE").await.unwrap();
        Self::Postgres(session)
    }

    pub(super) async fn let_go(self) {
        match self {
            Self::Postgres(mut session) => drop(session.execute("ROLLBACK").await.unwrap()),
            Self::Sqlite(mut session) => drop(session.execute("ROLLBACK").await.unwrap()),
        }
    }
}

/// Both stores, with a lease that outlasts the time for which they are held up.
pub(super) async fn both() -> [World; 2] {
    let start = async |url: String| {
        let mut config = config(&url);
        config.lease = Period::secs(20);
        World::start(config).await
    };
    [start(sqlite_url()).await, start(Server::shared().database().await).await]
}

/// Holds the store up, asks, sees that nothing is told, lets go, and returns what is told then.
async fn held<T>(world: &World, asking: impl Future<Output = T>) -> T {
    let holder = Holder::of(world).await;
    let mut asking = pin!(asking);
    let early = tokio::time::timeout(MEANWHILE, &mut asking).await;
    assert!(early.is_err(), "S3: it was told before it was on the disk");
    holder.let_go().await;
    asking.await
}

/// S3: a refusal tells of what it rests on. Here that is a Rollback which is not on the disk yet.
#[tokio::test]
async fn s3_a_refusal_waits_for_what_it_rests_on() {
    for world in both().await {
        let tx_id = &world.begin("g", Mode::Tcc).await.unwrap().tx_id;
        world.execute(tx_id, branch("a", "ok")).await.unwrap();
        let holder = Holder::of(&world).await;
        let mut rollback = pin!(world.rollback(tx_id));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut rollback).await;
        assert!(early.is_err(), "S3: {early:?}");
        let mut execute = pin!(world.execute(tx_id, branch("b", "ok")));
        let mut enlist = pin!(world.enlist(tx_id, branch("c", "ok")));
        let early = tokio::time::timeout(MEANWHILE, &mut execute).await;
        assert!(early.is_err(), "S3: {early:?}");
        let early = tokio::time::timeout(MEANWHILE, &mut enlist).await;
        assert!(early.is_err(), "S3: {early:?}");
        // Whoever cannot wait so long hears nothing of it.
        let mut request = tonic::Request::new(unanimo_proto::v1::ExecuteBranchRequest {
            tx_id: tx_id.clone(),
            branch: Some(branch("d", "ok")),
            ..Default::default()
        });
        request.set_timeout(Duration::from_millis(500));
        let told = world.client().execute_branch(request).await.unwrap().into_inner();
        assert_eq!((told.outcome(), told.branch_number), (Outcome::NotDecided, 0));
        holder.let_go().await;
        assert_eq!(rollback.await.unwrap().outcome(), Outcome::Aborted);
        assert_eq!(describe(&execute.await.unwrap_err()).1, "TRANSACTION_CLOSED");
        assert_eq!(describe(&enlist.await.unwrap_err()).1, "TRANSACTION_CLOSED");
    }
}

/// S3, S9: another request under the id of a branch hears nothing of the first one's success, whether that is on the disk
/// or not, and however its patience ends while the store hangs.
#[tokio::test]
async fn s3_s9_another_request_of_a_branch_hears_nothing_of_the_first() {
    for world in both().await {
        let tx_id = &world.begin("g", Mode::Tcc).await.unwrap().tx_id;
        world.execute(tx_id, branch("a", "ok")).await.unwrap();
        let holder = Holder::of(&world).await;
        let mut first = pin!(world.execute(tx_id, branch("b", "ok")));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut first).await;
        assert!(early.is_err(), "S3: {early:?}");
        let ask = async |id: &'static str, ms: u64| {
            let other = BranchSpec {
                payload: unanimo_tests::payload(b"another".to_vec()),
                ..branch(id, "ok")
            };
            let (executed, enlisted) = ask_with(&world, tx_id, other, ms).await;
            match executed {
                Ok(told) => {
                    let nothing = ExecuteBranchResponse {
                        outcome: Outcome::NotDecided.into(),
                        ..Default::default()
                    };
                    assert_eq!(told, nothing, "S9: {id} after {ms} ms");
                }
                Err(status) => not_before_the_disk(id, ms, &status),
            }
            not_before_the_disk(id, ms, &enlisted.expect_err("S9: it is another request"));
        };
        tokio::join!(ask("a", 200), ask("a", 600), ask("b", 200), ask("b", 600));
        holder.let_go().await;
        assert_eq!(first.await.unwrap().vote(), Vote::Prepared);
        for id in ["a", "b"] {
            let other = world.execute(tx_id, branch(id, "refuse")).await.unwrap_err();
            assert_eq!(describe(&other).1, "BRANCH_REUSED");
        }
        assert_eq!(world.p.calls(tx_id, "b"), ["prepare"], "S9: nothing of the others was sent");
    }
}

/// Executes and enlists a branch with so many milliseconds of patience.
async fn ask_with(
    world: &World,
    tx_id: &str,
    branch: BranchSpec,
    ms: u64,
) -> (Result<ExecuteBranchResponse, Status>, Result<(), Status>) {
    let (tx_id, branch) = (tx_id.to_owned(), Some(branch));
    let mut execute = tonic::Request::new(ExecuteBranchRequest {
        tx_id: tx_id.clone(),
        branch: branch.clone(),
        ..Default::default()
    });
    let mut enlist =
        tonic::Request::new(EnlistBranchRequest { tx_id, branch, ..Default::default() });
    execute.set_timeout(Duration::from_millis(ms));
    enlist.set_timeout(Duration::from_millis(ms));
    let (mut one, mut other) = (world.client(), world.client());
    let (executed, enlisted) =
        tokio::join!(one.execute_branch(execute), other.enlist_branch(enlist));
    (executed.map(tonic::Response::into_inner), enlisted.map(drop))
}

/// A refusal tells of the first request, and so only of one that is on the disk.
#[track_caller]
fn not_before_the_disk(id: &str, ms: u64, status: &Status) {
    // A busy machine may cut a call off.
    let is_silent = [Code::Unavailable, Code::Cancelled, Code::DeadlineExceeded];
    let is_reused = status.code() == Code::AlreadyExists && id == "a";
    assert!(is_silent.contains(&status.code()) || is_reused, "S3: {id} after {ms} ms: {status:?}");
}

/// S3, S10: nothing was told of a Rollback that a crash undid: so COMMIT may follow.
#[tokio::test]
async fn s3_what_a_crash_undoes_was_not_told() {
    for world in both().await {
        let tx_id = world.begin("g", Mode::Tcc).await.unwrap().tx_id;
        world.execute(&tx_id, branch("a", "ok")).await.unwrap();
        let holder = Holder::of(&world).await;
        let rollback = tokio::time::timeout(MEANWHILE, world.rollback(&tx_id));
        let execute = tokio::time::timeout(MEANWHILE, world.execute(&tx_id, branch("b", "ok")));
        let (rollback, execute) = tokio::join!(rollback, execute);
        assert!(rollback.is_err() && execute.is_err(), "{rollback:?} {execute:?}");
        let (p, config) = (world.p.clone(), world.config.clone());
        drop(world);
        holder.let_go().await;
        let world = World::start_with(config, p).await;
        let listed = [("a", Vote::Unspecified)];
        let outcome = world.commit(&tx_id, &listed).await.unwrap().outcome();
        let calls = world.p.calls(&tx_id, "a");
        // The last write may have come through before the process was gone.
        let expected = if outcome == Outcome::Committed { "commit" } else { "cancel" };
        let ends = |call: &&&str| **call != "prepare";
        assert_eq!(calls.iter().filter(ends).collect::<Vec<_>>(), [&expected], "{calls:?}");
    }
}

/// S3: operators hear of their acts, and of what they are refused for, once that is on the disk.
#[tokio::test]
async fn s3_operators_acts_and_refusals_wait_for_the_disk() {
    for world in both().await {
        world.p.hold(true);
        let tx_id = world.submit(tcc("g", &["ok", "ok"])).await.unwrap().tx_id;
        let retry = RetryTransactionRequest {
            tx_id: tx_id.clone(),
            operator: "ann".into(),
            ..Default::default()
        };
        held(&world, async { world.operator().retry_transaction(retry).await }).await.unwrap();
        let operator = world.operator();
        let resolve = |branch: &str, resolution: Resolution| {
            let request = ResolveBranchRequest {
                tx_id: tx_id.clone(),
                branch_id: branch.into(),
                resolution: resolution.into(),
                operator: "ann".into(),
                note: "the bank is closed".into(),
                ..Default::default()
            };
            let mut operator = operator.clone();
            async move { operator.resolve_branch(request).await }
        };
        // The first resolves, the second is refused for it: neither is told early.
        let both = async {
            let first = resolve("a", Resolution::RolledBack);
            let second = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                resolve("a", Resolution::Committed).await
            };
            tokio::join!(first, second)
        };
        let holder = Holder::of(&world).await;
        let mut both = pin!(both);
        assert!(tokio::time::timeout(MEANWHILE, &mut both).await.is_err());
        // Nor is a participant that asks for its verdict, or anybody else.
        let verdict = tokio::time::timeout(MEANWHILE, inquire(&world, &tx_id)).await;
        // Where the act's entry in the audit waits as well, nothing is resolved yet, and that may be told.
        let is_resolved = matches!(holder, Holder::Postgres(_));
        let is_early = verdict.is_ok_and(|told| is_resolved || told == Verdict::Heuristic);
        assert!(!is_early, "S3");
        holder.let_go().await;
        let (first, second) = both.await;
        assert_eq!(first.unwrap().into_inner().transaction.unwrap().tx_id, tx_id);
        assert_eq!(describe(&second.unwrap_err()).1, "NOTHING_TO_RESOLVE");
        assert_eq!(inquire(&world, &tx_id).await, Verdict::Heuristic);

        world.p.hold(false);
        world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
        let forget = |tx_id: &str| {
            let request = ForgetTransactionRequest {
                tx_id: tx_id.into(),
                operator: "ann".into(),
                note: "paid by hand".into(),
                ..Default::default()
            };
            let mut operator = operator.clone();
            async move { operator.forget_transaction(request).await }
        };
        let holder = Holder::of(&world).await;
        let early = tokio::time::timeout(MEANWHILE, forget(&tx_id)).await;
        // A store that is busy may say so. Nothing else is told.
        let early = early.map(|told| told.map(|_| ()).map_err(|status| status.code()));
        assert!(matches!(early, Err(_) | Ok(Err(Code::Unavailable))), "S3: {early:?}");
        holder.let_go().await;
        let forgotten = forget(&tx_id).await.unwrap().into_inner();
        assert!(!forgotten.transaction.unwrap().attention);
        let world = world.crash_and_restart().await;
        assert!(!world.get("g").await.attention);
    }
}

/// A request that meets another one's, whose write takes its time, waits for it instead of being sent away.
#[tokio::test]
async fn l3_a_forget_behind_another_one_waits_for_it() {
    let [_, world] = both().await;
    world.p.hold(true);
    let tx_id = world.submit(tcc("g", &["ok"])).await.unwrap().tx_id;
    let request = ResolveBranchRequest {
        tx_id: tx_id.clone(),
        branch_id: "a".into(),
        resolution: Resolution::RolledBack.into(),
        operator: "ann".into(),
        note: "the bank is closed".into(),
        ..Default::default()
    };
    world.operator().resolve_branch(request).await.unwrap();
    world.p.hold(false);
    world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    let forget = || {
        let request = ForgetTransactionRequest {
            tx_id: tx_id.clone(),
            operator: "ann".into(),
            note: "paid by hand".into(),
            ..Default::default()
        };
        let mut operator = world.operator();
        async move { operator.forget_transaction(request).await }
    };
    // It is adopted, and its event cannot be written.
    let mut session = PgConnection::connect(world.config.database_url.expose()).await.unwrap();
    session.execute("BEGIN; LOCK TABLE unanimo.events IN EXCLUSIVE MODE").await.unwrap();
    let first = tokio::spawn(forget());
    tokio::time::sleep(MEANWHILE).await;
    let second = tokio::spawn(forget());
    tokio::time::sleep(MEANWHILE).await;
    assert!(!first.is_finished() && !second.is_finished(), "S3: told before it is on the disk");
    session.execute("ROLLBACK").await.unwrap();
    for forgotten in [first, second] {
        let forgotten = forgotten.await.unwrap().unwrap().into_inner();
        assert!(!forgotten.transaction.unwrap().attention);
    }
}

async fn inquire(world: &World, tx_id: &str) -> Verdict {
    let key = Some(inquired_branch::Branch::BranchId("a".into()));
    let request = InquireBranchesRequest {
        participant: "p".into(),
        branches: vec![InquiredBranch { tx_id: tx_id.into(), branch: key }],
        cluster_id: world.cluster_id().await,
        ..Default::default()
    };
    let answer = world.client().inquire_branches(request).await.unwrap().into_inner();
    answer.verdicts[0].verdict()
}

/// S10: no identifier leaves before its row is there, however long the caller waits.
#[tokio::test]
async fn s10_no_tx_id_is_told_before_its_row_is_there() {
    for world in both().await {
        let holder = Holder::of(&world).await;
        for patience in [300, 700] {
            let mut request = tonic::Request::new(tcc(&format!("g{patience}"), &["ok"]));
            request.set_timeout(Duration::from_millis(patience));
            let submitted = world.client().submit_transaction(request).await.unwrap().into_inner();
            let result = submitted.result.unwrap();
            assert_eq!((result.outcome(), &*result.tx_id), (Outcome::NotDecided, ""));
        }
        holder.let_go().await;
        for gid in ["g300", "g700"] {
            let again = world.submit(tcc(gid, &["ok"])).await.unwrap();
            assert_eq!(again.outcome(), Outcome::Committed);
        }
    }
}

fn metadata(status: &Status) -> std::collections::HashMap<String, String> {
    status.get_error_details().error_info().unwrap().metadata.clone()
}

/// An Enlist that meets Commit is told what became of its branch: it counted, and so the transaction
/// was aborted; or it did not count, and nothing was stored.
#[tokio::test]
async fn an_enlist_at_the_moment_of_commit_is_told_what_happened() {
    for world in both().await {
        let tx_id = &world.begin("g", Mode::Tcc).await.unwrap().tx_id;
        world.execute(tx_id, branch("a", "ok")).await.unwrap();
        let listed = [("a", Vote::Unspecified)];
        let asking = async {
            let commit = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                world.commit(tx_id, &listed).await
            };
            tokio::join!(world.enlist(tx_id, branch("b", "ok")), commit)
        };
        let (enlisted, committed) = held(&world, asking).await;
        let committed = committed.unwrap();
        assert_eq!(committed.outcome(), Outcome::Aborted);
        assert_eq!(
            (committed.abort_cause(), &*committed.abort_branch_id),
            (AbortCause::Unlisted, "b")
        );
        let told = enlisted.unwrap_err();
        let decided = (Code::FailedPrecondition, "TRANSACTION_DECIDED".to_owned(), vec![]);
        assert_eq!(describe(&told), decided);
        let metadata_of = metadata(&told);
        assert_eq!(metadata_of["outcome"], "aborted");
        assert_eq!(metadata_of["abort_cause"], "unlisted");
        assert_eq!(metadata_of["effect"], "unknown");
        assert!(told.message().contains("branch b is enlisted and counts"), "{}", told.message());
        assert!(told.message().contains("Commit did not list branch b"), "{}", told.message());
        // Said again it is the same; another branch was not enlisted.
        let again = world.enlist(tx_id, branch("b", "ok")).await.unwrap_err();
        assert_eq!(describe(&again), decided);
        let other = world.enlist(tx_id, branch("c", "ok")).await.unwrap_err();
        assert_eq!(describe(&other).1, "TRANSACTION_CLOSED");
        assert_eq!(metadata(&other)["effect"], "none");
        let shown = world.get("g").await;
        assert_eq!(shown.branches.len(), 2);
        until("its Cancel", async || (world.p.calls(tx_id, "b") == ["cancel"]).then_some(())).await;

        // The other way round: Commit is first, and the branch counts for nothing.
        let tx_id = &world.begin("h", Mode::Tcc).await.unwrap().tx_id;
        world.execute(tx_id, branch("a", "ok")).await.unwrap();
        let asking = async {
            let enlist = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                world.enlist(tx_id, branch("b", "ok")).await
            };
            tokio::join!(world.commit(tx_id, &listed), enlist)
        };
        let (committed, enlisted) = held(&world, asking).await;
        assert_eq!(committed.unwrap().outcome(), Outcome::Committed);
        assert_eq!(describe(&enlisted.unwrap_err()).1, "TRANSACTION_CLOSED");
    }
}

/// Two processes of a participant that have a database each join at the same moment. The later one is told that its branch
/// counts: "nothing was stored" would be wrong.
#[tokio::test]
async fn s2_an_enlist_that_another_database_overtakes_is_told_that_it_counts() {
    for world in both().await {
        let enlist = async |gid: &str, database: &str| {
            let tx_id = world.begin(gid, Mode::Tcc).await.unwrap().tx_id;
            EnlistBranchRequest {
                tx_id,
                branch: Some(branch("a", "ok")),
                database_id: database.to_owned(),
                ..Default::default()
            }
        };
        let requests = [enlist("g", "one").await, enlist("h", "two").await];
        let gids = ["g", "h"];
        let [mut first, mut second] = [(); 2].map(|()| world.client());
        let [one, two] = requests;
        let asking = async { tokio::join!(first.enlist_branch(one), second.enlist_branch(two)) };
        let (one, two) = held(&world, asking).await;
        let told = [one.map(drop), two.map(drop)];
        let refused: Vec<_> =
            gids.into_iter().zip(told).filter(|(_, told)| told.is_err()).collect();
        let [(gid, told)] = &refused[..] else { panic!("S2: {refused:?}") };
        let told = told.as_ref().unwrap_err();
        assert_eq!(describe(told).1, "OTHER_DATABASE");
        assert_eq!(metadata(told)["effect"], "unknown");
        assert!(told.message().contains("branch a is enlisted and counts"), "{}", told.message());
        assert_eq!(world.get(gid).await.branches.len(), 1);
    }
}
