//! A participant whose clock is ahead.

use unanimo_proto::v1::Outcome;
use unanimo_tests::alarms::Alarms;
use unanimo_tests::wait::until;

use super::super::http::http_get;
use super::super::{World, tcc};

/// A refusal as too late before the transaction's own deadline proves that clocks differ.
/// Line of the log in which one that looks for the cause finds the participant and both times.
#[tokio::test]
async fn too_late_before_the_deadline_raises_an_alarm() {
    let (alarms, _listening) = Alarms::listen();
    let world = World::sqlite().await;
    let skewed = async |count: usize| {
        let line = format!("unanimo_alarms{{alarm=\"clock_skew\"}} {count}");
        http_get(&world, "/metrics").await.1.lines().any(|found| found == line).then_some(())
    };
    world.submit(tcc("refused", &["refuse"])).await.unwrap();
    assert!(skewed(0).await.is_some());
    for n in 0..3 {
        let result = world.submit(tcc(&format!("g{n}"), &["too-late"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
    }
    until("the alarm", async || skewed(1).await).await;
    let told = alarms.named("clock_skew");
    let [line] = &told[..] else { panic!("one line for a participant: {told:?}") };
    for part in ["participant=p ", "gid=g0 ", "coordinator_time=\"20", "participant_time_past=\"20"]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
}
