//! The answer to "why is it waiting?".

use unanimo_proto::v1::{Mode, WaitCause, Waiting};
use unanimo_tests::scripted::Mood;

use super::{World, tcc};

/// Tells the cause, the branch and the number of branches of what is waited for.
fn in_short(waiting: &Waiting) -> (WaitCause, &str, u32) {
    (waiting.cause(), &waiting.branch_id, waiting.branch_count)
}

/// One sentence names the branch, its participant, since when, the last error and the next attempt, until the end.
#[tokio::test]
async fn one_sentence_tells_what_is_waited_for() {
    for world in [World::sqlite().await, World::postgres().await] {
        world.p.set_mood(Mood::FailingInPhaseTwo);
        let submitted = world.submit(tcc("g", &["ok", "ok"])).await.unwrap();
        let of_a = |waiting: &Waiting| in_short(waiting) == (WaitCause::Retry, "a", 2);
        let is_repeated = |tx: &unanimo_proto::v1::Transaction| {
            let attempts = tx.branches[0].phase_two_attempts.as_ref().map_or(0, |sent| sent.count);
            attempts > 1 && tx.waiting.as_ref().is_some_and(of_a)
        };
        let shown = world.get_until("g", "the wait", is_repeated).await;
        let waiting = shown.waiting.unwrap();
        let attempts = shown.branches[0].phase_two_attempts.clone().unwrap();
        assert_eq!(waiting.since, attempts.first_at);
        assert!(waiting.until.unwrap().seconds >= waiting.since.unwrap().seconds);
        let sentence = &waiting.sentence;
        let (sent, rest) = sentence.split_once(" times since 20").expect(sentence);
        assert_eq!(
            sent,
            format!("Commit of branch a was sent to participant p {}", attempts.count)
        );
        assert!(rest.contains("Z, and is not answered; it is sent again at 20"), "{sentence}");
        let error = format!("; last error: {}; 2 branches wait", attempts.last_error);
        assert!(rest.ends_with(&error), "{sentence}");

        world.p.set_mood(Mood::Well);
        let ended = world.get_until("g", "its end", |tx| tx.ended_at.is_some()).await;
        assert_eq!((ended.tx_id, ended.waiting), (submitted.tx_id, None));
    }
}

/// A call that is not answered, an initiator that says nothing, and a start that is far away are told apart.
#[tokio::test]
async fn causes_are_told_apart() {
    let world = World::sqlite().await;
    world.p.hold(true);
    world.submit(tcc("held", &["ok"])).await.unwrap();
    let waiting = world.get("held").await.waiting.unwrap();
    assert_eq!(in_short(&waiting), (WaitCause::Answer, "a", 1));
    assert_eq!(waiting.until, None);
    let sent = "Commit of branch a was sent to participant p at 20";
    assert!(waiting.sentence.starts_with(sent), "{waiting:?}");

    world.begin("open", Mode::Tcc).await.unwrap();
    let shown = world.get("open").await;
    let waiting = shown.waiting.unwrap();
    assert_eq!(in_short(&waiting), (WaitCause::Initiator, "", 0));
    assert_eq!(waiting.until, shown.deadline);
    let asked = "nobody has asked for Commit or Rollback; ABORT is decided at 20";
    assert!(waiting.sentence.starts_with(asked), "{waiting:?}");

    let mut later = tcc("later", &["ok"]);
    later.start_delay = super::millis(3_600_000);
    later.timeout = None;
    later.wait_for = unanimo_proto::v1::WaitFor::Accepted.into();
    world.submit(later).await.unwrap();
    let shown = world.get("later").await;
    let waiting = shown.waiting.unwrap();
    assert_eq!((in_short(&waiting), waiting.until), ((WaitCause::Time, "", 0), shown.start_at));
    assert!(waiting.sentence.starts_with("it starts at 20"), "{waiting:?}");
    world.p.hold(false);
}
