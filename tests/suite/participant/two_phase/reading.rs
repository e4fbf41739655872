//! Handlers that only read.

use std::time::Instant;

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

/// A statement that the handler gave up is at work when it returns: the operation ends long before that, without a vote.
#[tokio::test]
async fn l1_s11_a_handler_that_leaves_a_statement_at_work_gets_no_vote() {
    let bank = Bank::open().await;
    let beside = format!("ROLLBACK; BEGIN READ WRITE; {INSERT}; COMMIT");
    for action in ["give-up", "read-give-up"] {
        let (begun, before) = (Instant::now(), bank.effects().await);
        let branch = sql(action, "SET statement_timeout = 0; SELECT pg_sleep(60)");
        let status = bank.prepare(&branch).await.unwrap_err();
        assert!(status.message().contains("that it had given up"), "{action}: {status:?}");
        assert_eq!((status.code(), bank.state(&branch).await), (Code::Internal, None), "{action}");
        let branch =
            sql(action, &format!("{beside}; SET statement_timeout = 0; SELECT pg_sleep(60)"));
        for _ in 0..2 {
            let status = bank.prepare(&branch).await.unwrap_err();
            assert!(status.message().contains("it ended the local transaction"), "{status:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "L1: {:?}", begun.elapsed());
        assert_eq!(bank.effects().await, before + 1, "S7: {action}");
        assert_eq!(bank.state(&branch).await.as_deref(), Some("running"), "S11: {action}");
        bank.is_clean().await;
    }
    assert!(bank.prepared().await.is_empty());
}
