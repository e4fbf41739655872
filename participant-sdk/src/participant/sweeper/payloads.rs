//! Payloads of branches that are open at the start: the coordinators have them. One that its handler cannot read is
//! told once a coordinator answers, and not when its Commit or Cancel comes.

use super::open::{Why, tell};
use super::pass::Pass;
use crate::doubt::Open;
use crate::payload::Payload;
use crate::resource::Resource;

/// Payloads that are read: each is a question, and its answer may have megabytes.
const PAYLOADS_MAX: usize = 64;

/// Sweeps in which they are asked for, where a coordinator does not answer.
const LOOKS_MAX: u32 = 100;

/// Open branches whose payloads were not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Unread {
    branches: Vec<Branch>,
    looks: u32,
}

#[derive(Debug)]
struct Branch {
    /// Name that it was prepared under.
    name: String,
    /// Open branches of its action.
    count: u64,
    open: Open,
}

impl Unread {
    /// Adds some of the branches of an action.
    pub(super) fn add(&mut self, name: &str, count: u64, sample: &[Open]) {
        let room = PAYLOADS_MAX.saturating_sub(self.branches.len());
        let branch = |open: &Open| Branch { name: name.to_owned(), count, open: open.clone() };
        self.branches.extend(sample.iter().take(room).map(branch));
    }
}

impl<R: Resource> Pass<R> {
    /// Tells the actions whose open branches have payloads that their handlers cannot read.
    pub(super) async fn check_payloads(&mut self) {
        while let Some(Branch { name, open, .. }) = self.unread.branches.last() {
            if self.is_stopped() {
                return;
            }
            let (tx_id, branch_id) = &open.key;
            let Some(payload) = self.inquirer.payload(*tx_id, branch_id).await else {
                self.unread.looks += 1;
                if self.unread.looks >= LOOKS_MAX {
                    let branches = self.unread.branches.len();
                    self.unread.branches.clear();
                    tracing::warn!(
                        participant = self.service.participant(),
                        branches,
                        "no coordinator gives the payloads of open branches: whether this version can read them \
                         is known when their Commit or Cancel comes"
                    );
                }
                return;
            };
            let action = self.served.inner.actions.get(&open.action);
            let read = action
                .zip(payload)
                .map(|(action, payload)| action.action.read_payload(&Payload::from(payload)));
            let of = (name.clone(), open.action.clone(), open.mode.clone());
            let branch = self.unread.branches.pop();
            if let (Some(Err(error)), Some(branch)) = (read, branch) {
                let Branch { name, count, open } = branch;
                tell(&name, Why::PayloadUnreadable, count, &open, &error.to_string());
                // One line for an action.
                self.unread.branches.retain(|Branch { name, open, .. }| {
                    (name, &open.action, &open.mode) != (&of.0, &of.1, &of.2)
                });
            }
        }
    }
}
