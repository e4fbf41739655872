//! Refusals of PostgreSQL.

use super::*;

/// Nothing was kept, and the same answer comes again.
async fn is_refused(bank: &Bank, branch: &Branch, reason: &str) {
    assert_eq!(refused(bank.prepare(branch).await.unwrap()), reason);
    assert_eq!(bank.state(branch).await.as_deref(), Some("refused"));
    let twin = Branch { payload: INSERT.into(), ..branch.clone() };
    assert_eq!(refused(bank.prepare(&twin).await.unwrap()), reason, "stored");
    assert!(!bank.prepared().await.contains(&branch.name()));
    bank.cancel(branch).await;
    assert_eq!(bank.state(branch).await.as_deref(), Some("refused"));
}

#[tokio::test]
async fn s2_deferred_constraints_are_checked_before_the_vote() {
    let bank = Bank::open().await;
    let orphan = format!("{INSERT}; INSERT INTO child VALUES (7)");
    for action in ["plain", "tcc"] {
        is_refused(&bank, &sql(action, &orphan), "CONSTRAINT_VIOLATED").await;
    }
    assert_eq!(bank.effects().await, 0);
    let fits = sql("plain", &format!("{orphan}; INSERT INTO parent VALUES (7)"));
    Bank::yes(bank.prepare(&fits).await);
    bank.commit(&fits).await;
    bank.is_clean().await;
}

#[tokio::test]
async fn s2_what_cannot_be_prepared_is_refused() {
    let bank = Bank::open().await;
    for what in [
        "CREATE TEMPORARY TABLE t (n integer)",
        "LISTEN somebody",
        "NOTIFY somebody",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    ] {
        is_refused(&bank, &sql("plain", &format!("{INSERT}; {what}")), "CANNOT_BE_PREPARED").await;
        bank.is_clean().await;
    }
    assert_eq!(bank.effects().await, 0);
}

/// A handler of TCC may do all that, and the next one does not meet it.
#[tokio::test]
async fn s7_what_a_handler_of_tcc_left_on_its_connection_is_gone() {
    let bank = Bank::open().await;
    for what in [
        "CREATE TEMPORARY TABLE t (n integer)",
        "LISTEN somebody",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT pg_advisory_lock(1)",
    ] {
        let branch = sql("tcc", what);
        Bank::yes(bank.prepare(&branch).await);
        bank.is_clean().await;
        bank.cancel(&branch).await;
    }
}

#[tokio::test]
async fn s2_full_slots_are_a_clear_no() {
    let server =
        tokio::task::spawn_blocking(|| Server::start_with("max_prepared_transactions = 1\n"));
    let server = server.await.unwrap();
    let bank = Bank::on(&server).await;
    let first = sql("plain", INSERT);
    Bank::yes(bank.prepare(&first).await);
    let second = sql("plain", INSERT);
    is_refused(&bank, &second, "PREPARED_TRANSACTIONS_FULL").await;
    Bank::yes(bank.prepare(&first).await);
    bank.commit(&first).await;
    assert_eq!(bank.effects().await, 1);
    // The slot is free again, and the no stands.
    Bank::yes(bank.prepare(&sql("plain", INSERT)).await);
    assert_eq!(refused(bank.prepare(&second).await.unwrap()), "PREPARED_TRANSACTIONS_FULL");
}

#[tokio::test]
async fn a_server_that_prepares_nothing_is_found_at_the_start() {
    let server =
        tokio::task::spawn_blocking(|| Server::start_with("max_prepared_transactions = 0\n"));
    let server = server.await.unwrap();
    let url = server.database().await;
    let postgres = over::connect(PostgresOptions::default(), &url).await.unwrap();
    assert!(!postgres.can_prepare());
    let participant = Participant::new("p", postgres.clone()).two_phase("plain", Sql::Plain);
    let error = participant.service().unwrap_err();
    assert!(error.to_string().contains("max_prepared_transactions"), "{error}");
    // What only reads, or is TCC, needs none.
    let participant = Participant::new("p", postgres)
        .two_phase("read", Sql::Read { swallow: false })
        .tcc("tcc", TccSql(Sql::Plain));
    let service = participant.service().unwrap();
    let answer = sql("read", "SELECT 1").prepare(&service).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::ReadOnly(_)), "{answer:?}");
}

/// Names of prepared transactions are the whole server's.
#[tokio::test]
async fn s2_a_name_that_is_taken_elsewhere_is_no_vote() {
    let (bank, other) = (Bank::open().await, Bank::open().await);
    let branch = sql("plain", INSERT);
    Bank::yes(other.prepare(&branch).await);
    let status = bank.prepare(&branch).await.unwrap_err();
    assert!(status.message().contains("another database"), "{status:?}");
    assert_eq!(bank.state(&branch).await, None, "no vote: the other one may count");
    // Nor is it committed or cancelled from here.
    let status = branch.commit(&bank.service).await.unwrap_err();
    assert!(status.message().contains("must use one database"), "{status:?}");
    let status = branch.cancel(&bank.service).await.unwrap_err();
    assert!(status.message().contains("must use one database"), "{status:?}");
    assert_eq!(bank.state(&branch).await, None);
    assert_eq!(other.prepared().await, [branch.name()]);
    other.commit(&branch).await;
    bank.is_clean().await;
}

#[tokio::test]
async fn s11_a_role_that_may_not_commit_it_does_not_say_that_it_did() {
    let bank = Bank::open().await;
    let role = format!("role_{}", uuid::Uuid::new_v4().simple());
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
         GRANT CREATE ON SCHEMA public TO {role}"
    );
    bank.pool.execute(AssertSqlSafe(grants)).await.unwrap();
    let (_, place) = bank.url.split_once('@').unwrap();
    let by = format!("postgres://{role}@{place}");
    let plain = Bank::at(bank.url.clone(), &by).await;

    let branch = sql("plain", INSERT);
    Bank::yes(bank.prepare(&branch).await);
    let status = branch.commit(&plain.service).await.unwrap_err();
    assert!(status.message().contains("only the role that prepared it"), "{status:?}");
    branch.cancel(&plain.service).await.unwrap_err();
    assert_eq!(bank.prepared().await, [branch.name()]);
    // Told by the name alone, by whoever asks: the one who may not end it can still say yes again.
    Bank::yes(plain.prepare(&branch).await);
    bank.commit(&branch).await;
    plain.commit(&branch).await;

    // A role without any privilege beyond its tables does everything else.
    let own = sql("plain", INSERT);
    Bank::yes(plain.prepare(&own).await);
    Bank::yes(plain.prepare(&own).await);
    plain.commit(&own).await;
    plain.is_clean().await;
}
