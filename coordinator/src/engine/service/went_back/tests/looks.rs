//! Looks at transactions that a promoted server has asleep.

use unanimo_core::Start;
use uuid::Uuid;

use super::*;
use crate::store::Life;

/// Brings a transaction to memory that starts tomorrow, and rolls it back.
async fn roll_back(engine: &Handle, tx: &Transaction) {
    let (done, adopted) = tokio::sync::oneshot::channel();
    let records = vec![tx.record()];
    engine
        .send(Message::Adopt { records, generation: Some(0), woken: false, done })
        .expect("it runs");
    adopted.await.expect("it runs");
    let ended = engine.rollback(tx.tx_id(), Until::Ended, Instant::now() + HOUR).await;
    assert!(matches!(ended, Ok(Answer::View(_))), "{ended:?}");
}

/// S4, S10: a row that sleeps is of an earlier time where its transaction has ended. Whoever looks at it is told the end,
/// though no branches are remembered of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_s10_a_look_believes_no_row_of_an_earlier_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/looks.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let engine = start(&store, &faults, &mut tasks).await;
    let (now, policy) = (SystemEnv.now(), unanimo_core::Policy::default());
    let begin = |gid, bytes| {
        let mut definition = definition(gid);
        definition.start = Start::At(now.after(HOUR * 24));
        definition.branches[0].payload.data = vec![0; bytes].into();
        Transaction::begin(SystemEnv.tx_id(now), definition, now, &policy)
    };
    let (tx, effects) = begin("asleep", 0);
    // The promoted server has its begin.
    let write = Write {
        life: Life::begin(),
        write_id: Uuid::from_u64_pair(1, 1),
        base: Version::default(),
        former: None,
        transition: effects.transition.expect("its begin"),
    };
    let mut writer = store.store.batch_writer(engine.shared.me).await.expect("a writer");
    assert_eq!(writer.write(&[write]).await.expect("an answer"), [Written::Applied]);
    let key = Key::Tx(tx.tx_id());
    let stored = store.transactions().find(&key).await.expect("an answer").expect("a row");
    assert!(stored.record.state.wake_at.is_some(), "{stored:?}");
    roll_back(&engine, &tx).await;
    // It takes all the room for branches, and more.
    roll_back(&engine, &begin("large", 17 << 20).0).await;
    store.generation.fetch_add(1, Ordering::SeqCst);
    let told = engine.look(key.clone(), Instant::now() + HOUR).await;
    let Ok(Answer::View(view)) = told else { panic!("{told:?}") };
    assert!(view.tx.phase().ended_at().is_some(), "S10: {:?}", view.tx.phase());
    let stored = store.transactions().find(&key).await.expect("an answer").expect("a row");
    assert!(stored.record.state.phase.ended_at().is_some(), "S4: {stored:?}");
}
