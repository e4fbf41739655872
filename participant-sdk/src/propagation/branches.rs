//! Branches that joined a transaction on the way, and what is known of their votes.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use unanimo_proto::v1::{CommitBranch, Mode, Vote};

use super::context::Malformed;
use crate::names::{ID_BYTES_MAX, is_name};

/// On a reply: the branches that joined for the request, here and below, as
/// `<branch_id>=<vote>, …` with the votes `prepared`, `refused`, `read_only`, and `none` for a
/// branch that is enlisted and has no vote.
pub const BRANCHES: HeaderName = HeaderName::from_static("unanimo-branches");

/// Bytes of the header on a reply. Servers and clients of HTTP accept 8 KiB or more of all headers
/// together, and other headers need room, too. It is enough for 77 branches with ids that the SDK makes,
/// and for 29 with the longest ids of 128 bytes.
pub(super) const REPLY_BYTES_MAX: usize = 4 << 10;

/// Bytes of an item beside its branch id: `=read_only` is the longest vote, `, ` stands between two.
const ITEM_BYTES_MAX: usize = "=read_only, ".len();

/// Branches that are collected for a transaction: the most that a coordinator can be set to.
const COLLECTED_MAX: usize = 1024;

const VOTES: [(Vote, &str); 4] = [
    (Vote::Prepared, "prepared"),
    (Vote::Refused, "refused"),
    (Vote::ReadOnly, "read_only"),
    (Vote::Unspecified, "none"),
];

/// End of a call, as far as its caller has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// The caller has its answer.
    Succeeded,
    /// An error, or an answer that broke off: the caller may send the call again.
    Failed,
}

/// Branches in the order of joining.
#[derive(Debug, Default)]
pub(super) struct Branches {
    mode: Mode,
    branches: Vec<Branch>,
    /// Branch ids that are about to be enlisted. Their place on the reply is taken.
    reserved: Vec<String>,
}

#[derive(Debug)]
struct Branch {
    id: String,
    vote: Vote,
    /// Number of answers that vouch for the vote. It counts while there is one.
    vouchers: usize,
    /// Two answers said different things, or one said what cannot be.
    disputed: bool,
}

impl Branches {
    pub(super) fn new(mode: Mode) -> Self {
        Self { mode, branches: Vec::new(), reserved: Vec::new() }
    }

    /// Takes a place on the reply for a branch, whatever its vote; answers whether there is one.
    #[cfg_attr(
        not(any(test, feature = "mysql", feature = "postgres", feature = "sqlite")),
        expect(dead_code, reason = "participants alone join, and they need a database")
    )]
    pub(super) fn reserve(&mut self, id: &str) -> bool {
        if self.branches.iter().any(|branch| branch.id == id) {
            return true;
        }
        let ids = self.branches.iter().map(|branch| &branch.id).chain(&self.reserved);
        let taken: usize = ids.map(|id| id.len() + ITEM_BYTES_MAX).sum();
        let fits = taken + id.len() + ITEM_BYTES_MAX <= REPLY_BYTES_MAX;
        if fits {
            self.reserved.push(id.to_owned());
        }
        fits
    }

    /// Gives the place up: the branch has its entry by now, or never will.
    #[cfg_attr(
        not(any(test, feature = "mysql", feature = "postgres", feature = "sqlite")),
        expect(dead_code, reason = "participants alone join, and they need a database")
    )]
    pub(super) fn unreserve(&mut self, id: &str) {
        if let Some(index) = self.reserved.iter().position(|reserved| reserved == id) {
            self.reserved.swap_remove(index);
        }
    }

    /// A branch is enlisted. As long as nothing else is noted of it, it has no vote.
    pub(super) fn enlisted(&mut self, id: &str) {
        self.entry(id);
    }

    /// A branch has voted, by the word of its own participant.
    pub(super) fn voted(&mut self, id: &str, vote: Vote) {
        let read_only_elsewhere = vote == Vote::ReadOnly && self.mode != Mode::TwoPhaseCommit;
        let Some(branch) = self.entry(id) else { return };
        // Only two-phase commit has such a vote, and a branch has one: whoever says otherwise proves
        // nothing.
        let disputed = branch.vote != Vote::Unspecified && branch.vote != vote;
        if read_only_elsewhere || disputed {
            tracing::warn!(branch_id = id, vote = vote.as_str_name(), "a vote that cannot be");
            branch.disputed = true;
        }
        branch.vote = vote;
        branch.vouchers += 1;
    }

    /// A call that told of a PREPARED did not end well after all.
    pub(super) fn withdraw(&mut self, id: &str) {
        if let Some(branch) = self.branches.iter_mut().find(|branch| branch.id == id) {
            branch.vouchers = branch.vouchers.saturating_sub(1);
        }
    }

    /// Notes what a reply says; answers with the branches whose vote rests on it.
    ///
    /// Of a call that failed PREPARED is not taken: its caller may send it again, and then the work
    /// would be there twice, once in each branch. Without that vote the transaction aborts.
    pub(super) fn take(&mut self, reply: Vec<(String, Vote)>, end: CallEnd) -> Vec<String> {
        let mut vouched = Vec::new();
        for (id, vote) in reply {
            match (vote, end) {
                (Vote::Unspecified, _) | (Vote::Prepared, CallEnd::Failed) => self.enlisted(&id),
                (Vote::Prepared, CallEnd::Succeeded) => {
                    self.voted(&id, vote);
                    vouched.push(id);
                }
                (Vote::Refused | Vote::ReadOnly, _) => self.voted(&id, vote),
            }
        }
        vouched
    }

    /// Every branch with its vote, as Commit lists it.
    pub(super) fn listed(&self) -> Vec<CommitBranch> {
        let listed = self.branches.iter().map(|branch| CommitBranch {
            branch_id: branch.id.clone(),
            vote: branch.counted().into(),
        });
        listed.collect()
    }

    /// Returns the reply's header of at most `bytes_max` bytes; `None` where there is nothing to tell.
    ///
    /// Branches that joined in this service have their place. Those of services below may be too many
    /// together: then some are not named, and the transaction aborts.
    pub(super) fn header(&self, bytes_max: usize) -> Option<HeaderValue> {
        let mut header = String::new();
        let mut told = 0;
        for branch in &self.branches {
            let separator = if header.is_empty() { "" } else { ", " };
            let item = format!("{separator}{}={}", branch.id, name(branch.counted()));
            if header.len() + item.len() > bytes_max {
                break;
            }
            header += &item;
            told += 1;
        }
        let branches = self.branches.len();
        if told < branches {
            tracing::warn!(branches, "a reply names {told} branches: the transaction will abort");
        }
        (!header.is_empty())
            .then(|| HeaderValue::from_str(&header).expect("names, and nothing else"))
    }

    /// `None`, and unlisted, past the bound.
    fn entry(&mut self, id: &str) -> Option<&mut Branch> {
        if let Some(index) = self.branches.iter().position(|branch| branch.id == id) {
            return Some(&mut self.branches[index]);
        }
        if self.branches.len() == COLLECTED_MAX {
            tracing::warn!(branch_id = id, "more than {COLLECTED_MAX} branches: it is not listed");
            return None;
        }
        let (id, vote) = (id.to_owned(), Vote::Unspecified);
        self.branches.push(Branch { id, vote, vouchers: 0, disputed: false });
        self.branches.last_mut()
    }
}

impl Branch {
    fn counted(&self) -> Vote {
        if self.vouchers > 0 && !self.disputed { self.vote } else { Vote::Unspecified }
    }
}

fn name(vote: Vote) -> &'static str {
    VOTES.iter().find(|known| known.0 == vote).map_or("none", |known| known.1)
}

/// Reads the branches that a reply names.
pub(super) fn read(headers: &HeaderMap) -> Result<Vec<(String, Vote)>, Malformed> {
    let malformed = |rule: &str| Malformed::new(BRANCHES, rule);
    let values = || headers.get_all(BRANCHES).iter();
    if values().map(HeaderValue::len).sum::<usize>() > REPLY_BYTES_MAX {
        return Err(malformed("must be at most 4,096 bytes"));
    }
    let mut branches = Vec::new();
    for value in values() {
        let text = value.to_str().map_err(|_| malformed("must be of printable ASCII"))?;
        for item in text.split(',').map(|item| item.trim_matches([' ', '\t'])) {
            if item.is_empty() {
                continue;
            }
            let (id, vote) = item.split_once('=').ok_or_else(|| malformed(ITEM_RULE))?;
            let vote = VOTES.iter().find(|known| known.1 == vote).map(|known| known.0);
            if !is_name(id, ID_BYTES_MAX) {
                return Err(malformed(ITEM_RULE));
            }
            branches.push((id.to_owned(), vote.ok_or_else(|| malformed(ITEM_RULE))?));
        }
    }
    Ok(branches)
}

const ITEM_RULE: &str =
    "must be <branch_id>=<vote>, with the votes prepared, refused, read_only and none";

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(branches: &Branches) -> Vec<(String, Vote)> {
        let listed = branches.listed().into_iter();
        listed.map(|branch| (branch.branch_id.clone(), branch.vote())).collect()
    }

    fn reply(text: &str) -> Result<Vec<(String, Vote)>, Malformed> {
        let mut headers = HeaderMap::new();
        headers.insert(BRANCHES, HeaderValue::from_bytes(text.as_bytes()).expect("a value"));
        read(&headers)
    }

    #[test]
    fn branches_come_back_and_lines_are_read_together() {
        let mut branches = Branches::new(Mode::TwoPhaseCommit);
        for (id, vote) in [("a:1", Vote::Prepared), ("b.2", Vote::Refused), ("c-3", Vote::ReadOnly)]
        {
            branches.voted(id, vote);
        }
        branches.enlisted("d_4");
        let value = branches.header(REPLY_BYTES_MAX).expect("a header");
        assert_eq!(value, "a:1=prepared, b.2=refused, c-3=read_only, d_4=none");
        let mut headers = HeaderMap::new();
        headers.append(BRANCHES, value);
        headers.append(BRANCHES, HeaderValue::from_static("e=none,,f=prepared"));
        let read = read(&headers).expect("branches");
        let mut above = Branches::new(Mode::TwoPhaseCommit);
        assert_eq!(above.take(read, CallEnd::Succeeded), ["a:1", "f"]);
        assert_eq!(listed(&above)[..4], listed(&branches)[..]);
        assert_eq!(listed(&above)[4].1, Vote::Unspecified);
        assert_eq!(Branches::default().header(REPLY_BYTES_MAX), None);
    }

    #[test]
    fn what_breaks_a_rule_is_taken_for_nothing() {
        let large = format!("a=none,{}", " ".repeat(REPLY_BYTES_MAX - 6));
        let largest = format!("a=none,{}", " ".repeat(REPLY_BYTES_MAX - 7));
        for text in
            ["a", "a=", "=none", "a=yes", "a=PREPARED", "a b=none", "a=none; b=none", "é=none"]
        {
            assert_eq!(reply(text).expect_err(text).header, BRANCHES);
        }
        assert!(reply(&large).is_err() && reply(&largest).is_ok());
    }

    #[test]
    fn s2_a_vote_counts_while_an_answer_vouches_for_it() {
        let prepared = || vec![("a".to_owned(), Vote::Prepared)];
        let vote = |branches: &Branches| listed(branches)[0].1;
        let mut branches = Branches::new(Mode::Tcc);
        assert_eq!(branches.take(prepared(), CallEnd::Failed), Vec::<String>::new());
        assert_eq!(vote(&branches), Vote::Unspecified, "the call may be sent again");
        branches.take(prepared(), CallEnd::Succeeded);
        branches.take(prepared(), CallEnd::Succeeded);
        branches.withdraw("a");
        assert_eq!(vote(&branches), Vote::Prepared, "one answer is enough");
        branches.withdraw("a");
        branches.withdraw("a");
        assert_eq!(vote(&branches), Vote::Unspecified);
        // A no needs no success.
        branches.take(vec![("b".to_owned(), Vote::Refused)], CallEnd::Failed);
        assert_eq!(listed(&branches)[1].1, Vote::Refused);
    }

    #[test]
    fn s2_no_vote_is_made_of_two_that_differ() {
        let mut branches = Branches::new(Mode::Tcc);
        branches.voted("a", Vote::Prepared);
        branches.voted("a", Vote::Refused);
        branches.voted("a", Vote::Prepared);
        branches.voted("b", Vote::ReadOnly);
        let none = |id: &str| (id.to_owned(), Vote::Unspecified);
        assert_eq!(listed(&branches), [none("a"), none("b")]);
    }

    #[test]
    fn collecting_is_bounded() {
        let mut branches = Branches::new(Mode::Tcc);
        for number in 0..2_000 {
            branches.voted(&number.to_string(), Vote::Prepared);
        }
        assert_eq!(listed(&branches).len(), COLLECTED_MAX);
    }

    /// A branch that is refused before it is enlisted aborts nothing.
    #[test]
    fn s2_a_branch_that_has_its_place_is_on_the_reply_whatever_its_vote() {
        for id_bytes in [4, 22, 32, 41, 53, 128] {
            let mut branches = Branches::new(Mode::TwoPhaseCommit);
            let id = |number: usize| format!("{number:0id_bytes$}");
            let fit = (0..).take_while(|number| branches.reserve(&id(*number))).count();
            if id_bytes == 128 {
                assert_eq!(fit, 29);
            }
            // The longest id that the SDK makes has 41 bytes.
            if id_bytes <= 41 {
                assert!(fit >= 77, "{id_bytes}: {fit}");
            }
            for number in 0..fit.min(COLLECTED_MAX) {
                branches.voted(&id(number), Vote::ReadOnly);
                branches.unreserve(&id(number));
                assert!(branches.reserve(&id(number)), "it is there already");
            }
            let header = branches.header(REPLY_BYTES_MAX).expect("a header");
            assert_eq!(header.to_str().expect("text").split(',').count(), fit);
            let read = reply(header.to_str().expect("text")).expect("branches");
            assert_eq!(read.len(), fit, "S2: the caller lists every one");
        }
    }

    #[test]
    fn a_place_that_is_given_up_is_free_again() {
        let mut branches = Branches::new(Mode::Tcc);
        let long = |number: usize| format!("{number:0128}");
        assert!((0..29).all(|number| branches.reserve(&long(number))));
        assert!(!branches.reserve(&long(29)));
        branches.unreserve(&long(7));
        assert!(branches.reserve(&long(29)));
    }
}
