//! Shop on PostgreSQL, correct or with one fault. Some faults are possible only there.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::sync::OnceCell;
use unanimo_sdk::{
    BoxError, Call, Json, Participant, PhaseTwoError, Postgres, PostgresOptions, PrepareError, Tcc,
    TwoPhase, refuse,
};
use unanimo_testing::{Harness, Subject};
use unanimo_tests::postgres::Server;

use super::{Order, STOCK, check, check_crashes, run, run_broken};

const GOOD: u8 = 0;
/// Fault: `try_` or `prepare` writes through a pool of its own.
const OWN_POOL: u8 = 1;
/// Fault: `try_` reads, computes and writes back.
const LOSES_UPDATES: u8 = 2;
/// Fault: `try_` commits by itself.
const COMMITS: u8 = 3;
/// Fault: `confirm` commits by itself.
const CONFIRM_COMMITS: u8 = 4;

/// Connections of a participant: few, because a test starts many participants.
const CONNECTIONS: u32 = 6;

/// Shop in a schema of its own.
struct Shop<const FAULT: u8> {
    url: String,
}

impl<const FAULT: u8> Subject for Shop<FAULT> {
    type Resource = Postgres;

    async fn fresh() -> Result<Self, BoxError> {
        static DATABASE: OnceCell<String> = OnceCell::const_new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let database = DATABASE.get_or_init(|| Server::shared().database()).await;
        let schema = format!("shop{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(database).await?;
        let make = format!(
            "CREATE SCHEMA {schema};
             CREATE TABLE {schema}.stock (free bigint CHECK (free >= 0), reserved bigint);
             INSERT INTO {schema}.stock VALUES ({STOCK}, 0)"
        );
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(Self { url: format!("{database}?options=-csearch_path%3D{schema}") })
    }

    async fn participant(&self) -> Result<Participant<Postgres>, BoxError> {
        let options = PostgresOptions::default()
            .prepare_connections(CONNECTIONS)
            .phase_two_connections(CONNECTIONS)
            .lock_timeout(std::time::Duration::from_millis(200));
        let database = options.connect(&self.url).await?;
        let pool = PgPool::connect_lazy(&self.url)?;
        Ok(Participant::new("shop", database)
            .tcc("reserve", Reserve { fault: FAULT, pool: pool.clone() })
            .two_phase("sell", Sell { fault: FAULT, pool }))
    }

    async fn observe(&self) -> Result<String, BoxError> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let stock = sqlx::query_as("SELECT free, reserved FROM stock");
        let (free, reserved): (i64, i64) = stock.fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(format!("free {free}, reserved {reserved}"))
    }
}

async fn write(db: &mut PgConnection, statement: &'static str, pieces: i64) -> sqlx::Result<u64> {
    Ok(sqlx::query(statement).bind(pieces).execute(db).await?.rows_affected())
}

struct Reserve {
    fault: u8,
    pool: PgPool,
}

const TAKE: &str = "UPDATE stock SET free = free - $1, reserved = reserved + $1 WHERE free >= $1";

impl Tcc<Postgres> for Reserve {
    type Payload = Json<Order>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut PgConnection,
        call: &Call<Json<Order>>,
    ) -> Result<(), PrepareError> {
        let pieces = call.payload.pieces;
        let taken = match self.fault {
            OWN_POOL => write(&mut *self.pool.acquire().await?, TAKE, pieces).await?,
            LOSES_UPDATES => {
                let (free, reserved): (i64, i64) =
                    sqlx::query_as("SELECT free, reserved FROM stock").fetch_one(&mut *db).await?;
                if free < pieces {
                    return refuse("SOLD_OUT", "too few left");
                }
                // Time of a call to another service.
                sqlx::query("SELECT pg_sleep(0.02)").execute(&mut *db).await?;
                let write = sqlx::query("UPDATE stock SET free = $1, reserved = $2");
                let write = write.bind(free - pieces).bind(reserved + pieces);
                write.execute(db).await?.rows_affected()
            }
            COMMITS => {
                let taken = write(db, TAKE, pieces).await?;
                sqlx::raw_sql("COMMIT; BEGIN").execute(db).await?;
                taken
            }
            _ => write(db, TAKE, pieces).await?,
        };
        if taken == 0 { refuse("SOLD_OUT", "too few left") } else { Ok(()) }
    }

    async fn confirm(
        &self,
        db: &mut PgConnection,
        call: &Call<Json<Order>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        write(db, "UPDATE stock SET reserved = reserved - $1", call.payload.pieces).await?;
        if self.fault == CONFIRM_COMMITS {
            sqlx::raw_sql("COMMIT; BEGIN").execute(db).await?;
        }
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut PgConnection,
        call: &Call<Json<Order>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let back = "UPDATE stock SET reserved = reserved - $1, free = free + $1";
        write(db, back, call.payload.pieces).await?;
        Ok(())
    }
}

struct Sell {
    fault: u8,
    pool: PgPool,
}

impl TwoPhase for Sell {
    type Payload = Json<Order>;

    async fn prepare(
        &self,
        db: &mut PgConnection,
        call: &Call<Json<Order>>,
    ) -> Result<(), PrepareError> {
        let sell = "UPDATE stock SET free = free - $1 WHERE free >= $1";
        let sold = match self.fault {
            OWN_POOL => write(&mut *self.pool.acquire().await?, sell, call.payload.pieces).await?,
            _ => write(db, sell, call.payload.pieces).await?,
        };
        if sold == 0 { refuse("SOLD_OUT", "too few left") } else { Ok(()) }
    }
}

fn tcc<const FAULT: u8>() -> Harness<Shop<FAULT>> {
    Harness::tcc("reserve")
}

fn two_phase<const FAULT: u8>() -> Harness<Shop<FAULT>> {
    Harness::two_phase("sell")
}

#[tokio::test]
async fn right_handlers_pass() {
    let report = run(tcc::<GOOD>()).await;
    report.assert_passed();
    check_crashes(&report);
}

#[tokio::test]
async fn right_handlers_of_two_phase_commit_pass() {
    let report = run(two_phase::<GOOD>()).await;
    report.assert_passed();
    check_crashes(&report);
}

#[tokio::test]
async fn a_handler_that_writes_past_its_connection_is_named() {
    let report = run(tcc::<OWN_POOL>()).await;
    let failed = report.failed();
    let rollback = failed.iter().find(|(name, _)| *name == "rollback-of-prepare");
    let (_, seen) = rollback.unwrap_or_else(|| panic!("{report}"));
    let words = "`try_` writes outside the connection that it is given, through its own pool say: \
                 after its local transaction was rolled back, its effect was still there:\n         \
                 before  free 10000, reserved 0\n         after   free 9998, reserved 2";
    assert!(seen.contains(words), "{report}");

    let report = run(two_phase::<OWN_POOL>()).await;
    let failed = report.failed();
    assert_eq!(failed[0].0, "cancel-undoes", "{report}");
    let words = "after the prepared transaction was rolled back, something was still there that \
                 `prepare` did: it writes outside the connection that it is given";
    assert!(failed[0].1.contains(words), "{report}");
}

#[tokio::test]
async fn a_handler_that_loses_updates_is_named() {
    let report = run(tcc::<LOSES_UPDATES>()).await;
    check(&report, &["add-up"], "is something read, changed in the program and written back");
}

#[tokio::test]
async fn handlers_that_commit_are_named() {
    let words = "`try_` committed or rolled back by itself, which is the SDK's to do";
    check(&run_broken(tcc::<COMMITS>()).await, &["works-once"], words);
    let words = "Commit was answered HEURISTIC_HAZARD (the branch's handler ended its local \
                 transaction by itself)";
    check(&run_broken(tcc::<CONFIRM_COMMITS>()).await, &["works-once"], words);
}
