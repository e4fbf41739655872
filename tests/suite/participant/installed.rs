//! The barrier's table: made by hand from the plain files, and upgraded from earlier versions.

use sqlx::migrate::{Migrate, Migrator};
use sqlx::{AssertSqlSafe, Connection, Executor};
use unanimo_migrations::participant::POSTGRES;
use unanimo_proto::v1::prepare_response::Answer;
use unanimo_sdk::{DatabaseError, Isolation, PostgresOptions};
use unanimo_tests::postgres;
use uuid::Uuid;

use super::calls::{Branch, End, Vote, World};
use super::databases::Database;
use super::handler::Job;
use super::over;

async fn connect(url: &str) -> Result<over::Database, DatabaseError> {
    over::connect(PostgresOptions::default(), url).await
}

/// Content of the plain files.
pub(super) fn files(migrator: &Migrator) -> sqlx::RawSql {
    let files = migrator.iter().map(|migration| migration.sql.as_str());
    sqlx::raw_sql(AssertSqlSafe(files.collect::<String>()))
}

/// An owner makes the table; the service's own role may use it and make nothing.
#[tokio::test]
async fn a_role_that_may_make_nothing_uses_what_is_there() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    let role = format!("r{}", Uuid::now_v7().simple());
    owner.execute(files(&POSTGRES)).await.unwrap();
    let grants = format!(
        "CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM public;
         GRANT SELECT, INSERT, UPDATE, DELETE ON unanimo_barrier TO {role}"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let limited = format!("postgres://{role}@{host}");
    connect(&limited).await.unwrap();

    // The same after the owner's own service has made it by a call.
    owner.execute("DROP TABLE unanimo_barrier").await.unwrap();
    connect(&url).await.unwrap();
    let grants = format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON unanimo_barrier TO {role};
         GRANT SELECT ON unanimo_barrier_migrations TO {role}"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    connect(&limited).await.unwrap();
}

/// An owner has made the table by an earlier version, and this one may not upgrade it.
#[tokio::test]
async fn a_role_that_may_make_nothing_uses_the_table_of_an_earlier_version() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    make_versions(&POSTGRES, 3, &mut owner).await;
    let role = format!("r{}", Uuid::now_v7().simple());
    let grants = format!(
        "CREATE ROLE {role} LOGIN; REVOKE CREATE ON SCHEMA public FROM public;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let database = connect(&format!("postgres://{role}@{host}")).await.unwrap();
    let world =
        World::with(database, sqlx::PgPool::connect(&url).await.unwrap(), Isolation::ReadCommitted)
            .await;
    owner.execute(AssertSqlSafe(format!("GRANT ALL ON effect TO {role}"))).await.unwrap();
    let branch = Branch::tcc(&Job::default());
    assert!(world.prepare(&branch).await.is_prepared());
    assert_eq!(world.committed(&branch).await, End::Done);
    // Where columns are missing there is nothing to go on with.
    owner.execute("ALTER TABLE unanimo_barrier DROP COLUMN output_type").await.unwrap();
    let error = connect(&format!("postgres://{role}@{host}")).await.unwrap_err();
    assert!(matches!(error, DatabaseError::Migrate(_)), "{error:?}");
}

/// A migration that fails behind its first statement leaves no transaction open: the database's id is read all the same.
#[tokio::test]
async fn s2_a_role_that_may_not_note_a_migration_knows_its_database() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    make_versions(&POSTGRES, 3, &mut owner).await;
    let role = format!("r{}", Uuid::now_v7().simple());
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA public TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON unanimo_barrier TO {role};
         GRANT SELECT ON unanimo_barrier_migrations, unanimo_barrier_id TO {role}"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    let (_, host) = url.split_once('@').unwrap();
    let database = connect(&format!("postgres://{role}@{host}")).await.unwrap();
    let made = "SELECT count(*) FROM unanimo_barrier_migrations";
    let made: i64 = sqlx::query_scalar(made).fetch_one(&mut owner).await.unwrap();
    assert_eq!(made, 3, "it is not upgraded");
    let world =
        World::with(database, sqlx::PgPool::connect(&url).await.unwrap(), Isolation::ReadCommitted)
            .await;
    owner.execute(AssertSqlSafe(format!("GRANT ALL ON effect TO {role}"))).await.unwrap();
    // Its sessions lead to another database of the same name.
    owner.execute("UPDATE unanimo_barrier_id SET id = id || '-other'").await.unwrap();
    let branch = Branch::tcc(&Job::default());
    assert_eq!(world.prepare(&branch).await, Vote::Unanswered, "S2");
    owner.execute("UPDATE unanimo_barrier_id SET id = replace(id, '-other', '')").await.unwrap();
    assert!(world.prepare(&branch).await.is_prepared());
}

#[tokio::test]
async fn a_table_that_lacks_something_is_told() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    owner.execute("CREATE TABLE unanimo_barrier (tx_id uuid)").await.unwrap();
    let error = connect(&url).await.unwrap_err();
    assert!(matches!(error, DatabaseError::ByHand { known: 4 }), "{error:?}");
    assert!(error.to_string().contains("lacks columns of version 4"), "{error}");
}

/// Makes the table as the first version did.
pub(super) async fn make_first_version<C: Migrate>(migrator: &Migrator, connection: &mut C) {
    make_versions(migrator, 1, connection).await;
}

/// Makes the table as this version did.
pub(super) async fn make_versions<C: Migrate>(
    migrator: &Migrator,
    version: usize,
    connection: &mut C,
) {
    let first: Vec<_> = migrator.iter().take(version).cloned().collect();
    let mut first = Migrator { migrations: first.into(), ..Migrator::DEFAULT };
    first.dangerous_set_table_name("unanimo_barrier_migrations");
    first.run_direct(None, connection, false).await.unwrap();
}

/// Columns that have a value in every row of the first version.
pub(super) const COLUMNS: &str =
    "tx_id, branch_id, cluster_id, participant, gid, action, mode, state, output";

/// Their values for this branch, prepared with the output `7`.
pub(super) fn prepared_row(branch: &Branch) -> String {
    let Branch { tx_id, branch_id, .. } = branch;
    format!("'{tx_id}', '{branch_id}', 'cluster', 'bank', 'g', 'work', 'tcc', 'prepared'")
}

/// S7: what the earlier version has answered is answered again, and ends as ever.
pub(super) async fn goes_on<D: Database>(world: World<D>, branch: &Branch) {
    let Ok(Answer::Prepared(prepared)) = world.answer(branch).await else { panic!("S7") };
    assert_eq!(prepared.output, unanimo_tests::payload("7"), "of no known type");
    assert_eq!(world.committed(branch).await, End::Done);
    let new = Branch::tcc(&Job::default());
    assert!(world.prepare(&new).await.is_prepared());
    assert_eq!(world.cancelled(&new).await, End::Done);
}

#[tokio::test]
async fn s7_a_table_of_the_first_version_is_upgraded_on_postgres() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    make_first_version(&POSTGRES, &mut owner).await;
    let branch = Branch::tcc(&Job::default());
    let insert =
        format!("INSERT INTO unanimo_barrier ({COLUMNS}) VALUES ({}, '7')", prepared_row(&branch));
    owner.execute(sqlx::raw_sql(AssertSqlSafe(insert))).await.unwrap();
    let (database, pool) =
        (connect(&url).await.unwrap(), sqlx::PgPool::connect(&url).await.unwrap());
    goes_on(World::with(database, pool, Isolation::ReadCommitted).await, &branch).await;
}

/// A branch in doubt holds the table: the upgrade gives up, and is tried again until the branch has ended.
#[tokio::test]
async fn an_upgrade_does_not_wait_for_branches_in_doubt() {
    let url = postgres::Server::shared().database().await;
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    make_first_version(&POSTGRES, &mut owner).await;
    let row = prepared_row(&Branch::tcc(&Job::default()));
    let name = format!("in-doubt-{}", Uuid::now_v7());
    let prepare = format!(
        "BEGIN; INSERT INTO unanimo_barrier ({COLUMNS}) VALUES ({row}, '7');
         PREPARE TRANSACTION '{name}'"
    );
    owner.execute(sqlx::raw_sql(AssertSqlSafe(prepare))).await.unwrap();
    let database = connect(&url).await.unwrap();
    let service = unanimo_sdk::Participant::new("p", database).service().unwrap();
    let upgraded = tokio::spawn({
        let service = service.clone();
        async move { service.set_up().await }
    });
    let commit = format!("COMMIT PREPARED '{name}'");
    owner.execute(sqlx::raw_sql(AssertSqlSafe(commit))).await.unwrap();
    upgraded.await.unwrap().unwrap();
    owner.execute("SELECT output_type FROM unanimo_barrier").await.unwrap();
}
