//! The audit: who did what, and what was denied to whom.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinSet;
use tonic::{Code, Request};
use unanimo_coordinator::audit::{Entry, Kind, Link, Verifier};
use unanimo_core::Timestamp;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::{self, AuditKind};
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::handshakes::http_get as tls_call;
use super::roles::{Begun, COLUMNS, File, Link as Caller, begin, call, table};
use super::{Authority, guarded};
use crate::coordinator::http::http_call;
use crate::coordinator::{World, config, describe};
use crate::store::execute;

/// Name of the identity of each column.
const NAMES: [&str; 7] = ["web", "batch", "bank", "shop", "ann", "bob", ""];

async fn page(link: Caller, page_size: u32, token: &str) -> v1::ListAuditResponse {
    let page_token = token.to_owned();
    let request = v1::ListAuditRequest { page_size, page_token, ..Default::default() };
    OperatorServiceClient::new(link).list_audit(request).await.unwrap().into_inner()
}

/// Reads all of it, in pages, and checks the chain of it.
async fn entries(file: &File, world: &World) -> Vec<v1::AuditEntry> {
    let (mut all, mut token) = (Vec::new(), String::new());
    let mut verifier = None;
    loop {
        let page = page(file.link(world, 5), 7, &token).await;
        let purged = page.purged.unwrap();
        let start = Link { number: purged.number, hash: purged.hash.to_vec() };
        let verifier = verifier.get_or_insert_with(|| Verifier::new(start, None));
        for entry in page.entries {
            let link = entry.link.clone().unwrap();
            let at = entry.occurred_at.unwrap();
            let ms = at.seconds * 1000 + i64::from(at.nanos) / 1_000_000;
            let link = Link { number: link.number, hash: link.hash.to_vec() };
            let at = Timestamp(ms.try_into().unwrap());
            verifier.take(&link, at, &of_wire(&entry).encode()).unwrap();
            all.push(entry);
        }
        token = page.next_page_token;
        if token.is_empty() {
            return all;
        }
    }
}

fn of_wire(entry: &v1::AuditEntry) -> Entry {
    let kind = match entry.kind() {
        AuditKind::Asked => Kind::Asked,
        AuditKind::Answered => Kind::Answered,
        AuditKind::Denied => Kind::Denied,
        AuditKind::Changed => Kind::Changed,
        AuditKind::Purged => Kind::Purged,
        AuditKind::Unspecified => panic!("{entry:?}"),
    };
    let entry = entry.clone();
    Entry {
        kind,
        identity: entry.identity,
        roles: entry.roles.join(","),
        operator: entry.operator,
        address: entry.address,
        act: entry.act,
        tx_id: entry.tx_id,
        gid: entry.gid,
        branch_id: entry.branch_id,
        reason: entry.reason,
        outcome: entry.outcome,
        of: entry.of,
        count: entry.count,
    }
}

/// Waits until so many entries of a kind are there that a reader has of one identity.
async fn until_denied(file: &File, world: &World, count: usize) -> Vec<v1::AuditEntry> {
    until("what was denied to be entered", async || {
        let all = entries(file, world).await;
        let denied: Vec<_> =
            all.into_iter().filter(|entry| entry.kind() == AuditKind::Denied).collect();
        (denied.len() >= count).then_some(denied)
    })
    .await
}

/// The reason that an operator gives is in the entry of the act; what an initiator does to its own is no act.
#[tokio::test]
async fn the_reason_of_an_act_is_entered() {
    let file = File::new();
    let mut config = crate::coordinator::config(&crate::coordinator::sqlite_url());
    config.identities = file.setting();
    config.webhooks = super::setting(&crate::coordinator::webhooks::unreachable());
    config.drain_timeout = unanimo_coordinator::config::Period::millis(200);
    let world = World::start(config).await;
    let roll_back = async |column: usize, note: &str| {
        let begun = begin(file.link(&world, 0)).await;
        let key = Some(v1::rollback_transaction_request::Key::Gid(begun.gid));
        let request =
            v1::RollbackTransactionRequest { key, note: note.into(), ..Default::default() };
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        client.rollback_transaction(request).await.map(drop)
    };
    roll_back(0, "my own").await.unwrap();
    roll_back(4, "the order was cancelled by phone").await.unwrap();
    let long = roll_back(4, &"x".repeat(1025)).await.unwrap_err();
    assert_eq!(describe(&long).2, ["note"], "{long}");
    let request = v1::RedeliverEventsRequest {
        webhook: "hook".into(),
        note: "the receiver is repaired".into(),
        ..Default::default()
    };
    let mut operator = OperatorServiceClient::new(file.link(&world, 4));
    operator.redeliver_events(request.clone()).await.unwrap();
    let long = v1::RedeliverEventsRequest { note: "x".repeat(1025), ..request };
    assert_eq!(describe(&operator.redeliver_events(long).await.unwrap_err()).2, ["note"]);
    let all = entries(&file, &world).await;
    let asked = all.iter().filter(|entry| entry.kind() == AuditKind::Asked);
    let reasons: Vec<_> = asked.map(|entry| (&*entry.act, &*entry.reason)).collect();
    assert_eq!(
        reasons,
        [
            ("RollbackTransaction", "the order was cancelled by phone"),
            ("RedeliverEvents", "webhook hook: all: the receiver is repaired"),
        ]
    );
}

/// One who is not known hides none who comes from elsewhere.
#[tokio::test]
async fn strangers_are_entered_by_their_networks() {
    let file = File::new();
    let world = file.world().await;
    let server = world.running.grpc_address().unwrap();
    let ask = async |address: [u8; 4], times: usize| {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{server}")).unwrap();
        let channel = endpoint.local_address(Some(address.into())).connect().await.unwrap();
        let mut client = CoordinatorServiceClient::new(channel);
        for _ in 0..times {
            let asked = client.get_server_info(v1::GetServerInfoRequest::default()).await;
            assert_eq!(asked.unwrap_err().code(), Code::Unauthenticated);
        }
    };
    ask([127, 0, 0, 9], 20).await;
    ask([127, 0, 0, 10], 1).await;
    let denied = until_denied(&file, &world, 2).await;
    let mut from: Vec<_> =
        denied.iter().filter_map(|entry| entry.address.split_once(':')).collect();
    from.sort_unstable();
    let from: Vec<_> = from.into_iter().map(|(address, _)| address).collect();
    assert_eq!(from, ["127.0.0.10", "127.0.0.9"], "{denied:?}");
}

/// Each act of an operator has two entries, and each denied call is counted, by the table of roles.
#[tokio::test]
async fn every_act_and_every_denial_of_the_table_is_entered() {
    let file = File::new();
    let world = file.world().await;
    let (mut denied, mut acts) = (BTreeMap::new(), Vec::new());
    for (rpc, cells) in table() {
        for (column, expected) in cells.iter().enumerate() {
            let begun = begin(file.link(&world, 0)).await;
            let answer = call(&rpc, file.link(&world, column), &begun).await;
            let is_act = COLUMNS[column] == "operator"
                && [
                    "RetryTransaction",
                    "ResolveBranch",
                    "ForgetTransaction",
                    "RollbackTransaction",
                ]
                .contains(&rpc.as_str());
            // A list holds what may be seen, and denies nothing.
            let of_another = expected == "NOT_FOUND" && rpc != "ListTransactions";
            if is_act {
                acts.push((rpc.clone(), begun, answer));
            } else if ["DENIED", "UNAUTHENTICATED"].contains(&&**expected) || of_another {
                denied.insert((NAMES[column].to_owned(), rpc.clone()), (expected.clone(), begun));
            }
        }
    }
    assert_eq!((acts.len(), denied.len() > 50), (4, true));
    let found = until_denied(&file, &world, denied.len()).await;
    assert_eq!(found.len(), denied.len());
    for entry in found {
        let pair = (entry.identity.clone(), entry.act.clone());
        let (expected, begun) = denied.remove(&pair).unwrap_or_else(|| panic!("{entry:?}"));
        assert!(entry.address.starts_with("127.0.0.1:"), "{entry:?}");
        assert_eq!(entry.roles.is_empty(), expected == "UNAUTHENTICATED", "{entry:?}");
        assert_eq!(entry.count, 1, "{entry:?}");
        if expected == "NOT_FOUND" {
            let named = entry.tx_id == begun.tx_id || entry.gid == begun.gid;
            assert!(named && entry.reason == "of another one", "{entry:?}");
        }
    }
    let all = entries(&file, &world).await;
    for (rpc, begun, answer) in acts {
        let of = |kind: AuditKind| {
            let mut found = all.iter().filter(|entry| entry.kind() == kind && entry.act == rpc);
            (found.next().unwrap_or_else(|| panic!("{rpc}: no {kind:?}")), found.count())
        };
        let ((asked, more), (answered, more_answered)) =
            (of(AuditKind::Asked), of(AuditKind::Answered));
        assert_eq!((more, more_answered), (0, 0), "{rpc}: once");
        assert_eq!(answered.of, asked.link.as_ref().unwrap().number, "{answered:?}");
        for entry in [asked, answered] {
            assert_eq!((&*entry.identity, &*entry.roles), ("ann", &["operator".to_owned()][..]));
            assert!(entry.tx_id == begun.tx_id || entry.gid == begun.gid, "{entry:?}");
        }
        assert_eq!(asked.outcome, "");
        match &answer {
            Ok(()) => assert!(answered.outcome.starts_with("OK"), "{answered:?}"),
            Err(status) => {
                assert!(answered.outcome.contains(&describe(status).1), "{answered:?}: {status}");
            }
        }
        if rpc == "ResolveBranch" {
            assert_eq!((&*asked.branch_id, &*asked.reason), ("a", "as committed: a test"));
        }
    }
}

/// An initiator's act on its own transaction is no operator's, though it be one, too.
#[tokio::test]
async fn an_operators_own_transaction_is_no_act() {
    let file = File::new();
    file.write_both();
    let world = file.world().await;
    let own = begin(file.link(&world, 0)).await;
    call("RollbackTransaction", file.link(&world, 0), &own).await.unwrap();
    let of_another = begin(file.link(&world, 1)).await;
    call("RollbackTransaction", file.link(&world, 0), &of_another).await.unwrap();
    let all = entries(&file, &world).await;
    let acts: Vec<_> = all.iter().filter(|entry| entry.kind() == AuditKind::Answered).collect();
    assert_eq!(acts.len(), 1, "{acts:?}");
    assert_eq!((&*acts[0].gid, &*acts[0].outcome), (&*of_another.gid, "OK (aborted)"));
}

/// An act that cannot be entered is not carried out; a denied call is answered all the same, and entered later.
#[tokio::test]
async fn an_act_that_cannot_be_entered_is_not_carried_out() {
    let file = File::new();
    let database = Server::shared().database().await;
    let mut config = config(&database);
    config.identities = file.setting();
    let world = World::start(config).await;
    let begun = begin(file.link(&world, 0)).await;
    until("the entry of the start", async || {
        (!entries(&file, &world).await.is_empty()).then_some(())
    })
    .await;
    execute(&database, "ALTER TABLE audit RENAME TO audit_hidden").await;
    let status = call("RollbackTransaction", file.link(&world, 4), &begun).await.unwrap_err();
    assert_eq!(describe(&status).1, "AUDIT_NOT_WRITTEN", "{status}");
    let status = call("RetryTransaction", file.link(&world, 5), &begun).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    call("GetTransaction", file.link(&world, 0), &begun).await.unwrap();
    let another = begin(file.link(&world, 0)).await;
    call("CommitTransaction", file.link(&world, 0), &another).await.expect("others go on");
    execute(&database, "ALTER TABLE audit_hidden RENAME TO audit").await;
    let before = call("EnlistBranch", file.link(&world, 0), &begun).await;
    before.expect("it was not rolled back");
    call("RollbackTransaction", file.link(&world, 4), &begun).await.expect("the act");
    let denied = until_denied(&file, &world, 1).await;
    assert_eq!((&*denied[0].identity, &*denied[0].act), ("bob", "RetryTransaction"));
    let all = entries(&file, &world).await;
    let acts = all.iter().filter(|entry| entry.act == "RollbackTransaction").count();
    assert_eq!(acts, 2, "{all:?}");
}

/// Many calls that are denied have one entry at once, and one with their number later.
#[tokio::test]
async fn denied_calls_are_counted_and_none_is_lost_at_the_stop() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    for _ in 0..50 {
        call("RetryTransaction", file.link(&world, 5), &begun).await.unwrap_err();
    }
    let denied = until_denied(&file, &world, 1).await;
    assert_eq!(denied.len(), 1);
    let World { running, config, .. } = world;
    running.stop().await.unwrap();
    let world = World::start(config).await;
    let denied = until_denied(&file, &world, 2).await;
    let counts: Vec<u64> = denied.iter().map(|entry| entry.count).collect();
    assert_eq!((counts.len(), counts.iter().sum()), (2, 50), "{denied:?}");
}

/// An operator that may begin transactions, too, rolls back a gid that nobody has: another one may have it before that
/// is carried out.
#[tokio::test]
async fn a_rollback_of_what_nobody_has_begun_is_an_operators_act() {
    let file = File::new();
    file.write_both();
    let world = file.world().await;
    let of = Begun { tx_id: String::new(), gid: "nobodys".into(), cluster_id: String::new() };
    call("RollbackTransaction", file.link(&world, 0), &of).await.unwrap();
    let all = entries(&file, &world).await;
    let acts = all.iter().filter(|entry| entry.act == "RollbackTransaction");
    let acts: Vec<_> = acts.map(|entry| (entry.kind(), &*entry.gid)).collect();
    assert_eq!(acts, [(AuditKind::Asked, "nobodys"), (AuditKind::Answered, "nobodys")]);
}

/// While the database hangs, acts are bounded, and one that its caller has given up is not carried out afterwards.
#[tokio::test]
async fn acts_that_were_given_up_are_not_carried_out() {
    const MORE: usize = 40;
    let file = File::new();
    let database = Server::shared().database().await;
    let mut config = config(&database);
    config.identities = file.setting();
    let world = World::start(config).await;
    let begun = begin(file.link(&world, 0)).await;
    until("the entry of the start", async || {
        (!entries(&file, &world).await.is_empty()).then_some(())
    })
    .await;
    let mut holder = PgConnection::connect(&database).await.unwrap();
    let lock = "BEGIN; LOCK TABLE unanimo.audit_chain IN ACCESS EXCLUSIVE MODE";
    holder.execute(lock).await.unwrap();
    let (mut acting, link) = (JoinSet::new(), file.link(&world, 4));
    for _ in 0..256 + MORE {
        let key = Some(v1::rollback_transaction_request::Key::TxId(begun.tx_id.clone()));
        let request = v1::RollbackTransactionRequest { key, ..Default::default() };
        let mut request = Request::new(request);
        // All of them are there before the first one is given up.
        request.set_timeout(Duration::from_secs(10));
        let mut client = CoordinatorServiceClient::new(link.clone());
        acting.spawn(async move { client.rollback_transaction(request).await });
    }
    let mut refused = 0;
    while let Some(answer) = acting.join_next().await {
        match answer.unwrap() {
            Ok(answer) => {
                let result = answer.into_inner().result.unwrap();
                assert_eq!(result.outcome(), v1::Outcome::NotDecided, "{result:?}");
            }
            Err(status) if status.code() == Code::ResourceExhausted => {
                assert_eq!(describe(&status).1, "OVERLOADED", "{status}");
                refused += 1;
            }
            Err(status) => assert_ne!(status.code(), Code::PermissionDenied, "{status}"),
        }
    }
    assert!(refused >= MORE, "{refused} of {} were refused", 256 + MORE);
    holder.execute("ROLLBACK").await.unwrap();
    // Those whose turn it was: of each it is told that it was not carried out.
    let outcomes = until("their outcomes", async || {
        let all = entries(&file, &world).await;
        let of = |kind| all.iter().filter(move |entry| entry.kind() == kind);
        let outcomes: Vec<_> = of(AuditKind::Answered).map(|entry| entry.outcome.clone()).collect();
        let is_whole = !outcomes.is_empty() && of(AuditKind::Asked).count() == outcomes.len();
        is_whole.then_some(outcomes)
    })
    .await;
    let is_not_done = |outcome: &String| outcome == "UNAVAILABLE (AUDIT_NOT_WRITTEN)";
    assert!(outcomes.iter().all(is_not_done), "{outcomes:?}");
    call("EnlistBranch", file.link(&world, 0), &begun).await.expect("it was not rolled back");
}

/// Each start tells what is used, and what is not, once the audit has entries.
#[tokio::test]
async fn a_start_without_identities_is_entered_beside_others() {
    let file = File::new();
    let world = file.world().await;
    begin(file.link(&world, 0)).await;
    let changed = async |file: &File, world: &World| {
        let all = entries(file, world).await;
        let changed = all.into_iter().filter(|entry| entry.kind() == AuditKind::Changed);
        changed.map(|entry| (entry.act, entry.reason)).collect::<Vec<_>>()
    };
    until("the entry of the start", async || {
        (changed(&file, &world).await.len() == 1).then_some(())
    })
    .await;
    let World { running, mut config, .. } = world;
    running.stop().await.unwrap();
    config.identities = Default::default();
    let world = World::start(config).await;
    let told = until("the entries of the second start", async || {
        let told = changed(&file, &world).await;
        (told.len() >= 5).then_some(told)
    })
    .await;
    let settings = ["identities", "jwt-keys", "participant-tokens", "tls-cert, tls-client-ca"];
    let expected =
        settings.map(|act| (act.to_owned(), "in use from the start: not set".to_owned()));
    assert_eq!(told[1..], expected);
}

/// Acts that come at once are one chain, each with its outcome.
#[tokio::test]
async fn acts_at_once_are_one_chain() {
    let file = File::new();
    let world = file.world().await;
    let mut acting = JoinSet::new();
    for _ in 0..20 {
        let (begun, link) = (begin(file.link(&world, 0)).await, file.link(&world, 4));
        acting.spawn(async move { call("RollbackTransaction", link, &begun).await });
    }
    acting.join_all().await.into_iter().for_each(|answer| answer.unwrap());
    let all = entries(&file, &world).await;
    let of = |kind: AuditKind| all.iter().filter(move |entry| entry.kind() == kind);
    let asked: Vec<u64> =
        of(AuditKind::Asked).map(|entry| entry.link.as_ref().unwrap().number).collect();
    let mut answered: Vec<u64> = of(AuditKind::Answered).map(|entry| entry.of).collect();
    answered.sort_unstable();
    assert_eq!((asked.len(), &asked), (20, &answered));
}

/// A token that is revoked, and an identity that is new, are entered without a secret.
#[tokio::test]
async fn a_change_of_identities_is_entered() {
    let file = File::new();
    let world = file.world().await;
    file.write(&[1, 2, 3, 5]);
    let told = until("the change to be entered", async || {
        let all = entries(&file, &world).await;
        let changed: Vec<_> =
            all.into_iter().filter(|entry| entry.kind() == AuditKind::Changed).collect();
        (changed.len() >= 2).then_some(changed)
    })
    .await;
    assert!(told[0].reason.ends_with(": ann, bank, batch, bob, shop, web"), "{told:?}");
    assert_eq!((&*told[1].act, &*told[1].reason), ("identities", "removed ann; removed web"));
    let shown = format!("{told:?}");
    for column in 0..6 {
        let (_, secret) = file.token(column).rsplit_once('_').unwrap();
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// Pages go both ways.
#[tokio::test]
async fn the_latest_entries_come_first_where_they_are_asked_for() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    for _ in 0..3 {
        let _ = call("ForgetTransaction", file.link(&world, 4), &begun).await;
    }
    let ascending: Vec<_> = entries(&file, &world).await;
    let (mut descending, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListAuditRequest {
            page_size: 2,
            page_token,
            newest_first: true,
            ..Default::default()
        };
        let mut client = OperatorServiceClient::new(file.link(&world, 4));
        let page = client.list_audit(request).await.unwrap().into_inner();
        descending.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    descending.reverse();
    assert!(ascending.len() >= 7 && ascending == descending, "{ascending:?}\n{descending:?}");
    let bad = v1::ListAuditRequest { page_token: "x".into(), ..Default::default() };
    let mut client = OperatorServiceClient::new(file.link(&world, 4));
    let status = client.list_audit(bad).await.unwrap_err();
    assert_eq!(describe(&status).2, ["page_token"]);
}

/// Calls over HTTP have their address in the audit, with TLS or without, and a call without a certificate is entered.
#[tokio::test]
async fn calls_over_http_are_entered_with_their_addresses() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    let address = world.running.admin_address().unwrap();
    let act = async |column: usize| {
        let header = format!("Bearer {}", file.token(column));
        let headers = [("authorization", &*header), ("content-type", "application/json")];
        let path = format!("/v1/tx/{}:retry", begun.tx_id);
        http_call(address, "POST", &path, &headers, b"{}").await.code
    };
    assert_eq!(act(5).await, 403);
    act(4).await;
    until_denied(&file, &world, 1).await;
    let all = entries(&file, &world).await;
    let of: Vec<_> = all.iter().filter(|entry| entry.act == "RetryTransaction").collect();
    assert_eq!(of.len(), 3, "{of:?}");
    assert!(of.iter().all(|entry| entry.address.starts_with("127.0.0.1:")), "{of:?}");

    let authority = Authority::new();
    let world = World::start(guarded(&authority)).await;
    let (code, _) = tls_call(&world, &authority, "/v1/server", false).await;
    assert_eq!(code, 401);
    let (code, _) = tls_call(&world, &authority, "/v1/nothing", false).await;
    assert_eq!(code, 401, "nothing is told of what is there");
    let denied = until("the entry", async || {
        let page = page_of(&world, &authority).await;
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        entries.into_iter().find(|entry| entry["kind"] == "AUDIT_KIND_DENIED")
    })
    .await;
    assert_eq!((&denied["act"], &denied["count"]), (&"GetServerInfo".into(), &"1".into()));
    let why = denied["reason"].as_str().unwrap();
    assert_eq!(why, "a client certificate is needed");
    assert!(denied["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{denied}");
}

/// Reads the first page over HTTP, with a certificate.
async fn page_of(world: &World, authority: &Authority) -> serde_json::Value {
    let (code, text) = tls_call(world, authority, "/v1/audit", true).await;
    assert_eq!(code, 200, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
