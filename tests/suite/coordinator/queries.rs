//! Get, List, Watch and Inquire.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::Code;
use tonic_types::StatusExt;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    BeginTransactionRequest, GetTransactionRequest, InquireBranchesRequest, InquiredBranch,
    ListTransactionsRequest, Mode, Outcome, Resolution, ResolveBranchRequest, TransactionState,
    Verdict, WatchTransactionRequest, get_transaction_request, watch_transaction_request,
};
use unanimo_tests::wait::until;

use super::http::http_call;
use super::{World, config, describe, sqlite_url, tcc};

#[tokio::test]
async fn a_watch_shows_each_step_until_the_end() {
    let world = World::sqlite().await;
    let request =
        BeginTransactionRequest { gid: "g".into(), mode: Mode::Tcc.into(), ..Default::default() };
    let tx_id = world.client().begin_transaction(request).await.unwrap().into_inner().tx_id;
    let key = Some(watch_transaction_request::Key::Gid("g".into()));
    let mut stream = world
        .client()
        .watch_transaction(WatchTransactionRequest { key: key.clone(), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut next = async || {
        let next = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.unwrap();
        next.map(|response| response.unwrap().transaction.unwrap())
    };
    assert_eq!(next().await.unwrap().state(), TransactionState::Active);
    world.p.hold(true);
    let branch = Some(super::branch("a", "ok"));
    let request = unanimo_proto::v1::ExecuteBranchRequest {
        tx_id: tx_id.clone(),
        branch,
        ..Default::default()
    };
    world.client().execute_branch(request).await.unwrap();
    let request = unanimo_proto::v1::RollbackTransactionRequest {
        key: Some(unanimo_proto::v1::rollback_transaction_request::Key::TxId(tx_id)),
        wait_for: 1,
        ..Default::default()
    };
    world.client().rollback_transaction(request).await.unwrap();
    let mut states = Vec::new();
    while states.last() != Some(&TransactionState::Aborting) {
        states.push(next().await.unwrap().state());
    }
    world.p.hold(false);
    let mut last = None;
    while let Some(transaction) = next().await {
        last = Some(transaction);
    }
    assert_eq!(last.unwrap().state(), TransactionState::Aborted, "never missed");

    // One that has ended is shown once.
    let stream = world
        .client()
        .watch_transaction(WatchTransactionRequest { key, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let all: Vec<_> = stream.collect().await;
    assert_eq!(all.len(), 1);
}

#[tokio::test]
async fn a_list_is_filtered_and_paged() {
    let world = World::sqlite().await;
    for n in 0..5 {
        world.submit(tcc(&format!("order-{n}"), &["ok", "ok"])).await.unwrap();
        world.get_until(&format!("order-{n}"), "its end", |t| t.ended_at.is_some()).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let metadata = |entries: &[(&str, &str)]| {
        entries.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    };
    let mut other = tcc("other", &["refuse"]);
    other.metadata = metadata(&[("region", "eu"), ("tenant", "a=b")]);
    world.submit(other).await.unwrap();
    let list = async |request: ListTransactionsRequest| {
        world.client().list_transactions(request).await.unwrap().into_inner()
    };
    let page = list(ListTransactionsRequest { page_size: 4, ..Default::default() }).await;
    let gids: Vec<&str> = page.transactions.iter().map(|t| t.gid.as_str()).collect();
    assert_eq!(gids, ["other", "order-4", "order-3", "order-2"]);
    assert_eq!(page.transactions[1].branch_count, 2);
    let token = page.next_page_token;
    let page =
        list(ListTransactionsRequest { page_size: 4, page_token: token, ..Default::default() })
            .await;
    let gids: Vec<&str> = page.transactions.iter().map(|t| t.gid.as_str()).collect();
    assert_eq!(gids, ["order-1", "order-0"]);
    assert_eq!(page.next_page_token, "");
    let states = vec![TransactionState::Aborted.into()];
    let page = list(ListTransactionsRequest { states, ..Default::default() }).await;
    assert_eq!(page.transactions.len(), 1);
    let page =
        list(ListTransactionsRequest { gid_prefix: "order-".into(), ..Default::default() }).await;
    assert_eq!(page.transactions.len(), 5);
    let page =
        list(ListTransactionsRequest { participant: "nobody".into(), ..Default::default() }).await;
    assert!(page.transactions.is_empty());
    for (modes, entries, count) in [
        (&[Mode::Saga, Mode::Tcc][..], &[][..], 6),
        (&[Mode::Saga, Mode::TwoPhaseCommit], &[], 0),
        (&[], &[("region", "eu")], 1),
        (&[Mode::Tcc], &[("tenant", "a=b"), ("region", "eu")], 1),
        (&[Mode::Saga], &[("region", "eu")], 0),
        (&[], &[("region", "eu"), ("tenant", "b")], 0),
        (&[], &[("regio", "eu")], 0),
    ] {
        let page = list(ListTransactionsRequest {
            modes: modes.iter().map(|mode| (*mode).into()).collect(),
            metadata: metadata(entries),
            ..Default::default()
        });
        assert_eq!(page.await.transactions.len(), count, "{modes:?} {entries:?}");
    }
    // The same over HTTP, where the key of an entry is in brackets.
    let address = world.running.admin_address().unwrap();
    for (query, code, said) in [
        ("metadata%5Bregion%5D=eu&modes=MODE_TCC", 200, "\"gid\":\"other\""),
        ("metadata[region]=eu&metadata[tenant]=b", 200, "\"transactions\":[]"),
        ("metadata=eu", 400, "metadata must name a key: metadata[KEY]=VALUE"),
        ("metadata[a]=1&metadata[a]=2", 400, "metadata[a] must not be there twice"),
        ("participant[a]=1", 400, "participant[a] must have no key: participant is no map"),
        ("metadata[a=1", 400, "metadata[a is no field of ListTransactionsRequest"),
    ] {
        let reply = http_call(address, "GET", &format!("/v1/transactions?{query}"), &[], b"").await;
        let is_none = said.ends_with("[]") && !reply.body.contains("gid");
        assert!(reply.code == code && (reply.body.contains(said) || is_none), "{query}: {reply:?}");
    }
}

/// S12: what a participant in doubt is told.
#[tokio::test]
async fn s12_an_inquiry_is_answered_for_each_branch() {
    let mut config = config(&sqlite_url());
    config.phase_two_backoff = Period::secs(1000);
    config.phase_two_backoff_max = Period::secs(1000);
    let world = World::start(config).await;
    world.p.hold(true);
    let committed = world.submit(tcc("c", &["commit-fail-2", "ok"])).await.unwrap().tx_id;
    let aborted = world.submit(tcc("a", &["ok", "refuse"])).await.unwrap().tx_id;
    let begin =
        BeginTransactionRequest { gid: "r".into(), mode: Mode::Tcc.into(), ..Default::default() };
    let running = world.client().begin_transaction(begin).await.unwrap().into_inner().tx_id;
    let execute = unanimo_proto::v1::ExecuteBranchRequest {
        tx_id: running.clone(),
        branch: Some(super::branch("a", "ok")),
        ..Default::default()
    };
    world.client().execute_branch(execute).await.unwrap();
    world.p.hold(false);
    let failing = |t: &unanimo_proto::v1::Transaction| {
        t.branches[0].phase_two_attempts.as_ref().is_some_and(|f| !f.last_error.is_empty())
    };
    world.get_until("c", "the failed commit", failing).await;
    world.get_until("a", "its end", |t| t.ended_at.is_some()).await;

    let never = uuid::Uuid::now_v7().to_string();
    let asked = [
        (&committed, "a"),
        (&committed, "b"),
        (&committed, "x"),
        (&aborted, "a"),
        (&running, "a"),
        (&never, "a"),
    ];
    let inquire = async |participant: &str| {
        let branches = asked.iter().map(|(tx_id, id)| InquiredBranch {
            tx_id: (*tx_id).clone(),
            branch: Some(unanimo_proto::v1::inquired_branch::Branch::BranchId((*id).into())),
        });
        let request = InquireBranchesRequest {
            participant: participant.into(),
            branches: branches.collect(),
            cluster_id: world.cluster_id().await,
            ..Default::default()
        };
        let results = world.client().inquire_branches(request).await.unwrap().into_inner().verdicts;
        results.iter().map(|result| (result.verdict(), result.ended)).collect::<Vec<_>>()
    };
    let told = inquire("p").await;
    assert_eq!(
        told,
        [
            (Verdict::Commit, false),
            // It has answered, but the transaction has not ended: a crash may forget the answer.
            (Verdict::Commit, false),
            (Verdict::NeverSeen, false),
            (Verdict::Cancel, true),
            (Verdict::Running, false),
            (Verdict::NeverSeen, false),
        ]
    );
    // Each question makes the coordinator send again what it owes.
    until("the second commit to fail", async || {
        let shown = world.get("c").await;
        let attempts = shown.branches[0].phase_two_attempts.clone().unwrap();
        let commits = world.p.calls(&committed, "a").len() - 1;
        (commits == 2 && attempts.count == 2).then_some(())
    })
    .await;
    until("the third commit", async || {
        (inquire("p").await[0] == (Verdict::Commit, true)).then_some(())
    })
    .await;
    assert_eq!(world.p.calls(&committed, "a"), ["prepare", "commit", "commit", "commit"]);
    // Another participant's branches are none of the asker's.
    assert!(
        inquire("other")
            .await
            .iter()
            .all(|(v, _)| matches!(v, Verdict::NeverSeen | Verdict::Running))
    );
}

/// S12: a prepared transaction's name holds a branch's number, and not its id.
#[tokio::test]
async fn s12_a_branch_may_be_asked_for_by_its_number() {
    let world = World::sqlite().await;
    let tx_id = world.submit(tcc("g", &["ok", "ok"])).await.unwrap().tx_id;
    world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    let inquire = async |numbers: &[u32], cluster_id: &str| {
        let branches = numbers.iter().map(|number| InquiredBranch {
            tx_id: tx_id.clone(),
            branch: Some(unanimo_proto::v1::inquired_branch::Branch::BranchNumber(*number)),
        });
        let request = InquireBranchesRequest {
            participant: "p".into(),
            branches: branches.collect(),
            cluster_id: cluster_id.into(),
            ..Default::default()
        };
        world
            .client()
            .inquire_branches(request)
            .await
            .map(|response| response.into_inner().verdicts)
    };
    let told = inquire(&[2, 3], &world.cluster_id().await).await.unwrap();
    let verdicts: Vec<_> = told.iter().map(|told| (told.verdict(), told.ended)).collect();
    assert_eq!(verdicts, [(Verdict::Commit, true), (Verdict::NeverSeen, false)]);
    let context = told[0].context.clone().unwrap();
    assert_eq!((&*context.branch_id, context.branch_number), ("b", 2));
    assert_eq!((&*context.tx_id, &*context.gid, &*told[0].action), (&*tx_id, "g", "ok"));
    assert!(told[0].prepare_until.is_some());
    assert_eq!(told[1].context, None);

    assert_eq!(inquire(&[2], &context.cluster_id).await.unwrap()[0], told[0]);
    let other = inquire(&[2], "another").await.unwrap_err();
    assert_eq!(describe(&other), (Code::FailedPrecondition, "OTHER_CLUSTER".into(), vec![]));
    let info = other.get_error_details().error_info().unwrap().clone();
    assert_eq!(info.metadata["cluster_id"], context.cluster_id);

    let bad = inquire(&[2], "").await.unwrap_err();
    let field = vec!["cluster_id".to_owned()];
    assert_eq!(describe(&bad), (Code::InvalidArgument, "FIELD_INVALID".into(), field));
    let bad = inquire(&[1, 0], &context.cluster_id).await.unwrap_err();
    assert_eq!(describe(&bad).2, ["branches[1].branch_number"]);
    let bad = inquire(&[1, 70_000], &context.cluster_id).await.unwrap_err();
    assert_eq!(describe(&bad).2, ["branches[1].branch_number"]);
}

/// S12: nobody commits by itself what a person has said to be rolled back.
#[tokio::test]
async fn s12_a_branch_that_was_resolved_against_the_decision_is_told_apart() {
    let mut config = config(&sqlite_url());
    config.call_timeout = Period::millis(50);
    config.phase_two_backoff = Period::secs(1000);
    config.phase_two_backoff_max = Period::secs(1000);
    let world = World::start(config).await;
    let tx_id = world.submit(tcc("g", &["commit-hang", "commit-hang"])).await.unwrap().tx_id;
    for (branch, resolution) in [("a", Resolution::Committed), ("b", Resolution::RolledBack)] {
        let request = ResolveBranchRequest {
            tx_id: tx_id.clone(),
            branch_id: branch.into(),
            resolution: resolution.into(),
            operator: "ann".into(),
            note: "by hand".into(),
            ..Default::default()
        };
        world.operator().resolve_branch(request).await.unwrap();
    }
    let branches = ["a", "b"].map(|id| InquiredBranch {
        tx_id: tx_id.clone(),
        branch: Some(unanimo_proto::v1::inquired_branch::Branch::BranchId(id.into())),
    });
    let request = InquireBranchesRequest {
        participant: "p".into(),
        branches: branches.into(),
        cluster_id: world.cluster_id().await,
        ..Default::default()
    };
    let told = world.client().inquire_branches(request).await.unwrap().into_inner().verdicts;
    let verdicts: Vec<_> = told.iter().map(|told| (told.verdict(), told.ended)).collect();
    assert_eq!(verdicts, [(Verdict::Commit, true), (Verdict::Heuristic, true)]);
}

/// S10: what is purged is told from what was never seen.
#[tokio::test]
async fn s10_a_purged_transaction_is_told_from_one_never_seen() {
    let mut config = config(&sqlite_url());
    config.retention = Period::millis(1);
    config.gid_retention = Period::millis(600);
    config.purge_interval = Period::millis(20);
    let world = World::start(config).await;
    let result = world.submit(tcc("g", &["ok"])).await.unwrap();
    let shown = world.get_until("g", "its details to go", |t| t.stripped).await;
    assert_eq!((shown.outcome(), shown.branches.len()), (Outcome::Committed, 0));
    // The gid still names it: the same request has the same outcome, another one is refused.
    let again = world.submit(tcc("g", &["ok"])).await.unwrap();
    assert_eq!((&again.tx_id, again.outcome()), (&result.tx_id, Outcome::Committed));
    let other = world.submit(tcc("g", &["ok", "ok"])).await.unwrap_err();
    assert_eq!(describe(&other).1, "GID_REUSED");

    let get = async |key| {
        let request = GetTransactionRequest { key: Some(key), ..Default::default() };
        world.client().get_transaction(request).await.map_err(|status| describe(&status).1)
    };
    until("it to be purged", async || {
        get(get_transaction_request::Key::TxId(result.tx_id.clone())).await.err().map(|reason| {
            assert_eq!(reason, "TRANSACTION_PURGED");
        })
    })
    .await;
    let by_gid = get(get_transaction_request::Key::Gid("g".into())).await.unwrap_err();
    assert_eq!(by_gid, "GID_UNKNOWN", "a gid is new after its retention");
    let now = crate::fixtures::tx_id(crate::fixtures::now());
    let never = get(get_transaction_request::Key::TxId(now.to_string())).await.unwrap_err();
    assert_eq!(never, "TRANSACTION_NEVER_SEEN");
    let new = world.submit(tcc("g", &["ok", "ok"])).await.unwrap();
    assert_ne!(new.tx_id, result.tx_id);
}
