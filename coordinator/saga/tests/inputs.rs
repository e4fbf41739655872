//! Inputs: their types, and the request that a definition becomes with them.

use prost::Message;
use unanimo_core::Gid;
use unanimo_proto::v1;
use unanimo_saga::{Inputs, SagaFile};

const PAY: &str = "\
saga: pay
input:
  account: string
  amount: integer
  note: {type: string, default: none}
  who: object
  when: {type: string, default: 2026-01-31T12:00:00Z}
timeout: 1h 30m
metadata: {tenant: \"t-${input.account}\"}
locks: [\"account:${input.account}\", {name: all, mode: shared, wait: 0s}]
start_at: \"${input.when}\"
steps:
  charge:
    participant: bank
    action: charge
    payload: {account: \"${input.account}\", amount: \"${input.amount}\", note: \"${input.note}\",
              to: [\"${input.who}\", \"for ${input.who.name}: ${input.amount}\"], big: 1.50}
    retry: {attempts: 5, backoff: 200ms, backoff_max: 5s, give_up_after: 1m}
    attempt_timeout: 3s
    locks: [{name: \"x:${input.amount}\"}]
  bytes: {participant: bank, action: b, payload_base64: /wA=, media_type: image/png, mode: tcc}
  sub:
    after: [charge]
    delay: 2s
    start_at: 2026-02-01T00:00:00Z
    child: {mode: tcc, timeout: 5s, steps: {a: {participant: p, action: x, payload: \"${input.note}\"}}}
  end: {participant: bank, action: e, after: [sub, charge], inputs: {r: charge}, pivot: true, compensation: none}
";

fn given(text: &str) -> Inputs {
    Inputs::parse("--input", text).expect("an object")
}

fn request(inputs: &Inputs) -> v1::SubmitTransactionRequest {
    let file = SagaFile::parse("pay.yaml", PAY).expect("no mistake");
    let saga = file.with(inputs).unwrap_or_else(|problems| panic!("{problems}"));
    saga.request(&Gid::new("g").expect("an identifier"))
}

#[test]
fn a_definition_becomes_a_request() {
    let mut inputs = given(r#"{"account": "42", "amount": 7, "who": {"name": "ann", "age": 1.0}}"#);
    inputs.set("amount", "8");
    let request = request(&inputs);
    assert_eq!((request.gid.as_str(), request.mode()), ("g", v1::Mode::Saga));
    assert_eq!(request.timeout.expect("it").seconds, 5400);
    assert_eq!(request.metadata["saga"], "pay");
    assert_eq!(request.metadata["tenant"], "t-42");
    assert_eq!(request.requires, ["saga", "start_later", "locks"]);
    assert_eq!(request.start_at.expect("it").seconds, 1_769_860_800);
    let locks: Vec<_> =
        request.locks.iter().map(|lock| (lock.name.as_str(), lock.mode())).collect();
    assert_eq!(locks, [("account:42", v1::LockMode::Exclusive), ("all", v1::LockMode::Shared)]);
    assert_eq!(request.locks[0].wait_max.expect("it").seconds, 10);
    assert_eq!(request.locks[1].wait_max.expect("it").seconds, 0);

    let [charge, bytes, sub, end] = &request.branches[..] else { panic!("four steps") };
    let payload = charge.payload.as_ref().expect("it");
    assert_eq!(
        std::str::from_utf8(&payload.data).expect("JSON"),
        r#"{"account":"42","amount":8,"note":"none","to":[{"name":"ann","age":1.0},"for ann: 8"],"big":1.50}"#
    );
    assert_eq!(payload.media_type, "application/json");
    let retry = charge.retry.as_ref().expect("it");
    assert_eq!((retry.attempts_max, retry.give_up_after.expect("it").seconds), (5, 60));
    assert_eq!(retry.backoff_min.expect("it").nanos, 200_000_000);
    assert_eq!(charge.attempt_timeout.expect("it").seconds, 3);
    assert_eq!(charge.locks[0].name, "x:8");
    let payload = bytes.payload.as_ref().expect("it");
    assert_eq!((&payload.data[..], payload.media_type.as_str()), (&[0xff, 0][..], "image/png"));
    assert_eq!(bytes.mode(), v1::Mode::Tcc);

    let child = sub.child.as_ref().expect("it");
    assert_eq!((sub.participant.as_str(), sub.payload.is_none()), ("", true));
    assert_eq!(sub.mode(), v1::Mode::Unspecified);
    assert_eq!((child.mode(), child.timeout.expect("it").seconds), (v1::Mode::Tcc, 5));
    assert_eq!(&child.branches[0].payload.as_ref().expect("it").data[..], b"\"none\"");
    assert_eq!(
        (sub.delay.expect("it").seconds, sub.start_at.expect("it").seconds),
        (2, 1_769_904_000)
    );
    assert_eq!(
        (end.pivot, &end.depends_on[..]),
        (true, &["sub".to_owned(), "charge".to_owned()][..])
    );
    assert_eq!(end.compensation(), v1::Compensation::None);
    assert_eq!((end.inputs[0].name.as_str(), end.inputs[0].branch_id.as_str()), ("r", "charge"));
    assert!(request.encoded_len() > 0);
}

#[track_caller]
fn refused(inputs: &Inputs, expected: &[&str]) {
    let file = SagaFile::parse("pay.yaml", PAY).expect("no mistake");
    let problems = file.with(inputs).expect_err("a mistake").to_string();
    assert_eq!(problems.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_value_that_is_missing_or_wrong_is_refused_before_anything_runs() {
    refused(
        &Inputs::default(),
        &[
            "pay.yaml:3:3: input.account needs a value: --set account=VALUE, or account in --input",
            "pay.yaml:4:3: input.amount needs a value: --set amount=VALUE, or amount in --input",
            "pay.yaml:6:3: input.who needs a value: --set who=VALUE, or who in --input",
        ],
    );
    let mut inputs = given("{\"account\": 42,\n \"amount\": 1.5, \"acount\": 1}");
    inputs.set("who", "ann");
    refused(
        &inputs,
        &[
            "--set who: who must be of type object, is a text",
            "--input:1:13: account must be of type string, is 42",
            "--input:2:12: amount must be of type integer, is 1.5",
            "--input:2:27: acount must be an input of the saga; did you mean account?",
        ],
    );
    let inputs = given(r#"{"account": "4 2", "amount": 7, "who": {"nam": "x"}, "when": "soon"}"#);
    refused(
        &inputs,
        &[
            "pay.yaml:10:9: locks[0] must consist of A-Z a-z 0-9 _ . : - only, has ' ' at byte 9 \
         (\"account:4 2\")",
            "pay.yaml:11:11: start_at must be a time such as 2026-01-31T12:00:00Z, is \"soon\"",
            "pay.yaml:17:36: steps.charge.payload.to[1] needs name in the input who, which is without it",
        ],
    );
}

#[test]
fn a_word_takes_the_type_of_its_declaration() {
    let set = |name: &str, word: &str| {
        let mut inputs = given(r#"{"account": "a", "amount": 1, "who": {"name": ""}}"#);
        inputs.set(name, word);
        inputs
    };
    let payload = |inputs: &Inputs| {
        let data = request(inputs).branches[0].payload.clone().expect("it").data;
        String::from_utf8(data.to_vec()).expect("JSON")
    };
    assert!(payload(&set("account", "007")).contains(r#""account":"007""#));
    assert!(payload(&set("account", "true")).contains(r#""account":"true""#));
    assert!(payload(&set("amount", "12")).contains(r#""amount":12,"#));
    assert!(payload(&set("who", r#"{"name": "bob"}"#)).contains(r#"{"name":"bob"}"#));
    refused(&set("amount", "007"), &["--set amount: amount must be of type integer, is a text"]);
}

#[test]
fn inputs_need_no_declaration() {
    let text = "saga: a\nsteps: {a: {participant: p, action: x, payload: [\"${input.x}\", \"${input.y}\"]}}";
    let file = SagaFile::parse("f", text).expect("no mistake");
    assert_eq!(file.inputs().collect::<Vec<_>>(), ["x", "y"]);
    let mut inputs = Inputs::default();
    inputs.set("x", "5");
    let problems = file.with(&inputs).expect_err("y is missing");
    assert_eq!(
        problems.to_string(),
        "f:2:64: steps.a.payload[1] needs a value: --set y=VALUE, or y in --input"
    );
    inputs.set("y", "five");
    let request = file.with(&inputs).expect("all").request(&Gid::new("g").expect("an identifier"));
    assert_eq!(&request.branches[0].payload.as_ref().expect("it").data[..], b"[5,\"five\"]");
}

#[test]
fn a_wrong_object_of_inputs_is_told() {
    for (text, expected) in [
        ("[1]", "--input:1:1: must be an object with a value for each input, is a list"),
        ("{\"a\": 1, \"a\": 2}", "--input:1:10: a must be unique, it is in line 1 already"),
    ] {
        assert_eq!(Inputs::parse("--input", text).expect_err(text).to_string(), expected);
    }
}

/// Two locks, each named by an input, are two locks: only the values tell whether they are one.
#[test]
fn rules_that_compare_values_wait_for_the_values() {
    let text = "\
saga: transfer
timeout: \"${input.patience}\"
input: {from: string, to: string, patience: string}
locks: [\"account:${input.from}\", \"account:${input.to}\"]
steps:
  debit: {participant: bank, action: debit, delay: 5m}
";
    let file = SagaFile::parse("transfer.yaml", text).expect("no mistake");
    let with = |from: &str, to: &str, patience: &str| {
        let mut inputs = Inputs::default();
        for (name, value) in [("from", from), ("to", to), ("patience", patience)] {
            inputs.set(name, value);
        }
        file.with(&inputs).map(drop).map_err(|problems| problems.to_string())
    };
    assert_eq!(with("ann", "bob", "1h"), Ok(()));
    let same = with("ann", "ann", "1h").expect_err("one lock twice");
    assert!(same.contains("must be unique, account:ann came before"), "{same}");
    let short = with("ann", "bob", "1m").expect_err("the delay is longer");
    assert!(short.contains("must be less than the timeout of the transaction, 60 s"), "{short}");
}

/// A run may give another value than a default: what compares it with others, or with the clock, is told of a run.
#[test]
fn defaults_are_looked_at_each_alone() {
    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48)).to_string();
    let text = "\
saga: a
input:
  timeout: {type: string, default: 10s}
  wait: {type: string, default: 30s}
  when: {type: string, default: 2020-01-01T00:00:00Z}
  count: {type: string, default: \"5\"}
  unit: {type: string, default: q}
timeout: \"${input.timeout}\"
start_at: \"${input.when}\"
steps:
  a: {participant: p, action: x, delay: \"${input.wait}\"}
  b: {participant: p, action: x, start_at: \"LATER\"}
  c: {participant: p, action: x, attempt_timeout: \"${input.count}${input.unit}\"}
"
    .replace("LATER", &later);
    let file = SagaFile::parse("f", &text).expect("each default is good");
    let with = |words: &[(&str, &str)]| {
        let mut inputs = Inputs::default();
        words.iter().for_each(|(name, word)| inputs.set(name, word));
        file.with(&inputs).map(drop).map_err(|problems| problems.to_string())
    };
    let told = with(&[]).expect_err("the defaults together");
    for rule in [
        "steps.a.delay must be less than the timeout of the transaction, 10 s",
        "steps.b.start_at must be before the deadline of the transaction",
        "steps.c.attempt_timeout must be a duration such as 250ms, 15s or 1h 30m, is \"5q\"",
    ] {
        assert!(told.contains(rule), "{told}");
    }
    let given = [("timeout", "60s"), ("when", later.as_str()), ("unit", "s")];
    assert_eq!(with(&given), Ok(()));

    // What its place does not take, whatever else is given, is told without a run.
    for (from, to, expected) in [
        ("default: 30s", "default: soon", "steps.a.delay must be a duration such as 250ms, 15s"),
        ("default: 2020-01-01T00:00:00Z", "default: soon", "start_at must be a time such as"),
        ("{type: string, default: \"5\"}", "integer", "1h 30m, becomes \"1q\""),
    ] {
        let told = SagaFile::parse("f", &text.replace(from, to)).expect_err(to).to_string();
        assert!(told.contains(expected) && told.lines().count() == 1, "{told}");
    }
}

/// A word that is JSON is never sent as a text because a definition could not hold it.
#[test]
fn a_word_that_is_json_is_read_or_refused() {
    let text = "\
saga: a
input: {x: any, y: {type: list, default: []}, z: {type: string, default: z}}
steps: {a: {participant: p, action: x, payload: [\"${input.x}\", \"${input.y}\", \"${input.z}\"]}}
";
    let file = SagaFile::parse("f", text).expect("no mistake");
    let with = |name: &str, word: &str| {
        let mut inputs = Inputs::default();
        inputs.set("x", "0");
        inputs.set(name, word);
        let saga = file.with(&inputs).map_err(|problems| problems.to_string())?;
        let request = saga.request(&Gid::new("g").expect("an identifier"));
        let data = request.branches[0].payload.clone().expect("it").data;
        Ok::<_, String>(String::from_utf8(data.to_vec()).expect("JSON"))
    };
    let deep = "[".repeat(70) + &"]".repeat(70);
    for (name, word, expected) in [
        ("x", r#"{"a": 1, "a": 2}"#, "--set x:1:10: x.a must be unique, it is in line 1 already"),
        (
            "y",
            r#"[{"a": 1, "a": 2}]"#,
            "--set y:1:11: y[0].a must be unique, it is in line 1 already",
        ),
        ("x", r#""\ud83d""#, "--set x:1:"),
        ("y", deep.as_str(), "--set y:1:66: y must not be more than 64 values deep"),
    ] {
        let refused = with(name, word).expect_err(word);
        assert!(refused.starts_with(expected), "{word}: {refused}");
    }
    for (name, word, expected) in [
        ("x", r#""\ud83d\ude00""#, r#"["😀",[],"z"]"#),
        ("x", r#"'\ud83d\ude00'"#, r#"["'\\ud83d\\ude00'",[],"z"]"#),
        ("x", "{a: 1}", r#"["{a: 1}",[],"z"]"#),
        ("x", " 1.50 ", r#"[1.50,[],"z"]"#),
        ("x", "null", r#"[null,[],"z"]"#),
        ("z", r#"{"a": 1, "a": 2}"#, r#"[0,[],"{\"a\": 1, \"a\": 2}"]"#),
    ] {
        assert_eq!(with(name, word).as_deref(), Ok(expected), "{name}={word}");
    }
}

/// A definition that is large, and odd, takes no more time and memory than its size.
#[test]
fn large_definitions_are_read_in_time() {
    let started = std::time::Instant::now();
    let many =
        |entry: &dyn Fn(usize) -> String| (0..100_000).map(entry).collect::<Vec<_>>().join(",");
    let keys = many(&|index| format!("k{index}: 1"));
    let step = |payload: &str| {
        format!("saga: a\nsteps: {{a: {{participant: p, action: x, payload: {payload}}}}}")
    };
    let problems = SagaFile::parse("f", &step(&format!("{{{keys}}}"))).expect_err("over the limit");
    assert!(problems.to_string().contains("must be at most 1048576 bytes"), "{problems}");

    let names = many(&|index| format!("s{index}"));
    let wrong = format!("saga: a\nsteps: {{a: {{participant: p, action: x, after: [{names}]}}}}");
    let problems = SagaFile::parse("f", &wrong).expect_err("too many").to_string();
    assert!(problems.contains("must have at most 1024 entries, has 100000"), "{problems}");
    let steps =
        format!("saga: a\nsteps: {{{}}}", many(&|index| format!("s{index}: {{afterr: x}}")));
    let problems = SagaFile::parse("f", &steps).expect_err("too many").to_string();
    assert_eq!(problems, "f:2:8: steps must have at most 64 branches, has 100000");
    let wrong = format!("saga: a\nsteps: {{a: {{{}}}}}", many(&|index| format!("f{index}: 1")));
    let problems = SagaFile::parse("f", &wrong).expect_err("no such fields");
    assert!(problems.iter().count() <= 102, "{}", problems.iter().count());

    // Each placeholder looks into a large object.
    let looks = many(&|index| format!("\"${{input.o.k{}}}\"", index * 7 % 100_000));
    let file = SagaFile::parse("f", &step(&format!("[{looks}]"))).expect("samples are small");
    let problems = file.with(&given(&format!("{{o: {{{keys}}}}}"))).map(drop).err();
    assert!(problems.is_none_or(|problems| problems.to_string().contains("1048576 bytes")));

    // A short text names a large value many times.
    let bomb = many(&|_| "\"${input.o}\"".to_owned());
    let file = SagaFile::parse("f", &step(&format!("[{bomb}]"))).expect("samples are small");
    let problems =
        file.with(&given(&format!("{{o: {{{keys}}}}}"))).expect_err("a bomb").to_string();
    assert!(problems.contains("more than 8388608 bytes together"), "{problems}");

    // Long names above a long list.
    let name = "n".repeat(1000);
    let nested = format!("{{{name}: ").repeat(40)
        + &format!("[{}]", many(&|_| "1".to_owned()))
        + &"}".repeat(40);
    assert!(SagaFile::parse("f", &step(&nested)).is_ok());
    let long = format!("? {}\n: 1\n", "n".repeat(2000));
    let problems = SagaFile::parse("f", &long).expect_err("a long name").to_string();
    assert!(
        problems.contains("must have names of at most 1024 bytes, has one of 2000"),
        "{problems}"
    );
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn placeholders_are_refused_where_none_is_replaced() {
    let step =
        |fields: &str| format!("saga: a\nsteps: {{a: {{participant: p, action: x, {fields}}}}}");
    for (text, path) in [
        (step("payload: {\"${input.x}\": 1}"), "steps.a.payload.${input.x}"),
        (step("payload: [{b: {\"k-${input.x}\": 1}}]"), "steps.a.payload[0].b.k-${input.x}"),
        (step("payload_base64: AA==, media_type: \"image/${input.x}\""), "steps.a.media_type"),
        (step("payload: 1") + "\nmetadata: {\"${input.x}\": y}", "metadata.${input.x}"),
        (
            step("payload: 1") + "\ninput: {x: {type: any, default: \"${input.y}\"}}",
            "input.x.default",
        ),
        (
            step("payload: 1") + "\ninput: {x: {type: any, default: [{a: \"${input.y}\"}]}}",
            "input.x.default[0].a",
        ),
    ] {
        let problems = SagaFile::parse("f", &text).expect_err(&text).to_string();
        assert!(
            problems.contains(&format!("{path} must have no placeholder")),
            "{text}: {problems}"
        );
    }
    for text in [step("payload: {\"${\": 1}"), step("payload: 1, media_type: \"${\"")] {
        let problems = SagaFile::parse("f", &text).expect_err(&text).to_string();
        assert!(problems.contains("must close each ${"), "{problems}");
    }
    // `$${` is the text `${` there, too.
    let text = step("payload: {\"$${a}\": \"${input.x}\"}, media_type: \"a/$${b}\"")
        + "\ninput: {x: {type: any, default: {\"$${c}\": \"$${d}\"}}}";
    let file = SagaFile::parse("f", &text).expect("no placeholder");
    let saga = file.with(&Inputs::default()).expect("a default");
    let payload = saga.request(&Gid::new("g").expect("an identifier")).branches[0]
        .payload
        .clone()
        .expect("it");
    assert_eq!(&payload.data[..], br#"{"${a}":{"${c}":"${d}"}}"#);
    assert_eq!(payload.media_type, "a/${b}");
    let twice = step("payload: {\"$${a}\": 1, \"$$${a}\": 2}");
    assert!(SagaFile::parse("f", &twice).is_err());
}

/// One value that is missing hides no other that is wrong, and is in no message beside its own.
#[test]
fn a_missing_value_hides_no_other_mistake() {
    refused(
        &given(r#"{"amount": 7, "who": {"nam": "x"}, "when": "soon"}"#),
        &[
            "pay.yaml:3:3: input.account needs a value: --set account=VALUE, or account in --input",
            "pay.yaml:11:11: start_at must be a time such as 2026-01-31T12:00:00Z, is \"soon\"",
            "pay.yaml:17:36: steps.charge.payload.to[1] needs name in the input who, which is without it",
        ],
    );
}

/// Only a text that no number makes a time is refused before its numbers are known.
#[test]
fn numbers_in_a_time_may_have_any_length() {
    let text = "\
saga: a
input: {year: integer, day: integer, hour: {type: integer, default: 12}, part: number}
steps: {a: {participant: p, action: x, start_at: \"TIME\"}}
";
    let whole = "${input.year}-01-${input.day}T${input.hour}:00:0${input.part}Z";
    let file =
        SagaFile::parse("f", &text.replace("TIME", whole)).expect("some numbers make a time");
    let with = |day: &str| {
        let mut inputs = Inputs::default();
        for (name, word) in [("year", "2020"), ("day", day), ("part", "1.5")] {
            inputs.set(name, word);
        }
        file.with(&inputs).map(drop).map_err(|problems| problems.to_string())
    };
    assert_eq!(with("31"), Ok(()));
    let told = with("1").expect_err("a day of one digit");
    assert!(told.contains("T12:00:00Z, is \"2020-01-1T12:00:01.5Z\""), "{told}");

    let (day, many) = ("2026-01-${input.day}", "${input.day}".repeat(7));
    for (time, expected) in [
        (format!("{day}Q00:00:00Z"), Some("becomes \"2026-01-1Q00:00:00Z\"")),
        (format!("{day}T24:61:00Z"), Some("becomes \"2026-01-1T24:61:00Z\"")),
        (
            "${input.day}".to_owned(),
            Some("such as 2026-01-31T12:00:00Z, and the input is declared as a number"),
        ),
        // The thirtieth and no other, of which a digit is an input.
        ("2026-04-3${input.day}T00:00:00Z".to_owned(), None),
        // So many are not looked into.
        (many, None),
    ] {
        let told = SagaFile::parse("f", &text.replace("TIME", &time));
        let told = told.err().map(|problems| problems.to_string()).unwrap_or_default();
        assert!(told.contains(expected.unwrap_or_default()), "{time}: {told}");
        assert_eq!(told.contains("start_at"), expected.is_some(), "{time}: {told}");
    }
}
