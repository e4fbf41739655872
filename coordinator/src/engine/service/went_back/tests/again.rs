//! Ends and calls behind a promotion, and behind the next one.

use super::*;
use crate::engine::{BranchKey, Verdict};

/// S3: a Commit that has waited for its participant since before the promotion goes out once the decision is stored again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_a_call_that_waits_for_its_participant_waits_for_its_decision_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/waiting.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    faults.lock().expect("no panic").push(DOWN);
    let engine = start(&store, &faults, &mut tasks).await;
    let deadline = Instant::now() + HOUR;
    let mut decided = Vec::new();
    // Their Commits fail, until nothing more is begun with it, and then they wait for it together.
    for n in 0.. {
        let begun = engine.begin(definition(&format!("g-{n}")), Until::Decided, deadline).await;
        let Ok(Answer::View(view)) = begun else { break };
        decided.push(Key::Tx(view.tx.tx_id()));
        assert!(n < 200, "its breaker does not open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!decided.is_empty());
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.held.send_replace(true);
    store.generation.fetch_add(1, Ordering::SeqCst);
    // It notices that with its next message; what was sent before is answered by then.
    engine.at_work().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    faults.lock().expect("no panic").clear();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(*faults.lock().expect("no panic"), Vec::<&str>::new(), "it is stored nowhere yet");
    store.held.send_replace(false);
    for key in decided {
        let ended = engine.wait(key, Until::Ended, deadline).await;
        assert!(matches!(ended, Ok(Answer::View(_))), "{ended:?}");
    }
    assert_eq!(*faults.lock().expect("no panic"), Vec::<&str>::new());
}

/// S4, S9: of an end that is remembered without its branches a row without details is written. Whoever asks meanwhile hears of
/// the outcome, and of no branch that was never there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s4_s9_an_end_without_its_branches_is_stored_and_shown_as_stripped() {
    // More than is remembered with branches.
    const COUNT: usize = 24;
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/stripped.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let engine = start(&store, &faults, &mut tasks).await;
    let deadline = Instant::now() + HOUR;
    let mut ended = Vec::new();
    for n in 0..COUNT {
        let mut definition = definition(&format!("g-{n}"));
        definition.branches[0].payload.data = vec![0; 900 << 10].into();
        let begun = engine.begin(definition, Until::Ended, deadline).await;
        let Ok(Answer::View(view)) = begun else { panic!("{begun:?}") };
        ended.push(view.tx.tx_id());
    }
    store.held.send_replace(true);
    store.generation.fetch_add(1, Ordering::SeqCst);
    while engine.at_work().await < COUNT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (first, last) = (ended[0], ended[COUNT - 1]);
    let id = BranchId::new("a").expect("an id");
    let (p, asked) = (ParticipantName::new("p").expect("a name"), BranchKey::Id(id.clone()));
    let asked = [(first, asked)];
    let release = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        store.held.send_replace(false);
    };
    let (told, inquired, ()) = tokio::join!(
        engine.commit(first, vec![(id, None)], Until::Ended, deadline),
        engine.inquire(&p, &asked, deadline),
        release
    );
    let Ok(Answer::View(view)) = told else { panic!("S9: {told:?}") };
    assert_eq!((view.stripped, view.tx.phase().decision()), (true, Some(Decision::Commit)));
    let inquired = inquired.expect("an answer");
    assert!(matches!(inquired[0].verdict, Verdict::Purged), "{:?}", inquired[0].verdict);
    for (tx_id, stripped) in [(first, true), (last, false)] {
        let key = Key::Tx(tx_id);
        while store.transactions().find(&key).await.expect("an answer").is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stored = store.transactions().find(&key).await.expect("an answer").expect("a row");
        assert_eq!((stored.stripped, stored.record.branches.is_empty()), (stripped, stripped));
        assert_eq!(stored.record.state.phase.decision(), Some(Decision::Commit), "S4");
    }
}

/// An end that is written again follows what the promotion before has left, as its next version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_written_again_behind_what_the_promotion_before_has_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/twice.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let engine = start(&store, &faults, &mut tasks).await;
    let deadline = Instant::now() + HOUR;
    let begun = engine.begin(definition("g"), Until::Ended, deadline).await.expect("an answer");
    let Answer::View(view) = begun else { panic!("{begun:?}") };
    let key = Key::Tx(view.tx.tx_id());
    let mut versions = Vec::new();
    for _ in 0..3 {
        store.generation.fetch_add(1, Ordering::SeqCst);
        let told = engine.wait(key.clone(), Until::Ended, deadline).await;
        assert!(matches!(told, Ok(Answer::View(_))), "S9: {told:?}");
        let stored = store.transactions().find(&key).await.expect("an answer").expect("a row");
        versions.push(stored.record.version);
    }
    assert!(versions.is_sorted_by(|before, after| before < after), "{versions:?}");
}

/// S9, S10, S12: an end that is remembered without its branches, and has not had its turn to be written again, is known to
/// whoever asks by its identifier. Nobody is told that it was never seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s9_s10_s12_an_end_without_its_branches_is_known_before_its_turn() {
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("sqlite:{}/turn.db", folder.path().display());
    let store = Replaced::open(&url, Lacks::All).await;
    let (mut tasks, faults) = (JoinSet::new(), Faults::default());
    let engine = start(&store, &faults, &mut tasks).await;
    let deadline = Instant::now() + HOUR;
    let mut ended = Vec::new();
    // The last one takes all the room for branches, and more.
    for n in 0..backlog::AT_ONCE_MAX + 4 {
        let mut definition = definition(&format!("g-{n}"));
        if n == backlog::AT_ONCE_MAX + 3 {
            definition.branches[0].payload.data = vec![0; 17 << 20].into();
        }
        let (tx, _) = Transaction::begin(
            SystemEnv.tx_id(SystemEnv.now()),
            definition,
            SystemEnv.now(),
            &unanimo_core::Policy::default(),
        );
        let (done, adopted) = tokio::sync::oneshot::channel();
        let records = vec![tx.record()];
        engine
            .send(Message::Adopt { records, generation: Some(0), woken: false, done })
            .expect("it runs");
        adopted.await.expect("it runs");
        while engine.at_work().await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ended.push(tx.tx_id());
    }
    store.held.send_replace(true);
    store.generation.fetch_add(1, Ordering::SeqCst);
    while engine.at_work().await < backlog::AT_ONCE_MAX {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (p, id) = (ParticipantName::new("p").expect("a name"), BranchId::new("a").expect("an id"));
    let asked = [(ended[1], BranchKey::Id(id.clone()))];
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        store.held.send_replace(false);
    };
    engine.drain();
    let (looked, inquired, committed, repeated, ()) = tokio::join!(
        engine.look(Key::Tx(ended[0]), deadline),
        engine.inquire(&p, &asked, deadline),
        engine.commit(ended[2], vec![(id, None)], Until::Ended, deadline),
        engine.begin(definition("g-3"), Until::Ended, deadline),
        release
    );
    for told in [looked, committed, repeated] {
        let Ok(Answer::View(view)) = told else { panic!("S9, S10: {told:?}") };
        assert_eq!((view.stripped, view.tx.phase().decision()), (true, Some(Decision::Commit)));
    }
    let inquired = inquired.expect("an answer");
    assert!(matches!(inquired[0].verdict, Verdict::Purged), "S12: {:?}", inquired[0].verdict);
    // What was never there is not looked for without end.
    let never = Key::Tx(SystemEnv.tx_id(SystemEnv.now()));
    let told = engine.look(never, deadline).await;
    assert!(matches!(told, Err(crate::engine::Error::NeverSeen)), "{told:?}");
}
