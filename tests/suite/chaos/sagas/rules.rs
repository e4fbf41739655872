//! Rules that the participants' records must follow, whatever died.

use std::collections::{BTreeMap, BTreeSet};

use super::shapes::{Kind, Locked, Saga, Step};
use super::worker::Effect;

/// Gid and branch id.
type Key = (String, String);

/// Effects of all sagas.
pub(crate) struct Records {
    by_step: BTreeMap<Key, Vec<Effect>>,
}

/// Step that does something itself: of the saga, or of a child.
struct Leaf {
    gid: String,
    step: &'static Step,
    /// Steps that it is after, directly or not, by their places.
    before: BTreeSet<usize>,
}

/// Effects of one step.
#[derive(Default)]
struct Of<'r> {
    did: Option<&'r Effect>,
    undid: Option<&'r Effect>,
    confirmed: Option<&'r Effect>,
}

impl Records {
    pub(crate) fn new(effects: impl IntoIterator<Item = Effect>) -> Self {
        let mut by_step: BTreeMap<Key, Vec<Effect>> = BTreeMap::new();
        for effect in effects {
            by_step.entry((effect.gid.clone(), effect.step.clone())).or_default().push(effect);
        }
        Self { by_step }
    }

    /// Returns the breaches of the rules in one saga.
    pub(crate) fn breaches(&self, saga: &Saga, committed: bool) -> Vec<String> {
        let mut leaves = Vec::new();
        place(&saga.gid, saga.steps, &BTreeSet::new(), &mut leaves);
        let mut found = Vec::new();
        let all: Vec<Of<'_>> = leaves.iter().map(|leaf| self.of(leaf, &mut found)).collect();
        for (leaf, of) in leaves.iter().zip(&all) {
            let refused = saga.refuses == Some(leaf.step.id);
            let wrong =
                if committed { of.wrong_after_commit(leaf) } else { of.wrong_after_abort(leaf) };
            let wrong = wrong.or((refused && of.did.is_some()).then_some("S7: it refused"));
            found.extend(wrong.map(|rule| format!("{} {}: {rule}", leaf.gid, leaf.step.id)));
            order(leaf, of, &leaves, &all, &mut found);
            inputs(leaf, of, &leaves, &all, &mut found);
        }
        found
    }

    fn of(&self, leaf: &Leaf, found: &mut Vec<String>) -> Of<'_> {
        let key = (leaf.gid.clone(), leaf.step.id.to_owned());
        let mut of = Of::default();
        for effect in self.by_step.get(&key).into_iter().flatten() {
            let place = match effect.what.as_str() {
                "did" => &mut of.did,
                "undid" => &mut of.undid,
                _ => &mut of.confirmed,
            };
            if place.replace(effect).is_some() {
                found.push(format!("{} {}: S7: {} twice", leaf.gid, leaf.step.id, effect.what));
            }
        }
        of
    }

    /// Returns the steps that are no step of these sagas.
    pub(crate) fn strangers<'s>(&self, sagas: impl IntoIterator<Item = &'s Saga>) -> Vec<Key> {
        let mut leaves = Vec::new();
        for saga in sagas {
            place(&saga.gid, saga.steps, &BTreeSet::new(), &mut leaves);
        }
        let known: BTreeSet<Key> =
            leaves.into_iter().map(|leaf| (leaf.gid, leaf.step.id.to_owned())).collect();
        self.by_step.keys().filter(|key| !known.contains(key)).cloned().collect()
    }

    /// Returns the pairs of sagas that hold one lock at the same time, as far as their effects show it.
    pub(crate) fn overlaps<'s>(&self, sagas: impl IntoIterator<Item = &'s Saga>) -> Vec<String> {
        let mut held: BTreeMap<&str, Vec<(i64, i64, &str)>> = BTreeMap::new();
        for saga in sagas {
            if let Some((name, from, to)) = self.held(saga) {
                held.entry(name).or_default().push((from, to, &saga.gid));
            }
        }
        let mut found = Vec::new();
        for (name, mut held) in held {
            held.sort_unstable();
            let pairs = held.windows(2).filter(|pair| pair[1].0 <= pair[0].1);
            found.extend(pairs.map(|pair| format!("both hold {name}: {pair:?}")));
        }
        found
    }

    /// Returns the lock of a saga, and the shortest time for which it has surely held it.
    fn held(&self, saga: &Saga) -> Option<(&'static str, i64, i64)> {
        let mut leaves = Vec::new();
        place(&saga.gid, saga.steps, &BTreeSet::new(), &mut leaves);
        let effects = |at: Option<&'static str>| {
            let leaves = leaves.iter().filter(move |leaf| at.is_none_or(|at| leaf.step.id == at));
            let keys = leaves.map(|leaf| (leaf.gid.clone(), leaf.step.id.to_owned()));
            keys.flat_map(|key| self.by_step.get(&key).into_iter().flatten())
        };
        let (name, from) = match saga.locked {
            Locked::No => return None,
            Locked::Whole(name) => (name, effects(None).map(|effect| effect.began_us).min()?),
            Locked::At(at, name) => (name, effects(Some(at)).map(|effect| effect.began_us).min()?),
        };
        Some((name, from, effects(None).map(|effect| effect.ended_us).max()?))
    }
}

impl Of<'_> {
    fn wrong_after_commit(&self, leaf: &Leaf) -> Option<&'static str> {
        let reserved = matches!(leaf.step.kind, Kind::Reserved);
        match (self.did, self.undid, self.confirmed) {
            (None, ..) => Some("S2: committed, and it is not done"),
            (_, Some(_), _) => Some("S3: undone after COMMIT"),
            // Its row is its commit.
            (_, None, None) if matches!(leaf.step.kind, Kind::Written) => None,
            (_, _, confirmed) if confirmed.is_some() != reserved => {
                Some("S7: reserved, and not confirmed, or the other way round")
            }
            _ => None,
        }
    }

    fn wrong_after_abort(&self, leaf: &Leaf) -> Option<&'static str> {
        let stays = matches!(leaf.step.kind, Kind::Kept);
        let after = matches!(leaf.step.kind, Kind::Pivot | Kind::Last);
        match (self.did, self.undid, self.confirmed) {
            (_, _, Some(_)) => Some("S3: confirmed after ABORT"),
            (Some(_), _, _) if matches!(leaf.step.kind, Kind::Written) => {
                Some("S3: committed after ABORT")
            }
            (None, Some(_), _) => Some("S8: undone, and never done"),
            (Some(_), _, _) if after => {
                Some("S2: aborted, and the pivot or a step after it is done")
            }
            (_, Some(_), _) if stays => Some("a kept effect is undone"),
            (Some(_), None, _) if !stays => Some("S7: aborted, and its effect is left"),
            _ => None,
        }
    }
}

/// Nothing is done before what it is after, and undone only when everything after it is undone.
fn order(leaf: &Leaf, of: &Of<'_>, leaves: &[Leaf], all: &[Of<'_>], found: &mut Vec<String>) {
    for at in &leaf.before {
        let (earlier, before) = (&all[*at], &leaves[*at].step.id);
        let name = format!("{} {}", leaf.gid, leaf.step.id);
        if let Some(did) = of.did {
            match earlier.did {
                None => found.push(format!("{name} is done, and {before} before it is not")),
                Some(earlier) if did.began_us <= earlier.ended_us => {
                    found.push(format!("{name} is done before {before}"));
                }
                Some(_) => {}
            }
        }
        if let (Some(undid), Some(earlier)) = (of.undid, earlier.undid)
            && earlier.began_us <= undid.ended_us
        {
            found.push(format!("{before} is undone before {name}"));
        }
    }
}

/// Inputs are what the steps before have returned, and phase two gets what phase one returned.
fn inputs(leaf: &Leaf, of: &Of<'_>, leaves: &[Leaf], all: &[Of<'_>], found: &mut Vec<String>) {
    let output = |name: &str| {
        let fits = |at: &usize| leaves[*at].gid == leaf.gid && leaves[*at].step.id == name;
        let did = (0..leaves.len()).find(fits).and_then(|at| all[at].did);
        format!("{name}={}", did.map_or("", |did| &did.output))
    };
    let right: Vec<String> = leaf.step.reads.iter().map(|name| output(name)).collect();
    let right = right.join(" ");
    for effect in [of.did, of.undid, of.confirmed].into_iter().flatten() {
        let first = of.did.map_or("", |did| &did.output);
        if effect.inputs != right || effect.output != first {
            found.push(format!("{effect:?} has other inputs than {right}, or output than {first}"));
        }
    }
}

/// Places the steps of a saga, each after those that it is after.
fn place(
    gid: &str,
    steps: &'static [Step],
    outer: &BTreeSet<usize>,
    leaves: &mut Vec<Leaf>,
) -> BTreeSet<usize> {
    let mut placed: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for step in steps {
        let mut before = outer.clone();
        for earlier in step.reads.iter().chain(step.after) {
            for at in &placed[earlier] {
                before.extend(&leaves[*at].before);
                before.insert(*at);
            }
        }
        let own = match step.kind {
            Kind::ChildTcc(inner) | Kind::ChildSaga(inner) => {
                place(&format!("{gid}.{}", step.id), inner, &before, leaves)
            }
            kind => {
                if matches!(kind, Kind::Pivot) {
                    before.extend(placed.values().flatten());
                }
                leaves.push(Leaf { gid: gid.to_owned(), step, before });
                BTreeSet::from([leaves.len() - 1])
            }
        };
        placed.insert(step.id, own);
    }
    placed.into_values().flatten().collect()
}
