//! Many transactions at once, whose calls fail in every way and are sent again as often as their
//! initiator likes. Whatever it heard, the money fits the outcome.

use std::rc::Rc;

use tokio::task::LocalSet;
use unanimo_sdk::client::Transaction;

use super::{Mode, World};

/// Initiators at once.
const AT_ONCE: usize = 8;

/// Transactions of each.
const PER_ONE: usize = 8;

/// Accounts of each: more than one transaction has attempts.
const PER_SLOT: usize = super::RANDOM_ACCOUNTS / AT_ONCE;

/// A little generator, so that a seed says everything.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn then(&mut self) -> &'static str {
        ["ok", "ok", "ok", "ok", "ok", "error", "lost", "half"]
            [usize::try_from(self.below(8)).unwrap()]
    }
}

/// Money that is to have moved: from bank `a`, to bank `b`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moved(i64, i64);

/// Sends each order until it went well, or its patience is over. Answers with what a commit has to
/// have moved.
///
/// Each attempt is at an account of its own: in two-phase commit it would wait for the locks of the
/// one before.
async fn transact(world: &World, tx: &Transaction, mut random: Random, slot: usize) -> Moved {
    let mut moved = Moved::default();
    let mut accounts = (slot * PER_SLOT..).map(|number| format!("r{number}"));
    for _ in 0..=random.below(2) {
        for _ in 0..=random.below(3) {
            let account = accounts.next().unwrap();
            let own = match random.then() {
                "half" => "ok",
                then => then,
            };
            let credited = if random.below(30) == 0 { "nobody" } else { &account };
            let orders = format!("debit/{account}/1/{own} credit/{credited}/1/{}", random.then());
            if world.order(tx, &orders).await.is_ok() {
                moved = Moved(moved.0 + 1, moved.1 + 1);
                break;
            }
        }
        // Under one name it is one order, however often it is sent and goes well.
        let (account, key) = (accounts.next().unwrap(), accounts.next().unwrap());
        let mut went_well = false;
        for _ in 0..random.below(5) {
            let order = format!("credit/{account}/1/{}", random.then());
            let reply = world.order_at_b(tx, &order, Some(&key)).await;
            went_well |= reply.is_ok_and(|(status, _)| status.is_success());
        }
        moved.1 += i64::from(went_well);
    }
    moved
}

async fn adds_up(mode: Mode) {
    let seed = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| {
        u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() & 0xffff_ffff).unwrap()
    });
    // Shown where the test fails.
    eprintln!("TEST_SEED={seed}");
    let world = Rc::new(World::start(mode).await);
    let started = (world.a.total().await, world.b.total().await);
    let (mut moved, mut committed) = (Moved::default(), 0);
    let mut count = |(is_committed, of): (bool, Moved)| {
        if is_committed {
            (moved, committed) = (Moved(moved.0 + of.0, moved.1 + of.1), committed + 1);
        }
    };
    let work = async {
        let mut slots: Vec<_> = (0..AT_ONCE)
            .map(|slot| run_slot(Rc::clone(&world), slot, seed))
            .map(tokio::task::spawn_local)
            .collect();
        for slot in &mut slots {
            slot.await.unwrap().into_iter().for_each(&mut count);
        }
    };
    LocalSet::new().run_until(work).await;
    let all = AT_ONCE * PER_ONE;
    assert!(committed > 0 && committed < all, "{committed} of {all} committed: both must happen");
    assert_eq!(world.a.total().await, started.0 - moved.0, "seed {seed}");
    assert_eq!(world.b.total().await, started.1 + moved.1, "seed {seed}");
}

/// One transaction after the other: whether each committed, and what that has to have moved.
async fn run_slot(world: Rc<World>, slot: usize, seed: u64) -> Vec<(bool, Moved)> {
    let mut seen = Vec::new();
    for number in 0..PER_ONE {
        let mut random = Random(seed ^ (((slot * PER_ONE + number) as u64) << 32));
        let tx = world.begin().await;
        let rolls_back = random.below(10) == 0;
        let moved = transact(&world, &tx, random, slot).await;
        if rolls_back {
            // What won is asked for below.
            let _outcome = tx.rollback().await.unwrap();
        }
        seen.push((world.ended(&tx).await.is_committed(), moved));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_tcc_whose_calls_fail_and_are_sent_again_adds_up() {
    adds_up(Mode::Tcc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s7_two_phase_commit_whose_calls_fail_and_are_sent_again_adds_up() {
    adds_up(Mode::TwoPhase).await;
}
