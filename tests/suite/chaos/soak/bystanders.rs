//! Participants that are dead or slow, and the transactions that need them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use unanimo_sdk::{Client, Json, Outcome};
use unanimo_tests::relay::Relay;
use unanimo_tests::scripted::Scripted;

use super::participant;

/// Time between two transactions that need a sick participant.
const EVERY: Duration = Duration::from_millis(100);

/// Participants that are dead: as many as there are others.
const DEAD: [&str; 3] = ["refuses", "swallows", "vanished"];

/// Participant that answers, and takes longer than the coordinator waits for a Prepare now and then.
const SLOW: &str = "slow";

pub(super) struct Bystanders {
    /// In front of the dead ones, which live again at the end.
    dead: Vec<(&'static str, Relay)>,
    slow: (Scripted, String),
    healed: SocketAddr,
}

impl Bystanders {
    pub(super) async fn start() -> Self {
        // One refuses connections, one accepts them and never answers, one is a name whose connections are
        // closed at once.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let targets = [Some(closed), Some(silent.local_addr().unwrap()), None];
        tokio::spawn(swallow(silent));
        let mut dead = Vec::new();
        for (name, target) in DEAD.into_iter().zip(targets) {
            let relay = Relay::start().await;
            relay.point_to(target);
            dead.push((name, relay));
        }
        let slow = Scripted::default();
        let endpoint = slow.serve().await;
        let healed = Scripted::default().serve().await;
        let healed = healed.trim_start_matches("http://").parse().unwrap();
        Self { dead, slow: (slow, endpoint), healed }
    }

    pub(super) fn arguments(&self) -> impl Iterator<Item = String> {
        let dead = self.dead.iter().flat_map(|(name, relay)| participant(name, &relay.url()));
        dead.chain(participant(SLOW, &self.slow.1))
    }

    /// Starts transactions that need them.
    pub(super) fn burden(&self, client: &Client) -> Burden {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(run(client.clone(), self.slow.0.clone(), Arc::clone(&stop)));
        Burden { stop, task }
    }

    /// The dead live again, with no memory of anything, and the slow is quick. By then everything is decided that
    /// needs the dead: what is not may still commit, rightly.
    pub(super) async fn heal(&self, client: &Client, gids: &[String]) {
        for gid in gids.iter().filter(|gid| !gid.contains(SLOW)) {
            unanimo_tests::wait::until("a decision without the dead", async || {
                (!matches!(client.find(gid).await, Ok(Outcome::NotDecided(_)))).then_some(())
            })
            .await;
        }
        self.slow.0.hold(false);
        for (_, relay) in &self.dead {
            relay.point_to(Some(self.healed));
        }
    }

    /// Checks that every transaction has ended, and none of those that need the dead is committed.
    pub(super) async fn check(&self, client: &Client, gids: &[String]) {
        let (mut begun, mut refused) = (0, 0);
        for gid in gids {
            let ended = unanimo_tests::wait::until("a sick one's transaction to end", async || {
                match client.find(gid).await {
                    Ok(Outcome::Aborted(aborted)) => aborted.ended.then_some(true),
                    Ok(Outcome::Committed(committed)) => {
                        assert!(gid.contains(SLOW), "S2: {gid} is committed");
                        committed.ended.then_some(true)
                    }
                    Ok(Outcome::NotDecided(_)) => None,
                    // It was refused before anything was stored.
                    Err(_) => Some(false),
                }
            });
            if ended.await { begun += 1 } else { refused += 1 }
        }
        super::say(&format!(
            "of transactions that need the sick, {begun} were begun and {refused} refused"
        ));
        assert!(begun > 0, "nothing was ever sent to the sick");
    }
}

/// Accepts connections, and says nothing on them.
async fn swallow(listener: TcpListener) {
    let mut kept = Vec::new();
    while let Ok((connection, _)) = listener.accept().await {
        kept.push(connection);
    }
}

pub(super) struct Burden {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<String>>,
}

impl Burden {
    /// Ends it; returns the gids of all transactions.
    pub(super) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

async fn run(client: Client, slow: Scripted, stop: Arc<AtomicBool>) -> Vec<String> {
    let client = client.wait_at_most(Duration::from_secs(8));
    let (mut running, mut gids) = (JoinSet::new(), Vec::new());
    let mut ticks = tokio::time::interval(EVERY);
    while !stop.load(Ordering::Relaxed) {
        let number = gids.len();
        // Held for two seconds, let go for one.
        slow.hold(number % 30 < 20);
        let name = DEAD.get(number % 4).copied().unwrap_or(SLOW);
        let gid = format!("{name}-{number}");
        let draft = client.tcc(&gid).branch("one", name, "gated", Json("one")).branch(
            "two",
            SLOW,
            "gated",
            Json("two"),
        );
        running.spawn(draft.submit());
        gids.push(gid);
        while let Some(ended) = running.try_join_next() {
            // Refused or not decided: the end is checked later.
            let _ = ended.unwrap();
        }
        ticks.tick().await;
    }
    while running.join_next().await.is_some() {}
    gids
}
