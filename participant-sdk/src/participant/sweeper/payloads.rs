//! Payloads of branches that are open at the start: the coordinators have them. One that its handler cannot read is
//! told once a coordinator answers, and not when its Commit or Cancel comes.
//!
//! Coordinators that do not answer keep nobody from asking about the branches of others, and are asked again later and
//! later, for as long as the process lives.

use std::time::Duration;

use tokio::time::Instant;

use super::open::{Why, tell};
use super::pass::Pass;
use crate::doubt::Open;
use crate::payload::Payload;
use crate::resource::Resource;

/// Payloads that are read: each is a question, and its answer may have megabytes.
const PAYLOADS_MAX: usize = 64;

/// Longest pause between two looks. It is half of the time since the first one otherwise.
const PAUSE_MAX: Duration = Duration::from_secs(10 * 60);

/// Time after which it is told that no coordinator has given some of them.
const TOLD_AFTER: Duration = Duration::from_secs(5 * 60);

/// Open branches whose payloads were not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Unread {
    branches: Vec<Branch>,
    since: Option<Instant>,
    next_at: Option<Instant>,
    is_told: bool,
}

#[derive(Debug)]
struct Branch {
    /// Name that it was prepared under.
    name: String,
    /// Open branches of its action.
    count: u64,
    open: Open,
}

impl Branch {
    fn is_of(&self, other: &Self) -> bool {
        let of = |branch: &Self| {
            let Self { name, open, .. } = branch;
            (name.clone(), open.action.clone(), open.mode.clone())
        };
        of(self) == of(other)
    }
}

impl Unread {
    /// Adds some of the branches of an action.
    pub(super) fn add(&mut self, name: &str, count: u64, sample: &[Open]) {
        let room = PAYLOADS_MAX.saturating_sub(self.branches.len());
        let branch = |open: &Open| Branch { name: name.to_owned(), count, open: open.clone() };
        self.branches.extend(sample.iter().take(room).map(branch));
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.branches.is_empty() && self.next_at.is_none_or(|at| at <= now)
    }

    /// Keeps those that no coordinator has told of. `true` if a person should hear of it now.
    fn keep(&mut self, left: Vec<Branch>, now: Instant) -> bool {
        self.branches = left;
        let since = *self.since.get_or_insert(now);
        let waited = now.duration_since(since);
        self.next_at = Some(now + (waited / 2).min(PAUSE_MAX));
        let is_to_be_told = !self.branches.is_empty() && waited >= TOLD_AFTER && !self.is_told;
        self.is_told |= is_to_be_told;
        is_to_be_told
    }
}

impl<R: Resource> Pass<R> {
    /// Tells the actions whose open branches have payloads that their handlers cannot read.
    pub(super) async fn check_payloads(&mut self) {
        if !self.unread.is_due(Instant::now()) {
            return;
        }
        let mut to_read = std::mem::take(&mut self.unread.branches);
        let mut left = Vec::new();
        while let Some(branch) = to_read.pop() {
            let (tx_id, branch_id) = &branch.open.key;
            if self.is_stopped() {
                return;
            }
            let Some(payload) = self.inquirer.payload(*tx_id, branch_id).await else {
                left.push(branch);
                continue;
            };
            let action = self.served.inner.actions.get(&branch.open.action);
            let read = action
                .zip(payload)
                .map(|(action, payload)| action.action.read_payload(&Payload::from(payload)));
            if let Some(Err(error)) = read {
                let Branch { name, count, open } = &branch;
                tell(name, Why::PayloadUnreadable, *count, open, &error.to_string());
                // One line for an action.
                to_read.retain(|other| !other.is_of(&branch));
                left.retain(|other: &Branch| !other.is_of(&branch));
            }
        }
        if self.unread.keep(left, Instant::now()) {
            tracing::warn!(
                participant = self.service.participant(),
                branches = self.unread.branches.len(),
                "no coordinator gives the payloads of some open branches: whether this version can read them is known \
                 once one does, or when their Commit or Cancel comes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_that_nobody_gives_are_asked_for_later_and_later_and_told_once() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let open = Open {
            key: (uuid::Uuid::nil(), "a".to_owned()),
            action: "work".to_owned(),
            mode: "tcc".to_owned(),
        };
        let left = || vec![Branch { name: "p".to_owned(), count: 1, open: open.clone() }];
        let mut unread = Unread::default();
        assert!(!unread.is_due(at(0)), "there is none");
        unread.add("p", 1, std::slice::from_ref(&open));
        assert!(unread.is_due(at(0)));
        assert!(!unread.keep(left(), at(0)));
        assert!(unread.is_due(at(0)));
        assert!(!unread.keep(left(), at(100)));
        assert!(!unread.is_due(at(149)) && unread.is_due(at(150)));
        assert!(unread.keep(left(), at(300)), "it is told");
        assert!(!unread.keep(left(), at(100_000)), "once");
        assert!(!unread.is_due(at(100_599)) && unread.is_due(at(100_600)));
        assert!(!unread.keep(Vec::new(), at(200_000)) && !unread.is_due(at(900_000)));
    }
}
