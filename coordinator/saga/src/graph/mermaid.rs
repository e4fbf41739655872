//! Graphs as Mermaid flowcharts.

use std::fmt::Write as _;

use super::model::{Graph, Kind, State, Step};

impl Graph {
    /// Writes the graph as a Mermaid flowchart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut text = format!("---\ntitle: {}\n---\nflowchart TD\n", quoted(&self.title));
        self.write_mermaid(&mut text, "s", "  ");
        let used = |state: &State| self.uses(*state);
        for state in State::ALL.into_iter().filter(used) {
            let (fill, stroke) = State::colors(Some(state));
            let name = class(state);
            line(
                &mut text,
                "  ",
                &format!("classDef {name} fill:{fill},stroke:{stroke},color:#1f2328"),
            );
        }
        text
    }

    fn uses(&self, state: State) -> bool {
        let in_child = |step: &Step| step.child.as_ref().is_some_and(|child| child.uses(state));
        self.steps.iter().any(|step| step.state == Some(state) || in_child(step))
    }

    /// Writes nodes and arrows. `prefix` keeps the nodes of children apart.
    fn write_mermaid(&self, text: &mut String, prefix: &str, indent: &str) {
        for (at, step) in self.steps.iter().enumerate() {
            let label = quoted(&label(step));
            let node = match step.kind {
                Kind::Plain => format!("[{label}]"),
                Kind::Reserved => format!("([{label}])"),
                Kind::Pivot => format!("{{{{{label}}}}}"),
                Kind::Child => format!("[[{label}]]"),
            };
            let class = step.state.map_or_else(String::new, |state| format!(":::{}", class(state)));
            line(text, indent, &format!("{prefix}{at}{node}{class}"));
        }
        for (at, before) in self.order.before.iter().enumerate() {
            for on in before {
                line(text, indent, &format!("{prefix}{on} --> {prefix}{at}"));
            }
        }
        for (at, step) in self.steps.iter().enumerate() {
            let Some(child) = &step.child else { continue };
            let inner = format!("{prefix}{at}_");
            line(text, indent, &format!("subgraph {inner}c[{}]", quoted(&child.title)));
            child.write_mermaid(text, &inner, &format!("{indent}  "));
            line(text, indent, "end");
            line(text, indent, &format!("{prefix}{at} -.- {inner}c"));
        }
    }
}

fn line(text: &mut String, indent: &str, line: &str) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "{indent}{line}");
}

fn class(state: State) -> String {
    state.word().replace(' ', "_")
}

fn label(step: &Step) -> String {
    let state =
        step.state.map_or_else(String::new, |state| format!(" {} {}", state.sign(), state.word()));
    let mut lines = vec![format!("{}{state}", step.id), step.work.clone()];
    lines.extend(step.notes.iter().cloned());
    lines.join("\n")
}

/// Writes a text so that nothing in it is Mermaid's own syntax or HTML.
fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => "<br>".to_owned(),
        '"' => "#quot;".to_owned(),
        '#' => "#35;".to_owned(),
        '&' => "#amp;".to_owned(),
        '<' => "#lt;".to_owned(),
        '>' => "#gt;".to_owned(),
        '`' => "#96;".to_owned(),
        c if c.is_control() => " ".to_owned(),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}
