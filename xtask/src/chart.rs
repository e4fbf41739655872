//! The chart of Helm: what is made from its values, and what Helm renders of it.
//!
//! Always checked: `values.schema.json`, the README and the copy of the alerts are what their sources say; each value is
//! used by a template, and each value that a template uses is there. With Helm, too: `helm lint`, the values under `ci/`
//! render what is under `deploy/helm/rendered`, and mistakes that the values alone show are refused.

mod helm;
mod page;
mod schema;
mod values;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};

use self::values::Value;

/// Folder of the chart.
const CHART: &str = "deploy/helm/unanimo";

/// Checks the chart; `--accept` makes what is generated anew.
pub(crate) fn chart(arguments: &[&str]) -> Result<()> {
    let accept = match arguments {
        [] => false,
        ["--accept"] => true,
        _ => bail!("`cargo xtask chart` takes `--accept` or nothing"),
    };
    let values = values::parse(&read("values.yaml")?)?;
    check_uses(&values)?;
    let settings = schema::settings(&fs::read_to_string("docs/reference/config.md")?)?;
    let made = [
        ("values.schema.json", schema::schema(&values, &settings)),
        ("README.md", page::page(&values)),
        ("files/rules.yaml", fs::read_to_string("deploy/prometheus/rules.yaml")?),
    ];
    for (name, text) in made {
        compare(&format!("{CHART}/{name}"), &text, accept)?;
    }
    helm::check(accept)
}

fn read(name: &str) -> Result<String> {
    let path = format!("{CHART}/{name}");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

/// Compares a file with what it should be, or writes it.
fn compare(path: &str, text: &str, accept: bool) -> Result<()> {
    if accept {
        return fs::write(path, text).with_context(|| format!("write {path}"));
    }
    if fs::read_to_string(path).unwrap_or_default() != text {
        bail!("{path} is not what it is made from: run `cargo xtask chart --accept`");
    }
    Ok(())
}

/// Checks that each value is used by a template, and that each value that a template uses is there.
fn check_uses(values: &[Value]) -> Result<()> {
    let mut templates = String::new();
    for entry in fs::read_dir(format!("{CHART}/templates"))? {
        templates += &fs::read_to_string(entry?.path())?;
    }
    let wrong = wrong_uses(values, &templates);
    if !wrong.is_empty() {
        bail!("values and templates of {CHART}:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn wrong_uses(values: &[Value], templates: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let used = templates.split(".Values.").skip(1);
    let used = used.map(|rest| rest.split(|c| !is_name(c)).next().unwrap_or_default());
    let used: BTreeSet<&str> = used.map(|path| path.trim_end_matches('.')).collect();
    let there: BTreeSet<&str> = values.iter().map(|value| value.path.as_str()).collect();
    let unknown =
        used.difference(&there).map(|path| format!("a template uses {path}: there is none"));
    let leaves = values.iter().filter(|value| !value.is_section()).map(|value| value.path.as_str());
    let unused =
        leaves.filter(|path| !used.contains(path)).map(|path| format!("no template uses {path}"));
    unknown.chain(unused).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_without_use_and_a_use_without_value_are_found() {
        let values = values::parse("# A\na: 1\nb:\n  # C\n  c: x\n").expect("values");
        assert!(wrong_uses(&values, "{{ .Values.a }} {{ .Values.b.c }}").is_empty());
        let wrong = wrong_uses(&values, "{{ .Values.a }} {{ .Values.b.d }}");
        assert_eq!(wrong, ["a template uses b.d: there is none", "no template uses b.c"]);
    }
}
