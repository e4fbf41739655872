//! Handlers that only read.

use super::*;

/// It would write each time: asking again until the deadline helps nobody.
#[tokio::test]
async fn s2_what_is_declared_to_read_and_writes_is_refused() {
    let bank = Bank::open().await;
    for write in [INSERT, "CREATE TABLE more (n integer)", "SELECT nextval('s')"] {
        let _ = bank.pool.execute("CREATE SEQUENCE s").await;
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
    for (action, way) in [
        ("read-swallow", format!("SELECT 1; {INSERT}")),
        ("read", format!("COMMIT; {INSERT}; BEGIN")),
        ("read", format!("ROLLBACK; {INSERT}")),
        ("read", format!("SET TRANSACTION READ WRITE; {INSERT}")),
        ("read", format!("SET LOCAL transaction_read_only = off; {INSERT}")),
    ] {
        let branch = sql(action, &way);
        let answer = bank.prepare(&branch).await;
        assert!(answer.is_err(), "{way}: {answer:?}");
        assert_eq!(bank.state(&branch).await, None, "{way}");
    }
    bank.is_clean().await;
}
