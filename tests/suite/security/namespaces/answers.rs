//! Answers to callers of namespaces, and to those of none.

use std::time::Duration;

use prost::Message;
use tonic::Code;
use unanimo_proto::v1;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::participant_directory_service_client::ParticipantDirectoryServiceClient;
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;
use uuid::Uuid;

use super::super::roles::{Link, begin};
use super::{Tenants, register, world};
use crate::coordinator::http::http_call;
use crate::coordinator::{World, branch, describe, sqlite_url, tcc};

fn client(link: Link) -> CoordinatorServiceClient<Link> {
    CoordinatorServiceClient::new(link)
}

async fn get(link: Link, gid: &str) -> Result<v1::Transaction, tonic::Status> {
    let key = Some(v1::get_transaction_request::Key::Gid(gid.into()));
    let request = v1::GetTransactionRequest { key, include_timeline: true, ..Default::default() };
    Ok(client(link).get_transaction(request).await?.into_inner().transaction.unwrap())
}

async fn list(link: Link, request: v1::ListTransactionsRequest) -> v1::ListTransactionsResponse {
    client(link).list_transactions(request).await.unwrap().into_inner()
}

/// Tells whether the bytes of a message have the name of the first tenant's namespace.
fn tells<M: Message>(message: &M) -> bool {
    message.encode_to_vec().windows(8).any(|bytes| bytes == b"tenant-a")
}

fn gids(listed: &v1::ListTransactionsResponse) -> Vec<&str> {
    listed.transactions.iter().map(|listed| listed.gid.as_str()).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "fields of messages are so")]
fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A transaction of one branch, whose end is waited for.
fn to_its_end(gid: &str) -> v1::SubmitTransactionRequest {
    v1::SubmitTransactionRequest { wait_for: v1::WaitFor::Ended.into(), ..tcc(gid, &["ok"]) }
}

/// A saga with a lock and a child, which waits for its participant.
fn saga(gid: &str) -> v1::SubmitTransactionRequest {
    let child = v1::ChildTransaction {
        mode: v1::Mode::Saga.into(),
        branches: vec![branch("inner", "hang")],
        ..Default::default()
    };
    let outer =
        v1::BranchSpec { branch_id: "child".into(), child: Some(child), ..Default::default() };
    v1::SubmitTransactionRequest {
        gid: gid.into(),
        mode: v1::Mode::Saga.into(),
        branches: vec![outer],
        locks: vec![v1::Lock { name: "stock".into(), wait_max: seconds(50), ..Default::default() }],
        wait_for: v1::WaitFor::Accepted.into(),
        timeout: seconds(60),
        ..Default::default()
    }
}

/// A tenant is told its names as it writes them, in fields and in texts; whoever is of no namespace gets full ones, and can
/// use them.
#[tokio::test]
async fn names_are_told_to_a_tenant_as_it_writes_them_and_in_full_to_who_sees_all() {
    let tenants = Tenants::new();
    let world = world(&tenants).await;
    let link = |column: usize| tenants.link(&world.channel, column);
    client(link(0)).submit_transaction(saga("one")).await.unwrap();
    client(link(0)).submit_transaction(saga("two")).await.unwrap();
    let child = until("the child", async || get(link(0), "one.child").await.ok()).await;
    let waits = async || {
        let two = get(link(0), "two").await.unwrap();
        Some(two).filter(|two| two.locks.iter().any(|lock| !lock.holder_gid.is_empty()))
    };
    let two = until("the second one to wait for the lock", waits).await;
    let one = get(link(0), "one").await.unwrap();
    assert!(!tells(&one) && !tells(&two) && !tells(&child), "{one:?} {two:?} {child:?}");
    assert_eq!(one.branches[0].child_gid, "one.child");
    assert_eq!((&*child.branches[0].participant, &*child.gid), ("p", "one.child"));
    let lock = &two.locks[0];
    assert_eq!((&*lock.name, &*lock.holder_gid), ("stock", "one"));
    let sentence = two.waiting.unwrap().sentence;
    assert!(sentence.contains("lock stock is held by transaction one"), "{sentence}");

    // In full, for who sees all.
    let full = get(link(3), "tenant-a/two").await.unwrap();
    assert_eq!((&*full.gid, &*full.locks[0].name), ("tenant-a/two", "tenant-a/stock"));
    assert_eq!(full.locks[0].holder_gid, "tenant-a/one");
    let child = get(link(3), "tenant-a/one.child").await.unwrap();
    assert_eq!(child.branches[0].participant, "tenant-a/p");
    for (gid_prefix, participant, found) in [
        ("tenant-a/", "", 3),
        ("tenant-a/tw", "", 1),
        ("", "tenant-a/p", 1),
        ("tenant-b/", "", 0),
        ("", "p", 0),
    ] {
        let (gid_prefix, participant) = (gid_prefix.to_owned(), participant.to_owned());
        let request = v1::ListTransactionsRequest { gid_prefix, participant, ..Default::default() };
        let listed = list(link(3), request).await;
        assert_eq!(listed.transactions.len(), found, "{listed:?}");
    }
    // What one may write in a list is in the own namespace.
    let of_others =
        v1::ListTransactionsRequest { gid_prefix: "tenant-a/".into(), ..Default::default() };
    let status = client(link(1)).list_transactions(of_others).await.unwrap_err();
    assert_eq!(
        describe(&status),
        (Code::InvalidArgument, "FIELD_INVALID".into(), vec!["gid_prefix".into()])
    );
    // An operator without a namespace acts in all, and over HTTP as well.
    let address = world.running.admin_address().unwrap();
    let header = tenants.header(3);
    let headers = [("authorization", header.as_str()), ("content-type", "application/json")];
    let path = "/v1/transactions/tenant%2Da%2Ftwo";
    let reply = http_call(address, "GET", path, &headers, b"").await;
    assert!(reply.code == 200 && reply.body.contains("\"gid\":\"tenant-a/two\""), "{reply:?}");
    let reply = http_call(address, "POST", &format!("{path}:rollback"), &headers, b"{}").await;
    assert_eq!(reply.code, 200, "{reply:?}");
    assert_eq!(get(link(0), "two").await.unwrap().outcome(), v1::Outcome::Aborted);
    // And the pages for people show it.
    let page = http_call(address, "GET", "/transactions", &headers[..1], b"").await;
    assert!(page.code == 200 && page.body.contains("tenant-a/two"), "{page:?}");
    for (column, is_shown) in [(0, true), (1, false)] {
        let header = tenants.header(column);
        let headers = [("authorization", header.as_str())];
        for path in ["/", "/transactions", "/participants", "/system", "/attention"] {
            let page = http_call(address, "GET", path, &headers, b"").await;
            assert_eq!(page.code, 200, "{path}: {page:?}");
            assert!(!page.body.contains("tenant-a/"), "{path}: {page:?}");
            if path == "/transactions" {
                assert_eq!(page.body.contains("one.child"), is_shown, "{page:?}");
            }
        }
    }
}

/// Errors tell the names as they were written, and participants of one tenant are unknown to the other.
#[tokio::test]
async fn errors_tell_names_as_they_were_written() {
    let tenants = Tenants::new();
    let world = World::start(tenants.config(&sqlite_url())).await;
    let link = |column: usize| tenants.link(&world.channel, column);
    register(link(0), &Scripted::default().serve().await).await;
    client(link(0)).submit_transaction(tcc("g", &["ok"])).await.expect("its participant is there");
    // A moment after the start nobody can tell whether one comes.
    let status = client(link(1)).submit_transaction(tcc("g", &["ok"])).await.unwrap_err();
    let reason = describe(&status).1;
    assert!(
        ["PARTICIPANT_NOT_REGISTERED_YET", "PARTICIPANT_UNKNOWN"].contains(&&*reason),
        "{status}"
    );
    assert!(
        status.message().contains("participant p ") && !status.message().contains("tenant"),
        "{status}"
    );
    let mut twice = tcc("h", &["ok"]);
    let lock = v1::Lock { name: "l".into(), ..Default::default() };
    twice.locks = vec![lock.clone(), lock];
    let status = client(link(0)).submit_transaction(twice).await.unwrap_err();
    assert!(status.message().contains("must be unique, l came before"), "{status}");
}

/// Lists, their pages, numbers, participants, the audit and events are of the caller's namespace alone.
#[tokio::test]
async fn lists_and_numbers_are_of_the_callers_namespace() {
    let tenants = Tenants::new();
    let world = world(&tenants).await;
    let link = |column: usize| tenants.link(&world.channel, column);
    for n in 0..5 {
        for column in [0, 1, 0, 2] {
            let gid = format!("g-{n}-{}", Uuid::new_v4().simple());
            client(link(column)).submit_transaction(to_its_end(&gid)).await.unwrap();
        }
    }
    begin(link(0)).await;
    for (column, expected) in [(0, 11), (1, 5), (3, 21)] {
        let (mut token, mut found) = (String::new(), 0);
        loop {
            let request = v1::ListTransactionsRequest {
                page_size: 3,
                page_token: token,
                ..Default::default()
            };
            let listed = list(link(column), request).await;
            assert!(listed.transactions.iter().all(|tx| column == 3 || !tx.gid.contains('/')));
            found += listed.transactions.len();
            token = listed.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected, "column {column}");
        let request = v1::ListTransactionsRequest { include_counts: true, ..Default::default() };
        let counts = list(link(column), request).await.counts.unwrap().states;
        let count = |of: v1::TransactionState| {
            let of = counts.iter().filter(|count| count.state() == of);
            of.map(|count| (count.transaction_count, count.at_least)).collect::<Vec<_>>()
        };
        let open = u64::from(column != 1);
        assert_eq!(count(v1::TransactionState::Active), [(open, false)], "column {column}");
        let ended = expected as u64 - open;
        assert_eq!(count(v1::TransactionState::Committed), [(ended, false)], "column {column}");
        let statistics = v1::GetStatisticsRequest {
            include_settings: true,
            include_incarnations: true,
            ..Default::default()
        };
        let told = OperatorServiceClient::new(link(column)).get_statistics(statistics).await;
        let told = told.unwrap().into_inner();
        assert_eq!(told.undecided_count, open, "{told:?}");
        assert_eq!(told.server.is_some(), column == 3, "{told:?}");
        assert_eq!(told.incarnations.len(), usize::from(column == 3), "{told:?}");
        // What a tenant is not told is no zero on its first page.
        let address = world.running.admin_address().unwrap();
        let header = tenants.header(column);
        let first = http_call(address, "GET", "/", &[("authorization", &header)], b"").await;
        for of_process in
            ["begun a second", "time to decision", "The last ", "of the last ten seconds"]
        {
            let is_told = first.body.contains(of_process);
            assert_eq!(is_told, column == 3, "{of_process} for column {column}: {first:?}");
        }
        assert!(first.code == 200 && first.body.contains("<dt>undecided</dt>"), "{first:?}");
        let request = v1::ListParticipantsRequest { page_size: 1, ..Default::default() };
        let mut directory = ParticipantDirectoryServiceClient::new(link(column));
        let first = directory.list_participants(request).await.unwrap().into_inner();
        let names: Vec<_> = first.participants.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(names, ["p"], "{first:?}");
        assert_eq!(first.next_page_token.is_empty(), column != 3, "{first:?}");
    }
    // Without a namespace an initiator sees neither tenant.
    let listed = list(link(2), v1::ListTransactionsRequest::default()).await;
    assert_eq!(listed.transactions.len(), 5);

    let pages = async |column: usize| {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListAuditRequest { page_size: 1, page_token, ..Default::default() };
            let mut operator = OperatorServiceClient::new(link(column));
            let page = operator.list_audit(request).await.unwrap().into_inner();
            assert_eq!(page.last.is_some(), column == 3, "the ends are of all");
            all.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    };
    let identities = |entries: &[v1::AuditEntry]| {
        entries.iter().map(|entry| entry.identity.clone()).collect::<Vec<_>>()
    };
    assert_eq!(identities(&pages(0).await), ["web", "web"], "asked and answered");
    assert!(pages(1).await.is_empty());
    // The second tenant asks for a transaction of the first: that is entered, and neither of them is told.
    let tx_id = begin(link(0)).await.tx_id;
    let key = Some(v1::get_transaction_request::Key::TxId(tx_id.clone()));
    let request = v1::GetTransactionRequest { key, ..Default::default() };
    client(link(1)).get_transaction(request).await.unwrap_err();
    let entered = async || {
        let all = pages(3).await;
        all.iter()
            .find(|entry| entry.tx_id == tx_id)
            .map(|entry| (entry.identity.clone(), entry.reason.clone()))
    };
    let expected = ("shop".to_owned(), "of another namespace".to_owned());
    assert_eq!(until("the entry", entered).await, expected);
    assert!(pages(1).await.is_empty() && pages(0).await.len() == 2);
    let all = identities(&pages(3).await);
    assert!(all.contains(&"tenant-a/web".to_owned()), "{all:?}");
}

/// A stream of events tells of the caller's namespace alone, also once the caller is of another one.
#[tokio::test]
async fn events_are_of_the_callers_namespace() {
    let tenants = Tenants::new();
    let world = world(&tenants).await;
    let link = |column: usize| tenants.link(&world.channel, column);
    let mut streams = Vec::new();
    for column in [0, 1, 2, 3] {
        let request = v1::WatchTransactionsRequest::default();
        streams.push(client(link(column)).watch_transactions(request).await.unwrap().into_inner());
    }
    for column in [1, 0, 2] {
        client(link(column)).submit_transaction(to_its_end("same")).await.unwrap();
    }
    let mut told = Vec::new();
    for (column, stream) in streams.iter_mut().enumerate() {
        let wanted = if column == 3 { 3 } else { 1 };
        let mut found = Vec::new();
        while found.len() < wanted {
            let next = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
            let event = next.expect("it is silent").unwrap().unwrap().event;
            found.extend(event.map(|of| (of.gid, of.initiator, of.participants.concat())));
        }
        // Nothing more comes.
        let more = async {
            loop {
                if stream.message().await.unwrap().unwrap().event.is_some() {
                    return;
                }
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(300), more).await.is_err());
        told.push(found);
    }
    let of = |gid: &str, initiator: &str, participant: &str| {
        (gid.to_owned(), initiator.to_owned(), participant.to_owned())
    };
    assert_eq!(told[0], [of("same", "web", "p")]);
    assert_eq!(told[1], [of("same", "shop", "p")]);
    assert_eq!(told[2], [of("same", "plain", "p")]);
    let all = ["tenant-b", "tenant-a"]
        .map(|tenant| (format!("{tenant}/same"), format!("{tenant}/p")))
        .to_vec();
    let seen: Vec<_> = told[3][..2].iter().map(|(gid, _, p)| (gid.clone(), p.clone())).collect();
    assert_eq!(seen, all);
    // The first identity comes into the second namespace: what it began stays behind, and its stream tells nothing of it.
    let first = get(link(0), "same").await.unwrap().tx_id;
    let text = std::fs::read_to_string(&tenants.path).unwrap();
    let root = "name = \"root\"\n";
    let text = text.replace(root, &format!("{root}namespace = \"tenant-b\"\n"));
    std::fs::write(&tenants.path, text.replace("tenant-a", "tenant-b")).unwrap();
    let moved = async || get(link(0), "same").await.ok().filter(|tx| tx.tx_id != first);
    until("the file to be read", moved).await;
    let mine = list(link(0), v1::ListTransactionsRequest::default()).await;
    assert_eq!(gids(&mine), ["same"], "it sees the second namespace alone");
    for (column, gid) in [(2, "unseen"), (1, "later")] {
        client(link(column)).submit_transaction(to_its_end(gid)).await.unwrap();
    }
    let next = async {
        loop {
            let next = streams[3].message().await.unwrap().unwrap();
            if let Some(event) = next.event {
                return event.gid;
            }
        }
    };
    let next = tokio::time::timeout(Duration::from_secs(60), next).await;
    assert_eq!(
        next.expect("it is silent"),
        "later",
        "a viewer of all has become one of a namespace"
    );
    let next = async {
        loop {
            let next = streams[0].message().await.unwrap().unwrap();
            if let Some(event) = next.event {
                return event;
            }
        }
    };
    // It was opened for the former names, and the new ones count as well: nothing has both.
    let next = tokio::time::timeout(Duration::from_millis(500), next).await;
    assert!(next.is_err(), "{next:?}");
}
