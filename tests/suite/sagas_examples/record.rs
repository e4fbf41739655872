//! The participants' own records of a run.

use std::path::Path;

use sqlx::{AssertSqlSafe, SqlitePool};
use unanimo_examples::sagas::Example;
use unanimo_examples::sagas::logbook::{self, Note};

/// Notes and facts in the participants' databases.
#[derive(Debug)]
pub(super) struct Record {
    /// Notes of all participants, in the order of time.
    pub(super) notes: Vec<Note>,
    /// Values of the example's checks.
    pub(super) values: Vec<i64>,
    /// States of the barrier's rows: step, mode and state.
    pub(super) barrier: Vec<(String, String, String)>,
}

impl Record {
    pub(super) async fn read(example: &Example, folder: &Path) -> Self {
        let mut record = Self { notes: Vec::new(), values: Vec::new(), barrier: Vec::new() };
        let open = async |name: &str| {
            let file = folder.join(format!("{name}.db"));
            SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap()
        };
        for program in example.programs {
            let pool = open(program.name).await;
            record.notes.extend(logbook::read(&pool, program.name).await.unwrap());
            let rows = sqlx::query_as("SELECT branch_id, mode, state FROM unanimo_barrier");
            let rows: Vec<(String, String, String)> = rows.fetch_all(&pool).await.unwrap();
            record.barrier.extend(rows);
        }
        for check in example.checks {
            let value = sqlx::query_scalar(AssertSqlSafe(check.query));
            record.values.push(value.fetch_one(&open(check.participant).await).await.unwrap());
        }
        record.notes.sort();
        record
    }

    /// Returns the times of the notes of a step.
    pub(super) fn times(&self, step: &str, kind: &str) -> Vec<i64> {
        let notes = self.notes.iter().filter(|note| note.step == step && note.kind == kind);
        notes.map(|note| note.at_ns).collect()
    }
}
