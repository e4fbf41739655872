//! Handlers that lose their local transaction: what they leave behind has its effect once at most, and
//! nobody says that it was undone.

use unanimo_proto::v1::HeuristicKind;

use super::barrier::on_every_database;
use super::calls::{Branch, End, Vote, World};
use super::databases::{Database, Then};
use super::handler::{Deed, Job};

on_every_database!(
    s7_work_behind_a_lost_transaction_has_its_effect_once_at_most,
    s7_phase_two_behind_a_lost_transaction_has_its_effect_once_at_most,
    s7_a_begin_that_is_dropped_has_an_effect_once_at_most,
    s7_statements_that_are_dropped_have_no_effect_behind_the_vote,
    s7_transactions_inside_a_handlers_own_are_part_of_it,
    s7_savepoints_that_a_handler_guesses_are_not_ours,
    s7_a_lost_transaction_of_work_that_must_succeed_is_not_repeated,
    s7_s11_what_is_committed_beside_the_given_transaction_is_done_once_and_told,
    s7_s11_what_a_dropped_statement_has_committed_is_done_once_and_told,
);

const HAZARD: End = End::Heuristic(HeuristicKind::Hazard);

/// Ways to lose it. Some are errors on some databases: then nothing is lost.
const WAYS: [&str; 9] = [
    "COMMIT",
    "ROLLBACK",
    "COMMIT; BEGIN",
    "ROLLBACK; BEGIN",
    "ROLLBACK; BEGIN READ WRITE",
    "ROLLBACK; START TRANSACTION READ WRITE",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "ROLLBACK; BEGIN IMMEDIATE",
];

fn deeds() -> impl Iterator<Item = Deed> {
    WAYS.into_iter().flat_map(|way| [Deed::Run(way.to_owned()), Deed::ThenRun(way.to_owned())])
}

async fn s7_work_behind_a_lost_transaction_has_its_effect_once_at_most<D: Database>(
    world: World<D>,
) {
    for deed in deeds() {
        let branch = Branch::tcc(&Job { prepare: deed.clone(), phase_two: Deed::Work });
        let votes = [world.prepare(&branch).await, world.prepare(&branch).await];
        if votes[0].is_prepared() {
            // It was an error, and the handler has swallowed it.
            continue;
        }
        assert_eq!(votes, [Vote::Unanswered, Vote::Unanswered], "{deed:?}");
        assert_eq!(world.prepare(&branch).await, Vote::Unanswered, "{deed:?}");
        let effects = world.effects(&branch, "try").await;
        assert!(effects <= 1, "S7: {effects} after {deed:?}");
        let ends = [world.cancelled(&branch).await, world.cancelled(&branch).await];
        assert!(effects == 0 || ends == [HAZARD; 2], "S11: {ends:?} after {deed:?}");
        assert_eq!(world.effects(&branch, "cancel").await, 0, "{deed:?}");
    }
}

async fn s7_phase_two_behind_a_lost_transaction_has_its_effect_once_at_most<D: Database>(
    world: World<D>,
) {
    for deed in deeds() {
        for commits in [true, false] {
            let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: deed.clone() });
            assert!(world.prepare(&branch).await.is_prepared());
            let mut last = End::Unanswered;
            for _ in 0..3 {
                last =
                    if commits { world.commit(&branch).await } else { world.cancel(&branch).await };
            }
            let what = if commits { "confirm" } else { "cancel" };
            let effects = world.effects(&branch, what).await;
            assert!(effects <= 1, "S7: {effects} after {deed:?}");
            assert!(effects == 0 || last != End::Unanswered, "S11: {last:?} after {deed:?}");
        }
    }
}

/// A handler drops the future that begins a transaction inside its own, at each of its steps, and goes on.
async fn s7_a_begin_that_is_dropped_has_an_effect_once_at_most<D: Database>(world: World<D>) {
    for steps in 1..=3 {
        let branch = Branch::tcc(&Job { prepare: Deed::Abandon(steps), phase_two: Deed::Work });
        let mut votes = Vec::new();
        for _ in 0..3 {
            votes.push(world.prepare(&branch).await);
        }
        let tried = world.effects(&branch, "try").await;
        assert!(tried <= 1, "S7: {tried} at {steps}: {votes:?}");
        let is_prepared = votes.iter().any(Vote::is_prepared);
        assert!(!is_prepared || tried == 1, "S2: it is prepared without its effect at {steps}");
        let end = world.cancelled(&branch).await;
        let undone = world.effects(&branch, "cancel").await;
        let is_right = match end {
            End::Done => undone == tried,
            _ => end == HAZARD && undone == 0,
        };
        assert!(is_right, "S11: {end:?} with {tried} and {undone} at {steps}");

        let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: Deed::Abandon(steps) });
        assert!(world.vote(&branch).await.is_prepared());
        let mut end = End::Unanswered;
        for _ in 0..3 {
            end = world.commit(&branch).await;
        }
        let confirmed = world.effects(&branch, "confirm").await;
        let is_right = match end {
            End::Done => confirmed == 1,
            End::Heuristic(_) => confirmed <= 1,
            End::Working | End::Unanswered => confirmed == 0,
        };
        assert!(is_right, "S7: {end:?} with {confirmed} at {steps}");
    }
}

/// A handler drops the future of a statement at each of its steps, and goes on: what the server answers to that is taken
/// for no answer to anything else.
async fn s7_statements_that_are_dropped_have_no_effect_behind_the_vote<D: Database>(
    world: World<D>,
) {
    for sql in [
        "SELECT 1",
        "SELECT 1; SELECT 2; SELECT 3",
        "INSERT INTO nowhere VALUES (1)",
        "SELECT 1; INSERT INTO nowhere VALUES (1); SELECT 2",
        "ROLLBACK; BEGIN",
        "COMMIT; BEGIN",
    ] {
        for steps in 1..=3 {
            let drops = || Deed::DropRun(sql.to_owned(), steps);
            let branch = Branch::tcc(&Job { prepare: drops(), phase_two: Deed::Work });
            let mut votes = Vec::new();
            for _ in 0..3 {
                votes.push(world.prepare(&branch).await);
            }
            let tried = world.effects(&branch, "try").await;
            assert!(tried <= 1, "S7: {tried} at {steps} of {sql}: {votes:?}");
            let is_prepared = votes.iter().any(Vote::is_prepared);
            assert!(!is_prepared || tried == 1, "S2: {tried} at {steps} of {sql}: {votes:?}");
            let end = world.cancelled(&branch).await;
            let undone = world.effects(&branch, "cancel").await;
            assert!(
                end == HAZARD && undone == 0 || end == End::Done && undone == tried,
                "S11: {end:?} with {tried} and {undone} at {steps} of {sql}"
            );
            let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: drops() });
            assert!(world.vote(&branch).await.is_prepared());
            let mut ends = Vec::new();
            for _ in 0..3 {
                ends.push(world.commit(&branch).await);
            }
            let confirmed = world.effects(&branch, "confirm").await;
            let done = ends.contains(&End::Done);
            assert!(confirmed <= 1 && (!done || confirmed == 1), "S7: {sql}: {ends:?}");
            assert!(confirmed == 0 || done || ends[2] == HAZARD, "S11: {sql}: {ends:?}");
        }
    }
}

/// Transactions that a handler ends inside are a part of its own; one that it forgets there is never taken for its vote.
async fn s7_transactions_inside_a_handlers_own_are_part_of_it<D: Database>(world: World<D>) {
    for (then, inside) in [(Then::Commit, 1), (Then::Drop, 0), (Then::Forget, 1)] {
        let nested = || Deed::Nested(then);
        let branch = Branch::tcc(&Job { prepare: nested(), phase_two: Deed::Work });
        let mut vote = Vote::Unanswered;
        for _ in 0..3 {
            vote = world.prepare(&branch).await;
        }
        let effects = (world.effects(&branch, "try").await, world.effects(&branch, "inside").await);
        if vote.is_prepared() {
            assert_eq!(effects, (1, inside), "S2: {then:?}");
            assert_eq!(world.committed(&branch).await, End::Done, "{then:?}");
        } else {
            assert!(matches!(then, Then::Forget), "{then:?}: {vote:?}");
            assert_eq!(effects, (0, 0), "S7: {then:?}: {vote:?}");
            assert_eq!(world.cancelled(&branch).await, End::Done, "{then:?}");
        }
        let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: nested() });
        assert!(world.vote(&branch).await.is_prepared());
        let mut end = End::Unanswered;
        for _ in 0..3 {
            end = world.commit(&branch).await;
        }
        let effects =
            (world.effects(&branch, "confirm").await, world.effects(&branch, "inside").await);
        match end {
            End::Done => assert_eq!(effects, (1, inside), "S7: {then:?}"),
            _ => assert!(matches!(then, Then::Forget) && effects == (0, 0), "{then:?}: {end:?}"),
        }
    }
}

/// Ways to keep something that the branch's row does not know of. Some are errors on some databases.
const BESIDE: [&str; 11] = [
    "ROLLBACK; START TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); COMMIT",
    // In another block, which has failed.
    "ROLLBACK; START TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); COMMIT; BEGIN; SELECT 1 / 0",
    "ROLLBACK AND CHAIN; INSERT INTO kept VALUES (1); COMMIT",
    "ROLLBACK AND CHAIN; INSERT INTO kept VALUES (1); CREATE TABLE IF NOT EXISTS more (n int)",
    "ROLLBACK AND CHAIN; INSERT INTO kept VALUES (1); SET autocommit = 1",
    "ROLLBACK AND CHAIN; INSERT INTO kept VALUES (1); SET autocommit = 1; SET autocommit = 0",
    "ROLLBACK; SET TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); SET autocommit = 1; SET autocommit = 0",
    "ROLLBACK; BEGIN IMMEDIATE; INSERT INTO kept VALUES (1); COMMIT",
    "ROLLBACK; SET SESSION TRANSACTION READ WRITE; SET autocommit = 1; INSERT INTO kept VALUES (1)",
    "ROLLBACK; START TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); CREATE TABLE IF NOT EXISTS more (n int)",
    "ROLLBACK; SET TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); CREATE TABLE IF NOT EXISTS more (n int)",
];

/// Phase in which it happens, and the mode.
#[derive(Clone, Copy, Debug)]
enum At {
    Try,
    Confirm,
    Cancel,
    Step,
    Compensation,
}

async fn s7_s11_what_is_committed_beside_the_given_transaction_is_done_once_and_told<
    D: Database,
>(
    world: World<D>,
) {
    D::run_outside(&world.pool, "CREATE TABLE kept (n int)".to_owned()).await;
    let ways = BESIDE.into_iter().map(str::to_owned);
    let kinds = [Deed::Run, Deed::ThenRun, Deed::RunAndFail, Deed::RunAndPanic];
    let ways = ways.flat_map(|sql| kinds.map(|kind| kind(sql.clone())));
    let mut seen = 0;
    for deed in ways {
        for at in [At::Try, At::Confirm, At::Cancel, At::Step, At::Compensation] {
            D::run_outside(&world.pool, "DELETE FROM kept".to_owned()).await;
            let is_phase_one = matches!(at, At::Try | At::Step);
            let job = match is_phase_one {
                true => Job { prepare: deed.clone(), phase_two: Deed::Work },
                false => Job { prepare: Deed::Work, phase_two: deed.clone() },
            };
            let is_step = matches!(at, At::Step | At::Compensation);
            let branch = if is_step { Branch::step(&job) } else { Branch::tcc(&job) };
            if !is_phase_one {
                assert!(world.prepare(&branch).await.is_prepared());
            }
            for _ in 0..3 {
                match at {
                    At::Try | At::Step => drop(world.prepare(&branch).await),
                    At::Confirm => drop(world.commit(&branch).await),
                    At::Cancel | At::Compensation => drop(world.cancel(&branch).await),
                }
            }
            let kept = D::number(&world.pool, "SELECT count(*) FROM kept".to_owned()).await;
            assert!(kept <= 1, "S7: {kept} times at {at:?}: {deed:?}");
            if kept == 1 {
                assert_eq!(
                    world.state(&branch).await.as_deref(),
                    Some("running"),
                    "{at:?}: {deed:?}"
                );
                let ends = [world.commit(&branch).await, world.cancel(&branch).await];
                assert_eq!(ends, [HAZARD; 2], "S11: {at:?}: {deed:?}");
            }
            seen += kept;
        }
    }
    // Nothing is kept on SQLite.
    assert_eq!(seen == 0, std::any::type_name::<D>().ends_with("Sqlite"), "{seen}");
}

/// The error of the statement that was dropped is the first answer to whoever asks next, and is not taken for that of its
/// own statement.
async fn s7_s11_what_a_dropped_statement_has_committed_is_done_once_and_told<D: Database>(
    world: World<D>,
) {
    D::run_outside(&world.pool, "CREATE TABLE kept (n int)".to_owned()).await;
    let mut seen = 0;
    for steps in 1..=3 {
        for at in [At::Try, At::Confirm] {
            D::run_outside(&world.pool, "DELETE FROM kept".to_owned()).await;
            let sql = format!("{}; INSERT INTO nowhere VALUES (1)", BESIDE[0]);
            let drops = Deed::ThenDropRun(sql, steps);
            let job = match at {
                At::Try => Job { prepare: drops, phase_two: Deed::Work },
                _ => Job { prepare: Deed::Work, phase_two: drops },
            };
            let branch = Branch::tcc(&job);
            if let At::Confirm = at {
                assert!(world.vote(&branch).await.is_prepared());
            }
            for _ in 0..3 {
                match at {
                    At::Try => drop(world.prepare(&branch).await),
                    _ => drop(world.commit(&branch).await),
                }
            }
            let kept = D::number(&world.pool, "SELECT count(*) FROM kept".to_owned()).await;
            assert!(kept <= 1, "S7: {kept} times at {steps}, {at:?}");
            if kept == 1 {
                let ends = [world.commit(&branch).await, world.cancel(&branch).await];
                assert_eq!(ends, [HAZARD; 2], "S11: at {steps}, {at:?}");
            }
            seen += kept;
        }
    }
    // Nothing is kept on SQLite.
    assert_eq!(seen == 0, std::any::type_name::<D>().ends_with("Sqlite"), "{seen}");
}

async fn s7_savepoints_that_a_handler_guesses_are_not_ours<D: Database>(world: World<D>) {
    for name in ["unanimo", "unanimo_barrier", "unanimo_block"] {
        let sql = format!("ROLLBACK; BEGIN; SAVEPOINT {name}");
        let branch = Branch::tcc(&Job { prepare: Deed::Run(sql), phase_two: Deed::Work });
        assert_eq!(world.prepare(&branch).await, Vote::Unanswered, "{name}");
        assert_eq!(world.effects(&branch, "try").await, 0, "S7: {name}");
    }
}

async fn s7_a_lost_transaction_of_work_that_must_succeed_is_not_repeated<D: Database>(
    world: World<D>,
) {
    for deed in deeds() {
        let job = Job { prepare: deed.clone(), phase_two: Deed::Work };
        let branch = Branch::step(&job).that_must_succeed();
        for _ in 0..3 {
            let _ = world.prepare(&branch).await;
        }
        let effects = world.effects(&branch, "try").await;
        assert!(effects <= 1, "S7: {effects} after {deed:?}");
    }
}

/// A failure of a statement that rolls the whole transaction back, by the table's own rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_conflict_that_rolls_back_on_sqlite_has_no_effect() {
    use unanimo_sdk::{Isolation, Sqlite};
    let world = World::<Sqlite>::open(Isolation::ReadCommitted).await;
    let table =
        "CREATE TABLE once (n integer UNIQUE ON CONFLICT ROLLBACK); INSERT INTO once VALUES (1)";
    sqlx::raw_sql(table).execute(&world.pool).await.unwrap();
    let sql = "INSERT INTO once VALUES (1)".to_owned();
    let branch = Branch::tcc(&Job { prepare: Deed::Run(sql.clone()), phase_two: Deed::Work });
    for _ in 0..3 {
        assert_eq!(world.prepare(&branch).await, Vote::Unanswered);
    }
    assert_eq!(world.effects(&branch, "try").await, 0, "S7");
    // Nothing was kept, and the handler has not claimed anything.
    assert_eq!(world.state(&branch).await, None);
    assert_eq!(world.cancel(&branch).await, End::Done, "S11");
    let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: Deed::Run(sql) });
    assert!(world.prepare(&branch).await.is_prepared());
    for _ in 0..3 {
        assert_eq!(world.commit(&branch).await, End::Unanswered);
    }
    assert_eq!(world.effects(&branch, "confirm").await, 0, "S7");
}

/// A connection is used once: a handler may set what no statement sets back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_what_a_handler_sets_on_sqlite_ends_with_it() {
    use unanimo_sdk::{Isolation, Sqlite};
    let world = World::<Sqlite>::open(Isolation::ReadCommitted).await;
    for set in [
        "PRAGMA query_only = 1",
        "PRAGMA ignore_check_constraints = 1",
        "PRAGMA recursive_triggers = 1",
        "CREATE TEMP TABLE effect (n integer)",
        "CREATE TEMP TRIGGER spy AFTER INSERT ON main.effect BEGIN SELECT RAISE(ABORT, 'spied'); END",
        "PRAGMA busy_timeout = 1",
    ] {
        for _ in 0..5 {
            let deed = Deed::ThenRun(set.to_owned());
            let branch = Branch::tcc(&Job { prepare: deed.clone(), phase_two: deed });
            assert!(world.prepare(&branch).await.is_prepared(), "{set}");
            assert_eq!(world.commit(&branch).await, End::Done, "{set}");
            assert_eq!(world.effects(&branch, "confirm").await, 1, "{set}");
        }
        for _ in 0..5 {
            let branch = Branch::tcc(&Job::default());
            assert!(world.prepare(&branch).await.is_prepared(), "after {set}");
            assert_eq!(world.cancel(&branch).await, End::Done, "after {set}");
        }
    }
}

/// A handler that is alone with what it has lost: rolled back on PostgreSQL and SQLite, it is recorded, for
/// nobody can tell what it did behind that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_a_lost_transaction_is_recorded() {
    use unanimo_sdk::{Isolation, Postgres, Sqlite};

    use super::databases::OverTokio;

    async fn on<D: Database>(keeps_something: bool) {
        let world = World::<D>::open(Isolation::ReadCommitted).await;
        let mut deeds = vec![Deed::ThenRun("ROLLBACK".to_owned())];
        // On SQLite the statement behind it fails, and the handler with it: nothing is kept.
        if keeps_something {
            deeds.push(Deed::Run("ROLLBACK".to_owned()));
        }
        for deed in deeds {
            let branch = Branch::tcc(&Job { prepare: deed.clone(), phase_two: Deed::Work });
            assert_eq!(world.prepare(&branch).await, Vote::Unanswered);
            assert_eq!(world.state(&branch).await.as_deref(), Some("running"), "{deed:?}");
            assert_eq!(world.commit(&branch).await, HAZARD, "{deed:?}");
            assert_eq!(world.cancel(&branch).await, HAZARD, "{deed:?}");
        }
    }
    on::<Postgres>(true).await;
    on::<OverTokio>(true).await;
    on::<Sqlite>(false).await;
}

/// An error of the server behind the handler that says nothing of its transaction: the account has lost its rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_an_error_behind_the_handler_is_no_loss_on_mariadb() {
    use sqlx::{AssertSqlSafe, Executor};
    use unanimo_sdk::{Isolation, MySql};
    let url = unanimo_tests::mariadb::Server::shared().database().await;
    let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
    let database = url.split('/').nth(3).and_then(|rest| rest.split('?').next()).unwrap();
    let account = format!("a{}", &uuid::Uuid::now_v7().simple().to_string()[8..]);
    let to = if unanimo_tests::mariadb::is_mysql() { "TO" } else { "FOR" };
    let made = format!(
        "CREATE USER {account}@localhost; CREATE ROLE r{account};
         GRANT ALL ON {database}.* TO r{account}; GRANT r{account} TO {account}@localhost;
         SET DEFAULT ROLE r{account} {to} {account}@localhost"
    );
    pool.execute(sqlx::raw_sql(AssertSqlSafe(made))).await.unwrap();
    let limited = url.replace("root@", &format!("{account}@"));
    let database = MySql::connect(&limited).await.unwrap();
    let world = World::with(database, pool, Isolation::ReadCommitted).await;
    let deed = Deed::ThenRun("SET SESSION TRANSACTION READ WRITE; SET ROLE NONE".to_owned());
    let branch = Branch::tcc(&Job { prepare: deed.clone(), phase_two: Deed::Work });
    assert_eq!(world.prepare(&branch).await, Vote::Unanswered);
    assert_eq!(world.state(&branch).await, None, "nothing is lost");
    assert_eq!(world.cancel(&branch).await, End::Done, "S11");
    let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: deed });
    assert!(world.prepare(&branch).await.is_prepared());
    for _ in 0..2 {
        assert_eq!(world.commit(&branch).await, End::Unanswered);
        assert_eq!(world.state(&branch).await.as_deref(), Some("prepared"), "nothing is lost");
    }
    assert_eq!(world.effects(&branch, "confirm").await, 0, "S7");
}

/// In each phase a person hears of it at once.
#[tokio::test]
async fn s11_a_transaction_that_is_lost_in_any_phase_is_told_at_once() {
    use unanimo_sdk::{Isolation, MySql, Postgres};

    async fn on<D: Database>(ways: &[&str]) {
        let (alarms, _listening) = unanimo_tests::alarms::Alarms::listen();
        let world = World::<D>::open(Isolation::ReadCommitted).await;
        let told = |branch: &Branch| {
            let (told, tx_id) =
                (alarms.named("handler_lost_transaction"), branch.tx_id.to_string());
            told.iter().filter(|line| line.contains(&tx_id)).count()
        };
        for way in ways {
            let lost = || Deed::ThenRun((*way).to_owned());
            let branch = Branch::tcc(&Job { prepare: lost(), phase_two: Deed::Work });
            assert_eq!(world.prepare(&branch).await, Vote::Unanswered, "{way}");
            assert_eq!(told(&branch), 1, "{way}");
            assert_eq!(world.cancel(&branch).await, HAZARD, "{way}");
            for commits in [true, false] {
                let branch = Branch::tcc(&Job { prepare: Deed::Work, phase_two: lost() });
                assert!(world.prepare(&branch).await.is_prepared());
                let end = async || match commits {
                    true => world.commit(&branch).await,
                    false => world.cancel(&branch).await,
                };
                assert_eq!(end().await, End::Unanswered, "{way}");
                assert_eq!(told(&branch), 1, "{way}");
                assert_eq!(end().await, HAZARD, "{way}");
            }
        }
    }
    let explicit = ["ROLLBACK; START TRANSACTION READ WRITE", "COMMIT"];
    on::<Postgres>(&explicit).await;
    on::<MySql>(&explicit).await;
    // What commits implicitly.
    on::<MySql>(&["CREATE TABLE IF NOT EXISTS more (n int)", "LOCK TABLES effect READ"]).await;
}

/// The database takes no record at the moment of the loss: it is kept in mind until it does, and nothing is done for the
/// branch before that, also where nobody asks for it again.
#[tokio::test]
async fn s7_s11_a_loss_that_cannot_be_recorded_at_once_is_recorded_later() {
    use unanimo_sdk::{Isolation, MySql, Postgres};

    use super::databases::OverTokio;

    async fn on<D: Database>() {
        let (alarms, _listening) = unanimo_tests::alarms::Alarms::listen();
        let world = World::<D>::open(Isolation::ReadCommitted).await;
        D::run_outside(&world.pool, "CREATE TABLE kept (n int)".to_owned()).await;
        let rename = async |from: &str, to: &str| {
            D::run_outside(&world.pool, format!("ALTER TABLE {from} RENAME TO {to}")).await;
        };
        let kept = async || D::number(&world.pool, "SELECT count(*) FROM kept".to_owned()).await;
        let keeps = "ROLLBACK; START TRANSACTION READ WRITE; INSERT INTO kept VALUES (1); COMMIT";
        let lost = || Deed::RunAndWait(keeps.to_owned(), "SELECT 1".to_owned());
        let (mut losses, mut runs) = (0, 0);
        for is_phase_one in [true, false] {
            for is_asked in [true, false] {
                let job = match is_phase_one {
                    true => Job { prepare: lost(), phase_two: Deed::Work },
                    false => Job { prepare: Deed::Work, phase_two: lost() },
                };
                let branch = Branch::tcc(&job);
                if !is_phase_one {
                    assert!(world.prepare(&branch).await.is_prepared());
                }
                let act = {
                    let (world, branch) = (world.clone(), branch.clone());
                    async move || match is_phase_one {
                        true => world.prepare(&branch).await == Vote::Unanswered,
                        false => world.commit(&branch).await == End::Unanswered,
                    }
                };
                let first = tokio::spawn({
                    let act = act.clone();
                    async move { act().await }
                });
                world.gate.waiting().await;
                rename("unanimo_barrier", "hidden").await;
                // None of those that must not come waits here.
                (0..3).for_each(|_| world.gate.open());
                assert!(first.await.unwrap(), "no answer");
                losses += 1;
                runs += 1;
                assert!(act().await, "no answer as long as it cannot be recorded");
                rename("hidden", "unanimo_barrier").await;
                if is_asked {
                    let answered = act().await;
                    assert_eq!(answered, is_phase_one, "S11: Commit is answered with a hazard");
                }
                unanimo_tests::wait::until("the record", async || {
                    (world.state(&branch).await.as_deref() == Some("running")).then_some(())
                })
                .await;
                assert_eq!(kept().await, losses, "S7: {is_phase_one} {is_asked}");
                assert_eq!(world.runs(), runs, "S7: {is_phase_one} {is_asked}");
                assert_eq!(world.commit(&branch).await, HAZARD, "S11");
                assert_eq!(world.cancel(&branch).await, HAZARD, "S11");
                let told = alarms.named("handler_lost_transaction");
                let tx_id = branch.tx_id.to_string();
                assert!(
                    told.iter()
                        .any(|line| line.contains(&tx_id) && line.contains("failed to record")),
                    "S11: {told:?}"
                );
                // The permits that nobody has taken.
                world.gate.shut();
            }
        }
    }
    on::<Postgres>().await;
    on::<OverTokio>().await;
    on::<MySql>().await;
}

/// SQLite rolls a whole transaction back by itself where the disk is full: nothing is left behind, so nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s11_a_disk_that_is_full_is_no_loss() {
    use unanimo_proto::v1::{Mode, cancel_response, prepare_response};
    use unanimo_sdk::{Isolation, Participant, Sqlite};
    let (alarms, _listening) = unanimo_tests::alarms::Alarms::listen();
    let (resource, pool) = <Sqlite as Database>::open().await;
    Sqlite::run_outside(&pool, "CREATE TABLE big (n blob)".to_owned()).await;
    let handler = super::refusals::Sql(Isolation::ReadCommitted);
    let service = Participant::new("p", resource).tcc("sql", handler).service().unwrap();
    let of = |sql: &str, branch: super::direct::Branch| super::direct::Branch {
        payload: bytes::Bytes::copy_from_slice(sql.as_bytes()),
        ..branch
    };
    let new = || super::direct::branch(Mode::Tcc, "sql");
    let fill = "PRAGMA max_page_count = 1; INSERT INTO big VALUES (zeroblob(10000000))";
    let [freed, cancelled] = [of(fill, new()), of(fill, new())];
    for branch in [&freed, &cancelled] {
        let status = branch.prepare(&service).await.unwrap_err();
        assert!(status.message().contains("full"), "{status:?}");
        let row = "SELECT count(*) FROM unanimo_barrier".to_owned();
        assert_eq!(Sqlite::number(&pool, row).await, 0, "nothing is left behind");
    }
    let cancel = cancelled.cancel(&service).await.unwrap();
    assert!(matches!(cancel, cancel_response::Answer::Done(_)), "S11: {cancel:?}");
    let again = of("INSERT INTO big VALUES (zeroblob(10))", freed);
    let answer = again.prepare(&service).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Prepared(_)), "{answer:?}");
    assert!(alarms.named("handler_lost_transaction").is_empty(), "it is nobody's fault");
}
