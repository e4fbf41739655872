//! Banks of the demo, each with a database of its own.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, SqlitePool};
use unanimo_sdk::{Postgres, Sqlite};

use super::Failure;
use super::bank;
use super::faults::{Faults, Network};

const ACCOUNTS: &str = "
CREATE TABLE account (id text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0),
                      held bigint NOT NULL DEFAULT 0)";

/// Bank that is served over gRPC.
pub(super) struct Bank {
    pub(super) name: &'static str,
    pub(super) owner: &'static str,
    pub(super) endpoint: String,
    pub(super) faults: Faults,
    data: Data,
}

enum Data {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Bank {
    pub(super) async fn on_sqlite(
        folder: &Path,
        name: &'static str,
        owner: &'static str,
        cents: i64,
    ) -> Result<Self, Failure> {
        let file = folder.join(format!("{name}.db"));
        let participant = bank::on_sqlite(name, Sqlite::open(&file).await?).service()?;
        let pool = SqlitePool::connect(&format!("sqlite:{}", file.display())).await?;
        sqlx::raw_sql(ACCOUNTS).execute(&pool).await?;
        let open = sqlx::query("INSERT INTO account (id, cents) VALUES ($1, $2)");
        open.bind(owner).bind(cents).execute(&pool).await?;
        let faults = Faults::default();
        let network = Network { participant, faults: faults.clone() };
        let endpoint = network.serve().await.map_err(Failure::Serve)?;
        Ok(Self { name, owner, endpoint, faults, data: Data::Sqlite(pool) })
    }

    pub(super) async fn on_postgres(
        url: &str,
        name: &'static str,
        owner: &'static str,
        cents: i64,
    ) -> Result<Self, Failure> {
        let participant = bank::on_postgres(name, Postgres::connect(url).await?).service()?;
        let pool = PgPool::connect(url).await?;
        sqlx::raw_sql(ACCOUNTS).execute(&pool).await?;
        let open = sqlx::query("INSERT INTO account (id, cents) VALUES ($1, $2)");
        open.bind(owner).bind(cents).execute(&pool).await?;
        let faults = Faults::default();
        let network = Network { participant, faults: faults.clone() };
        let endpoint = network.serve().await.map_err(Failure::Serve)?;
        Ok(Self { name, owner, endpoint, faults, data: Data::Postgres(pool) })
    }

    /// Reads the owner's cents from the bank's own database.
    pub(super) async fn cents(&self) -> Result<i64, Failure> {
        let sum = "SELECT cents FROM account WHERE id = $1";
        Ok(match &self.data {
            Data::Sqlite(pool) => sqlx::query_scalar(sum).bind(self.owner).fetch_one(pool).await?,
            Data::Postgres(pool) => {
                sqlx::query_scalar(sum).bind(self.owner).fetch_one(pool).await?
            }
        })
    }
}

/// Databases on a PostgreSQL server, dropped at the end.
pub(super) struct Databases {
    server: String,
    names: Vec<String>,
}

impl Databases {
    /// Creates three databases: the coordinator's, and one for each bank.
    pub(super) async fn create(server: &str) -> Result<Self, Failure> {
        let mut connection = PgConnection::connect(server).await?;
        let allowed = "SELECT current_setting('max_prepared_transactions')::int8";
        let allowed: i64 = sqlx::query_scalar(allowed).fetch_one(&mut connection).await?;
        if allowed == 0 {
            return Err(Failure::NotPrepared);
        }
        let made = std::process::id();
        let mut databases = Self { server: server.to_owned(), names: Vec::new() };
        for part in ["coordinator", "bank_a", "bank_b"] {
            let name = format!("unanimo_demo_{made}_{part}");
            let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
            sqlx::raw_sql(create).execute(&mut connection).await?;
            databases.names.push(name);
        }
        Ok(databases)
    }

    /// Returns the address of a database: 0 is the coordinator's, 1 and 2 the banks'.
    pub(super) fn url(&self, index: usize) -> String {
        let (server, query) = self.server.split_once('?').unwrap_or((&self.server, ""));
        let authority = server.find("://").map_or(0, |at| at + 3);
        let end = server[authority..].find('/').map_or(server.len(), |at| authority + at);
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        format!("{}/{}{query}", &server[..end], self.names[index])
    }

    /// Drops the databases.
    pub(super) async fn drop(&self) -> Result<(), Failure> {
        let mut connection = PgConnection::connect(&self.server).await?;
        for name in &self.names {
            let drop = AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"));
            sqlx::raw_sql(drop).execute(&mut connection).await?;
        }
        Ok(())
    }
}
