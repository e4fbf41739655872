//! Denied calls that are to be entered: once a minute for each caller and act, with their number, and with some of the
//! addresses that they came from and of the transactions that they named. A caller is an identity, or, of those that nobody
//! knows, a network: whoever comes from another one is not hidden behind it.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Entry, Kind};
use crate::identity::network_of;

/// Pause between two entries about one caller and act.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

/// Pause after entries that could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Most pairs of an identity and an act that are told apart.
const PAIRS_MAX: usize = 1024;

/// Most pairs of a network and an act that are told apart. They take no place of an identity's, and bound what those whom
/// nobody knows have written.
const NETWORKS_MAX: usize = 256;

/// Caller that stands for all others: of identities with every act, of networks with each.
const OTHERS: &str = "(others)";

/// Most addresses, and most transactions, that an entry names.
const NAMED_MAX: usize = 5;

/// Most of either that are counted apart.
const COUNTED_MAX: usize = 100;

/// Several different texts, of which some are kept.
#[derive(Clone, Debug, Default)]
struct Few {
    first: Vec<String>,
    /// Hashes of all, up to a number.
    seen: HashSet<u64>,
}

impl Few {
    fn add(&mut self, text: &str) {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let is_new = self.seen.len() < COUNTED_MAX && self.seen.insert(hasher.finish());
        if is_new && self.first.len() < NAMED_MAX {
            self.first.push(text.to_owned());
        }
    }

    fn and(mut self, later: Self) -> Self {
        later.first.iter().for_each(|text| self.add(text));
        let room = COUNTED_MAX - self.seen.len();
        self.seen.extend(later.seen.into_iter().take(room));
        self
    }

    /// Names them, where there are several.
    fn told(&self, what: &str) -> String {
        let (count, named) = (self.seen.len(), self.first.join(", "));
        match count {
            0 | 1 => String::new(),
            COUNTED_MAX.. => format!("; {what}: {count} or more, of which the first are {named}"),
            _ if count > self.first.len() => {
                format!("; {what}: {count}, of which the first are {named}")
            }
            _ => format!("; {what}: {named}"),
        }
    }
}

/// Calls that are not entered yet.
#[derive(Clone, Debug)]
struct Calls {
    first: Entry,
    count: u64,
    addresses: Few,
    transactions: Few,
}

impl Calls {
    fn new(first: Entry) -> Self {
        let count = first.count;
        Self { first, count, addresses: Few::default(), transactions: Few::default() }
    }

    fn add(&mut self, entry: &Entry) {
        self.count += 1;
        let address = entry.address.parse::<SocketAddr>();
        let address = address.map_or(entry.address.clone(), |address| address.ip().to_string());
        let named = if entry.tx_id.is_empty() { &entry.gid } else { &entry.tx_id };
        for (few, text) in [(&mut self.addresses, &address), (&mut self.transactions, named)] {
            if !text.is_empty() {
                few.add(text);
            }
        }
    }

    /// Adds calls that came later.
    fn and(self, later: Self) -> Self {
        Self {
            first: self.first,
            count: self.count + later.count,
            addresses: self.addresses.and(later.addresses),
            transactions: self.transactions.and(later.transactions),
        }
    }

    fn entry(&self) -> Entry {
        let (addresses, transactions) =
            (self.addresses.told("addresses"), self.transactions.told("transactions"));
        let reason = format!("{}{addresses}{transactions}", self.first.reason);
        Entry { count: self.count, reason, ..self.first.clone() }
    }
}

#[derive(Debug)]
struct Denied {
    calls: Option<Calls>,
    /// Those of the last entry, which may not be written.
    entered: Option<Calls>,
    due: Instant,
}

/// Caller and act.
type Pair = (String, String);

/// Denied calls, by caller and act.
#[derive(Debug, Default)]
pub(super) struct Denials {
    pairs: HashMap<Pair, Denied>,
    /// Those of them that are a network's.
    networks: usize,
}

/// Returns the caller and the act of an entry; the caller of one whom nobody knows is its network. No identity has such a
/// name.
fn pair_of(entry: &Entry) -> Pair {
    let caller = match entry.identity.as_str() {
        "" => {
            let address = entry.address.parse::<SocketAddr>();
            format!(" {}", address.map_or(String::new(), |from| network_of(from.ip()).to_string()))
        }
        identity => identity.to_owned(),
    };
    (caller, entry.act.clone())
}

fn is_network(pair: &Pair) -> bool {
    pair.0.starts_with(' ')
}

impl Denials {
    /// Counts a call, and tells whether an entry is due for it.
    pub(super) fn note(&mut self, entry: Entry, now: Instant) -> bool {
        let mut entry = Entry { kind: Kind::Denied, count: 0, ..entry };
        let mut pair = pair_of(&entry);
        if !self.pairs.contains_key(&pair) {
            let (of_network, identities) =
                (is_network(&pair), self.pairs.len().saturating_sub(self.networks));
            let act = match of_network {
                true if self.networks >= NETWORKS_MAX => Some(entry.act.clone()),
                false if identities >= PAIRS_MAX => Some(String::new()),
                _ => None,
            };
            if let Some(act) = act {
                entry = Entry { identity: OTHERS.to_owned(), act, ..entry };
                pair = pair_of(&entry);
            }
        }
        let denied = self.of(pair, now);
        denied.calls.get_or_insert_with(|| Calls::new(entry.clone())).add(&entry);
        denied.due <= now
    }

    /// Returns what is known of a pair; of a new one nothing, which is due then.
    fn of(&mut self, pair: Pair, due: Instant) -> &mut Denied {
        if !self.pairs.contains_key(&pair) {
            self.networks += usize::from(is_network(&pair));
        }
        self.pairs.entry(pair).or_insert(Denied { calls: None, entered: None, due })
    }

    /// Takes the entries that are due, and forgets those of whom nothing came for an interval.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Entry> {
        self.take(|denied| denied.due <= now, now)
    }

    /// Takes all that were counted.
    pub(super) fn all(&mut self, now: Instant) -> Vec<Entry> {
        self.take(|_| true, now)
    }

    fn take(&mut self, is_due: impl Fn(&Denied) -> bool, now: Instant) -> Vec<Entry> {
        self.pairs.retain(|_, denied| denied.calls.is_some() || denied.due > now);
        self.networks = self.pairs.keys().filter(|pair| is_network(pair)).count();
        let due = self.pairs.values_mut().filter(|denied| is_due(denied));
        due.filter_map(|denied| {
            let calls = denied.calls.take()?;
            denied.due = now + INTERVAL;
            let entry = calls.entry();
            denied.entered = Some(calls);
            Some(entry)
        })
        .collect()
    }

    /// Takes entries back that could not be written.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>, now: Instant) {
        for entry in entries {
            let due = now + RETRY;
            let denied = self.of(pair_of(&entry), due);
            let back = denied.entered.take().unwrap_or_else(|| Calls::new(entry));
            denied.due = due;
            denied.calls = Some(match denied.calls.take() {
                Some(later) => back.and(later),
                None => back,
            });
        }
    }

    /// Tells whether nothing is counted or remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(identity: &str, act: &str, reason: &str) -> Entry {
        Entry {
            identity: identity.to_owned(),
            act: act.to_owned(),
            reason: reason.to_owned(),
            ..Entry::new(Kind::Denied)
        }
    }

    fn told(entries: Vec<Entry>) -> Vec<(String, String, u64)> {
        let mut told: Vec<_> =
            entries.into_iter().map(|entry| (entry.act, entry.reason, entry.count)).collect();
        told.sort();
        told
    }

    #[test]
    fn an_identity_and_act_have_an_entry_a_minute_and_no_call_is_lost() {
        let (mut denials, start) = (Denials::default(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let one = |act: &str, reason: &str, count| (act.to_owned(), reason.to_owned(), count);
        assert!(denials.note(by("a", "x", "1"), at(0)), "the first one is due at once");
        assert_eq!(told(denials.due(at(0))), [one("x", "1", 1)]);
        for second in 1..60 {
            assert!(!denials.note(by("a", "x", &second.to_string()), at(second)));
            assert_eq!(told(denials.due(at(second))), []);
        }
        denials.note(by("a", "y", "another act"), at(59));
        assert_eq!(told(denials.due(at(59))), [one("y", "another act", 1)]);
        assert_eq!(told(denials.due(at(60))), [one("x", "1", 59)], "the rest, without a new call");
        assert_eq!(told(denials.due(at(119))), []);
        denials.note(by("a", "y", "again"), at(120));
        let due = denials.due(at(120));
        assert_eq!(told(due.clone()), [one("y", "again", 1)]);
        denials.note(by("a", "y", "more"), at(120));
        denials.put_back(due, at(120));
        assert_eq!(told(denials.due(at(120))), []);
        assert_eq!(told(denials.due(at(121))), [one("y", "again", 2)], "nothing is lost");
        assert_eq!(told(denials.due(at(300))), []);
        assert!(denials.is_empty(), "what is over is forgotten");
        denials.note(by("a", "x", "5"), at(400));
        denials.due(at(400));
        denials.note(by("a", "x", "6"), at(401));
        assert_eq!(told(denials.all(at(401))), [one("x", "6", 1)], "at the end");
    }

    #[test]
    fn many_identities_are_one() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        for number in 0..5_000 {
            denials.note(by(&number.to_string(), "x", "r"), now);
        }
        let due = denials.due(now);
        assert_eq!(due.len(), PAIRS_MAX + 1);
        let others = due.iter().find(|entry| entry.identity == OTHERS).expect("the others");
        assert_eq!(others.count, 5_000 - PAIRS_MAX as u64);
    }

    fn stranger(address: &str, act: &str) -> Entry {
        Entry { address: address.to_owned(), ..by("", act, "the token is not known") }
    }

    /// One who is not known does not hide another one who is not, from another network.
    #[test]
    fn a_stranger_has_an_entry_for_each_network() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        assert!(denials.note(stranger("192.0.2.1:1", "x"), now));
        assert_eq!(denials.due(now).len(), 1);
        assert!(!denials.note(stranger("192.0.2.1:2", "x"), now), "the same one");
        assert!(denials.note(stranger("198.51.100.7:1", "x"), now), "another one");
        let due = denials.due(now);
        assert_eq!(due.len(), 1);
        assert_eq!((&*due[0].address, due[0].count), ("198.51.100.7:1", 1));
        for host in 1..=4 {
            denials.note(stranger(&format!("[2001:db8::{host}]:1"), "x"), now);
        }
        let due = denials.due(now);
        assert_eq!((due.len(), due[0].count), (1, 4), "one network");
        let addresses = "addresses: 2001:db8::1, 2001:db8::2, 2001:db8::3, 2001:db8::4";
        assert_eq!(due[0].reason, format!("the token is not known; {addresses}"));
    }

    /// However many networks they come from, they take no place of an identity's, and a bounded one in the audit.
    #[test]
    fn many_networks_are_one_for_each_act() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        for (number, act) in (0..5_000).flat_map(|number| [(number, "x"), (number, "y")]) {
            let address = format!("10.0.{}.{}:1", number / 250, number % 250);
            denials.note(stranger(&address, act), now);
        }
        denials.note(by("ann", "x", "r"), now);
        let due = denials.due(now);
        assert_eq!(due.len(), NETWORKS_MAX + 2 + 1);
        let counts: u64 = due.iter().map(|entry| entry.count).sum();
        assert_eq!(counts, 10_001, "none is lost");
        for act in ["x", "y"] {
            let mut others = due.iter().filter(|entry| entry.identity == OTHERS);
            let others = others.find(|entry| entry.act == act).expect("the others");
            let some = "addresses: 100 or more, of which the first are 10.0.0.128, 10.0.0.129";
            assert!(others.reason.contains(some), "{others:?}");
        }
        assert!(due.iter().any(|entry| entry.identity == "ann" && entry.act == "x"));
        assert!(denials.due(now + INTERVAL).is_empty() && denials.is_empty());
        assert_eq!(denials.networks, 0);
    }

    /// The first transaction that is named does not hide the others; nor does an entry that could not be written.
    #[test]
    fn transactions_that_were_named_are_told() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        let named =
            |tx_id: &str| Entry { tx_id: tx_id.to_owned(), ..by("a", "x", "of another one") };
        denials.note(named("t0"), now);
        denials.due(now);
        for number in [1, 2, 2, 3] {
            denials.note(named(&format!("t{number}")), now);
        }
        let due = denials.due(now + INTERVAL);
        assert_eq!((due.len(), due[0].count, &*due[0].tx_id), (1, 4, "t1"));
        assert_eq!(due[0].reason, "of another one; transactions: t1, t2, t3");
        for number in 3..9 {
            denials.note(named(&format!("t{number}")), now + INTERVAL);
        }
        denials.put_back(due, now + INTERVAL);
        let due = denials.due(now + INTERVAL + RETRY);
        assert_eq!((due.len(), due[0].count, &*due[0].tx_id), (1, 10, "t1"));
        let all = "of another one; transactions: 8, of which the first are t1, t2, t3, t4, t5";
        assert_eq!(due[0].reason, all);
    }
}
