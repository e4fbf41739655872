//! Branches that a participant holds in doubt are found, asked about and ended, and rows that
//! nobody can need any more are purged.

mod alarms;
mod clock;
mod ending;
mod inquiry;
mod names;
mod open;
mod pass;
mod pauses;
mod payloads;
mod promoted;
mod retention;
mod steps;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::alarms::Alarms;
use self::inquiry::Inquirer;
use self::pass::{Pass, Swept};
use super::{Error, Service};
use crate::action::caught;
use crate::channel::Coordinator;
use crate::resource::Resource;

/// A sweep that left something to do is followed by the next one after this pause, or after the
/// interval if that is shorter.
const MORE_PAUSE: Duration = Duration::from_secs(1);

/// Time beyond the interval after which a sweep that has not ended makes the figures of the last one unknown.
const LATE_AFTER: Duration = Duration::from_secs(30);

/// Shortest interval: each sweep asks the database a few questions.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Graces that are over when a branch is in doubt for too long.
const GRACES_UNTIL_ALARM: u32 = 5;

/// Longest retention, and for ever in effect: a database can still subtract it from its time.
const RETENTION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Settings of a participant's sweeper: when it asks about branches in doubt, and how long it keeps
/// rows of branches that are over.
#[derive(Clone, Debug)]
pub struct Sweep {
    interval: Duration,
    grace: Duration,
    retention: Option<Duration>,
    alarm_after: Option<Duration>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            // Far more often than anybody waits for a lock, and next to no work where nothing is in
            // doubt.
            interval: Duration::from_secs(30),
            // Phase two of a healthy transaction takes milliseconds.
            grace: Duration::from_secs(60),
            // Longer than any message is under way, and than a night's restore takes.
            retention: Some(Duration::from_secs(24 * 60 * 60)),
            alarm_after: None,
        }
    }
}

impl Sweep {
    /// Pause between two sweeps, at least 10 ms. Default 30 s.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(INTERVAL_MIN);
        self
    }

    /// Time for which a branch is prepared, by its database's clock, before it is asked about.
    /// Default 60 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace.min(RETENTION_MAX);
        self
    }

    /// Time after a branch's `prepare_until` (its transaction's deadline and an allowance for
    /// clocks), by its database's clock, for which its row is kept at least. Default 24 h. It
    /// must be longer than any message can be under way, and than the age of a backup of the
    /// coordinator's database that may be restored.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention.min(RETENTION_MAX));
        self
    }

    /// Age of a branch in doubt at which it raises an alarm although nothing but time speaks against it: no
    /// coordinator answers for it, it is decided and is not ended, or it is not decided. Default five times the
    /// [grace](Self::grace), and some seconds at least; where it is not decided, an hour at least, past the
    /// transaction's deadline. An age that is set here holds for all of these: choose one that no
    /// transaction reaches.
    ///
    /// A step of a saga may wait for its saga's decision for ever. Of a step that is to be compensated, or that
    /// no coordinator answers for, the time counts since that was found.
    #[must_use]
    pub fn alarm_after(mut self, age: Duration) -> Self {
        self.alarm_after = Some(age.min(RETENTION_MAX));
        self
    }

    /// The age of an alarm is set, and not the default.
    fn has_alarm_age(&self) -> bool {
        self.alarm_after.is_some()
    }

    fn alarm_age(&self, at_least: Duration) -> Duration {
        self.alarm_after.unwrap_or((self.grace * GRACES_UNTIL_ALARM).max(at_least))
    }

    /// Never purges a row.
    #[must_use]
    pub fn keep_rows(mut self) -> Self {
        self.retention = None;
        self
    }
}

/// Branches that a participant holds in doubt, as the last sweep left them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InDoubt {
    /// Branches that are prepared, the youngest included, but no steps of sagas.
    pub count: u64,
    /// Age of the oldest of them, by the database's clock; zero if there is none.
    pub oldest: Duration,
    /// Steps of sagas that are done, and whose saga is not decided, to be compensated, or not asked
    /// about yet. They are not in doubt: a saga may take days.
    pub steps: u64,
    /// Branches that only a person can end: each has raised an alarm.
    pub alarmed: u64,
    /// Age of the oldest prepared transaction of the whole database server, whoever made it; zero if there
    /// is none, or the server has no such thing.
    pub oldest_prepared: Duration,
    /// The last sweep could tell all of this. If it could not, or the one since takes far longer than the interval, the
    /// figures are those of the last sweep that could: not known now.
    pub known: bool,
    /// Sweeps so far. Before the first one nothing is known, and all else is zero.
    pub sweeps: u64,
}

/// The sweeper of a participant: see [in doubt](super#in-doubt). Dropping it ends it.
#[must_use = "dropping it ends the sweeper"]
#[derive(Debug)]
pub struct Sweeper {
    stop: watch::Sender<bool>,
    in_doubt: watch::Receiver<InDoubt>,
    task: JoinHandle<()>,
}

impl Sweeper {
    /// Returns what the last sweep left in doubt.
    #[must_use]
    pub fn in_doubt(&self) -> InDoubt {
        *self.in_doubt.borrow()
    }

    /// The same, to be followed: it changes with each sweep.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<InDoubt> {
        self.in_doubt.clone()
    }

    /// Ends it after the step that it is at.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl<R: Resource> Service<R> {
    /// Starts the sweeper of a participant that is served by a server of its own.
    /// [`Participant::serve`](super::Participant::serve) starts one by itself.
    ///
    /// `coordinators` are `http://HOST:PORT`, or [`Coordinator`]s. They may be several nodes of one, and several ones:
    /// each is asked about its own branches only.
    ///
    /// # Errors
    /// A coordinator's address is not one.
    pub fn sweep(
        &self,
        coordinators: impl IntoIterator<Item = impl Into<Coordinator>>,
        sweep: Sweep,
    ) -> Result<Sweeper, Error> {
        let coordinators: Vec<Coordinator> = coordinators.into_iter().map(Into::into).collect();
        let (stop, stopped) = watch::channel(false);
        let (tell, in_doubt) = watch::channel(InDoubt::default());
        let interval = sweep.interval;
        let pass = Pass::new(self, Inquirer::new(coordinators)?, sweep, stopped.clone());
        let figures = Arc::clone(&self.inner.figures);
        let tell = move |told: InDoubt| {
            figures.in_doubt(told);
            tell.send_replace(told);
        };
        let task = tokio::spawn(run(pass, interval, stopped, tell));
        Ok(Sweeper { stop, in_doubt, task })
    }
}

async fn run<R: Resource>(
    mut pass: Pass<R>,
    interval: Duration,
    mut stopped: watch::Receiver<bool>,
    tell: impl Fn(InDoubt),
) {
    let mut alarms = Alarms::default();
    let (mut sweeps, mut last) = (0, InDoubt::default());
    loop {
        // In a task of its own: whoever ends this one cuts off no database work.
        let once = tokio::spawn(async move {
            let swept = caught(pass.run(&mut alarms)).await;
            let swept = swept
                .unwrap_or_else(|broken| Swept { broken: Some(broken.text()), ..Swept::default() });
            (pass, alarms, swept)
        });
        let late = || tell(InDoubt { known: false, ..last });
        let Ok((back, book, swept)) =
            told_late(once, interval.saturating_add(LATE_AFTER), late).await
        else {
            return;
        };
        (pass, alarms) = (back, book);
        // What it knows of the database's history, and where it goes on, stays: the next sweep needs it.
        if let Some(error) = &swept.broken {
            tracing::error!(
                alarm = "sweep_panicked",
                error,
                "a sweep has panicked: a part of it was not done, and what is in doubt may not be known; the next sweep \
                 tries again"
            );
        }
        sweeps += 1;
        let known = swept.in_doubt.is_some();
        last = InDoubt { sweeps, known, ..swept.in_doubt.unwrap_or(last) };
        tell(last);
        let pause = if swept.more { MORE_PAUSE.min(interval) } else { interval };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // An error says that the handle is gone.
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}

/// Waits for a sweep, and tells once if it takes too long.
async fn told_late<T>(sweep: impl Future<Output = T>, after: Duration, late: impl FnOnce()) -> T {
    let mut sweep = pin!(sweep);
    match tokio::time::timeout(after, &mut sweep).await {
        Ok(swept) => swept,
        Err(_) => {
            late();
            sweep.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn figures_are_not_known_while_a_sweep_takes_too_long() {
        let hour = Duration::from_secs(3_600);
        told_late(async {}, hour, || panic!("it has ended at once")).await;
        // It ends once that is told.
        let (tell, told) = tokio::sync::oneshot::channel();
        let late = || tell.send(()).expect("the sweep goes on");
        told_late(told, Duration::from_millis(1), late).await.expect("it was told");
    }
}
