//! Timers: of pauses, deadlines and alarms by real time, of starts at a time of day by the time that is gone by.

use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Input, TxId};

use super::super::clock::Anchor;
use super::super::live::Live;
use super::super::message::Failure;
use super::Service;
use crate::suspension::suspended;

/// Longest sleep of the loop: the time of day may be set while it sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(1);

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
            let ticked = self.apply_at(tx_id, Input::Tick, clock);
            self.ticked(tx_id, ticked);
        }
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
        for tx_id in self.timers.all() {
            let Some(live) = self.live.get_mut(&tx_id) else { continue };
            let wake_at = live.tx.wake_at(&self.options.policy);
            let moment = wake_at.map(|at| live.clock.moment_of(at));
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
