//! Step of a saga on SQLite, correct or with one fault.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use unanimo_sdk::{
    BoxError, Call, Json, Participant, PhaseTwoError, PrepareError, Saga, Sqlite, refuse,
};
use unanimo_testing::{Harness, Report, Subject};
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::{Order, STOCK, check, order};

const GOOD: u8 = 0;
/// Fault: `compensate` gives too little back.
const COMPENSATE_FORGETS: u8 = 1;
/// Fault: `run` fails where an input is missing, and does not refuse.
const FAILS_WITHOUT_INPUT: u8 = 2;
/// Fault: `compensate` needs what `run` keeps in memory only.
const IN_MEMORY: u8 = 3;
/// Fault: `run` always refuses work that must succeed.
const MAY_FAIL: u8 = 4;

/// Input of the step.
const INPUT: &str = "seat";

struct Shop<const FAULT: u8> {
    folder: TempDir,
}

impl<const FAULT: u8> Shop<FAULT> {
    fn file(&self) -> String {
        self.folder.path().join("shop.db").display().to_string()
    }

    async fn database(&self) -> sqlx::Result<SqliteConnection> {
        SqliteConnection::connect(&format!("sqlite:{}?mode=rwc", self.file())).await
    }
}

impl<const FAULT: u8> Subject for Shop<FAULT> {
    type Resource = Sqlite;

    async fn fresh() -> Result<Self, BoxError> {
        let shop = Self { folder: TempDir::new_in(run_folder())? };
        let mut database = shop.database().await?;
        let tables =
            "CREATE TABLE stock (free integer); CREATE TABLE sold (seat text, pieces integer)";
        sqlx::raw_sql(tables).execute(&mut database).await?;
        let fill = sqlx::query("INSERT INTO stock VALUES ($1)").bind(STOCK);
        fill.execute(&mut database).await?;
        Ok(shop)
    }

    async fn participant(&self) -> Result<Participant<Sqlite>, BoxError> {
        let sell = Sell { fault: FAULT, memory: Mutex::default() };
        Ok(Participant::new("shop", Sqlite::open(self.file()).await?).saga("sell", sell))
    }

    async fn observe(&self) -> Result<String, BoxError> {
        let mut database = self.database().await?;
        let free: i64 =
            sqlx::query_scalar("SELECT free FROM stock").fetch_one(&mut database).await?;
        let sold =
            sqlx::query_as("SELECT coalesce(group_concat(DISTINCT seat), ''), count(*) FROM sold");
        let (seats, sold): (String, i64) = sold.fetch_one(&mut database).await?;
        Ok(format!("free {free}, sold {sold} times [{seats}]"))
    }
}

struct Sell {
    fault: u8,
    memory: Mutex<HashSet<Uuid>>,
}

impl Sell {
    fn memory(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Saga<Sqlite> for Sell {
    type Payload = Json<Order>;
    type Output = Json<i64>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Order>>,
    ) -> Result<Json<i64>, PrepareError> {
        let pieces = call.payload.pieces;
        let take = sqlx::query("UPDATE stock SET free = free - $1 WHERE free >= $1").bind(pieces);
        if take.execute(&mut *db).await?.rows_affected() == 0 {
            return refuse("SOLD_OUT", "too few left");
        }
        if self.fault == MAY_FAIL && call.must_succeed() {
            return refuse("NOT_NOW", "never");
        }
        // After the stock was changed: a refusal undoes that.
        let seat = match call.input::<Json<String>>(INPUT) {
            Ok(seat) => seat,
            Err(error) if self.fault == FAILS_WITHOUT_INPUT => {
                return Err(PrepareError::Failed(error.to_string().into()));
            }
            Err(error) => return Err(error.into()),
        };
        self.memory().insert(call.branch.tx_id);
        let sell = sqlx::query_scalar("INSERT INTO sold VALUES ($1, $2) RETURNING rowid");
        Ok(Json(sell.bind(&*seat).bind(pieces).fetch_one(db).await?))
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Order>>,
        Json(sale): Json<i64>,
    ) -> Result<(), PhaseTwoError> {
        if self.fault == IN_MEMORY && !self.memory().contains(&call.branch.tx_id) {
            return Err(std::io::Error::other("it is not in memory").into());
        }
        let Json(seat) = call.input::<Json<String>>(INPUT)?;
        let take = sqlx::query("DELETE FROM sold WHERE rowid = $1 AND seat = $2");
        take.bind(sale).bind(seat).execute(&mut *db).await?;
        let back = call.payload.pieces - i64::from(self.fault == COMPENSATE_FORGETS);
        let back = sqlx::query("UPDATE stock SET free = free + $1").bind(back);
        back.execute(db).await?;
        Ok(())
    }
}

fn harness<const FAULT: u8>() -> Harness<Shop<FAULT>> {
    Harness::saga("sell").input(INPUT, Json("7a"))
}

async fn run<const FAULT: u8>(harness: Harness<Shop<FAULT>>) -> Report {
    let harness = harness.payload(order(2)).refused_payload(order(STOCK + 1));
    harness.effect("free 9998, sold 1 times [7a]").run().await
}

/// Runs a harness on a handler that may never answer.
async fn run_broken<const FAULT: u8>(harness: Harness<Shop<FAULT>>) -> Report {
    run(harness.patience(Duration::from_secs(3))).await
}

#[tokio::test]
async fn a_right_step_passes() {
    let report = run(harness::<GOOD>()).await;
    report.assert_passed();
    let text = report.to_string();
    for name in [
        "works-once",
        "cancel-undoes",
        "work-that-must-succeed",
        "without-inputs",
        "crash-in-prepare",
        "crash-in-cancel",
        "cancel-beside-commit",
        "step-inputs",
        "missing-input",
        "must-succeed-refusal",
    ] {
        assert!(text.contains(&format!("passed   {name}\n")), "{name}: {text}");
    }
    let why = "skipped  crash-in-commit: a step of a saga is not sent Commit";
    assert!(text.contains(why), "{text}");
    assert_eq!(report.protocol.expect("it gets through").committed, 0);
}

#[tokio::test]
async fn a_compensation_that_forgets_is_named() {
    check(
        &run(harness::<COMPENSATE_FORGETS>()).await,
        &[
            "cancel-undoes",
            "duplicates",
            "duplicates-at-once",
            "rollback-of-cancel",
            "crash-in-prepare",
            "crash-in-cancel",
            "cancel-beside-commit",
        ],
        "`compensate` does not undo what `run` did:\n         before  free 10000, sold 0 times []\n         \
         after   free 9999, sold 0 times []",
    );
}

#[tokio::test]
async fn a_step_that_fails_without_its_input_is_named() {
    check(
        &run_broken(harness::<FAILS_WITHOUT_INPUT>()).await,
        &["without-inputs", "missing-input", "must-succeed-input"],
        "`run` failed when it was called: Prepare was not answered",
    );
}

#[tokio::test]
async fn a_compensation_that_needs_the_process_of_its_step_is_named() {
    check(
        &run_broken(harness::<IN_MEMORY>()).await,
        &["crash-in-prepare", "crash-in-cancel"],
        "`compensate` failed when it was called",
    );
}

#[tokio::test]
async fn a_step_that_refuses_what_must_succeed_is_named() {
    check(
        &run_broken(harness::<MAY_FAIL>()).await,
        &[
            "work-that-must-succeed",
            "must-succeed-refusal",
            "must-succeed-input",
            "output-bound",
            "saga-in-order",
        ],
        "`run` answered REFUSED (NOT_NOW: never) to work that must succeed, and can",
    );
}
