//! Work of the example in Python that its database refuses, that loses its transaction, or whose data has vanished
//! (promises S7 and S11).

use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::{python, root};

/// The cases are in Python, and each says its name when it has passed.
#[test]
fn s7_work_that_cannot_be_done_is_no_success_in_python() {
    let file = run_folder().join(format!("{}.db", Uuid::now_v7()));
    let script = root().join("tests/suite/python/work.py");
    let mut command = python();
    command.env("PYTHONPATH", root().join("examples/python-participant"));
    let ran = command.arg(&script).arg(&file).output().unwrap();
    let (out, errors) =
        (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{errors}");
    let cases = std::fs::read_to_string(script).unwrap();
    let listed = cases.rsplit("for case in (").next().unwrap().split("):").next().unwrap();
    assert_eq!(out.lines().count(), listed.matches(',').count(), "{out}");
    // Nothing that stands in the file is left out.
    let is_case = |line: &&str| line.starts_with("def ") && line.ends_with("():");
    assert_eq!(listed.matches(',').count(), cases.lines().filter(is_case).count(), "{listed}");
}
