//! Warnings of what is allowed and may be a mistake, within children, too.

use unanimo_saga::SagaFile;

#[test]
fn two_phase_commit_that_others_wait_for_is_a_warning() {
    let text = "\
saga: a
steps:
  a: {participant: p, action: x, mode: 2pc}
  b: {participant: p, action: x, after: [a]}
";
    let file = SagaFile::parse("f", text).expect("it is allowed");
    let warnings: Vec<_> = file.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "f:3:40: steps.a.mode keeps rows locked while b works; let a step in two-phase commit come last \
         before the pivot, or make it tcc",
        ]
    );
    let child = "saga: s\nsteps:\n  sub:\n    child:\n      steps:\n        a: {participant: p, action: x, mode: 2pc}\n        \
                 b: {participant: p, action: x, after: a}";
    let within = SagaFile::parse("f", child).expect("it is allowed");
    let told: Vec<_> = within.warnings().iter().map(ToString::to_string).collect();
    assert!(
        matches!(&told[..], [one] if one.starts_with("f:6:46: steps.sub.child.steps.a.mode keeps rows locked while b works")),
        "{told:?}"
    );
    let file = SagaFile::parse("f", &text.replace("[a]", "[a], pivot: true")).expect("it is good");
    assert!(file.warnings().is_empty());
}
