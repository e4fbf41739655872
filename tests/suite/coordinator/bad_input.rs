//! Nonsense gets an error that names the field and the rule, and loses nothing.

use tonic::Code;
use unanimo_proto::v1::{
    BeginTransactionRequest, BranchSpec, CommitTransactionRequest, ExecuteBranchRequest,
    GetTransactionRequest, InquireBranchesRequest, InquiredBranch, ListTransactionsRequest, Mode,
    Outcome, Payload, RollbackTransactionRequest, SubmitTransactionRequest,
    get_transaction_request,
};

use super::{World, branch, describe, millis, tcc};

async fn check(world: &World, request: SubmitTransactionRequest, field: &str, rule: &str) {
    let status = world.submit(request).await.unwrap_err();
    let (code, reason, fields) = describe(&status);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "FIELD_INVALID"), "{status:?}");
    assert_eq!(fields, [field], "{status:?}");
    assert!(status.message().contains(rule), "{}", status.message());
}

fn with(change: impl FnOnce(&mut SubmitTransactionRequest)) -> SubmitTransactionRequest {
    let mut request = tcc("g", &["ok", "ok"]);
    change(&mut request);
    request
}

fn with_branch(change: impl FnOnce(&mut BranchSpec)) -> SubmitTransactionRequest {
    with(|request| change(&mut request.branches[1]))
}

#[tokio::test]
async fn each_bad_field_is_named_with_its_rule() {
    let world = World::sqlite().await;
    let alphabet = "must consist of A-Z a-z 0-9 _ . : - only";
    check(&world, with(|r| r.gid = String::new()), "gid", "must not be empty").await;
    let long = "g".repeat(129);
    check(&world, with(|r| r.gid = long), "gid", "must be at most 128 bytes, has 129").await;
    check(&world, with(|r| r.gid = "a/b".into()), "gid", alphabet).await;
    check(&world, with(|r| r.gid = "a\0b".into()), "gid", alphabet).await;
    check(&world, with(|r| r.gid = "ä".into()), "gid", alphabet).await;
    let start = "must begin with a letter, a digit or _, begins with '-'";
    check(&world, with(|r| r.gid = "-a".into()), "gid", start).await;
    let dash = with_branch(|b| b.branch_id = "-a".into());
    check(&world, dash, "branches[1].branch_id", start).await;
    let least = prost_types::Duration { seconds: i64::MIN, nanos: i32::MIN };
    let negative = with(|r| r.timeout = Some(least));
    check(&world, negative, "timeout", "must be a positive duration").await;
    check(
        &world,
        with(|r| r.mode = 0),
        "mode",
        "must be MODE_TWO_PHASE_COMMIT, MODE_TCC or MODE_SAGA",
    )
    .await;
    check(&world, with(|r| r.mode = 99), "mode", "must be MODE_TWO_PHASE_COMMIT").await;
    check(
        &world,
        with(|r| r.wait_for = 9),
        "wait_for",
        "must be WAIT_FOR_ACCEPTED, WAIT_FOR_DECIDED or",
    )
    .await;
    check(&world, with(|r| r.branches.clear()), "branches", "must have at least 1").await;
    let many = with(|r| r.branches = (0..65).map(|n| branch(&format!("b{n}"), "ok")).collect());
    check(&world, many, "branches", "must have at most 64 branches, has 65").await;
    let twice = with_branch(|b| b.branch_id = "a".into());
    check(&world, twice, "branches[1].branch_id", "must be unique, a came before").await;
    let slash = with_branch(|b| b.branch_id = "x/y".into());
    check(&world, slash, "branches[1].branch_id", alphabet).await;
    let nobody = with_branch(|b| b.participant = String::new());
    check(&world, nobody, "branches[1].participant", "must not be empty").await;
    let long = with_branch(|b| b.action = "a".repeat(65));
    check(&world, long, "branches[1].action", "must be at most 64 bytes, has 65").await;
    let large = with_branch(|b| b.payload = unanimo_tests::payload(vec![0; (1 << 20) + 1]));
    let rule = "must be at most 1048576 bytes, has 1048577";
    check(&world, large, "branches[1].payload", rule).await;
    let sum = with(|r| {
        r.branches = (0..5).map(|n| branch(&format!("b{n}"), "ok")).collect();
        r.branches.iter_mut().for_each(|b| b.payload = unanimo_tests::payload(vec![0; 1 << 20]));
    });
    check(&world, sum, "branches.payload", "over all branches").await;
    for timeout in [millis(0), Some(prost_types::Duration { seconds: 0, nanos: 1 })] {
        check(&world, with(|r| r.timeout = timeout), "timeout", "must be at least 1 ms").await;
    }
    let rule = "must be a positive duration";
    check(&world, with(|r| r.timeout = millis(-1000)), "timeout", rule).await;
    let rule = "must be at most 86400 s, is 86401 s";
    check(&world, with(|r| r.timeout = millis(86_401_000)), "timeout", rule).await;
    let large = with(|r| drop(r.metadata.insert("k".into(), "v".repeat(16 << 10))));
    check(&world, large, "metadata", "must be at most 16384 bytes, has 16385").await;
    let nul = with(|r| drop(r.metadata.insert("k".into(), "a\0b".into())));
    check(&world, nul, "metadata[\"k\"]", "must hold no NUL byte").await;
    let odd = with(|r| drop(r.metadata.insert("k/k".into(), "v".into())));
    check(&world, odd, "metadata key \"k/k\"", alphabet).await;

    let long = "t".repeat(129);
    for (media_type, rule) in [
        (long.as_str(), "must be at most 128 bytes, has 129"),
        ("text/é", "must be printable ASCII"),
        (" text", "must be printable ASCII without a space at either end"),
    ] {
        let odd = with_branch(|b| {
            b.payload = Some(Payload { media_type: media_type.into(), ..Default::default() });
        });
        check(&world, odd, "branches[1].payload.media_type", rule).await;
    }
    let odd = with_branch(|b| b.mode = 99);
    check(&world, odd, "branches[1].mode", "must be MODE_TWO_PHASE_COMMIT, MODE_TCC or MODE_SAGA")
        .await;
    for mode in [Mode::TwoPhaseCommit, Mode::Saga] {
        let status = world.submit(with_branch(|b| b.mode = mode.into())).await.unwrap_err();
        assert_eq!(describe(&status), (Code::Unimplemented, "MODE_UNIMPLEMENTED".into(), vec![]));
        assert!(status.message().contains("branches[1].mode"), "{}", status.message());
    }
    let begun = world.begin("i", Mode::Tcc).await.unwrap();
    let other = BranchSpec { mode: Mode::TwoPhaseCommit.into(), ..branch("a", "ok") };
    let status = world.execute(&begun.tx_id, other).await.unwrap_err();
    assert_eq!(describe(&status), (Code::Unimplemented, "MODE_UNIMPLEMENTED".into(), vec![]));
    assert!(status.message().contains("branch.mode"), "{}", status.message());
    let mut odd = branch("a", "ok");
    odd.payload.as_mut().unwrap().media_type = "\n".into();
    let status = world.execute(&begun.tx_id, odd).await.unwrap_err();
    assert_eq!(describe(&status).2, ["branch.payload.media_type"]);

    // Several at once are all named.
    let status = world
        .submit(with(|r| {
            r.timeout = millis(0);
            r.branches[1].payload = unanimo_tests::payload(vec![0; (1 << 20) + 1]);
        }))
        .await
        .unwrap_err();
    assert_eq!(describe(&status).2, ["branches[1].payload", "timeout"]);

    assert!(world.p.seen().is_empty(), "nobody was called for any of it");
    let result = world.submit(tcc("g", &["ok", "ok"])).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Committed, "and the gid is still free");
}

/// A gid that is known is answered before any check of time or participants.
#[tokio::test]
async fn a_known_gid_is_answered_before_other_checks() {
    let world = World::sqlite().await;
    let first = world.submit(tcc("g", &["ok"])).await.unwrap();
    world.get_until("g", "its end", |t| t.ended_at.is_some()).await;
    let mut again = tcc("g", &["ok"]);
    again.timeout = millis(0);
    assert_eq!(world.submit(again).await.unwrap().tx_id, first.tx_id);
    let other = world.submit(tcc("g", &["ok", "ok"])).await.unwrap_err();
    assert_eq!(describe(&other), (Code::AlreadyExists, "GID_REUSED".into(), vec![]));
    let mut other = tcc("g", &["ok"]);
    other.branches[0].participant = "stranger".into();
    let error = world.submit(other).await.unwrap_err();
    assert_eq!(describe(&error).1, "GID_REUSED", "known, and another request");
}

#[tokio::test]
async fn requests_about_no_transaction_are_told_so() {
    let world = World::sqlite().await;
    let mut client = world.client();
    for bad in ["", "x", "0189F7E2-0000-7000-8000-000000000000", "{}"] {
        let request = RollbackTransactionRequest {
            key: Some(unanimo_proto::v1::rollback_transaction_request::Key::TxId(bad.into())),
            wait_for: 0,
            ..Default::default()
        };
        let status = client.rollback_transaction(request).await.unwrap_err();
        let expected = (Code::InvalidArgument, "FIELD_INVALID".into(), vec!["tx_id".into()]);
        assert_eq!(describe(&status), expected, "{bad}");
    }
    let never = &uuid::Uuid::now_v7().to_string();
    let expected = (Code::NotFound, "TRANSACTION_NEVER_SEEN".to_owned(), vec![]);
    let request = RollbackTransactionRequest {
        key: Some(unanimo_proto::v1::rollback_transaction_request::Key::TxId(never.clone())),
        wait_for: 0,
        ..Default::default()
    };
    assert_eq!(describe(&client.rollback_transaction(request).await.unwrap_err()), expected);
    let request = CommitTransactionRequest {
        tx_id: never.clone(),
        branches: vec![],
        wait_for: 0,
        ..Default::default()
    };
    assert_eq!(describe(&client.commit_transaction(request).await.unwrap_err()), expected);
    let request = ExecuteBranchRequest {
        tx_id: never.clone(),
        branch: Some(branch("a", "ok")),
        ..Default::default()
    };
    assert_eq!(describe(&client.execute_branch(request).await.unwrap_err()), expected);
    for (key, reason) in [
        (get_transaction_request::Key::TxId(never.clone()), "TRANSACTION_NEVER_SEEN"),
        (get_transaction_request::Key::Gid("never".into()), "GID_UNKNOWN"),
    ] {
        let request = GetTransactionRequest { key: Some(key), ..Default::default() };
        let status = client.get_transaction(request).await.unwrap_err();
        assert_eq!(describe(&status), (Code::NotFound, reason.into(), vec![]));
    }
    let status = client.get_transaction(GetTransactionRequest::default()).await.unwrap_err();
    assert_eq!(describe(&status).2, ["key"]);
    let request = ExecuteBranchRequest { tx_id: never.clone(), branch: None, ..Default::default() };
    assert_eq!(describe(&client.execute_branch(request).await.unwrap_err()).2, ["branch"]);
    let status = client
        .list_transactions(ListTransactionsRequest { page_token: "x".into(), ..Default::default() })
        .await;
    assert_eq!(describe(&status.unwrap_err()).2, ["page_token"]);
    let status = client
        .list_transactions(ListTransactionsRequest {
            gid_prefix: "a b".into(),
            ..Default::default()
        })
        .await;
    assert_eq!(describe(&status.unwrap_err()).2, ["gid_prefix"]);
    let filters = [
        ("modes[1]", vec![2, 9], 0),
        ("modes[0]", vec![0], 0),
        ("modes", vec![1; 4], 0),
        ("metadata", vec![], 17),
    ];
    for (field, modes, entries) in filters {
        let metadata = (0..entries).map(|n| (n.to_string(), String::new())).collect();
        let request = ListTransactionsRequest { modes, metadata, ..Default::default() };
        assert_eq!(describe(&client.list_transactions(request).await.unwrap_err()).2, [field]);
    }
    let many = InquiredBranch {
        tx_id: never.clone(),
        branch: Some(unanimo_proto::v1::inquired_branch::Branch::BranchId("a".into())),
    };
    let inquire = |branches| InquireBranchesRequest {
        participant: "p".into(),
        branches,
        cluster_id: "c".into(),
        ..Default::default()
    };
    let request = inquire(vec![many; 257]);
    assert_eq!(describe(&client.inquire_branches(request).await.unwrap_err()).2, ["branches"]);
    let request = inquire(vec![]);
    assert_eq!(describe(&client.inquire_branches(request).await.unwrap_err()).2, ["branches"]);
    let request = BeginTransactionRequest { gid: "a/b".into(), mode: 2, ..Default::default() };
    assert_eq!(describe(&client.begin_transaction(request).await.unwrap_err()).2, ["gid"]);
}

/// A message over the limit is refused as a whole.
#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let world = World::sqlite().await;
    let mut request = tcc("g", &["ok"]);
    request.branches[0].payload = unanimo_tests::payload(vec![0; 9 << 20]);
    let status = world.submit(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert!(status.message().contains("8388608"), "{}", status.message());
    assert_eq!(world.submit(tcc("g", &["ok"])).await.unwrap().outcome(), Outcome::Committed);
}

/// A participant whose reply is over the limit has not voted.
#[tokio::test]
async fn a_reply_of_ten_mebibytes_is_no_vote() {
    let world = World::sqlite().await;
    let remote = unanimo_tests::scripted::Scripted::default();
    let endpoint = remote.serve().await;
    super::participants::register(&world, "remote", &endpoint).await;
    let mut request = tcc("g", &["ok", "output-10485760"]);
    request.branches[1].participant = "remote".into();
    request.timeout = millis(400);
    request.wait_for = unanimo_proto::v1::WaitFor::Ended.into();
    let result = world.submit(request).await.unwrap();
    assert_eq!(result.outcome(), Outcome::Aborted);
    let error = &result.branches[1].last_error;
    assert!(error.contains("message length too large"), "{error}");
    assert_eq!(remote.calls(&result.tx_id, "b").last(), Some(&"cancel"));
}
