//! Registrations of a participant, and whose endpoint it is.

use tonic::Code;
use unanimo_proto::v1::{
    DeregisterEndpointRequest, ListParticipantsRequest, ParticipantEndpoint,
    RegisterEndpointRequest,
};

use super::{World, describe};

const ENDPOINT: &str = "http://127.0.0.1:9";

fn registration(instance: &str) -> RegisterEndpointRequest {
    RegisterEndpointRequest {
        participant: "bank".into(),
        endpoint: ENDPOINT.into(),
        instance_id: instance.into(),
        features: vec!["must_succeed".into()],
        sdk: "unanimo-sdk-rust/0.1.0".into(),
        ..Default::default()
    }
}

async fn leave(world: &World, instance: &str) {
    let request = DeregisterEndpointRequest {
        participant: "bank".into(),
        endpoint: ENDPOINT.into(),
        instance_id: instance.into(),
        ..Default::default()
    };
    world.directory().deregister_endpoint(request).await.unwrap();
}

async fn endpoints(world: &World) -> Vec<ParticipantEndpoint> {
    let listed = world.directory().list_participants(ListParticipantsRequest::default()).await;
    let listed = listed.unwrap().into_inner().participants.into_iter();
    listed.filter(|listed| listed.name == "bank").flat_map(|listed| listed.endpoints).collect()
}

#[tokio::test]
async fn an_endpoint_is_removed_by_the_instance_that_registered_it_last() {
    let mut world = World::sqlite().await;
    world.directory().register_endpoint(registration("old")).await.unwrap();
    world.directory().register_endpoint(registration("new")).await.unwrap();
    leave(&world, "old").await;
    let shown = endpoints(&world).await;
    assert_eq!((shown.len(), &*shown[0].instance_id), (1, "new"), "it belongs to the new one");
    assert_eq!(shown[0].features, ["must_succeed"]);
    assert_eq!(shown[0].sdk, "unanimo-sdk-rust/0.1.0");

    // In the store, too.
    world = world.crash_and_restart().await;
    let shown = endpoints(&world).await;
    assert_eq!(shown.len(), 1);
    assert_eq!((&*shown[0].instance_id, &*shown[0].sdk, shown[0].features.len()), ("new", "", 0));
    leave(&world, "old").await;
    assert_eq!(endpoints(&world).await.len(), 1, "it belongs to the new one after a restart too");
    leave(&world, "new").await;
    leave(&world, "new").await;
    assert!(endpoints(&world).await.is_empty());
    world = world.crash_and_restart().await;
    assert!(endpoints(&world).await.is_empty());
}

#[tokio::test]
async fn a_registration_is_checked() {
    let world = World::sqlite().await;
    let with = |change: fn(&mut RegisterEndpointRequest)| {
        let mut request = registration("life");
        change(&mut request);
        request
    };
    for (request, field) in [
        (with(|r| r.instance_id.clear()), "instance_id"),
        (with(|r| r.instance_id = "a b".into()), "instance_id"),
        (with(|r| r.instance_id = "i".repeat(65)), "instance_id"),
        (with(|r| r.features = vec!["f".into(); 33]), "features[32]"),
        (with(|r| r.features = vec!["f".into(), "ä".into()]), "features[1]"),
        (with(|r| r.sdk = "s".repeat(65)), "sdk"),
        (with(|r| r.sdk = "sdk/ä".into()), "sdk"),
        (with(|r| r.sdk = "sdk\n".into()), "sdk"),
    ] {
        let status = world.directory().register_endpoint(request).await.unwrap_err();
        let expected = (Code::InvalidArgument, "FIELD_INVALID".into(), vec![field.to_owned()]);
        assert_eq!(describe(&status), expected);
    }
    assert!(endpoints(&world).await.is_empty());
    world.directory().register_endpoint(with(|r| r.sdk.clear())).await.unwrap();
    let request = DeregisterEndpointRequest {
        participant: "bank".into(),
        endpoint: ENDPOINT.into(),
        instance_id: String::new(),
        ..Default::default()
    };
    let status = world.directory().deregister_endpoint(request).await.unwrap_err();
    assert_eq!(describe(&status).2, ["instance_id"]);
}
