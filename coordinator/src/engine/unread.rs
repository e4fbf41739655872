//! Outputs for which there was no room (promise L5).
//!
//! Admitted transactions bring outputs, each of up to a megabyte, and nobody knows before how large they
//! are. One that would go over the bound is not taken: its branch is asked again once there is room for as
//! much as it had, the oldest transaction first, and its participant gives the same answer from its
//! barrier. A branch for which no deadline decides any more is never held up: others may wait for its
//! transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use unanimo_core::{BranchNumber, Call, Input, Mode, Operation, PrepareAnswer, TxId};

use super::admission::Permit;
use super::message::{CallEnd, Message};
use super::service::Service;

/// Outputs that always find room: less than a transaction takes besides.
const SMALL_BYTES: usize = 1024;

/// Answer for an output that was not taken.
const ASK_AGAIN: PrepareAnswer = PrepareAnswer::Working { retry_after: Duration::ZERO };

/// Branches whose outputs were not taken, the oldest transaction first.
pub(super) type AllUnread = BTreeSet<(TxId, BranchNumber)>;

/// Outputs of one transaction for which there was no room.
#[derive(Debug, Default)]
pub(super) struct Unread {
    of_branches: BTreeMap<BranchNumber, Room>,
}

#[derive(Debug)]
enum Room {
    /// So many bytes are wanted.
    Wanted(usize),
    /// They are counted, and the branch is asked.
    Kept(#[expect(dead_code, reason = "held until dropped")] Permit),
}

impl Service {
    /// Returns the answer of a Prepare, or one that has the branch asked again if there is no room for
    /// its output.
    pub(super) fn with_room(
        &mut self,
        tx_id: TxId,
        number: BranchNumber,
        answer: PrepareAnswer,
    ) -> PrepareAnswer {
        let Some(live) = self.live.get_mut(&tx_id) else { return answer };
        // What was kept for it is free for whatever came.
        live.unread.of_branches.remove(&number);
        let (PrepareAnswer::Prepared(output), Some(branch)) = (&answer, live.tx.branch(number))
        else {
            return answer;
        };
        let bytes = output.held_bytes();
        let is_kept = branch.spec.mode != Mode::TwoPhaseCommit
            && bytes <= self.options.policy.limits.output_bytes_max
            && live.tx.has_deadline();
        let fits = self.admission.bytes() + bytes <= self.options.bounds.bytes_max;
        if bytes <= SMALL_BYTES || fits || !is_kept {
            return answer;
        }
        tracing::debug!(
            %tx_id, branch_id = %branch.spec.branch_id, bytes,
            "there is no room for an output (live-bytes-max); the branch is asked again"
        );
        self.metrics.refused("output");
        live.unread.of_branches.insert(number, Room::Wanted(bytes));
        self.unread.insert((tx_id, number));
        ASK_AGAIN
    }

    /// Asks again for outputs for which there is room now.
    pub(super) fn ask_for_unread(&mut self) {
        while let Some(&(tx_id, number)) = self.unread.first() {
            let live = self.live.get_mut(&tx_id);
            let room = live.and_then(|live| live.unread.of_branches.get_mut(&number));
            if let Some(room @ Room::Wanted(_)) = room {
                let Room::Wanted(bytes) = *room else { return };
                let Ok(permit) = self.admission.admit(0, bytes, Vec::new()) else { return };
                *room = Room::Kept(permit);
                let _ = self.apply(tx_id, Input::Retry { number: Some(number), operator: None });
            }
            self.unread.remove(&(tx_id, number));
        }
    }

    /// Tells whether there is still no room for the output of this call. Its attempt is over then.
    pub(super) fn lacks_room(&mut self, tx_id: TxId, call: Call) -> bool {
        let Call { number, operation, .. } = call;
        let Some(live) = self.live.get_mut(&tx_id) else { return false };
        let Some(room) = live.unread.of_branches.get_mut(&number) else { return false };
        let Room::Wanted(bytes) = *room else { return false };
        if operation != Operation::Prepare {
            return false;
        }
        match (self.admission.admit(0, bytes, Vec::new()), self.own.upgrade()) {
            (Err(_), Some(inbox)) => {
                let end = CallEnd::Prepare(ASK_AGAIN);
                inbox.send(Message::CallEnded { tx_id, call, end, failed_at: None }).is_ok()
            }
            (Ok(permit), _) => {
                *room = Room::Kept(permit);
                false
            }
            (Err(_), None) => false,
        }
    }
}
