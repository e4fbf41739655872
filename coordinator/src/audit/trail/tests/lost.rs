//! Answers that are lost, entries that a failover has lost, calls whose time is over, and the stop.

use super::super::kept::Kept;
use super::*;
use crate::audit::hex;

/// A writer on a store that does as a test says.
async fn on_kept() -> (Kept, Trail) {
    let kept = Kept::new().await;
    let trail = Trail::new(kept.store(), Arc::new(SystemEnv), Arc::default(), kept.me);
    (kept, trail)
}

fn act(act: &str, kind: Kind) -> Entry {
    Entry { act: act.to_owned(), ..Entry::new(kind) }
}

/// Checks the chain, and tells kind, act, `of` and count of each entry.
fn told(kept: &Kept) -> Vec<(Kind, String, u64, u64)> {
    let mut verifier = Verifier::new(AuditLink { number: 0, hash: vec![0; 32] }, None);
    let told = kept.rows().into_iter().map(|row| {
        verifier.take(&row.link, row.at, &row.body).expect("a chain");
        let entry = Entry::decode(&row.body).expect("an entry");
        (entry.kind, entry.act, entry.of, entry.count)
    });
    told.collect()
}

fn one(kind: Kind, act: &str, of: u64, count: u64) -> (Kind, String, u64, u64) {
    (kind, act.to_owned(), of, count)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

/// An answer that is lost doubles no entry, whether the write was done or not, and an act that was entered without its
/// caller's knowledge has an outcome.
#[tokio::test]
async fn a_lost_answer_leaves_each_entry_once() {
    for undone in [0, 1] {
        let (kept, trail) = on_kept().await;
        trail.write(act("first", Kind::Changed)).await.expect("it is written");
        kept.lose(1, undone);
        let not_done = act("not done", Kind::Answered);
        let asked = trail.ask(act("act", Kind::Asked), not_done, soon()).await;
        assert!(matches!(asked, Err(Unwritten::Later(_))), "{asked:?}");
        // The one that comes again has its outcome, and then the answer to an outcome is lost.
        let not_done = act("never", Kind::Answered);
        let again = trail.ask(act("act", Kind::Asked), not_done, soon()).await;
        let of = again.expect("it is written");
        kept.lose(1, undone);
        let answered = Entry { of, ..act("done", Kind::Answered) };
        trail.answer(answered).await.expect_err("its answer is lost");
        trail.denied(act("denied", Kind::Denied));
        trail.denied(act("denied", Kind::Denied));
        kept.lose(1, undone);
        trail.finish().await;
        trail.finish().await;
        let mut found = told(&kept);
        found.sort_by_key(|(kind, act, ..)| (kind.name(), act.clone()));
        let mut expected = [
            one(Kind::Changed, "first", 0, 0),
            one(Kind::Asked, "act", 0, 0),
            one(Kind::Answered, "not done", 2, 0),
            one(Kind::Asked, "act", 0, 0),
            one(Kind::Answered, "done", 3, 0),
            one(Kind::Denied, "denied", 0, 2),
        ];
        expected.sort_by_key(|(kind, act, ..)| (kind.name(), act.clone()));
        assert_eq!(found, expected, "{undone}");
    }
}

/// Entries of which nobody knows are written by the task that runs, though nothing else comes.
#[tokio::test]
async fn an_act_whose_answer_was_lost_has_an_outcome_without_another_one() {
    let (kept, trail) = on_kept().await;
    let running = tokio::spawn(trail.clone().run());
    kept.lose(1, 1);
    let not_done = act("not done", Kind::Answered);
    trail.ask(act("act", Kind::Asked), not_done, soon()).await.expect_err("it is lost");
    let written = async {
        while kept.rows().len() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.expect("both are written");
    let expected = [one(Kind::Asked, "act", 0, 0), one(Kind::Answered, "not done", 1, 0)];
    assert_eq!(told(&kept), expected);
    running.abort();
}

/// An act that is under way has no outcome yet, whoever looks at the end of the chain meanwhile.
#[tokio::test]
async fn an_act_under_way_has_no_outcome_but_its_own() {
    let (kept, trail) = on_kept().await;
    let asked = trail.ask(act("act", Kind::Asked), act("not done", Kind::Answered), soon());
    let of = asked.await.expect("it is written");
    trail.finish().await;
    let answered = Entry { of, ..act("done", Kind::Answered) };
    trail.answer(answered).await.expect("it is written");
    trail.finish().await;
    let expected = [one(Kind::Asked, "act", 0, 0), one(Kind::Answered, "done", 1, 0)];
    assert_eq!(told(&kept), expected);
}

/// Entries that the database has lost are written again as they were: a link that was noted stays true.
#[tokio::test]
async fn what_a_failover_has_lost_is_written_again_as_it_was() {
    let (kept, trail) = on_kept().await;
    for count in 1..=5 {
        trail.write(Entry { count, ..act("x", Kind::Denied) }).await.expect("it is written");
    }
    let before = kept.rows();
    kept.go_back(2);
    let next = trail.write(act("y", Kind::Denied)).await.expect("it is written");
    assert_eq!((next, &kept.rows()[..5]), (6, &before[..]));
    trail.finish().await;
    let found = told(&kept);
    assert_eq!((found.len(), &found[6]), (7, &one(Kind::Changed, "database", 0, 0)));
    let last = Entry::decode(&kept.rows()[6].body).expect("an entry");
    assert!(last.reason.contains("has lost entries 3 to 5"), "{}", last.reason);

    // Where somebody else has gone on, what is lost is told, and nothing is repaired.
    kept.go_back(4);
    let follows = kept.rows()[3].link.clone();
    let (at, body) = (Timestamp(1), act("another's", Kind::Denied).encode());
    let link = AuditLink { number: 5, hash: hash_of(&follows.hash, 5, at, &body) };
    let forked = vec![AuditRow { link, at, body }];
    assert!(
        kept.store().audit().append(kept.me, follows, forked, None).await.expect("it is added")
    );
    let next = trail.write(act("z", Kind::Denied)).await.expect("it is written");
    assert_eq!(next, 6);
    trail.finish().await;
    let acts: Vec<_> = told(&kept).into_iter().map(|(_, act, ..)| act).collect();
    assert_eq!(acts, ["x", "x", "x", "x", "another's", "z", "database"]);
}

/// A purge and a stop find out what the database has lost, though nothing else is written.
#[tokio::test]
async fn what_a_failover_has_lost_is_found_without_another_write() {
    let (kept, trail) = on_kept().await;
    for count in 1..=3 {
        trail.write(Entry { count, ..act("x", Kind::Denied) }).await.expect("it is written");
    }
    let before = kept.rows();
    let running = tokio::spawn(trail.clone().run());
    kept.go_back(1);
    trail.purge(SystemEnv.now(), YEAR).await.expect("no purge");
    let written = async {
        while kept.rows().len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.expect("they are written");
    trail.stop().await;
    running.await.expect("it has ended by itself");
    kept.go_back(2);
    trail.finish().await;
    assert_eq!(kept.rows()[..3], before);
    let acts: Vec<_> = told(&kept).into_iter().map(|(_, act, ..)| act).collect();
    assert_eq!(acts, ["x", "x", "x", "database", "database"]);
}

/// While the database hangs, an act waits for its turn no longer than its call, and no more wait than may.
#[tokio::test]
async fn acts_wait_no_longer_than_their_calls_and_are_bounded() {
    let (kept, trail) = on_kept().await;
    kept.hang(true);
    let first = trail.clone();
    let not_done = || act("not done", Kind::Answered);
    let first =
        tokio::spawn(async move { first.ask(act("1", Kind::Asked), not_done(), soon()).await });
    while trail.0.end.try_lock().is_ok() {
        tokio::task::yield_now().await;
    }
    let by = Instant::now() + Duration::from_millis(20);
    let second = trail.ask(act("2", Kind::Asked), not_done(), by);
    let second = tokio::time::timeout(Duration::from_secs(60), second).await.expect("it ends");
    assert!(matches!(second, Err(Unwritten::Late)), "{second:?}");
    let places: Vec<_> = (0..ACTS_MAX).map(|_| trail.place().expect("a place")).collect();
    assert!(trail.place().is_none(), "one too many");
    drop(places);
    assert!(trail.place().is_some(), "they are given back");
    kept.hang(false);
    first.await.expect("no panic").expect("it is written");
    assert_eq!(told(&kept), [one(Kind::Asked, "1", 0, 0)], "what was given up is not there");
}

/// A stop waits for acts, allows no more, and writes all that waits.
#[tokio::test]
async fn a_stop_waits_for_acts_and_loses_nothing() {
    let (kept, trail) = on_kept().await;
    let running = tokio::spawn(trail.clone().run());
    let place = trail.place().expect("a place");
    let stopping = trail.clone();
    let stopping = tokio::spawn(async move { stopping.stop().await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!stopping.is_finished() && !running.is_finished(), "an act is under way");
    drop(place);
    stopping.await.expect("no panic");
    running.await.expect("it has ended by itself");
    assert!(trail.place().is_none(), "no act begins");
    let many = u32::try_from(3 * BATCH_MAX).expect("few");
    (0..many).for_each(|count| {
        trail.later(Entry { count: count.into(), ..act("x", Kind::Changed) });
    });
    trail.finish().await;
    let counts: Vec<u64> = told(&kept).into_iter().map(|(.., count)| count).collect();
    assert_eq!(counts, (0..u64::from(many)).collect::<Vec<_>>());
}

/// A purge that comes behind another one that has taken as much, or more, is given up, and holds up nothing behind it.
#[tokio::test]
async fn a_purge_that_comes_late_holds_up_nothing() {
    for late in [1, 2] {
        let (kept, trail) = on_kept().await;
        for count in 1..=3 {
            trail.write(Entry { count, ..act("x", Kind::Denied) }).await.expect("it is written");
        }
        let links: Vec<AuditLink> = kept.rows().into_iter().map(|row| row.link).collect();
        // Another incarnation purges two.
        let other = Trail::new(kept.store(), Arc::new(SystemEnv), Arc::default(), kept.me);
        let purge = |of: &AuditLink| {
            let reason = hex(&of.hash);
            Entry { of: of.number, reason, ..Entry::new(Kind::Purged) }
        };
        let mut end = other.0.end.lock().await;
        let further = other.add(&mut end, &[purge(&links[1])], Some(links[1].clone()), None).await;
        assert_eq!(further.expect("a purge"), 4);
        // This one has read its part before, and knows no end for certain.
        let mut end = trail.0.end.lock().await;
        end.doubt();
        let own = links[late - 1].clone();
        let added = trail.add(&mut end, &[purge(&own)], Some(own), None).await;
        assert!(matches!(added, Err(Unwritten::Later(store::Error::AuditMoves))), "{added:?}");
        drop(end);
        let next = trail.write(act("y", Kind::Denied)).await.expect("nothing is in its way");
        assert_eq!(next, 5, "{late}: the other purge is told alone");
        let store::AuditEnds { purged, last } = kept.store().audit().ends().await.expect("ends");
        let mut verifier = Verifier::new(purged, None);
        for row in kept.rows() {
            verifier.take(&row.link, row.at, &row.body).expect("a chain");
        }
        verifier.end(&last).expect("a whole one");
    }
}

/// As long as nothing is old, a purge reads one entry.
#[tokio::test]
async fn a_purge_of_nothing_reads_one_entry() {
    let (kept, trail) = on_kept().await;
    for count in 1..=5 {
        trail.write(Entry { count, ..act("x", Kind::Denied) }).await.expect("it is written");
    }
    let now = SystemEnv.now();
    assert_eq!(trail.purge(now, YEAR).await.expect("no purge"), 0);
    assert_eq!(kept.limits(), [1]);
}

/// A setting that is not set has an entry only where the audit has others.
#[tokio::test]
async fn what_is_not_set_is_entered_beside_others_alone() {
    let (kept, trail) = on_kept().await;
    trail.besides(act("identities", Kind::Changed));
    trail.finish().await;
    assert_eq!(told(&kept), []);
    trail.write(act("x", Kind::Denied)).await.expect("it is written");
    trail.besides(act("identities", Kind::Changed));
    trail.finish().await;
    assert_eq!(told(&kept)[1..], [one(Kind::Changed, "identities", 0, 0)]);
}
