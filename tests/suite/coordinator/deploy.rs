//! Files of `deploy/`: they ask for nothing that a running coordinator does not show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use unanimo_coordinator::metrics::TABLE;

use super::http::http_get;
use super::{World, tcc};

/// Labels that Prometheus itself adds.
const ADDED: [&str; 4] = ["job", "instance", "le", "datasource"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Expressions of the alerts, each in one line, by the alert's name.
fn alerts() -> BTreeMap<String, String> {
    let text = read("prometheus/rules.yaml");
    let mut alerts = BTreeMap::new();
    let mut lines = text.lines().peekable();
    let mut name = None;
    while let Some(line) = lines.next() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            assert_eq!(
                name.replace(alert.to_owned()),
                None,
                "{alert}: the alert before has no expression"
            );
        }
        let Some(first) = line.strip_prefix("        expr: ") else { continue };
        let mut expression = first.replace(">-", "");
        while let Some(more) = lines.next_if(|line| line.starts_with("          ")) {
            expression = format!("{expression} {}", more.trim());
        }
        alerts.insert(name.take().expect("an alert"), expression);
    }
    assert!(alerts.len() >= 20, "{alerts:?}");
    alerts
}

/// Expressions of the dashboard.
fn queries() -> Vec<String> {
    fn collect(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (key, value) in fields {
                    match value.as_str() {
                        Some(text) if key == "expr" => into.push(text.to_owned()),
                        _ => collect(value, into),
                    }
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|v| collect(v, into)),
            _ => {}
        }
    }
    let dashboard = serde_json::from_str(&read("grafana/unanimo.json")).unwrap();
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    assert!(queries.len() >= 30, "{queries:?}");
    queries
}

/// Takes the series that an expression reads, each with the labels that it names in braces.
fn series(expression: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = expression.match_indices(['u', 'p']).map(|(at, _)| at);
    let starts = starts.filter(|&at| {
        let begins = !expression[..at].ends_with(is_name);
        begins && ["unanimo_", "process_"].iter().any(|own| expression[at..].starts_with(own))
    });
    let taken = starts.map(|at| {
        let rest = &expression[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let braces = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = braces.map_or("", |(labels, _)| labels).split(',');
        let labels = labels.filter_map(|label| label.split(['=', '!']).next());
        let labels = labels.map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        (rest[..end].to_owned(), labels.collect())
    });
    taken.collect()
}

/// Takes the labels by which an expression groups.
fn grouped(expression: &str) -> BTreeSet<String> {
    let groups = expression.split("by (").skip(1);
    let names = groups.filter_map(|rest| rest.split(')').next()).flat_map(|names| names.split(','));
    names.map(|name| name.trim().to_owned()).collect()
}

/// Fails if an expression reads a series that was not scraped, or a label that its metric has not.
fn check(of: &str, expression: &str, scraped: &str) {
    let read = series(expression);
    assert!(!read.is_empty(), "{of} reads no series: {expression}");
    let mut known: BTreeSet<&str> = ADDED.into();
    for (name, labels) in &read {
        let bare = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
        let found = TABLE.iter().find(|metric| match (bare, metric.kind) {
            (Some(bare), "histogram") => metric.name == bare,
            (_, "histogram") => false,
            _ => metric.name == name,
        });
        let metric = found.unwrap_or_else(|| panic!("{of}: no metric {name}"));
        // A family without a series is not scraped yet; its name is a unit test's.
        let base = metric.name.strip_suffix("_total").unwrap_or(metric.name);
        let is_scraped = scraped.contains(&format!("# TYPE {base} {}\n", metric.kind));
        assert!(is_scraped || !metric.labels.is_empty(), "{of}: {name} is not scraped");
        let own: BTreeSet<&str> = metric.labels.split(", ").collect();
        for label in labels {
            let is_known = own.contains(label.as_str()) || ADDED.contains(&label.as_str());
            assert!(is_known, "{of}: {name} has no label {label}");
        }
        known.extend(own);
    }
    for label in grouped(expression) {
        assert!(known.contains(label.as_str()), "{of} groups by {label}: {expression}");
    }
}

#[tokio::test]
async fn alerts_and_dashboard_read_what_is_scraped() {
    let world = World::sqlite().await;
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let (code, scraped) = http_get(&world, "/metrics").await;
    assert_eq!(code, 200);
    let (alerts, queries) = (alerts(), queries());
    alerts.iter().for_each(|(name, expression)| check(name, expression, &scraped));
    queries.iter().for_each(|expression| check("the dashboard", expression, &scraped));
    let all = |texts: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
        let names = texts.flat_map(|text| series(text)).map(|(name, _)| name);
        names.map(|name| name.trim_end_matches("_bucket").to_owned()).collect()
    };
    let (alerted, shown) = (all(&mut alerts.values()), all(&mut queries.iter()));
    for metric in TABLE {
        assert!(
            metric.alert.is_empty() || alerted.contains(metric.name),
            "{}: an alert is recommended, and rules.yaml has none",
            metric.name
        );
        assert!(shown.contains(metric.name), "{}: the dashboard does not show it", metric.name);
    }
}

/// A metric that is misspelt, or a label that it has not, is found.
#[test]
fn what_is_not_scraped_is_refused() {
    let scraped = "# TYPE unanimo_alarms gauge\n";
    check("a test", "sum by (alarm) (unanimo_alarms{job=\"x\"})", scraped);
    for wrong in [
        "unanimo_alarm{job=\"x\"}",
        "unanimo_alarms{reason=\"x\"}",
        "sum by (reason) (unanimo_alarms)",
        "unanimo_alarms_bucket",
        "unanimo_lease_held",
        "up",
    ] {
        let found = std::panic::catch_unwind(|| check("a test", wrong, scraped));
        assert!(found.is_err(), "{wrong}");
    }
}
