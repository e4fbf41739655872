use super::*;

fn counts(transactions: usize, bytes: usize) -> Arc<Counts> {
    let counts = Counts::new(Quotas::new(Quota { transactions, bytes }, None));
    counts.known.send_replace(true);
    counts.lock().counts = true;
    counts
}

fn open(counts: &Counts, identity: &str) -> (usize, usize) {
    let held = counts.lock().identities.of(identity);
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
    assert!(counts.lock().identities.here.is_empty(), "those that have nothing open are forgotten");
}

/// All identities of a namespace share its quota, and one that it refuses takes nothing of its own.
#[test]
fn a_namespace_has_its_quota_for_all_of_its_identities() {
    let quota = |transactions, bytes| Quota { transactions, bytes };
    let counts = Counts::new(Quotas::new(quota(2, 0), None).with_namespaces(quota(3, 100)));
    counts.known.send_replace(true);
    counts.lock().counts = true;
    let of = |namespace: &str| {
        let held = counts.lock().namespaces.of(namespace);
        (held.transactions, held.bytes)
    };
    let mut first = counts.admit("a/web", 60).expect("the first");
    let bytes = "open transactions of namespace a hold 60 bytes, and with 50 more they would hold more than the quota \
                 of 100";
    assert_eq!(told(counts.admit("a/batch", 50)), bytes);
    assert_eq!(open(&counts, "a/batch"), (0, 0), "nothing of it is kept");
    let others = ["a/web", "a/batch"].map(|name| counts.admit(name, 0).expect("a place"));
    let transactions = "3 transactions of namespace a are open, and the quota is 3";
    assert_eq!(told(counts.admit("a/batch", 0)), transactions);
    let own = "2 transactions of identity web are open, and the quota is 2";
    assert_eq!(told(counts.admit("a/web", 0)), own, "its own is looked at first");
    let elsewhere = ["b/web", "web"].map(|name| counts.admit(name, 100).expect("another's"));
    assert_eq!((of("a"), of("b")), ((3, 60), (1, 100)));
    first.resize(10);
    assert_eq!((first.may_grow(90).is_ok(), first.may_grow(91).is_ok()), (true, false));
    assert_eq!(counts.bytes_max("a/web"), Some((100, "open-bytes-per-namespace")));
    assert_eq!(counts.bytes_max("web"), None);
    // Those that sleep are counted by their rows, of every identity of it.
    let [second, third] = others;
    second.sleeps();
    third.sleeps();
    let fallen = std::mem::take(&mut counts.lock().falling);
    let row = |name: &str| AsleepOf { initiator: name.to_owned(), transactions: 1, bytes: 5 };
    let rows = ["a/web", "a/batch", "b/batch"].map(|name| of_row(row(name)));
    counts.lock().set_asleep(HashMap::from(rows));
    drop(fallen);
    assert_eq!((of("a"), of("b")), ((3, 20), (2, 105)));
    drop((first, elsewhere));
    assert_eq!((of("a"), of("b")), ((2, 10), (1, 5)));
    assert!(counts.lock().namespaces.here.is_empty(), "those that have nothing are forgotten");
}

#[test]
fn nothing_is_let_in_by_a_namespace_before_what_is_open_is_known() {
    let quota = Quota { transactions: 1, bytes: 0 };
    let counts = Counts::new(Quotas::default().with_namespaces(quota));
    assert!(matches!(counts.admit("a/web", 0), Err(Error::NotCounted(_))));
    assert!(counts.admit("web", 0).is_ok(), "who is in no namespace waits for nothing");
}

#[test]
fn what_falls_asleep_counts_until_its_row_was_counted() {
    let counts = counts(1, 0);
    counts.admit("web", 5).expect("a place").sleeps();
    assert_eq!(open(&counts, "web"), (1, 5));
    assert!(counts.admit("web", 0).is_err());
    let fallen = std::mem::take(&mut counts.lock().falling);
    let row = AsleepOf { initiator: "web".to_owned(), transactions: 1, bytes: 5 };
    counts.lock().set_asleep(HashMap::from([of_row(row)]));
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
