//! Sagas, through the gRPC services. What a participant saw is told by its own record.

mod bad_input;
mod children;
mod locks;
mod pivot;
mod steps;
pub(super) mod times;

use unanimo_proto::v1::{
    BranchSpec, Mode, StepInput, SubmitTransactionRequest, Transaction, WaitFor,
};

use super::{World, branch, millis, until};

/// A saga of these steps, and a wait for its end.
pub(super) fn saga(gid: &str, branches: Vec<BranchSpec>) -> SubmitTransactionRequest {
    SubmitTransactionRequest {
        gid: gid.into(),
        mode: Mode::Saga.into(),
        branches,
        timeout: millis(20_000),
        wait_for: WaitFor::Ended.into(),
        include_outputs: true,
        ..Default::default()
    }
}

/// A step at `p`, after others.
pub(super) fn step(id: &str, action: &str, after: &[&str]) -> BranchSpec {
    let depends_on = after.iter().map(|id| (*id).to_owned()).collect();
    BranchSpec { depends_on, ..branch(id, action) }
}

/// An input of a step.
pub(super) fn input(name: &str, of: &str) -> StepInput {
    StepInput { name: name.into(), branch_id: of.into() }
}

/// Returns the ids of the branches whose calls of this operation came to the participant, in order.
pub(super) fn order(world: &World, tx_id: &str, operation: &str) -> Vec<String> {
    let seen = world.p.seen().into_iter();
    seen.filter(|seen| seen.tx_id == tx_id && seen.operation == operation)
        .map(|seen| seen.branch_id)
        .collect()
}

/// Runs a test on both stores at once: it waits for most of its time.
async fn on_both(test: impl AsyncFn(World)) {
    let (sqlite, postgres) = (World::sqlite().await, World::postgres().await);
    tokio::join!(test(sqlite), test(postgres));
}

/// Submits without a wait for the outcome, and returns the id of the transaction.
pub(super) async fn accept(world: &World, mut request: SubmitTransactionRequest) -> String {
    request.wait_for = WaitFor::Accepted.into();
    world.submit(request).await.unwrap().tx_id
}

/// Waits until a branch was called so often.
pub(super) async fn called(world: &World, tx_id: &str, id: &str, times: usize) {
    let what = format!("call {times} of {id}");
    until(&what, async || (world.p.calls(tx_id, id).len() >= times).then_some(())).await;
}

pub(super) async fn ended(world: &World, gid: &str) -> Transaction {
    world.get_until(gid, "its end", |tx| tx.ended_at.is_some()).await
}
