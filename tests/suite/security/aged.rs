//! The longest life of a connection.

use std::collections::BTreeSet;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::watch_transaction_request::Key;
use unanimo_proto::v1::{
    BeginTransactionRequest, ListAuditRequest, Mode, RetryTransactionRequest,
    RollbackTransactionRequest, WatchTransactionRequest, rollback_transaction_request,
};
use unanimo_tests::wait::until;

use crate::coordinator::{World, config, sqlite_url};

/// Returns the answer; nothing for a call whose connection has ended, which says no coordinator.
fn ended<T>(answer: Result<T, Status>) -> Option<T> {
    let of_connection = |status: &Status| {
        let code = matches!(status.code(), Code::Cancelled | Code::Unavailable | Code::Unknown);
        code && status.get_error_details().error_info().is_none()
    };
    match answer {
        Err(status) if of_connection(&status) => None,
        answer => Some(answer.expect("an answer")),
    }
}

/// A connection that is old is followed by another one, and a stream that is open on it goes on to its end.
#[tokio::test]
async fn an_old_connection_is_followed_by_another_one_and_ends_no_stream() {
    let mut config = config(&sqlite_url());
    config.connection_age_max = Period::secs(1);
    let world = World::start(config).await;
    let mut client = world.client();
    let (gid, mode) = ("g".to_owned(), Mode::Tcc.into());
    let request = BeginTransactionRequest { gid, mode, ..Default::default() };
    let tx_id = client.begin_transaction(request).await.unwrap().into_inner().tx_id;
    let key = Some(Key::TxId(tx_id.clone()));
    let watch = WatchTransactionRequest { key, ..Default::default() };
    let mut changes = client.watch_transaction(watch).await.unwrap().into_inner();
    changes.message().await.unwrap().expect("its first state");

    let operator = OperatorServiceClient::new(world.channel.clone());
    until("another connection to be made", async || {
        let mut operator = operator.clone();
        let request = RetryTransactionRequest { tx_id: tx_id.clone(), ..Default::default() };
        // A call that meets the end of its connection may never have been sent, and is sent again.
        ended(operator.retry_transaction(request).await)?;
        // Each act is entered with the address from which it came.
        let request = ListAuditRequest { page_size: 500, ..Default::default() };
        let listed = ended(operator.list_audit(request).await)?;
        let entries = listed.into_inner().entries.into_iter();
        let addresses: BTreeSet<String> = entries.map(|entry| entry.address).collect();
        assert!(addresses.iter().all(|address| address.starts_with("127.0.0.1:")), "{addresses:?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        (addresses.len() > 1).then_some(())
    })
    .await;
    let key = Some(rollback_transaction_request::Key::TxId(tx_id));
    let request = RollbackTransactionRequest { key, ..Default::default() };
    until("the rollback", async || {
        ended(client.clone().rollback_transaction(request.clone()).await)
    })
    .await;
    while let Some(change) = changes.message().await.expect("the stream goes on") {
        if change.transaction.unwrap().ended_at.is_some() {
            return;
        }
    }
    panic!("the stream ended before the transaction");
}
