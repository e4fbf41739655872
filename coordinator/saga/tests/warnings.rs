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

/// The coordinator's own bound ends the call before.
#[test]
fn an_attempt_that_is_longer_than_a_call_is_a_warning() {
    let warnings = |timeout: &str| {
        let text = format!(
            "saga: a\nsteps:\n  pay: {{participant: p, action: x, attempt_timeout: {timeout}}}"
        );
        let file = SagaFile::parse("f", &text).expect("it is allowed");
        file.warnings().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(warnings("10s"), [""; 0]);
    assert_eq!(
        warnings("10001ms"),
        [
            "f:3:53: steps.pay.attempt_timeout is beyond the coordinator's call-timeout, 10s by default, which \
             ends the call; make it shorter, or that setting longer",
        ]
    );
    let child = "saga: a\nsteps:\n  sub:\n    child:\n      steps:\n        a: {participant: p, action: x, \
                 attempt_timeout: 1m}";
    let file = SagaFile::parse("f", child).expect("it is allowed");
    let told: Vec<_> = file.warnings().iter().map(ToString::to_string).collect();
    assert!(
        matches!(&told[..], [one] if one.starts_with("f:6:57: steps.sub.child.steps.a.attempt_timeout is beyond")),
        "{told:?}"
    );
}
