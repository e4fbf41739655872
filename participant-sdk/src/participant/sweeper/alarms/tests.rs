use super::*;

fn doubt(number: u16) -> Doubt {
    Doubt {
        cluster_id: "c".into(),
        tx_id: Uuid::nil(),
        branch: BranchName::Number(number),
        age: Duration::ZERO,
        is_step: false,
        is_ahead: false,
    }
}

/// A row, the one later than the other.
fn row(number: u64) -> Doubt {
    let tx_id = Uuid::from_u64_pair(1, number);
    Doubt { tx_id, branch: BranchName::Id("b".into()), ..doubt(0) }
}

#[test]
fn l4_an_alarm_needs_two_sights_and_comes_again_at_a_bounded_rate() {
    let mut alarms = Alarms::default();
    let start = Instant::now();
    let mut sweep = |after: Duration| {
        alarms.begin_sweep(true);
        alarms.listed(&doubt(1));
        alarms.raise("p", &doubt(1), Why::NeverSeen, start + after);
        let alarmed = alarms.end_sweep("p", Part::Last);
        let told_at = alarms.seen.values().next().and_then(|seen| seen.told_at);
        (alarmed, told_at.map(|at| at.duration_since(start)))
    };
    let second = Duration::from_secs(1);
    assert_eq!(sweep(Duration::ZERO), (0, None));
    assert_eq!(sweep(second), (1, Some(second)));
    assert_eq!(sweep(second * 2), (1, Some(second)));
    assert_eq!(sweep(REPEAT), (1, Some(second)));
    assert_eq!(sweep(REPEAT + second), (1, Some(REPEAT + second)));
    // A sweep that could not list them all forgets none.
    for part in [Part::Failed, Part::Earlier] {
        alarms.begin_sweep(true);
        assert_eq!(alarms.end_sweep("p", part), 1);
    }
    alarms.begin_sweep(true);
    assert_eq!(alarms.end_sweep("p", Part::Last), 0);
}

#[test]
fn l4_a_step_waits_since_it_was_found_so_and_not_since_it_was_last_asked_about() {
    let mut alarms = Alarms::default();
    let (start, minute) = (Instant::now(), Duration::from_secs(60));
    let step = |age| Doubt { age, is_step: true, ..doubt(1) };
    assert_eq!(alarms.waits(&step(minute * 55), start), Duration::ZERO);
    assert_eq!(alarms.waits(&step(minute * 56), start + minute), minute);
    // A sweep that could not list them all forgets none; one that did, forgets what is gone.
    alarms.begin_sweep(true);
    alarms.end_sweep("p", Part::Failed);
    assert_eq!(alarms.waits(&step(minute * 57), start + minute * 2), minute * 2);
    alarms.clear_step(&step(minute));
    assert_eq!(alarms.waits(&step(minute), start + minute * 3), Duration::ZERO);
    alarms.begin_sweep(true);
    alarms.end_sweep("p", Part::Last);
    assert_eq!(alarms.waits(&step(minute), start + minute * 4), Duration::ZERO);
    // Longer than any pause: another process has seen it.
    assert_eq!(alarms.waits(&step(minute * 70), start + minute * 4), minute * 10);
}

#[test]
fn memory_is_bounded() {
    let mut alarms = Alarms::default();
    for number in 0..2 * REMEMBERED_MAX {
        let number = u16::try_from(number).expect("a number");
        alarms.waits(&doubt(number), Instant::now());
    }
    assert_eq!(alarms.waiting.len(), REMEMBERED_MAX);
    let beyond = 7;
    for _ in 0..SIGHTS {
        alarms.begin_sweep(true);
        for number in 0..REMEMBERED_MAX + beyond {
            let number = u16::try_from(number).expect("a number");
            alarms.listed(&doubt(number));
            alarms.raise("p", &doubt(number), Why::Purged, Instant::now());
        }
        assert_eq!(alarms.seen.len(), REMEMBERED_MAX);
        assert_eq!(count(&alarms.more_prepared), beyond as u64);
    }
    assert_eq!(alarms.end_sweep("p", Part::Last), (REMEMBERED_MAX + beyond) as u64);
}

/// However many sweeps a round takes: what has ended is forgotten at its end, and its place in memory is another
/// branch's.
#[test]
fn l4_a_round_of_several_sweeps_counts_all_of_them_and_forgets_what_has_ended() {
    const SWEEP: u64 = 400;
    let mut alarms = Alarms::default();
    let mut round = |of: std::ops::Range<u64>| {
        let mut counts = Vec::new();
        let mut numbers = of.clone();
        while !numbers.is_empty() {
            alarms.begin_sweep(numbers.start == of.start);
            for number in numbers.by_ref().take(SWEEP as usize) {
                alarms.listed(&row(number));
                alarms.raise("p", &row(number), Why::Purged, Instant::now());
            }
            let is_last = numbers.is_empty();
            let part = if is_last { Part::Last } else { Part::Earlier };
            counts.push(alarms.end_sweep("p", part));
        }
        (counts, alarms.more_rows.clone())
    };
    let names = |from: u64, to: u64| {
        let [first, last] = [from, to].map(|number| row(number).tx_id);
        let more = More { count: to - from + 1, first, last };
        Beyond::from([("in_doubt_unknown", more)])
    };
    let (_, more) = round(0..1200);
    assert_eq!(more, names(1000, 1199), "the oldest are told one by one");
    let (counts, more) = round(0..1200);
    assert_eq!((counts, more), (vec![600, 1000, 1200], names(1000, 1199)));
    // The first half has ended.
    let (counts, _) = round(500..1700);
    assert_eq!(counts.last(), Some(&(500 + 700)), "those that are gone count no longer");
    let (_, more) = round(500..1700);
    assert_eq!(more, names(1500, 1699), "their places are free");
    round(500..1700);
    let (counts, more) = round(500..1700);
    assert_eq!((counts, more), (vec![1200; 3], names(1500, 1699)), "at each of its sweeps");
}
