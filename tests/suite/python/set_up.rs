//! Start of the example in Python: behind somebody who has its database, and on a copy of it.

use std::fs;

use sqlx::AssertSqlSafe;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::{PyShop, STOCK, World};

/// L4: another process has the write lock for longer than one waits. The start is not given up.
#[tokio::test]
async fn l4_the_set_up_waits_for_whoever_has_the_database() {
    let mut world = World::start().await;
    let endpoint = world.coordinator.endpoint();
    let mut holder = world.python.database().await;
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
    world.python.kill(&endpoint);
    until("it to wait again and again", async || {
        assert!(
            world.python.process.child().try_wait().unwrap().is_none(),
            "{}",
            world.python.log()
        );
        (world.python.log().matches("the set-up waits").count() >= 2).then_some(())
    })
    .await;
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    world.python.endpoint().await;
    let client = world.client();
    assert!(super::is_committed(&client, "behind", 1).await);
    world.until_stock(STOCK - 1).await;
    world.stop().await;
}

/// S2: the copy has the id of its original, whose process lives.
#[tokio::test]
async fn s2_a_copy_gets_no_work_while_the_original_lives() {
    let world = World::start().await;
    let folder = run_folder().join(Uuid::new_v4().to_string());
    fs::create_dir(&folder).unwrap();
    let into = format!("VACUUM INTO '{}'", folder.join("shop.db").display());
    let mut original = world.python.database().await;
    sqlx::raw_sql(AssertSqlSafe(into)).execute(&mut original).await.unwrap();
    let process = PyShop::spawn(&folder, 0, &world.coordinator.endpoint());
    let copy = PyShop { folder, process, lives: 0 };
    until("the copy to be refused", async || {
        copy.log().contains("all processes of a participant must share one database").then_some(())
    })
    .await;
    let client = world.client();
    for n in 0..6 {
        assert!(super::is_committed(&client, &format!("g{n}"), 1).await);
    }
    world.until_stock(STOCK - 6).await;
    assert_eq!(copy.stock().await, (STOCK, 0), "S2");
    world.stop().await;
}
