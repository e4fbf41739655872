//! Payloads and outputs are read by operators, by whoever began the transaction and by its participants; viewers are told
//! their sizes and media types, over gRPC, grpc-web, HTTP and on pages.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use serde_json::Value;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{self, get_transaction_request, watch_transaction_request};
use unanimo_tests::wait::until;

use super::roles::{COLUMNS, File};
use crate::coordinator::grpc_web::{MEDIA_TYPE, call_with};
use crate::coordinator::http::http_call;
use crate::coordinator::{World, config, sqlite_url, tcc};

/// Content of the branch: its payload and its output.
const PAYLOAD: &str = "payload of a";
const OUTPUT: &str = "o";

fn of_gid() -> v1::GetTransactionRequest {
    v1::GetTransactionRequest {
        key: Some(get_transaction_request::Key::Gid("g".into())),
        include_outputs: true,
        include_payloads: true,
        ..Default::default()
    }
}

/// Checks that of a branch both are told, or that nothing but their sizes and media types are.
fn check(branch: &v1::Branch, may_read: bool, has_payload: bool, of: &str) {
    let hidden = |byte_count, media_type: &str| v1::HiddenContent {
        byte_count,
        media_type: media_type.to_owned(),
    };
    let payload = branch.payload.as_ref().map(|payload| payload.data.as_ref());
    let output = branch.output.as_ref().map(|output| output.data.as_ref());
    assert_eq!(payload, (may_read && has_payload).then_some(PAYLOAD.as_bytes()), "{of}");
    assert_eq!(output, may_read.then_some(OUTPUT.as_bytes()), "{of}");
    let (of_payload, of_output) = (hidden(12, ""), hidden(1, "text/plain"));
    let is_hidden = !may_read && has_payload;
    assert_eq!(branch.hidden_payload, is_hidden.then_some(of_payload), "{of}");
    assert_eq!(branch.hidden_output, (!may_read).then_some(of_output), "{of}");
}

async fn looked_at(file: &File, world: &World, readers: &[&str]) {
    let submit = tcc("g", &["typed"]);
    let mut client = CoordinatorServiceClient::new(file.link(world, 0));
    client.submit_transaction(submit).await.unwrap();
    let ended = async || {
        let found = client.clone().get_transaction(of_gid()).await.ok()?.into_inner();
        found.transaction.filter(|tx| tx.ended_at.is_some())
    };
    let tx_id = until("its end", ended).await.tx_id;
    let address = world.running.admin_address().unwrap();
    let may_look = |name: &str| !name.starts_with("another") && name != "nobody";
    for (column, name) in COLUMNS.into_iter().enumerate().filter(|(_, name)| may_look(name)) {
        let may_read = readers.contains(&name);
        let mut client = CoordinatorServiceClient::new(file.link(world, column));
        let got = client.get_transaction(of_gid()).await.unwrap().into_inner();
        check(&got.transaction.unwrap().branches[0], may_read, true, name);
        // What was not asked for is not told at all.
        let key = of_gid().key;
        let bare = v1::GetTransactionRequest { key, ..Default::default() };
        let bare = client.get_transaction(bare).await.unwrap().into_inner().transaction.unwrap();
        let branch = &bare.branches[0];
        assert!(branch.hidden_payload.is_none() && branch.hidden_output.is_none(), "{branch:?}");

        let header = format!("Bearer {}", file.token(column));
        let headers = [MEDIA_TYPE, ("authorization", &*header)];
        let (messages, _) = call_with(world, "GetTransaction", &headers, &of_gid()).await;
        let got = v1::GetTransactionResponse::decode(messages[0].as_slice()).unwrap();
        check(&got.transaction.unwrap().branches[0], may_read, true, &format!("{name}, grpc-web"));

        let get = async |path: &str| http_call(address, "GET", path, &headers[1..], b"").await;
        let path = format!("/v1/tx/{tx_id}?includeOutputs=true&includePayloads=true");
        let reply = get(&path).await;
        let told: Value = serde_json::from_str(&reply.body).unwrap();
        let branch = &told["transaction"]["branches"][0];
        assert_eq!(
            branch["payload"]["data"] == BASE64_STANDARD.encode(PAYLOAD),
            may_read,
            "{name}: {told}"
        );
        assert_eq!(branch["hiddenPayload"]["byteCount"] == "12", !may_read, "{name}: {told}");
        assert_eq!(
            branch["hiddenOutput"]["mediaType"] == "text/plain",
            !may_read,
            "{name}: {told}"
        );

        let reply = get(&format!("/tx/{tx_id}")).await;
        assert_eq!(reply.code, 200, "{name}: {reply:?}");
        assert_eq!(reply.body.contains(PAYLOAD), may_read, "{name}: {reply:?}");
        let instead = "12 bytes. Operators and its initiator may read them.";
        assert_eq!(reply.body.contains(instead), !may_read, "{name}: {reply:?}");
        if name == "its participant" {
            continue;
        }
        let watch = v1::WatchTransactionRequest {
            key: Some(watch_transaction_request::Key::Gid("g".into())),
            include_outputs: true,
            ..Default::default()
        };
        let mut states = client.watch_transaction(watch).await.unwrap().into_inner();
        let state = states.message().await.unwrap().unwrap().transaction.unwrap();
        check(&state.branches[0], may_read, false, &format!("{name}, watching"));
        // A history has sizes alone, for whoever may have it.
        let export = get(&format!("/v1/tx/{tx_id}:export")).await;
        assert!(export.code == 200 && !export.body.contains(PAYLOAD), "{name}: {export:?}");
    }
}

async fn world(file: &File, viewers_see_payloads: bool) -> World {
    let mut config = config(&sqlite_url());
    config.identities = file.setting();
    config.viewers_see_payloads = viewers_see_payloads;
    config.history.0 = unanimo_core::RecordPolicy::All;
    World::start(config).await
}

#[tokio::test]
async fn viewers_are_told_the_sizes_of_what_they_may_not_read() {
    let file = File::new();
    let world = world(&file, false).await;
    looked_at(&file, &world, &["its initiator", "its participant", "operator"]).await;
}

#[tokio::test]
async fn viewers_read_what_the_setting_lets_them_read() {
    let file = File::new();
    let world = world(&file, true).await;
    looked_at(&file, &world, &["its initiator", "its participant", "operator", "viewer"]).await;
}
