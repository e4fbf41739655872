//! Limits of a caller: it learns, and does, nothing with transactions that are not its own.

use std::collections::BTreeSet;

use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::operator_service_client::OperatorServiceClient;
use unanimo_proto::v1::{self, BranchSpec, Resolution};

use super::roles::{File, Link, begin};
use crate::coordinator::{branch, describe, tcc};

type Listed = Result<v1::ListTransactionsResponse, Status>;

async fn list(link: Link, participant: &str, token: &str) -> Listed {
    let request = v1::ListTransactionsRequest {
        participant: participant.into(),
        page_size: 1,
        page_token: token.into(),
        ..Default::default()
    };
    let listed = CoordinatorServiceClient::new(link).list_transactions(request).await?;
    Ok(listed.into_inner())
}

/// Neither a page's token nor its length, nor a filter, tells of a transaction that its reader may not see.
#[tokio::test]
async fn lists_and_the_tokens_of_their_pages_are_of_what_the_caller_sees() {
    let file = File::new();
    let world = file.world().await;
    let mut own = BTreeSet::new();
    for column in [1, 0, 0, 1, 0] {
        let tx_id = begin(file.link(&world, column)).await.tx_id;
        if column == 1 {
            own.insert(tx_id);
        }
    }
    for participant in ["", "p"] {
        let (mut token, mut found) = (String::new(), BTreeSet::new());
        loop {
            let page = list(file.link(&world, 1), participant, &token).await.unwrap();
            found.extend(page.transactions.iter().map(|listed| listed.tx_id.clone()));
            assert_eq!(page.transactions.len(), 1, "no page is cut by what is not seen");
            if page.next_page_token.is_empty() {
                break;
            }
            token = page.next_page_token;
            assert!(own.contains(&token), "a token names what is not seen: {token}");
        }
        assert_eq!(found, own, "filtered by {participant:?}");
    }
    // A participant asks for its own names alone, and gets all with a branch of them.
    for (column, participant) in [(2, ""), (2, "q"), (3, "p"), (3, "")] {
        let status = list(file.link(&world, column), participant, "").await.unwrap_err();
        assert_eq!(describe(&status), (Code::PermissionDenied, "DENIED".into(), vec![]));
    }
    let page = list(file.link(&world, 2), "p", "").await.unwrap();
    assert_eq!(page.next_page_token, page.transactions[0].tx_id);
    assert!(list(file.link(&world, 3), "q", "").await.unwrap().transactions.is_empty());
}

/// A page that is cut, because so many others were looked at, does not name the last of them.
#[tokio::test]
async fn a_page_that_is_cut_among_others_names_none_of_them() {
    const OTHERS: usize = 4_200;
    let file = File::new();
    let world = file.world().await;
    let own = begin(file.link(&world, 1)).await.tx_id;
    let mut beginning = JoinSet::new();
    for first in 0..40 {
        let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
        beginning.spawn(async move {
            let mut begun = Vec::new();
            for number in (first..OTHERS).step_by(40) {
                let (gid, mode) = (format!("other-{number}"), v1::Mode::Tcc.into());
                let request = v1::BeginTransactionRequest { gid, mode, ..Default::default() };
                begun.push(client.begin_transaction(request).await.unwrap().into_inner().tx_id);
            }
            begun
        });
    }
    let others: BTreeSet<_> = beginning.join_all().await.into_iter().flatten().collect();
    assert_eq!(others.len(), OTHERS);
    for participant in ["", "p"] {
        // The second one is of a participant whose branch is in `own` alone.
        let column = if participant.is_empty() { 1 } else { 2 };
        let (mut token, mut cuts) = (String::new(), 0);
        // A slow machine cuts them earlier.
        let rest = loop {
            let page = list(file.link(&world, column), participant, &token).await.unwrap();
            if page.next_page_token.is_empty() {
                break page.transactions;
            }
            assert!(page.transactions.is_empty(), "{page:?}");
            assert!(!others.contains(&page.next_page_token), "it names one: {page:?}");
            (token, cuts) = (page.next_page_token, cuts + 1);
        };
        assert!(cuts >= 1, "no page looks at so many");
        assert_eq!(rest.iter().map(|listed| &listed.tx_id).collect::<Vec<_>>(), [&own]);
    }
}

/// A participant joins with branches of its names, whatever else it has in the transaction.
#[tokio::test]
async fn a_participant_enlists_no_branch_and_names_no_database_of_another() {
    let file = File::new();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    let enlist = async |column: usize, branch: BranchSpec, database: &str| {
        let request = v1::EnlistBranchRequest {
            tx_id: begun.tx_id.clone(),
            branch: Some(branch),
            database_id: database.into(),
            ..Default::default()
        };
        CoordinatorServiceClient::new(file.link(&world, column)).enlist_branch(request).await
    };
    let of_another = BranchSpec { participant: "q".into(), ..branch("b", "ok") };
    let status = enlist(2, of_another, "").await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let status = enlist(0, branch("c", "ok"), "a-guess").await.unwrap_err();
    let (code, _, fields) = describe(&status);
    assert_eq!((code, fields), (Code::InvalidArgument, vec!["database_id".to_owned()]));
    let context = enlist(2, branch("d", "ok"), "its-own").await.unwrap().into_inner().context;
    assert_eq!(context.unwrap().database_id, "its-own", "a guess was not kept");
    enlist(0, branch("e", "ok"), "").await.expect("the initiator names no database");
}

/// A participant that joins a transaction learns that there is no room for its branch, and not what the initiator has open.
#[tokio::test]
async fn a_participant_is_not_told_what_the_initiator_has_open() {
    let file = File::new();
    let web = "name = \"web\"\n";
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(text.contains(web));
    let bounded = text.replacen(web, &format!("{web}open-bytes = 54321\n"), 1);
    std::fs::write(file.path(), bounded).unwrap();
    let world = file.world().await;
    let begun = begin(file.link(&world, 0)).await;
    let enlist = async |column: usize| {
        let payload = v1::Payload { data: vec![b'x'; 60_000].into(), ..Default::default() };
        let request = v1::EnlistBranchRequest {
            tx_id: begun.tx_id.clone(),
            branch: Some(BranchSpec { payload: Some(payload), ..branch("large", "ok") }),
            ..Default::default()
        };
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        let status = client.enlist_branch(request).await.expect_err("it is too large");
        assert_eq!(
            describe(&status),
            (Code::ResourceExhausted, "QUOTA_REACHED".into(), vec![]),
            "{status}"
        );
        let details = status.get_error_details();
        assert!(details.retry_info().is_some(), "{status}");
        let metadata = details.error_info().unwrap().metadata.clone();
        (status.message().to_owned(), metadata)
    };
    let (message, metadata) = enlist(0).await;
    assert!(message.contains("identity web") && message.contains("54321"), "{message}");
    assert_eq!(metadata["max"], "54321");
    let (message, metadata) = enlist(2).await;
    assert_eq!(message, "the transaction's initiator has reached its quota of open-bytes");
    let (open, max) = (metadata.get("open"), metadata.get("max"));
    assert_eq!((open, max, metadata["quota"].as_str()), (None, None, "open-bytes"));
}

/// Another request under a gid tells its transaction's initiator which one it is, and nobody else.
#[tokio::test]
async fn a_gid_that_is_reused_names_its_transaction_to_the_initiator_alone() {
    let file = File::new();
    let world = file.world().await;
    let submit = async |column: usize, actions: &[&str]| {
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        client.submit_transaction(tcc("g", actions)).await
    };
    let result = submit(0, &["ok"]).await.unwrap().into_inner().result.unwrap();
    let tells = |status: &Status| format!("{status:?}").contains(&result.tx_id);
    for actions in [&["ok", "ok"], &["ok"][..]] {
        let status = submit(1, actions).await.unwrap_err();
        assert_eq!(describe(&status).1, "GID_REUSED");
        assert_eq!(status.message(), "the gid is in use for a transaction of another initiator");
        assert!(!tells(&status) && !format!("{status:?}").contains("outcome"), "{status:?}");
    }
    let status = submit(0, &["ok", "ok"]).await.unwrap_err();
    assert!(describe(&status).1 == "GID_REUSED" && tells(&status), "{status:?}");
}

/// An operator is written down by the name that it has proved.
#[tokio::test]
async fn an_operators_act_is_stored_under_the_name_of_its_identity() {
    let file = File::new();
    let world = file.world().await;
    world.p.hold(true);
    let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
    let submitted = client.submit_transaction(tcc("g", &["ok"])).await.unwrap();
    let request = v1::ResolveBranchRequest {
        tx_id: submitted.into_inner().result.unwrap().tx_id,
        branch_id: "a".into(),
        resolution: Resolution::RolledBack.into(),
        operator: "mallory".into(),
        note: "the bank is closed".into(),
        ..Default::default()
    };
    let mut operator = OperatorServiceClient::new(file.link(&world, 4));
    let resolved = operator.resolve_branch(request).await.unwrap().into_inner();
    let shown = format!("{resolved:?}");
    assert_eq!(resolved.transaction.unwrap().branches[0].resolved_by, "ann");
    assert!(!shown.contains("mallory"), "{shown}");
}

/// Names of locks are the initiator's, such as an account's number.
#[tokio::test]
async fn a_participant_reads_no_locks() {
    let file = File::new();
    let world = file.world().await;
    world.p.hold(true);
    let lock = v1::Lock { name: "account:42".into(), ..Default::default() };
    let request = v1::SubmitTransactionRequest { locks: vec![lock], ..tcc("g", &["ok"]) };
    let mut client = CoordinatorServiceClient::new(file.link(&world, 0));
    client.submit_transaction(request).await.unwrap();
    let get = async |gid: &str, column: usize| {
        let key = Some(v1::get_transaction_request::Key::Gid(gid.into()));
        let request = v1::GetTransactionRequest { key, ..Default::default() };
        let mut client = CoordinatorServiceClient::new(file.link(&world, column));
        client.get_transaction(request).await.unwrap().into_inner().transaction.unwrap()
    };
    assert_eq!(get("g", 0).await.locks.len(), 1);
    let own = get("g", 2).await;
    assert_eq!((own.locks.len(), own.branches.len()), (0, 1), "{own:?}");
    assert_eq!(own.waiting.map(|waiting| waiting.branch_id), Some("a".into()), "its own call");
    let lock = v1::Lock { name: "account:42".into(), ..Default::default() };
    let accepted = v1::WaitFor::Accepted.into();
    let request =
        v1::SubmitTransactionRequest { locks: vec![lock], wait_for: accepted, ..tcc("h", &["ok"]) };
    client.submit_transaction(request).await.unwrap();
    let told = unanimo_tests::wait::until("the holder", async || {
        get("h", 0).await.waiting.filter(|waiting| waiting.sentence.contains("account:42"))
    });
    assert_eq!(told.await.cause(), v1::WaitCause::Lock);
    assert_eq!(get("h", 2).await.waiting, None, "who holds the lock is not the participant's");
}
