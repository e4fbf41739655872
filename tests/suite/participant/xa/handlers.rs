//! Handlers that break their transaction, and what they leave behind.

use super::*;

#[tokio::test]
async fn s2_what_commits_implicitly_is_refused() {
    let bank = Bank::open().await;
    // It refuses temporary tables there, too.
    let temporary = is_mysql().then_some("CREATE TEMPORARY TABLE t (n int)");
    for what in [
        "CREATE TABLE more (n int)",
        "ALTER TABLE effect ADD COLUMN m int",
        "TRUNCATE effect",
        "LOCK TABLES effect WRITE",
        "SET autocommit = 1",
        "COMMIT",
        "BEGIN",
        "ROLLBACK",
        "XA START 'another'",
    ]
    .into_iter()
    .chain(temporary)
    {
        let branch = sql("plain", &format!("{INSERT}; {what}"));
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "CANNOT_BE_PREPARED", "{what}");
        assert_eq!(bank.state(&branch).await.as_deref(), Some("refused"), "{what}");
        let again = Branch { payload: INSERT.into(), ..branch.clone() };
        assert_eq!(refused(bank.prepare(&again).await.unwrap()), "CANNOT_BE_PREPARED", "stored");
        bank.cancel(&branch).await;
        bank.is_clean().await;
    }
    assert_eq!(bank.effects().await, 0);
}

/// The server has refused it, so the work is whole.
#[tokio::test]
async fn s7_what_commits_implicitly_and_is_taken_for_done_has_no_effect() {
    let bank = Bank::open().await;
    for what in ["COMMIT", "ROLLBACK", "CREATE TABLE more (n int)"] {
        let branch = sql("swallow", &format!("{INSERT}; {what}"));
        Bank::yes(bank.prepare(&branch).await);
        assert_eq!(bank.effects().await, 0, "{what}");
        bank.cancel(&branch).await;
    }
    assert_eq!(bank.effects().await, 0);
    bank.is_clean().await;
}

/// A handler drops the future that begins a transaction inside its own, at each of its steps, and goes on.
#[tokio::test]
async fn s7_a_begin_that_is_dropped_has_an_effect_once_at_most() {
    let bank = Bank::open().await;
    for action in ["abandon-1", "abandon-2"] {
        for commits in [true, false] {
            let before = bank.effects().await;
            let branch = sql(action, INSERT);
            let mut is_prepared = false;
            for _ in 0..3 {
                let answer = bank.prepare(&branch).await;
                is_prepared |= matches!(answer, Ok(prepare_response::Answer::Prepared(_)));
                assert_eq!(bank.effects().await, before, "S7: {action}: {answer:?}");
            }
            assert_eq!(bank.is_prepared(&branch).await, is_prepared, "S2: {action}");
            if commits && is_prepared {
                bank.commit(&branch).await;
                assert_eq!(bank.effects().await, before + 1, "S7: {action}");
            } else {
                bank.cancel(&branch).await;
                assert_eq!(bank.effects().await, before, "S7: {action}");
            }
            bank.is_clean().await;
        }
    }
}

#[tokio::test]
async fn s7_a_handler_that_rolls_its_transaction_back_by_name_gets_no_vote() {
    let bank = Bank::open().await;
    let branch = sql("plain", "");
    let name = xid(&branch);
    for ends in ["DO 0".to_owned(), INSERT.to_owned(), format!("XA START {name}; {INSERT}")] {
        let way = format!("{INSERT}; XA END {name}; XA ROLLBACK {name}; {ends}");
        for action in ["plain", "swallow"] {
            let branch =
                Branch { payload: way.clone().into(), action: action.into(), ..branch.clone() };
            let answer = bank.prepare(&branch).await;
            assert!(answer.is_err(), "{way}: {answer:?}");
            assert_eq!(bank.state(&branch).await, None, "{way}");
        }
    }
    let healed = Branch { payload: INSERT.into(), ..branch };
    Bank::yes(bank.prepare(&healed).await);
    bank.commit(&healed).await;
    assert_eq!(bank.effects().await, 1);
}

/// Its work stays committed, and its row with it.
#[tokio::test]
async fn s11_a_handler_that_commits_its_transaction_by_name_is_a_hazard() {
    let bank = Bank::open().await;
    let branch = sql("plain", "");
    let name = xid(&branch);
    let way = format!("{INSERT}; XA END {name}; XA COMMIT {name} ONE PHASE");
    let branch = Branch { payload: way.into(), ..branch };
    for _ in 0..2 {
        let answer = bank.prepare(&branch).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert_eq!(bank.effects().await, 1, "once");
    assert_eq!(heuristic(branch.commit(&bank.service).await.unwrap()), HeuristicKind::Hazard);
    bank.is_clean().await;
}

/// Its work may be done half: that is no yes, and nothing of it is kept.
#[tokio::test]
async fn s2_a_handler_that_prepares_its_transaction_by_itself_gets_no_vote() {
    let bank = Bank::open().await;
    let branch = sql("plain", "");
    let name = xid(&branch);
    let way = format!("{INSERT}; XA END {name}; XA PREPARE {name}");
    let branch = Branch { payload: way.into(), ..branch };
    for _ in 0..3 {
        let answer = bank.prepare(&branch).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    assert!(bank.is_prepared(&branch).await);
    bank.cancel(&branch).await;
    assert_eq!(bank.effects().await, 0);
    bank.is_clean().await;
}

const TAKE_ONE: &str = "UPDATE pair SET n = n + 1 WHERE id = 1";
const TAKE_TWO: &str = "UPDATE pair SET n = n + 1 WHERE id = 2";
// MySQL would look at row 1, too.
const TAKE_MANY: &str = "UPDATE pair FORCE INDEX (PRIMARY) SET n = n + 1 WHERE id >= 2";

/// Has a handler that holds row 1 come for row 2 while somebody else, who holds much more, comes for
/// row 1: a deadlock, whose victim is the handler.
async fn deadlock(bank: &Bank) {
    until("the handler to hold its row", async || {
        let held: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pair WHERE id = 1 FOR UPDATE SKIP LOCKED")
                .fetch_one(&bank.pool)
                .await
                .unwrap();
        (held == 0).then_some(())
    })
    .await;
    let mut rival = bank.pool.begin().await.unwrap();
    rival.execute(TAKE_MANY).await.unwrap();
    bank.gate.add_permits(1);
    rival.execute(TAKE_ONE).await.unwrap();
    rival.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_the_victim_of_a_deadlock_gets_no_vote() {
    let bank = Bank::open().await;
    for (action, behind) in [
        ("gate", TAKE_TWO.to_owned()),
        ("gate-swallow", TAKE_TWO.to_owned()),
        // A second statement meets a transaction that is to be rolled back.
        ("gate-swallow", format!("{TAKE_TWO}; {INSERT}")),
    ] {
        let branch = sql(action, &format!("{INSERT}; {TAKE_ONE}|{behind}"));
        let (answer, ()) = tokio::join!(bank.prepare(&branch), deadlock(&bank));
        assert!(answer.is_err(), "{action}: {answer:?}");
        assert_eq!(bank.state(&branch).await, None, "the row went with the transaction");
        assert!(!bank.is_prepared(&branch).await);
        let healed = Branch { payload: INSERT.into(), action: "plain".into(), ..branch };
        Bank::yes(bank.prepare(&healed).await);
        bank.commit(&healed).await;
    }
    assert_eq!(bank.effects().await, 3);
}

#[tokio::test]
async fn s2_errors_of_the_work_are_a_no() {
    let bank = Bank::open().await;
    for (what, reason) in [
        ("INSERT INTO pair VALUES (1, 1)", "CONSTRAINT_VIOLATED"),
        ("INSERT INTO child VALUES (1000)", "CONSTRAINT_VIOLATED"),
        ("INSERT INTO effect VALUES ('no number')", "DATABASE_REFUSED"),
    ] {
        let branch = sql("plain", &format!("{INSERT}; {what}"));
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), reason, "{what}");
        assert_eq!(bank.state(&branch).await.as_deref(), Some("refused"));
        assert!(!bank.is_prepared(&branch).await);
    }
    let branch = sql("refuse", INSERT);
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "NO");
    assert_eq!(heuristic(branch.commit(&bank.service).await.unwrap()), HeuristicKind::Rollback);
    assert_eq!(bank.effects().await, 0);
    bank.is_clean().await;
}

/// The next user does not meet what a handler has set, and nor do the row and XA PREPARE.
#[tokio::test]
async fn s7_what_a_handler_has_set_is_gone() {
    let bank = Bank::open().await;
    let temporary = (!is_mysql()).then_some("CREATE TEMPORARY TABLE t (n int)");
    let mut effects = 0;
    for set in [
        "SET time_zone = '+09:00'",
        "SET timestamp = 1",
        "SET foreign_key_checks = 0",
        "SET sql_mode = ''",
        "SET innodb_lock_wait_timeout = 50",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION TRANSACTION READ WRITE",
        "USE mysql",
        "DO GET_LOCK('mine', 0)",
    ]
    .into_iter()
    .chain(temporary)
    {
        effects += 1;
        let branch = sql("plain", &format!("{INSERT}; {set}"));
        Bank::yes(bank.prepare(&branch).await);
        bank.is_clean().await;
        bank.commit(&branch).await;
        let age: i64 = sqlx::query_scalar(
            "SELECT CAST(abs(TIMESTAMPDIFF(SECOND, changed_at, UTC_TIMESTAMP())) AS signed)
             FROM unanimo_barrier WHERE tx_id = ?",
        )
        .bind(branch.tx_id().to_string())
        .fetch_one(&bank.pool)
        .await
        .unwrap();
        assert!(age < 30, "{set}: times are UTC: {age}");
    }
    assert_eq!(bank.effects().await, effects);
}
