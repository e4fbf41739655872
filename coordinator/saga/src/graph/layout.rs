//! Places of boxes in a picture: layers from top to bottom, with few crossings (the method of Sugiyama,
//! Tagawa and Toda, 1981, with barycenters).

use super::order::Order;

/// Room between boxes beside each other.
const GAP: f64 = 28.0;
/// Width that a line takes where it passes a layer.
const LINE_WIDTH: f64 = 12.0;
/// Rounds of sorting and of moving; more of them change little.
const ROUNDS: usize = 8;

/// A box, or the place where a line passes a layer.
#[derive(Debug)]
struct Item {
    width: f64,
    /// Middle.
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Middles of the boxes, and the lines between them.
#[derive(Debug)]
pub(super) struct Layout {
    /// Middle of each box, from 0.
    pub(super) x: Vec<f64>,
    /// Lines: step above, step below, and the middles in the layers between.
    pub(super) lines: Vec<(usize, usize, Vec<f64>)>,
    pub(super) width: f64,
}

/// Items by number, and the numbers of each layer from left to right.
struct Picture {
    items: Vec<Item>,
    layers: Vec<Vec<usize>>,
}

/// Computes the layout of boxes with these widths.
pub(super) fn layout(order: &Order, widths: &[f64]) -> Layout {
    let mut picture = Picture::of(order, widths);
    let lines = picture.connect(order);
    for round in 0..ROUNDS {
        picture.sort(round % 2 == 0);
    }
    picture.pack();
    for round in 0..ROUNDS {
        picture.relax(round % 2 == 0);
    }
    let left = picture.items.iter().map(|item| item.x - item.width / 2.0).fold(f64::MAX, f64::min);
    let right = picture.items.iter().map(|item| item.x + item.width / 2.0).fold(f64::MIN, f64::max);
    let x = |item: usize| picture.items[item].x - left;
    Layout {
        x: (0..widths.len()).map(x).collect(),
        lines: lines
            .into_iter()
            .map(|(from, to, way)| (from, to, way.into_iter().map(x).collect()))
            .collect(),
        width: (right - left).max(0.0),
    }
}

impl Picture {
    /// Makes an item for each step, under the step's number.
    fn of(order: &Order, widths: &[f64]) -> Self {
        let count = order.layer.iter().max().map_or(0, |deepest| deepest + 1);
        let mut layers = vec![Vec::new(); count];
        for step in order.sequence() {
            layers[order.layer[step]].push(step);
        }
        let item =
            |width: &f64| Item { width: *width, x: 0.0, above: Vec::new(), below: Vec::new() };
        Self { items: widths.iter().map(item).collect(), layers }
    }

    /// Connects the items, with one more item in each layer that a line passes.
    fn connect(&mut self, order: &Order) -> Vec<(usize, usize, Vec<usize>)> {
        let mut lines = Vec::new();
        for (to, before) in order.before.iter().enumerate() {
            for from in before {
                let mut way = Vec::new();
                let mut last = *from;
                for layer in order.layer[*from] + 1..order.layer[to] {
                    let item = self.items.len();
                    let (above, below) = (Vec::new(), Vec::new());
                    self.items.push(Item { width: LINE_WIDTH, x: 0.0, above, below });
                    self.layers[layer].push(item);
                    self.join(last, item);
                    way.push(item);
                    last = item;
                }
                self.join(last, to);
                lines.push((*from, to, way));
            }
        }
        lines
    }

    fn join(&mut self, above: usize, below: usize) {
        self.items[above].below.push(below);
        self.items[below].above.push(above);
    }

    /// Sorts each layer by the mean place of what its items are connected with.
    fn sort(&mut self, downwards: bool) {
        for layer in self.sweep(downwards) {
            for (place, item) in self.layers[layer].iter().enumerate() {
                self.items[*item].x = f64::from(u16::try_from(place).unwrap_or(u16::MAX));
            }
            let mut keyed: Vec<(f64, usize)> = self.layers[layer]
                .iter()
                .map(|item| (self.mean(*item, downwards).unwrap_or(self.items[*item].x), *item))
                .collect();
            keyed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            self.layers[layer] = keyed.into_iter().map(|(_, item)| item).collect();
            for (place, item) in self.layers[layer].iter().enumerate() {
                self.items[*item].x = f64::from(u16::try_from(place).unwrap_or(u16::MAX));
            }
        }
    }

    /// Puts the items of each layer beside each other, its middle at 0.
    fn pack(&mut self) {
        for layer in &self.layers {
            let width: f64 = layer.iter().map(|item| self.items[*item].width + GAP).sum();
            let mut left = -width / 2.0;
            for item in layer {
                let item = &mut self.items[*item];
                item.x = left + (item.width + GAP) / 2.0;
                left += item.width + GAP;
            }
        }
    }

    /// Moves the items of each layer towards the mean of what they are connected with, as far as
    /// their neighbours allow.
    fn relax(&mut self, downwards: bool) {
        for layer in self.sweep(downwards) {
            let layer = self.layers[layer].clone();
            let wanted: Vec<f64> = layer
                .iter()
                .map(|item| self.mean(*item, downwards).unwrap_or(self.items[*item].x))
                .collect();
            let room =
                |a: usize, b: usize, items: &[Item]| (items[a].width + items[b].width) / 2.0 + GAP;
            // From the left each is pushed right; then from the right each back to where it wants to be.
            let mut x = wanted.clone();
            for at in 1..layer.len() {
                x[at] = x[at].max(x[at - 1] + room(layer[at - 1], layer[at], &self.items));
            }
            let mut back = wanted;
            for at in (0..layer.len().saturating_sub(1)).rev() {
                back[at] = back[at].min(back[at + 1] - room(layer[at], layer[at + 1], &self.items));
            }
            for (at, item) in layer.iter().enumerate() {
                self.items[*item].x = f64::midpoint(x[at], back[at]);
            }
        }
    }

    fn sweep(&self, downwards: bool) -> Vec<usize> {
        let count = self.layers.len();
        if downwards { (0..count).collect() } else { (0..count).rev().collect() }
    }

    fn mean(&self, item: usize, of_above: bool) -> Option<f64> {
        let item = &self.items[item];
        let connected = if of_above { &item.above } else { &item.below };
        let count = u32::try_from(connected.len()).ok().filter(|count| *count > 0)?;
        Some(connected.iter().map(|other| self.items[*other].x).sum::<f64>() / f64::from(count))
    }
}
