use super::*;

fn counts(transactions: usize, bytes: usize) -> Arc<Counts> {
    let counts = Counts::new(Quotas::new(Quota { transactions, bytes }, None));
    counts.known.send_replace(true);
    counts.lock().counts = true;
    counts
}

fn open(counts: &Counts, identity: &str) -> (usize, usize) {
    let held = counts.lock().of(identity);
    (held.transactions, held.bytes)
}

fn told(refused: Result<Holding, Error>) -> String {
    refused.expect_err("it is refused").to_string()
}

#[test]
fn an_identity_has_its_quota_and_takes_none_of_anothers() {
    let counts = counts(2, 100);
    let mut first = counts.admit("web", 60).expect("the first");
    let bytes = "open transactions of identity web hold 60 bytes, and with 50 more they would hold more than the \
                 quota of 100";
    assert_eq!(told(counts.admit("web", 50)), bytes);
    let second = counts.admit("web", 0).expect("the second");
    let transactions = "2 transactions of identity web are open, and the quota is 2";
    assert_eq!(told(counts.admit("web", 0)), transactions);
    let other = counts.admit("", 100).expect("another one's is its own");
    let nameless = "open transactions of callers without an identity hold 100 bytes";
    assert!(told(counts.admit("", 1)).starts_with(nameless));
    let child = counts.admit_always("web", 30);
    assert_eq!(open(&counts, "web"), (3, 90));
    first.resize(10);
    assert_eq!((first.may_grow(60).is_ok(), first.may_grow(61).is_ok()), (true, false));
    drop((child, second));
    assert_eq!(open(&counts, "web"), (1, 10));
    drop((first, other));
    assert!(counts.lock().here.is_empty(), "those that have nothing open are forgotten");
}

#[test]
fn what_falls_asleep_counts_until_its_row_was_counted() {
    let counts = counts(1, 0);
    counts.admit("web", 5).expect("a place").sleeps();
    assert_eq!(open(&counts, "web"), (1, 5));
    assert!(counts.admit("web", 0).is_err());
    let fallen = std::mem::take(&mut counts.lock().falling);
    let row = AsleepOf { initiator: "web".to_owned(), transactions: 1, bytes: 5 };
    counts.lock().asleep = HashMap::from([of_row(row)]);
    drop(fallen);
    assert_eq!(open(&counts, "web"), (1, 5));
    counts.stop();
    assert_eq!(open(&counts, "web"), (0, 0), "nobody counts what nobody bounds");
}

#[test]
fn nothing_new_is_let_in_before_what_is_open_is_known() {
    let counts = counts(1, 0);
    counts.known.send_replace(false);
    assert!(matches!(counts.admit("web", 0), Err(Error::NotCounted(name)) if name == "web"));
    let unbounded = Counts::new(Quotas::default());
    assert!(unbounded.admit("web", 0).is_ok(), "who has no quota waits for nothing");
}
