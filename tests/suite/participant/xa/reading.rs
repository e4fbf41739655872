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

/// No row is updated behind such a handler, and the session is as it was all the same.
#[tokio::test]
async fn s7_what_a_handler_that_reads_has_set_is_gone() {
    let bank = Bank::open().await;
    for set in [
        "SET time_zone = '+09:00'",
        "SET foreign_key_checks = 0",
        "SET sql_mode = ''",
        "SET innodb_lock_wait_timeout = 50",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "DO @x := 1",
        "USE mysql",
        "DO GET_LOCK('mine', 0)",
    ] {
        for _ in 0..2 {
            let answer = bank.prepare(&sql("read", set)).await.unwrap();
            assert!(matches!(answer, prepare_response::Answer::ReadOnly(_)), "{set}: {answer:?}");
            bank.is_clean().await;
        }
    }
}
