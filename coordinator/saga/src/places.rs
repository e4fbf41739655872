//! Places of the fields of a definition, by the paths that the rules of the core use.

use std::collections::BTreeMap;

use crate::problem::Place;

/// Path of a field: in the file, and in the request that is made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct At {
    /// Path in the file: `steps.pay.after[0]`.
    pub(crate) path: String,
    /// Path in the request: `branches[3].depends_on[0]`.
    wire: String,
}

impl At {
    /// Returns the path in the request.
    pub(crate) fn wire(&self) -> &str {
        &self.wire
    }

    /// Returns the path of a field that has one name in the file and another in the request.
    pub(crate) fn field(&self, name: &str, wire: &str) -> Self {
        let append = |base: &str, name: &str| crate::tree::join(base, name);
        Self { path: append(&self.path, name), wire: append(&self.wire, wire) }
    }

    /// Returns the path of the item at `index`, which is called `name` in the file.
    pub(crate) fn named(&self, name: &str, index: usize) -> Self {
        Self { path: format!("{}.{name}", self.path), wire: format!("{}[{index}]", self.wire) }
    }

    /// Returns the path of a field of the request that is this same field in the file.
    pub(crate) fn same(&self, wire: &str) -> Self {
        Self { path: self.path.clone(), wire: format!("{}.{wire}", self.wire) }
    }

    /// Returns the path of the item at `index`.
    pub(crate) fn item(&self, index: usize) -> Self {
        let append = |base: &str| format!("{base}[{index}]");
        Self { path: append(&self.path), wire: append(&self.wire) }
    }

    /// Returns the path of a value in an object of texts, as the rules spell it.
    pub(crate) fn entry(&self, name: &str) -> Self {
        Self { path: format!("{}.{name}", self.path), wire: format!("{}[{name:?}]", self.wire) }
    }
}

/// Names of fields of the request, and of the same fields in a file.
const RENAMED: &[(&str, &str)] = &[
    ("branches", "steps"),
    ("depends_on", "after"),
    ("attempts_max", "attempts"),
    ("backoff_min", "backoff"),
    ("wait_max", "wait"),
];

/// Places of fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(BTreeMap<String, (Place, String)>);

impl Places {
    pub(crate) fn note(&mut self, at: &At, place: Place) {
        self.0.insert(at.wire.clone(), (place, at.path.clone()));
    }

    /// Tells whether a field of the request is written in the file.
    pub(crate) fn has(&self, wire: &str) -> bool {
        self.0.contains_key(wire)
    }

    /// Returns the place and the path in the file of a field of the request. A field that is not
    /// written there is told at the place of what it belongs to.
    pub(crate) fn find(&self, wire: &str) -> (Option<Place>, String) {
        let mut outer = wire;
        loop {
            if let Some((place, path)) = self.0.get(outer) {
                let rest = renamed(&wire[outer.len()..]);
                let path = match path.as_str() {
                    "" => rest.trim_start_matches('.').to_owned(),
                    path => format!("{path}{rest}"),
                };
                return (Some(*place), path);
            }
            match outer.rfind(['.', '[', ' ']) {
                Some(end) => outer = &outer[..end],
                None if outer.is_empty() => return (None, renamed(wire)),
                None => outer = "",
            }
        }
    }
}

fn renamed(wire: &str) -> String {
    let name = |part: &str| {
        let (name, index) = part.split_at(part.find('[').unwrap_or(part.len()));
        let known = RENAMED.iter().find(|(wire, _)| *wire == name);
        format!("{}{index}", known.map_or(name, |(_, file)| *file))
    };
    wire.split('.').map(name).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_or_what_it_belongs_to() {
        let place = |line| Place { line, column: 1 };
        let mut places = Places::default();
        let root = At::default();
        let steps = root.field("steps", "branches");
        let pay = steps.named("pay", 0);
        places.note(&root, place(1));
        places.note(&steps, place(2));
        places.note(&pay, place(3));
        places.note(&pay.field("after", "depends_on").item(1), place(4));
        for (wire, line, path) in [
            ("branches", 2, "steps"),
            ("branches[0].depends_on[1]", 4, "steps.pay.after[1]"),
            ("branches[0].depends_on[2]", 3, "steps.pay.after[2]"),
            ("branches[0].retry.attempts_max", 3, "steps.pay.retry.attempts"),
            ("branches.payload", 2, "steps.payload"),
            ("timeout", 1, "timeout"),
            ("metadata key \"a.b\"", 1, "metadata key \"a.b\""),
        ] {
            assert_eq!(places.find(wire), (Some(place(line)), path.to_owned()), "{wire}");
        }
    }
}
