//! The sweeper, against a real coordinator and real databases (promises S12 and L4).

#[path = "sweeper/rows.rs"]
mod rows;

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use unanimo_coordinator::config::Period;
use unanimo_coordinator::{Builder, Config, Running};
use unanimo_core::ParticipantName;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::{
    BeginTransactionRequest, ExecuteBranchRequest, GetTransactionRequest, Heuristic, Mode, Outcome,
    Resolution, ResolveBranchRequest, RetryTransactionRequest, RollbackTransactionRequest,
    SubmitTransactionRequest, Transaction, get_transaction_request,
};
use unanimo_sdk::{
    Call, InDoubt, MySql, Participant, PhaseTwoError, PostgresOptions, PrepareError, Resource,
    Serve, Service, Sqlite, Sweep, Sweeper, Tcc, TwoPhase, refuse,
};
use unanimo_tests::mariadb;
use unanimo_tests::postgres::Server;
use unanimo_tests::relay::Relay;
use unanimo_tests::wait::until;

use super::affirmed::wait_for_a_standby;
use super::deaf::{Deaf, Ears};
use super::over::{self, Database};
use crate::coordinator::{channel, config, sqlite_url, tcc};

/// Leaves a trace of itself.
pub(super) struct Write;

impl TwoPhase<Database> for Write {
    type Payload = bytes::Bytes;

    async fn prepare(
        &self,
        db: &mut over::Connection,
        call: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        let (tx_id, branch_id) = (call.branch.tx_id, &call.branch.branch_id);
        let insert = format!("INSERT INTO effect VALUES ('{tx_id}', '{branch_id}')");
        over::run(db, &insert).await?;
        Ok(())
    }
}

pub(super) struct Refuse;

impl TwoPhase<Database> for Refuse {
    type Payload = bytes::Bytes;

    async fn prepare(
        &self,
        _: &mut over::Connection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        refuse("NO", "never")
    }
}

/// Does nothing but by its barrier row.
pub(super) struct Reserve;

impl<R: Resource> Tcc<R> for Reserve {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn confirm(
        &self,
        _: &mut R::Connection,
        call: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        assert!(!call.payload.is_empty(), "it comes with what it needs");
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut R::Connection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// A database for participant `p`, and its service with the actions `write`, `refuse`, `ok`.
pub(super) async fn bank() -> (PgPool, String, Service<Database>) {
    let url = Server::shared().database().await;
    let (pool, service) = bank_of(&url).await;
    (pool, url, service)
}

/// The same in this database.
pub(super) async fn bank_of(url: &str) -> (PgPool, Service<Database>) {
    let pool = PgPool::connect(url).await.unwrap();
    pool.execute("CREATE TABLE effect (tx_id uuid, branch_id text)").await.unwrap();
    let service = participant(url).await.service().unwrap();
    (pool, service)
}

async fn participant(url: &str) -> Participant<Database> {
    let database = over::connect(PostgresOptions::default(), url).await.unwrap();
    Participant::new("p", database)
        .two_phase("write", Write)
        .two_phase("refuse", Refuse)
        .tcc("ok", Reserve)
}

/// A coordinator that sends nothing twice by itself, with a participant `p` that may be deaf.
pub(super) struct World<S> {
    pub(super) running: Running,
    config: Config,
    pub(super) p: Deaf<S>,
    relay: Relay,
}

impl<S> World<S>
where
    S: unanimo_proto::v1::participant_service_server::ParticipantService + Clone,
{
    pub(super) async fn start(service: S, ears: Ears) -> Self {
        let mut config = config(&sqlite_url());
        config.phase_two_backoff = Period::secs(1000);
        config.phase_two_backoff_max = Period::secs(1000);
        Self::start_with(config, service, ears).await
    }

    async fn start_with(config: Config, service: S, ears: Ears) -> Self {
        let p = Deaf::new(service, ears);
        let running = run(&config, &p).await;
        let relay = Relay::start().await;
        relay.point_to(running.grpc_address());
        Self { running, config, p, relay }
    }

    /// It dies; nobody answers until [`Self::restart`].
    async fn crash(self) -> (Config, Deaf<S>, Relay) {
        let Self { running, config, p, relay } = self;
        relay.point_to(None);
        drop(running);
        (config, p, relay)
    }

    async fn restart((config, p, relay): (Config, Deaf<S>, Relay)) -> Self {
        let running = run(&config, &p).await;
        relay.point_to(running.grpc_address());
        Self { running, config, p, relay }
    }

    pub(super) fn url(&self) -> String {
        self.relay.url()
    }

    pub(super) fn client(&self) -> CoordinatorServiceClient<tonic::transport::Channel> {
        CoordinatorServiceClient::new(channel(&self.running))
    }

    pub(super) fn operator(&self) -> OperatorServiceClient<tonic::transport::Channel> {
        OperatorServiceClient::new(channel(&self.running))
    }

    /// Submits it and tells its id, once it is decided so.
    pub(super) async fn submit(
        &self,
        request: SubmitTransactionRequest,
        decided: Outcome,
    ) -> String {
        let response = self.client().submit_transaction(request).await.unwrap().into_inner();
        let result = response.result.unwrap();
        assert_eq!(result.outcome(), decided, "{result:?}");
        result.tx_id
    }

    pub(super) async fn get(&self, tx_id: &str) -> Transaction {
        let key = Some(get_transaction_request::Key::TxId(tx_id.into()));
        let response = self
            .client()
            .get_transaction(GetTransactionRequest { key, ..Default::default() })
            .await
            .unwrap();
        response.into_inner().transaction.unwrap()
    }

    pub(super) fn cluster_id(&self) -> String {
        self.running.engine().cluster_id().to_owned()
    }

    /// Has what is owed sent at once.
    pub(super) async fn retry(&self, tx_id: &str) {
        let retry = RetryTransactionRequest {
            tx_id: tx_id.into(),
            operator: "ann".into(),
            ..Default::default()
        };
        self.operator().retry_transaction(retry).await.unwrap();
    }

    pub(super) async fn resolve(&self, tx_id: &str, resolution: Resolution) {
        let request = ResolveBranchRequest {
            tx_id: tx_id.into(),
            branch_id: "a".into(),
            resolution: resolution.into(),
            operator: "ann".into(),
            note: "by hand".into(),
            ..Default::default()
        };
        self.operator().resolve_branch(request).await.unwrap();
    }
}

async fn run<S>(config: &Config, p: &Deaf<S>) -> Running
where
    S: unanimo_proto::v1::participant_service_server::ParticipantService + Clone,
{
    assert_eq!(config.violations(), []);
    let name = ParticipantName::new("p").unwrap();
    Builder::new(config.clone()).participant(name, Arc::new(p.clone())).start().await.unwrap()
}

pub(super) fn two_phase(gid: &str, actions: &[&str]) -> SubmitTransactionRequest {
    SubmitTransactionRequest { mode: Mode::TwoPhaseCommit.into(), ..tcc(gid, actions) }
}

/// Sweeps all the time, whatever is prepared.
pub(super) fn eager() -> Sweep {
    Sweep::default().interval(Duration::from_millis(20)).grace(Duration::ZERO)
}

/// Two more sweeps are over: what the first of them found was decided after this was called.
pub(super) async fn two_sweeps(sweeper: &Sweeper) -> InDoubt {
    let from = sweeper.in_doubt().sweeps;
    let told = sweeper.watch().wait_for(|told| told.sweeps >= from + 2).await.map(|told| *told);
    told.unwrap()
}

pub(super) async fn nothing_in_doubt(sweeper: &Sweeper) {
    until("nothing to be in doubt", async || {
        let told = sweeper.in_doubt();
        (told.sweeps > 0 && told.count == 0).then_some(())
    })
    .await;
}

pub(super) async fn alarmed(sweeper: &Sweeper, count: u64) -> InDoubt {
    until("the alarms", async || {
        Some(sweeper.in_doubt()).filter(|told| told.sweeps > 0 && told.alarmed == count)
    })
    .await
}

async fn prepared(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

pub(super) async fn states(pool: &PgPool, tx_id: &str) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT branch_id, state FROM unanimo_barrier WHERE tx_id = $1::uuid ORDER BY branch_id",
    )
    .bind(tx_id)
    .fetch_all(pool)
    .await
    .unwrap()
}

async fn effects(pool: &PgPool, tx_id: &str) -> Vec<String> {
    sqlx::query_scalar("SELECT branch_id FROM effect WHERE tx_id = $1::uuid ORDER BY branch_id")
        .bind(tx_id)
        .fetch_all(pool)
        .await
        .unwrap()
}

pub(super) fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(branch, state)| ((*branch).to_owned(), (*state).to_owned())).collect()
}

/// Prepares a transaction by hand.
async fn prepare_by_hand(url: &str, name: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.execute("CREATE TABLE IF NOT EXISTS other (n integer)").await.unwrap();
    connection.execute("BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    let prepare = format!("PREPARE TRANSACTION '{name}'");
    connection.execute(AssertSqlSafe(prepare)).await.unwrap();
}

#[tokio::test]
async fn s12_a_prepared_transaction_that_is_to_commit_is_committed() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let tx_id = world.submit(two_phase("g", &["write", "write"]), Outcome::Committed).await;
    assert_eq!(prepared(&pool).await.len(), 2);
    assert!(effects(&pool, &tx_id).await.is_empty());

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until("the commits", async || prepared(&pool).await.is_empty().then_some(())).await;
    assert_eq!(effects(&pool, &tx_id).await, ["a", "b"]);
    assert_eq!(states(&pool, &tx_id).await, pairs(&[("a", "committed"), ("b", "committed")]));
    nothing_in_doubt(&sweeper).await;
    // The coordinator's own Commit finds it done.
    world.p.set(Ears::Open);
    world.retry(&tx_id).await;
    let ended = until("its end", async || {
        Some(world.get(&tx_id).await).filter(|shown| shown.ended_at.is_some())
    });
    assert_eq!(ended.await.heuristic(), Heuristic::None);
    assert_eq!(sweeper.in_doubt().alarmed, 0);
    sweeper.stop().await;
}

#[tokio::test]
async fn s12_a_prepared_transaction_that_is_to_abort_is_rolled_back_for_good() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    // The refusal must not come before the other branch is prepared.
    let begin = BeginTransactionRequest {
        gid: "g".into(),
        mode: Mode::TwoPhaseCommit.into(),
        ..Default::default()
    };
    let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
    for (id, action) in [("a", "write"), ("b", "refuse")] {
        let branch = Some(crate::coordinator::branch(id, action));
        let execute = ExecuteBranchRequest { tx_id: tx_id.clone(), branch, ..Default::default() };
        world.client().execute_branch(execute).await.unwrap();
    }
    let held = prepared(&pool).await;
    assert_eq!(held.len(), 1);

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until("the rollback", async || prepared(&pool).await.is_empty().then_some(())).await;
    nothing_in_doubt(&sweeper).await;
    sweeper.stop().await;
    assert_eq!(states(&pool, &tx_id).await, pairs(&[("a", "cancelled"), ("b", "refused")]));
    let (action, until): (String, Option<bool>) = sqlx::query_as(
        "SELECT action, prepare_until > now() FROM unanimo_barrier WHERE branch_id = 'a'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((action.as_str(), until), ("write", Some(true)), "the tombstone is complete");
    // S8: a Prepare that was on its way all the time has no effect.
    let mut late = super::direct::branch(Mode::TwoPhaseCommit, "write");
    late.context.tx_id.clone_from(&tx_id);
    late.context.cluster_id = world.cluster_id();
    let answer = late.prepare(&service).await.unwrap();
    assert_eq!(super::direct::refused(answer), "ALREADY_ENDED");
    assert!(effects(&pool, &tx_id).await.is_empty() && prepared(&pool).await.is_empty());
}

#[tokio::test]
async fn s12_what_is_running_is_left_alone() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let mut names = Vec::new();
    for (mode, action) in [(Mode::TwoPhaseCommit, "write"), (Mode::Tcc, "ok")] {
        let begin =
            BeginTransactionRequest { gid: action.into(), mode: mode.into(), ..Default::default() };
        let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
        let branch = Some(crate::coordinator::branch("a", action));
        world
            .client()
            .execute_branch(ExecuteBranchRequest {
                tx_id: tx_id.clone(),
                branch,
                ..Default::default()
            })
            .await
            .unwrap();
        names.push(tx_id);
    }
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    two_sweeps(&sweeper).await;
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, told.alarmed), (2, 0));
    assert!(told.oldest > Duration::ZERO);
    assert_eq!(prepared(&pool).await.len(), 1);
    assert_eq!(states(&pool, &names[1]).await, pairs(&[("a", "prepared")]));
    // Once it is decided, it is ended.
    for tx_id in names {
        world
            .client()
            .rollback_transaction(RollbackTransactionRequest {
                key: Some(unanimo_proto::v1::rollback_transaction_request::Key::TxId(tx_id)),
                wait_for: 1,
                ..Default::default()
            })
            .await
            .unwrap();
    }
    until("the rollback", async || prepared(&pool).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn s12_a_branch_is_not_asked_about_before_its_grace_is_over() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    let sweeper = service.sweep([world.url()], eager().grace(Duration::from_secs(3600))).unwrap();
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, prepared(&pool).await.len()), (1, 1));
}

#[tokio::test]
async fn l4_what_the_coordinator_never_saw_raises_an_alarm_and_is_not_touched() {
    let (pool, url, service) = bank().await;
    let world = World::start(service.clone(), Ears::Open).await;
    let cluster = world.cluster_id();
    let name = format!("u/{cluster}/p/{}/1", uuid::Uuid::now_v7());
    prepare_by_hand(&url, &name).await;
    let insert = "INSERT INTO unanimo_barrier
                      (tx_id, branch_id, cluster_id, participant, gid, action, mode, state)
                  VALUES ($1, 'a', $2, 'p', 'g', 'ok', 'tcc', 'prepared')";
    let tx_id = uuid::Uuid::now_v7();
    sqlx::query(insert).bind(tx_id).bind(&cluster).execute(&pool).await.unwrap();

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    assert_eq!(alarmed(&sweeper, 2).await.count, 2);
    two_sweeps(&sweeper).await;
    assert_eq!(prepared(&pool).await, std::slice::from_ref(&name));
    assert_eq!(states(&pool, &tx_id.to_string()).await, pairs(&[("a", "prepared")]));
    // A person ends them: the alarms are cleared.
    let roll_back = format!("ROLLBACK PREPARED '{name}'");
    pool.execute(AssertSqlSafe(roll_back)).await.unwrap();
    pool.execute("UPDATE unanimo_barrier SET state = 'cancelled'").await.unwrap();
    assert_eq!(alarmed(&sweeper, 0).await.count, 0);
}

#[tokio::test]
async fn l4_what_the_coordinator_has_purged_raises_an_alarm_and_is_not_touched() {
    let (pool, _, service) = bank().await;
    let mut config = config(&sqlite_url());
    config.retention = Period::millis(1);
    config.gid_retention = Period::millis(1);
    config.purge_interval = Period::millis(20);
    let world = World::start_with(config, service.clone(), Ears::Lying).await;
    let tx_id = world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    until("it to be purged", async || {
        let key = Some(get_transaction_request::Key::TxId(tx_id.clone()));
        world
            .client()
            .get_transaction(GetTransactionRequest { key, ..Default::default() })
            .await
            .err()
    })
    .await;
    let held = prepared(&pool).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    assert_eq!(alarmed(&sweeper, 1).await.count, 1);
    two_sweeps(&sweeper).await;
    assert_eq!((prepared(&pool).await, held.len()), (held, 1));
}

#[tokio::test]
async fn s12_what_has_ended_at_the_coordinator_is_ended_by_its_decision() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Lying).await;
    let tx_id = world.submit(two_phase("lied", &["write"]), Outcome::Committed).await;
    until("its end", async || world.get(&tx_id).await.ended_at.map(drop)).await;
    world.p.set(Ears::Deaf);
    let resolved = world.submit(two_phase("resolved", &["write"]), Outcome::Committed).await;
    world.resolve(&resolved, Resolution::Committed).await;
    assert_eq!(prepared(&pool).await.len(), 2);

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    until("the commits", async || prepared(&pool).await.is_empty().then_some(())).await;
    assert_eq!(effects(&pool, &tx_id).await, ["a"]);
    assert_eq!(effects(&pool, &resolved).await, ["a"]);
    nothing_in_doubt(&sweeper).await;
}

/// Nobody can send a row its Commit again, and nobody acts against an operator's word.
#[tokio::test]
async fn l4_what_has_ended_otherwise_at_the_coordinator_raises_an_alarm() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Lying).await;
    let row = world.submit(tcc("row", &["ok"]), Outcome::Committed).await;
    until("its end", async || world.get(&row).await.ended_at.map(drop)).await;
    world.p.set(Ears::Deaf);
    let resolved = world.submit(two_phase("resolved", &["write"]), Outcome::Committed).await;
    world.resolve(&resolved, Resolution::RolledBack).await;

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    assert_eq!(alarmed(&sweeper, 2).await.count, 2);
    two_sweeps(&sweeper).await;
    assert_eq!(prepared(&pool).await.len(), 1);
    assert_eq!(states(&pool, &row).await, pairs(&[("a", "prepared")]));
}

#[tokio::test]
async fn l4_what_the_database_does_not_end_raises_an_alarm() {
    let (pool, url, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
         GRANT CREATE ON SCHEMA public TO {role}"
    );
    pool.execute(AssertSqlSafe(grants)).await.unwrap();
    let (_, place) = url.split_once('@').unwrap();
    let other = participant(&format!("postgres://{role}@{place}")).await.service().unwrap();
    let sweeper = other.sweep([world.url()], eager()).unwrap();
    assert_eq!(alarmed(&sweeper, 1).await.count, 1);
    assert_eq!(prepared(&pool).await.len(), 1);
    let _able = service.sweep([world.url()], eager()).unwrap();
    assert_eq!(alarmed(&sweeper, 0).await.count, 0);
    assert!(prepared(&pool).await.is_empty());
}

/// Each attempt takes as long as a call may. The other branches, the figures and the purge do not wait for that again.
#[tokio::test]
async fn l4_a_database_that_ends_nothing_holds_up_a_sweep_once() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let url = server.database().await;
    let (_, service) = bank_of(&url).await;
    let world = World::start(service, Ears::Deaf).await;
    world.submit(two_phase("g", &["write"; 4]), Outcome::Committed).await;
    let service = participant(&url).await.overtime(Duration::from_millis(100)).service().unwrap();
    wait_for_a_standby(&url, true).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    let mut figures = sweeper.watch();
    let first = figures.wait_for(|told| told.sweeps == 1);
    let first = tokio::time::timeout(Duration::from_secs(60), first).await;
    let told = *first.expect("it waits for each of them").unwrap();
    assert!(told.known && told.count >= 3, "{told:?}");
    wait_for_a_standby(&url, false).await;
    nothing_in_doubt(&sweeper).await;
}

#[tokio::test]
async fn s12_nobody_elses_prepared_transactions_are_touched() {
    let (pool, url, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let cluster = world.cluster_id();
    let tx_id = world.submit(two_phase("g", &["write", "write"]), Outcome::Committed).await;
    let later = uuid::Uuid::now_v7();
    let mut foreign = vec![
        // Another coordinator's, another participant's, and names that are none of ours, all of a
        // branch that is to commit.
        format!("u/other/p/{tx_id}/1"),
        format!("u/{cluster}/q/{tx_id}/1"),
        format!("u/{cluster}/pp/{tx_id}/1"),
        format!("u/{cluster}/p/{tx_id}/01"),
        format!("u/{cluster}/p/{tx_id}/1/x"),
        format!("u/{cluster}/p/{}/1", tx_id.to_uppercase()),
        format!("{cluster}/p/{tx_id}/1"),
        format!("backup of {later}"),
    ];
    for name in &foreign {
        prepare_by_hand(&url, name).await;
    }
    // A name of ours, in another database of the server: it can only be ended there.
    let other_url = Server::shared().database().await;
    let other_pool = PgPool::connect(&other_url).await.unwrap();
    let decided = world.submit(two_phase("decided", &["write"]), Outcome::Committed).await;
    let taken = format!("u/{cluster}/p/{decided}/1");
    let commit = format!("COMMIT PREPARED '{taken}'");
    pool.execute(AssertSqlSafe(commit)).await.unwrap();
    prepare_by_hand(&other_url, &taken).await;

    let sweeper = service.sweep([world.url()], eager()).unwrap();
    foreign.sort();
    until("its own to be ended", async || (prepared(&pool).await == foreign).then_some(())).await;
    // The one of its own name and another cluster is told of.
    assert_eq!(alarmed(&sweeper, 1).await.count, 1);
    two_sweeps(&sweeper).await;
    assert_eq!(prepared(&pool).await, foreign);
    assert_eq!(prepared(&other_pool).await, [taken]);
    for name in foreign {
        pool.execute(AssertSqlSafe(format!("ROLLBACK PREPARED '{name}'"))).await.unwrap();
    }
}

#[tokio::test]
async fn s12_a_coordinator_that_is_down_is_asked_again() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    let url = world.url();
    let down = world.crash().await;
    let sweeper = service.sweep([url], eager()).unwrap();
    two_sweeps(&sweeper).await;
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, told.alarmed, prepared(&pool).await.len()), (1, 0, 1));
    // Its dead tasks let go of the file's lock a moment later.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let asks = told.sweeps;
    // What it sends by itself is still lost: nothing but an answer to the sweeper ends it.
    let world = World::restart(down).await;
    nothing_in_doubt(&sweeper).await;
    assert!(prepared(&pool).await.is_empty());
    assert!(sweeper.in_doubt().sweeps > asks);
    drop(world);
}

/// Each coordinator is asked about its own branches, also where one participant serves two.
#[tokio::test]
async fn s12_two_coordinators_are_asked_about_their_own() {
    let (pool, url, service) = bank().await;
    let first = World::start(service.clone(), Ears::Deaf).await;
    let second = World::start(service.clone(), Ears::Deaf).await;
    first.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    second.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    assert_eq!(prepared(&pool).await.len(), 2);
    let sweeper = service.sweep([first.url(), second.url()], eager()).unwrap();
    nothing_in_doubt(&sweeper).await;
    assert!(prepared(&pool).await.is_empty());
    assert_eq!(sweeper.in_doubt().alarmed, 0);
    drop(sweeper);

    // Also where it registers with both.
    first.submit(two_phase("h", &["write"]), Outcome::Committed).await;
    second.submit(two_phase("h", &["write"]), Outcome::Committed).await;
    let serve = Serve::on("127.0.0.1:0").register_with(first.url()).register_with(second.url());
    let mut serving = participant(&url).await.serve(serve.sweep(eager())).await.unwrap();
    serving.registered().await.unwrap();
    until("the commits", async || prepared(&pool).await.is_empty().then_some(())).await;
    assert_eq!(serving.in_doubt().map(|told| told.alarmed), Some(0));
}

#[tokio::test]
async fn s12_a_participant_that_is_served_has_a_sweeper() {
    let (pool, url, service) = bank().await;
    let world = World::start(service, Ears::Deaf).await;
    let tx_id = world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    let serve = Serve::on("127.0.0.1:0").register_with(world.url()).sweep(eager());
    let serving = participant(&url).await.serve(serve).await.unwrap();
    until("the commit", async || prepared(&pool).await.is_empty().then_some(())).await;
    until("the count", async || {
        serving.in_doubt().filter(|told| told.sweeps > 0 && told.count == 0)
    })
    .await;
    assert_eq!(effects(&pool, &tx_id).await, ["a"]);
    tokio::time::timeout(Duration::from_secs(10), serving.stop()).await.unwrap().unwrap();

    let serve = Serve::on("127.0.0.1:0").register_with(world.url()).without_sweep();
    assert_eq!(participant(&url).await.serve(serve).await.unwrap().in_doubt(), None);
}
