//! Post office with one step of sagas: the second participant of docs/first-participant.md.

use serde::Deserialize;
use unanimo_sdk::{Json, Participant, Serve, Sqlite, fail, refuse};

#[derive(Deserialize)]
struct Parcel {
    to: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();

    let coordinator = std::env::var("UNANIMO_ENDPOINT");
    let coordinator = coordinator.unwrap_or_else(|_| "http://127.0.0.1:7610".to_owned());
    Participant::new("post", Sqlite::open("post.db").await?)
        .set_up_fn(async |db| {
            // A number that was given once is never given again.
            let parcels = "CREATE TABLE IF NOT EXISTS parcel
                               (number integer PRIMARY KEY AUTOINCREMENT, receiver text)";
            sqlx::query(parcels).execute(db).await?;
            Ok(())
        })
        .saga_fn("send", async |db, Json(parcel): Json<Parcel>| {
            if parcel.to.is_empty() {
                return refuse("NO_ADDRESS", "a parcel goes to somebody");
            }
            let send = "INSERT INTO parcel (receiver) VALUES ($1) RETURNING number";
            let number: i64 = sqlx::query_scalar(send).bind(parcel.to).fetch_one(db).await?;
            Ok(Json(number))
        })
        .compensate(async |db, _, Json(number)| {
            let back = "UPDATE parcel SET receiver = 'sender' WHERE number = $1";
            let done = sqlx::query(back).bind(number).execute(db).await?;
            if done.rows_affected() == 1 { Ok(()) } else { fail("the parcel is gone") }
        })
        .serve(Serve::on("127.0.0.1:0").register_with(coordinator))
        .await?
        .until_stopped()
        .await?;
    Ok(())
}
