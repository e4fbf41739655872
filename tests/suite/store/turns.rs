//! Turns to write an SQLite file.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;
use unanimo_coordinator::store::Written;
use unanimo_tests::wait::until;

use super::{Fixture, LEASE, a_write};
use crate::fixtures::{Live, definition, new_gid, now};

/// L1: a renewal of the lease is written when its turn comes, however many others want to write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l1_a_renewal_waits_for_the_writes_before_it_alone() {
    const WRITERS: usize = 8;
    let fixture = Fixture::sqlite().await;
    let count: Arc<AtomicUsize> = Arc::default();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (mut writer, count) = (fixture.writer().await, Arc::clone(&count));
        let mut large = definition(&new_gid());
        large.branches[0].payload.data = vec![7; 1 << 20].into();
        writers.spawn(async move {
            loop {
                large.gid = new_gid();
                let (_, begin) = Live::begin_with(large.clone(), now());
                assert_eq!(writer.write(&[a_write(begin)]).await.unwrap(), [Written::Applied]);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let written = || count.load(Ordering::Relaxed);
    until("all to write", async || (written() > WRITERS).then_some(())).await;
    let mut most = 0;
    for _ in 0..30 {
        let before = written();
        fixture.store.incarnations().renew(fixture.me, LEASE).await.unwrap();
        most = most.max(written() - before);
    }
    // Those that came before it, and as many while it comes to its turn and back.
    assert!(most <= 2 * WRITERS, "a renewal waited for {most} writes of {WRITERS} writers");
}
