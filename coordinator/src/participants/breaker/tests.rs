use super::*;

const BASE: Duration = Duration::from_secs(1);

fn breaker() -> (Breaker, Instant) {
    let pauses = Pauses { base: BASE, cap: Duration::from_secs(3) };
    (Breaker::new(pauses), Instant::now())
}

fn tx(n: u128) -> TxId {
    TxId(uuid::Uuid::from_u128(n))
}

fn fault(n: u128, failure: Failure, past: Past) -> Fault<'static> {
    Fault { tx_id: tx(n), failure, past, probe: false, error: "no" }
}

fn error(n: u128) -> Fault<'static> {
    fault(n, Failure::Error, Past::Good)
}

fn unreachable(n: u128) -> Fault<'static> {
    fault(n, Failure::Unreachable, Past::Good)
}

fn silent(n: u128, since: Instant) -> Fault<'static> {
    fault(n, Failure::Silent { since }, Past::Good)
}

fn probe(past: Past, failure: Failure) -> Fault<'static> {
    Fault { probe: true, ..fault(99, failure, past) }
}

/// A breaker that five branches have opened by errors, and the past of these.
fn opened() -> (Breaker, Instant, Past) {
    let (mut breaker, now) = breaker();
    for n in 0..5 {
        breaker.failed(now, error(n));
    }
    assert!(breaker.is_open());
    (breaker, now, Past::Failing { since: now })
}

#[test]
fn failures_of_several_transactions_open_it() {
    let (mut breaker, now) = breaker();
    for n in 0..4 {
        assert!(!breaker.failed(now, silent(n, now)), "failure {n}");
        assert_eq!(breaker.pass(now, Past::Good), Pass::Free);
    }
    assert!(breaker.failed(now, silent(4, now)));
    assert_eq!(breaker.pass(now, Past::Good), Pass::Wait);
    assert!(breaker.refuses(now, 0, false));
    assert_eq!(breaker.last_error(), "no");
}

#[test]
fn one_transaction_that_fails_for_ever_opens_nothing() {
    let (mut breaker, now) = breaker();
    for _ in 0..100 {
        assert!(!breaker.failed(now, silent(1, now)));
    }
    // Nor do a few that are answered with errors.
    for n in 0..100 {
        assert!(!breaker.failed(now, error(n % 4)));
    }
    breaker.answered(now);
    // It can be told that a participant cannot be reached.
    for _ in 0..4 {
        assert!(!breaker.failed(now, unreachable(1)));
    }
    assert!(breaker.failed(now, unreachable(1)));
}

#[test]
fn an_answer_between_failures_keeps_it_closed() {
    let (mut breaker, now) = breaker();
    for n in 0..100 {
        assert!(!breaker.failed(now, unreachable(n)));
        if n % 4 == 3 {
            breaker.answered(now);
        }
    }
}

#[test]
fn one_probe_at_a_time_and_the_first_answer_closes_it() {
    let (mut breaker, now, _) = opened();
    let at = |ms| now + Duration::from_millis(ms);
    assert_eq!(breaker.pass(at(999), Past::Good), Pass::Wait);
    assert_eq!(breaker.next_probe(Past::Good), Some(at(1000)));
    assert_eq!(breaker.pass(at(1000), Past::Good), Pass::Probe);
    assert_eq!(breaker.pass(at(9000), Past::Good), Pass::Wait);
    // A probe of which nothing is heard any more does not keep it shut.
    assert_eq!(breaker.next_probe(Past::Good), Some(at(61_000)));
    // What was under way when it opened is no probe.
    breaker.failed(at(1500), silent(7, now));
    assert_eq!(breaker.pass(at(1600), Past::Good), Pass::Wait);
    breaker.failed(at(2000), probe(Past::Good, Failure::Error));
    assert_eq!(breaker.next_probe(Past::Good), Some(at(4000)), "the pause doubles");
    assert_eq!(breaker.pass(at(4000), Past::Good), Pass::Probe);
    breaker.failed(at(5000), probe(Past::Good, Failure::Error));
    assert_eq!(breaker.next_probe(Past::Good), Some(at(8000)), "up to its cap");
    breaker.returned(at(6000));
    assert_eq!(breaker.pass(at(6000), Past::Good), Pass::Probe, "it registered again");
    breaker.untold(at(6000), Past::Good);
    assert_eq!(breaker.pass(at(6999), Past::Good), Pass::Wait, "probes that tell nothing are few");
    assert_eq!(breaker.pass(at(7000), Past::Good), Pass::Probe, "the last one told nothing");
    assert_eq!(breaker.answered(at(7000)), Some(Duration::from_secs(7)));
    assert_eq!(breaker.pass(at(7000), Past::Good), Pass::Free);
    assert!(!breaker.refuses(at(7000), 0, false));
}

/// Branches that always fail do not take the turns of others.
#[test]
fn l3_branches_that_fail_are_probes_in_their_own_turn() {
    let (mut breaker, now, failing) = opened();
    let at = |ms| now + Duration::from_millis(ms);
    assert_eq!(breaker.pass(at(1000), failing), Pass::Probe);
    assert_eq!(breaker.pass(at(1001), failing), Pass::Wait, "one at a time");
    assert_eq!(breaker.pass(at(1001), Past::Good), Pass::Probe, "while that one hangs");
    breaker.failed(at(1100), probe(failing, Failure::Error));
    assert_eq!(breaker.next_probe(Past::Good), Some(at(61_001)), "another one's end");
    breaker.failed(at(1200), probe(Past::Good, Failure::Error));
    assert_eq!(breaker.next_probe(failing), Some(at(3100)));
    assert_eq!(breaker.next_probe(Past::Good), Some(at(3200)));
    assert!(breaker.is_open());
}

/// New work is let in though calls wait, where those that fail may be at fault themselves.
#[test]
fn l3_new_work_is_let_in_once_in_each_pause() {
    let (mut breaker, now, failing) = opened();
    let at = |ms| now + Duration::from_millis(ms);
    assert!(breaker.refuses(at(999), 5, false));
    assert_eq!(breaker.pass(at(1000), failing), Pass::Probe);
    assert!(!breaker.refuses(at(1000), 5, false), "whatever else is tried");
    assert!(!breaker.refuses(at(1000), 5, false), "to ask is not to be let in");
    breaker.invite(at(1000));
    assert!(breaker.refuses(at(2999), 5, false), "one is enough");
    assert!(!breaker.refuses(at(3000), 5, false), "the first one may have been lost");
    breaker.invite(at(3000));
    assert!(breaker.refuses(at(5999), 5, false));
    // Whoever cannot be reached needs no new work to find out.
    breaker.failed(at(6000), probe(failing, Failure::Unreachable));
    assert!(breaker.refuses(at(6000), 5, false));
    assert!(!breaker.refuses(at(6000), 0, false), "nothing else could find out");
    breaker.failed(at(9000), probe(failing, Failure::Error));
    assert!(!breaker.refuses(at(9000), 5, false));
}

/// Calls that wait are tried first, however short the pauses are.
#[test]
fn l3_new_work_comes_after_what_waits() {
    let pause = Duration::from_millis(5);
    let (mut breaker, now) = (Breaker::new(Pauses { base: pause, cap: pause }), Instant::now());
    let at = |ms| now + Duration::from_millis(ms);
    for n in 0..5 {
        breaker.failed(now, error(n));
    }
    assert!(breaker.refuses(at(999), 1, false));
    assert!(!breaker.refuses(at(5), 0, false), "nothing waits");
    assert!(!breaker.refuses(at(1000), 1, false));
    breaker.invite(at(1000));
    assert!(breaker.refuses(at(1999), 1, false));
    assert!(!breaker.refuses(at(2000), 1, false));
}

/// Branches that failed before the participant answered others, and fail again, do not open it again.
#[test]
fn l3_branches_that_fail_by_themselves_open_nothing() {
    let (mut breaker, now, failing) = opened();
    let at = |secs| now + Duration::from_secs(secs);
    breaker.answered(at(1));
    for n in 0..100 {
        assert!(!breaker.failed(at(2), fault(n, Failure::Error, failing)), "failure {n}");
        let hung = Failure::Silent { since: at(2) };
        assert!(!breaker.failed(at(2), fault(n, hung, failing)));
    }
    // What was sent before the participant answered others is no sign either.
    for n in 0..100 {
        assert!(!breaker.failed(at(3), silent(n, now)));
    }
    // Failures of others are the participant's, and so is that it cannot be reached.
    for n in 0..4 {
        assert!(!breaker.failed(at(4), error(n)));
    }
    assert!(breaker.failed(at(4), error(4)));
    breaker.answered(at(5));
    for _ in 0..4 {
        assert!(!breaker.failed(at(6), fault(1, Failure::Unreachable, failing)));
    }
    assert!(breaker.failed(at(6), fault(1, Failure::Unreachable, failing)));
}

/// A branch that does not fail finds out whether the participant is back: nothing new is owed for that.
#[test]
fn l3_no_new_work_is_let_in_while_a_call_waits_that_does_not_fail() {
    let (mut breaker, now, failing) = opened();
    let at = |secs| now + Duration::from_secs(secs);
    assert!(breaker.refuses(at(100), 5, true));
    breaker.failed(at(100), probe(failing, Failure::Error));
    assert!(breaker.refuses(at(200), 5, true));
    assert!(!breaker.refuses(at(200), 5, false));
    breaker.answered(at(200));
    assert!(!breaker.refuses(at(200), 5, true), "they only go little by little");
}

/// New work that tries nothing after all leaves its turn to other work.
#[test]
fn l3_a_turn_that_was_not_used_is_given_back() {
    let (mut breaker, now, _) = opened();
    let at = |secs| now + Duration::from_secs(secs);
    let invited = breaker.invite(at(1)).expect("it is open");
    assert!(breaker.refuses(at(1), 5, false));
    breaker.give_back(invited);
    assert!(!breaker.refuses(at(1), 5, false));
    let first = breaker.invite(at(1)).expect("it is open");
    breaker.invite(at(3)).expect("it is open");
    breaker.give_back(first);
    assert!(breaker.refuses(at(3), 5, false), "it is another one's turn by then");
    breaker.answered(at(4));
    assert!(breaker.invite(at(4)).is_none(), "there are no turns while it is closed");
}

/// Calls of less than their full time are silence if none is answered for a full time.
#[test]
fn calls_of_less_time_are_silence_if_they_are_all_that_there_is() {
    let (mut breaker, now) = breaker();
    let (at, full) = (|secs| now + Duration::from_secs(secs), Duration::from_secs(10));
    assert!(![0, 1, 9].iter().any(|secs| breaker.is_silence(at(*secs), full)));
    breaker.answered(at(9));
    assert!(![10, 19].iter().any(|secs| breaker.is_silence(at(*secs), full)));
    assert!(breaker.is_silence(at(20), full));
}

/// Work may take long, and a participant that is full answers the same.
#[test]
fn l3_a_busy_answer_neither_opens_nor_closes_it() {
    let (mut breaker, now) = breaker();
    for n in 0..1_000 {
        assert_eq!(breaker.busy(now, Past::Good, false), None, "{n}");
    }
    assert!(!breaker.is_open());
    // Others fail meanwhile: that is a row all the same.
    for n in 0..5 {
        breaker.busy(now, Past::Good, false);
        breaker.failed(now, error(n));
    }
    assert!(breaker.is_open());
    let mut at = now;
    for n in 0..20 {
        at = breaker.next_probe(Past::Good).expect("it is open");
        assert_eq!(breaker.pass(at, Past::Good), Pass::Probe, "{n}");
        assert_eq!(breaker.busy(at, Past::Good, true), None, "{n}");
        assert_eq!(breaker.busy(at, Past::Good, false), None, "of a call that was sent before");
        assert_eq!(breaker.pass(at, Past::Good), Pass::Wait, "{n}");
    }
    assert!(at - now < BUSY_IS_BACK, "{:?}", at - now);
    // A failure begins it anew.
    at = breaker.next_probe(Past::Good).expect("it is open");
    breaker.pass(at, Past::Good);
    breaker.failed(at, probe(Past::Good, Failure::Error));
    let failed_at = at;
    loop {
        at = breaker.next_probe(Past::Good).expect("it is open");
        assert_eq!(breaker.pass(at, Past::Good), Pass::Probe);
        if let Some(was_open) = breaker.busy(at, Past::Good, true) {
            assert_eq!(was_open, at - (now + Duration::ZERO));
            break;
        }
    }
    assert!(at - failed_at >= BUSY_IS_BACK, "{:?}", at - failed_at);
    assert!(!breaker.is_open(), "it is back, and its work takes long");
}

#[test]
fn failures_far_apart_among_busy_answers_are_no_row() {
    let (mut breaker, now) = breaker();
    for n in 0..100 {
        let at = now + ROW_MAX * n;
        breaker.busy(at, Past::Good, false);
        assert!(!breaker.failed(at, error(u128::from(n))), "{n}");
    }
}
