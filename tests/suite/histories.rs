//! Recorded histories of every version, replayed: what they meant, they mean.

mod run;
mod scripts;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use unanimo_core::history::{self, Caller, Document};
use unanimo_core::{Compensation, Mode, RetryPolicy};

use self::scripts::SCRIPTS;

/// Folder of the histories; one of each version is in it.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("histories")
}

fn of_this_version() -> PathBuf {
    folder().join(env!("CARGO_PKG_VERSION"))
}

/// List of the digests of all histories, as `sha256sum --check` reads it.
fn list() -> PathBuf {
    folder().join("SHA256SUMS")
}

/// Every file in the folder of a version, by its path in the folder of all.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for version in std::fs::read_dir(folder()).unwrap() {
        let version = version.unwrap().path();
        if !version.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&version).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(folder()).unwrap().display().to_string();
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
}

/// Every history of every version.
fn recorded() -> Vec<(String, Document)> {
    let read = |(name, bytes): (String, Vec<u8>)| {
        let document = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            panic!("{name}: {error}");
        });
        (name, document)
    };
    files().into_iter().map(read).collect()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Digests of the list, by name.
fn listed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(list()).unwrap_or_default();
    let line = |line: &str| {
        let (digest, name) = line.split_once("  ").unwrap_or_else(|| panic!("no digest: {line}"));
        (name.to_owned(), digest.to_owned())
    };
    text.lines().map(line).collect()
}

/// A record that is changed, or lost, would be equal to whatever it was changed to.
#[test]
fn recorded_histories_stay_as_they_were_recorded() {
    let digests: BTreeMap<_, _> =
        files().into_iter().map(|(name, bytes)| (name, digest(&bytes))).collect();
    let listed = listed();
    assert!(listed.len() >= SCRIPTS.len(), "{} histories are listed", listed.len());
    for name in digests.keys().chain(listed.keys()) {
        let (is, was) = (digests.get(name), listed.get(name));
        assert_eq!(
            is, was,
            "{name} is not what was recorded; `cargo xtask histories` lists new ones"
        );
    }
}

/// A field that no version reads is a misspelt one, or the record of something that is not compared.
#[test]
fn nothing_in_a_recorded_history_is_passed_over() {
    for (name, bytes) in files() {
        let document: Document = serde_json::from_slice(&bytes).unwrap();
        let known = serde_json::to_value(&document).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(written, known, "{name}");
    }
}

#[test]
fn s4_recorded_histories_of_every_version_mean_the_same() {
    let recorded = recorded();
    assert!(recorded.len() >= SCRIPTS.len(), "{} histories are there", recorded.len());
    let differ: Vec<String> = recorded
        .iter()
        .filter_map(|(name, document)| {
            let error = history::replay(document).err()?;
            Some(format!("{name}\n{error}"))
        })
        .collect();
    let count = differ.len();
    assert_eq!(count, 0, "running transactions would change their meaning:\n{}", differ.join("\n"));
}

/// Each definition that is another one in a key, with that key.
fn changed_definitions(recorded: &Document) -> Vec<(String, Document)> {
    let mut changed = Vec::new();
    let mut with = |key: String, change: &dyn Fn(&mut Document)| {
        let mut document = recorded.clone();
        change(&mut document);
        changed.push((key, document));
    };
    let other = |mode| match mode {
        Mode::Tcc => Mode::Saga,
        _ => Mode::Tcc,
    };
    with("mode".into(), &|d| d.transaction.mode = other(d.transaction.mode));
    with("declarative".into(), &|d| d.transaction.declarative ^= true);
    with("gid".into(), &|d| d.transaction.gid = unanimo_core::Gid::new("another-gid").unwrap());
    for at in 0..recorded.branches.len() {
        let mut of = |key: &str, change: &dyn Fn(&mut history::BranchShape)| {
            with(format!("branches[{at}].{key}"), &|d| change(&mut d.branches[at]));
        };
        of("pivot", &|branch| branch.pivot ^= true);
        of("mode", &|branch| branch.mode = other(branch.mode));
        of("by", &|branch| {
            branch.by = match branch.by {
                Caller::Coordinator => Caller::Initiator,
                Caller::Initiator => Caller::Coordinator,
            }
        });
        of("compensation", &|branch| {
            branch.compensation = match branch.compensation {
                Compensation::Kept => Compensation::Compensate,
                _ => Compensation::Kept,
            }
        });
        of("retry", &|branch| {
            branch.retry = Some(RetryPolicy { attempts_max: Some(77), ..RetryPolicy::default() });
        });
        of("attempt_timeout", &|branch| {
            branch.attempt_timeout = Some(std::time::Duration::from_secs(77));
        });
        of("payload", &|branch| branch.payload.bytes += 1);
        of("action", &|branch| branch.action = unanimo_core::ActionName::new("other").unwrap());
    }
    changed
}

/// A change of the definition does not always show in a call: the record itself tells it.
#[test]
fn a_definition_that_was_changed_afterwards_differs() {
    for (name, script) in SCRIPTS {
        let recorded = run::record(name, script);
        history::replay(&recorded).unwrap_or_else(|error| panic!("{name}: {error}"));
        for (key, document) in changed_definitions(&recorded) {
            let found = history::replay(&document);
            let Err(history::Error::Differs(difference)) = found else {
                panic!("{name}, {key}: {found:?}");
            };
            let what = &difference.what;
            let of_branch = key.starts_with("branches");
            // What cannot be added at all is told so.
            let rejected = of_branch && what == "the input is not taken any more";
            let told = what.starts_with("the definition of ")
                && what.contains("the transaction") != of_branch;
            assert!(told || rejected, "{name}, {key}: {difference}");
        }
    }
}

/// Each document that says another time at one place, with that place. An input between two others can have come a
/// little earlier or later: such a time is moved past its neighbours alone.
fn changed_times(recorded: &Document) -> Vec<(String, Document)> {
    const HOUR_MS: u64 = 3_600_000;
    let document = serde_json::to_value(recorded).unwrap();
    let mut places = Vec::new();
    times(&document, &mut String::new(), &mut places);
    let mut changed = Vec::new();
    for (pointer, time) in places {
        for other in [time + 1, time - 1, time + HOUR_MS, time - HOUR_MS] {
            if other.abs_diff(time) == 1 && is_between_inputs(&document, &pointer) {
                continue;
            }
            let mut document = document.clone();
            *document.pointer_mut(&pointer).unwrap() = other.into();
            let place = format!("{pointer} {:+}", other.cast_signed() - time.cast_signed());
            changed.push((place, serde_json::from_value(document).unwrap()));
        }
    }
    changed
}

/// Finds all times of day, as pointers.
fn times(value: &serde_json::Value, path: &mut String, found: &mut Vec<(String, u64)>) {
    use serde_json::Value;
    let mut inner = |name: &str, value: &Value| {
        let end = path.len();
        let _ = write!(path, "/{name}");
        times(value, path, found);
        path.truncate(end);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| inner(name, value)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, value)| inner(&at.to_string(), value));
        }
        // No duration of a script is half as long.
        Value::Number(number) => {
            let time = number.as_u64().filter(|time| *time > run::BEGUN.0 / 2);
            found.extend(time.map(|time| (path.clone(), time)));
        }
        _ => {}
    }
}

/// Tells whether a place is the time of an input that did not make the write.
fn is_between_inputs(document: &serde_json::Value, pointer: &str) -> bool {
    let Some((steps, step)) = pointer.strip_suffix("/at").and_then(|step| step.rsplit_once('/'))
    else {
        return false;
    };
    let count = document.pointer(steps).and_then(|steps| steps.as_array()).map_or(0, Vec::len);
    steps.ends_with("/steps") && step.parse::<usize>().unwrap() + 1 < count
}

/// Deadlines, starts, retries, and when inputs came: what today's state machine makes of the inputs is compared, and
/// what it cannot make keeps the order of time.
#[test]
fn a_time_that_was_changed_afterwards_differs() {
    // Its deadline is in nothing that happened, and that version made no digests.
    const NOWHERE: (&str, &str) =
        ("0.1.0/saga-cancelled-before-start.json", "/transaction/deadline ");
    let of_today = SCRIPTS.iter().map(|(name, script)| (*name, run::record(name, script)));
    let of_today = of_today.map(|(name, document)| (name.to_owned(), document));
    let mut passed_over = Vec::new();
    let mut count = 0;
    for (name, recorded) in recorded().into_iter().chain(of_today) {
        for (place, document) in changed_times(&recorded) {
            if name == NOWHERE.0 && place.starts_with(NOWHERE.1) {
                continue;
            }
            count += 1;
            if history::replay(&document).is_ok() {
                passed_over.push(format!("{name}{place}"));
            }
        }
    }
    assert!(count > 1_000, "{count} times were changed");
    assert_eq!(passed_over, [""; 0], "{} of {count}", passed_over.len());
}

/// A script that is new, or a new version: `cargo xtask histories` adds what is missing.
#[test]
fn every_script_is_recorded() {
    for (name, _) in SCRIPTS {
        let path = of_this_version().join(format!("{name}.json"));
        assert!(path.exists(), "{} is missing: run `cargo xtask histories`", path.display());
    }
}

#[test]
#[ignore = "adds files to the repository: `cargo xtask histories`"]
fn add_what_is_missing() {
    std::fs::create_dir_all(of_this_version()).unwrap();
    for (name, script) in SCRIPTS {
        let path = of_this_version().join(format!("{name}.json"));
        let document = run::record(name, script);
        history::replay(&document).unwrap_or_else(|error| panic!("{name}: {error}"));
        // One that is there is never written again: it is what a version did.
        if !path.exists() {
            let text = serde_json::to_string_pretty(&document).unwrap();
            std::fs::write(&path, text + "\n").unwrap();
            eprintln!("added {}", path.display());
        }
    }
    let mut listed = listed();
    for (name, bytes) in files() {
        // Nor is a line of the list.
        listed.entry(name).or_insert_with(|| digest(&bytes));
    }
    let line = |(name, digest)| format!("{digest}  {name}\n");
    std::fs::write(list(), listed.into_iter().map(line).collect::<String>()).unwrap();
}
