//! Versions of a participant: which of them may be switched off, in every place that tells it.

use serde_json::Value;
use unanimo_proto::v1::{
    DeregisterEndpointRequest, ListParticipantsRequest, Outcome, ParticipantVersion,
    RegisterEndpointRequest,
};
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::http::http_call;
use super::{World, tcc};

async fn register(world: &World, endpoint: &str, instance: &str, sdk: &str, features: &[&str]) {
    let request = RegisterEndpointRequest {
        participant: "bank".into(),
        endpoint: endpoint.into(),
        instance_id: instance.into(),
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        sdk: sdk.into(),
        ..Default::default()
    };
    world.directory().register_endpoint(request).await.unwrap();
}

async fn leave(world: &World, endpoint: &str, instance: &str) {
    let request = DeregisterEndpointRequest {
        participant: "bank".into(),
        endpoint: endpoint.into(),
        instance_id: instance.into(),
        ..Default::default()
    };
    world.directory().deregister_endpoint(request).await.unwrap();
}

async fn versions(world: &World) -> Vec<ParticipantVersion> {
    let listed = world.directory().list_participants(ListParticipantsRequest::default()).await;
    let mut listed = listed.unwrap().into_inner().participants.into_iter();
    listed.find(|one| one.name == "bank").unwrap().versions
}

fn judged(versions: &[ParticipantVersion]) -> Vec<(&str, u32, bool, &str)> {
    versions
        .iter()
        .map(|of| (of.sdk.as_str(), of.alive_count, of.may_switch_off, of.sentence.as_str()))
        .collect()
}

/// Sends what is owed to whichever version is there, so the old one may go as soon as the new one is; and the new one may
/// not while it alone knows a feature. Answers over gRPC, over HTTP and the page say the same.
#[tokio::test]
async fn a_version_is_needed_while_it_alone_can_end_what_is_owed() {
    let world = World::sqlite().await;
    let (old, new) = (Scripted::default(), Scripted::default());
    let (of_old, of_new) = (old.serve().await, new.serve().await);
    register(&world, &of_old, "one", "sdk/1", &["tcc"]).await;
    old.set_mood(Mood::FailingInPhaseTwo);
    let mut request = tcc("g", &["ok"]);
    request.branches[0].participant = "bank".into();
    let result = world.submit(request).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed);
    let needed = "No: 1 transaction is owed to bank, and no other version is alive.";
    assert_eq!(judged(&versions(&world).await), [("sdk/1", 1, false, needed)]);
    let page = async || {
        let admin = world.running.admin_address().unwrap();
        http_call(admin, "GET", "/participants", &[], b"").await.body
    };
    let shown = page().await;
    assert!(shown.contains("is needed</span> No: 1 transaction is owed to bank"), "{shown}");

    register(&world, &of_new, "two", "sdk/2", &["saga", "tcc"]).await;
    let found = versions(&world).await;
    let [first, second] = &found[..] else { panic!("{found:?}") };
    let (before, after) = if first.sdk == "sdk/1" { (first, second) } else { (second, first) };
    assert_eq!(after.features, ["saga", "tcc"]);
    assert!(before.last_seen_at.is_some() && before.instance_count == 1);
    let free = "Yes: 1 instance of other versions is alive and knows its features, so what is owed is sent there.";
    assert_eq!(judged(std::slice::from_ref(before)), [("sdk/1", 1, true, free)]);
    let sent = |scripted: &Scripted| scripted.calls(&result.tx_id, "a");
    // The Commit goes to either: where it has gone to the new one, nothing is owed any more.
    if !sent(&new).contains(&"commit") {
        let lacks =
            "No: 1 transaction is owed to bank, and the other versions that are alive lack saga.";
        assert!(
            [lacks, "Yes: this coordinator owes nothing to bank."].contains(&&*after.sentence),
            "{}",
            after.sentence
        );
    }
    // Nothing is bound to the version that voted.
    leave(&world, &of_old, "one").await;
    until("the Commit at the new one", async || sent(&new).contains(&"commit").then_some(())).await;
    world.get_until("g", "its end", |tx| tx.ended_at.is_some()).await;
    let free = "Yes: this coordinator owes nothing to bank.";
    until("nothing to be owed", async || {
        (judged(&versions(&world).await) == [("sdk/2", 1, true, free)]).then_some(())
    })
    .await;
    let shown = page().await;
    assert!(shown.contains("may go</span> Yes: this coordinator owes nothing to bank."), "{shown}");
    let admin = world.running.admin_address().unwrap();
    let answer = http_call(admin, "GET", "/v1/participants", &[], b"").await.body;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let all = answer["participants"].as_array().unwrap();
    let bank = all.iter().find(|one| one["name"] == "bank").unwrap();
    assert_eq!(bank["versions"][0]["maySwitchOff"], true, "{bank}");
    assert_eq!(bank["versions"][0]["sentence"], free);

    // After a restart nobody has said yet which version it is: that is told, and no guess.
    let mut request = tcc("h", &["ok"]);
    request.branches[0].participant = "bank".into();
    new.hold(true);
    world.submit(request).await.unwrap();
    let world = world.crash_and_restart().await;
    let unknown = "No: 1 transaction is owed to bank, and their version is not known: they have not registered since \
                   this coordinator started.";
    until("what is owed to be adopted", async || {
        (judged(&versions(&world).await) == [("", 1, false, unknown)]).then_some(())
    })
    .await;
    new.hold(false);
    world.get_until("h", "its end", |tx| tx.ended_at.is_some()).await;
}
