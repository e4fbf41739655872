//! Looks at transactions that sleep, by callers that may see them and by others.

use tonic::Code;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{self, TransactionState, get_transaction_request};
use unanimo_tests::wait::until;

use super::roles::File;
use crate::coordinator::{millis, tcc};
use crate::store::count_at;

/// L5: a look wakes nobody who sleeps, and writes nothing, whether the caller may see it or is refused.
#[tokio::test]
async fn l5_who_asks_whose_a_sleeper_is_wakes_it_not() {
    let file = File::new();
    let world = file.world().await;
    let mut web = CoordinatorServiceClient::new(file.link(&world, 0));
    let request = v1::SubmitTransactionRequest {
        start_delay: millis(24 * 60 * 60 * 1000),
        wait_for: v1::WaitFor::Accepted.into(),
        ..tcc("tomorrow", &["ok"])
    };
    web.submit_transaction(request).await.unwrap();
    let engine = world.running.engine();
    until("it to leave memory", async || (engine.in_flight().0 == 0).then_some(())).await;
    let url = world.config.database_url.expose();
    let rows = count_at(url, "log").await;
    // Its initiator, its participant, an operator and a viewer see it; others do not.
    for (column, sees) in [(0, true), (1, false), (2, true), (3, false), (4, true), (5, true)] {
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        let key = Some(get_transaction_request::Key::Gid("tomorrow".into()));
        let request = v1::GetTransactionRequest { key, ..Default::default() };
        match client.get_transaction(request).await {
            Ok(found) => {
                let shown = found.into_inner().transaction.unwrap();
                assert_eq!((shown.state(), sees), (TransactionState::Scheduled, true), "{column}");
            }
            Err(status) => assert_eq!((status.code(), sees), (Code::NotFound, false), "{column}"),
        }
    }
    let mut batch = CoordinatorServiceClient::new(file.link(&world, 1));
    let key = Some(v1::rollback_transaction_request::Key::Gid("tomorrow".into()));
    let request = v1::RollbackTransactionRequest { key, ..Default::default() };
    let status = batch.rollback_transaction(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    assert_eq!((count_at(url, "log").await, engine.in_flight().0), (rows, 0));
}
