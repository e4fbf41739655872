//! Branches that had ended, and whose effect is not in the database any more: each is told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgPool};
use unanimo_proto::v1::{Outcome as Decided, SubmitTransactionRequest};
use unanimo_sdk::client::Executed;
use unanimo_sdk::{
    Call, Client, Participant, PhaseTwoError, PostgresOptions, PrepareError, Resource, Saga,
    Service,
};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::deaf::Ears;
use super::over::{self, Database};
use super::own_intercepted::{TOKEN, guarded, with_token};
use super::promoted::{apart, one, pair, participant, promote};
use super::registration::Lines;
use super::sweeper::{Reserve, World, Write, eager, pairs, states, two_phase, two_sweeps};
use crate::coordinator::tcc;

/// A step that is done by its row.
struct Step;

impl<R: Resource> Saga<R> for Step {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn run(&self, _: &mut R::Connection, _: &Call<bytes::Bytes>) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn compensate(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(600);

/// Transaction and branch.
pub(super) type Key = (String, String);

/// Tells the value of a field.
pub(super) fn field(line: &str, name: &str) -> String {
    let rest = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("{name} in {line}")).1;
    rest.split(' ').next().unwrap().trim_matches('"').to_owned()
}

pub(super) fn lost(alarms: &Alarms) -> Vec<Key> {
    let lines = alarms.named("branch_lost").into_iter();
    lines.map(|line| (field(&line, "tx_id"), field(&line, "branch_id"))).collect()
}

/// Branches, and the states of their rows.
pub(super) type Rows = BTreeMap<Key, String>;

/// Checks what a server has that lacks the last writes, against branches that must have their effect there: each that
/// it lacks is told, once, and no other; each whose vote it has, and not its end, is told to be that; and all others
/// are there (S7, S11).
pub(super) async fn each_is_told(alarms: &Alarms, expected: &BTreeSet<Key>, here: &Rows) {
    let state = |key: &Key| here.get(key).map(String::as_str);
    let missing: BTreeSet<_> = expected.iter().filter(|key| state(key).is_none()).collect();
    // The coordinator was told that it is done.
    let open: Vec<_> = expected.iter().filter(|key| state(key) == Some("prepared")).collect();
    assert!(!missing.is_empty(), "it was behind");
    until("each to be told", async || {
        let told: BTreeSet<_> = lost(alarms).into_iter().collect();
        let ended = alarms.named("in_doubt_ended");
        let is_told = |key: &&Key| ended.iter().any(|line| line.contains(&key.0));
        (missing.iter().all(|key| told.contains(*key)) && open.iter().all(is_told)).then_some(())
    })
    .await;
    let told: BTreeSet<_> = lost(alarms).into_iter().collect();
    assert_eq!(lost(alarms).len(), told.len(), "each once");
    assert!(told.iter().all(|key| state(key).is_none()), "no other: {told:?}");
    let rest = expected.iter().filter(|key| !missing.contains(key) && !open.contains(key));
    for key in rest {
        assert_eq!(state(key), Some("committed"), "S7: {key:?}");
    }
    assert_eq!(alarms.named("database_promoted").len(), 1);
}

pub(super) type Bank = World<Service<Database>>;

async fn connect(url: &str) -> Database {
    over::connect(PostgresOptions::default(), url).await.unwrap()
}

/// Submits it, and waits for its end.
pub(super) async fn ended(
    world: &Bank,
    request: SubmitTransactionRequest,
    decided: Decided,
) -> String {
    let tx_id = world.submit(request, decided).await;
    has_ended(world, &tx_id).await;
    tx_id
}

/// Waits for the end of a transaction. The coordinator of these tests sends nothing twice by itself, and a call may be
/// answered with WORKING: a Cancel that meets its Prepare at work, a Commit that meets the sweeper.
async fn has_ended(world: &Bank, tx_id: &str) {
    let mut asked = 0;
    until("its end", async || {
        let told = world.get(tx_id).await.ended_at.map(drop);
        asked += 1;
        if told.is_none() && asked % 50 == 0 {
            world.retry(tx_id).await;
        }
        told
    })
    .await;
}

/// Transactions of each mode that end with an effect, or are left open with one; tells their branches.
async fn effects(world: &Bank, name: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    let gid = |what: &str| format!("{name}-{what}");
    let tx_id = ended(world, tcc(&gid("tcc"), &["ok", "ok"]), Decided::Committed).await;
    keys.extend(["a", "b"].map(|branch| (tx_id.clone(), branch.to_owned())));
    let by_two_phase = two_phase(&gid("2pc"), &["write", "write"]);
    let tx_id = ended(world, by_two_phase, Decided::Committed).await;
    keys.extend(["a", "b"].map(|branch| (tx_id.clone(), branch.to_owned())));
    let client = Client::new(world.url()).unwrap();
    let mut open = client.saga(gid("open")).timeout(LONG).begin().await.unwrap();
    let step = open.execute("a", "p", "step", bytes::Bytes::new()).await.unwrap();
    assert!(matches!(step, Executed::Prepared(_)), "{step:?}");
    keys.push((open.tx_id().to_owned(), "a".to_owned()));
    let mut done = client.saga(gid("saga")).timeout(LONG).begin().await.unwrap();
    let step = done.execute("a", "p", "step", bytes::Bytes::new()).await.unwrap();
    assert!(matches!(step, Executed::Prepared(_)), "{step:?}");
    assert!(done.commit().await.unwrap().is_committed());
    keys.push((done.tx_id().to_owned(), "a".to_owned()));
    // It leaves no effect.
    ended(world, tcc(&gid("aborted"), &["ok", "none"]), Decided::Aborted).await;
    keys
}

async fn service(url: &str) -> Service<Database> {
    participant(url).await.saga("step", Step).service().unwrap()
}

/// The standby is away while transactions end, and is promoted then. What it lacks is told, and nothing else,
/// once by each process that sees the change, and by one that was started after it.
async fn what_the_standby_lacks_is_told(starts_again: bool) {
    let (alarms, _listening) = Alarms::listen();
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let at = proxy.url(&url);
    let first = service(&at).await;
    let world = World::start(first.clone(), Ears::Open).await;
    let sweeper = first.sweep([world.url()], eager()).unwrap();
    let kept = effects(&world, "kept").await;
    two_sweeps(&sweeper).await;
    // It would end what is in doubt.
    sweeper.stop().await;
    // Their yes is on the standby, the Commit of one branch each is not.
    world.p.deaf_for("c");
    let half = world.submit(tcc("half", &["ok", "ok", "ok"]), Decided::Committed).await;
    let half_two_phase = two_phase("half-2pc", &["write", "write", "write"]);
    let half_two_phase = world.submit(half_two_phase, Decided::Committed).await;
    until("the other two Commits", async || {
        let effects = format!("SELECT count(*) FROM effect WHERE tx_id = '{half_two_phase}'");
        (one(&url, &effects).await == 2).then_some(())
    })
    .await;
    let pool = PgPool::connect(&url).await.unwrap();
    let half_done = pairs(&[("a", "committed"), ("b", "committed"), ("c", "prepared")]);
    until("those of the other one", async || {
        (states(&pool, &half).await == half_done).then_some(())
    })
    .await;
    let now: String =
        sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&pool).await.unwrap();
    let replayed = format!("SELECT (pg_last_wal_replay_lsn() >= '{now}')::int::bigint");
    until("the standby to have it", async || (one(&there, &replayed).await == 1).then_some(()))
        .await;
    pool.close().await;
    apart(&standby, Server::stop_immediately).await;
    let sweeper = first.sweep([world.url()], eager()).unwrap();
    world.p.hear("c");
    for tx_id in [&half, &half_two_phase] {
        world.retry(tx_id).await;
        has_ended(&world, tx_id).await;
    }
    let gone: BTreeSet<Key> = effects(&world, "gone").await.into_iter().collect();
    two_sweeps(&sweeper).await;
    assert!(alarms.named("database_promoted").is_empty() && lost(&alarms).is_empty());

    let running = if starts_again {
        sweeper.stop().await;
        None
    } else {
        Some(sweeper)
    };
    apart(&primary, Server::stop_immediately).await;
    apart(&standby, Server::launch).await;
    promote(&there).await;
    proxy.switch_to(standby.socket());
    let sweeper = match running {
        Some(running) => running,
        None => service(&at).await.sweep([world.url()], eager()).unwrap(),
    };
    until("the alarms", async || (lost(&alarms).len() >= gone.len()).then_some(())).await;
    two_sweeps(&sweeper).await;
    let told = lost(&alarms);
    assert_eq!(told.iter().cloned().collect::<BTreeSet<_>>(), gone, "S11; kept: {kept:?}");
    assert_eq!(told.len(), gone.len(), "each once");
    let promoted = alarms.named("database_promoted");
    assert_eq!(promoted.len(), 1, "{promoted:?}");
    let timelines = [field(&promoted[0], "from_timeline"), field(&promoted[0], "to_timeline")];
    assert_eq!(timelines, ["1", "2"], "{promoted:?}");
    // What was in doubt there is ended, or told as such.
    until("the one by two-phase commit", async || {
        let effects = format!("SELECT count(*) FROM effect WHERE tx_id = '{half_two_phase}'");
        (one(&there, &effects).await == 3).then_some(())
    })
    .await;
    let in_doubt = until("the one of TCC", async || {
        alarms.named("in_doubt_ended").into_iter().find(|line| field(line, "tx_id") == half)
    })
    .await;
    assert_eq!(field(&in_doubt, "branch_id"), "c");

    // It is noted: who is started now has nothing to tell.
    sweeper.stop().await;
    let last = service(&at).await.sweep([world.url()], eager()).unwrap();
    two_sweeps(&last).await;
    assert_eq!((alarms.named("database_promoted").len(), lost(&alarms).len()), (1, gone.len()));
    last.stop().await;
}

#[tokio::test]
async fn s11_what_an_asynchronous_standby_lacks_is_told_branch_by_branch() {
    what_the_standby_lacks_is_told(false).await;
}

#[tokio::test]
async fn s11_a_process_that_starts_after_the_promotion_tells_what_is_lost() {
    what_the_standby_lacks_is_told(true).await;
}

/// Another history than the one that was noted, without another server.
pub(super) async fn bank() -> (PgPool, String, Service<Database>) {
    let url = Server::shared().database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let database = connect(&url).await;
    let participant = Participant::new("p", database).tcc("ok", Reserve).two_phase("write", Write);
    (pool, url, participant.saga("step", Step).service().unwrap())
}

pub(super) async fn noted(pool: &PgPool) -> Option<i64> {
    let timeline = "SELECT timeline FROM unanimo_barrier_timeline WHERE participant = 'p'";
    sqlx::query_scalar(timeline).fetch_optional(pool).await.unwrap()
}

pub(super) async fn change_history(pool: &PgPool) {
    let other = "UPDATE unanimo_barrier_timeline SET timeline = timeline + 6";
    pool.execute(other).await.unwrap();
}

/// A coordinator that does not list transactions for a participant: that is told once, with what to do.
#[tokio::test]
async fn s11_losses_that_no_coordinator_tells_are_told_as_not_known() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    let guard = guarded(world.url(), &["ListTransactions"]).await;
    let coordinator = || with_token(&guard, TOKEN);
    let sweeper = service.sweep([coordinator()], eager()).unwrap();
    effects(&world, "some").await;
    let timeline = until("the note", async || noted(&pool).await).await;
    two_sweeps(&sweeper).await;
    sweeper.stop().await;
    change_history(&pool).await;
    let sweeper = service.sweep([coordinator()], eager()).unwrap();
    until("the new note", async || (noted(&pool).await == Some(timeline)).then_some(())).await;
    two_sweeps(&sweeper).await;
    let not_known = alarms.named("losses_not_known");
    assert_eq!(not_known.len(), 1, "{not_known:?}");
    assert!(not_known[0].contains("by this guard"), "{not_known:?}");
    assert_eq!(alarms.named("database_promoted").len(), 1);
    assert!(lost(&alarms).is_empty());
    sweeper.stop().await;
}

/// Rows that are gone are told, and nobody else's: those of a transaction's other branches stay untold.
#[tokio::test]
async fn s11_rows_that_are_gone_are_told_one_by_one() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    let keys = effects(&world, "some").await;
    until("the note", async || noted(&pool).await).await;
    sweeper.stop().await;
    // The second branch by two-phase commit, and the steps, are there.
    let (gone, here) = keys.split_at(3);
    for (tx_id, branch_id) in gone {
        let delete = "DELETE FROM unanimo_barrier WHERE tx_id = $1::uuid AND branch_id = $2";
        sqlx::query(delete).bind(tx_id).bind(branch_id).execute(&pool).await.unwrap();
    }
    change_history(&pool).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until("the alarms", async || (lost(&alarms).len() >= gone.len()).then_some(())).await;
    two_sweeps(&sweeper).await;
    let told: BTreeSet<Key> = lost(&alarms).into_iter().collect();
    assert_eq!(told, gone.iter().cloned().collect(), "here: {here:?}");
    sweeper.stop().await;
}

/// A prepared transaction whose Commit is lost with the former server is there, and its row is not to be seen yet.
#[tokio::test]
async fn s11_what_is_still_prepared_is_not_lost() {
    let (alarms, _listening) = Alarms::listen();
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Lying).await;
    let patient = || eager().grace(Duration::from_secs(3600));
    let sweeper = service.sweep([world.url()], patient()).unwrap();
    let tx_id = ended(&world, two_phase("g", &["write", "write"]), Decided::Committed).await;
    let timeline = until("the note", async || noted(&pool).await).await;
    sweeper.stop().await;
    change_history(&pool).await;
    // Of one of the two nothing is left.
    let cluster_id = world.cluster_id();
    let undo = format!("ROLLBACK PREPARED 'u/{cluster_id}/p/{tx_id}/2'");
    pool.execute(AssertSqlSafe(undo)).await.unwrap();
    let sweeper = service.sweep([world.url()], patient()).unwrap();
    until("the new note", async || (noted(&pool).await == Some(timeline)).then_some(())).await;
    assert_eq!(lost(&alarms), [(tx_id, "b".to_owned())]);
    sweeper.stop().await;
}

/// A role that may not read the server's history sweeps as ever, and says what it cannot see.
#[tokio::test]
async fn a_role_that_may_not_read_the_history_says_so_once_and_sweeps() {
    let (lines, _listening) = Lines::listen();
    let (pool, url, _) = bank().await;
    let role = format!("r{}", uuid::Uuid::now_v7().simple());
    let limits = format!(
        "CREATE ROLE {role} LOGIN;
         REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    );
    pool.execute(sqlx::raw_sql(AssertSqlSafe(limits))).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let database = connect(&format!("postgres://{role}@{host}")).await;
    let service = Participant::new("p", database).tcc("ok", Reserve).service().unwrap();
    let world = World::start(service.clone(), Ears::Open).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    ended(&world, tcc("g", &["ok"]), Decided::Committed).await;
    let told = two_sweeps(&sweeper).await;
    assert!(told.known, "{told:?}");
    let blind = lines.of("will not be noticed");
    assert_eq!(blind.len(), 1, "{blind:?}");
    assert!(blind[0].contains("WARN") && blind[0].contains("pg_control_system"), "{blind:?}");
    assert_eq!(noted(&pool).await, None);
    sweeper.stop().await;
}
