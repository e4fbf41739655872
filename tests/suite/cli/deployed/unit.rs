//! The unit of systemd.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use unanimo_coordinator::Config;
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::super::{Program, addresses, command, new_path, sqlite};
use super::{none, read};

const UNIT: &str = "deploy/systemd/unanimo.service";

/// Directives with `yes` or `no`, of systemd 252 (systemd.exec, systemd.service).
const FLAGS: &[&str] = &[
    "DynamicUser",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateTmp",
    "PrivateUsers",
    "ProtectClock",
    "ProtectControlGroups",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "RemoveIPC",
    "RestrictRealtime",
    "RestrictSUIDSGID",
];

/// Other directives, by their section.
const OTHERS: &[(&str, &[&str])] = &[
    (
        "Unit",
        &[
            "After",
            "Before",
            "Description",
            "Documentation",
            "Requires",
            "StartLimitBurst",
            "StartLimitIntervalSec",
            "Wants",
        ],
    ),
    (
        "Service",
        &[
            "AmbientCapabilities",
            "CapabilityBoundingSet",
            "Environment",
            "EnvironmentFile",
            "ExecStart",
            "Group",
            "LimitCORE",
            "LimitNOFILE",
            "LoadCredential",
            "ProcSubset",
            "ProtectHome",
            "ProtectProc",
            "ProtectSystem",
            "ReadOnlyPaths",
            "ReadWritePaths",
            "Restart",
            "RestartSec",
            "RestrictAddressFamilies",
            "RestrictNamespaces",
            "StateDirectory",
            "SupplementaryGroups",
            "SystemCallArchitectures",
            "SystemCallErrorNumber",
            "SystemCallFilter",
            "TimeoutStopSec",
            "Type",
            "UMask",
            "User",
            "WorkingDirectory",
        ],
    ),
    ("Install", &["Alias", "WantedBy"]),
];

/// Directives that an operator relies on. Without one the service could do more than it needs.
const HARDENED: &[&str] = &[
    "DynamicUser=yes",
    "CapabilityBoundingSet=",
    "MemoryDenyWriteExecute=yes",
    "NoNewPrivileges=yes",
    "PrivateDevices=yes",
    "PrivateTmp=yes",
    "ProtectHome=yes",
    "ProtectSystem=strict",
    "RestrictNamespaces=yes",
    "SystemCallFilter=@system-service",
    "UMask=0077",
    "LimitCORE=0",
    // Exit code 3 of a fenced process, too.
    "Restart=always",
];

/// Takes the lines of a unit apart: section, directive, value.
fn lines(unit: &str) -> Vec<(&str, &str, &str)> {
    let (mut section, mut lines) = ("", Vec::new());
    for line in unit.lines().map(str::trim) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => section = name,
            None if line.is_empty() || line.starts_with('#') => {}
            None => {
                let (name, value) = line.split_once('=').unwrap_or((line, ""));
                lines.push((section, name, value));
            }
        }
    }
    lines
}

fn value<'a>(unit: &'a str, name: &str) -> &'a str {
    let found = lines(unit).into_iter().find(|(_, found, _)| *found == name);
    found.map_or("", |(_, _, value)| value)
}

/// Returns what systemd would pass over or understand otherwise, and what is not hardened.
fn wrong(unit: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (section, name, value) in lines(unit) {
        let is_flag = section == "Service" && FLAGS.contains(&name);
        let is_other = OTHERS.iter().any(|(of, names)| *of == section && names.contains(&name));
        if !is_flag && !is_other {
            wrong.push(format!("[{section}] has no {name}"));
        }
        if is_flag && !["yes", "no"].contains(&value) {
            wrong.push(format!("{name} must be yes or no, is {value}"));
        }
    }
    let has = |wanted: &str| {
        lines(unit).iter().any(|(_, name, value)| format!("{name}={value}") == wanted)
    };
    wrong.extend(
        HARDENED.iter().filter(|wanted| !has(wanted)).map(|wanted| format!("lacks {wanted}")),
    );
    let seconds = value(unit, "TimeoutStopSec").parse().unwrap_or(0);
    let drain = Config::default().drain_timeout.0;
    if Duration::from_secs(seconds) <= drain {
        wrong.push(format!("TimeoutStopSec must be longer than drain-timeout, {drain:?}"));
    }
    let credential = value(unit, "LoadCredential").split(':').next().unwrap_or_default();
    if !value(unit, "ExecStart").contains(&format!("${{CREDENTIALS_DIRECTORY}}/{credential}")) {
        wrong.push(format!("ExecStart does not use the credential {credential}"));
    }
    wrong
}

#[test]
fn the_unit_has_directives_that_systemd_knows_and_is_hardened() {
    let unit = read(UNIT);
    none(UNIT, &wrong(&unit));
    // What is wrong is found.
    for (good, bad, found) in [
        ("PrivateTmp=yes", "PrivateTemp=yes", "[Service] has no PrivateTemp"),
        ("PrivateTmp=yes", "PrivateTmp=maybe", "PrivateTmp must be yes or no, is maybe"),
        (
            "StartLimitIntervalSec=0\n\n[Service]",
            "[Service]\nStartLimitIntervalSec=0",
            "[Service] has no StartLimitIntervalSec",
        ),
        ("NoNewPrivileges=yes\n", "", "lacks NoNewPrivileges=yes"),
        ("TimeoutStopSec=60", "TimeoutStopSec=30", "TimeoutStopSec must be longer"),
        ("LoadCredential=unanimo.toml", "LoadCredential=other.toml", "the credential other.toml"),
    ] {
        assert!(unit.contains(good), "{good}");
        let told = wrong(&unit.replacen(good, bad, 1)).join("\n");
        assert!(told.contains(found), "{found} in: {told}");
    }
}

/// The program understands the command of the unit, and serves with it until it is told to end.
#[tokio::test]
async fn the_units_command_is_one_of_the_program() {
    let folder = run_folder().join(Uuid::new_v4().to_string());
    fs::create_dir(&folder).unwrap();
    let url = sqlite(&new_path(".db"));
    let settings = format!(
        "database-url = \"{url}\"\nlisten = \"127.0.0.1:0\"\nadmin-listen = \"127.0.0.1:0\"\nnode = \"one\"\n"
    );
    let unit = read(UNIT);
    let credential = value(&unit, "LoadCredential").split(':').next().unwrap();
    fs::write(folder.join(credential), settings).unwrap();
    let line = value(&unit, "ExecStart");
    let line = line.replace("${CREDENTIALS_DIRECTORY}", &folder.display().to_string());
    let mut words = line.split(' ');
    assert!(words.next().unwrap().ends_with("/unanimo"), "{line}");
    let mut program = Program::start(command(&words.collect::<Vec<_>>()));
    addresses(&mut program).await;
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// Where systemd is installed, it says the same.
#[test]
fn systemd_itself_finds_no_mistake_in_the_unit() {
    let has = Command::new("systemd-analyze").arg("--version").output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("systemd-analyze is not installed: skipped");
        return;
    }
    let folder = run_folder().join(Uuid::new_v4().to_string());
    fs::create_dir(&folder).unwrap();
    let there = folder.join("unanimo.service");
    // It looks for the program.
    let program = env!("CARGO_BIN_EXE_unanimo-under-test");
    let analyzed = |unit: &str, arguments: &[&str]| {
        fs::write(&there, unit.replace("/usr/local/bin/unanimo", program)).unwrap();
        let ran = Command::new("systemd-analyze").args(arguments).arg(&there).output().unwrap();
        let told = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        (ran.status.success(), told)
    };
    let unit = read(UNIT);
    let (verified, told) = analyzed(&unit, &["verify", "--man=no"]);
    assert!(verified && !told.contains("unanimo.service"), "{told}");
    let (_, told) = analyzed(&unit.replace("PrivateTmp=", "PrivateTemp="), &["verify", "--man=no"]);
    assert!(told.contains("PrivateTemp"), "it finds a mistake: {told}");
    // Exposure in tenths: below 2.0 it is OK.
    let security = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    let (safe, told) = analyzed(&unit, &security);
    assert!(safe, "{told}");
    let (safe, told) = analyzed(&unit.replace("CapabilityBoundingSet=\n", ""), &security);
    assert!(!safe, "it finds what is not hardened: {told}");
}
