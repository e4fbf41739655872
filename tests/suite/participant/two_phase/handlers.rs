//! Handlers that break the rules of a handler: none gets a yes that does not hold.

use super::*;

#[tokio::test]
async fn s2_a_handler_that_goes_on_after_an_error_gets_no_yes() {
    let bank = Bank::open().await;
    let branch = sql("swallow", "INSERT INTO effect VALUES (1); INSERT INTO nowhere VALUES (1)");
    let status = bank.prepare(&branch).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("went on after an error"), "{}", status.message());
    assert!(bank.prepared().await.is_empty());
    assert_eq!((bank.effects().await, bank.state(&branch).await), (0, None));
    bank.is_clean().await;
    bank.cancel(&branch).await;
}

/// Every statement fails alike in a block that has failed, and it need not be the one that the handler was given.
#[tokio::test]
async fn s7_s11_a_handler_that_goes_on_after_an_error_in_another_block_is_told() {
    let bank = Bank::open().await;
    let beside = format!("ROLLBACK; BEGIN READ WRITE; {INSERT}; COMMIT; BEGIN READ WRITE");
    for (action, fails) in [
        ("swallow", "SELECT 1 / 0"),
        ("read-swallow", "SELECT 1 / 0"),
        ("tcc-swallow", "SELECT 1 / 0"),
        // What only the check finds.
        ("swallow", "INSERT INTO child VALUES (7)"),
        ("tcc-swallow", "INSERT INTO child VALUES (7)"),
    ] {
        let way = format!("{beside}; {fails}");
        let before = bank.effects().await;
        let branch = sql(action, &way);
        for _ in 0..3 {
            let status = bank.prepare(&branch).await.unwrap_err();
            assert!(status.message().contains("it ended the local transaction"), "{status:?}");
        }
        assert_eq!(bank.effects().await, before + 1, "S7: {action}: {way}");
        assert_eq!(bank.state(&branch).await.as_deref(), Some("running"), "S11: {action}: {way}");
        let answer = branch.cancel(&bank.service).await.unwrap();
        assert!(matches!(answer, cancel_response::Answer::Heuristic(_)), "{way}: {answer:?}");
        if action != "tcc-swallow" {
            continue;
        }
        let branch = sql(action, INSERT);
        Bank::yes(bank.prepare(&branch).await);
        let before = bank.effects().await;
        let bad = Branch { payload: way.clone().into(), ..branch };
        bad.commit(&bank.service).await.unwrap_err();
        for _ in 0..2 {
            let answer = bad.commit(&bank.service).await.unwrap();
            assert_eq!(heuristic(answer), HeuristicKind::Hazard, "S11: {way}");
        }
        assert_eq!(bank.effects().await, before + 1, "S7: {way}");
    }
    assert!(bank.prepared().await.is_empty());
    bank.is_clean().await;
}

#[tokio::test]
async fn s2_a_handler_that_ends_its_transaction_gets_no_yes() {
    let bank = Bank::open().await;
    for ends in [
        "COMMIT",
        "COMMIT; BEGIN",
        "COMMIT; BEGIN; SAVEPOINT mine",
        "COMMIT; BEGIN READ WRITE; SAVEPOINT mine; INSERT INTO effect VALUES (2)",
        "ROLLBACK",
        "ROLLBACK; BEGIN",
        "ROLLBACK; BEGIN READ WRITE; INSERT INTO effect VALUES (2); COMMIT",
        "ROLLBACK AND CHAIN; INSERT INTO effect VALUES (2); COMMIT",
        // It only reads behind that, and passes on what the server says to it.
        "ROLLBACK; INSERT INTO effect VALUES (2)",
        "COMMIT; INSERT INTO effect VALUES (2)",
    ] {
        let branch = sql("plain", &format!("{INSERT}; {ends}"));
        let before = bank.effects().await;
        for _ in 0..3 {
            let status = bank.prepare(&branch).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "{ends}");
            assert!(
                status.message().contains("it ended the local transaction"),
                "{ends}: {status:?}"
            );
        }
        assert!(bank.prepared().await.is_empty(), "{ends}");
        assert!(bank.effects().await <= before + 1, "S7: {ends}");
        // S11: what it did by itself cannot be undone, and nobody can tell what that is.
        assert_eq!(bank.state(&branch).await.as_deref(), Some("running"), "{ends}");
        let answer = branch.cancel(&bank.service).await.unwrap();
        assert!(matches!(answer, cancel_response::Answer::Heuristic(_)), "{ends}: {answer:?}");
        let answer = branch.commit(&bank.service).await.unwrap();
        assert_eq!(heuristic(answer), HeuristicKind::Hazard, "{ends}");
    }
    // A name that it guesses is not there.
    let branch = sql("plain", &format!("{INSERT}; RELEASE SAVEPOINT unanimo_barrier"));
    bank.prepare(&branch).await.unwrap_err();
    assert_eq!((bank.state(&branch).await, bank.prepared().await.len()), (None, 0));
    bank.is_clean().await;
}

/// A handler drops a future in the middle of `begin`, and goes on.
#[tokio::test]
async fn s7_a_begin_that_is_dropped_leaves_no_effect() {
    let bank = Bank::open().await;
    for action in ["nested-abandon", "tcc-abandon"] {
        let branch = sql(action, INSERT);
        let mut votes = Vec::new();
        for _ in 0..3 {
            votes.push(bank.prepare(&branch).await.is_ok());
        }
        let prepared = votes[2];
        if prepared {
            // Its own abandoned begin may make the handler of phase two fail: then Commit comes again.
            until("an end", async || branch.commit(&bank.service).await.ok()).await;
        } else {
            assert_eq!(bank.effects().await, 0, "S7: {action}");
            let answer = branch.cancel(&bank.service).await.unwrap();
            let told = matches!(answer, cancel_response::Answer::Heuristic(_));
            assert_eq!(told, bank.state(&branch).await.as_deref() == Some("running"), "{answer:?}");
        }
        // One of TCC has another one in phase two.
        let most = if action.starts_with("tcc") { 2 } else { 1 };
        assert!(bank.effects().await <= most, "S7: {action}");
        bank.pool.execute("DELETE FROM effect").await.unwrap();
        bank.is_clean().await;
    }
}

#[tokio::test]
async fn s2_a_handler_that_prepares_its_transaction_gets_no_yes() {
    let bank = Bank::open().await;
    // All databases of a server share these names.
    let mine = format!("mine-{}", uuid::Uuid::new_v4());
    let branch = sql("plain", &format!("{INSERT}; PREPARE TRANSACTION '{mine}'"));
    let status = bank.prepare(&branch).await.unwrap_err();
    assert!(status.message().contains("it ended the local transaction"), "{status:?}");
    assert_eq!(bank.prepared().await, [&*mine]);
    // It holds the branch's row: the Cancel waits, and is never taken for done.
    let answer = branch.cancel(&bank.service).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");
    assert_eq!(bank.prepared().await, [&*mine], "S12: it is somebody else's");
    let rollback = format!("ROLLBACK PREPARED '{mine}'");
    bank.pool.execute(sqlx::AssertSqlSafe(rollback)).await.unwrap();
    // What else it did nobody can tell: that is recorded as soon as the row is free.
    let answer = branch.cancel(&bank.service).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Heuristic(_)), "S11: {answer:?}");
    assert_eq!(bank.state(&branch).await.as_deref(), Some("running"));
}

/// It holds the branch's row, which the record of the loss needs: it is ended first, and is not in doubt for ever.
#[tokio::test]
async fn s11_a_handler_that_prepares_its_transaction_under_our_name_is_ended_and_told() {
    let bank = Bank::open().await;
    for commits in [false, true] {
        let branch = sql("plain", "");
        let name = branch.name();
        let way = format!("{INSERT}; PREPARE TRANSACTION '{name}'");
        let branch = Branch { payload: way.into(), ..branch };
        for _ in 0..2 {
            let status = bank.prepare(&branch).await.unwrap_err();
            assert_eq!(status.code(), Code::Internal, "S2: {status:?}");
        }
        assert_eq!(bank.prepared().await, [name]);
        if commits {
            let answer = branch.commit(&bank.service).await.unwrap();
            assert_eq!(heuristic(answer), HeuristicKind::Hazard, "S11");
        } else {
            let answer = branch.cancel(&bank.service).await.unwrap();
            assert!(matches!(answer, cancel_response::Answer::Heuristic(_)), "S11: {answer:?}");
        }
        assert!(bank.prepared().await.is_empty(), "L1");
        assert_eq!(bank.effects().await, i64::from(commits));
        assert_eq!(bank.state(&branch).await.as_deref(), Some("running"));
    }
}

#[tokio::test]
async fn s2_transactions_inside_a_handlers_own_are_part_of_it() {
    let bank = Bank::open().await;
    for (action, effects) in [("nested-commit", 1), ("nested-drop", 0), ("nested-forget", 1)] {
        let branch = sql(action, INSERT);
        Bank::yes(bank.prepare(&branch).await);
        bank.commit(&branch).await;
        assert_eq!(bank.effects().await, effects, "{action}");
        bank.pool.execute("DELETE FROM effect").await.unwrap();
        bank.is_clean().await;
    }
}

/// sqlx takes a COMMIT for a RELEASE where it believes that another transaction is open inside. For other
/// drivers what was forgotten is a part of the handler's work.
#[tokio::test]
async fn s2_a_handler_of_tcc_that_forgets_a_transaction_gets_no_yes() {
    let bank = Bank::open().await;
    let branch = sql("tcc-forget", INSERT);
    let answer = bank.prepare(&branch).await;
    if over::REMEMBERS_NESTED {
        answer.unwrap_err();
        assert_eq!((bank.effects().await, bank.state(&branch).await), (0, None));
    } else {
        Bank::yes(answer);
        assert_eq!(bank.effects().await, 1);
        bank.commit(&branch).await;
    }
    bank.is_clean().await;
}

#[tokio::test]
async fn s7_a_confirm_that_goes_on_after_an_error_is_not_done() {
    let bank = Bank::open().await;
    let branch = sql("tcc", INSERT);
    Bank::yes(bank.prepare(&branch).await);
    let bad = Branch { payload: "INSERT INTO nowhere VALUES (1)".into(), ..branch.clone() };
    bad.commit(&bank.service).await.unwrap_err();
    assert_eq!(bank.state(&branch).await.as_deref(), Some("prepared"));
    bank.commit(&branch).await;
    assert_eq!((bank.effects().await, bank.state(&branch).await), (2, Some("committed".into())));
    // What it may have done behind a transaction that it has ended is not done again.
    let insert_and_commit = format!("{INSERT}; COMMIT");
    for (bad, effects) in [("ROLLBACK", 3), ("ROLLBACK; BEGIN", 4), (&insert_and_commit, 6)] {
        let branch = sql("tcc", INSERT);
        Bank::yes(bank.prepare(&branch).await);
        let bad = Branch { payload: bad.to_owned().into(), ..branch.clone() };
        bad.commit(&bank.service).await.unwrap_err();
        for _ in 0..2 {
            let answer = bad.commit(&bank.service).await.unwrap();
            assert_eq!(heuristic(answer), HeuristicKind::Hazard, "S11");
        }
        assert_eq!(bank.effects().await, effects, "S7");
    }
}

#[tokio::test]
async fn s8_a_no_undoes_everything_whatever_savepoints_the_handler_set() {
    let bank = Bank::open().await;
    for savepoint in ["SAVEPOINT unanimo", "SAVEPOINT mine", "SELECT 1"] {
        let branch = sql("refuse", &format!("{INSERT}; {savepoint}; {INSERT}"));
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "NO");
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "NO", "stored");
        assert_eq!(bank.effects().await, 0, "{savepoint}");
    }
    bank.is_clean().await;
}

/// A setting of a handler ends with it, and neither loses its row nor makes its vote forgettable.
#[tokio::test]
async fn s7_a_handlers_settings_are_its_own() {
    let bank = Bank::open().await;
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    let roles =
        format!("CREATE ROLE {role}; GRANT INSERT ON effect TO {role}; CREATE SCHEMA other");
    bank.pool.execute(AssertSqlSafe(roles)).await.unwrap();
    for set in [
        "SET lock_timeout = 0; SET statement_timeout = 0".to_owned(),
        "SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 1".to_owned(),
        "SET synchronous_commit = off".to_owned(),
        "SET LOCAL synchronous_commit = off".to_owned(),
        format!("SET ROLE {role}"),
        format!("SET LOCAL ROLE {role}"),
        format!("SET SESSION AUTHORIZATION {role}"),
        "SET search_path = other".to_owned(),
        "SET LOCAL search_path = other".to_owned(),
        "SET default_transaction_isolation = serializable".to_owned(),
        "SELECT pg_advisory_lock(1)".to_owned(),
        "DEALLOCATE ALL".to_owned(),
    ] {
        for action in ["plain", "tcc"] {
            let branch = sql(action, &format!("{INSERT}; {set}"));
            let mut answer = bank.prepare(&branch).await;
            if answer.is_err() && set == "DEALLOCATE ALL" {
                answer = bank.prepare(&Branch { payload: INSERT.into(), ..branch.clone() }).await;
            }
            Bank::yes(answer);
            bank.is_clean().await;
            if action == "plain" {
                let owner: String =
                    sqlx::query_scalar("SELECT owner FROM pg_prepared_xacts WHERE gid = $1")
                        .bind(branch.name())
                        .fetch_one(&bank.pool)
                        .await
                        .unwrap();
                assert_eq!(owner, "unanimo", "{set}: whoever prepares can commit");
            }
            bank.commit(&Branch { payload: INSERT.into(), ..branch.clone() }).await;
        }
    }
    assert_eq!(bank.effects().await, 3 * 12);
    bank.pool
        .execute(AssertSqlSafe(format!("DROP OWNED BY {role}; DROP ROLE {role}")))
        .await
        .unwrap();
}

/// The settings that the commit of a row is made with are ours.
#[tokio::test]
async fn s7_a_vote_is_committed_synchronously() {
    let bank = Bank::open().await;
    let trap = "CREATE TABLE mode (setting text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.mode VALUES (current_setting('synchronous_commit')); RETURN NULL;
        END $$;
        CREATE TRIGGER note AFTER UPDATE ON unanimo_barrier FOR EACH ROW EXECUTE FUNCTION note()";
    bank.pool.execute(trap).await.unwrap();
    for action in ["plain", "tcc"] {
        let branch = sql(action, "SET LOCAL synchronous_commit = off");
        Bank::yes(bank.prepare(&branch).await);
        bank.commit(&branch).await;
    }
    let modes: Vec<String> =
        sqlx::query_scalar("SELECT setting FROM mode").fetch_all(&bank.pool).await.unwrap();
    // TCC notes in its row that phase two is at work.
    assert_eq!(modes, ["on"; 4]);
}
