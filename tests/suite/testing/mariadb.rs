//! Shop on MariaDB by two-phase commit, correct or with one fault.

use sqlx::{Connection, MySqlConnection, MySqlPool};
use unanimo_sdk::{
    BoxError, Call, Json, MySql, MySqlOptions, Participant, PrepareError, TwoPhase, refuse,
};
use unanimo_testing::{Harness, Subject};
use unanimo_tests::mariadb::{Server, end};

use super::{Order, STOCK, check_crashes, run};

const GOOD: u8 = 0;
/// Fault: `prepare` writes through a pool of its own.
const OWN_POOL: u8 = 1;

/// Connections of a participant: few, because a test starts many participants.
const CONNECTIONS: u32 = 6;

/// Shop in a database of its own.
struct Shop<const FAULT: u8> {
    url: String,
}

impl<const FAULT: u8> Subject for Shop<FAULT> {
    type Resource = MySql;

    async fn fresh() -> Result<Self, BoxError> {
        let url = Server::shared().database().await;
        let mut connection = MySqlConnection::connect(&url).await?;
        let make = "CREATE TABLE stock (free bigint CHECK (free >= 0), reserved bigint)";
        sqlx::raw_sql(make).execute(&mut connection).await?;
        let fill = sqlx::query("INSERT INTO stock VALUES (?, 0)").bind(STOCK);
        fill.execute(&mut connection).await?;
        end(connection).await;
        Ok(Self { url })
    }

    async fn participant(&self) -> Result<Participant<MySql>, BoxError> {
        let options = MySqlOptions::default()
            .prepare_connections(CONNECTIONS)
            .phase_two_connections(CONNECTIONS)
            .lock_timeout(std::time::Duration::from_secs(1));
        let database = options.connect(&self.url).await?;
        let pool = MySqlPool::connect_lazy(&self.url)?;
        Ok(Participant::new("shop", database).two_phase("sell", Sell { fault: FAULT, pool }))
    }

    async fn observe(&self) -> Result<String, BoxError> {
        let mut connection = MySqlConnection::connect(&self.url).await?;
        let stock = sqlx::query_as("SELECT free, reserved FROM stock");
        let (free, reserved): (i64, i64) = stock.fetch_one(&mut connection).await?;
        end(connection).await;
        Ok(format!("free {free}, reserved {reserved}"))
    }
}

struct Sell {
    fault: u8,
    pool: MySqlPool,
}

impl TwoPhase<MySql> for Sell {
    type Payload = Json<Order>;

    async fn prepare(
        &self,
        db: &mut MySqlConnection,
        call: &Call<Json<Order>>,
    ) -> Result<(), PrepareError> {
        let pieces = call.payload.pieces;
        let sell = sqlx::query("UPDATE stock SET free = free - ? WHERE free >= ?");
        let sell = sell.bind(pieces).bind(pieces);
        let sold = match self.fault {
            OWN_POOL => sell.execute(&mut *self.pool.acquire().await?).await?,
            _ => sell.execute(db).await?,
        };
        if sold.rows_affected() == 0 { refuse("SOLD_OUT", "too few left") } else { Ok(()) }
    }
}

#[tokio::test]
async fn right_handlers_of_two_phase_commit_pass() {
    let report = run(Harness::<Shop<GOOD>>::two_phase("sell")).await;
    report.assert_passed();
    check_crashes(&report);
}

#[tokio::test]
async fn a_handler_that_writes_past_its_connection_is_named() {
    let report = run(Harness::<Shop<OWN_POOL>>::two_phase("sell")).await;
    let failed = report.failed();
    assert_eq!(failed[0].0, "cancel-undoes", "{report}");
    let words = "after the prepared transaction was rolled back, something was still there that \
                 `prepare` did: it writes outside the connection that it is given";
    assert!(failed[0].1.contains(words), "{report}");
}
