//! A saga that makes no sense is refused before anything runs, with the place named.

use tonic::Code;
use unanimo_proto::v1::{
    BranchSpec, ChildTransaction, Compensation, Lock, Mode, RetryPolicy, SubmitTransactionRequest,
};

use super::super::{World, branch, describe, millis};
use super::{input, saga, step};

async fn check(world: &World, request: SubmitTransactionRequest, field: &str, rule: &str) {
    let status = world.submit(request).await.unwrap_err();
    let (code, reason, fields) = describe(&status);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "FIELD_INVALID"), "{status:?}");
    assert_eq!(fields, [field], "{status:?}");
    assert!(status.message().contains(rule), "{}", status.message());
}

/// A saga of two steps with a change to the second one.
fn with(change: impl FnOnce(&mut BranchSpec)) -> SubmitTransactionRequest {
    let mut second = step("b", "ok", &["a"]);
    change(&mut second);
    saga("g", vec![step("a", "ok", &[]), second])
}

/// A saga with a child in the place of its second step.
fn with_child(child: ChildTransaction) -> SubmitTransactionRequest {
    saga("g", vec![step("a", "ok", &[]), child_step("b", child, &["a"])])
}

pub(super) fn child_step(id: &str, child: ChildTransaction, after: &[&str]) -> BranchSpec {
    BranchSpec {
        branch_id: id.into(),
        depends_on: after.iter().map(|id| (*id).to_owned()).collect(),
        child: Some(child),
        ..Default::default()
    }
}

fn child(branches: Vec<BranchSpec>) -> ChildTransaction {
    ChildTransaction { mode: Mode::Saga.into(), branches, ..Default::default() }
}

fn lock(name: &str) -> Lock {
    Lock { name: name.into(), ..Default::default() }
}

#[tokio::test]
async fn each_bad_field_of_a_step_is_named() {
    let world = World::sqlite().await;
    let at = |field: &str| format!("branches[1].{field}");
    let missing = with(|b| b.depends_on = vec!["x".into()]);
    check(&world, missing, &at("depends_on[0]"), "must name a branch of the transaction").await;
    let slash = with(|b| b.depends_on = vec!["a/b".into()]);
    check(&world, slash, &at("depends_on[0]"), "must consist of").await;
    let many = with(|b| b.depends_on = vec!["a".into(); 2000]);
    check(&world, many, &at("depends_on"), "must have at most 1024 branches, has 2000").await;
    let mut circle = with(|_| {});
    circle.branches[0].depends_on = vec!["b".into()];
    check(&world, circle, "branches[0].depends_on", "must not lead back").await;
    let stranger = with(|b| {
        b.depends_on.clear();
        b.inputs = vec![input("x", "a")];
    });
    check(&world, stranger, &at("inputs[0].branch_id"), "must name a branch that b").await;
    let unnamed = with(|b| b.inputs = vec![input("x", "a"), input("", "a")]);
    check(&world, unnamed, &at("inputs[1].name"), "must not be empty").await;
    let two = {
        let mut request = with(|b| {
            b.pivot = true;
            b.compensation = Compensation::None.into();
        });
        request.branches[0].pivot = true;
        request.branches[0].compensation = Compensation::None.into();
        request
    };
    let status = world.submit(two).await.unwrap_err();
    assert_eq!(describe(&status).2[0], "branches[1].pivot", "{status:?}");
    let undeclared = with(|b| b.compensation = Compensation::None.into());
    check(&world, undeclared, &at("compensation"), "must not be none").await;
    let odd = with(|b| b.compensation = 99);
    check(&world, odd, &at("compensation"), "must be COMPENSATION_COMPENSATE").await;
    let negative = with(|b| {
        b.retry = Some(RetryPolicy { backoff_min: millis(-1000), ..Default::default() });
    });
    check(&world, negative, &at("retry.backoff_min"), "must be a positive duration").await;
    let negative = with(|b| b.attempt_timeout = millis(-1000));
    check(&world, negative, &at("attempt_timeout"), "must be a positive duration").await;
    let negative = with(|b| b.delay = millis(-1000));
    check(&world, negative, &at("delay"), "must be a positive duration").await;
    let at_the_end = prost_types::Timestamp { seconds: i64::MAX / 2000, nanos: 0 };
    let far = with(|b| b.start_at = Some(at_the_end));
    check(&world, far, &at("start_at"), "must be at most 31622400 s ahead").await;
    let locks = with(|b| b.locks = vec![lock("x"), lock("a b")]);
    check(&world, locks, &at("locks[1].name"), "must consist of").await;
    let locks = with(|b| b.locks = vec![Lock { mode: 9, ..lock("x") }]);
    check(&world, locks, &at("locks[0].mode"), "must be LOCK_MODE_EXCLUSIVE").await;
    let locks = with(|b| b.locks = (0..17).map(|n| lock(&format!("l{n}"))).collect());
    check(&world, locks, &at("locks"), "must have at most 16 locks, has 17").await;
    let locks = with(|b| b.locks = vec![Lock { wait_max: millis(-1000), ..lock("x") }]);
    check(&world, locks, &at("locks[0].wait_max"), "must be a positive duration").await;
    let reserved = with(|b| b.participant = "unanimo".into());
    check(&world, reserved, &at("participant"), "must not be unanimo").await;
    let many = saga("g", (0..65).map(|n| branch(&format!("b{n}"), "ok")).collect());
    check(&world, many, "branches", "must have at most 64 branches, has 65").await;
    assert_eq!(world.p.seen(), [], "nobody was called for any of it");
}

#[tokio::test]
async fn each_bad_field_of_a_start_is_named() {
    let world = World::sqlite().await;
    let start_at = Some(prost_types::Timestamp { seconds: 2_000_000_000_000, nanos: 0 });
    let far = SubmitTransactionRequest { start_at, ..with(|_| {}) };
    check(&world, far, "start_at", "must be at most 31622400 s ahead").await;
    let far = SubmitTransactionRequest { start_delay: millis(40_000_000_000), ..with(|_| {}) };
    check(&world, far, "start_delay", "must be at most 31622400 s").await;
    let soon = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
    let both = SubmitTransactionRequest { start_at: soon, start_delay: millis(1), ..with(|_| {}) };
    check(&world, both, "start_delay", "must not be set together with start_at").await;
    let twice = SubmitTransactionRequest { locks: vec![lock("x"), lock("x")], ..with(|_| {}) };
    check(&world, twice, "locks[1].name", "must be unique, x came before").await;
}

#[tokio::test]
async fn each_bad_field_of_a_child_is_named() {
    let world = World::sqlite().await;
    let of = |field: &str| format!("branches[1].child.{field}");
    let mut spec = step("x", "ok", &[]);
    spec.inputs = vec![input("", "y")];
    let odd = with_child(child(vec![step("y", "ok", &[]), spec]));
    check(&world, odd, &of("branches[1].inputs[0].name"), "must not be empty").await;
    let none = with_child(child(vec![]));
    check(&world, none, &of("branches"), "must have at least 1 branch").await;
    let many = (0..2000).map(|_| step("x", "ok", &[])).collect();
    check(&world, with_child(child(many)), &of("branches"), "must have at most 64 branches").await;
    let modeless = ChildTransaction { mode: 0, ..child(vec![step("x", "ok", &[])]) };
    check(&world, with_child(modeless), &of("mode"), "must be MODE_TWO_PHASE_COMMIT").await;
    let mut spec = step("x", "ok", &[]);
    spec.pivot = true;
    spec.compensation = Compensation::None.into();
    let decides = with_child(child(vec![spec]));
    check(&world, decides, &of("branches[0].pivot"), "the parent of a child decides").await;
    let mut both = with_child(child(vec![step("x", "ok", &[])]));
    both.branches[1].participant = "p".into();
    check(&world, both, "branches[1].participant", "must be empty: the branch is a child").await;
    let mut deep = child(vec![step("x", "ok", &[])]);
    for _ in 0..4 {
        deep = child(vec![child_step("x", deep, &[])]);
    }
    let field = format!("branches[1]{}", ".child.branches[0]".repeat(4));
    check(&world, with_child(deep), &format!("{field}.child"), "must stand at most 4 deep").await;
    let mut of_tcc = with_child(child(vec![step("x", "ok", &[])]));
    of_tcc.mode = Mode::Tcc.into();
    of_tcc.branches[1].depends_on.clear();
    check(&world, of_tcc, "branches[1].child", "the transaction is no saga").await;

    let mut spec = step("x", "ok", &[]);
    spec.participant = "stranger".into();
    let unknown = || with_child(child(vec![spec.clone()]));
    let status = super::until("the names to be final", async || {
        world.submit(unknown()).await.err().filter(|s| s.code() == Code::InvalidArgument)
    })
    .await;
    let expected = "branches[1].child.branches[0].participant".to_owned();
    assert_eq!(describe(&status).1, "PARTICIPANT_UNKNOWN");
    assert_eq!(describe(&status).2, [expected]);
    assert_eq!(world.p.seen(), [], "nobody was called for any of it");
}
