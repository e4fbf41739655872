//! Commits and Cancels that come while the server is still letting go of the prepared transaction.
//!
//! MariaDB answers such a one that it is done, and has ended nothing: its transaction keeps its locks, and has
//! lost its name. The moment is short; a session with many variables and statements makes it long.

use tokio::task::JoinSet;
use unanimo_tests::alarms::Alarms;

use super::*;

const ROUNDS: i64 = 24;

/// SQL after which the end of the session takes the server some milliseconds: it frees variables before the
/// session's locks, and statements behind them.
fn slow_to_end() -> String {
    let variables: Vec<_> = (0..2000).map(|n| format!("@v{n} = 1")).collect();
    let statements: Vec<_> = (0..1000).map(|n| format!("PREPARE s{n} FROM 'DO 0'")).collect();
    format!("SET {}; {}", variables.join(", "), statements.join("; "))
}

/// A participant through a proxy, on whose server prepared transactions stay with their sessions.
async fn attached() -> (Bank, Proxy) {
    let server = Server::shared();
    let proxy = Proxy::start(server.socket()).await;
    proxy.rewrite("pseudo_slave_mode", "pseudo_slave_none");
    let url = server.database().await;
    let by = proxy.mariadb_url(&url);
    (Bank::at(url, &by).await, proxy)
}

/// Tells whether nobody has a lock on a row that a handler has written.
async fn nothing_is_locked(bank: &Bank) -> bool {
    let mut session = MySqlConnection::connect(&bank.url).await.unwrap();
    run(&mut session, "SET innodb_lock_wait_timeout = 1").await.unwrap();
    run(&mut session, "SELECT n FROM effect FOR UPDATE").await.is_ok()
}

/// Sends it a few times, a little later each time, so that one of them comes at the wrong moment.
async fn commits_at_every_moment(bank: &Bank, branch: &Branch, expected: i64) {
    let mut commits = JoinSet::new();
    for n in 0..8 {
        let (branch, service) = (branch.clone(), bank.service.clone());
        commits.spawn(async move {
            tokio::time::sleep(Duration::from_micros(400 * n)).await;
            branch.commit(&service).await
        });
    }
    while let Some(answer) = commits.join_next().await {
        match answer.unwrap().unwrap() {
            commit_response::Answer::Done(_) => {
                assert_eq!(bank.effects().await, expected, "done, and not committed");
            }
            commit_response::Answer::Working(_) => {}
            other => panic!("{other:?}"),
        }
    }
    bank.commit(branch).await;
    assert_eq!(bank.effects().await, expected);
}

async fn commits_behind_their_prepares(bank: &Bank) {
    for round in 1..=ROUNDS {
        let branch = sql("plain", &format!("{INSERT}; {}", slow_to_end()));
        Bank::yes(bank.prepare(&branch).await);
        commits_at_every_moment(bank, &branch, round).await;
    }
    assert!(nothing_is_locked(bank).await);
    assert_eq!(bank.uncommitted().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_commit_right_behind_its_prepare_is_done_once_it_is_committed() {
    commits_behind_their_prepares(&Bank::open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_commit_right_behind_its_prepare_is_done_where_sessions_keep_transactions() {
    commits_behind_their_prepares(&attached().await.0).await;
}

/// Sends it a few times, as [`commits_at_every_moment`] does.
async fn cancels_at_every_moment(bank: &Bank, branch: &Branch) {
    let mut cancels = JoinSet::new();
    for n in 0..8 {
        let (branch, service) = (branch.clone(), bank.service.clone());
        cancels.spawn(async move {
            tokio::time::sleep(Duration::from_micros(400 * n)).await;
            branch.cancel(&service).await
        });
    }
    for answer in cancels.join_all().await {
        let answer = answer.unwrap();
        assert!(!matches!(answer, cancel_response::Answer::Heuristic(_)), "{answer:?}");
    }
}

/// Cancels that meet their Prepare at work, or come right behind it.
async fn cancels_beside_their_prepares(bank: &Bank) {
    for round in 0..ROUNDS {
        let branch = sql("plain", &format!("{INSERT}; {}", slow_to_end()));
        let prepare = tokio::spawn({
            let (branch, service) = (branch.clone(), bank.service.clone());
            async move { branch.prepare(&service).await }
        });
        if round % 2 == 0 {
            // The statements of the handler take most of the time.
            tokio::time::sleep(Duration::from_millis(5 * round.unsigned_abs())).await;
            cancels_at_every_moment(bank, &branch).await;
            drop(prepare.await.unwrap());
        } else {
            Bank::yes(prepare.await.unwrap());
            cancels_at_every_moment(bank, &branch).await;
        }
        bank.cancel(&branch).await;
        assert_eq!(bank.state(&branch).await.as_deref(), Some("cancelled"));
        assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "ALREADY_ENDED");
    }
    assert!(nothing_is_locked(bank).await);
    assert_eq!((bank.effects().await, bank.uncommitted().await), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_a_cancel_beside_its_prepare_leaves_no_locks() {
    cancels_beside_their_prepares(&Bank::open().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s8_a_cancel_beside_its_prepare_leaves_no_locks_where_sessions_keep_transactions() {
    cancels_beside_their_prepares(&attached().await.0).await;
}

/// Number of the session that the handler of the next branch works in.
async fn session_of_a_yes(bank: &Bank) -> i64 {
    let branch = sql("plain", "INSERT INTO effect VALUES (CONNECTION_ID())");
    Bank::yes(bank.prepare(&branch).await);
    bank.commit(&branch).await;
    let session = sqlx::query_scalar("SELECT max(n) FROM effect").fetch_one(&bank.pool);
    let session: i32 = session.await.unwrap();
    session.into()
}

#[tokio::test]
async fn a_session_goes_on_behind_a_yes() {
    // It does not tell everybody what a session has done, so that each use has a session of its own.
    if is_mysql() {
        return;
    }
    let bank = Bank::open().await;
    let first = session_of_a_yes(&bank).await;
    assert_eq!(session_of_a_yes(&bank).await, first);
    bank.is_clean().await;
    let (bank, _proxy) = attached().await;
    let first = session_of_a_yes(&bank).await;
    assert_ne!(session_of_a_yes(&bank).await, first, "only its end frees the transaction");
    bank.is_clean().await;
}

/// An answer is not enough: the server says so, and has done nothing.
#[tokio::test]
async fn s7_an_end_is_believed_only_with_its_row() {
    let (bank, proxy) = behind_a_proxy().await;
    let committed = sql("plain", INSERT);
    Bank::yes(bank.prepare(&committed).await);
    proxy.rewrite("XA COMMIT", "DO 0 --  ");
    let answer = committed.commit(&bank.service).await.unwrap();
    assert!(matches!(answer, commit_response::Answer::Working(_)), "{answer:?}");
    proxy.rewrite_nothing();
    bank.commit(&committed).await;
    assert_eq!(bank.effects().await, 1);

    let cancelled = sql("plain", INSERT);
    Bank::yes(bank.prepare(&cancelled).await);
    proxy.rewrite("XA ROLLBACK", "DO 0 --    ");
    let answer = cancelled.cancel(&bank.service).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");
    proxy.rewrite_nothing();
    bank.cancel(&cancelled).await;
    assert_eq!((bank.effects().await, bank.is_prepared(&cancelled).await), (1, false));
}

/// Prepares a branch's transaction whose name the server then loses.
async fn prepared_and_nameless(bank: &Bank) -> Branch {
    let before = bank.uncommitted().await;
    for _ in 0..500 {
        let branch = sql("plain", INSERT);
        let mut session = MySqlConnection::connect(&bank.url).await.unwrap();
        run(&mut session, &slow_to_end()).await.unwrap();
        bank.work_by_hand(&mut session, &branch).await;
        run(&mut session, &format!("XA PREPARE {}", xid(&branch))).await.unwrap();
        let closing = tokio::spawn(end(session));
        let mut other = MySqlConnection::connect(&bank.url).await.unwrap();
        let rollback = format!("XA ROLLBACK {}", xid(&branch));
        while run(&mut other, &rollback).await.is_err() {}
        closing.await.unwrap();
        if bank.uncommitted().await > before {
            assert!(!bank.is_prepared(&branch).await, "the server lists it no longer");
            return branch;
        }
    }
    panic!("the server has not lost a name in 500 attempts");
}

async fn server_with_a_binary_log() -> Server {
    let start = || Server::start_with(&["--log-bin", "--server-id=1"]);
    tokio::task::spawn_blocking(start).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_a_transaction_whose_name_is_lost_is_ended_all_the_same() {
    // It loses no names.
    if is_mysql() {
        return;
    }
    for server in [Server::start(), server_with_a_binary_log().await] {
        let bank = Bank::on(&server).await;
        let branch = prepared_and_nameless(&bank).await;
        bank.commit(&branch).await;
        assert_eq!(bank.state(&branch).await.as_deref(), Some("committed"));
        assert_eq!((bank.effects().await, bank.uncommitted().await), (1, 0));
        bank.commit(&branch).await;

        let branch = prepared_and_nameless(&bank).await;
        bank.cancel(&branch).await;
        assert_eq!(bank.state(&branch).await.as_deref(), Some("cancelled"));
        assert_eq!((bank.effects().await, bank.uncommitted().await), (1, 0));
        assert!(prepared(&bank.pool).await.is_empty());
        assert!(nothing_is_locked(&bank).await);
        until("nothing to be left", async || (left_behind(&bank).await == 0).then_some(())).await;
    }
}

/// Counts the transactions of the server that no session has. It looks at most ten times a second.
async fn left_behind(bank: &Bank) -> i64 {
    let count = "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id = 0";
    sqlx::query_scalar(count).fetch_one(&bank.pool).await.unwrap()
}

/// Where naming it again does not help, its branch is told to need a restart, and ends behind one.
#[tokio::test]
async fn s7_a_transaction_whose_name_is_lost_for_good_is_told_and_ends_after_a_restart() {
    // It loses no names.
    if is_mysql() {
        return;
    }
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let (alarms, _guard) = Alarms::listen();
    let proxy = Proxy::start(server.socket()).await;
    let url = server.database().await;
    let bank = Bank::at(url.clone(), &proxy.mariadb_url(&url)).await;
    let committed = prepared_and_nameless(&bank).await;
    let cancelled = prepared_and_nameless(&bank).await;
    proxy.rewrite("XA COMMIT", "DO 0 --  ");
    let status = committed.commit(&bank.service).await.unwrap_err();
    assert!(status.message().contains("after a restart of the server"), "{status:?}");
    proxy.rewrite("XA ROLLBACK", "DO 0 --    ");
    let status = cancelled.cancel(&bank.service).await.unwrap_err();
    assert!(status.message().contains("after a restart of the server"), "{status:?}");
    let told = alarms.named("prepared_name_lost");
    assert!(told.len() == 2 && told[0].contains(&xid(&committed)), "{told:?}");
    proxy.rewrite_nothing();

    server.kill();
    server.launch();
    until("the test's own pool to come back", async || {
        sqlx::query("SELECT 1").execute(&bank.pool).await.ok()
    })
    .await;
    assert!(bank.is_prepared(&committed).await && bank.is_prepared(&cancelled).await);
    until("the participant's, too", async || committed.commit(&bank.service).await.ok()).await;
    bank.commit(&committed).await;
    bank.cancel(&cancelled).await;
    assert_eq!(bank.state(&cancelled).await.as_deref(), Some("cancelled"));
    assert_eq!((bank.effects().await, bank.uncommitted().await), (1, 0));
    assert!(prepared(&bank.pool).await.is_empty());
}

/// A Prepare waits for whoever ends its branch at that moment, and then finds that it has come too late.
#[tokio::test]
async fn s8_nobody_prepares_while_phase_two_is_at_work() {
    let bank = Bank::open().await;
    let branch = sql("plain", INSERT);
    let mut other = MySqlConnection::connect(&bank.url).await.unwrap();
    let (tx_id, hash) = (branch.tx_id().simple(), lock_hash(&branch));
    let name = format!("unanimo:{tx_id}:0001:{hash}");
    run(&mut other, &format!("DO GET_LOCK('{name}', 0)")).await.unwrap();
    let answer = bank.prepare(&branch).await.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Working(_)), "{answer:?}");
    assert!(!bank.is_prepared(&branch).await);
    let answer = branch.cancel(&bank.service).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Working(_)), "{answer:?}");
    end(other).await;
    bank.cancel(&branch).await;
    assert_eq!(refused(bank.prepare(&branch).await.unwrap()), "ALREADY_ENDED");
    assert_eq!(bank.effects().await, 0);
}

/// The hash in the name of a branch's lock: FNV-1a of cluster and participant.
fn lock_hash(branch: &Branch) -> String {
    let names = format!("{}/{}", branch.context.cluster_id, branch.context.participant);
    let hash = names.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
