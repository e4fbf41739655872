//! Timers: of pauses, deadlines and alarms by real time, of starts at a time of day by the time that is gone by.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{BranchNumber, Input, Phase, Timestamp, TxId};

use super::super::clock::Anchor;
use super::super::live::Live;
use super::super::message::Failure;
use super::Service;
use crate::suspension::suspended;

/// Longest sleep of the loop: the time of day may be set while it sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Lateness of a start from which many others are late as well: the time of day was set, or the machine slept. The loop
/// itself is not late by so much.
const LATE_MIN: Duration = Duration::from_secs(5);

/// Shortest sleep of the machine after which the timers are set anew.
const SUSPENDED_MIN: Duration = Duration::from_millis(500);

impl Service {
    pub(super) fn until_next_timer(&self) -> Duration {
        if !self.retries.is_empty() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let timer = self.timers.next().map(|at| at.saturating_duration_since(now));
        let start = self.starts.next().map(|at| self.clock.of_stored().now().until(at));
        let waiting = self.waiting.until_look(now);
        [timer, start, waiting].into_iter().flatten().fold(SLEEP_MAX, Duration::min)
    }

    pub(super) fn tick(&mut self) {
        // A jump is noticed while nothing begins, too.
        let clock = self.clock.anchor();
        self.after_suspension();
        let moment = Instant::now();
        while let Some(tx_id) = self.timers.due(moment) {
            let ticked = self.apply(tx_id, Input::Tick);
            self.ticked(tx_id, ticked);
        }
        // Due by both: whoever is due by one and does not start by the other would be due for ever.
        let now = self.clock.of_stored().now().min(clock.now());
        while let Some(tx_id) = self.starts.due(now) {
            if self.starts_apart(tx_id, now) {
                continue;
            }
            let ticked = self.apply_at(tx_id, Input::Tick, clock);
            self.ticked(tx_id, ticked);
        }
    }

    /// Gives a transaction whose start is late a time of its own, as one that is brought to memory too late gets it: after
    /// a jump of the time of day many are due at once. Each is moved once.
    fn starts_apart(&mut self, tx_id: TxId, now: Timestamp) -> bool {
        let policy = &self.options.policy;
        let Some(live) = self.live.get_mut(&tx_id) else { return false };
        let Some(planned) = live.tx.wake_at(policy) else { return false };
        let late = planned.until(now);
        let is_moved = live.starts_at.is_some_and(|at| at > planned);
        if late < LATE_MIN || is_moved {
            return false;
        }
        let first = BranchNumber::from_index(0);
        let apart = policy.late_start(tx_id, first, now, late);
        self.starts.set(tx_id, &mut live.starts_at, Some(apart));
        true
    }

    /// Returns the clock of a transaction that has not started: the one of what is stored until its time has come, and then
    /// the one of what begins. Where that was set back meanwhile, one that starts after a time goes on by its own, or it
    /// would start later.
    pub(super) fn clock_of_scheduled(&self, live: &Live) -> Anchor {
        let (stored, starts_at) = (self.clock.of_stored(), live.tx.wake_at(&self.options.policy));
        let is_later = starts_at.is_some_and(|at| stored.now() < at);
        match is_later {
            true if live.starts_after => live.clock,
            true => stored.not_before(live.tx.identity().created_at),
            false => self.clock.anchor(),
        }
    }

    /// Sets the timers anew once the machine has slept: they stood still meanwhile.
    fn after_suspension(&mut self) {
        let (before, now) = (self.suspended, suspended());
        if now.saturating_sub(before) < SUSPENDED_MIN {
            return;
        }
        self.suspended = now;
        let slept = now.saturating_sub(before);
        tracing::warn!(?slept, "the machine was suspended; deadlines and pauses went on meanwhile");
        self.set_timers_anew();
    }

    /// Sets the timers anew. What was to start while the machine slept is late with many others, and each gets a time of its
    /// own: once, or a machine that sleeps often would move it for ever.
    fn set_timers_anew(&mut self) {
        for tx_id in self.timers.all() {
            let Some(live) = self.live.get_mut(&tx_id) else { continue };
            let policy = &self.options.policy;
            let (wake_at, now) = (live.tx.wake_at(policy), live.clock.now());
            let late = wake_at.map_or(Duration::ZERO, |at| at.until(now));
            let is_late = live.tx.phase() == Phase::Scheduled && late >= LATE_MIN;
            if is_late && live.starts_late.is_none() {
                let first = BranchNumber::from_index(0);
                let apart = now.until(policy.late_start(tx_id, first, now, late));
                live.starts_late = Some(Instant::now() + apart);
            }
            let moment = wake_at.map(|at| live.moment_of(at));
            self.timers.set(tx_id, &mut live.wake_at, moment);
        }
    }

    /// A tick is never rejected; were it, the timer must not come back for ever.
    fn ticked(&mut self, tx_id: TxId, ticked: Result<(), Failure>) {
        let Err(error) = ticked else { return };
        tracing::error!(%tx_id, ?error, "the state machine rejected a timer's tick");
        if let Some(live) = self.live.get_mut(&tx_id) {
            self.timers.set(tx_id, &mut live.wake_at, None);
            self.starts.set(tx_id, &mut live.starts_at, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;
    use unanimo_core::{Start, Timestamp, Transaction};

    use super::super::went_back::tests::{Faults, Lacks, Replaced, definition, lab::assemble};
    use super::*;
    use crate::engine::Clock;
    use crate::env::{Env, SystemEnv};

    const COUNT: usize = 200;
    const HOUR: Duration = Duration::from_secs(3600);

    /// The system's clock, and so much.
    #[derive(Debug)]
    struct Ahead(Duration);

    impl Env for Ahead {
        fn now(&self) -> Timestamp {
            SystemEnv.now().after(self.0)
        }

        fn tx_id(&self, now: Timestamp) -> TxId {
            SystemEnv.tx_id(now)
        }
    }

    impl Service {
        /// Sets its clock as if a jump had lasted, and looks for what is due. Returns how many have started.
        fn at(&mut self, ahead: Duration) -> usize {
            let env = Ahead(ahead);
            let now = env.now();
            self.clock = Arc::new(Clock::new(Arc::new(env), now));
            self.tick();
            self.live.values().filter(|live| live.tx.phase() != Phase::Scheduled).count()
        }

        /// Brings transactions to memory that start so long from now.
        fn schedule(&mut self, count: usize, after: Duration) {
            let (now, policy) = (SystemEnv.now(), self.options.policy.clone());
            for n in 0..count {
                let mut definition = definition(&format!("{after:?}-{n}"));
                definition.start = Start::At(now.after(after));
                let tx_id = SystemEnv.tx_id(now);
                let (tx, _) = Transaction::begin(tx_id, definition, now, &policy);
                self.adopt(tx.record(), None, false);
            }
        }
    }

    /// The time of day jumps, and the jump lasts: what is due by then starts once, spread out, and whatever else happens
    /// to it meanwhile brings it to no earlier or later time.
    #[tokio::test]
    async fn l3_what_is_due_after_a_jump_is_spread_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}/jump.db", folder.path().display());
        let store = Replaced::open(&url, Lacks::One(u32::MAX)).await;
        let (mut tasks, faults) = (JoinSet::new(), Faults::default());
        let (_engine, mut service, _) = assemble(HOUR, &store, &faults, &mut tasks).await;
        let spread = service.options.policy.late_starts_spread;
        service.schedule(COUNT, HOUR / 2);
        assert_eq!(service.at(Duration::ZERO), 0);
        let started = service.at(HOUR);
        assert!(started < COUNT / 20, "L3: {started} of {COUNT} start at once");
        let ids: Vec<_> = service.live.keys().copied().collect();
        for tx_id in ids {
            let _ = service.apply(tx_id, Input::Rewrite);
        }
        let started = service.at(HOUR + spread / 2);
        assert!((COUNT / 4..COUNT * 3 / 4).contains(&started), "{started} of {COUNT} by the half");
        assert_eq!(service.at(HOUR + spread + Duration::from_secs(1)), COUNT, "L1: all start");
        // What is hardly late starts at once.
        let start = HOUR + spread + Duration::from_secs(10);
        service.schedule(1, start);
        assert_eq!(service.at(start + Duration::from_secs(2)), COUNT + 1);
    }

    /// The machine sleeps over the time at which many are to start, so long after their begin: they start once, spread out,
    /// and neither what happens to them meanwhile nor another sleep moves their time.
    #[tokio::test]
    async fn l3_what_is_due_after_a_sleep_of_the_machine_is_spread_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite:{}/sleep.db", folder.path().display());
        let store = Replaced::open(&url, Lacks::One(u32::MAX)).await;
        let (mut tasks, faults) = (JoinSet::new(), Faults::default());
        let (_engine, mut service, _) = assemble(HOUR, &store, &faults, &mut tasks).await;
        let spread = service.options.policy.late_starts_spread;
        service.schedule(COUNT, HOUR / 2);
        // As if they began with a delay, and that went by in a sleep of the machine.
        let later = Clock::new(Arc::new(Ahead(HOUR)), Ahead(HOUR).now()).anchor();
        let ids: Vec<_> = service.live.keys().copied().collect();
        for tx_id in &ids {
            let live = service.live.get_mut(tx_id).expect("it is in memory");
            (live.starts_after, live.clock) = (true, later);
            service.starts.set(*tx_id, &mut live.starts_at, None);
            service.timers.set(*tx_id, &mut live.wake_at, Some(Instant::now() + HOUR));
        }
        let woke = Instant::now();
        service.set_timers_anew();
        let moments = |service: &Service| -> Vec<Option<Instant>> {
            ids.iter().map(|tx_id| service.live[tx_id].wake_at).collect()
        };
        let given = moments(&service);
        let until =
            |at: Duration| given.iter().flatten().filter(|moment| **moment <= woke + at).count();
        assert!(until(spread / 20) < COUNT / 5, "L3: {} of {COUNT} at once", until(spread / 20));
        let by_half = until(spread / 2);
        assert!((COUNT / 4..COUNT * 3 / 4).contains(&by_half), "{by_half} of {COUNT} by the half");
        assert_eq!(until(spread + LATE_MIN), COUNT, "L1: all start");
        for tx_id in &ids {
            service.release(*tx_id);
        }
        assert_eq!(moments(&service), given, "what happens to them leaves their time");
        service.set_timers_anew();
        assert_eq!(moments(&service), given, "another sleep leaves their time");
        // It starts when its time has come.
        let live = service.live.get_mut(&ids[0]).expect("it is in memory");
        live.starts_late = Some(woke);
        service.release(ids[0]);
        assert!(service.live[&ids[0]].wake_at.is_some_and(|moment| moment <= Instant::now()));
        service.tick();
        let live = &service.live[&ids[0]];
        assert!(live.tx.phase() != Phase::Scheduled, "L1: it starts");
        assert!(live.wake_at.is_none_or(|moment| moment > woke + LATE_MIN), "{:?}", live.wake_at);
    }
}
