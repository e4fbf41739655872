//! Names of prepared transactions, which are the whole server's.

use super::*;

/// As long as identifiers can be.
#[tokio::test]
async fn s7_the_longest_names_fit() {
    let bank = Bank::open().await;
    let name = "p".repeat(64);
    let service = serve(&name, MySql::connect(&bank.url).await.unwrap(), &bank.gate);
    let mut branch = sql("plain", INSERT);
    branch.context.participant = name;
    branch.context.cluster_id = "c".repeat(32);
    branch.context.branch_id = "b".repeat(128);
    branch.context.branch_number = u32::from(u16::MAX);
    Bank::yes(branch.prepare(&service).await);
    assert!(bank.is_prepared(&branch).await, "{}", xid(&branch));
    Bank::yes(branch.prepare(&service).await);
    let answer = branch.commit(&service).await.unwrap();
    assert!(matches!(answer, commit_response::Answer::Done(_)), "{answer:?}");
    assert_eq!(bank.effects().await, 1);
}

/// Two branches of one transaction at one participant.
#[tokio::test]
async fn s7_branches_of_one_transaction_are_prepared_by_themselves() {
    let bank = Bank::open().await;
    let first = sql("plain", INSERT);
    let mut second = first.clone();
    second.context.branch_id = "b".into();
    second.context.branch_number = 2;
    for branch in [&first, &second] {
        Bank::yes(bank.prepare(branch).await);
    }
    bank.commit(&first).await;
    assert!(bank.is_prepared(&second).await);
    bank.cancel(&second).await;
    assert_eq!(bank.effects().await, 1);
}

#[tokio::test]
async fn s12_commits_and_cancels_touch_their_own_transaction_only() {
    let bank = Bank::open().await;
    let (committed, cancelled) = (sql("plain", INSERT), sql("plain", INSERT));
    let mut others = Vec::new();
    for branch in [&committed, &cancelled] {
        Bank::yes(bank.prepare(branch).await);
        let mut other = branch.clone();
        other.context.cluster_id = "other".into();
        others.push(xid(&other));
        let mut other = branch.clone();
        other.context.participant = "q".into();
        others.push(xid(&other));
        let mut other = branch.clone();
        other.context.branch_number = 11;
        others.push(xid(&other));
        others.push(format!("'backup-{}','',1", branch.tx_id()));
    }
    for other in &others {
        let mut session = MySqlConnection::connect(&bank.url).await.unwrap();
        let work = format!("XA START {other}; {INSERT}; XA END {other}; XA PREPARE {other}");
        run(&mut session, &work).await.unwrap();
        end(session).await;
    }
    bank.commit(&committed).await;
    bank.cancel(&cancelled).await;
    let listed = prepared(&bank.pool).await;
    for other in others {
        // The server leaves out a bqual that is empty.
        let bare = other.replace(",'',1", "");
        assert!(listed.iter().any(|name| name.contains(&bare)), "{other}: {listed:?}");
        until("its session to let go of it", async || {
            let end = AssertSqlSafe(format!("XA ROLLBACK {other}"));
            sqlx::raw_sql(end).execute(&bank.pool).await.ok()
        })
        .await;
    }
}

#[tokio::test]
async fn s2_a_name_that_is_taken_in_another_database_is_no_vote() {
    let (bank, other) = (Bank::open().await, Bank::open().await);
    let branch = sql("plain", INSERT);
    Bank::yes(other.prepare(&branch).await);
    let status = bank.prepare(&branch).await.unwrap_err();
    assert!(status.message().contains("another database"), "{status:?}");
    assert_eq!(bank.state(&branch).await, None, "no vote: the other one may count");
    other.commit(&branch).await;
    assert_eq!((bank.effects().await, other.effects().await), (0, 1));
    bank.is_clean().await;
}

#[tokio::test]
async fn a_server_that_prepares_is_found_at_the_start() {
    let bank = Bank::open().await;
    assert!(MySql::connect(&bank.url).await.unwrap().can_prepare());
}
