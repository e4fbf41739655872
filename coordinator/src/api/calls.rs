//! Calls that are under way (promise L5).
//!
//! A call that waits takes memory long after its message was read: its stream, its tasks, and its entry at the transaction
//! that it waits for. So each one is counted from when it is read until its answer has ended. Those that wait for long have
//! three quarters of the room: past that a call waits for a short time only, so that work which is done soon is served
//! however many wait for a participant that is slow (promise L3). Past the bound new work is
//! refused; calls that only look on (GetTransaction that waits, WatchTransaction) have half of the room, so that they
//! take none from work. Commit and Rollback are never refused: past the bound they are answered as soon as they are
//! accepted. Other calls go on.
//!
//! Of all this one identity has three quarters of what others leave, whatever else is set: one that sends new work without end
//! leaves others room for theirs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Extensions, Request, Status};

use super::error::{too_many_calls, too_many_calls_of};
use super::rpc::Rpc;

/// Memory that a call takes while it waits: its stream, its tasks, its entry at a transaction.
pub const CALL_BYTES: usize = 16 << 10;

/// Part of the calls that may only look on: one in so many.
const LOOKING_PART: usize = 2;

/// Part of the calls that may wait for long: so many in so many.
const WAITING_PART: (usize, usize) = (3, 4);

/// Part of the calls which others leave that one identity may have: so many in so many.
const IDENTITY_PART: (usize, usize) = (3, 4);

/// Longest wait of a call past that part.
const CROWDED_WAIT: Duration = Duration::from_secs(2);

/// Counts of the calls under way.
#[derive(Debug)]
pub(super) struct Calls {
    all: AtomicUsize,
    looking: AtomicUsize,
    max: usize,
    /// Those of each identity that has any: of all, and of those that look on.
    of: Mutex<HashMap<Arc<str>, [usize; 2]>>,
}

/// Places in the counts of an identity.
const ALL: usize = 0;
const LOOKING: usize = 1;

impl Calls {
    /// Makes the counts of calls that may take so many bytes together.
    pub(super) fn new(bytes_max: usize) -> Arc<Self> {
        let max = (bytes_max / CALL_BYTES).max(LOOKING_PART);
        let (all, looking) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { all, looking, max, of: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, [usize; 2]>> {
        // Nothing in here panics half way through a change.
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more of an identity, beside so many of all before it, and tells whether that is within its part of what
    /// others leave of the most.
    fn add(&self, owner: &Arc<str>, which: usize, (before, max): (usize, usize)) -> bool {
        let mut of = self.lock();
        let own = &mut of.entry(Arc::clone(owner)).or_default()[which];
        *own += 1;
        let others = (before + 1).saturating_sub(*own);
        let (part, whole) = IDENTITY_PART;
        *own <= (max.saturating_sub(others) * part).div_ceil(whole)
    }

    fn take_off(&self, owner: &Arc<str>, which: usize) {
        let mut of = self.lock();
        let Some(own) = of.get_mut(owner) else { return };
        own[which] -= 1;
        if *own == [0, 0] {
            of.remove(owner);
        }
    }
}

/// A call, counted from when its message is read until this is dropped, with the end of its answer.
#[derive(Debug)]
pub(super) struct UnderWay {
    calls: Arc<Calls>,
    /// Identity of its caller, if that is known.
    owner: Option<Arc<str>>,
    is_counted: AtomicBool,
    is_looking: AtomicBool,
    /// There were as many as there may be when it came, of all or of its identity.
    is_over: AtomicBool,
    /// Only of its identity there were.
    is_greedy: AtomicBool,
    /// Until when it may wait, if many were waiting when it came.
    crowded_until: OnceLock<Instant>,
}

impl UnderWay {
    /// Makes one of this identity; of nobody if it is empty.
    pub(super) fn new(calls: &Arc<Calls>, identity: &str) -> Arc<Self> {
        Arc::new(Self {
            calls: Arc::clone(calls),
            owner: (!identity.is_empty()).then(|| identity.into()),
            is_counted: AtomicBool::new(false),
            is_looking: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_greedy: AtomicBool::new(false),
            crowded_until: OnceLock::new(),
        })
    }

    /// Counts it; `false` if there are too many.
    fn count(&self) -> bool {
        if self.is_counted.swap(true, Ordering::Relaxed) {
            return true;
        }
        // Added first, so that two at once cannot both take the last place.
        let before = self.calls.all.fetch_add(1, Ordering::Relaxed);
        let (part, whole) = WAITING_PART;
        if before >= self.calls.max / whole * part {
            self.crowded_until.get_or_init(|| Instant::now() + CROWDED_WAIT);
        }
        let is_within = before < self.calls.max;
        let is_fair = self.add(ALL, (before, self.calls.max));
        self.is_over.store(!is_within || !is_fair, Ordering::Relaxed);
        self.is_greedy.store(is_within && !is_fair, Ordering::Relaxed);
        is_within && is_fair
    }

    /// Counts it as its identity's.
    fn add(&self, which: usize, bound: (usize, usize)) -> bool {
        self.owner.as_ref().is_none_or(|owner| self.calls.add(owner, which, bound))
    }

    fn take_off(&self, which: usize) {
        self.owner.iter().for_each(|owner| self.calls.take_off(owner, which));
    }

    /// Counts it among those that only look on; `false` if there are too many.
    fn look_on(&self) -> bool {
        if self.is_looking.swap(true, Ordering::Relaxed) {
            return true;
        }
        let before = self.calls.looking.fetch_add(1, Ordering::Relaxed);
        let max = self.calls.max / LOOKING_PART;
        let is_within = before < max;
        let is_fair = self.add(LOOKING, (before, max));
        if is_within && !is_fair {
            self.is_greedy.store(true, Ordering::Relaxed);
        }
        is_within && is_fair && !self.is_over.load(Ordering::Relaxed)
    }

    /// Counts it no more.
    fn let_go(&self) {
        if self.is_counted.swap(false, Ordering::Relaxed) {
            self.calls.all.fetch_sub(1, Ordering::Relaxed);
            self.take_off(ALL);
        }
        if self.is_looking.swap(false, Ordering::Relaxed) {
            self.calls.looking.fetch_sub(1, Ordering::Relaxed);
            self.take_off(LOOKING);
        }
    }

    /// Refuses it: it waits for nothing, and takes no room from others.
    fn refuse(&self, max: usize) -> Status {
        self.let_go();
        match &self.owner {
            Some(owner) if self.is_greedy.load(Ordering::Relaxed) => too_many_calls_of(owner),
            _ => too_many_calls(max),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn of(extensions: &Extensions) -> Option<&Arc<UnderWay>> {
    extensions.get()
}

/// Counts a call whose message is read. New work is refused if there are too many.
pub(super) fn begin<T>(rpc: Rpc, request: &Request<T>) -> Result<(), Status> {
    let Some(call) = of(request.extensions()) else { return Ok(()) };
    let is_work = matches!(
        rpc,
        Rpc::SubmitTransaction | Rpc::BeginTransaction | Rpc::ExecuteBranch | Rpc::EnlistBranch
    );
    match call.count() || !is_work {
        true => Ok(()),
        false => Err(call.refuse(call.calls.max)),
    }
}

/// Counts a call that is about to wait, and only looks on. It is refused if there are too many.
pub(super) fn look_on<T>(request: &Request<T>) -> Result<(), Status> {
    match of(request.extensions()) {
        Some(call) if !call.look_on() => Err(call.refuse(call.calls.max / LOOKING_PART)),
        _ => Ok(()),
    }
}

/// Tells whether there were as many calls as there may be when this one came.
pub(super) fn is_over(extensions: &Extensions) -> bool {
    of(extensions).is_some_and(|call| call.is_over.load(Ordering::Relaxed))
}

/// Returns until when this call may wait, if many were waiting when it came.
pub(super) fn crowded_until(extensions: &Extensions) -> Option<Instant> {
    of(extensions)?.crowded_until.get().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(calls: &Arc<Calls>) -> Request<()> {
        of_identity(calls, "")
    }

    fn of_identity(calls: &Arc<Calls>, identity: &str) -> Request<()> {
        let mut request = Request::new(());
        request.extensions_mut().insert(UnderWay::new(calls, identity));
        request
    }

    #[test]
    fn l5_one_identity_leaves_calls_to_others() {
        let calls = Calls::new(16 * CALL_BYTES);
        let works = |identity: &str| {
            let request = of_identity(&calls, identity);
            begin(Rpc::SubmitTransaction, &request).map(|()| request)
        };
        let looks = |identity: &str| {
            let request = of_identity(&calls, identity);
            begin(Rpc::GetTransaction, &request).expect("it is no work");
            look_on(&request).map(|()| request)
        };
        let looking: Vec<_> = (0..6).map(|_| looks("a").expect("three quarters of 8")).collect();
        let refused = looks("a").expect_err("one more");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        drop(looks("b").expect("another one's"));
        let mut working: Vec<_> = (0..6).map(|_| works("a").expect("12 of 16")).collect();
        let refused = works("a").expect_err("one more");
        assert!(refused.message().contains("of a are under way"), "{refused}");
        // What ends a transaction is accepted, and not waited for.
        let commits = of_identity(&calls, "a");
        begin(Rpc::CommitTransaction, &commits).expect("it is never refused");
        assert!(is_over(commits.extensions()));
        drop(commits);
        working.extend((0..3).map(|_| works("b").expect("three quarters of what is left")));
        works("b").expect_err("one more");
        working.push(works("c").expect("the last one"));
        let refused = works("d").expect_err("there are 16");
        assert!(refused.message().contains("too much is in flight"), "{refused}");
        drop((looking, working));
        assert!(calls.lock().is_empty(), "{:?}", calls.lock());
        assert_eq!(calls.all.load(Ordering::Relaxed), 0);
        assert_eq!(calls.looking.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn l5_calls_past_the_bound_are_refused_and_commit_and_rollback_are_not() {
        let calls = Calls::new(10 * CALL_BYTES);
        let mut under_way = Vec::new();
        for number in 0..9 {
            let looks = request(&calls);
            let begun = begin(Rpc::GetTransaction, &looks);
            assert!(begun.is_ok() && crowded_until(looks.extensions()).is_none());
            assert_eq!(look_on(&looks).is_ok(), number < 5, "{number}");
            under_way.push(looks);
        }
        assert_eq!(calls.all.load(Ordering::Relaxed), 5, "refused ones take no room");
        for number in 5..10 {
            let works = request(&calls);
            assert!(begin(Rpc::SubmitTransaction, &works).is_ok());
            let is_crowded = crowded_until(works.extensions()).is_some();
            assert_eq!(is_crowded, number >= 6, "L3: {number} are under way");
            under_way.push(works);
        }
        for (rpc, is_refused) in [
            (Rpc::SubmitTransaction, true),
            (Rpc::BeginTransaction, true),
            (Rpc::ExecuteBranch, true),
            (Rpc::EnlistBranch, true),
            (Rpc::CommitTransaction, false),
            (Rpc::RollbackTransaction, false),
            (Rpc::RetryTransaction, false),
        ] {
            let request = request(&calls);
            assert_eq!(begin(rpc, &request).is_err(), is_refused, "{rpc:?}");
            assert!(crowded_until(request.extensions()).is_some(), "{rpc:?}");
            assert!(is_over(request.extensions()), "{rpc:?}");
        }
        drop(under_way);
        let request = request(&calls);
        assert!(begin(Rpc::SubmitTransaction, &request).is_ok() && look_on(&request).is_ok());
        drop(request);
        assert_eq!(calls.all.load(Ordering::Relaxed), 0);
        assert_eq!(calls.looking.load(Ordering::Relaxed), 0);
    }
}
