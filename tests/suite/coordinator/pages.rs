//! Pages of lists, and what answers hold only where it was asked for.

use std::collections::BTreeSet;

use tonic::Code;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{
    GetTransactionRequest, ListParticipantsRequest, ListTransactionsRequest, TransactionState,
    get_transaction_request,
};

use super::participants::register;
use super::{World, describe, tcc};

#[tokio::test]
async fn a_page_fits_into_a_message_and_the_next_one_goes_on_exactly_there() {
    const COUNT: usize = 250;
    let world = std::sync::Arc::new(World::sqlite().await);
    let mut submits = tokio::task::JoinSet::new();
    for n in 0..COUNT {
        let world = std::sync::Arc::clone(&world);
        let mut request = tcc(&format!("g{n}"), &["ok"]);
        request.metadata.insert("k".into(), "v".repeat(16_000));
        submits.spawn(async move { world.submit(request).await.unwrap() });
    }
    submits.join_all().await;
    // With the limits that a client has by default: it accepts no message over 4 MiB.
    let mut client = CoordinatorServiceClient::new(world.channel.clone());
    let (mut seen, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let request = ListTransactionsRequest {
            page_size: 9_999,
            page_token: token,
            include_metadata: true,
            ..Default::default()
        };
        let page = client.list_transactions(request).await.unwrap().into_inner();
        assert!(page.transactions.iter().all(|listed| listed.metadata["k"].len() == 16_000));
        seen.extend(page.transactions.into_iter().map(|listed| listed.gid));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(pages, 2);
    assert_eq!(seen.len(), COUNT, "none is missing, and none comes twice");
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), COUNT);

    let request = ListTransactionsRequest { page_size: 0, ..Default::default() };
    let page = client.list_transactions(request).await.unwrap().into_inner();
    assert_eq!(page.transactions.len(), 50);
    assert!(page.transactions.iter().all(|listed| listed.metadata.is_empty()));
}

#[tokio::test]
async fn an_unknown_state_lists_nothing() {
    let world = World::sqlite().await;
    world.submit(tcc("g", &["ok"])).await.unwrap();
    for (states, field) in [
        (vec![99], "states[0]"),
        (vec![TransactionState::Aborted.into(), 99], "states[1]"),
        (vec![TransactionState::Unspecified.into()], "states[0]"),
    ] {
        let request = ListTransactionsRequest { states, ..Default::default() };
        let status = world.client().list_transactions(request).await.unwrap_err();
        let expected = (Code::InvalidArgument, "FIELD_INVALID".into(), vec![field.to_owned()]);
        assert_eq!(describe(&status), expected);
    }
}

#[tokio::test]
async fn participants_are_listed_by_name_in_pages() {
    let world = World::sqlite().await;
    for name in ["q", "r", "a", "s"] {
        register(&world, name, "http://127.0.0.1:9").await;
    }
    let (mut names, mut sizes, mut token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request =
            ListParticipantsRequest { page_size: 2, page_token: token, ..Default::default() };
        let page = world.directory().list_participants(request).await.unwrap().into_inner();
        sizes.push(page.participants.len());
        names.extend(page.participants.into_iter().map(|listed| listed.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "p", "q", "r", "s"]);
    assert_eq!(sizes, [2, 2, 1]);
    let request =
        ListParticipantsRequest { page_size: 5, page_token: String::new(), ..Default::default() };
    let page = world.directory().list_participants(request).await.unwrap().into_inner();
    assert_eq!((page.participants.len(), &*page.next_page_token), (5, ""));
    let request =
        ListParticipantsRequest { page_size: 2, page_token: "a b".into(), ..Default::default() };
    let status = world.directory().list_participants(request).await.unwrap_err();
    assert_eq!(describe(&status).2, ["page_token"]);
}

#[tokio::test]
async fn outputs_payloads_and_history_are_shown_where_they_were_asked_for() {
    let world = World::sqlite().await;
    for outputs in [false, true] {
        let mut request = tcc("g", &["output-3"]);
        request.include_outputs = outputs;
        let result = world.submit(request).await.unwrap();
        assert_eq!(result.branches[0].output.is_some(), outputs);
    }
    for bits in 0..8 {
        let request = GetTransactionRequest {
            key: Some(get_transaction_request::Key::Gid("g".into())),
            include_outputs: bits & 1 != 0,
            include_payloads: bits & 2 != 0,
            include_timeline: bits & 4 != 0,
            ..Default::default()
        };
        let got = world.client().get_transaction(request.clone()).await.unwrap().into_inner();
        let shown = got.transaction.unwrap();
        assert_eq!(shown.branches[0].output.is_some(), request.include_outputs);
        assert_eq!(shown.branches[0].payload.is_some(), request.include_payloads);
        assert_eq!(!shown.timeline.is_empty(), request.include_timeline);
        assert_eq!(shown.timeline_dropped, 0);
    }
}
