//! Numbers of the last ten minutes: they are what happened, and whoever may see them sees them.

use std::time::Duration;

use unanimo_proto::v1::{
    DeregisterEndpointRequest, GetStatisticsRequest, GetStatisticsResponse,
    ListParticipantsRequest, Outcome, ParticipantHealth,
};
use unanimo_tests::postgres::Server;
use unanimo_tests::proxy::Proxy;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::http::http_call;
use super::participants::register;
use super::{World, config, millis, tcc};

async fn statistics(world: &World) -> GetStatisticsResponse {
    let request = GetStatisticsRequest { include_settings: true, ..Default::default() };
    world.operator().get_statistics(request).await.unwrap().into_inner()
}

async fn health(world: &World, name: &str) -> ParticipantHealth {
    let request = ListParticipantsRequest::default();
    let found = world.directory().list_participants(request).await.unwrap().into_inner();
    let found = found.participants.into_iter().find(|participant| participant.name == name);
    found.unwrap().health.unwrap()
}

#[tokio::test]
async fn what_happened_is_counted() {
    let world = World::sqlite().await;
    for n in 0..5 {
        world.submit(tcc(&format!("c{n}"), &["ok"])).await.unwrap();
    }
    for n in 0..3 {
        let result = world.submit(tcc(&format!("a{n}"), &["refuse"])).await.unwrap();
        assert_eq!(result.outcome(), Outcome::Aborted);
    }
    // New work for one that is gone is refused.
    let remote = Scripted::default();
    let endpoint = remote.serve().await;
    let instance_id = register(&world, "remote", &endpoint).await;
    let participant = "remote".to_owned();
    let request =
        DeregisterEndpointRequest { participant, endpoint, instance_id, ..Default::default() };
    world.directory().deregister_endpoint(request).await.unwrap();
    for n in 0..2 {
        let mut refused = tcc(&format!("r{n}"), &["ok"]);
        refused.branches[0].participant = "remote".into();
        world.submit(refused).await.unwrap_err();
    }
    world.p.hold(true);
    world.submit(tcc("held", &["ok"])).await.unwrap();
    let told = until("the one that is held to be owed", async || {
        let told = statistics(&world).await;
        (told.owed_count == 1).then_some(told)
    })
    .await;
    let window = told.window.unwrap();
    assert_eq!((window.begun_count, window.committed_count), (9, 6));
    assert_eq!((window.aborted_count, window.refused_count), (3, 2));
    assert!(window.decision_p50.is_some() && window.decision_p99.is_some());
    assert_eq!((told.in_flight_count, told.undecided_count, told.in_doubt_count), (1, 0, 0));
    assert!(told.owed_for.is_some() && told.undecided_for.is_none());
    let server = told.server.unwrap();
    assert_eq!((server.store.as_str(), server.lease_held), ("SQLite", true));
    assert!(server.flush_p50.is_some() && !server.node.is_empty() && server.incarnation > 0);
    // The page is made of the same.
    let address = world.running.admin_address().unwrap();
    let page = http_call(address, "GET", "/", &[], b"").await.body;
    assert!(page.contains("<dt>begun a second</dt>") && page.contains("9 in all"), "{page}");
    world.p.hold(false);
    // After five seconds there is a step, and what was told is told with it.
    let told = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let told = statistics(&world).await;
            if !told.steps.is_empty() {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let told = told.await.unwrap();
    assert_eq!(told.steps.iter().map(|step| step.begun_count).sum::<u64>(), 9);
    let page = http_call(address, "GET", "/", &[], b"").await.body;
    assert!(page.contains("aria-label=\"in memory: first") || told.steps.len() < 2, "{page}");
}

#[tokio::test]
async fn a_participant_that_fails_is_seen() {
    let world = World::sqlite().await;
    world.submit(tcc("good", &["ok"])).await.unwrap();
    let good = until("both calls", async || {
        let found = health(&world, "p").await;
        (found.call_count == 2).then_some(found)
    })
    .await;
    assert_eq!((good.failed_count, good.failing, good.last_error.as_str()), (0, false, ""));
    assert!(good.call_p50.is_some() && good.counted_from.is_some());
    world.p.set_mood(Mood::FailingInPhaseTwo);
    // Once its calls fail, new work is refused.
    let mut begun = 0;
    for n in 0..8 {
        begun += u64::from(world.submit(tcc(&format!("g{n}"), &["ok"])).await.is_ok());
    }
    assert!(begun > 0);
    let bad = until("the breaker to open", async || {
        let found = health(&world, "p").await;
        found.failing.then_some(found)
    })
    .await;
    assert!(bad.failed_count >= 5 && bad.call_count > bad.failed_count, "{bad:?}");
    assert_eq!(bad.owed_count, begun);
    assert!(bad.failing_since_at.is_some() && bad.last_error_at.is_some(), "{bad:?}");
    assert!(!bad.last_error.is_empty(), "{bad:?}");
    let address = world.running.admin_address().unwrap();
    let page = http_call(address, "GET", "/participants", &[], b"").await.body;
    assert!(page.contains("<span class=\"state bad\">fails, "), "{page}");
    world.p.set_mood(Mood::Well);
    let well = until("nothing to be owed", async || {
        let found = health(&world, "p").await;
        (found.owed_count == 0 && !found.failing).then_some(found)
    })
    .await;
    assert!(well.last_error_at.is_some(), "the last error stays: {well:?}");
}

/// The incarnations of the database are told, the newest first, with who ended each; and only where they are asked for.
#[tokio::test]
async fn incarnations_are_told_with_their_ends() {
    for mut world in [World::sqlite().await, World::postgres().await] {
        let url = world.config.database_url.expose().to_owned();
        // It stops in good order, and the next one is fenced by its successor.
        let World { running, p, config, .. } = world;
        running.stop().await.unwrap();
        world = World::start_with(config, p).await;
        world = world.crash_and_restart().await;
        let told = statistics(&world).await;
        assert_eq!(told.incarnations, [], "nobody has asked for them");
        // A database that is busy may not tell them in time.
        let told = until("the incarnations", async || {
            let request = GetStatisticsRequest { include_incarnations: true, ..Default::default() };
            let told = world.operator().get_statistics(request).await.unwrap().into_inner();
            (!told.incarnations.is_empty()).then_some(told)
        })
        .await;
        let me = told.server.unwrap().incarnation;
        let [newest, second, first] = &told.incarnations[..] else {
            panic!("{:?}", told.incarnations)
        };
        assert_eq!([newest, second, first].map(|of| of.incarnation), [me, me - 1, me - 2]);
        assert!(told.incarnations.iter().all(|of| of.node == "one" && of.lease == millis(2_000)));
        let states = [newest, second, first].map(|of| (of.answers, of.may_write));
        assert_eq!(states, [(true, true), (false, false), (false, false)], "{url}");
        assert_eq!(newest.fenced_by, "");
        assert_eq!(second.fenced_by, "by its successor: node one was started again");
        assert_eq!(first.fenced_by, "by itself: it stopped in good order");
        let address = world.running.admin_address().unwrap();
        let page = http_call(address, "GET", "/system", &[], b"").await.body;
        for part in [
            "<span class=\"state good\">this one</span>",
            "with a lease of 2.0 s",
            "by its successor: node one was started again",
            "by itself: it stopped in good order",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }
}

/// A database that does not answer takes nothing of the numbers but the incarnations, and the page says so.
#[tokio::test]
async fn without_its_database_all_but_the_incarnations_is_told() {
    let server = Server::start();
    let proxy = Proxy::start(server.socket()).await;
    let world = World::start(config(&proxy.url(&server.database().await))).await;
    proxy.hold(true);
    let request = GetStatisticsRequest { include_incarnations: true, ..Default::default() };
    let told = world.operator().get_statistics(request).await.unwrap().into_inner();
    assert!(told.incarnations.is_empty() && told.server.is_some(), "{told:?}");
    let address = world.running.admin_address().unwrap();
    let page = http_call(address, "GET", "/system", &[], b"").await.body;
    assert!(page.contains("The database has not told them in time"), "{page}");
    proxy.hold(false);
}
