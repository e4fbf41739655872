//! Each mistake is told with its place, its path and the rule, all of them at once.

use std::fmt::Write as _;

use unanimo_saga::SagaFile;

const TRIP: &str = "\
saga: book-trip
input: {account: string, amount: integer}
timeout: 10m
locks: [{name: \"account:${input.account}\", wait: 5s}]
steps:
  flight: {participant: airline, action: reserve, mode: tcc, payload: {of: \"${input.account}\"}}
  hotel:
    participant: inn
    action: reserve
    retry: {attempts: 5, backoff: 200ms, backoff_max: 5s, give_up_after: 1m}
  pay:
    participant: bank
    action: charge
    after: [flight, hotel]
    inputs: {ticket: flight}
    pivot: true
    payload: {amount: \"${input.amount}\"}
    attempt_timeout: 3s
  mail: {participant: post, action: send, after: pay, compensation: none}
";

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = match SagaFile::parse("f", text) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    };
    assert_eq!(found.lines().collect::<Vec<_>>(), expected, "{text}");
}

/// Checks the definition above with one text of it replaced.
#[track_caller]
fn with(from: &str, to: &str, expected: &[&str]) {
    assert_eq!(TRIP.matches(from).count(), 1, "{from:?} is in it once");
    check(&TRIP.replace(from, to), expected);
}

#[test]
fn a_definition_without_mistakes_passes() {
    check(TRIP, &[]);
}

#[test]
fn the_syntax_is_told() {
    with("steps:\n", "steps\n", &["f:6:9: must be YAML or JSON: simple key expect ':'"]);
    let lacks = "; a definition has `saga: NAME`, and `steps:` with at least one step";
    for (text, rule) in [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("# a note\n", "is empty"),
        ("---\n", "must be an object, is null"),
        ("null", "must be an object, is null"),
        ("- saga", "must be an object, is a list"),
        ("saga", "must be an object, is a text"),
    ] {
        let told = SagaFile::parse("f", text).expect_err(text).to_string();
        assert!(told.starts_with("f:") && told.ends_with(&format!(": {rule}{lacks}")), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    check("", &[&format!("f:1:1: is empty{lacks}")]);
    check("- saga", &[&format!("f:1:1: must be an object, is a list{lacks}")]);
    check("saga: a", &["f:1:1: steps must be given"]);
}

#[test]
fn an_unknown_field_is_told_with_the_nearest_name() {
    with(
        "    action: charge",
        "    acton: charge",
        &[
            "f:11:3: steps.pay.action must be given",
            "f:13:5: steps.pay.acton is no field of a step; did you mean action?",
        ],
    );
    with(
        "wait: 5s",
        "lease: 5s",
        &["f:4:44: locks[0].lease is no field of a lock; the fields are name, mode, wait"],
    );
    with(
        "timeout: 10m",
        "timout: 10m",
        &["f:3:1: timout is no field of a saga; did you mean timeout?"],
    );
}

#[test]
fn a_wrong_type_is_told() {
    with(
        "pivot: true",
        "pivot: yes",
        &[
            "f:16:12: steps.pay.pivot must be true or false, is a text",
            // Without a pivot.
            "f:19:69: steps.mail.compensation must not be none: an ABORT may follow the branch; say \
             kept if its effect is to stay",
        ],
    );
    with(
        "attempts: 5",
        "attempts: 0",
        &["f:10:23: steps.hotel.retry.attempts must be a whole number from 1 to 4294967295, is 0"],
    );
    with(
        "timeout: 10m",
        "timeout: 10",
        &[
            "f:3:10: timeout must be a duration such as 250ms, 15s or 1h 30m, is the number 10; it needs a \
             unit, such as 10s",
        ],
    );
    with(
        "timeout: 10m",
        "timeout: soon",
        &["f:3:10: timeout must be a duration such as 250ms, 15s or 1h 30m, is \"soon\""],
    );
    with(
        "inputs: {ticket: flight}",
        "inputs: [flight]",
        &[
            "f:15:13: steps.pay.inputs must be an object: name of each input, and the step whose output \
         it is, is a list",
        ],
    );
    with(
        "mode: tcc",
        "mode: tc",
        &["f:6:57: steps.flight.mode must be saga, tcc, 2pc, is \"tc\"; did you mean tcc?"],
    );
    with(
        "payload: {of: \"${input.account}\"}",
        "payload_base64: \"?\"",
        &["f:6:78: steps.flight.payload_base64 must be base64: Invalid symbol 63, offset 0."],
    );
}

/// Says what the unit is that is missing, or that is none.
#[test]
fn a_duration_that_is_none_is_told_with_one_that_is() {
    let rule = "f:3:10: timeout must be a duration such as 250ms, 15s or 1h 30m, is";
    for (written, told) in [
        ("'5'", "\"5\"; it needs a unit, such as 5s"),
        ("1.5", "the number 1.5; it needs a unit, such as s"),
        ("400d", "\"400d\"; the longest unit is the hour, so write 9600h"),
        ("2 weeks", "\"2 weeks\"; the longest unit is the hour, so write 336h"),
        ("1d 12h", "\"1d 12h\"; the longest unit is the hour, so write 24h for a day"),
        ("1 month", "\"1 month\"; the longest unit is the hour, so write 24h for a day"),
        ("-5s", "\"-5s\""),
        ("5 minuets", "\"5 minuets\""),
    ] {
        with("timeout: 10m", &format!("timeout: {written}"), &[&format!("{rule} {told}")]);
    }
    with("timeout: 10m", "timeout: 1 h", &[]);
    with(
        "backoff: 200ms",
        "backoff: 200",
        &[
            "f:10:35: steps.hotel.retry.backoff must be a duration such as 250ms, 15s or 1h 30m, is the number \
             200; it needs a unit, such as 200s",
        ],
    );
}

#[test]
fn a_lock_that_has_no_name_is_told() {
    let whole = "{name: \"account:${input.account}\", wait: 5s}";
    let rule = "must be the name of a lock, such as account:42";
    for (written, told) in [
        (
            "account: 42",
            format!(
                "locks[0] {rule}, is an object; write \"account:42\" without a space behind the colon"
            ),
        ),
        ("42", format!("locks[0] {rule}, or an object with name, mode and wait, is a number")),
        ("[a]", format!("locks[0] {rule}, or an object with name, mode and wait, is a list")),
    ] {
        with(whole, written, &[&format!("f:4:9: {told}")]);
    }
    with(whole, "{name: 42}", &[&format!("f:4:16: locks[0].name {rule}, is a number")]);
    with(whole, "{name: {a: b}}", &[&format!("f:4:16: locks[0].name {rule}, is an object")]);
    with(
        whole,
        "{nmae: a}",
        &[
            "f:4:9: locks[0].name must be given",
            "f:4:10: locks[0].nmae is no field of a lock; did you mean name?",
        ],
    );
}

/// Of two pivots nobody knows the right one: a rule of what stands before or behind it is not told.
#[test]
fn a_second_pivot_makes_no_other_mistake() {
    let pivots = "\
saga: a
steps:
  a: {participant: p, action: x, pivot: true, compensation: none}
  b: {participant: p, action: x, pivot: true, compensation: none}
  c: {participant: p, action: x, after: b, compensation: none}
";
    check(
        pivots,
        &[
            "f:4:41: steps.b.pivot must be set in one branch at most, a is the pivot; let a step that may \
             only succeed come after it",
        ],
    );
}

#[test]
fn a_cycle_names_its_steps() {
    with(
        "    action: reserve\n    retry",
        "    action: reserve\n    after: [pay]\n    retry",
        &[
            "f:10:12: steps.hotel.after must not lead back to the branch: hotel depends on pay depends on \
         hotel",
        ],
    );
    with(
        "after: pay",
        "after: mail",
        &["f:19:50: steps.mail.after must not lead back to the branch: mail depends on mail"],
    );
}

#[test]
fn a_step_that_is_not_there_is_told_with_the_nearest_name() {
    with(
        "[flight, hotel]",
        "[flight, hotle]",
        &[
            "f:14:21: steps.pay.after[1] must be the name of a step, \"hotle\" is none; did you mean hotel?",
        ],
    );
    with(
        "{ticket: flight}",
        "{ticket: train}",
        &["f:15:22: steps.pay.inputs.ticket must be the name of a step, \"train\" is none"],
    );
}

#[test]
fn a_name_that_is_there_twice_is_told() {
    with("  mail:", "  flight:", &["f:19:3: steps.flight must be unique, it is in line 6 already"]);
    with(
        "[flight, hotel]",
        "[flight, flight]",
        &["f:14:21: steps.pay.after[1] must be unique, flight came before"],
    );
}

#[test]
fn too_many_steps_are_told() {
    let mut text = "saga: many\nsteps:\n".to_owned();
    for step in 0..65 {
        writeln!(text, "  s{step}: {{participant: p, action: a}}").expect("a text");
    }
    check(&text, &["f:3:3: steps must have at most 64 branches, has 65"]);
    check("saga: a\nsteps: {}", &["f:2:8: steps must have at least 1 branch, has none"]);
}

#[test]
fn an_output_of_a_step_that_does_not_come_before_is_told() {
    with("compensation: none}", "compensation: none, inputs: {a: flight}}", &[]);
    with(
        "retry:",
        "inputs: {a: flight}\n    retry:",
        &[
            "f:10:17: steps.hotel.inputs.a must name a branch that hotel depends on, directly or not; flight \
         is none",
        ],
    );
    with(
        "mode: tcc",
        "mode: 2pc",
        &[
            "f:15:22: steps.pay.inputs.ticket must name a branch with an output, flight is in two-phase \
         commit and has none",
        ],
    );
}

#[test]
fn the_rules_of_the_pivot_are_told() {
    with(
        "compensation: none}",
        "compensation: none, pivot: true}",
        &[
            "f:19:82: steps.mail.pivot must be set in one branch at most, pay is the pivot; let a step that may \
             only succeed come after it",
        ],
    );
    with(
        "    retry:",
        "    compensation: none\n    retry:",
        &[
            "f:10:19: steps.hotel.compensation must not be none: an ABORT may follow the branch; say kept \
         if its effect is to stay",
        ],
    );
    with(
        "    attempt_timeout: 3s",
        "    retry: {attempts: 2}",
        &[
            "f:18:23: steps.pay.retry.attempts must not be set in the pivot or after it: it is sent until it is answered",
        ],
    );
    with("    attempt_timeout: 3s", "    retry: {backoff: 1s, backoff_max: 2s}", &[]);
}

#[test]
fn bad_names_are_told() {
    with(
        "saga: book-trip",
        "saga: book trip",
        &["f:1:7: saga must consist of A-Z a-z 0-9 _ . : - only, has ' ' at byte 4"],
    );
    with(
        "saga: book-trip",
        "saga: -trip",
        &["f:1:7: saga must begin with a letter, a digit or _, begins with '-'"],
    );
    with(
        "  mail:",
        "  -mail:",
        &["f:19:3: steps.-mail must begin with a letter, a digit or _, begins with '-'"],
    );
    with(
        "participant: bank",
        "participant: unanimo",
        &[
            "f:12:18: steps.pay.participant must not be the coordinator itself; a transaction as a step is a child",
        ],
    );
    with(
        "account:${input.account}",
        "account ${input.account}",
        &[
            "f:4:16: locks[0].name must consist of A-Z a-z 0-9 _ . : - only, has ' ' at byte 7 (\"account x\")",
        ],
    );
}

#[test]
fn a_child_is_checked_with_its_own_places() {
    let text = "\
saga: order
steps:
  sub:
    child:
      timeout: 1m
      steps:
        a: {participant: p, action: x, pivot: true}
        b: {participant: p, action: x, after: [c]}
    payload: 1
    mode: tcc
";
    check(
        text,
        &[
            "f:7:47: steps.sub.child.steps.a.pivot must not be set: the parent of a child decides",
            "f:8:48: steps.sub.child.steps.b.after[0] must be the name of a step, \"c\" is none",
            "f:9:14: steps.sub.payload must not be given together with child",
            "f:10:11: steps.sub.mode must not be given together with child",
        ],
    );
    let tcc = "saga: a\nsteps:\n  sub: {child: {mode: tcc, steps: {a: {participant: p, action: x, mode: saga, delay: 1s}}}}";
    check(
        tcc,
        &[
            "f:3:73: steps.sub.child.steps.a.mode must be the mode of the transaction, tcc",
            "f:3:86: steps.sub.child.steps.a.delay must not be set: the transaction is no saga",
        ],
    );
}

/// They would reach nobody.
#[test]
fn inputs_of_a_child_are_refused() {
    let text = "\
saga: a
steps:
  s: {participant: p, action: x}
  sub: {child: {steps: {a: {participant: p, action: x}}}, after: [s], inputs: {o: s}}
";
    check(text, &["f:4:79: steps.sub.inputs must not be given together with child"]);
}

/// The coordinator has a child as a branch in TCC, and refuses what that cannot be.
#[test]
fn a_child_is_no_pivot_and_is_undone() {
    let with = |more: &str| {
        format!(
            "saga: a\nsteps:\n  sub: {{child: {{steps: {{a: {{participant: p, action: x}}}}}}, {more}}}"
        )
    };
    check(
        &with("pivot: true, compensation: compensate"),
        &[
            "f:3:66: steps.sub.pivot must not be set together with child: a child waits for its parent's \
             decision, which the pivot is",
        ],
    );
    check(
        &with("compensation: kept"),
        &[
            "f:3:73: steps.sub.compensation must not be set together with child: the child's own steps say \
             how each is undone",
        ],
    );
    check(&with("delay: 1s"), &[]);
}

#[test]
fn times_of_day_are_checked() {
    let at = |time: &str, timeout: &str| {
        format!(
            "saga: a\ntimeout: {timeout}\nsteps:\n  a: {{participant: p, action: x, start_at: \"{time}\"}}"
        )
    };
    check(
        &at("9999-01-01T00:00:00Z", "1h"),
        &[
            "f:4:44: steps.a.start_at must be at most 31622400 s ahead",
            "f:4:44: steps.a.start_at must be before the deadline of the transaction, which counts from its \
         start",
        ],
    );
    check(&at("2020-01-01T00:00:00Z", "1h"), &[]);
}

#[test]
fn placeholders_name_inputs() {
    with(
        "\"${input.amount}\"",
        "\"${input.amuont}\"",
        &[
            "f:17:23: steps.pay.payload.amount must name an input that is declared, amuont is not; did you \
         mean amount?",
        ],
    );
    with(
        "amount: integer",
        "amount: int",
        &[
            "f:2:34: input.amount must be string, integer, number, boolean, list, object, any, is \"int\"",
        ],
    );
    with(
        "amount: integer",
        "amount: {type: integer, default: much}",
        &["f:2:59: input.amount.default must be of type integer, is a text"],
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "\
saga: ''
steps:
  a: {participant: p, acton: x, after: [b, z]}
  b: {participant: 'p p', action: x, pivot: true, retry: {attempts: 1}, metadata: 1}
start_at: today
start_delay: 1s
";
    check(
        text,
        &[
            "f:1:7: saga must not be empty",
            "f:3:3: steps.a.action must be given",
            "f:3:23: steps.a.acton is no field of a step; did you mean action?",
            "f:3:44: steps.a.after[1] must be the name of a step, \"z\" is none",
            "f:4:20: steps.b.participant must consist of A-Z a-z 0-9 _ . : - only, has ' ' at byte 1",
            "f:4:69: steps.b.retry.attempts must not be set in the pivot or after it: it is sent until it is answered",
            "f:4:73: steps.b.metadata is no field of a step; the fields are participant, action, mode, payload, \
         payload_base64, media_type, after, inputs, pivot, compensation, retry, attempt_timeout, delay, \
         start_at, locks, child",
            "f:5:11: start_at must be a time such as 2026-01-31T12:00:00Z, is \"today\"",
            "f:6:14: start_delay must not be given together with start_at",
        ],
    );
}

/// A circle hides nothing else.
#[test]
fn a_cycle_hides_no_other_mistake() {
    let text = "\
saga: a
steps:
  a: {participant: p, action: x, after: [c], locks: [l, l]}
  b: {participant: p, action: x, after: [a]}
  c: {participant: p, action: x, after: [b], inputs: {o: a, p: lone}}
  d: {participant: p, action: x, after: [e]}
  e: {participant: p, action: x, after: [d, e], inputs: {o: lone}}
  lone: {participant: p, action: x, compensation: none, after: lone2}
  lone2: {participant: p, action: x, retry: {backoff: 2s, backoff_max: 1s}}
";
    check(
        text,
        &[
            "f:3:41: steps.a.after must not lead back to the branch: a depends on c depends on b depends on a",
            "f:3:57: steps.a.locks[1].name must be unique, l came before",
            "f:5:64: steps.c.inputs.p must name a branch that c depends on, directly or not; lone is none",
            "f:6:41: steps.d.after must not lead back to the branch: d depends on e depends on d",
            "f:7:41: steps.e.after must not lead back to the branch: e depends on e",
            "f:7:61: steps.e.inputs.o must name a branch that e depends on, directly or not; lone is none",
            "f:8:51: steps.lone.compensation must not be none: an ABORT may follow the branch; say kept if \
             its effect is to stay",
            "f:9:72: steps.lone2.retry.backoff_max must be at least backoff",
        ],
    );
}

/// A place before the pivot or after it is not known where a circle decides it, and no rule is made of it.
#[test]
fn a_cycle_makes_no_mistake_of_the_pivot() {
    with(
        "[flight, hotel]",
        "[flight, hotel, mail]",
        &[
            "f:14:12: steps.pay.after must not lead back to the branch: pay depends on mail depends on pay",
        ],
    );
}

#[test]
fn many_cycles_are_bounded() {
    let mut text = "saga: many\nsteps:\n".to_owned();
    let all: Vec<_> = (0..64).map(|step| format!("s{step}")).collect();
    for step in &all {
        writeln!(text, "  {step}: {{participant: p, action: a, after: [{}]}}", all.join(", "))
            .expect("a text");
    }
    let problems = SagaFile::parse("f", &text).expect_err("circles");
    assert_eq!(problems.iter().filter(|problem| problem.rule.contains("lead back")).count(), 16);
}

#[test]
fn what_cannot_be_read_hides_no_other_mistake() {
    let text = "\
saga: &z a
saga: b
timeout: 007
steps:
  a: {participant: p, action: x, retry: {attempts: 0x5}, after: *z, acton: 1}
  a: {participant: 'p p', action: x, after: [zz]}
  b: {participant: p, action: x, delay: !!str 10, [1]: 2, inputs: {o: a, o: yy}}
start_at: soon
---
saga: c
";
    check(
        text,
        &[
            "f:2:1: saga must be unique, it is in line 1 already",
            "f:3:10: timeout must be a number as JSON writes it, or a text in quotes",
            "f:5:52: steps.a.retry.attempts must be a number as JSON writes it, or a text in quotes",
            "f:5:65: steps.a.after must be written out: aliases are not read",
            "f:5:69: steps.a.acton is no field of a step; did you mean action?",
            "f:6:3: steps.a must be unique, it is in line 5 already",
            "f:6:20: steps.a.participant must consist of A-Z a-z 0-9 _ . : - only, has ' ' at byte 1",
            "f:6:46: steps.a.after[0] must be the name of a step, \"zz\" is none",
            "f:7:41: steps.b.delay must have no tag",
            "f:7:51: steps.b must have names as keys",
            "f:7:71: steps.b.inputs.o must name a branch that b depends on, directly or not; a is none",
            "f:7:74: steps.b.inputs.o must be unique, it is in line 7 already",
            "f:7:77: steps.b.inputs.o must be the name of a step, \"yy\" is none",
            "f:8:11: start_at must be a time such as 2026-01-31T12:00:00Z, is \"soon\"",
            "f:9:1: must be one document, has a second one",
        ],
    );
}

#[test]
fn too_many_steps_hide_no_other_mistake() {
    let mut text = "saga: many\nsteps:\n".to_owned();
    for step in 0..65 {
        writeln!(text, "  s{step}: {{participant: p, action: a, delay: 1s, pivot: {}}}", step > 62)
            .expect("a text");
    }
    check(
        &text,
        &[
            "f:3:3: steps must have at most 64 branches, has 65",
            "f:67:54: steps.s64.pivot must be set in one branch at most, s63 is the pivot; let a step that may only succeed \
             come after it",
        ],
    );
}

/// Names have a bound together, and no place of their own.
#[test]
fn names_that_are_too_long_together_are_told() {
    let of = |locks: usize| {
        let mut text = "saga: many\nsteps:\n".to_owned();
        for step in 0..64 {
            let lock = |at: usize| format!("{step:02}-{at:02}{}", "x".repeat(90));
            let locks: Vec<_> = (0..locks).map(lock).collect();
            let locks = locks.join(", ");
            writeln!(text, "  s{step}: {{participant: p, action: a, locks: [{locks}]}}")
                .expect("a text");
        }
        text
    };
    let told = SagaFile::parse("f", &of(16)).expect_err("too long").to_string();
    let rule =
        "names of dependencies, inputs and locks of all branches must be at most 98304 bytes, has ";
    assert!(told.starts_with(&format!("f:1:1: {rule}")), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    check(&of(15), &[]);
}

/// Past the number of steps that are read, nothing else is told of them.
#[test]
fn far_too_many_steps_are_told_alone() {
    let of = |count: usize, fields: &str| {
        let step = |step: usize| format!("  s{step}: {{participant: p, action: a, {fields}}}\n");
        "saga: many\nsteps:\n".to_owned() + &(0..count).map(step).collect::<String>()
    };
    let problems = SagaFile::parse("f", &of(256, "pivot: 1")).expect_err("too many").to_string();
    assert!(problems.starts_with("f:3:3: steps must have at most 64 branches, has 256\n"));
    assert!(problems.contains("f:3:42: steps.s0.pivot must be true or false"), "{problems}");
    let all: Vec<_> = (0..257).map(|step| format!("s{step}")).collect();
    let circles = of(257, &format!("after: [{}]", all.join(", ")));
    check(&circles, &["f:3:3: steps must have at most 64 branches, has 257"]);
    let many = of(20_000, "pivot: 1");
    check(&many, &["f:3:3: steps must have at most 64 branches, has 20000"]);
}

/// Steps that were not read are not said to be missing.
#[test]
fn steps_that_cannot_be_read_are_told_once() {
    check("saga: a\nsteps: {[1]: 2}", &["f:2:9: steps must have names as keys"]);
    let text = "saga: a\nsteps:\n  ? {b: c}\n  : {participant: p, action: x}\n";
    let problems = SagaFile::parse("f", text).expect_err("no name").to_string();
    assert!(problems.ends_with("steps must have names as keys"), "{problems}");
    assert_eq!(problems.lines().count(), 1, "{problems}");
    check(
        "saga: a\nsteps: {s: {child: {steps: {[1]: 2}}}}",
        &["f:2:29: steps.s.child.steps must have names as keys"],
    );
    check(
        "saga: a\nsteps: {s: {child: {steps: {}}}}",
        &["f:2:28: steps.s.child.steps must have at least 1 branch, has none"],
    );
}

#[test]
fn a_placeholder_of_a_wrong_type_is_told() {
    let text = "\
saga: a
input: {n: integer, b: boolean, s: string, d: {type: string, default: soon}, o: object}
timeout: \"${input.n}\"
start_at: \"${input.b}\"
locks: [\"${input.o}\", {name: l, wait: \"${input.n}q\"}]
steps:
  a: {participant: p, action: x, delay: \"${input.s}\", retry: {backoff: \"${input.n}ms\", attempts: \"${input.n}\"}}
";
    check(
        text,
        &[
            "f:3:10: timeout must be a duration such as 250ms, 15s or 1h 30m, and the input is declared as a \
             number",
            "f:4:11: start_at must be a time such as 2026-01-31T12:00:00Z, and the input is declared as true \
             or false",
            "f:5:9: locks[0] must be the name of a lock, such as account:42, and the input is declared as an \
             object",
            "f:5:39: locks[1].wait must be a duration such as 250ms, 15s or 1h 30m, becomes \"1q\"",
            "f:7:98: steps.a.retry.attempts must be a whole number from 1 to 4294967295, is a placeholder, \
             and none is replaced here",
        ],
    );
    let late = "saga: a\ninput: {d: {type: string, default: soon}}\nsteps:\n  a: {participant: p, action: x, delay: \"${input.d}\"}";
    check(
        late,
        &["f:4:41: steps.a.delay must be a duration such as 250ms, 15s or 1h 30m, is \"soon\""],
    );
}
