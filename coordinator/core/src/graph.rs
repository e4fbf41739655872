//! Order of the branches of a saga: what each waits for, and what must be undone before it.

use crate::definition::BranchSpec;
use crate::ids::BranchId;

/// A set of branches, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn insert(&mut self, index: usize) {
        let word = index / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (index % 64);
    }

    fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    fn extend(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |(at, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| at * 64 + bit)
        };
        self.0.iter().enumerate().flat_map(bits)
    }
}

/// The order of a transaction's branches. Branches that depend on nothing are in no order: then there
/// is nothing in it.
///
/// The pivot depends on every branch that does not depend on it, whether it says so or not: its yes
/// decides COMMIT, which needs theirs (promise S2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Graph {
    /// Branches that each branch waits for.
    before: Vec<Vec<usize>>,
    /// Everything that depends on each branch, directly or not.
    below: Vec<Set>,
    pivot: Option<usize>,
}

/// Branches that wait for each other in a circle, by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cycle(pub(crate) Vec<usize>);

/// Circles that are told. Each names its branches, and whoever has more has made one mistake many times.
const CYCLES_MAX: usize = 16;

/// Circles among branches, and what they leave open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cycles {
    /// One circle for each dependency without which there would be an order.
    pub(crate) found: Vec<Cycle>,
    /// Branches that may stand before the pivot or after it.
    unplaced: Set,
}

impl Cycles {
    /// Tells whether the branch's place before the pivot or after it is known.
    pub(crate) fn leave_placed(&self, index: usize) -> bool {
        !self.unplaced.contains(index)
    }

    /// Tells whether a branch that waits for itself is among the circles.
    pub(crate) fn have_loop(&self, index: usize) -> bool {
        self.found.iter().any(|Cycle(path)| *path == [index])
    }
}

impl Graph {
    /// Orders branches. Ids that name no branch are passed over: the rules of a definition tell them.
    ///
    /// # Errors
    /// There is no order.
    pub(crate) fn of<'a>(
        branches: impl Iterator<Item = &'a BranchSpec> + Clone,
    ) -> Result<Self, Cycle> {
        let pivot = branches.clone().position(|branch| branch.step.pivot);
        if pivot.is_none() && branches.clone().all(|branch| branch.step.depends_on.is_empty()) {
            return Ok(Self::default());
        }
        let before = before(branches);
        let below = below(&before)?;
        let mut graph = Self { before, below, pivot };
        if let Some(pivot) = pivot {
            graph.put_everything_else_before(pivot);
        }
        Ok(graph)
    }

    /// Orders branches as far as they have an order, so that other mistakes are found beside circles: a branch
    /// depends on all that it leads to. A pivot in a circle is passed over.
    pub(crate) fn with_cycles<'a>(
        branches: impl Iterator<Item = &'a BranchSpec> + Clone,
    ) -> (Self, Cycles) {
        if let Ok(graph) = Self::of(branches.clone()) {
            return (graph, Cycles::default());
        }
        let pivot = branches.clone().position(|branch| branch.step.pivot);
        let before = before(branches);
        let below = reached(&before);
        let all = 0..before.len();
        let is_in_cycle = |index: &usize| below[*index].contains(*index);
        let mut unplaced = Set::default();
        for index in all.clone().filter(is_in_cycle) {
            unplaced.insert(index);
            unplaced.extend(&below[index]);
        }
        let ordered_pivot = pivot.filter(|pivot| !is_in_cycle(pivot));
        if pivot.is_some() && ordered_pivot.is_none() {
            all.for_each(|index| unplaced.insert(index));
        }
        let mut found = Vec::new();
        let mut left = before.clone();
        while let (true, Err(cycle)) = (found.len() < CYCLES_MAX, self::below(&left)) {
            let Cycle(path) = &cycle;
            let (from, to) = (path[0], path[1 % path.len()]);
            left[from].retain(|on| *on != to);
            found.push(cycle);
        }
        let mut graph = Self { before, below, pivot: ordered_pivot };
        if let Some(pivot) = ordered_pivot {
            graph.put_everything_else_before(pivot);
        }
        (graph, Cycles { found, unplaced })
    }

    fn put_everything_else_before(&mut self, pivot: usize) {
        let below_pivot = self.below[pivot].clone();
        let others = (0..self.before.len()).filter(|at| *at != pivot && !below_pivot.contains(*at));
        let others: Vec<usize> = others.collect();
        for at in &others {
            self.below[*at].insert(pivot);
            self.below[*at].extend(&below_pivot);
        }
        self.before[pivot] = others;
    }

    /// Returns the branches that must have voted yes before this one is sent.
    pub(crate) fn before(&self, index: usize) -> &[usize] {
        self.before.get(index).map_or(&[], Vec::as_slice)
    }

    /// Returns the branches that depend on this one, directly or not.
    pub(crate) fn below(&self, index: usize) -> impl Iterator<Item = usize> {
        self.below.get(index).into_iter().flat_map(Set::iter)
    }

    /// Tells whether `index` depends on `on`, directly or not.
    pub(crate) fn depends(&self, index: usize, on: usize) -> bool {
        self.below.get(on).is_some_and(|below| below.contains(index))
    }

    /// Returns the branches, each after all that it depends on.
    pub(crate) fn in_order(&self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        // Whatever depends on a branch has more branches before it than that one has.
        order.sort_by_key(|index| (0..count).filter(|on| self.depends(*index, *on)).count());
        order
    }

    /// Tells whether any branch depends on another one.
    pub(crate) fn is_ordered(&self) -> bool {
        !self.before.is_empty()
    }

    /// Returns the pivot.
    pub(crate) fn pivot(&self) -> Option<usize> {
        self.pivot
    }

    /// Tells whether the branch is sent only after COMMIT.
    pub(crate) fn is_after_pivot(&self, index: usize) -> bool {
        self.pivot.is_some_and(|pivot| self.depends(index, pivot))
    }

    /// Tells whether an ABORT may follow the branch: it is neither the pivot nor after it.
    pub(crate) fn may_be_undone(&self, index: usize) -> bool {
        self.pivot != Some(index) && !self.is_after_pivot(index)
    }
}

/// Dependencies of each branch, by index.
fn before<'a>(branches: impl Iterator<Item = &'a BranchSpec> + Clone) -> Vec<Vec<usize>> {
    let ids: std::collections::BTreeMap<&BranchId, usize> =
        branches.clone().enumerate().map(|(index, b)| (&b.branch_id, index)).collect();
    let named = |branch: &BranchSpec| {
        let mut named: Vec<usize> =
            branch.step.depends_on.iter().filter_map(|id| ids.get(id).copied()).collect();
        named.sort_unstable();
        named.dedup();
        named
    };
    branches.map(named).collect()
}

/// Branches that directly depend on each branch.
fn after(before: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut after = vec![Vec::new(); before.len()];
    for (index, named) in before.iter().enumerate() {
        named.iter().for_each(|on| after[*on].push(index));
    }
    after
}

/// Everything that depends on each branch, where there may be circles: then a branch may depend on itself.
fn reached(before: &[Vec<usize>]) -> Vec<Set> {
    let after = after(before);
    let of = |from: usize| {
        let (mut reached, mut next) = (Set::default(), vec![from]);
        while let Some(index) = next.pop() {
            for follower in &after[index] {
                if !reached.contains(*follower) {
                    reached.insert(*follower);
                    next.push(*follower);
                }
            }
        }
        reached
    };
    (0..before.len()).map(of).collect()
}

/// Everything that depends on each branch, from what each depends on.
fn below(before: &[Vec<usize>]) -> Result<Vec<Set>, Cycle> {
    let count = before.len();
    let after = after(before);
    let mut waits_for: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut order: Vec<usize> = (0..count).filter(|index| waits_for[*index] == 0).collect();
    let mut next = 0;
    while let Some(index) = order.get(next).copied() {
        next += 1;
        for follower in &after[index] {
            waits_for[*follower] -= 1;
            if waits_for[*follower] == 0 {
                order.push(*follower);
            }
        }
    }
    if order.len() < count {
        return Err(cycle(before, &waits_for));
    }
    let mut below = vec![Set::default(); count];
    for index in order.into_iter().rev() {
        let mut set = Set::default();
        for follower in &after[index] {
            set.insert(*follower);
            set.extend(&below[*follower]);
        }
        below[index] = set;
    }
    Ok(below)
}

/// One circle among the branches that wait for something.
fn cycle(before: &[Vec<usize>], waits_for: &[usize]) -> Cycle {
    let waits = |index: &usize| waits_for[*index] > 0;
    let mut path: Vec<usize> = Vec::new();
    let mut at = (0..before.len()).find(waits).unwrap_or_default();
    loop {
        if let Some(start) = path.iter().position(|known| *known == at) {
            return Cycle(path.split_off(start));
        }
        path.push(at);
        // A branch that waits does so for one that waits.
        at = before[at].iter().copied().find(waits).unwrap_or(at);
    }
}
