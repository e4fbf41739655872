//! Order of the steps: layers, and the connections that are drawn.

use std::collections::HashMap;

/// Order of steps, by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    /// Steps that each is drawn to wait for.
    pub(super) before: Vec<Vec<usize>>,
    /// Layer of each: one more than the deepest that it waits for.
    pub(super) layer: Vec<usize>,
}

impl Order {
    /// Orders steps by the names that each waits for. The pivot waits for every step that does not
    /// wait for it. Names of no step, and what stands in a circle, are passed over: neither is in a
    /// definition that keeps the rules.
    pub(super) fn of<'a>(
        ids: &[&'a str],
        after: impl Iterator<Item = Vec<&'a str>>,
        pivot: Option<usize>,
    ) -> Self {
        let index: HashMap<&str, usize> =
            ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let named = after.map(|names| {
            let mut named: Vec<usize> =
                names.iter().filter_map(|name| index.get(name).copied()).collect();
            named.sort_unstable();
            named.dedup();
            named
        });
        let mut before: Vec<Vec<usize>> = named.collect();
        let mut above = above(&before);
        if let Some(pivot) = pivot {
            let others = (0..ids.len()).filter(|at| *at != pivot && !above[*at][pivot]);
            before[pivot] = others.collect();
            above = self::above(&before);
        }
        for at in 0..before.len() {
            let all = before[at].clone();
            let follows = |on: &usize| all.iter().any(|other| other != on && above[*other][*on]);
            before[at].retain(|on| !above[*on][at] && *on != at && !follows(on));
        }
        let layer = (0..ids.len()).map(|at| depth(&above, &before, at)).collect();
        Self { before, layer }
    }

    /// Returns the steps in an order in which each comes after what it waits for.
    pub(super) fn sequence(&self) -> Vec<usize> {
        let mut sequence: Vec<usize> = (0..self.layer.len()).collect();
        sequence.sort_by_key(|at| (self.layer[*at], *at));
        sequence
    }
}

/// Everything that each step waits for, directly or not.
fn above(before: &[Vec<usize>]) -> Vec<Vec<bool>> {
    let count = before.len();
    let mut above = vec![vec![false; count]; count];
    for (at, reached) in above.iter_mut().enumerate() {
        let mut open = before[at].clone();
        while let Some(on) = open.pop() {
            if !reached[on] {
                reached[on] = true;
                open.extend(&before[on]);
            }
        }
    }
    above
}

/// Length of the longest way to a step, over steps that are in no circle.
fn depth(above: &[Vec<bool>], before: &[Vec<usize>], at: usize) -> usize {
    let count = before.len();
    let mut layer = vec![0; count];
    let mut sequence: Vec<usize> = (0..count).filter(|on| *on == at || above[at][*on]).collect();
    // What waits for more comes later, because it waits for all that those wait for.
    sequence.sort_by_key(|on| above[*on].iter().filter(|waits| **waits).count());
    for on in sequence {
        layer[on] = before[on].iter().map(|earlier| layer[*earlier] + 1).max().unwrap_or(0);
    }
    layer[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_follows_from_others_is_not_drawn() {
        let after = [vec![], vec!["a"], vec!["a", "b"], vec![]];
        let order = Order::of(&["a", "b", "c", "d"], after.into_iter(), None);
        assert_eq!(order.before, [vec![], vec![0], vec![1], vec![]]);
        assert_eq!(order.layer, [0, 1, 2, 0]);
        assert_eq!(order.sequence(), [0, 3, 1, 2]);
    }

    #[test]
    fn the_pivot_waits_for_all_that_does_not_wait_for_it() {
        let after = [vec![], vec!["a"], vec![], vec!["p"]];
        let order = Order::of(&["a", "b", "p", "z"], after.into_iter(), Some(2));
        assert_eq!(order.before, [vec![], vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn a_circle_ends_nothing() {
        let after = [vec!["b"], vec!["a"], vec!["b", "x"]];
        let order = Order::of(&["a", "b", "c"], after.into_iter(), None);
        assert_eq!(order.sequence().len(), 3);
    }
}
