//! Transfers between the healthy banks, at a steady rate, and the time that each took.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};
use unanimo_sdk::Client;
use unanimo_tests::wait::until;

use super::super::Mode;
use super::super::transfers::{Transfer, some};

/// Time between the beginnings of two transfers.
const EVERY: Duration = Duration::from_millis(50);

/// Time after the return of the database in which what had waited for it is still on its way.
const CATCHES_UP: Duration = Duration::from_secs(3);

/// Transfers of one round: all kinds of them.
const ROUND: usize = 20;

/// Fewest times of which the hundredth part is told.
const TIMES_MIN: usize = 100;

#[derive(Default)]
struct State {
    stopped: bool,
    is_disturbed: bool,
    /// Transfers that begin or end now count for nothing.
    is_paused: bool,
    /// The database is away, or came back a moment ago: whoever asks in this time waits for it.
    away: bool,
    back_at: Option<Instant>,
    times: Latencies,
}

/// Answers' times, in which the database was there.
#[derive(Default)]
pub(super) struct Latencies {
    before: Vec<Duration>,
    disturbed: Vec<Duration>,
}

pub(super) struct Load {
    state: Arc<Mutex<State>>,
    task: JoinHandle<Vec<Transfer>>,
}

impl Load {
    pub(super) fn start(client: &Client) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let task = tokio::spawn(run(client.clone(), Arc::clone(&state)));
        Self { state, task }
    }

    /// From now on the times do not count.
    pub(super) fn pause(&self) {
        self.state.lock().unwrap().is_paused = true;
    }

    /// From now on the times count as those of a disturbed system.
    pub(super) fn disturbed(&self) {
        let mut state = self.state.lock().unwrap();
        (state.is_disturbed, state.is_paused) = (true, false);
    }

    /// Waits until there are enough times of the present kind: a busy machine takes longer for them.
    pub(super) async fn enough(&self) {
        until("enough transfers to tell the slowest", async || {
            let state = self.state.lock().unwrap();
            let Latencies { before, disturbed } = &state.times;
            let times = if state.is_disturbed { disturbed } else { before };
            (times.len() >= TIMES_MIN).then_some(())
        })
        .await;
    }

    pub(super) fn database_goes(&self) {
        self.state.lock().unwrap().away = true;
    }

    pub(super) fn database_is_back(&self) {
        let mut state = self.state.lock().unwrap();
        state.away = false;
        state.back_at = Some(Instant::now());
    }

    /// Ends the load; returns every transfer, and the times.
    pub(super) async fn stop(self) -> (Vec<Transfer>, Latencies) {
        self.state.lock().unwrap().stopped = true;
        let done = self.task.await.unwrap();
        (done, std::mem::take(&mut self.state.lock().unwrap().times))
    }
}

impl State {
    /// Tells whether the database was away at some moment since then.
    fn was_away(&self, since: Instant) -> bool {
        self.away || self.back_at.is_some_and(|at| at + CATCHES_UP > since)
    }
}

async fn run(client: Client, state: Arc<Mutex<State>>) -> Vec<Transfer> {
    let mut running = JoinSet::new();
    let mut ticks = tokio::time::interval(EVERY);
    for round in 0.. {
        for transfer in some(&format!("soak-{round}"), ROUND) {
            if state.lock().unwrap().stopped {
                return running.join_all().await;
            }
            ticks.tick().await;
            running.spawn(one(transfer, client.clone(), Arc::clone(&state)));
        }
    }
    unreachable!("rounds go on until it is stopped")
}

async fn one(transfer: Transfer, client: Client, state: Arc<Mutex<State>>) -> Transfer {
    let began = Instant::now();
    let is_paused = state.lock().unwrap().is_paused;
    let heard = transfer.run(&client, Mode::Tcc).await;
    let took = began.elapsed();
    let mut state = state.lock().unwrap();
    if !is_paused && !state.is_paused && !state.was_away(began) {
        let disturbed = state.is_disturbed;
        let Latencies { before, disturbed: after } = &mut state.times;
        if disturbed { after.push(took) } else { before.push(took) }
    }
    Transfer { heard, ..transfer }
}

impl Latencies {
    /// Tells the answers' times, and how many times as long the slowest ones took in the disturbed time.
    pub(super) fn tell(mut self) -> f64 {
        let [before, after] = [&mut self.before, &mut self.disturbed].map(|times| {
            times.sort_unstable();
            assert!(times.len() >= TIMES_MIN, "{} times tell nothing of the slowest", times.len());
            [50, 99].map(|percent| times[times.len() * percent / 100])
        });
        let slower = after[1].as_secs_f64() / before[1].as_secs_f64();
        super::say(&format!(
            "p50 and p99 of the healthy: {before:.1?} undisturbed ({} transfers), {after:.1?} disturbed ({}): \
             p99 {slower:.2} times",
            self.before.len(),
            self.disturbed.len()
        ));
        slower
    }
}
