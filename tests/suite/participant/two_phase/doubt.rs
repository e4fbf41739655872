//! Phase two that finds something else than it expects.

use super::*;

#[tokio::test]
async fn s12_commits_and_cancels_touch_their_own_transaction_only() {
    let bank = Bank::open().await;
    let (committed, cancelled) = (sql("plain", INSERT), sql("plain", INSERT));
    let mut others = vec!["backup".to_owned()];
    for branch in [&committed, &cancelled] {
        Bank::yes(bank.prepare(branch).await);
        for (cluster, participant) in [("other", "p"), (super::super::direct::CLUSTER, "q")] {
            let mut other = branch.clone();
            other.context.cluster_id = cluster.into();
            other.context.participant = participant.into();
            others.push(other.name());
        }
        let mut second = branch.clone();
        second.context.branch_number = 11;
        others.push(second.name());
    }
    for name in &others {
        let mut connection = PgConnection::connect(&bank.url).await.unwrap();
        let prepare = format!("BEGIN; {INSERT}; PREPARE TRANSACTION '{name}'");
        connection.execute(AssertSqlSafe(prepare)).await.unwrap();
    }
    bank.commit(&committed).await;
    bank.cancel(&cancelled).await;
    let mut left = bank.prepared().await;
    left.sort();
    others.sort();
    assert_eq!(left, others);
    for name in others {
        bank.pool.execute(AssertSqlSafe(format!("ROLLBACK PREPARED '{name}'"))).await.unwrap();
    }
    assert_eq!(bank.effects().await, 1);
}
