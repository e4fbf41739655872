//! Orders two items from the shop, or none: the initiator of docs/first-participant.md.

use serde_json::json;
use unanimo_sdk::client::Heuristic;
use unanimo_sdk::{Client, Json, Outcome};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let outcome = Client::new("http://127.0.0.1:7610")?
        .tcc("order-2")
        .branch("lamps", "shop", "reserve", Json(json!({"item": "lamp", "pieces": 1})))
        .branch("tables", "shop", "reserve", Json(json!({"item": "table", "pieces": 1})))
        // Only then it is known whether each participant has done as was decided.
        .wait_until_ended()
        .submit()
        .await?;
    match outcome {
        // A participant that has ended otherwise, or cannot tell, needs a person.
        Outcome::Committed(order) if order.heuristic != Heuristic::None => {
            println!("ordered, as {}, and not as it should be: {:?}", order.tx_id, order.heuristic);
        }
        Outcome::Committed(order) if !order.ended => {
            println!("ordered, as {}: the shop has not done its part yet, and will", order.tx_id);
        }
        Outcome::Committed(order) => println!("ordered, as {}", order.tx_id),
        Outcome::Aborted(order) => println!("not ordered: {order}"),
        // Not a failure: it may still be committed. Run it again, under the same name.
        Outcome::NotDecided(_) => println!("not known yet"),
    }
    Ok(())
}
