//! A transaction that a promoted server lacks, and whose gid another one has there.

use uuid::Uuid;

use super::*;
use crate::store::{Life, Retention};

/// S4, S10, L4: the promoted server has lost that an earlier transaction was deleted, and the one that was begun under the
/// same gid since. That one stays as it is; nothing of it is sent or told, and nothing of the earlier one in its place. Once
/// the purge has deleted the earlier one again, it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_s10_l4_what_is_lost_waits_until_its_gid_is_free_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/gids.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let engine = start(&store, &faults, &mut tasks).await;
    let (now, policy) = (SystemEnv.now(), unanimo_core::Policy::default());
    let gid = Gid::new("g").expect("a gid");
    let earlier = Transaction::tombstone(SystemEnv.tx_id(now), gid, String::new(), now, &policy);
    let write = Write {
        life: Life::begin(),
        // Of no feed, which would have to be through with it before the purge.
        write_id: Uuid::from_u64_pair(u64::MAX, 1),
        base: Version::default(),
        former: None,
        transition: earlier.1.transition.expect("its begin"),
    };
    let me = engine.shared.me;
    let mut writer = store.store.batch_writer(me).await.expect("a writer");
    assert_eq!(writer.write(&[write]).await.expect("an answer"), [Written::Applied]);

    faults.lock().expect("no panic").push(DOWN);
    let soon = || Instant::now() + Duration::from_secs(1);
    let begun = engine.begin(definition("g"), Until::Decided, Instant::now() + HOUR).await;
    let Ok(Answer::View(view)) = begun else { panic!("{begun:?}") };
    let key = Key::Tx(view.tx.tx_id());
    // Its Commit is answered before the promotion, or goes out after it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    store.generation.fetch_add(1, Ordering::SeqCst);
    engine.at_work().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    faults.lock().expect("no panic").clear();
    let told = engine.wait(key.clone(), Until::Durable, soon()).await;
    assert!(matches!(told, Ok(Answer::NotYet(_))), "S10: {told:?}");
    let told = engine.begin(definition("g"), Until::Decided, soon()).await;
    assert!(matches!(told, Ok(Answer::NotYet(_))), "S4: {told:?}");
    assert_eq!(*faults.lock().expect("no panic"), Vec::<&str>::new(), "it is stored nowhere yet");

    let retention = Retention { details: Duration::ZERO, gids: Duration::ZERO };
    for seconds in [1, 2] {
        let now = SystemEnv.now().after(Duration::from_secs(seconds));
        store.purge().run(me, retention, now).await.expect("a purge");
    }
    let soon = Instant::now() + Duration::from_secs(30);
    let ended = engine.wait(key.clone(), Until::Ended, soon).await;
    let Ok(Answer::View(view)) = ended else { panic!("L4: {ended:?}") };
    assert!(view.tx.phase().ended_at().is_some(), "L4: {:?}", view.tx.phase());
    let stored = store.transactions().find(&key).await.expect("an answer").expect("a row");
    assert_eq!(stored.record.state.phase.decision(), Some(Decision::Commit), "S4");
    assert_eq!(*faults.lock().expect("no panic"), Vec::<&str>::new());
}
