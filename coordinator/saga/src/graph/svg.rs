//! Graphs as SVG pictures, which refer to nothing outside and can be read on light and dark pages.

use std::fmt::Write as _;

use super::layout::layout;
use super::model::{Graph, Kind, State, Step};

/// Height of a line of text.
const LINE: f64 = 17.0;
/// Room around the text of a box, and around the picture.
const PADDING: f64 = 12.0;
/// Room between layers.
const GAP: f64 = 40.0;
/// Room for a title.
const TITLE: f64 = 30.0;
/// Mean width of a character of the font.
const CHAR: f64 = 7.4;
/// Most characters of a line in a box; more are cut off.
const CHARS_MAX: usize = 40;

impl Graph {
    /// Draws the graph as an SVG picture.
    #[must_use]
    pub fn to_svg(&self) -> String {
        let mut body = String::new();
        let (width, height) = self.draw(&mut body, PADDING, "");
        let (width, height) = (width + 2.0 * PADDING, height + PADDING);
        let title = escaped(&self.title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" \
             font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\" font-size=\"13\">\n\
             <title>{title}</title>\n\
             <defs><marker id=\"tip\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" markerWidth=\"7\" \
             markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L10 5L0 10z\" fill=\"#7d8590\"/></marker></defs>\n\
             {body}</svg>\n"
        )
    }

    /// Draws title, steps and children from `top` on, and returns the width and the lower end.
    fn draw(&self, body: &mut String, top: f64, prefix: &str) -> (f64, f64) {
        let title = format!("{prefix}{}", self.title);
        let title_width =
            CHAR * f64::from(u16::try_from(title.chars().count()).unwrap_or(u16::MAX));
        put(
            body,
            format_args!(
                "<text x=\"{PADDING}\" y=\"{:.0}\" font-size=\"15\" font-weight=\"bold\" fill=\"#7d8590\">{}</text>",
                top + LINE,
                escaped(&title)
            ),
        );
        let boxes: Vec<Vec<String>> = self.steps.iter().map(lines).collect();
        let widths: Vec<f64> = boxes.iter().map(|lines| width(lines)).collect();
        let heights = self.layer_heights(&boxes);
        let picture = layout(&self.order, &widths);
        let layer_top = |layer: usize| {
            let above: f64 = heights[..layer].iter().map(|height| height + GAP).sum();
            top + TITLE + above
        };
        for (from, to, way) in &picture.lines {
            let (above, below) = (self.order.layer[*from], self.order.layer[*to]);
            let start = (picture.x[*from], layer_top(above) + height(&boxes[*from]));
            let mut path = format!("M{:.0} {:.0}", start.0 + PADDING, start.1);
            let mut last = start;
            for (step, x) in way.iter().enumerate() {
                let layer = above + 1 + step;
                curve(&mut path, last, (*x, layer_top(layer)));
                last = (*x, layer_top(layer) + heights[layer]);
                path.push_str(&format!("V{:.0}", last.1));
            }
            curve(&mut path, last, (picture.x[*to], layer_top(below)));
            put(
                body,
                format_args!(
                    "<path d=\"{path}\" fill=\"none\" stroke=\"#7d8590\" stroke-width=\"1.5\" marker-end=\"url(#tip)\"/>"
                ),
            );
        }
        for (at, step) in self.steps.iter().enumerate() {
            let left = picture.x[at] - widths[at] / 2.0 + PADDING;
            draw_box(body, step, &boxes[at], (left, layer_top(self.order.layer[at])), widths[at]);
        }
        let mut end = layer_top(heights.len()) - GAP + PADDING;
        let mut widest = picture.width.max(title_width);
        for step in &self.steps {
            if let Some(child) = &step.child {
                let (child_width, child_end) =
                    child.draw(body, end + PADDING, &format!("{prefix}↳ "));
                widest = widest.max(child_width);
                end = child_end;
            }
        }
        (widest, end)
    }

    fn layer_heights(&self, boxes: &[Vec<String>]) -> Vec<f64> {
        let count = self.order.layer.iter().max().map_or(0, |deepest| deepest + 1);
        let mut heights = vec![0.0_f64; count];
        for (at, lines) in boxes.iter().enumerate() {
            let layer = self.order.layer[at];
            heights[layer] = heights[layer].max(height(lines));
        }
        heights
    }
}

fn put(body: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a text does not fail.
    let _ = writeln!(body, "{line}");
}

fn curve(path: &mut String, from: (f64, f64), to: (f64, f64)) {
    let middle = f64::midpoint(from.1, to.1);
    let (x1, x2) = (from.0 + PADDING, to.0 + PADDING);
    // Writing to a text does not fail.
    let _ = write!(path, "C{x1:.0} {middle:.0} {x2:.0} {middle:.0} {x2:.0} {:.0}", to.1);
}

fn lines(step: &Step) -> Vec<String> {
    let state =
        step.state.map_or_else(String::new, |state| format!(" {} {}", state.sign(), state.word()));
    let mut lines = vec![format!("{}{state}", step.id), step.work.clone()];
    lines.extend(step.notes.iter().cloned());
    let cut = |line: String| match line.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    };
    lines.into_iter().map(cut).collect()
}

fn width(lines: &[String]) -> f64 {
    let longest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    CHAR * f64::from(u16::try_from(longest).unwrap_or(u16::MAX)) + 2.0 * PADDING
}

fn height(lines: &[String]) -> f64 {
    LINE * f64::from(u16::try_from(lines.len()).unwrap_or(u16::MAX)) + PADDING
}

fn draw_box(body: &mut String, step: &Step, lines: &[String], (left, top): (f64, f64), width: f64) {
    let (fill, stroke) = State::colors(step.state);
    let (radius, border) = match step.kind {
        Kind::Plain => (6, "stroke-width=\"1.5\""),
        Kind::Reserved => (18, "stroke-width=\"1.5\""),
        Kind::Pivot => (2, "stroke-width=\"4\""),
        Kind::Child => (6, "stroke-width=\"1.5\" stroke-dasharray=\"6 3\""),
    };
    let height = height(lines);
    put(
        body,
        format_args!(
            "<rect x=\"{left:.0}\" y=\"{top:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"{radius}\" \
         fill=\"{fill}\" stroke=\"{stroke}\" {border}/>"
        ),
    );
    let middle = left + width / 2.0;
    for (at, line) in lines.iter().enumerate() {
        let y = top + LINE * f64::from(u16::try_from(at + 1).unwrap_or(u16::MAX));
        let weight = if at == 0 { " font-weight=\"bold\"" } else { "" };
        let color = if at < 2 { "#1f2328" } else { "#57606a" };
        put(
            body,
            format_args!(
                "<text x=\"{middle:.0}\" y=\"{y:.0}\" text-anchor=\"middle\"{weight} fill=\"{color}\">{}</text>",
                escaped(line)
            ),
        );
    }
}

fn escaped(text: &str) -> String {
    let shown = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&quot;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    text.chars().map(shown).collect()
}
