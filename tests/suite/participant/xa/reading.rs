//! Handlers that only read.

use super::*;

/// It would write each time: asking again until the deadline helps nobody.
#[tokio::test]
async fn s2_what_is_declared_to_read_and_writes_is_refused() {
    let bank = Bank::open().await;
    for write in [INSERT, "CREATE TABLE more (n int)", "UPDATE pair SET n = 1"] {
        let branch = sql("read", write);
        for _ in 0..2 {
            assert_eq!(
                refused(bank.prepare(&branch).await.unwrap()),
                "READ_ONLY_VIOLATED",
                "{write}"
            );
        }
    }
    assert_eq!(bank.effects().await, 0);
    bank.is_clean().await;
}

#[tokio::test]
async fn s2_what_is_declared_to_read_cannot_get_round_it() {
    let bank = Bank::open().await;
    for way in [
        "COMMIT; START TRANSACTION READ ONLY",
        "ROLLBACK; SET SESSION TRANSACTION READ WRITE",
        "SET autocommit = 1",
    ] {
        let branch = sql("read", way);
        let answer = bank.prepare(&branch).await;
        assert!(answer.is_err(), "{way}: {answer:?}");
        assert_eq!(bank.state(&branch).await, None, "{way}");
    }
    bank.is_clean().await;
}
