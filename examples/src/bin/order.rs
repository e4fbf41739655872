//! Orders two items from the shop, or none: the initiator of docs/first-participant.md.

use serde_json::json;
use unanimo_sdk::{Client, Json, Outcome};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let outcome = Client::new("http://127.0.0.1:7610")?
        .tcc("order-2")
        .branch("lamps", "shop", "reserve", Json(json!({"item": "lamp", "pieces": 1})))
        .branch("tables", "shop", "reserve", Json(json!({"item": "table", "pieces": 1})))
        .submit()
        .await?;
    match outcome {
        Outcome::Committed(order) => println!("ordered, as {}", order.tx_id),
        Outcome::Aborted(order) => println!("not ordered: {order}"),
        // Not a failure: it may still be committed. Run it again, under the same name.
        Outcome::NotDecided(_) => println!("not known yet"),
    }
    Ok(())
}
