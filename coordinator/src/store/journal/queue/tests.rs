use unanimo_core::{Gid, Policy, Timestamp, Transaction};

use super::*;

/// Hands over transactions, and returns their names.
fn begun(queue: &Queue, count: u128) -> Vec<TxId> {
    let begin = |number| {
        let (tx_id, now) = (TxId(Uuid::from_u128(number)), Timestamp(1));
        let gid = Gid::new(&format!("order-{number}")).expect("a gid");
        let (_, effects) =
            Transaction::tombstone(tx_id, gid, String::new(), now, &Policy::default());
        let transition = effects.transition.expect("it is written");
        queue.submit(transition, Uuid::from_u128(number), Life::default(), (Version(0), None));
        tx_id
    };
    (1..=count).map(begin).collect()
}

fn taken(queue: &Queue, line: Line, rows: usize) -> Vec<Write> {
    queue.gather(line, rows, usize::MAX)
}

fn names(batch: &[Write]) -> Vec<TxId> {
    batch.iter().map(|write| write.transition.tx_id).collect()
}

fn put_back(queue: &Queue, batch: Vec<Write>, line: Line) {
    batch.into_iter().for_each(|write| queue.put_back(write, line));
}

/// Takes one that goes alone, and puts it back there.
fn tried(queue: &Queue) -> TxId {
    let alone = taken(queue, Line::Alone, 9);
    let [write] = &alone[..] else { panic!("one at a time: {alone:?}") };
    let tx_id = write.transition.tx_id;
    put_back(queue, alone, Line::Alone);
    tx_id
}

/// Has one be taken alone, and says that it took too long.
fn late(queue: &Queue) -> TxId {
    let alone = taken(queue, Line::Alone, 1);
    let tx_id = alone[0].transition.tx_id;
    queue.note_timed_out(tx_id);
    put_back(queue, alone, Line::Alone);
    tx_id
}

/// L3: what was not tried alone yet, and what was, take turns: neither keeps the other waiting.
#[test]
fn l3_those_that_go_alone_take_turns() {
    let queue = Queue::default();
    let all = begun(&queue, 4);
    let mut batch = taken(&queue, Line::Fast, 4);
    let (later, first) = (batch.split_off(1), batch);
    put_back(&queue, first, Line::Alone);
    assert_eq!(tried(&queue), all[0]);
    put_back(&queue, later, Line::Alone);
    let order: Vec<_> = (0..6).map(|_| tried(&queue)).collect();
    assert_eq!(order, [all[1], all[0], all[2], all[1], all[3], all[0]]);
    assert_eq!(taken(&queue, Line::Slow, 9).len(), 0);
}

/// L3: what took too long gives way to all others for some times as long as it took, and is tried at once where there are none.
#[test]
fn l3_what_took_too_long_gives_way() {
    let queue = Queue::default();
    let all = begun(&queue, 2);
    let mut batch = taken(&queue, Line::Fast, 2);
    let (other, slow) = (batch.split_off(1), batch);
    put_back(&queue, slow, Line::Alone);
    assert_eq!(late(&queue), all[0]);
    put_back(&queue, other, Line::Alone);
    for _ in 0..5 {
        assert_eq!(tried(&queue), all[1]);
    }
    let other = taken(&queue, Line::Alone, 1);
    // There is no other one, and it takes next to no time.
    assert_eq!(tried(&queue), all[0]);
    put_back(&queue, other, Line::Alone);
    assert_eq!(tried(&queue), all[1], "never twice in a row");
    // Longer than four times what that took.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(tried(&queue), all[0], "it is due again");
}

/// L3: once one is through that was held up alone, others go in batches again, but for those that take too long alone, and
/// those that were not tried yet.
#[test]
fn l3_what_takes_too_long_alone_stays_alone() {
    let queue = Queue::default();
    let all = begun(&queue, 4);
    let mut batch = taken(&queue, Line::Fast, 4);
    let untried = batch.split_off(3);
    put_back(&queue, vec![batch.remove(0)], Line::Alone);
    assert_eq!(late(&queue), all[0]);
    put_back(&queue, batch, Line::Alone);
    while queue.untried() > 0 {
        tried(&queue);
    }
    put_back(&queue, untried, Line::Alone);
    let freed = loop {
        let alone = taken(&queue, Line::Alone, 1);
        if alone[0].transition.tx_id == all[1] {
            break alone;
        }
        put_back(&queue, alone, Line::Alone);
    };
    assert!(queue.lock().slots[&all[1]].tries_alone > 1, "it was held up");
    queue.done(all[1], freed[0].write_id);
    assert_eq!(names(&taken(&queue, Line::Slow, 9)), all[2..3]);
    assert_eq!(names(&taken(&queue, Line::Alone, 1)), all[3..]);
    assert_eq!(tried(&queue), all[0]);
}

/// A write that is made at its first try alone tells nothing of the others.
#[test]
fn what_was_not_held_up_releases_nothing() {
    let queue = Queue::default();
    let all = begun(&queue, 2);
    let mut batch = taken(&queue, Line::Fast, 2);
    let (second, first) = (batch.split_off(1), batch);
    put_back(&queue, first, Line::Alone);
    assert_eq!(tried(&queue), all[0]);
    put_back(&queue, second, Line::Alone);
    let fresh = taken(&queue, Line::Alone, 1);
    assert_eq!(names(&fresh), all[1..]);
    queue.done(all[1], fresh[0].write_id);
    assert_eq!(taken(&queue, Line::Slow, 9).len(), 0);
    assert_eq!(tried(&queue), all[0]);
}

/// Decisions go before new transactions, in each line.
#[test]
fn decisions_go_first_in_each_line() {
    for line in [Line::Slow, Line::Alone] {
        let queue = Queue::default();
        let all = begun(&queue, 3);
        let mut batch = taken(&queue, Line::Fast, 3);
        batch[2].transition.begins = None;
        put_back(&queue, batch, line);
        assert_eq!(names(&taken(&queue, line, 1)), all[2..], "{line:?}");
    }
}

/// L3: what waits for a lane without a connection goes to the fast one, each by itself and in turn with batches, and from there
/// alone; but for what takes too long, for which all others would wait.
#[test]
fn l3_what_has_no_lane_takes_turns_in_the_fast_one() {
    let queue = Queue::default();
    let all = begun(&queue, 4);
    let mut batch = taken(&queue, Line::Fast, 4);
    let others = batch.split_off(3);
    put_back(&queue, vec![batch.remove(0)], Line::Alone);
    assert_eq!(late(&queue), all[0]);
    put_back(&queue, vec![batch.remove(0)], Line::Alone);
    put_back(&queue, batch, Line::Slow);
    put_back(&queue, others, Line::Fast);
    for line in [Line::Alone, Line::Slow] {
        assert!(queue.leave_all(line));
        assert!(!queue.leave_all(line), "all is left at once");
    }
    assert_eq!(names(&taken(&queue, Line::Fast, 9)), all[3..]);
    let lone = taken(&queue, Line::Fast, 9);
    assert_eq!(names(&lone), all[1..2]);
    assert_eq!(names(&taken(&queue, Line::Fast, 9)), all[2..3]);
    put_back(&queue, lone, Line::Slow);
    assert_eq!(taken(&queue, Line::Slow, 9).len(), 0);
    assert_eq!(tried(&queue), all[1]);
}

/// L1: what was left to the fast lane goes in batches again once the slow one has a connection.
#[test]
fn l1_what_was_left_goes_back_in_batches() {
    let queue = Queue::default();
    let all = begun(&queue, 64);
    let batch = taken(&queue, Line::Fast, 64);
    put_back(&queue, batch, Line::Slow);
    assert!(queue.leave_all(Line::Slow));
    let lone = taken(&queue, Line::Fast, 64);
    assert_eq!(names(&lone), all[..1]);
    queue.take_back();
    assert_eq!(names(&taken(&queue, Line::Slow, 64)), all[1..]);
    assert_eq!(taken(&queue, Line::Fast, 64).len(), 0);
    put_back(&queue, lone, Line::Slow);
    assert_eq!(tried(&queue), all[0]);
}

/// L1: a lane that has nothing to do gives up its connection where the fast one can have none.
#[test]
fn l1_an_idle_lane_makes_room_for_the_fast_one() {
    let queue = Queue::default();
    begun(&queue, 1);
    let makes_room = || [Line::Fast, Line::Slow, Line::Alone].map(|line| queue.makes_room(line));
    assert_eq!(makes_room(), [false; 3]);
    queue.note_cut_off(Line::Fast, Some("too many clients".to_owned()));
    assert_eq!(makes_room(), [false, true, true]);
    put_back(&queue, taken(&queue, Line::Fast, 1), Line::Slow);
    assert_eq!(makes_room(), [false, false, true]);
    let under_way = taken(&queue, Line::Slow, 1);
    assert_eq!(makes_room(), [false, false, true], "what is under way needs it, too");
    put_back(&queue, under_way, Line::Fast);
    queue.note_cut_off(Line::Fast, None);
    assert_eq!(makes_room(), [false; 3]);
}

/// Moves are taken without begins once, if there are any.
#[test]
fn moves_go_first_once() {
    let queue = Queue::default();
    let all = begun(&queue, 4);
    let mut batch = taken(&queue, Line::Fast, 4);
    batch[2].transition.begins = None;
    put_back(&queue, batch, Line::Fast);
    queue.put_moves_first();
    assert_eq!(names(&taken(&queue, Line::Fast, 9)), all[2..3]);
    queue.put_moves_first();
    assert_eq!(names(&taken(&queue, Line::Fast, 1)), all[..1], "none goes on");
    assert_eq!(names(&taken(&queue, Line::Fast, 9)), [all[1], all[3]]);
}
