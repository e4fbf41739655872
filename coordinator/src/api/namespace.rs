//! Namespaces: tenants of one coordinator, each with names of its own.
//!
//! Behind this edge a name is a full one, `NAMESPACE/NAME`, and names of two namespaces are different ones for everything
//! that compares, stores or locks them. A caller of a namespace writes names without it, which are put into its namespace
//! right after they are read ([`Names`]), and is told names without it ([`Told`]). So it cannot name what is in another
//! namespace, but by a `tx_id`, which is [checked](super::access).

mod counts;
mod told;

use unanimo_core::ids::{self, NAMESPACE_END, check_prefix};
use unanimo_core::{Gid, LockName, Namespace, ParticipantName};

pub(super) use self::told::Told;

/// Names that a caller may write, and what they stand for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names<'a> {
    namespace: Option<&'a Namespace>,
    /// It sees every namespace, and may write full names.
    full: bool,
}

impl<'a> Names<'a> {
    /// Returns those of a caller of this namespace, or of none.
    pub(super) fn of(namespace: Option<&'a Namespace>) -> Self {
        Self { namespace, full: false }
    }

    /// Returns those of a caller that sees every namespace.
    pub(super) fn full() -> Self {
        Self { namespace: None, full: true }
    }

    /// Reads the gid of what may be new.
    pub(super) fn gid(self, text: &str) -> Result<Gid, ids::Error> {
        match self.full {
            true => Gid::try_from(text.to_owned()),
            false => Ok(Gid::new(text)?.within(self.namespace)),
        }
    }

    /// Reads the gid of what is there.
    pub(super) fn known_gid(self, text: &str) -> Result<Gid, ids::Error> {
        match self.full {
            true => Gid::full(text),
            false => Ok(Gid::known(text)?.within(self.namespace)),
        }
    }

    /// Reads the beginning of gids, which confines a list to the caller's namespace.
    pub(super) fn gid_prefix(self, text: &str) -> Result<String, ids::Error> {
        match (self.full, self.namespace) {
            (_, None) if text.is_empty() => Ok(String::new()),
            (true, _) => check_prefix(text).map(|()| text.to_owned()),
            (false, None) => Gid::known(text).map(String::from),
            (false, Some(namespace)) => {
                if !text.is_empty() {
                    Gid::known(text)?;
                }
                Ok(format!("{namespace}{NAMESPACE_END}{text}"))
            }
        }
    }

    /// Reads the name of a participant that may be new.
    pub(super) fn participant(self, text: &str) -> Result<ParticipantName, ids::Error> {
        Ok(ParticipantName::new(text)?.within(self.namespace))
    }

    /// Reads the name of a participant that is there.
    pub(super) fn known_participant(self, text: &str) -> Result<ParticipantName, ids::Error> {
        match self.full {
            true => ParticipantName::full(text),
            false => Ok(ParticipantName::known(text)?.within(self.namespace)),
        }
    }

    /// Reads the name of a lock.
    pub(super) fn lock(self, text: &str) -> Result<LockName, ids::Error> {
        Ok(LockName::new(text)?.within(self.namespace))
    }
}

/// Tells whether a full name is in this namespace.
pub(super) fn is_inside(namespace: &Namespace, full_name: &str) -> bool {
    local(namespace, full_name).is_some()
}

/// Returns the name in this namespace, if the full name is in it.
pub(super) fn local<'a>(namespace: &Namespace, full_name: &'a str) -> Option<&'a str> {
    full_name.strip_prefix(namespace.as_str())?.strip_prefix(NAMESPACE_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_names_what_is_in_its_namespace_alone() {
        let tenant = Namespace::new("tenant-a").expect("a namespace");
        let (inside, none, all) = (Names::of(Some(&tenant)), Names::default(), Names::full());
        let gid = |gid: Result<Gid, ids::Error>| gid.map(String::from).ok();
        let is = |text: &str| Some(text.to_owned());
        assert_eq!(gid(inside.gid("g")), is("tenant-a/g"));
        assert_eq!(gid(inside.known_gid("g")), is("tenant-a/g"));
        assert_eq!(gid(none.gid("g")), is("g"));
        assert_eq!((gid(all.gid("g")), gid(all.known_gid("b/g"))), (is("g"), is("b/g")));
        for text in ["tenant-a/g", "b/g", "/g"] {
            assert_eq!(
                (gid(inside.gid(text)), gid(inside.known_gid(text))),
                (None, None),
                "{text}"
            );
            assert_eq!((gid(none.gid(text)), gid(none.known_gid(text))), (None, None), "{text}");
            assert!(inside.participant(text).is_err() && all.participant(text).is_err(), "{text}");
            assert!(inside.known_participant(text).is_err() && inside.lock(text).is_err());
            assert!(inside.gid_prefix(text).is_err() && none.gid_prefix(text).is_err(), "{text}");
        }
        assert_eq!(inside.gid_prefix("").as_deref(), Ok("tenant-a/"), "no list is of all");
        assert_eq!(inside.gid_prefix("g").as_deref(), Ok("tenant-a/g"));
        for text in ["", "g", "b/", "b/g"] {
            assert_eq!(all.gid_prefix(text).as_deref(), Ok(text));
        }
        assert!(is_inside(&tenant, "tenant-a/g"));
        for other in ["tenant-ab/g", "tenant-a", "g", "", "b/tenant-a/g"] {
            assert!(!is_inside(&tenant, other), "{other}");
        }
    }
}
