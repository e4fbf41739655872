//! Rows in doubt: the coordinator sends what it owes once it is asked.

use super::*;

#[tokio::test]
async fn s12_a_row_in_doubt_gets_its_commit_from_the_coordinator() {
    let (pool, _, service) = bank().await;
    let world = World::start(service.clone(), Ears::Deaf).await;
    let tx_id = world.submit(tcc("g", &["ok", "ok"]), Outcome::Committed).await;
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, told.alarmed), (2, 0), "the sweeper alone cannot do it");
    assert_eq!(states(&pool, &tx_id).await, pairs(&[("a", "prepared"), ("b", "prepared")]));
    world.p.set(Ears::Open);
    nothing_in_doubt(&sweeper).await;
    assert_eq!(states(&pool, &tx_id).await, pairs(&[("a", "committed"), ("b", "committed")]));
}

/// Cancel is owed to a row, and does not come: the coordinator sends it when it is asked.
async fn a_row_gets_its_cancel<R: Resource>(service: Service<R>, state: impl AsyncFn() -> String) {
    let world = World::start(service.clone(), Ears::Deaf).await;
    let begin =
        BeginTransactionRequest { gid: "g".into(), mode: Mode::Tcc.into(), ..Default::default() };
    let tx_id = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
    let branch = Some(crate::coordinator::branch("a", "ok"));
    world
        .client()
        .execute_branch(ExecuteBranchRequest { tx_id: tx_id.clone(), branch, ..Default::default() })
        .await
        .unwrap();
    let sweeper = service.sweep([world.url()], eager()).unwrap();
    assert_eq!(two_sweeps(&sweeper).await.count, 1);
    world
        .client()
        .rollback_transaction(RollbackTransactionRequest {
            key: Some(unanimo_proto::v1::rollback_transaction_request::Key::TxId(tx_id)),
            wait_for: 1,
            ..Default::default()
        })
        .await
        .unwrap();
    let told = two_sweeps(&sweeper).await;
    assert_eq!((told.count, told.alarmed), (1, 0));
    world.p.set(Ears::Open);
    nothing_in_doubt(&sweeper).await;
    assert_eq!(state().await, "cancelled");
}

const STATE: &str = "SELECT state FROM unanimo_barrier";

#[tokio::test]
async fn s12_a_row_of_sqlite_in_doubt_gets_its_cancel_from_the_coordinator() {
    let file = sqlite_url();
    let path = file.strip_prefix("sqlite:").unwrap();
    let participant = Participant::new("p", Sqlite::open(path).await.unwrap()).tcc("ok", Reserve);
    a_row_gets_its_cancel(participant.service().unwrap(), async || {
        let pool = sqlx::SqlitePool::connect(&file).await.unwrap();
        sqlx::query_scalar(STATE).fetch_one(&pool).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn s12_a_row_of_mariadb_in_doubt_gets_its_cancel_from_the_coordinator() {
    let url = mariadb::Server::shared().database().await;
    let participant = Participant::new("p", MySql::connect(&url).await.unwrap()).tcc("ok", Reserve);
    a_row_gets_its_cancel(participant.service().unwrap(), async || {
        let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
        sqlx::query_scalar(STATE).fetch_one(&pool).await.unwrap()
    })
    .await;
}
