//! Two-phase commit where the database itself prepares transactions: what is the same on each.
//!
//! Behaviour of only one of them is tested with it: [PostgreSQL](super::two_phase), [MariaDB](super::xa).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use unanimo_proto::v1::{HeuristicKind, Mode, cancel_response, commit_response, prepare_response};
use unanimo_sdk::{Service, TwoPhaseResource};
use unanimo_tests::proxy::Proxy;
use unanimo_tests::wait::until;

use super::direct::{Branch, branch, refused};

mod at_work;
mod doubt;
mod losses;
mod lost;

/// Database of participant `p`, with handlers that run their payload as SQL: `plain`, `swallow` (takes errors for
/// success), `read` (declared to read only) and `gate` (waits for a permit behind it).
pub(super) trait Database: Sized {
    type Resource: TwoPhaseResource;

    /// Parts of the statements that prepare, commit and roll back.
    const PREPARE: &'static str;
    const COMMIT: &'static str;
    const ROLLBACK: &'static str;

    /// Statement that ends its own session.
    const KILL: &'static str;

    async fn open() -> Self;

    /// Opens one that the participant reaches through a proxy.
    async fn behind_a_proxy() -> (Self, Proxy);

    fn service(&self) -> &Service<Self::Resource>;

    /// Starts another process of the same participant.
    async fn twin(&self) -> Service<Self::Resource>;

    fn gate(&self) -> &Arc<Semaphore>;

    /// Counts the committed rows of handlers.
    async fn effects(&self) -> i64;

    /// Tells whether the branch's transaction is prepared.
    async fn is_prepared(&self, branch: &Branch) -> bool;

    /// Returns the state of the branch's row as it is committed.
    async fn state(&self, branch: &Branch) -> Option<String>;

    /// Ends the branch's prepared transaction as an operator would: true commits it.
    async fn end_by_hand(&self, branch: &Branch, commits: bool);

    /// Tells whether the only handler has done its work, and waits for its gate.
    async fn is_at_work(&self) -> bool;

    /// Tells whether a statement of the participant waits for a lock.
    async fn is_waiting(&self) -> bool;

    /// Checks that a connection is as it was, and goes on working.
    async fn is_clean(&self);

    /// Returns the way of a handler that keeps an effect beside the transaction that it was given.
    fn keeps_beside(branch: &Branch) -> String;

    /// Runs statements from outside.
    async fn run_outside(&self, sql: &str);
}

macro_rules! tests {
    ($name:ident, $database:ty, $($file:ident: $($test:ident),+;)+) => {
        mod $name {
            $(
                mod $file {
                    $(
                        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                        async fn $test() {
                            crate::participant::prepared::$file::$test::<$database>().await;
                        }
                    )+
                }
            )+
        }
    };
}

macro_rules! on_each_database {
    ($($list:tt)+) => {
        tests!(postgres, crate::participant::two_phase::Bank, $($list)+);
        tests!(tokio_postgres, crate::participant::over_tokio::two_phase::Bank, $($list)+);
        tests!(mariadb, crate::participant::xa::Bank, $($list)+);
    };
}

on_each_database! {
    at_work:
        s7_a_prepare_that_comes_again_does_not_wait_for_its_prepared_transaction,
        s7_a_prepare_that_meets_its_twin_at_work_is_working_and_then_the_same,
        s8_a_cancel_that_meets_its_prepare_at_work_wins_in_the_end,
        s8_a_cancel_rolls_back_a_prepare_that_ends_while_it_waits,
        s11_a_commit_that_meets_its_prepare_at_work_is_working,
        s7_many_commits_at_once_commit_once,
        s8_prepares_and_cancels_at_once_leave_nothing;
    doubt:
        s11_a_commit_that_finds_nothing_is_a_hazard,
        s11_what_was_ended_by_hand_is_told_by_its_row,
        s8_a_cancel_that_comes_first_is_done_and_the_prepare_is_refused,
        s8_a_prepare_that_comes_too_late_is_refused,
        s2_what_only_reads_votes_so_and_is_owed_nothing;
    lost:
        s7_a_lost_answer_to_prepare_is_no_vote_until_it_is_asked_again,
        s7_a_lost_answer_to_commit_is_found_done,
        s7_a_lost_answer_to_rollback_leaves_its_tombstone_in_the_end,
        s7_a_session_that_is_ended_is_no_vote;
    losses:
        s11_a_cancel_before_the_record_of_a_loss_is_a_hazard,
        s11_a_yes_of_another_process_does_not_hide_a_loss,
        s11_a_loss_is_written_over_what_another_process_has_left;
}

const INSERT: &str = "INSERT INTO effect VALUES (1)";

/// A branch of an action that runs this.
fn sql(action: &str, sql: &str) -> Branch {
    let payload = Bytes::copy_from_slice(sql.as_bytes());
    Branch { payload, ..branch(Mode::TwoPhaseCommit, action) }
}

async fn yes<D: Database>(database: &D, branch: &Branch) {
    is_yes(branch.prepare(database.service()).await);
}

#[track_caller]
fn is_yes(answer: Result<prepare_response::Answer, Status>) {
    let answer = answer.unwrap();
    assert!(matches!(answer, prepare_response::Answer::Prepared(_)), "{answer:?}");
}

async fn is_refused<D: Database>(database: &D, branch: &Branch, reason: &str) {
    assert_eq!(refused(branch.prepare(database.service()).await.unwrap()), reason);
}

async fn commit<D: Database>(database: &D, branch: &Branch) {
    let answer = branch.commit(database.service()).await.unwrap();
    assert!(matches!(answer, commit_response::Answer::Done(_)), "{answer:?}");
}

async fn cancel<D: Database>(database: &D, branch: &Branch) {
    let answer = branch.cancel(database.service()).await.unwrap();
    assert!(matches!(answer, cancel_response::Answer::Done(_)), "{answer:?}");
}

#[track_caller]
fn heuristic(answer: commit_response::Answer) -> HeuristicKind {
    match answer {
        commit_response::Answer::Heuristic(outcome) => outcome.kind(),
        other => panic!("{other:?}"),
    }
}
