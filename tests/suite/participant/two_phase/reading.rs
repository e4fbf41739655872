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
    let running = Some("running");
    for (action, way, state) in [
        ("read-swallow", format!("SELECT 1; {INSERT}"), None),
        ("read", format!("COMMIT; {INSERT}; BEGIN"), running),
        ("read", format!("ROLLBACK; {INSERT}"), running),
        ("read", format!("SET TRANSACTION READ WRITE; {INSERT}"), None),
        ("read", format!("SET LOCAL transaction_read_only = off; {INSERT}"), None),
    ] {
        let branch = sql(action, &way);
        let answer = bank.prepare(&branch).await;
        assert!(answer.is_err(), "{way}: {answer:?}");
        // S11: nobody can tell what was done behind a transaction that is gone.
        assert_eq!(bank.state(&branch).await.as_deref(), state, "{way}");
    }
    assert_eq!(bank.effects().await, 0);
    bank.is_clean().await;
}

/// A transaction of its own takes writes, whatever the action is declared to be.
#[tokio::test]
async fn s7_s11_what_a_handler_that_reads_commits_is_done_once_and_told() {
    let bank = Bank::open().await;
    for (action, way) in [
        ("read", format!("ROLLBACK; BEGIN READ WRITE; {INSERT}; COMMIT")),
        ("read", format!("ROLLBACK; BEGIN READ WRITE; {INSERT}; COMMIT; SELECT 1 / 0")),
        (
            "read-swallow",
            format!("ROLLBACK; BEGIN READ WRITE; {INSERT}; COMMIT; BEGIN; SELECT 1 / 0"),
        ),
        ("read-refuse", format!("ROLLBACK; BEGIN READ WRITE; {INSERT}; COMMIT")),
    ] {
        let before = bank.effects().await;
        let branch = sql(action, &way);
        for _ in 0..3 {
            bank.prepare(&branch).await.unwrap_err();
        }
        assert_eq!(bank.effects().await, before + 1, "S7: {way}");
        assert_eq!(bank.state(&branch).await.as_deref(), Some("running"), "S11: {way}");
        let answer = branch.cancel(&bank.service).await.unwrap();
        assert!(matches!(answer, cancel_response::Answer::Heuristic(_)), "{way}: {answer:?}");
    }
    bank.is_clean().await;
}
