//! Checks that a change must pass.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::step::{Steps, cargo, has, run};
use crate::{chart, dist, docs, installed, links, msrv, packages, publish, python, soak, tidy};

/// Runs every test.
pub(crate) fn test(arguments: &[&str]) -> Result<()> {
    packages::ensure(&[
        packages::POSTGRES,
        packages::MARIADB,
        packages::PYTHON,
        packages::NODE,
        packages::CURL,
        packages::CHROMIUM,
    ])?;
    if cfg!(target_os = "linux") {
        packages::ensure(&[packages::FAKETIME])?;
    }
    python::ensure()?;
    let mut command = Command::new(env!("CARGO"));
    let arguments = match arguments {
        ["--postgres", version, rest @ ..] => {
            command.env(installed::POSTGRES_PROGRAMS, packages::postgres_of(version)?);
            rest
        }
        ["--mysqld", program, rest @ ..] => {
            command.env(MYSQLD, std::path::absolute(program)?);
            rest
        }
        _ => arguments,
    };
    command.args(["test", "--workspace"]).args(arguments);
    if std::env::var_os(TEST_THREADS).is_none() {
        command.env(TEST_THREADS, test_threads().to_string());
    }
    run(&mut command)
}

/// Names the variable with the path of a `mysqld` of MySQL, over which the tests of MariaDB run then.
const MYSQLD: &str = "TEST_MYSQLD";

/// Names the setting of the test programs for how many tests run at once.
const TEST_THREADS: &str = "RUST_TEST_THREADS";

/// Returns how many tests run at once: most of them wait for pauses, processes and servers.
fn test_threads() -> usize {
    2 * std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs all checks. The first ones take no time: what they find is told before anything is built.
pub(crate) fn ci() -> Result<()> {
    let mut steps = Steps::default();
    steps.step("tidy", || tidy::tidy(&[]))?;
    steps.step("links", links::check)?;
    steps.step("chart", || chart::chart(&[]))?;
    steps.step("formatting", || cargo(["fmt", "--all", "--check"]))?;
    steps.step("hygiene", hygiene)?;
    steps.step("clippy", || {
        cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })?;
    steps.step("the SDK with each feature alone", sdk_features)?;
    // Without the features that the program asks for.
    steps.step("the coordinator alone", || {
        cargo(["clippy", "-p", "unanimo-coordinator", "--quiet", "--", "-D", "warnings"])
    })?;
    steps.step("what an embedder gets", embedding)?;
    steps.step("generated gRPC code", docs::check_codegen)?;
    // The reference pages are compared with the program by a test.
    steps.step("tests", || test(&["--quiet"]))?;
    // Of the program that the tests have built: it has points at which it kills itself, and is another one in nothing else.
    steps.step("the archive", || {
        dist::dist(&["--check", "--program", "target/debug/unanimo-under-test"])
    })?;
    // Alone on the machine, so that the healthy's times can be compared strictly.
    steps.step("soak", || soak::soak(&["--minutes", "0.7"]))?;
    steps.step("packages", || publish::package(&[]))?;
    steps.step("the oldest Rust", msrv::msrv)?;
    steps.step("documentation", || {
        let mut command = Command::new(env!("CARGO"));
        command.args(["doc", "--workspace", "--no-deps", "--quiet"]);
        run(command.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    steps.summary("all is well");
    Ok(())
}

/// Builds the SDK with each database alone and with none, because the workspace's build has all.
fn sdk_features() -> Result<()> {
    for features in ["", "mysql", "postgres", "sqlite", "tokio-postgres", "opentelemetry"] {
        let sdk = ["clippy", "-p", "unanimo-sdk", "--quiet", "--no-default-features", "--features"];
        cargo(sdk.iter().chain(&[features, "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// Packages of the command line and of participants, which a program that embeds a coordinator does
/// not get.
const NOT_EMBEDDED: &[&str] = &[
    "unanimo",
    "unanimo-conformance",
    "unanimo-sdk",
    "anstream",
    "clap",
    "clap_complete",
    "clap_mangen",
    "comfy-table",
    "mimalloc",
    "nu-ansi-term",
    "tempfile",
    "terminal_size",
];

/// Packages of the wire contract.
const NOT_CONFORMANCE: &[&str] =
    &["unanimo-coordinator", "unanimo-core", "unanimo-sdk", "sqlx", "clap"];

/// Checks that the coordinator library and the list of guarantees depend on no package of the
/// command line.
fn embedding() -> Result<()> {
    lacks("unanimo-coordinator", NOT_EMBEDDED)?;
    lacks("unanimo-conformance", NOT_CONFORMANCE)
}

/// Fails if a package depends on one of the others.
fn lacks(package: &str, others: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["tree", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"]);
    let output = command.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    let tree = String::from_utf8(output.stdout)?;
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let found: BTreeSet<_> = names.filter(|name| others.contains(name)).collect();
    if !found.is_empty() {
        bail!("{package} must not depend on {found:?}: see `cargo tree -p {package} -i NAME`");
    }
    Ok(())
}

/// Checks licences, sources, and unused dependencies.
pub(crate) fn hygiene() -> Result<()> {
    if has("cargo-deny") {
        run(Command::new("cargo-deny").args(["check", "bans", "licenses", "sources"]))?;
    } else {
        eprintln!("    cargo-deny is not installed: skipped (cargo install cargo-deny)");
    }
    if has("cargo-machete") {
        run(&mut Command::new("cargo-machete"))?;
    } else {
        eprintln!("    cargo-machete is not installed: skipped (cargo install cargo-machete)");
    }
    Ok(())
}
