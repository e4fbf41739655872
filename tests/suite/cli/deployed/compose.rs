//! The compose files: services and their settings fit together, and the program knows and accepts each variable.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use unanimo_coordinator::Config;

use super::super::{Program, command};
use super::{file, none, read, yaml};
use crate::security::{Authority, Valid};

const FILES: [&str; 2] = ["compose.yaml", "deploy/compose-tls.yaml"];

/// Names of a service that the files use, as Compose knows them.
const OF_SERVICES: &[&str] = &[
    "build",
    "cap_drop",
    "depends_on",
    "environment",
    "extra_hosts",
    "healthcheck",
    "image",
    "ports",
    "read_only",
    "restart",
    "security_opt",
    "stop_grace_period",
    "user",
    "volumes",
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn items(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().map(text)
}

fn is_coordinator(service: &Value) -> bool {
    service.get("build").is_some()
}

/// Returns what does not fit together, of a file at this path.
fn wrong(path: &Path, compose: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let known = ["services", "volumes"];
    for (name, _) in
        fields(compose).filter(|(name, _)| !known.contains(name) && !name.starts_with("x-"))
    {
        wrong.push(format!("{name} is no section"));
    }
    let services = &compose["services"];
    for (name, service) in fields(services) {
        let mut tell = |what: String| wrong.push(format!("{name}: {what}"));
        for (field, _) in fields(service).filter(|(field, _)| !OF_SERVICES.contains(field)) {
            tell(format!("{field} is no field of a service"));
        }
        for (other, condition) in fields(&service["depends_on"]) {
            let healthy = text(&condition["condition"]) == "service_healthy";
            if !healthy || services[other].get("healthcheck").is_none() {
                tell(format!("depends on {other}, which is not there or tells no health"));
            }
        }
        for volume in items(&service["volumes"]) {
            let (of, _) = volume.split_once(':').expect("SOURCE:TARGET");
            if !of.starts_with('.') && compose["volumes"].get(of).is_none() {
                tell(format!("the volume {of} is not declared"));
            }
        }
        if is_coordinator(service) {
            wrong_coordinator(path, services, service, &mut tell);
        }
    }
    wrong
}

fn wrong_coordinator(path: &Path, services: &Value, service: &Value, tell: &mut dyn FnMut(String)) {
    let build = service["build"].as_str().unwrap_or(text(&service["build"]["context"]));
    let dockerfile = path.parent().expect("a folder").join(build).join("Dockerfile");
    if !dockerfile.exists() {
        tell(format!("builds without {}", dockerfile.display()));
    }
    let environment = &service["environment"];
    let known: BTreeSet<&str> = Config::described().iter().map(|setting| setting.env).collect();
    for (variable, _) in fields(environment).filter(|(name, _)| !known.contains(name)) {
        tell(format!("{variable} is no variable of the program"));
    }
    let defaults = Config::default();
    let drain = defaults.drain_timeout.0.as_secs();
    let grace = text(&service["stop_grace_period"]).trim_end_matches('s').parse().unwrap_or(0);
    if grace <= drain {
        tell(format!("stop_grace_period must be longer than drain-timeout, {drain} s"));
    }
    for (variable, default) in
        [("UNANIMO_LISTEN", defaults.listen), ("UNANIMO_ADMIN_LISTEN", defaults.admin_listen)]
    {
        let listens: Option<SocketAddr> = text(&environment[variable]).parse().ok();
        if listens.is_none_or(|listens| listens.port() != default.port()) {
            tell(format!("{variable} must have the default port, {}", default.port()));
        }
        let ends = format!(":{}", default.port());
        let published: Vec<_> =
            items(&service["ports"]).filter(|port| port.ends_with(&ends)).collect();
        if !matches!(published[..], [port] if port.starts_with("127.0.0.1:")) {
            tell(format!(
                "the port of {variable} is published as {published:?}, and not on loopback alone"
            ));
        }
    }
    let url = text(&environment["UNANIMO_DATABASE_URL"]);
    let of = |name: &str| text(&services["postgres"]["environment"][name]);
    let (user, password, name) = (of("POSTGRES_USER"), of("POSTGRES_PASSWORD"), of("POSTGRES_DB"));
    if url != format!("postgres://{user}:{password}@postgres/{name}") {
        tell(format!("{url} is not the database of the service postgres"));
    }
}

#[test]
fn services_fit_together() {
    for path in FILES {
        none(path, &wrong(&file(path), &yaml::read(&read(path))));
    }
    let path = file(FILES[0]);
    let text = read(FILES[0]);
    for (good, bad, found) in [
        ("UNANIMO_NODE", "UNANIMO_NOTE", "UNANIMO_NOTE is no variable of the program"),
        ("0.0.0.0:7610", "0.0.0.0:7510", "UNANIMO_LISTEN must have the default port, 7610"),
        ("127.0.0.1:7611:7611", "7611:7611", "and not on loopback alone"),
        ("stop_grace_period: 40s", "stop_grace_period: 30s", "must be longer than drain-timeout"),
        (
            "unanimo@postgres/unanimo",
            "unanimo@postgres/other",
            "is not the database of the service",
        ),
        (
            "      postgres:\n        condition",
            "      database:\n        condition",
            "depends on database",
        ),
        ("build: .", "build: ./docs", "builds without"),
        ("restart: unless", "restarts: unless", "restarts is no field"),
        ("\nvolumes:\n  postgres:", "\nvolumes:\n  other:", "the volume postgres is not declared"),
    ] {
        assert!(text.contains(good), "{good}");
        let told = wrong(&path, &yaml::read(&text.replacen(good, bad, 1))).join("\n");
        assert!(told.contains(found), "{found} in: {told}");
    }
}

/// The program accepts the variables of each coordinator. Paths of files of TLS are those of the container: here they are others.
#[tokio::test]
async fn the_program_accepts_the_variables() {
    let authority = Authority::new();
    let (cert, key) = authority.sign(&["coordinator"], Valid::Now);
    let mut checked = 0;
    for path in FILES {
        let compose = yaml::read(&read(path));
        let coordinators =
            fields(&compose["services"]).filter(|(_, service)| is_coordinator(service));
        for (name, service) in coordinators {
            let mut command = command(&["config"]);
            for (variable, value) in fields(&service["environment"]) {
                let value = match text(value) {
                    "/tls/ca.pem" => authority.ca().display().to_string(),
                    file if file.ends_with("-key.pem") => key.display().to_string(),
                    file if file.ends_with(".pem") => cert.display().to_string(),
                    other => other.to_owned(),
                };
                command.env(variable, value);
            }
            let ran = Program::start(command).end().await;
            assert_eq!(ran.code, 0, "{path}, {name}: {}", ran.err);
            ran.says(&["listen = \"0.0.0.0:7610\""]);
            checked += 1;
        }
    }
    assert_eq!(checked, 3, "coordinators");
}
