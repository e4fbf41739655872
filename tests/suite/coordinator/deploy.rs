//! Files of `deploy/`: they ask for nothing that a running coordinator does not show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use tonic::Code;
use unanimo_coordinator::metrics::TABLE;
use unanimo_proto::v1::Outcome;

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

/// Takes the conditions on labels of an expression: metric, label, values.
fn conditions(expression: &str) -> Vec<(String, String, Vec<String>)> {
    let mut found = Vec::new();
    for (braces, _) in expression.match_indices('{') {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = expression[..braces].rsplit(|c| !is_name(c)).next().unwrap();
        let inside = expression[braces + 1..].split_once('}').expect("a brace that ends").0;
        for condition in inside.split("\",").map(|condition| condition.trim_matches(['"', ' '])) {
            let (label, value) = condition.split_once('"').expect("LABEL=\"VALUE\"");
            let label = label.trim_end_matches(['=', '~', '!']);
            let values = value.split('|').map(str::to_owned).collect();
            found.push((name.to_owned(), label.to_owned(), values));
        }
    }
    found
}

/// Takes the values that were scraped, by metric and label.
fn values(scraped: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut values: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in scraped.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let (labels, _) = rest.rsplit_once('}').expect("labels that end");
        for label in labels.split("\",") {
            let (label, value) = label.split_once("=\"").expect("LABEL=\"VALUE\"");
            let of = values.entry((name.to_owned(), label.to_owned())).or_default();
            of.insert(value.trim_end_matches('"').to_owned());
        }
    }
    values
}

/// Fails if a condition asks for a value that a label never has: of codes one that gRPC has not, of others one that was
/// not scraped.
fn check_values(
    of: &str,
    expression: &str,
    scraped: &BTreeMap<(String, String), BTreeSet<String>>,
) {
    let codes: BTreeSet<String> = (0..17).map(|code| format!("{:?}", Code::from(code))).collect();
    for (name, label, wanted) in conditions(expression) {
        if ADDED.contains(&label.as_str()) {
            continue;
        }
        let shown = scraped.get(&(name.clone(), label.clone()));
        let shown = if label == "code" { Some(&codes) } else { shown };
        let shown = shown.unwrap_or_else(|| panic!("{of}: no {label} of {name} was scraped"));
        for value in wanted {
            assert!(shown.contains(&value), "{of}: {label} of {name} is never {value}: {shown:?}");
        }
    }
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

/// Values of labels that alerts and dashboard ask for are those that a coordinator shows where work commits, aborts, and
/// fails at first.
#[tokio::test]
async fn alerts_and_dashboard_ask_for_values_that_are_shown() {
    let world = World::sqlite().await;
    for (gid, action, outcome) in [
        ("committed", "ok", Outcome::Committed),
        ("aborted", "refuse", Outcome::Aborted),
        ("after-a-failure", "fail-1", Outcome::Committed),
    ] {
        let result = world.submit(tcc(gid, &[action])).await.unwrap();
        assert_eq!(result.outcome(), outcome, "{gid}");
    }
    let scraped = values(&http_get(&world, "/metrics").await.1);
    let (alerts, queries) = (alerts(), queries());
    alerts.iter().for_each(|(name, expression)| check_values(name, expression, &scraped));
    queries.iter().for_each(|expression| check_values("the dashboard", expression, &scraped));
    let asked = alerts.values().chain(&queries).flat_map(|text| conditions(text));
    let asked: BTreeSet<_> = asked.map(|(_, label, _)| label).collect();
    let labels = ["code", "instance", "job", "outcome", "result"].map(str::to_owned);
    assert_eq!(asked, labels.into(), "each is looked at");

    let job = "job=\"unanimo\"";
    check_values("a test", &format!("x{{{job}}}"), &scraped);
    for wrong in [
        format!("unanimo_participant_calls_total{{{job}, result=\"fail\"}}"),
        format!("unanimo_transactions_decided_total{{outcome!=\"abort\", {job}}}"),
        format!("unanimo_requests_total{{{job}, code=~\"Internal|UNAVAILABLE\"}}"),
        format!("1 + unanimo_alarms{{{job}}} + unanimo_lease_held{{result=\"failed\"}}"),
    ] {
        let found = std::panic::catch_unwind(|| check_values("a test", &wrong, &scraped));
        assert!(found.is_err(), "{wrong}");
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
