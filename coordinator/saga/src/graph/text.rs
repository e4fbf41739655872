//! Graphs as text: a line for each step, and beside it the connections.

use super::model::{Graph, Step};

/// Columns of a terminal.
const WIDTH: usize = 80;
/// Most connections beside each other. With more the text would have no room.
const LANES_MAX: usize = 16;
/// Least columns for notes.
const NOTES_MIN: usize = 20;

/// Connections that go on below a line: of the step whose yes they carry, by column.
type Lanes = Vec<Option<usize>>;

/// Signs of one line, and the columns that go on below it.
struct Row {
    step: usize,
    signs: String,
    below: String,
}

impl Graph {
    /// Draws the graph in 80 columns, if the names allow that.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n", printable(&self.title));
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        let rows = self.rows();
        let signs = rows.iter().map(|row| row.signs.chars().count()).max().unwrap_or(0);
        let width = |of: &dyn Fn(&Step) -> String| {
            self.steps.iter().map(|step| of(step).chars().count()).max().unwrap_or(0)
        };
        let id = |step: &Step| printable(&step.id);
        let state =
            |step: &Step| step.state.map_or_else(String::new, |state| state.word().to_owned());
        let work = |step: &Step| printable(&step.work);
        let (id_width, state_width, work_width) = (width(&id), width(&state), width(&work));
        for row in &rows {
            let step = &self.steps[row.step];
            let mut line = format!("{:<signs$}  {:<id_width$}", row.signs, id(step));
            if state_width > 0 {
                line += &format!("  {:<state_width$}", state(step));
            }
            line += &format!("  {:<work_width$}", work(step));
            let start = line.chars().count() + 2;
            let mut notes =
                wrap(&self.notes(step, row), WIDTH.saturating_sub(start).max(NOTES_MIN));
            let first = if notes.is_empty() { String::new() } else { notes.remove(0) };
            text.push_str(format!("{line}  {first}").trim_end());
            text.push('\n');
            for more in notes {
                let gap = start - row.below.chars().count();
                text.push_str(&format!("{}{:gap$}{more}\n", row.below, ""));
            }
        }
        for step in &self.steps {
            if let Some(child) = &step.child {
                text.push_str(&format!("\n{}\n", printable(&child.title)));
                child.write(text);
            }
        }
    }

    fn notes(&self, step: &Step, row: &Row) -> Vec<String> {
        let mut notes: Vec<String> = step.notes.iter().map(|note| printable(note)).collect();
        let before = &self.order.before[row.step];
        if !before.is_empty() {
            let names: Vec<_> = before.iter().map(|on| printable(&self.steps[*on].id)).collect();
            notes.push(format!("after {}", names.join(", ")));
        }
        notes
    }

    fn rows(&self) -> Vec<Row> {
        let count = self.steps.len();
        let mut left = vec![0; count];
        self.order.before.iter().flatten().for_each(|on| left[*on] += 1);
        let mut lanes = Lanes::new();
        let mut rows = Vec::new();
        for step in self.order.sequence() {
            rows.push(self.row(step, &mut lanes, &mut left));
        }
        let is_wide = rows.iter().any(|row| row.signs.chars().count() > 2 * LANES_MAX);
        if is_wide {
            for row in &mut rows {
                row.signs = self.steps[row.step].sign().to_string();
                row.below = String::new();
            }
        }
        rows
    }

    fn row(&self, step: usize, lanes: &mut Lanes, left: &mut [usize]) -> Row {
        let before = &self.order.before[step];
        before.iter().for_each(|on| left[*on] -= 1);
        let joins = |lane: &Option<usize>| lane.is_some_and(|on| before.contains(&on));
        let ends = |lane: &Option<usize>| joins(lane) && lane.is_some_and(|on| left[on] == 0);
        let column = lanes.iter().position(ends).or_else(|| lanes.iter().position(Option::is_none));
        let column = column.unwrap_or(lanes.len());
        if column == lanes.len() {
            lanes.push(None);
        }
        let joined: Vec<usize> =
            (0..lanes.len()).filter(|at| *at == column || joins(&lanes[*at])).collect();
        let (from, to) = (joined[0], joined[joined.len() - 1]);
        let mut signs = String::new();
        for (at, lane) in lanes.iter().enumerate() {
            let passes = from < at && at < to;
            signs.push(match lane {
                _ if at == column => self.steps[step].sign(),
                lane if joins(lane) => joint(!ends(lane), passes, at < column),
                Some(_) => '│',
                None if passes => '─',
                None => ' ',
            });
            signs.push(if from <= at && at < to { '─' } else { ' ' });
        }
        for lane in lanes.iter_mut() {
            if lane.is_some_and(|on| left[on] == 0) {
                *lane = None;
            }
        }
        lanes[column] = (left[step] > 0).then_some(step);
        while lanes.last() == Some(&None) {
            lanes.pop();
        }
        let below: String =
            lanes.iter().map(|lane| if lane.is_some() { "│ " } else { "  " }).collect();
        Row { step, signs: signs.trim_end().to_owned(), below: below.trim_end().to_owned() }
    }
}

/// Sign where a connection meets the line of a step: it goes on below or ends, another one passes
/// through or not, and the step is to the right or to the left.
fn joint(goes_on: bool, passes: bool, to_the_right: bool) -> char {
    match (goes_on, passes, to_the_right) {
        (true, true, _) => '┼',
        (false, true, _) => '┴',
        (true, false, true) => '├',
        (true, false, false) => '┤',
        (false, false, true) => '╰',
        (false, false, false) => '╯',
    }
}

/// Puts notes into lines of at most so many columns; a longer note is a line of its own.
fn wrap(notes: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let words = notes.iter().enumerate().flat_map(|(at, note)| {
        let end = if at + 1 < notes.len() { ";" } else { "" };
        let last = note.split(' ').count().saturating_sub(1);
        note.split(' ').enumerate().map(move |(at, word)| {
            if at == last { format!("{word}{end}") } else { word.to_owned() }
        })
    });
    for word in words {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// Escapes control characters of a text from elsewhere: they could change the terminal.
fn printable(text: &str) -> String {
    let shown =
        |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}
