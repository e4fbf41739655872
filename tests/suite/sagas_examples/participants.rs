//! Kill -9 of the examples' participants, each in a process of its own, while they do or undo a step. Afterwards the
//! records of their own databases are as if nobody had died.

use std::path::Path;

use sqlx::{AssertSqlSafe, SqlitePool};
use tempfile::TempDir;
use tokio::task::JoinSet;
use unanimo_core::Gid;
use unanimo_examples::sagas::args::Name;
use unanimo_examples::sagas::{Example, logbook};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{Outcome, WaitFor};
use unanimo_saga::{Inputs, SagaFile};
use unanimo_sdk::Sqlite;
use unanimo_sdk::crash::TCC_POINTS;
use unanimo_tests::postgres::Server;

use super::record::Record;
use super::rules::Rules;
use super::{Case, PATIENCE, PLACES, Store};
use crate::chaos::process::{Process, arguments, coordinator_under};

/// Pause before a failed call is repeated: in three attempts, as the definitions have it, a participant is mostly there
/// again.
const BACKOFF: &str = "150ms";

/// Most visits of a crash point in a participant: more steps than any has, each done and undone.
const VISITS_MAX: u32 = 16;

/// A run in which a participant dies.
#[derive(Clone, Copy, Debug)]
struct Kill {
    example: Name,
    /// The participant.
    victim: &'static str,
    point: &'static str,
    visit: u32,
    /// Its last step that can refuse does.
    refuses: bool,
    store: Store,
}

/// End of a run.
#[derive(Clone, Copy, Debug)]
struct End {
    died: bool,
    commits: bool,
}

/// The coordinator's default is sooner, and there is but one of each flag.
fn coordinator_arguments(database: &str, participants: Vec<String>) -> Vec<String> {
    let mut arguments = arguments(database, participants, "20s");
    let at = arguments.iter().position(|word| word == "--prepare-backoff").unwrap();
    arguments[at + 1] = BACKOFF.to_owned();
    arguments
}

impl Kill {
    fn example(self) -> &'static Example {
        self.example.example()
    }

    /// Runs it, and checks what it leaves.
    async fn run(self) -> End {
        let _place = PLACES.acquire().await.unwrap();
        let folder = TempDir::new().unwrap();
        self.make_databases(folder.path()).await;
        let mut processes = Vec::new();
        for program in self.example().programs {
            let file = folder.path().join(format!("{}.db", program.name)).display().to_string();
            let words = ["participant", self.example().name, program.name, &file];
            let crash =
                (program.name == self.victim).then(|| format!("{}:{}", self.point, self.visit));
            let program_file = env!("CARGO_BIN_EXE_saga-under-test");
            let words = words.map(str::to_owned).to_vec();
            let process = Process::start_to_crash(program_file, words, crash).await;
            processes.push((program.name, process));
        }
        let of = |(name, process): &(&str, Process)| {
            ["--participant".to_owned(), format!("{name}={}", process.url())]
        };
        let participants = processes.iter().flat_map(of).collect();
        let database = match self.store {
            Store::Sqlite => format!("sqlite:{}", folder.path().join("coordinator.db").display()),
            Store::Postgres => Server::shared().database().await,
        };
        let arguments = coordinator_arguments(&database, participants);
        let coordinator = coordinator_under(arguments, Vec::new()).await;
        let submitted = tokio::time::timeout(PATIENCE, self.submit(&coordinator)).await;
        let commits = submitted.unwrap_or_else(|_| panic!("{self:?} has no end"));
        assert!(!(self.refuses && commits), "{self:?}: committed");
        let victim = processes.iter().find(|(name, _)| *name == self.victim);
        let died = victim.is_some_and(|(_, process)| process.has_crashed());
        let record = Record::read(self.example(), folder.path()).await;
        let case = Case { commits, store: self.store, ..Case::new(self.example, &[], commits) };
        Rules::of(self.example()).check(&case, &record).unwrap_or_else(|broken| {
            panic!("{self:?}: committed {commits}: {broken}\n{:#?}", record.notes);
        });
        End { died, commits }
    }

    async fn make_databases(self, folder: &Path) {
        for program in self.example().programs {
            let file = folder.join(format!("{}.db", program.name));
            // Makes the tables of the participant itself.
            drop(Sqlite::open(&file).await.unwrap());
            let pool = SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
            for tables in [program.tables, logbook::TABLE] {
                sqlx::raw_sql(tables).execute(&pool).await.unwrap();
            }
            let last = self.example().step(last(self.example)).unwrap();
            if self.refuses && last.participant == program.name {
                sqlx::raw_sql(AssertSqlSafe(last.breaks)).execute(&pool).await.unwrap();
            }
            pool.close().await;
        }
    }

    /// Submits the saga until it has ended; tells whether it is committed.
    async fn submit(self, coordinator: &Process) -> bool {
        let file = SagaFile::parse("saga.yaml", self.example().definition).unwrap();
        let saga = file.with(&Inputs::default()).unwrap();
        let mut request = saga.request(&Gid::new(self.example().name).unwrap());
        request.wait_for = WaitFor::Ended.into();
        loop {
            let answer = async {
                let client = CoordinatorServiceClient::connect(coordinator.url()).await.ok()?;
                let submitted = { client }.submit_transaction(request.clone()).await;
                submitted.ok()?.into_inner().result.filter(|result| result.ended)
            };
            match answer.await {
                Some(result) => return result.outcome() == Outcome::Committed,
                None => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    }
}

/// Returns the last step of an example that can refuse.
fn last(example: Name) -> &'static str {
    match example {
        Name::Trip => "payment",
        Name::Order => "shipment",
        Name::Pipeline => "monitor",
    }
}

/// Runs all, and returns the ends of those in which the victim died.
async fn run_all(kills: impl IntoIterator<Item = Kill>) -> Vec<(Kill, End)> {
    let mut running = JoinSet::new();
    for kill in kills {
        running.spawn(async move { (kill, kill.run().await) });
    }
    let mut ends = Vec::new();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok((kill, end)) if end.died => ends.push((kill, end)),
            Ok(_) => {}
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    ends
}

/// Each participant of each example, with the number of its steps.
fn victims() -> Vec<(Name, &'static str, u32)> {
    let examples = [Name::Trip, Name::Order, Name::Pipeline];
    let of = |name: Name| {
        let example = name.example();
        example.programs.iter().map(move |program| {
            let steps = example.steps.iter().filter(|step| step.participant == program.name);
            (name, program.name, u32::try_from(steps.count()).unwrap())
        })
    };
    examples.into_iter().flat_map(of).collect()
}

/// Seed of the points, which `TEST_SEED` sets.
fn seed() -> u64 {
    let given = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TEST_SEED={seed}");
    seed
}

/// At each step a participant dies, before or after its vote is durable; and in each saga that aborts, before or after
/// the end of a step is.
#[tokio::test]
async fn s7_examples_are_whole_after_their_participants_die_at_any_step() {
    let mut random = fastrand::Rng::with_seed(seed());
    let [before_vote, after_vote, before_end, after_end, ..] = TCC_POINTS else { panic!("points") };
    let mut kills = Vec::new();
    for (example, victim, steps) in victims() {
        for visit in 1..=steps {
            for (refuses, points) in [
                (false, [before_vote, after_vote]),
                (true, [before_vote, after_vote]),
                (true, [before_end, after_end]),
            ] {
                let point = points[random.usize(0..2)];
                let store = if random.bool() { Store::Sqlite } else { Store::Postgres };
                kills.push(Kill { example, victim, point, visit, refuses, store });
            }
        }
    }
    let ends = run_all(kills).await;
    for (example, victim, _) in victims() {
        let died = |(kill, _): &&(Kill, End)| kill.example == example && kill.victim == victim;
        assert!(ends.iter().any(|end| died(&end)), "{victim} of {example:?} never died");
    }
    for point in TCC_POINTS.iter().take(4) {
        assert!(ends.iter().any(|(kill, _)| kill.point == *point), "nobody died at {point}");
    }
    assert!(ends.iter().any(|(_, end)| end.commits), "no saga outlived a participant");
}

/// Participants die at each visit of each crash point, on both stores.
#[tokio::test]
#[ignore = "takes many minutes: cargo xtask kills"]
async fn s7_examples_are_whole_after_their_participants_die_at_every_visit_of_every_point() {
    let mut running = JoinSet::new();
    for (example, victim, _) in victims() {
        for point in TCC_POINTS {
            for (refuses, store) in [
                (false, Store::Sqlite),
                (true, Store::Sqlite),
                (false, Store::Postgres),
                (true, Store::Postgres),
            ] {
                running.spawn(async move {
                    for visit in 1..=VISITS_MAX {
                        let kill = Kill { example, victim, point, visit, refuses, store };
                        if !kill.run().await.died {
                            break;
                        }
                    }
                });
            }
        }
    }
    while let Some(ended) = running.join_next().await {
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
}
