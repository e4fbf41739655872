//! Set-up of a participant on MariaDB behind what a former life has left prepared.

use unanimo_proto::v1::Outcome;
use unanimo_sdk::Serve;

use super::super::deaf::Ears;
use super::super::sweeper::{World, eager, two_phase};
use super::sweeper::{Write, bank};
use super::*;

/// L1: a bank is killed after its vote. It starts again with a statement that waits for what it has prepared.
#[tokio::test]
async fn l1_a_set_up_that_needs_what_is_prepared_is_made_once_that_has_ended() {
    let (pool, url, service) = bank().await;
    let world = World::start(service, Ears::Deaf).await;
    world.submit(two_phase("g", &["write"]), Outcome::Committed).await;
    let database = MySql::connect(&url).await.unwrap();
    let again = Participant::new("p", database).two_phase("write", Write).set_up(|db| {
        Box::pin(async move {
            run(db, "ALTER TABLE effect ADD COLUMN IF NOT EXISTS note text").await?;
            Ok(())
        })
    });
    // With the usual grace it would wait for an hour: what is prepared at the start is asked about at once.
    let sweep = eager().grace(Duration::from_secs(3600));
    let serve = Serve::on("127.0.0.1:0").register_with(world.url()).sweep(sweep);
    let served = tokio::time::timeout(Duration::from_secs(60), again.serve(serve)).await;
    let mut serving = served.expect("it does not wait for itself").unwrap();
    serving.registered().await.unwrap();
    let noted = sqlx::query_scalar("SELECT count(*) FROM effect WHERE note IS NULL");
    let noted: i64 = noted.fetch_one(&pool).await.unwrap();
    assert_eq!(noted, 1, "committed first, and then altered");
    serving.stop().await.unwrap();
}
