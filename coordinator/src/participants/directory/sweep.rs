//! Leaving the directory, of whatever is long gone: instances, names, and connections that nobody uses.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::ParticipantName;

use super::connections::IDLE_MAX;
use super::{Directory, Entry, read};

/// Keep-alive intervals without a registration after which an instance is forgotten, ten minutes by
/// default: its address may have been given to somebody else by then.
const INTERVALS_UNTIL_LONG_GONE: u32 = 120;

/// Keep-alive intervals after which the name of a participant without endpoints is forgotten, seven days
/// by default.
const INTERVALS_UNTIL_FORGOTTEN: u32 = 7 * 24 * 60 * 60 / 5;

/// Entry that is to be forgotten, in the store first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// An instance at an endpoint.
    Instance {
        /// The participant.
        name: ParticipantName,
        /// The endpoint's address.
        url: String,
        /// The instance.
        instance: String,
    },
    /// A name.
    Name(ParticipantName),
}

impl Directory {
    pub(super) fn long_gone_after(&self) -> Duration {
        self.options.keep_alive_interval * INTERVALS_UNTIL_LONG_GONE
    }

    /// Returns the time for which an outage of the coordinator pardons the silence of instances: after a
    /// longer one their addresses may be somebody else's.
    #[must_use]
    pub fn pardon_max(&self) -> Duration {
        self.long_gone_after()
    }

    /// Returns the time for which nothing was heard of a participant to whom nothing is owed; `None` if it
    /// stays whatever happens.
    pub(super) fn idle_for(&self, entry: &Entry, now: Instant) -> Option<Duration> {
        let endpoints = read(&entry.endpoints);
        let stays = entry.local
            || entry.load().owed() > 0
            || endpoints.iter().any(|e| e.is_configured() || e.is_alive(now, self.gone_after()));
        let touched = *entry.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let unheard = endpoints.iter().map(|endpoint| endpoint.silent_for(now)).min();
        (!stays).then(|| unheard.unwrap_or(now - touched))
    }

    fn forgotten_after(&self) -> Duration {
        self.options.keep_alive_interval * INTERVALS_UNTIL_FORGOTTEN
    }

    /// Tells whether what was long gone a moment ago still is. Whoever asks has the name's turn.
    #[must_use]
    pub fn is_stale(&self, stale: &Stale) -> bool {
        let now = Instant::now();
        match stale {
            Stale::Instance { name, url, instance } => self.entry(name).is_some_and(|entry| {
                let endpoints = read(&entry.endpoints);
                let endpoint = endpoints.iter().find(|endpoint| endpoint.url == *url);
                endpoint.is_some_and(|endpoint| {
                    endpoint.silent_instances(now, self.long_gone_after()).contains(instance)
                })
            }),
            Stale::Name(name) => match self.entry(name) {
                Some(entry) => {
                    self.idle_for(&entry, now).is_some_and(|idle| idle > self.forgotten_after())
                }
                None => read(&self.unplaced).contains(name) && !self.loads.is_owed(name),
            },
        }
    }

    /// Returns what is long gone.
    #[must_use]
    pub fn stale(&self) -> Vec<Stale> {
        self.stale_at(Instant::now())
    }

    fn stale_at(&self, now: Instant) -> Vec<Stale> {
        let (long_gone, forgotten) = (self.long_gone_after(), self.forgotten_after());
        self.loads.sweep();
        self.databases.sweep(|name| read(&self.entries).contains_key(name));
        let unplaced = read(&self.unplaced);
        let unneeded = unplaced.iter().filter(|name| !self.loads.is_owed(name));
        let mut stale: Vec<_> = unneeded.cloned().map(Stale::Name).collect();
        drop(unplaced);
        for (name, entry) in read(&self.entries).iter() {
            if self.idle_for(entry, now).is_some_and(|idle| idle > forgotten) {
                stale.push(Stale::Name(name.clone()));
                continue;
            }
            for endpoint in read(&entry.endpoints).iter() {
                let instances = endpoint.silent_instances(now, long_gone).into_iter();
                let (name, url) = (name.clone(), endpoint.url.clone());
                stale.extend(instances.map(|instance| Stale::Instance {
                    name: name.clone(),
                    url: url.clone(),
                    instance,
                }));
            }
        }
        stale
    }

    /// Forgets a name.
    pub fn forget(&self, name: &ParticipantName) {
        self.databases.forget(name);
        self.unplaced.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Notes a stored name for which there is no place.
    pub fn add_unplaced(&self, name: ParticipantName) {
        self.unplaced.write().unwrap_or_else(PoisonError::into_inner).insert(name);
    }

    /// Tells how many names found no place.
    pub fn warn_of_unplaced(&self) {
        let count = read(&self.unplaced).len();
        if count > 0 {
            tracing::warn!(
                count,
                max = self.options.participants_max,
                "more participants are stored than participants-max; the longest silent are forgotten"
            );
        }
    }

    /// Closes connections that are of no use: nobody calls there, or no call fails there any more, or the
    /// endpoint is gone.
    pub fn close_unused(&self) {
        self.close_failing(IDLE_MAX);
        self.close_idle(IDLE_MAX);
    }

    pub(super) fn close_failing(&self, idle_max: Duration) {
        let now = Instant::now();
        for entry in read(&self.entries).values() {
            read(&entry.endpoints).iter().for_each(|e| e.close_failing(now, idle_max));
        }
    }

    pub(super) fn close_idle(&self, idle_max: Duration) {
        let (now, gone_after) = (Instant::now(), self.gone_after());
        for entry in read(&self.entries).values() {
            let endpoints = read(&entry.endpoints);
            endpoints.iter().for_each(|e| e.close_idle(now, gone_after, idle_max));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::options;
    use super::super::{Options, Registered};
    use super::*;

    #[tokio::test]
    async fn what_is_long_gone_is_stale() {
        let interval = Duration::from_secs(1);
        let directory = Directory::new(Options { keep_alive_interval: interval, ..options() });
        let bank = ParticipantName::new("bank").expect("a name");
        let url = "http://a:1".to_owned();
        let registered =
            |instance: &str| Registered { instance: instance.to_owned(), ..Registered::default() };
        let start = Instant::now();
        directory.seen_at(&bank, &url, registered("old"), start);
        directory.add_configured(&ParticipantName::new("shop").expect("a name"), "http://s:1");
        let later = start + Duration::from_secs(121);
        directory.seen_at(&bank, &url, registered("new"), later);
        let old = Stale::Instance { name: bank.clone(), url: url.clone(), instance: "old".into() };
        assert_eq!(directory.stale_at(later), [old]);
        directory.leave(&bank, &url, "old");
        assert!(directory.stale_at(later).is_empty());
        directory.leave(&bank, &url, "new");
        let last = later + interval * INTERVALS_UNTIL_FORGOTTEN;
        assert!(directory.stale_at(last).is_empty(), "not before its time");
        let stale = directory.stale_at(last + interval);
        assert_eq!(stale, [Stale::Name(bank.clone())]);
        directory.forget(&bank);
        assert!(directory.stale_at(last + interval).is_empty(), "what is configured stays");
    }
    /// A transaction that holds no place, and one whose participant is not known, is owed something all the
    /// same.
    #[tokio::test]
    async fn nobody_is_forgotten_while_something_is_owed() {
        let interval = Duration::from_secs(1);
        let directory = Directory::new(Options { keep_alive_interval: interval, ..options() });
        let name = |text: &str| ParticipantName::new(text).expect("a name");
        directory.add_unplaced(name("unplaced"));
        directory.add_unplaced(name("unneeded"));
        let start = Instant::now();
        let registered = Registered { instance: "one".to_owned(), ..Registered::default() };
        directory.seen_at(&name("bank"), "http://a:1", registered.clone(), start);
        let late = start + interval * (INTERVALS_UNTIL_FORGOTTEN + 1);
        let loads = ["unplaced", "bank"].map(|text| directory.load_of(&name(text)));
        loads.iter().for_each(|load| load.add(1, 0));
        loads[1].set_aside(1);
        let names = |stale: Vec<Stale>| -> Vec<Stale> {
            stale.into_iter().filter(|stale| matches!(stale, Stale::Name(_))).collect()
        };
        let stale = |text: &str| Stale::Name(name(text));
        assert_eq!(names(directory.stale_at(late)), [stale("unneeded")]);
        loads[1].take_back(1);
        loads.iter().for_each(|load| load.give_back(1, 0));
        let all = [stale("unneeded"), stale("unplaced"), stale("bank")];
        assert_eq!(names(directory.stale_at(late)), all);
        // Whoever counted on a name that is registered anew still does.
        loads[1].add(1, 0);
        directory.forget(&name("bank"));
        directory.seen_at(&name("bank"), "http://a:1", registered, start);
        assert_eq!(names(directory.stale_at(late)), [stale("unneeded"), stale("unplaced")]);
    }
}
