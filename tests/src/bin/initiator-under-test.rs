//! Initiator of a saga as a process of its own: `COORDINATOR SAGA`, the saga as JSON. It drives the saga once it has
//! read a line, and prints `committed` or `aborted`.

use std::error::Error;
use std::time::Duration;

use unanimo_sdk::{Client, Outcome};
use unanimo_tests::driven::Driven;
use unanimo_tests::joining::say;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [coordinator, saga] = arguments.as_slice() else { return Err("COORDINATOR SAGA".into()) };
    let saga: Driven = serde_json::from_str(saga)?;
    let client = Client::new(coordinator)?.wait_at_most(Duration::from_secs(60));
    std::io::stdin().read_line(&mut String::new())?;
    match saga.drive(&client).await? {
        Some(Outcome::Committed(_)) => say("committed"),
        Some(Outcome::Aborted(_)) => say("aborted"),
        Some(Outcome::NotDecided(_)) | None => say("not decided"),
    }
    Ok(())
}
