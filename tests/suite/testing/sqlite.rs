//! Shop on SQLite, correct or with one fault.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use unanimo_sdk::{
    BoxError, Call, Json, Participant, PhaseTwoError, PrepareError, Sqlite, Tcc, refuse,
};
use unanimo_testing::{Harness, Subject};
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::{Order, STOCK, check, check_crashes, run, run_broken};

pub(crate) const GOOD: u8 = 0;
/// Fault: `cancel` gives nothing back.
pub(super) const CANCEL_FORGETS: u8 = 1;
/// Fault: `confirm` takes too little from the reservation.
const CONFIRM_DIFFERS: u8 = 2;
/// Fault: `cancel` clears the reservations of all transactions.
const CANCEL_CLEARS: u8 = 3;
const CONFIRM_FAILS: u8 = 4;
const TRY_PANICS: u8 = 5;
const CONFIRM_PANICS: u8 = 6;
const CANCEL_PANICS: u8 = 7;
/// Fault: `try_` writes through a connection of its own.
const OWN_CONNECTION: u8 = 8;
/// Fault: `try_` commits.
const TRY_COMMITS: u8 = 9;
/// Fault: `try_` returns a different output each time.
const NEW_OUTPUT: u8 = 10;
/// Fault: `try_` keeps data for `confirm` in memory only.
const IN_MEMORY: u8 = 11;
/// Fault: `try_` fails on a payload that it cannot read, and does not refuse it.
const UNREADABLE: u8 = 12;

/// Shop on a file of its own.
pub(crate) struct Shop<const FAULT: u8> {
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
        let stock = "CREATE TABLE stock (free integer CHECK (free >= 0), reserved integer)";
        sqlx::raw_sql(stock).execute(&mut database).await?;
        let fill = sqlx::query("INSERT INTO stock VALUES ($1, 0)").bind(STOCK);
        fill.execute(&mut database).await?;
        Ok(shop)
    }

    async fn participant(&self) -> Result<Participant<Sqlite>, BoxError> {
        let reserve = Reserve { fault: FAULT, file: self.file(), memory: Mutex::default() };
        Ok(Participant::new("shop", Sqlite::open(self.file()).await?).tcc("reserve", reserve))
    }

    async fn observe(&self) -> Result<String, BoxError> {
        let stock = sqlx::query_as("SELECT free, reserved FROM stock");
        let (free, reserved): (i64, i64) = stock.fetch_one(&mut self.database().await?).await?;
        Ok(format!("free {free}, reserved {reserved}"))
    }
}

struct Reserve {
    fault: u8,
    file: String,
    memory: Mutex<HashMap<Uuid, i64>>,
}

impl Reserve {
    async fn write(
        db: &mut SqliteConnection,
        statement: &'static str,
        pieces: i64,
    ) -> sqlx::Result<u64> {
        Ok(sqlx::query(statement).bind(pieces).execute(db).await?.rows_affected())
    }

    fn pieces(&self, call: &Call<Bytes>) -> Result<i64, serde_json::Error> {
        Ok(serde_json::from_slice::<Order>(&call.payload)?.pieces)
    }
}

const TAKE: &str = "UPDATE stock SET free = free - $1, reserved = reserved + $1 WHERE free >= $1";

impl Tcc<Sqlite> for Reserve {
    type Payload = Bytes;
    type Output = Bytes;

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Bytes>,
    ) -> Result<Bytes, PrepareError> {
        let pieces = match self.pieces(call) {
            Ok(pieces) => pieces,
            Err(error) if self.fault == UNREADABLE => return Err(error.into()),
            Err(error) => return refuse("UNREADABLE", error.to_string()),
        };
        let taken = match self.fault {
            OWN_CONNECTION => {
                let mut own = SqliteConnection::connect(&format!("sqlite:{}", self.file)).await?;
                sqlx::raw_sql("PRAGMA busy_timeout = 50").execute(&mut own).await?;
                Self::write(&mut own, TAKE, pieces).await?
            }
            _ => Self::write(db, TAKE, pieces).await?,
        };
        if taken == 0 {
            return refuse("SOLD_OUT", "too few left");
        }
        match self.fault {
            TRY_PANICS => panic!("try_ panics"),
            TRY_COMMITS => {
                sqlx::raw_sql("COMMIT; BEGIN").execute(db).await?;
            }
            IN_MEMORY => {
                let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                memory.insert(call.branch.tx_id, pieces);
            }
            NEW_OUTPUT => return Ok(Uuid::new_v4().to_string().into()),
            _ => {}
        }
        Ok(Bytes::new())
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Bytes>,
        _: Bytes,
    ) -> Result<(), PhaseTwoError> {
        let mut pieces = self.pieces(call)?;
        match self.fault {
            CONFIRM_DIFFERS => pieces -= 1,
            CONFIRM_FAILS => return Err(std::io::Error::other("no such column").into()),
            CONFIRM_PANICS => panic!("confirm panics"),
            IN_MEMORY => {
                let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
                let known = memory.get(&call.branch.tx_id).copied();
                pieces = known.ok_or_else(|| std::io::Error::other("it is not in memory"))?;
            }
            _ => {}
        }
        Self::write(db, "UPDATE stock SET reserved = reserved - $1", pieces).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Bytes>,
        _: Bytes,
    ) -> Result<(), PhaseTwoError> {
        let pieces = self.pieces(call)?;
        let statement = match self.fault {
            CANCEL_PANICS => panic!("cancel panics"),
            CANCEL_FORGETS => "UPDATE stock SET reserved = reserved - $1",
            CANCEL_CLEARS => "UPDATE stock SET free = free + reserved, reserved = $1 - $1",
            _ => "UPDATE stock SET reserved = reserved - $1, free = free + $1",
        };
        Self::write(db, statement, pieces).await?;
        Ok(())
    }
}

fn harness<const FAULT: u8>() -> Harness<Shop<FAULT>> {
    Harness::tcc("reserve")
}

#[tokio::test]
async fn right_handlers_pass() {
    // An input that nobody reads: nothing is to be skipped.
    let report = run(harness::<GOOD>().input("note", Json(1))).await;
    report.assert_passed();
    assert_eq!(report.notes, [""; 0]);
    let text = report.to_string();
    // It has no output that could be too large, and what is never registered looks at no place.
    let skipped: Vec<_> = text.lines().filter(|line| line.contains("skipped")).collect();
    // Whether two calls have to wait is a matter of chance.
    let skipped: Vec<_> =
        skipped.into_iter().filter(|line| !line.contains("working-grows")).collect();
    let expected = [
        "skipped  output-bound: the action has no output",
        "skipped  other-place: it looks at no place: it must not register with a database_place",
    ];
    assert_eq!(skipped, expected, "{text}");
    check_crashes(&report);
    for name in ["works-once", "add-up", "late-prepare"] {
        assert!(text.contains(&format!("passed   {name}\n")), "{text}");
    }
}

#[tokio::test]
async fn a_cancel_that_forgets_is_named() {
    check(
        &run(harness::<CANCEL_FORGETS>()).await,
        &[
            "cancel-undoes",
            "duplicates",
            "duplicates-at-once",
            "rollback-of-cancel",
            "crash-in-prepare",
            "crash-in-cancel",
            "cancel-beside-commit",
        ],
        "`cancel` does not undo what `try_` did:\n         before  free 10000, reserved 0\n         \
         after   free 9998, reserved 0",
    );
}

#[tokio::test]
async fn a_confirm_that_does_not_match_is_named() {
    check(
        &run(harness::<CONFIRM_DIFFERS>()).await,
        &["works-once"],
        "`try_` and `confirm` do not do together what they should:\n         expected  free 9998, \
         reserved 0\n         after     free 9998, reserved 1",
    );
}

#[tokio::test]
async fn a_cancel_that_touches_others_is_named() {
    check(
        &run(harness::<CANCEL_CLEARS>()).await,
        &["cancel-beside-commit"],
        "the effect is not that of the committed one alone:",
    );
}

#[tokio::test]
async fn handlers_that_fail_or_panic_are_named() {
    check(
        &run_broken(harness::<CONFIRM_FAILS>()).await,
        &["works-once"],
        "`confirm` failed when it was called: Commit was not answered within 3s, asked again and \
         again; the last reply was UNKNOWN: the handler failed: no such column",
    );
    check(
        &run_broken(harness::<TRY_PANICS>()).await,
        &["works-once"],
        "`try_` panicked when it was called",
    );
    let report = run_broken(harness::<CONFIRM_PANICS>()).await;
    check(&report, &["works-once"], "`confirm` panicked when it was called");
    let report = run_broken(harness::<CANCEL_PANICS>()).await;
    check(&report, &["works-once"], "`cancel` panicked when it was called");
}

#[tokio::test]
async fn a_handler_with_a_connection_of_its_own_is_named() {
    check(
        &run_broken(harness::<OWN_CONNECTION>()).await,
        &["works-once"],
        "`try_` failed when it was called (does it write through a connection of its own, and not \
         the one that it is given?)",
    );
}

#[tokio::test]
async fn a_handler_that_commits_is_named() {
    check(
        &run_broken(harness::<TRY_COMMITS>()).await,
        &["works-once"],
        "`try_` committed or rolled back by itself, which is the SDK's to do",
    );
}

#[tokio::test]
async fn a_handler_whose_output_differs_is_noted() {
    let report = run(harness::<NEW_OUTPUT>()).await;
    report.assert_passed();
    assert_eq!(report.notes.len(), 1, "{report}");
    assert!(report.to_string().contains("note     `try_` answers another output each time"));
}

#[tokio::test]
async fn a_handler_that_keeps_its_state_in_memory_is_named() {
    check(
        &run_broken(harness::<IN_MEMORY>()).await,
        &["crash-in-prepare", "crash-in-commit"],
        "`confirm` failed when it was called",
    );
}

#[tokio::test]
async fn a_handler_that_fails_on_garbage_is_named() {
    check(
        &run_broken(harness::<UNREADABLE>()).await,
        &["unreadable-payload"],
        "`try_` failed when it was called: Prepare was not answered",
    );
}
