use std::collections::BTreeSet;

use super::*;

const COUNT: u128 = 12_000;

/// Identifier of the nth transaction: there are seven hundred in each millisecond.
fn nth(n: u128) -> Uuid {
    Uuid::from_u128((n / 700) << RANDOM_BITS | (n % 700) << 8)
}

fn is_own(n: u128) -> bool {
    n.is_multiple_of(2_000) || n == 7_800
}

/// Reads the page that begins here.
fn page(before: Option<Uuid>) -> (Vec<Uuid>, Option<Uuid>) {
    let (before, initiator) = (before.map(TxId), Some("web".to_owned()));
    let filter = Filter { before, initiator, confined: true, limit: 4, ..Filter::default() };
    let now = Instant::now();
    let mut search = Search::new(&filter, now);
    while let Some(range) = search.next(now) {
        let older = (0..COUNT).rev().filter(|n| nth(*n) < range.before);
        let chunk: Vec<_> = older.take(usize::try_from(CHUNK_MAX).expect("few")).collect();
        let sized: Vec<_> = chunk.iter().map(|n| (nth(*n), 100)).collect();
        let ids = search.take(&sized);
        let read = chunk.into_iter().take(ids.len()).map(|n| {
            let mut read = Read::without_rows(nth(n));
            read.content.row.initiator = if is_own(n) { "web" } else { "eve" }.to_owned();
            read
        });
        search.add(&ids, read.collect());
    }
    let Page { found, next } = search.finish();
    (found.iter().map(|found| tx_id(found).0).collect(), next.map(|TxId(next)| next))
}

#[test]
fn a_confined_list_loses_and_repeats_nothing_and_names_no_other() {
    let others: BTreeSet<_> = (0..COUNT).filter(|n| !is_own(*n)).map(nth).collect();
    let own: Vec<_> = (0..COUNT).rev().filter(|n| is_own(*n)).map(nth).collect();
    let (mut all, mut before, mut cut) = (Vec::new(), None, 0);
    loop {
        let (found, next) = page(before);
        all.extend(found);
        let Some(next) = next else { break };
        assert!(!others.contains(&next), "it names one of others: {next}");
        assert!(before.is_none_or(|before| next < before), "it does not go on");
        (before, cut) = (Some(next), cut + 1);
    }
    assert_eq!((all, cut), (own, 3));
}

#[test]
fn a_confined_list_tells_nothing_of_the_identifier_where_it_begins() {
    // Were the next page counted from there, it would begin in another millisecond.
    assert_eq!(page(Some(nth(11_095))), page(Some(nth(11_096))));
    let (found, _) = page(Some(nth(8_000)));
    assert_eq!(found.first(), Some(&nth(7_800)), "older than what was shown last");
}

/// Looks at what is there until the page ends, where each look takes so long. Returns the number of looks, and where
/// the next page begins.
fn looks(filter: &Filter, took: Duration) -> (u32, Option<Uuid>) {
    let (mut now, mut looks) = (Instant::now(), 0);
    let mut search = Search::new(filter, now);
    while let Some(range) = search.next(now) {
        let older = (0..COUNT).rev().filter(|n| nth(*n) < range.before);
        let sized = older.take(usize::try_from(CHUNK_MAX).expect("few")).map(|n| (nth(n), 100));
        let ids = search.take(&sized.collect::<Vec<_>>());
        search.add(&ids, ids.iter().map(|id| Read::without_rows(*id)).collect());
        (now, looks) = (now + took, looks + 1);
    }
    (looks, search.finish().next.map(|TxId(next)| next))
}

#[test]
fn a_page_ends_in_time_and_the_next_one_goes_on() {
    let none =
        |before| Filter { gid_prefix: "none".to_owned(), limit: 50, before, ..Filter::default() };
    let of = |millis| looks(&none(None), Duration::from_millis(millis));
    assert_eq!(of(0).0, 16, "as many as a page looks at");
    assert_eq!(of(30), (4, Some(nth(COUNT - 4 * 256))));
    assert_eq!(of(100), (1, Some(nth(COUNT - 256))));
    // However slow it is, each page looks at some, and the last one is the end.
    let (mut before, mut pages) = (None, 0);
    loop {
        let (looks, next) = looks(&none(before), Duration::from_secs(9));
        (before, pages) = (next.map(TxId), pages + 1);
        assert_eq!(looks, 1);
        if before.is_none() {
            break;
        }
    }
    assert_eq!(pages, COUNT.div_ceil(256));
    // One that all match is as long as was asked for.
    let all = Filter { limit: 500, ..Filter::default() };
    assert_eq!(looks(&all, Duration::from_secs(9)), (2, Some(nth(COUNT - 500))));
}

#[test]
fn those_that_may_be_wanted_are_read_and_no_others() {
    let (chosen, nobody) = (nth(7), nth(8));
    let begin = |id: Uuid, change: &dyn Fn(&mut Read)| {
        let mut read = Read::begun(id);
        read.content.row.mode = "tcc".to_owned();
        read.content.row.drive = "declarative".to_owned();
        read.content.row.initiator = "web".to_owned();
        read.content.row.gid = "order-1".to_owned();
        read.content.row.metadata = r#"{"region":"eu"}"#.to_owned();
        change(&mut read);
        Begin { read, phase: Some(PhaseName::Committed) }
    };
    let is_chosen = |filter: &Filter, change: &dyn Fn(&mut Read)| {
        let search = Search::new(filter, Instant::now());
        assert!(search.chooses_early(), "{filter:?}");
        // What nothing was read of may be wanted.
        let found = search.choose(vec![chosen, nobody], &[begin(chosen, change)]);
        assert_eq!(found.last(), Some(&nobody));
        found.len() == 2
    };
    let participant = Some(unanimo_core::ParticipantName::new("p").expect("a name"));
    let region = |region: &str| [("region".to_owned(), region.to_owned())].into();
    let all = Filter::default;
    for (filter, expected) in [
        (Filter { phases: vec![PhaseName::Aborted, PhaseName::Committed], ..all() }, true),
        (Filter { phases: vec![PhaseName::Aborted], ..all() }, false),
        (Filter { modes: vec![unanimo_core::Mode::Tcc], ..all() }, true),
        (Filter { modes: vec![unanimo_core::Mode::Saga], ..all() }, false),
        (Filter { metadata: region("eu"), ..all() }, true),
        (Filter { metadata: region("us"), ..all() }, false),
        (Filter { gid_prefix: "order-".to_owned(), ..all() }, true),
        (Filter { gid_prefix: "order-2".to_owned(), ..all() }, false),
        (Filter { initiator: Some("web".to_owned()), ..all() }, true),
        (Filter { initiator: Some("eve".to_owned()), ..all() }, false),
        (Filter { participant: participant.clone(), ..all() }, false),
    ] {
        assert_eq!(is_chosen(&filter, &|_| {}), expected, "{filter:?}");
    }
    // Branches may come later, and what cannot be read is for whoever reads all of it.
    let filter = Filter { participant, ..all() };
    assert!(is_chosen(&filter, &|read| read.content.row.drive = "interactive".to_owned()));
    assert!(is_chosen(&filter, &|read| *read = Read::without_rows(chosen)));
    // Nothing is chosen early where all are wanted, and among those that need a person.
    for filter in [all(), Filter { attention: true, gid_prefix: "x".to_owned(), ..all() }] {
        assert!(!Search::new(&filter, Instant::now()).chooses_early());
    }
}
