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
