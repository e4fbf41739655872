//! The sweeper of the example in Python, and operations without an end (promises L3 and L4).

use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::{python, root, stubs};

/// The cases are in Python, and each says its name when it has passed.
#[test]
fn l4_what_is_in_doubt_or_hangs_is_an_alarm_in_python() {
    let example = root().join("examples/python-participant");
    let path = std::env::join_paths([stubs(), &*example]).unwrap();
    let file = run_folder().join(format!("{}.db", Uuid::now_v7()));
    let script = root().join("tests/suite/python/sweep.py");
    let ran = python().arg(&script).arg(&file).env("PYTHONPATH", path).output().unwrap();
    let (out, errors) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{errors}");
    let cases = std::fs::read_to_string(script).unwrap();
    let listed = cases.rsplit("for case in (").next().unwrap().split("):").next().unwrap();
    assert_eq!(out.lines().count(), listed.matches(',').count(), "{out}");
    // Nothing that stands in the file is left out. Cases have long names.
    let is_case = |line: &&str| {
        line.starts_with("def ") && line.ends_with("():") && line.matches('_').count() > 2
    };
    assert_eq!(listed.matches(',').count(), cases.lines().filter(is_case).count(), "{listed}");
}
