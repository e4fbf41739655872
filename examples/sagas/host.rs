//! The participants of a run, each with an SQLite file of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use sqlx::{AssertSqlSafe, SqlitePool};
use unanimo_sdk::Sqlite;

use super::example::{Check, Example};
use super::faults::{Faults, Network};
use super::logbook::{self, Note};

/// Participants that are served.
pub(super) struct Host {
    served: Vec<Served>,
}

struct Served {
    name: &'static str,
    endpoint: String,
    pool: SqlitePool,
}

impl Host {
    /// Makes the databases, and serves the participants.
    pub(super) async fn start(
        example: &Example,
        folder: &Path,
        faults: &Arc<Faults>,
    ) -> anyhow::Result<Self> {
        let mut served = Vec::new();
        for program in example.programs {
            let name = program.name;
            let file = folder.join(format!("{name}.db"));
            let database = Sqlite::open(&file).await?;
            let pool = SqlitePool::connect(&format!("sqlite:{}", file.display())).await?;
            let tables = sqlx::raw_sql(program.tables).execute(&pool).await;
            tables.with_context(|| format!("make the tables of {name}"))?;
            sqlx::raw_sql(logbook::TABLE).execute(&pool).await?;
            let participant = (program.participant)(name, database).service()?;
            let endpoint = Network::serve(participant, Arc::clone(faults)).await?;
            served.push(Served { name, endpoint, pool });
        }
        Ok(Self { served })
    }

    /// Returns the participants as the coordinator's settings name them: `NAME=ENDPOINT`.
    pub(super) fn settings(&self) -> Vec<String> {
        self.served
            .iter()
            .map(|Served { name, endpoint, .. }| format!("{name}={endpoint}"))
            .collect()
    }

    /// Runs a statement in the database of a participant.
    pub(super) async fn execute(
        &self,
        participant: &str,
        statement: &'static str,
    ) -> anyhow::Result<()> {
        sqlx::raw_sql(statement).execute(self.pool(participant)?).await?;
        Ok(())
    }

    /// Reads the logbooks of all participants, in the order of time.
    pub(super) async fn notes(&self) -> anyhow::Result<Vec<Note>> {
        let mut notes = Vec::new();
        for Served { name, pool, .. } in &self.served {
            notes.extend(logbook::read(pool, name).await?);
        }
        notes.sort();
        Ok(notes)
    }

    /// Returns the value of a fact.
    pub(super) async fn value(&self, check: &Check) -> anyhow::Result<i64> {
        let pool = self.pool(check.participant)?;
        Ok(sqlx::query_scalar(AssertSqlSafe(check.query)).fetch_one(pool).await?)
    }

    fn pool(&self, participant: &str) -> anyhow::Result<&SqlitePool> {
        let found = self.served.iter().find(|served| served.name == participant);
        Ok(&found.with_context(|| format!("find the participant {participant}"))?.pool)
    }
}
