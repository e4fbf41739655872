//! A standby that is promoted under a store, while the server before it is alive.

use unanimo_coordinator::store::{self, BatchError, Written};
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::{Fixture, LEASE, a_write};
use crate::fixtures::{Live, new_gid};
use crate::participant::promoted::{one, pair, promote};

/// Sessions with the server before go on by themselves. Nothing is written there any more once the new one was seen,
/// and nobody goes back to it.
#[tokio::test]
async fn s3_nothing_is_written_on_the_server_before_a_promoted_one() {
    let (primary, standby, url, there) = pair().await;
    let proxy = Proxy::start(primary.socket()).await;
    let fixture = Fixture::open(proxy.url(&url)).await;
    let begin = || [a_write(Live::begin(&new_gid()).1)];
    let mut writer = fixture.writer().await;
    assert_eq!(writer.write(&begin()).await.unwrap(), [Written::Applied]);
    let stored = "SELECT count(*) FROM unanimo.log";
    until("the standby to have it", async || {
        let there = there.clone();
        let has = tokio::spawn(async move { one(&there, stored).await == 1 }).await;
        has.unwrap_or(false).then_some(())
    })
    .await;
    promote(&there).await;
    assert_eq!(writer.write(&begin()).await.unwrap(), [Written::Applied], "nobody knows yet");
    assert_eq!(fixture.store.generation(), Some(0));

    proxy.lead_to(standby.socket());
    fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
    assert_eq!(fixture.store.generation(), Some(1));
    let error = writer.write(&begin()).await.unwrap_err();
    assert!(matches!(error, BatchError::Former(_)), "{error:?}");
    assert_eq!(one(&url, stored).await, 2);
    let mut writer = fixture.writer().await;
    assert_eq!(writer.write(&begin()).await.unwrap(), [Written::Applied]);
    assert_eq!(one(&there, stored).await, 2);

    proxy.lead_to(primary.socket());
    let error = fixture.store.batch_writer(fixture.me).await.unwrap_err();
    let text = store::in_full(&error);
    assert!(text.contains("is on an earlier timeline than the one before"), "{text}");
    assert_eq!(writer.write(&begin()).await.unwrap(), [Written::Applied]);
    assert_eq!((one(&url, stored).await, one(&there, stored).await), (2, 3));
}
