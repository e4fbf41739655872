//! Shop that reserves items in stock: the participant of docs/first-participant.md.

use serde::Deserialize;
use unanimo_sdk::{Json, Participant, Serve, Sqlite, fail, refuse};

#[derive(Deserialize)]
struct Order {
    item: String,
    pieces: i64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();

    Participant::new("shop", Sqlite::open("shop.db").await?)
        .set_up_fn(async |db| {
            let stock = "CREATE TABLE IF NOT EXISTS stock
                             (item text PRIMARY KEY, free integer, reserved integer);
                         INSERT INTO stock VALUES ('lamp', 100, 0), ('table', 5, 0)
                             ON CONFLICT DO NOTHING";
            sqlx::raw_sql(stock).execute(db).await?;
            Ok(())
        })
        .tcc_fn("reserve", async |db, Json(order): Json<Order>| {
            if order.pieces < 1 {
                return refuse("BAD_ORDER", "pieces must be at least 1");
            }
            let take = "UPDATE stock SET free = free - $2, reserved = reserved + $2
                        WHERE item = $1 AND free >= $2";
            let done = sqlx::query(take).bind(&order.item).bind(order.pieces).execute(db).await?;
            match done.rows_affected() {
                0 => refuse("SOLD_OUT", format!("there are too few of {}", order.item)),
                _ => Ok(()),
            }
        })
        // What was reserved must be there: else the call comes again, until somebody looks at it.
        .confirm(async |db, Json(order)| {
            let sell = "UPDATE stock SET reserved = reserved - $2
                        WHERE item = $1 AND reserved >= $2";
            let sold = sqlx::query(sell).bind(order.item).bind(order.pieces).execute(db).await?;
            if sold.rows_affected() == 1 { Ok(()) } else { fail("the item is gone") }
        })
        .cancel(async |db, Json(order)| {
            let back = "UPDATE stock SET reserved = reserved - $2, free = free + $2
                        WHERE item = $1 AND reserved >= $2";
            let done = sqlx::query(back).bind(order.item).bind(order.pieces).execute(db).await?;
            if done.rows_affected() == 1 { Ok(()) } else { fail("the item is gone") }
        })
        .serve(Serve::on("127.0.0.1:7701").register_with("http://127.0.0.1:7610"))
        .await?
        .until_stopped()
        .await?;
    Ok(())
}
