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

/// L3: what goes alone is tried by itself, and what was not tried yet comes before what was.
#[test]
fn l3_what_was_not_tried_alone_yet_is_tried_first() {
    let queue = Queue::default();
    let all = begun(&queue, 3);
    let mut batch = taken(&queue, Line::Fast, 3);
    let (later, first) = (batch.split_off(1), batch);
    put_back(&queue, first, Line::Alone);
    let first = taken(&queue, Line::Alone, 9);
    assert_eq!(names(&first), all[..1]);
    put_back(&queue, first, Line::Alone);
    put_back(&queue, later, Line::Alone);
    let mut order = Vec::new();
    for _ in 0..4 {
        let alone = taken(&queue, Line::Alone, 9);
        order.extend(names(&alone));
        put_back(&queue, alone, Line::Alone);
    }
    assert_eq!(order.len(), 4, "one at a time");
    assert!(!order[..2].contains(&all[0]), "{order:?}");
    assert_eq!(order[2], all[0]);
    assert_eq!(taken(&queue, Line::Slow, 9).len(), 0);
}

/// L3: once one is through that was held up alone, others go in batches again, but for those that take too long alone, and
/// those that were not tried yet.
#[test]
fn l3_what_takes_too_long_alone_stays_alone() {
    let queue = Queue::default();
    let all = begun(&queue, 4);
    let mut batch = taken(&queue, Line::Fast, 4);
    let not_tried = batch.split_off(3);
    for write in batch {
        queue.put_back(write, Line::Alone);
        let tried = taken(&queue, Line::Alone, 1);
        put_back(&queue, tried, Line::Alone);
    }
    put_back(&queue, not_tried, Line::Alone);
    queue.note_timed_out(all[1]);
    assert_eq!(names(&taken(&queue, Line::Alone, 1)), all[3..]);
    let [freed] = &taken(&queue, Line::Alone, 1)[..] else { panic!("one") };
    assert_eq!(freed.transition.tx_id, all[0]);
    queue.done(all[0], freed.write_id);
    assert_eq!(names(&taken(&queue, Line::Slow, 9)), all[2..3]);
    assert_eq!(names(&taken(&queue, Line::Alone, 1)), all[1..2]);
}

/// A write that is made at its first try alone tells nothing of the others.
#[test]
fn what_was_not_held_up_releases_nothing() {
    let queue = Queue::default();
    let all = begun(&queue, 2);
    let mut batch = taken(&queue, Line::Fast, 2);
    let (second, first) = (batch.split_off(1), batch);
    put_back(&queue, first, Line::Alone);
    let first = taken(&queue, Line::Alone, 1);
    put_back(&queue, first, Line::Alone);
    put_back(&queue, second, Line::Alone);
    let [fresh] = &taken(&queue, Line::Alone, 1)[..] else { panic!("one") };
    queue.done(fresh.transition.tx_id, fresh.write_id);
    assert_eq!(taken(&queue, Line::Slow, 9).len(), 0);
    assert_eq!(names(&taken(&queue, Line::Alone, 1)), all[..1]);
}
