use super::*;

fn admission(transactions_max: usize, bytes_max: usize) -> Arc<Admission> {
    let bounds = Bounds { transactions_max, bytes_max, share_percent: 70 };
    Arc::new(Admission::new(bounds, Quotas::default()))
}

#[test]
fn what_is_over_a_bound_is_refused_until_a_place_is_given_back() {
    let admission = admission(2, 100);
    let admit = |transactions, bytes| admission.admit(transactions, bytes, Vec::new());
    let first = admit(1, 60).expect("a place");
    let error = admit(1, 60).expect_err("too many bytes");
    assert_eq!(
        error.to_string(),
        "too much is in flight: bytes of payloads and outputs would go over 100"
    );
    let _second = admit(1, 0).expect("a place");
    let error = admit(1, 0).expect_err("too many transactions");
    assert_eq!(error.to_string(), "too much is in flight: transactions would go over 2");
    let mut forced = admission.admit_always(1, 0, Vec::new());
    assert_eq!(admission.transactions(), 3);
    forced.resize(30);
    forced.resize(20);
    assert_eq!(admission.bytes(), 80);
    drop((first, forced));
    admit(1, 100).expect("a place");
    assert_eq!((admission.transactions(), admission.bytes()), (1, 0));
}

fn give(permit: &mut Permit) {
    permit.set_aside();
    permit.hold(|_| false, |_| true);
}

fn take(permit: &mut Permit) {
    permit.take_back();
    permit.hold(|_| true, |_| false);
}

#[test]
fn l3_no_participant_takes_all_places() {
    let admission = admission(10, 1600);
    let loads = [Arc::new(Load::default()), Arc::new(Load::default())];
    let share = |of: usize, bytes: usize| {
        let participant = ParticipantName::new(["sick", "well"][of]).expect("a name");
        vec![Share {
            participant,
            load: Arc::clone(&loads[of]),
            transactions: 1,
            bytes,
            given: false,
            lasting: false,
        }]
    };
    let mut held: Vec<Permit> =
        (0..7).map(|_| admission.admit(1, 0, share(0, 0)).expect("a place")).collect();
    let error = admission.admit(1, 0, share(0, 0)).expect_err("its share is taken");
    let expected = "too much is in flight: transactions of participant sick would go over 7";
    assert_eq!(error.to_string(), expected);
    let well: Vec<_> =
        (0..3).map(|_| admission.admit(1, 0, share(1, 0)).expect("a place")).collect();
    admission.admit(1, 0, share(1, 0)).expect_err("all are taken");
    // What is set aside leaves its place to others.
    held.iter_mut().for_each(give);
    held.iter_mut().for_each(give);
    assert_eq!((admission.transactions(), admission.aside()), (3, 7));
    let more = admission.admit(1, 0, share(1, 0)).expect("a place");
    drop((held, well, more));
    assert_eq!((admission.transactions(), admission.aside()), (0, 0));
    assert_eq!((loads[0].transactions(), loads[1].transactions()), (0, 0));

    let error = admission.admit(1, 1501, share(0, 1501)).expect_err("others need bytes, too");
    let expected = "too much is in flight: bytes of payloads and outputs of participant sick would go over 1500";
    assert_eq!(error.to_string(), expected);
    let mut first = admission.admit(1, 1500, share(0, 1500)).expect("a place");
    first.absorb(admission.admit_always(0, 10, share(0, 10)));
    assert_eq!((loads[0].transactions(), loads[0].bytes()), (1, 1510));
    assert_eq!(admission.bytes(), 1500, "its bytes are counted by a resize");
    drop(first);
    assert_eq!((loads[0].transactions(), loads[0].bytes()), (0, 0));
}
/// A transaction that waits for one participant takes nothing of another one's share meanwhile, and
/// something is owed to both.
#[test]
fn l3_what_is_set_aside_takes_no_share_and_gets_it_again() {
    let admission = admission(10, 1600);
    let loads = [Arc::new(Load::default()), Arc::new(Load::default())];
    let share = |of: usize, bytes: usize| {
        let participant = ParticipantName::new(["sick", "well"][of]).expect("a name");
        let load = Arc::clone(&loads[of]);
        Share { participant, load, transactions: 1, bytes, given: false, lasting: false }
    };
    let both = || vec![share(0, 10), share(1, 10)];
    let counted = || loads.each_ref().map(|l| (l.transactions(), l.owed(), l.bytes()));
    let mut held: Vec<Permit> =
        (0..7).map(|_| admission.admit(1, 20, both()).expect("a place")).collect();
    admission.admit(1, 0, vec![share(1, 0)]).expect_err("its share is taken");
    held.iter_mut().for_each(give);
    assert_eq!(counted(), [(0, 7, 70), (0, 7, 70)], "they hold their bytes");
    assert_eq!(admission.bytes(), 140);
    let more: Vec<_> =
        (0..7).map(|_| admission.admit(1, 0, vec![share(1, 0)]).expect("a place")).collect();
    // They go on, whether there is a place or not.
    held.iter_mut().for_each(take);
    held.iter_mut().for_each(take);
    assert_eq!((admission.transactions(), admission.aside()), (14, 0));
    assert_eq!(counted(), [(7, 7, 70), (14, 14, 70)]);
    admission.admit(1, 0, vec![share(0, 0)]).expect_err("all are taken");
    drop(more);
    give(&mut held[0]);
    // One that waits for the sick one alone, which answers, takes nothing of the healthy one's.
    held[1].set_aside();
    held[1].hold(|participant| participant.as_str() == "sick", |_| false);
    assert_eq!((admission.transactions(), admission.aside()), (5, 2));
    assert_eq!(counted(), [(6, 7, 70), (5, 7, 70)]);
    drop(held);
    assert_eq!((admission.transactions(), admission.aside(), admission.bytes()), (0, 0, 0));
    assert_eq!(counted(), [(0, 0, 0), (0, 0, 0)]);
}

/// However many participants are slow at once, and however greedy, the next one has places and bytes.
#[test]
fn l3_several_slow_participants_leave_places_and_bytes_to_the_others() {
    let of_places = admission(1_000, 1 << 20);
    let of_bytes = admission(1_000_000, 1 << 20);
    let names = ["one", "two", "three", "four"];
    let loads = names.map(|_| Arc::new(Load::default()));
    let admit_to = |admission: &Arc<Admission>, of: usize, bytes: usize| {
        let participant = ParticipantName::new(names[of]).expect("a name");
        let (load, transactions) = (Arc::clone(&loads[of]), 1);
        let share = Share { participant, load, transactions, bytes, given: false, lasting: false };
        admission.admit(1, bytes, vec![share])
    };
    let all_of = |admission: &Arc<Admission>, bytes: usize| {
        let mut held = Vec::new();
        let counts = [0, 1, 2, 3].map(|of| {
            let before = held.len();
            held.extend(std::iter::from_fn(|| admit_to(admission, of, bytes).ok()));
            held.len() - before
        });
        drop(held);
        counts
    };
    assert_eq!(all_of(&of_places, 0), [700, 210, 63, 19], "L3: a share of what the others leave");
    let bytes = all_of(&of_bytes, 100);
    assert_eq!(bytes, [9830, 614, 39, 2], "L3: fifteen sixteenths of what the others leave");
    // Where one has places again, nobody is kept from them by what others held before.
    let all = |of| std::iter::from_fn(|| admit_to(&of_places, of, 0).ok()).collect::<Vec<Permit>>();
    let (first, second) = (all(0), all(1));
    drop(first);
    let third = all(2);
    assert_eq!((second.len(), third.len()), (210, 553));
}

/// However many participants are sick at once, the next one has places: those that were set aside leave a share to
/// others, and so do those that could not be.
#[test]
fn l3_several_sick_participants_leave_places_to_the_others() {
    let admission = admission(100, 1600);
    let names = ["one", "two", "three", "four"];
    let loads = names.map(|_| Arc::new(Load::default()));
    let admit = |of: usize| {
        let participant = ParticipantName::new(names[of]).expect("a name");
        let (load, transactions, bytes) = (Arc::clone(&loads[of]), 1, 0);
        let share = Share { participant, load, transactions, bytes, given: false, lasting: false };
        admission.admit(1, 0, vec![share])
    };
    // Each is well until its share is taken, and then sick.
    let (mut held, mut taken) = (Vec::new(), Vec::new());
    for of in 0..3 {
        let mut permits: Vec<Permit> = std::iter::from_fn(|| admit(of).ok()).collect();
        permits.iter_mut().for_each(give);
        while let Ok(mut more) = admit(of) {
            give(&mut more);
            permits.push(more);
        }
        taken.push(permits.len());
        held.extend(permits);
    }
    assert_eq!(
        taken,
        [71, 70, 42],
        "of 100 places and one more, of 100, and of the 59 that are left"
    );
    assert_eq!((admission.transactions(), admission.aside()), (83, 100));
    let more: Vec<Permit> = std::iter::from_fn(|| admit(3).ok()).collect();
    assert_eq!(more.len(), 12, "L3: a share of the 17 places that are left");
    drop((more, held));
    assert_eq!(admission.lasting.load(Ordering::Relaxed), 0);
    assert!(loads.iter().all(|load| load.lasting() == 0));

    // One that is sick from the start grows no further than to a share of what another one leaves.
    let mut held = Vec::new();
    let counts = [0, 1, 2].map(|of| {
        let sick = std::iter::from_fn(|| {
            let mut permit = admit(of).ok()?;
            give(&mut permit);
            Some(permit)
        });
        let before = held.len();
        held.extend(sick);
        held.len() - before
    });
    assert_eq!(counts, [71, 22, 6], "a share of what the others leave, and one more");
    assert!(admission.aside() < 100, "L3: there is room for what a healthy one leaves aside");
}
