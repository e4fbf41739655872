//! Shop that reserves items in stock: the participant of docs/first-participant.md.

use serde::Deserialize;
use sqlx::SqliteConnection;
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, PrepareError, Serve, Sqlite, Tcc, refuse,
};

#[derive(Deserialize)]
struct Order {
    item: String,
    pieces: i64,
}

struct Reserve;

impl Tcc<Sqlite> for Reserve {
    type Payload = Json<Order>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Order>>,
    ) -> Result<(), PrepareError> {
        let Order { item, pieces } = &*call.payload;
        if *pieces < 1 {
            return refuse("BAD_ORDER", "pieces must be at least 1");
        }
        let reserve = "UPDATE stock SET free = free - $2, reserved = reserved + $2
                       WHERE item = $1 AND free >= $2";
        let done = sqlx::query(reserve).bind(item).bind(pieces).execute(db).await?;
        match done.rows_affected() {
            0 => refuse("SOLD_OUT", format!("there are not {pieces} of {item}")),
            _ => Ok(()),
        }
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Order>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let Order { item, pieces } = &*call.payload;
        let sell = "UPDATE stock SET reserved = reserved - $2 WHERE item = $1";
        let done = sqlx::query(sell).bind(item).bind(pieces).execute(db).await?;
        is_done(item, done.rows_affected())
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Order>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let Order { item, pieces } = &*call.payload;
        let back = "UPDATE stock SET reserved = reserved - $2, free = free + $2 WHERE item = $1";
        let done = sqlx::query(back).bind(item).bind(pieces).execute(db).await?;
        is_done(item, done.rows_affected())
    }
}

/// Fails if the stock that was reserved is gone: the call comes again, until somebody looks at it.
fn is_done(item: &str, rows: u64) -> Result<(), PhaseTwoError> {
    match rows {
        1 => Ok(()),
        _ => Err(PhaseTwoError::Failed(format!("there is no stock of {item}").into())),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();

    Participant::new("shop", Sqlite::open("shop.db").await?)
        .set_up(|db| {
            Box::pin(async move {
                sqlx::raw_sql(
                    "CREATE TABLE IF NOT EXISTS stock
                         (item text PRIMARY KEY, free integer, reserved integer);
                     INSERT INTO stock VALUES ('lamp', 100, 0), ('table', 5, 0)
                         ON CONFLICT DO NOTHING",
                )
                .execute(db)
                .await?;
                Ok(())
            })
        })
        .tcc("reserve", Reserve)
        .serve(Serve::on("127.0.0.1:7701").register_with("http://127.0.0.1:7610"))
        .await?
        .until_stopped()
        .await?;
    Ok(())
}
