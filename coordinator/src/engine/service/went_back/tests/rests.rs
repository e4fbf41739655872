//! Scans while the lease is not held.

use super::*;
use crate::engine::{adoption, sleepers};

/// L5: what is not asked for is not looked for without the lease. Where that is lost because a standby is gone, each claim
/// would wait for it at the server, on a connection of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l5_nothing_is_looked_for_while_the_lease_is_not_held() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/rests.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::One(u32::MAX)).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let length = Duration::from_secs(2);
    let (engine, renewals) = start_for(length, &store, &faults, &mut tasks).await;
    let wanted = Arc::new(Notify::new());
    for scan in [true, false] {
        let (engine, wanted) = (engine.clone(), Arc::clone(&wanted));
        tasks.spawn(async move {
            match scan {
                true => adoption::Service::new(engine, wanted).run().await,
                false => sleepers::Service::new(engine).run().await,
            }
        });
    }
    let looks = || store.looks.load(Ordering::SeqCst);
    while !engine.has_adopted() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(length).await;
    let before = looks();
    for _ in 0..6 {
        wanted.notify_one();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(looks(), before, "it is not held");
    tasks.spawn(async move { drop(renewals.run().await) });
    while looks() < before + 4 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
