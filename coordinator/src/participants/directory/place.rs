//! Bound on the endpoints of a participant.

use std::time::Duration;

use unanimo_core::ParticipantName;

use super::{Directory, Endpoint, read};

/// Most endpoints that a participant may have. Each takes less than 3 KiB of the answer of
/// ListParticipants, so that one participant always fits into a message.
pub const ENDPOINTS_MAX: usize = 256;

/// Place of an endpoint that registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is one.
    Free,
    /// There is one once this endpoint has left, which is gone for the longest time.
    Instead {
        /// Its address.
        url: String,
        /// The life of its process.
        instance: String,
    },
    /// There is none: all endpoints are alive.
    Taken,
}

impl Directory {
    /// Looks for the place of an endpoint that registers.
    #[must_use]
    pub fn place_for(&self, name: &ParticipantName, url: &str) -> Place {
        let Some(entry) = self.entry(name) else { return Place::Free };
        let endpoints = read(&entry.endpoints);
        place_among(&endpoints, url, ENDPOINTS_MAX, self.gone_after())
    }
}

fn place_among(endpoints: &[Endpoint], url: &str, max: usize, gone_after: Duration) -> Place {
    if endpoints.len() < max || endpoints.iter().any(|endpoint| endpoint.url == url) {
        return Place::Free;
    }
    let gone = endpoints.iter().filter(|endpoint| !endpoint.is_alive(gone_after));
    match gone.max_by_key(|endpoint| endpoint.silent_for()) {
        Some(Endpoint { url, registered, .. }) => {
            Place::Instead { url: url.clone(), instance: registered.instance.clone() }
        }
        None => Place::Taken,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Options, Registered};
    use super::*;

    #[tokio::test]
    async fn the_endpoint_that_is_gone_for_the_longest_time_makes_place() {
        let keep_alive_interval = Duration::from_secs(100);
        let options = Options { slots: 1, keep_alive_interval, message_bytes_max: 1 };
        let directory = Directory::new(options);
        let name = ParticipantName::new("p").expect("a name");
        for (url, instance) in [("http://a:1", "a"), ("http://b:1", "b"), ("http://c:1", "c")] {
            let registered = Registered { instance: instance.to_owned(), ..Registered::default() };
            directory.seen(&name, url, registered);
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
        let a = Place::Instead { url: "http://a:1".to_owned(), instance: "a".to_owned() };
        assert_eq!(place("http://d:1", 3, Duration::ZERO), a);
    }
}
