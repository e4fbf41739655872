//! `participant show`: what is owed, how the calls go, and which version may be switched off.

use serde_json::{Value, json};
use unanimo_proto::v1::RegisterEndpointRequest;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::{Program, Ran, Served, command, file, run, tcc};

/// Registers an instance of `shop`.
async fn register(served: &Served, endpoint: String, sdk: &str, features: &[&str]) {
    let endpoint_of = served.endpoint.clone();
    let mut directory = ParticipantDirectoryServiceClient::connect(endpoint_of).await.unwrap();
    let request = RegisterEndpointRequest {
        participant: "shop".into(),
        endpoint,
        instance_id: format!("life-of-{sdk}"),
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        sdk: sdk.into(),
        ..Default::default()
    };
    directory.register_endpoint(request).await.unwrap();
}

async fn show(served: &Served, more: &[&str]) -> Ran {
    run(&[&["participant", "show", "--endpoint", &*served.endpoint], more].concat()).await
}

#[tokio::test]
async fn a_participant_is_shown_with_what_is_owed_and_which_version_may_go() {
    let served = Served::start(&["--keep-alive-interval=30s"]).await;
    let shop = Scripted::default();
    let endpoint = shop.serve().await;
    register(&served, endpoint.clone(), "old-sdk_1.0", &["tcc"]).await;
    let ran = show(&served, &["shop"]).await;
    ran.check(0).says(&[
        "participant  shop\n",
        "processes    1 of 1 alive\n",
        "breaker      closed\n",
        "calls        0 under way, 0 waiting; 0 ended in ten minutes, 0 of them failed\n",
        "owed         0 transactions have not ended, 0 of them parked\n",
        &format!("\nEndpoints\nENDPOINT{}  STATE  ", " ".repeat(endpoint.len() - 8)),
        "  INSTANCE             SDK\n",
        "  life-of-old-sdk_1.0  old-sdk_1.0\n",
        "\nVersions\nold-sdk_1.0: 1 of 1 alive, last seen 20",
        "features     tcc\n",
        "go?          Yes: this coordinator owes nothing to shop.\n",
    ]);
    assert!(!ran.out.contains("last error"), "{}", ran.out);

    // Owed to it is what it does not end: each transaction fails once, and then its breaker is open.
    shop.set_mood(Mood::FailingInPhaseTwo);
    let mut submitted = 0;
    let shown = until("its breaker to open", async || {
        let definition = tcc(&format!("g-{submitted}"), &["ok"]).replace("\"p\"", "\"shop\"");
        let path = file(&definition);
        if served.tx(&["submit", &path]).await.code == 0 {
            submitted += 1;
        }
        let shown = show(&served, &["shop", "--json"]).await.check(0).json();
        (shown["failing"] == true).then_some(shown)
    })
    .await;
    assert!(shown["owed"].as_u64() >= Some(5), "{shown}");
    assert!(shown["failed"].as_u64() >= Some(5), "{shown}");
    assert!(shown["failing_since_at"].is_string(), "{shown}");
    assert!(shown["last_error"].as_str().unwrap().contains("out of order"), "{shown}");
    assert!(shown["last_error_at"].is_string() && shown["counted_from"].is_string(), "{shown}");
    let [p50, p99] = ["call_p50_ms", "call_p99_ms"].map(|key| shown[key].as_f64().unwrap());
    assert!(p50 > 0.0 && p99 >= p50, "{shown}");
    let endpoints = shown["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(
        (&endpoints[0]["state"], &endpoints[0]["sdk"]),
        (&json!("alive"), &json!("old-sdk_1.0"))
    );
    let version = &shown["versions"][0];
    assert_eq!([&version["instances"], &version["alive"]], [1, 1]);
    assert_eq!(version["may_switch_off"], false);
    let owed = format!(
        "No: {} transactions are owed to shop, and no other version is alive.",
        shown["owed"]
    );
    assert_eq!(version["sentence"], json!(owed));
    let ran = show(&served, &["shop"]).await;
    ran.check(0).says(&[
        "breaker      open since 20",
        "last error   20",
        "out of order",
        "go?          No: ",
    ]);
    let mut narrow = command(&["participant", "show", "--endpoint", &*served.endpoint, "shop"]);
    narrow.env("COLUMNS", "80");
    let ran = Program::start(narrow).end().await;
    ran.check(0).says(&["breaker      open since 20", "\n             "]);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);

    // Another one knows all that this one does: it may go. The other way round a feature would be missing.
    let other = Scripted::default();
    // What is owed is sent there, too, and stays owed.
    other.set_mood(Mood::FailingInPhaseTwo);
    register(&served, other.serve().await, "new-sdk_2.0", &["saga", "tcc"]).await;
    let shown = show(&served, &["shop", "--json"]).await.check(0).json();
    let may_go = |shown: &Value, sdk: &str| {
        let versions = shown["versions"].as_array().unwrap();
        let version = versions.iter().find(|version| version["sdk"] == sdk).unwrap();
        version["may_switch_off"] == true
    };
    assert_eq!((may_go(&shown, "old-sdk_1.0"), may_go(&shown, "new-sdk_2.0")), (true, false));
    let sentences = shown["versions"].to_string();
    for part in [
        "Yes: 1 instance of other versions is alive and knows its features",
        "and the other versions that are alive lack saga.",
    ] {
        assert!(sentences.contains(part), "{part}: {sentences}");
    }
    let ran = show(&served, &["shop"]).await;
    ran.check(0).says(&[
        "processes    2 of 2 alive\n",
        "go?          Yes: 1 instance of other",
        "go?          No: ",
    ]);
    shop.set_mood(Mood::Well);
    other.set_mood(Mood::Well);
    until("nothing to be owed", async || {
        let shown = show(&served, &["shop", "--json"]).await.json();
        (shown["owed"] == 0 && shown["failing"] == false).then_some(())
    })
    .await;

    let ran = show(&served, &["nobody"]).await;
    ran.check(1).complains(&["nobody", "`unanimo participant list` has all that are known"]);
    served.stop().await.check(0);
}
