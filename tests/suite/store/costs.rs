//! Numbers of rows and commits that transactions cost: they say the same on every machine.

use std::time::Duration;

use sqlx::{Connection, PgConnection};
use unanimo_core::{PhaseTwoAnswer, PhaseTwoOperation};

use super::{Fixture, a_write};
use crate::fixtures::{Live, new_gid};

/// Transactions in a batch.
const BATCH: i64 = 1_024;

/// Counts of this database since it was made: commits; rows that were inserted, updated and deleted.
const COUNTS: &str = "SELECT xact_commit, tup_inserted, tup_updated, tup_deleted
    FROM pg_stat_database WHERE datname = current_database()";

/// A TCC of two branches costs a name and three rows, and nothing is ever updated; a batch costs one commit.
#[tokio::test]
async fn a_transaction_is_four_rows_that_are_inserted() {
    let fixture = Fixture::postgres().await;
    let mut raw = PgConnection::connect(&fixture.url).await.unwrap();
    let counts = async |raw: &mut PgConnection| -> (i64, i64, i64, i64) {
        // Each session tells its own once it ends, or now.
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *raw).await.unwrap();
        sqlx::query_as(COUNTS).fetch_one(raw).await.unwrap()
    };
    let mut writer = fixture.writer().await;
    // What the connection and the store cost is counted by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = counts(&mut raw).await;
    let (mut begins, mut decisions, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..BATCH {
        let (mut live, begin) = Live::begin(&new_gid());
        begins.push(a_write(begin));
        decisions.push(a_write(live.commit()));
        let mut done = live.phase_two(PhaseTwoOperation::Commit, &PhaseTwoAnswer::Done);
        let mut end = done.remove(0);
        done.into_iter().for_each(|transition| end.fold(transition));
        let mut end = a_write(end);
        end.base = decisions.last().unwrap().transition.version;
        ends.push(end);
    }
    for batch in [begins, decisions, ends] {
        let written = writer.write(&batch).await.unwrap();
        assert!(
            written.iter().all(|written| *written == unanimo_coordinator::store::Written::Applied)
        );
    }
    drop(writer);
    // The session that wrote tells what it did when it ends.
    let patience = tokio::time::Instant::now() + Duration::from_secs(60);
    let after = loop {
        let after = counts(&mut raw).await;
        if after.1 - before.1 >= 4 * BATCH {
            break after;
        }
        assert!(tokio::time::Instant::now() < patience, "{before:?} {after:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (inserted, updated, deleted) = (after.1 - before.1, after.2 - before.2, after.3 - before.3);
    // Heartbeats and the like may come between.
    assert!(inserted <= 4 * BATCH + 10, "{inserted} rows for {BATCH} transactions");
    assert!(updated <= 10 && deleted <= 10, "{updated} updated, {deleted} deleted");
    let commits = after.0 - before.0;
    assert!(commits <= 60, "{commits} commits for three batches, and for asking");
}
