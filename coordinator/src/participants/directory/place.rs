//! Bounds on names, on the endpoints of a participant, and on the instances behind an endpoint.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::{Namespace, ParticipantName};

use super::held::bytes_of;
use super::{Directory, Endpoint, Registered, read};

/// Most endpoints that a participant may have. Each takes less than 3 KiB of the answer of
/// ListParticipants, so that one participant always fits into a message.
pub const ENDPOINTS_MAX: usize = 256;

/// Most instances of all participants together. Each takes a row of the store, and the bounds on names, endpoints and
/// instances multiply to many more.
pub const INSTANCES_TOTAL_MAX: usize = 65_536;

/// Most bytes of all registrations in memory. As many instances as there may be have 2,048 bytes each; what one may state of
/// itself, with its features, is up to 5 KiB.
pub const REGISTRATIONS_BYTES_MAX: usize = 128 << 20;

/// Place of an endpoint that registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is one.
    Free,
    /// There is one once this endpoint has left, which is gone for the longest time.
    Instead {
        /// Its address.
        url: String,
        /// Its instances.
        instances: Vec<String>,
    },
    /// There is none: all endpoints are alive.
    Taken,
}

/// Place of a name that registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePlace {
    /// There is one.
    Free,
    /// There is one once this name is forgotten, which is gone for the longest time.
    Instead(ParticipantName),
    /// There is none: as many names as may be are alive, were so lately, or are owed something.
    Taken,
}

/// Bound on names that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamesBound {
    /// So many of all.
    All(usize),
    /// So many of one namespace.
    OfNamespace(usize),
}

impl Directory {
    /// Looks for the place of an endpoint that registers.
    #[must_use]
    pub fn place_for(&self, name: &ParticipantName, url: &str) -> Place {
        let Some(entry) = self.entry(name) else { return Place::Free };
        let endpoints = read(&entry.endpoints);
        place_among(&endpoints, url, ENDPOINTS_MAX, self.gone_after())
    }

    /// Looks for the place of a name that registers.
    #[must_use]
    pub fn place_for_name(&self, name: &ParticipantName) -> NamePlace {
        self.place_for_name_at(name, Instant::now())
    }

    fn place_for_name_at(&self, name: &ParticipantName, now: Instant) -> NamePlace {
        let entries = read(&self.entries);
        if entries.contains_key(name) {
            return NamePlace::Free;
        }
        // The coordinator itself is no participant that registers.
        let others = || entries.iter().filter(|(_, entry)| !entry.own);
        let namespace = name.namespace();
        let beside = |other: &ParticipantName| other.namespace() == namespace;
        let is_own_full = self
            .names_max_in(namespace.as_ref())
            .is_some_and(|max| others().filter(|(other, _)| beside(other)).count() >= max);
        if !is_own_full && others().count() < self.options.participants_max {
            return NamePlace::Free;
        }
        // A namespace that is full makes place by names of its own.
        let may_leave = entries.iter().filter(|(other, _)| !is_own_full || beside(other));
        let idle = may_leave.filter_map(|(name, entry)| {
            let idle = self.idle_for(entry, now)?;
            (idle > self.long_gone_after()).then_some((idle, name))
        });
        let oldest = idle.max_by_key(|(idle, _)| *idle);
        oldest.map_or(NamePlace::Taken, |(_, name)| NamePlace::Instead(name.clone()))
    }

    /// Tells whether there is a place for this name, without another one's leaving.
    #[must_use]
    pub fn has_place_for(&self, name: &ParticipantName) -> bool {
        let entries = read(&self.entries);
        entries.contains_key(name) || entries.len() < self.options.participants_max
    }

    /// Tells whether there is a place for this instance, and for what it states, among those of all participants, once
    /// whoever makes place for it has left.
    #[must_use]
    pub fn has_place_for_instance(
        &self,
        name: &ParticipantName,
        url: &str,
        registered: &Registered,
    ) -> bool {
        self.has_place_within(INSTANCES_TOTAL_MAX, REGISTRATIONS_BYTES_MAX, name, url, registered)
    }

    fn has_place_within(
        &self,
        instances_max: usize,
        bytes_max: usize,
        name: &ParticipantName,
        url: &str,
        registered: &Registered,
    ) -> bool {
        let (instances, bytes) = self.held.now();
        let needed = bytes_of(url, registered);
        let known = self.entry(name).and_then(|entry| {
            let endpoints = read(&entry.endpoints);
            let endpoint = endpoints.iter().find(|endpoint| endpoint.url == url)?;
            endpoint.bytes_of(&registered.instance)
        });
        match known {
            // It had its place with an earlier coordinator, which counted what it stated.
            Some((_, false)) => true,
            // One that states no more than before has its place, whatever others do.
            Some((has, true)) => needed <= has || bytes.saturating_sub(has) + needed <= bytes_max,
            None => {
                let fits = |(left_instances, left_bytes): (usize, usize)| {
                    instances.saturating_sub(left_instances) < instances_max
                        && bytes.saturating_sub(left_bytes) + needed <= bytes_max
                };
                fits((0, 0)) || fits(self.held_by_leaving(name, url, &registered.instance))
            }
        }
    }

    /// Counts the instances that leave if this one registers, and their bytes.
    fn held_by_leaving(&self, name: &ParticipantName, url: &str, instance: &str) -> (usize, usize) {
        let mut leaving = Vec::new();
        if let NamePlace::Instead(gone) = self.place_for_name(name)
            && let Some(gone) = self.entry(&gone)
        {
            leaving.extend(read(&gone.endpoints).iter().map(|endpoint| endpoint.held()));
        }
        if let Some(entry) = self.entry(name) {
            let endpoints = read(&entry.endpoints);
            let at = |url: &str| endpoints.iter().find(|endpoint| endpoint.url == url);
            if let Place::Instead { url, .. } =
                place_among(&endpoints, url, ENDPOINTS_MAX, self.gone_after())
            {
                leaving.extend(at(&url).map(|endpoint| endpoint.held()));
            }
            let surplus = at(url).and_then(|endpoint| {
                let (bytes, _) = endpoint.bytes_of(&endpoint.surplus(instance, Instant::now())?)?;
                Some((1, bytes))
            });
            leaving.extend(surplus);
        }
        let add = |(instances, bytes), (more, of_them)| (instances + more, bytes + of_them);
        leaving.into_iter().fold((0, 0), add)
    }

    /// Returns the most names that are kept of a namespace; `None` without a bound.
    fn names_max_in(&self, namespace: Option<&Namespace>) -> Option<usize> {
        namespace.map(|_| self.options.participants_per_namespace).filter(|max| *max > 0)
    }

    /// Returns the bound that one more name meets first.
    #[must_use]
    pub fn names_bound(&self, name: &ParticipantName) -> NamesBound {
        let namespace = name.namespace();
        let entries = read(&self.entries);
        let count = entries.keys().filter(|other| other.namespace() == namespace).count();
        match self.names_max_in(namespace.as_ref()) {
            Some(max) if count >= max => NamesBound::OfNamespace(max),
            _ => NamesBound::All(self.options.participants_max),
        }
    }

    /// Returns the instance that is to leave an endpoint before this one registers there.
    #[must_use]
    pub fn surplus(&self, name: &ParticipantName, url: &str, instance: &str) -> Option<String> {
        let entry = self.entry(name)?;
        let endpoints = read(&entry.endpoints);
        let endpoint = endpoints.iter().find(|endpoint| endpoint.url == url)?;
        endpoint.surplus(instance, Instant::now())
    }
}

fn place_among(endpoints: &[Arc<Endpoint>], url: &str, max: usize, gone_after: Duration) -> Place {
    if endpoints.len() < max || endpoints.iter().any(|endpoint| endpoint.url == url) {
        return Place::Free;
    }
    let now = Instant::now();
    let gone = endpoints.iter().filter(|endpoint| !endpoint.is_alive(now, gone_after));
    match gone.max_by_key(|endpoint| endpoint.silent_for(now)) {
        Some(endpoint) => {
            Place::Instead { url: endpoint.url.clone(), instances: endpoint.instances() }
        }
        None => Place::Taken,
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::INSTANCES_MAX;
    use super::super::tests::options;
    use super::super::{Options, Registered};
    use super::*;

    fn registered(instance: &str) -> Registered {
        Registered { instance: instance.to_owned(), ..Registered::default() }
    }

    #[tokio::test]
    async fn the_endpoint_that_is_gone_for_the_longest_time_makes_place() {
        let directory = Directory::new(options());
        let name = ParticipantName::new("p").expect("a name");
        for (url, instance) in [("http://a:1", "a"), ("http://b:1", "b"), ("http://c:1", "c")] {
            directory.seen(&name, url, registered(instance));
        }
        let entry = directory.entry(&name).expect("it registered");
        let gone_after = directory.gone_after();
        let place = |url: &str, max: usize, gone_after: Duration| {
            place_among(&read(&entry.endpoints), url, max, gone_after)
        };
        assert_eq!(place("http://d:1", 4, gone_after), Place::Free);
        assert_eq!(place("http://d:1", 3, gone_after), Place::Taken);
        assert_eq!(place("http://c:1", 3, gone_after), Place::Free, "it has its place");
        // Now all of them are gone.
        std::thread::sleep(Duration::from_millis(2));
        let (url, instances) = ("http://a:1".to_owned(), vec!["a".to_owned()]);
        assert_eq!(place("http://d:1", 3, Duration::ZERO), Place::Instead { url, instances });
    }

    /// However few each endpoint and each name has: one that is known has its place, and one that leaves makes place.
    #[tokio::test]
    async fn instances_of_all_participants_are_bounded() {
        let directory = Directory::new(options());
        let [p, q] = ["p", "q"].map(|text| ParticipantName::new(text).expect("a name"));
        let has_place = |name: &ParticipantName, url: &str, instance: &str| {
            directory.has_place_within(4, usize::MAX, name, url, &registered(instance))
        };
        for (name, url, instance) in [
            (&p, "http://a:1", "a"),
            (&p, "http://a:1", "b"),
            (&p, "http://b:1", "c"),
            (&q, "http://a:1", "d"),
        ] {
            assert!(has_place(name, url, instance), "{instance}");
            directory.seen(name, url, registered(instance));
        }
        assert!(has_place(&p, "http://a:1", "b"), "it has its place");
        for (name, url, instance) in
            [(&p, "http://a:1", "e"), (&p, "http://c:1", "b"), (&q, "http://b:1", "d")]
        {
            assert!(!has_place(name, url, instance), "{url} {instance}");
        }
        directory.leave(&p, "http://b:1", "c");
        assert!(has_place(&q, "http://b:1", "d"));
    }

    /// However few there are: one that states no more than before has its place, and one that leaves, states less, or
    /// is forgotten makes place.
    #[tokio::test]
    async fn bytes_of_all_registrations_are_bounded() {
        let directory = Directory::new(options());
        let [p, q] = ["p", "q"].map(|text| ParticipantName::new(text).expect("a name"));
        let with = |instance: &str, features: usize| {
            let features = (0..features).map(|n| format!("feature-{n:056}")).collect();
            Registered { features, ..registered(instance) }
        };
        let max = 2 * bytes_of("http://a:1", &with("a", 32)) + 100;
        let has_place = |name: &ParticipantName, instance: &str, features: usize| {
            directory.has_place_within(1000, max, name, "http://a:1", &with(instance, features))
        };
        for (name, instance) in [(&p, "a"), (&q, "b")] {
            assert!(has_place(name, instance, 32), "{instance}");
            directory.seen(name, "http://a:1", with(instance, 32));
        }
        assert!(!has_place(&q, "c", 0), "there are two of a thousand");
        assert!(has_place(&p, "a", 32) && !has_place(&p, "a", 33));
        directory.seen(&p, "http://a:1", with("a", 0));
        assert!(has_place(&q, "c", 0) && has_place(&p, "a", 32));
        directory.forget(&q);
        assert!(has_place(&p, "c", 32));
        directory.leave(&p, "http://a:1", "a");
        assert_eq!(directory.held.now(), (0, 0));
    }

    /// Instances that are known from the store have their place: an earlier coordinator counted what they stated.
    #[tokio::test]
    async fn an_instance_that_an_earlier_coordinator_saw_has_its_place() {
        let directory = Directory::new(options());
        let p = ParticipantName::new("p").expect("a name");
        for instance in ["a", "b"] {
            let silent = Duration::ZERO;
            directory.add_stored(&p, "http://a:1", instance.to_owned(), silent, silent);
        }
        let (instances, bytes) = directory.held.now();
        let states = |instance: &str, sdk: &str| {
            let registered = Registered { sdk: sdk.to_owned(), ..registered(instance) };
            directory.has_place_within(instances, bytes, &p, "http://a:1", &registered)
        };
        assert!(states("a", "rust 1"), "it is known");
        assert!(!states("c", ""), "there are as many as may be");
        directory.seen(&p, "http://a:1", registered("a"));
        assert!(states("a", "") && !states("a", "rust 1"), "it has said what it is");
        assert!(states("b", "rust 1"));
    }

    /// A namespace has so many names, makes place by its own, and leaves the others theirs.
    #[tokio::test]
    async fn l5_a_namespace_has_so_many_names() {
        let bounds = Options { participants_per_namespace: 1, participants_max: 3, ..options() };
        let directory = Directory::new(bounds);
        let name = |text: &str| ParticipantName::full(text).expect("a name");
        let place = |text: &str, now| directory.place_for_name_at(&name(text), now);
        directory.seen(&name("p"), "http://a:1", registered("1"));
        directory.seen(&name("a/p"), "http://a:2", registered("1"));
        let now = Instant::now();
        assert_eq!(place("a/q", now), NamePlace::Taken);
        assert_eq!(directory.names_bound(&name("a/q")), NamesBound::OfNamespace(1));
        assert_eq!((place("a/p", now), place("b/p", now)), (NamePlace::Free, NamePlace::Free));
        assert_eq!(place("q", now), NamePlace::Free, "who has no namespace has no such bound");
        // The longest silent of all is another one's.
        let later = now + 2 * directory.long_gone_after();
        assert_eq!(place("a/q", later), NamePlace::Instead(name("a/p")));
        directory.seen(&name("b/p"), "http://a:3", registered("1"));
        assert_eq!(place("c/p", now), NamePlace::Taken, "there are as many as may be of all");
        assert_eq!(directory.names_bound(&name("c/p")), NamesBound::All(3));
    }

    /// Bytes of those that leave for it are taken off before anybody leaves: one that finds no room all the same drives nobody away.
    #[tokio::test]
    async fn those_that_make_place_are_taken_off_first() {
        let directory = Directory::new(Options { participants_max: 1, ..options() });
        let [p, q] = ["p", "q"].map(|text| ParticipantName::new(text).expect("a name"));
        let full = "http://a:1";
        for n in 0..INSTANCES_MAX {
            directory.seen(&p, full, registered(&format!("instance-{n:02}")));
        }
        let (instances, bytes) = directory.held.now();
        let has_place = |name: &ParticipantName, url: &str, sdk: &str| {
            let come = Registered { sdk: sdk.to_owned(), ..registered("instance-64") };
            directory.has_place_within(instances, bytes, name, url, &come)
        };
        assert!(has_place(&p, full, ""), "the longest silent one leaves");
        assert!(!has_place(&p, full, "rust 1"), "it states more than that one");
        assert!(!has_place(&p, "http://b:1", ""), "nobody leaves for it");
        assert!(!has_place(&q, full, ""), "nobody leaves for it");
        assert_eq!(directory.held.now(), (instances, bytes));
    }

    #[tokio::test]
    async fn names_are_bounded_and_one_that_is_long_gone_makes_place() {
        let interval = Duration::from_secs(1);
        let directory = Directory::new(Options { keep_alive_interval: interval, ..options() });
        let start = Instant::now();
        let name = |text: &str| ParticipantName::new(text).expect("a name");
        let seen = |who: &str, at: Instant| {
            directory.seen_at(&name(who), "http://a:1", registered(who), at);
        };
        for (who, at) in [("a", start), ("b", start + interval), ("c", start + interval * 2)] {
            assert_eq!(directory.place_for_name_at(&name(who), at), NamePlace::Free);
            seen(who, at);
        }
        let place = |who: &str, at: Instant| directory.place_for_name_at(&name(who), at);
        assert_eq!(place("d", start + interval * 3), NamePlace::Taken);
        assert_eq!(place("a", start + interval * 3), NamePlace::Free, "it has its place");
        let later = start + interval * 4 + directory.long_gone_after();
        let load = directory.load_of(&name("a"));
        load.add(1, 0);
        load.set_aside(1);
        assert_eq!(place("d", later), NamePlace::Instead(name("b")));
        seen("b", later);
        seen("c", later);
        assert_eq!(place("d", later), NamePlace::Taken, "something is owed to a");
    }
}
