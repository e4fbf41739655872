//! Data of the examples' participants that has vanished, or has another name, when phase two comes (promises S7 and
//! S11). A trigger takes it away as soon as the step is done, and so in the step's own local transaction.

use std::rc::Rc;

use sqlx::{AssertSqlSafe, SqlitePool};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};
use tonic::transport::Channel;
use unanimo_core::Gid;
use unanimo_examples::sagas::args::Name;
use unanimo_examples::sagas::{Example, logbook};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::get_transaction_request::Key;
use unanimo_proto::v1::{GetTransactionRequest, Heuristic, Outcome, Transaction, WaitFor};
use unanimo_saga::{Inputs, SagaFile};
use unanimo_sdk::{Serve, Serving, Sqlite};
use unanimo_testing::Coordinator;
use unanimo_tests::wait::until;

/// Cases at a time.
const AT_ONCE: usize = 3;

/// A step whose data is taken away.
#[derive(Clone, Copy, Debug)]
struct Case {
    example: Name,
    step: &'static str,
    is_committed: bool,
    /// Statements that take the data away.
    takes: &'static str,
    /// Statements that bring it back as it was; empty if nothing can.
    brings: &'static str,
}

const fn case(
    example: Name,
    step: &'static str,
    is_committed: bool,
    takes: &'static str,
    brings: &'static str,
) -> Case {
    Case { example, step, is_committed, takes, brings }
}

const RENAMED: &str = "UPDATE account SET id = 'x' || id";
const NAMED: &str = "UPDATE account SET id = substr(id, 2)";

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Committed, and money, goods or a seat would be lost.
    case(Name::Order, "credit", true, RENAMED, NAMED),
    case(Name::Order, "credit", true, "DELETE FROM account", ""),
    case(Name::Order, "credit", true,
        "DELETE FROM account; INSERT INTO account (id, cents) VALUES ('shop', 50000)", ""),
    case(Name::Order, "debit", true, RENAMED, NAMED),
    case(Name::Order, "debit", true, "DELETE FROM account", ""),
    case(Name::Order, "stock", true, "UPDATE stock SET item = 'x' || item", "UPDATE stock SET item = substr(item, 2)"),
    case(Name::Order, "stock", true,
        "DELETE FROM stock; INSERT INTO stock (item, free) VALUES ('lamp', 20)", ""),
    case(Name::Trip, "flight", true, "UPDATE seat SET number = 'x' || number", "UPDATE seat SET number = substr(number, 2)"),
    case(Name::Trip, "flight", true, "UPDATE seat SET traveller = 'another'",
        "UPDATE seat SET traveller = 'traveller-1' WHERE state = 'held'"),
    // Aborted, and what was taken would never come back.
    case(Name::Order, "order", false, "UPDATE orders SET id = -id", "UPDATE orders SET id = -id"),
    case(Name::Order, "order", false, "DELETE FROM orders", ""),
    case(Name::Order, "stock", false, "UPDATE stock SET item = 'x' || item", "UPDATE stock SET item = substr(item, 2)"),
    case(Name::Order, "debit", false, RENAMED, NAMED),
    case(Name::Order, "credit", false, RENAMED, NAMED),
    case(Name::Order, "shipment", false, "UPDATE parcel SET id = -id", "UPDATE parcel SET id = -id"),
    case(Name::Trip, "flight", false, "UPDATE seat SET number = 'x' || number", "UPDATE seat SET number = substr(number, 2)"),
    case(Name::Trip, "hotel", false, "UPDATE booking SET id = -id", "UPDATE booking SET id = -id"),
    case(Name::Trip, "hotel", false, "UPDATE room SET number = -number", "UPDATE room SET number = -number"),
    case(Name::Trip, "hotel", false, "UPDATE room SET is_free = true", "UPDATE room SET is_free = (number <> 101)"),
    case(Name::Trip, "car", false, "UPDATE car SET plate = 'x' || plate", "UPDATE car SET plate = substr(plate, 2)"),
    // Somebody has brought the car back, and somebody else has it now.
    case(Name::Trip, "car", false, "UPDATE car SET traveller = 'another'",
        "UPDATE car SET traveller = iif(plate = 'U 2', 'traveller-1', NULL)"),
    case(Name::Pipeline, "tenant", false, "UPDATE thing SET id = -id", "UPDATE thing SET id = abs(id)"),
    case(Name::Pipeline, "quota", false, "UPDATE thing SET id = -id", "UPDATE thing SET id = abs(id)"),
    case(Name::Pipeline, "disk", false, "DELETE FROM thing", ""),
    case(Name::Pipeline, "monitor", false, "UPDATE thing SET id = -id", "UPDATE thing SET id = abs(id)"),
    // Another one of the same number and kind.
    case(Name::Pipeline, "monitor", false,
        "DELETE FROM thing WHERE kind = 'monitor'; INSERT INTO thing (kind, name, parent) VALUES ('monitor', 'b', 'c')", ""),
];

/// A coordinator, and the participants of an example with their databases.
struct World {
    case: Case,
    coordinator: Coordinator,
    client: CoordinatorServiceClient<Channel>,
    served: Vec<(&'static str, SqlitePool, Serving)>,
    _folder: TempDir,
}

impl World {
    async fn start(case: Case) -> Self {
        let coordinator = Coordinator::start().await.unwrap();
        let client = CoordinatorServiceClient::connect(coordinator.endpoint()).await.unwrap();
        let folder = TempDir::new().unwrap();
        let mut served = Vec::new();
        for program in case.example.example().programs {
            let file = folder.path().join(format!("{}.db", program.name));
            let database = Sqlite::open(&file).await.unwrap();
            let pool = SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
            for tables in [program.tables, logbook::TABLE] {
                sqlx::raw_sql(tables).execute(&pool).await.unwrap();
            }
            let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint());
            let participant = (program.participant)(program.name, database);
            let mut serving = participant.serve(serve).await.unwrap();
            serving.registered().await.unwrap();
            served.push((program.name, pool, serving));
        }
        Self { case, coordinator, client, served, _folder: folder }
    }

    fn example(&self) -> &'static Example {
        self.case.example.example()
    }

    /// Database of the participant of a step.
    fn database(&self, participant: &str) -> &SqlitePool {
        let of = self.served.iter().find(|(name, ..)| *name == participant);
        &of.unwrap_or_else(|| panic!("{participant}")).1
    }

    async fn execute(&self, step: &str, statements: &str) {
        let participant = self.example().step(step).unwrap().participant;
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.to_owned()));
        statements.execute(self.database(participant)).await.unwrap();
    }

    /// Runs the saga to its decision, and takes the data away in the middle.
    async fn decide(&mut self) {
        let Case { step, takes, is_committed, .. } = self.case;
        let trigger = format!(
            "CREATE TRIGGER gone AFTER INSERT ON logbook
             WHEN new.step = '{step}' AND new.kind = 'done' BEGIN {takes}; END"
        );
        self.execute(step, &trigger).await;
        let mut definition = self.example().definition.to_owned();
        match (is_committed, self.case.example) {
            (true, _) => {}
            // The pivot refuses.
            (false, Name::Trip) => {
                self.execute("payment", self.example().step("payment").unwrap().breaks).await;
            }
            // A step behind all others is not offered.
            (false, name) => {
                let last = if name == Name::Order { "shipment" } else { "monitor" };
                let at = self.example().programs[0].name;
                definition += &format!(
                    "\n  refused: {{participant: {at}, action: nothing, after: [{last}]}}\n"
                );
            }
        }
        let file = SagaFile::parse("saga.yaml", &definition).unwrap();
        let gid = Gid::new(self.example().name).unwrap();
        let mut request = file.with(&Inputs::default()).unwrap().request(&gid);
        request.wait_for = WaitFor::Decided.into();
        let result = self.client.submit_transaction(request).await.unwrap().into_inner().result;
        let outcome = if is_committed { Outcome::Committed } else { Outcome::Aborted };
        assert_eq!(result.unwrap().outcome(), outcome, "{:?}", self.case);
    }

    async fn find(&mut self, gid: &str) -> Option<Transaction> {
        let key = Some(Key::Gid(gid.to_owned()));
        let request = GetTransactionRequest { key, ..Default::default() };
        self.client.get_transaction(request).await.ok()?.into_inner().transaction
    }

    /// The transaction of the saga, and the error of the step's phase two, if it has one.
    async fn error(&mut self) -> (Transaction, String) {
        let name = self.example().name;
        let saga = self.find(name).await.unwrap();
        let mut branches = saga.branches.clone();
        if let Some(child) = self.find(&format!("{name}.payment")).await {
            branches.extend(child.branches);
        }
        let of_step = branches.into_iter().find(|branch| branch.branch_id == self.case.step);
        let attempts = of_step.and_then(|branch| branch.phase_two_attempts);
        (saga, attempts.map(|attempts| attempts.last_error).unwrap_or_default())
    }

    async fn states(&self) -> Vec<String> {
        let Case { step, .. } = self.case;
        let participant = self.example().step(step).unwrap().participant;
        let states = "SELECT state FROM unanimo_barrier WHERE branch_id = $1";
        let states = sqlx::query_scalar(states).bind(step);
        states.fetch_all(self.database(participant)).await.unwrap()
    }

    /// The data is brought back: now the saga ends, and all is as it must be.
    async fn mend(&mut self) {
        let (case, name) = (self.case, self.example().name);
        self.execute(case.step, &format!("DROP TRIGGER gone; {}", case.brings)).await;
        let what = format!("{case:?} to end");
        let ended = async || self.find(name).await.filter(|saga| saga.ended_at.is_some());
        let saga = until(&what, ended).await;
        assert_eq!(saga.heuristic(), Heuristic::None, "{case:?}");
        for check in self.example().checks {
            let value = sqlx::query_scalar(AssertSqlSafe(check.query));
            let value = value.fetch_one(self.database(check.participant)).await.unwrap();
            assert!(check.holds(case.is_committed, value), "{case:?}: {} is {value}", check.what);
        }
    }

    async fn stop(self) {
        for (_, _, serving) in self.served {
            serving.stop().await.unwrap();
        }
        self.coordinator.stop().await.unwrap();
    }
}

async fn run(case: Case) {
    let mut world = World::start(case).await;
    world.decide().await;
    let what = format!("{case:?} to fail");
    let failed = async || {
        let (saga, error) = world.error().await;
        assert!(saga.ended_at.is_none(), "{case:?} has ended, and nobody was told: {saga:?}");
        error.contains(" is gone: must be 1 row, found ").then_some(saga)
    };
    let saga = until(&what, failed).await;
    assert_eq!(saga.heuristic(), Heuristic::None, "{case:?}");
    assert_eq!(world.states().await, ["prepared"], "{case:?}");
    if !case.brings.is_empty() {
        world.mend().await;
    }
    world.stop().await;
}

/// S11: a confirm, a cancel and a compensation are done only if the rows that they mean were there. Else the money
/// would be lost by a saga that is committed and has ended.
#[tokio::test]
async fn s11_an_example_whose_data_is_gone_does_not_end() {
    let places = Rc::new(Semaphore::new(AT_ONCE));
    let local = LocalSet::new();
    let mut running = JoinSet::new();
    for case in CASES {
        let places = Rc::clone(&places);
        running.spawn_local_on(
            async move {
                let _place = places.acquire().await.unwrap();
                run(*case).await;
            },
            &local,
        );
    }
    local.run_until(running.join_all()).await;
}
