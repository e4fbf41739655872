//! The sweeper on MariaDB, against a real coordinator (promises S12 and L4).

use unanimo_proto::v1::{
    BeginTransactionRequest, ExecuteBranchRequest, Heuristic, Outcome, Resolution,
};
use unanimo_sdk::Sweep;

use super::super::deaf::Ears;
use super::super::sweeper::{
    World, alarmed, eager, nothing_in_doubt, pairs, two_phase, two_sweeps,
};
use super::*;

/// Leaves a trace of itself.
pub(in crate::participant) struct Write;

impl TwoPhase<MySql> for Write {
    type Payload = Bytes;

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Bytes>,
    ) -> Result<(), PrepareError> {
        let insert = sqlx::query("INSERT INTO effect VALUES (?, ?)");
        let insert = insert.bind(call.branch.tx_id.to_string()).bind(&call.branch.branch_id);
        insert.execute(db).await?;
        Ok(())
    }
}

/// Votes no.
struct Refuse;

impl TwoPhase<MySql> for Refuse {
    type Payload = Bytes;

    async fn prepare(&self, _: &mut MySqlConnection, _: &Call<Bytes>) -> Result<(), PrepareError> {
        refuse("NO", "never")
    }
}

/// A database for participant `p`, and its service with the actions `write` and `refuse`.
pub(super) async fn bank() -> (MySqlPool, String, Service<MySql>) {
    let url = Server::shared().database().await;
    let pool = MySqlPool::connect(&url).await.unwrap();
    let tables = "CREATE TABLE effect (tx_id char(36), branch_id varchar(128));
                  CREATE TABLE other (n int)";
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    let participant = Participant::new("p", MySql::connect(&url).await.unwrap())
        .two_phase("write", Write)
        .two_phase("refuse", Refuse);
    (pool, url, participant.service().unwrap())
}

/// Name of a transaction's branch of participant `p`, in SQL.
fn name_of(cluster: &str, tx_id: &str, number: u32) -> String {
    let mut branch = branch(Mode::TwoPhaseCommit, "write");
    branch.context.cluster_id = cluster.into();
    branch.context.tx_id = tx_id.into();
    branch.context.branch_number = number;
    xid(&branch)
}

async fn effects(pool: &MySqlPool, tx_id: &str) -> Vec<String> {
    let effects = "SELECT branch_id FROM effect WHERE tx_id = ? ORDER BY branch_id";
    sqlx::query_scalar(effects).bind(tx_id).fetch_all(pool).await.unwrap()
}

async fn states(pool: &MySqlPool, tx_id: &str) -> Vec<(String, String)> {
    let states = "SELECT branch_id, state FROM unanimo_barrier WHERE tx_id = ? ORDER BY branch_id";
    sqlx::query_as(states).bind(tx_id).fetch_all(pool).await.unwrap()
}

async fn until_gone(pool: &MySqlPool, names: &[String]) {
    until("them to be ended", async || {
        let listed = prepared(pool).await;
        names.iter().all(|name| !listed.contains(name)).then_some(())
    })
    .await;
}

/// Prepares a transaction by hand, with a row of the barrier if it has one.
async fn by_hand(url: &str, name: &str, row: Option<(&str, &str)>) {
    let mut session = MySqlConnection::connect(url).await.unwrap();
    let row = row.map_or_else(|| "DO 0".to_owned(), |(cluster, tx_id)| {
        format!(
            "INSERT INTO unanimo_barrier (tx_id, branch_id, cluster_id, participant, gid, action, mode, \
             state, output, reason, message, created_at, changed_at) VALUES ('{tx_id}', 'a', '{cluster}', \
             'p', 'g', 'write', '2pc', 'committed', '', '', '', utc_timestamp(6), utc_timestamp(6))"
        )
    });
    let work = format!(
        "XA START {name}; {row}; INSERT INTO other VALUES (1); XA END {name}; XA PREPARE {name}"
    );
    run(&mut session, &work).await.unwrap();
    // The server may have closed it first.
    let _ = session.close().await;
}

async fn end_by_hand(pool: &MySqlPool, operation: &str, name: &str) {
    until("its session to let go of it", async || {
        let end = AssertSqlSafe(format!("{operation} {name}"));
        sqlx::raw_sql(end).execute(pool).await.ok()
    })
    .await;
}

#[tokio::test]
async fn s12_a_prepared_transaction_that_is_to_commit_is_committed() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let tx_id = world.submit(two_phase("g", &["write", "write"]), Outcome::Committed).await;
    let names = [1, 2].map(|number| name_of(&world.cluster_id(), &tx_id, number));
    let listed = prepared(&pool).await;
    assert!(names.iter().all(|name| listed.contains(name)), "{names:?}: {listed:?}");
    assert!(effects(&pool, &tx_id).await.is_empty());

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until_gone(&pool, &names).await;
    nothing_in_doubt(&sweeper).await;
    assert_eq!(effects(&pool, &tx_id).await, ["a", "b"]);
    assert_eq!(states(&pool, &tx_id).await, pairs(&[("a", "committed"), ("b", "committed")]));
    assert_eq!(sweeper.in_doubt().alarmed, 0);
    sweeper.stop().await;
}

#[tokio::test]
async fn s12_a_prepared_transaction_that_is_to_abort_is_rolled_back_for_good() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let mode = Mode::TwoPhaseCommit.into();
    let begin = BeginTransactionRequest { gid: "g".into(), mode, ..Default::default() };
    let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
    for (id, action) in [("a", "write"), ("b", "refuse")] {
        let branch = Some(crate::coordinator::branch(id, action));
        let execute = ExecuteBranchRequest { tx_id: tx_id.clone(), branch, ..Default::default() };
        world.client().execute_branch(execute).await.unwrap();
    }
    let name = name_of(&world.cluster_id(), &tx_id, 1);
    assert!(prepared(&pool).await.contains(&name));

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until_gone(&pool, &[name]).await;
    nothing_in_doubt(&sweeper).await;
    sweeper.stop().await;
    assert_eq!(states(&pool, &tx_id).await, pairs(&[("a", "cancelled"), ("b", "refused")]));
    // S8: a Prepare that was on its way all the time has no effect.
    let mut late = branch(Mode::TwoPhaseCommit, "write");
    late.context.tx_id.clone_from(&tx_id);
    late.context.cluster_id = world.cluster_id();
    assert_eq!(refused(late.prepare(&service).await.unwrap()), "ALREADY_ENDED");
    assert!(effects(&pool, &tx_id).await.is_empty());
}

/// The server does not tell since when a transaction is prepared: its row does.
#[tokio::test]
async fn s12_a_branch_is_not_asked_about_before_its_grace_is_over() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let tx_id = world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    let name = name_of(&world.cluster_id(), &tx_id, 1);
    // Another participant's row of the same transaction is older, and does not count.
    let others = "INSERT INTO unanimo_barrier (tx_id, branch_id, cluster_id, participant, gid, action, mode, state, \
                      output, reason, message, created_at, changed_at)
                  VALUES (?, 'other', ?, 'q', 'g', 'write', '2pc', 'committed', '', '', '',
                      utc_timestamp(6) - INTERVAL 2 HOUR, utc_timestamp(6) - INTERVAL 2 HOUR)";
    sqlx::query(others).bind(&tx_id).bind(world.cluster_id()).execute(&pool).await.unwrap();
    let sweeper = service.sweep([world.url()], eager().grace(Duration::from_secs(3600))).unwrap();
    let told = two_sweeps(&sweeper).await;
    assert_eq!(told.count, 1);
    assert!(told.oldest < Duration::from_secs(600), "an age of its own: {told:?}");
    assert!(prepared(&pool).await.contains(&name));
    sweeper.stop().await;
    let soon = Sweep::default().interval(Duration::from_millis(20)).grace(Duration::from_secs(1));
    let sweeper = service.sweep([world.url()], soon).unwrap();
    until_gone(&pool, &[name]).await;
    nothing_in_doubt(&sweeper).await;
}

#[tokio::test]
async fn l4_what_the_coordinator_never_saw_raises_an_alarm_and_is_not_touched() {
    let (pool, url, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    let (cluster, tx_id) = (world.cluster_id(), uuid::Uuid::now_v7().to_string());
    let name = name_of(&cluster, &tx_id, 1);
    by_hand(&url, &name, Some((&cluster, &tx_id))).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    assert_eq!(alarmed(&sweeper, 1).await.count, 1);
    two_sweeps(&sweeper).await;
    assert!(prepared(&pool).await.contains(&name));
    // A person ends it: the alarm is cleared.
    end_by_hand(&pool, "XA ROLLBACK", &name).await;
    assert_eq!(alarmed(&sweeper, 0).await.count, 0);
}

#[tokio::test]
async fn l4_nobody_acts_against_an_operators_word() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let tx_id = world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    world.resolve(&tx_id, Resolution::RolledBack).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    assert_eq!(alarmed(&sweeper, 1).await.count, 1);
    two_sweeps(&sweeper).await;
    let name = name_of(&world.cluster_id(), &tx_id, 1);
    assert!(prepared(&pool).await.contains(&name));
    end_by_hand(&pool, "XA ROLLBACK", &name).await;
}

#[tokio::test]
async fn s12_nobody_elses_prepared_transactions_are_touched() {
    let (pool, url, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let cluster = world.cluster_id();
    let tx_id = world.submit(two_phase("g", &["write", "write"]), Outcome::Committed).await;
    let digits = uuid::Uuid::parse_str(&tx_id).unwrap().simple();
    let cluster_hex = hex(&cluster);
    let gtrid = format!("X'{digits}0001{cluster_hex}'");
    let foreign = [
        // Another coordinator's, another participant's, another format, and names that are none of ours,
        // all of a branch that is to commit.
        name_of("other", &tx_id, 1),
        format!("{gtrid},X'71',1431191886"),
        format!("{gtrid},X'7070',1431191886"),
        format!("{gtrid},X'7000',1431191886"),
        format!("X'{digits}0000{cluster_hex}',X'70',1431191886"),
        format!("X'{digits}0003{cluster_hex}',X'70',7"),
    ];
    for name in &foreign {
        by_hand(&url, name, None).await;
    }
    // A name of ours whose row is in another database of the server.
    let (other_pool, other_url, _) = bank().await;
    let decided = world.submit(two_phase("decided", &["write"]), Outcome::Committed).await;
    let taken = name_of(&cluster, &decided, 1);
    end_by_hand(&pool, "XA ROLLBACK", &taken).await;
    by_hand(&other_url, &taken, Some((&cluster, &decided))).await;

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until_gone(&pool, &[1, 2].map(|number| name_of(&cluster, &tx_id, number))).await;
    // The one of its own name and another cluster is told of.
    assert_eq!(alarmed(&sweeper, 1).await.count, 1);
    two_sweeps(&sweeper).await;
    let listed = prepared(&pool).await;
    for name in foreign.iter().chain([&taken]) {
        assert!(listed.contains(name), "{name}: {listed:?}");
        end_by_hand(&other_pool, "XA ROLLBACK", name).await;
    }
}

/// The row went with it, and that is found out when the Commit comes.
#[tokio::test]
async fn s11_what_was_rolled_back_by_hand_is_a_hazard() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let tx_id = world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    end_by_hand(&pool, "XA ROLLBACK", &name_of(&world.cluster_id(), &tx_id, 1)).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    nothing_in_doubt(&sweeper).await;
    world.p.set(Ears::Open);
    world.retry(&tx_id).await;
    let ended = until("its end", async || {
        Some(world.get(&tx_id).await).filter(|shown| shown.ended_at.is_some())
    });
    assert_eq!(ended.await.heuristic(), Heuristic::Hazard);
    assert_eq!(states(&pool, &tx_id).await, pairs(&[("a", "lost")]));
}

/// L3: rows that can go do not wait for one that cannot.
#[tokio::test]
async fn l3_a_branch_in_doubt_keeps_no_purge_waiting() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let soon = Some((std::time::SystemTime::now() + Duration::from_secs(5)).into());
    let of = |action| {
        let mut branch = branch(Mode::TwoPhaseCommit, action);
        branch.context.cluster_id = world.cluster_id();
        Branch { prepare_until: soon, ..branch }
    };
    let (first, held, last) = (of("refuse"), of("write"), of("refuse"));
    for (branch, votes_yes) in [(&first, false), (&held, true), (&last, false)] {
        let answer = branch.prepare(&service).await.unwrap();
        let is_yes = matches!(answer, prepare_response::Answer::Prepared(_));
        assert_eq!(is_yes, votes_yes, "{answer:?}");
    }
    let sweep = eager().grace(Duration::from_secs(3600)).retention(Duration::ZERO);
    let sweeper = service.sweep([world.url()], sweep).unwrap();
    until("the rows of the others to be gone", async || {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM unanimo_barrier")
            .fetch_one(&pool)
            .await
            .unwrap();
        (rows == 0).then_some(())
    })
    .await;
    assert!(prepared(&pool).await.contains(&xid(&held)));
    sweeper.stop().await;
    end_by_hand(&pool, "XA ROLLBACK", &xid(&held)).await;
}
