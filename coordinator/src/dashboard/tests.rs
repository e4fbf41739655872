//! Pages that a coordinator in a test does not easily show.

use serde_json::json;

use super::*;

const TX_ID: &str = "0199b0d0-0000-7000-8000-000000000000";

fn txs(of: Value) -> Vec<Tx> {
    serde_json::from_value(of).expect("transactions")
}

fn overview(attention: Value, more: bool, counts: Option<Counts>) -> String {
    let page = Overview {
        here: "/",
        attention: txs(attention),
        more,
        counts: counts.map(Arc::new),
        newest: Vec::new(),
        pulse: Statistics::default(),
    };
    page.render().expect("a page")
}

/// A page of a search may be empty, and a later one is not.
#[test]
fn nothing_needs_a_person_only_if_all_were_looked_at() {
    let calm = "Nothing needs a person.";
    assert!(overview(json!([]), false, None).contains(calm));
    let html = overview(json!([]), true, None);
    assert!(!html.contains(calm) && !html.contains("<table"), "{html}");
    assert!(html.contains("<a href=\"/attention\">All of them"), "{html}");
}

#[test]
fn numbers_that_are_not_there_are_no_zeros() {
    let html = overview(json!([]), false, None);
    assert!(
        html.contains("could not be counted") && !html.contains("<dt>committed</dt>"),
        "{html}"
    );
    let counts = json!({
        "states": [
            {"state": "TRANSACTION_STATE_COMMITTED", "transactionCount": "90"},
            {"state": "TRANSACTION_STATE_ABORTED", "transactionCount": "1000000", "atLeast": true},
        ],
        "stalledCount": "2",
    });
    let mut counts: Counts = serde_json::from_value(counts).expect("counts");
    counts.counted_at = "2026-03-04T12:00:00Z".into();
    let html = overview(json!([]), false, Some(counts));
    for shown in [
        "<dt>committed</dt><dd>90</dd><dd class=\"more\">in the last minute, 1.5 a second</dd>",
        "<dd>1000000+</dd><dd class=\"more\">in the last minute, 16666.6+ a second</dd>",
        "<dt>stalled</dt><dd class=\"bad\">2</dd>",
        "<dt>active</dt><dd>0</dd>",
        "Counted at 2026-03-04 12:00:00.",
    ] {
        assert!(html.contains(shown), "{shown}: {html}");
    }
}

/// Of one that cannot be read the gid may be missing, too: the link to it has a text, and the reason is there.
#[test]
fn one_that_cannot_be_read_has_a_name_and_its_reason() {
    let aside = json!([{
        "txId": TX_ID, "attention": true, "unreadable": "field <99> of transactions.progress",
        "createdAt": "2026-03-04T12:00:00Z",
    }]);
    let link = format!("<a href=\"/tx/{TX_ID}\">{TX_ID}</a>");
    let html = overview(aside.clone(), false, None);
    let page = attention(txs(aside), "", "");
    for html in [html, page.render().expect("a page")] {
        assert!(html.contains(&link), "{html}");
        assert!(html.contains("field &#60;99&#62; of transactions.progress"), "{html}");
        assert!(!html.contains("class=\"state wait\""), "it has no state: {html}");
    }
}

/// Its commands stand on its own page with the names of its branches, and in the list without them.
#[test]
fn one_that_needs_a_person_has_its_commands() {
    let stalled = json!({
        "txId": TX_ID, "gid": "pay-1", "attention": true, "stalled": true, "traceId": "0af7",
        "state": "TRANSACTION_STATE_COMMITTING", "createdAt": "2026-03-04T12:00:00Z",
        "decidedAt": "2026-03-04T12:00:01Z",
        "branches": [{
            "branchId": "debit", "votedAt": "2026-03-04T12:00:01Z",
            "prepareAttempts": {"count": 1, "firstAt": "2026-03-04T12:00:00Z", "lastAt": "2026-03-04T12:00:00Z"},
            "phaseTwoAttempts": {"count": 9, "firstAt": "2026-03-04T12:00:01Z", "lastAt": "2026-03-04T12:05:00Z"},
        }],
    });
    let tx: Tx = serde_json::from_value(stalled.clone()).expect("a transaction");
    let now = "2026-03-04T12:06:00Z".parse().expect("a time");
    let page = Transaction {
        here: "/transactions",
        chart: Chart::of(&tx, now),
        graph: None,
        trace_link: "https://jaeger.example/trace/0af7?a=1&b=2".to_owned(),
        tx,
        may_act: false,
    };
    let html = page.render().expect("a page");
    let retry = format!("<code>unanimo tx retry {TX_ID}</code>");
    for shown in [
        retry.as_str(),
        "--branch debit --as HOW",
        "<details data-key=\"debit\" open>",
        "Attempts of 1 branch over 6 min; their number, times and errors are with each branch below",
        "<dd>9, first at 2026-03-04 12:00:01, last at 2026-03-04 12:05:00</dd>",
        "<dd>1, at 2026-03-04 12:00:00</dd>",
        "<a href=\"https://jaeger.example/trace/0af7?a=1&#38;b=2\" rel=\"noopener noreferrer\">0af7</a>",
    ] {
        assert!(html.contains(shown), "{shown}: {html}");
    }
    let mut listed = stalled;
    listed["branches"] = json!([]);
    let page = attention(txs(json!([listed])), "", "");
    let html = page.render().expect("a page");
    assert!(html.contains(&retry) && html.contains("--branch BRANCH --as HOW"), "{html}");
}

fn attention(list: Vec<Tx>, next: &str, back_to: &str) -> Attention {
    let (next, back_to) = (next.to_owned(), back_to.to_owned());
    Attention { here: "/attention", list, next, back_to, may_act: false }
}

#[test]
fn an_empty_page_of_a_list_is_no_all_clear_and_says_how_far_it_has_looked() {
    let calm = "No transaction needs a person.";
    let html = |next, back_to| attention(Vec::new(), next, back_to).render().expect("a page");
    assert!(html("", "").contains(calm));
    let list = |next: &str, back_to: &str| {
        let (filter, list) = (super::Filter::default(), Vec::new());
        let (next, back_to) = (next.to_owned(), back_to.to_owned());
        let page = super::Transactions { here: "/transactions", filter, list, next, back_to };
        page.render().expect("a page")
    };
    assert!(list("", "").contains("No transaction matches."));
    let (next, back_to) = ("/x?pageToken=y", "2026-03-04 12:00:00");
    for html in [html(next, back_to), list(next, back_to)] {
        for shown in [
            "None of those that this page has looked at matches: they were begun at 2026-03-04 12:00:00 or later.",
            "<a rel=\"next\" href=\"/x?pageToken=y\">Older ones</a> <span class=\"more\">begun before 2026-03-04 12:00:00</span>",
        ] {
            assert!(html.contains(shown), "{shown}: {html}");
        }
        assert!(!html.contains(calm) && !html.contains("No transaction matches."), "{html}");
    }
}

/// Tells apart what was undone and what never went out.
#[test]
fn a_step_that_was_never_sent_was_not_undone() {
    let step = |calls: u32| {
        let tx = json!({
            "txId": TX_ID, "gid": "trip-1", "state": "TRANSACTION_STATE_ABORTED",
            "branches": [{
                "branchId": "payment", "state": "BRANCH_STATE_CANCELLED", "endedAt": "2026-03-04T12:00:01Z",
                "prepareAttempts": {"count": calls},
            }],
        });
        let tx: Tx = serde_json::from_value(tx).expect("a transaction");
        let branch = tx.branches.into_iter().next().expect("a branch");
        branch.state_word()
    };
    assert_eq!([step(0), step(1)], ["not sent", "cancelled"]);
}

/// A configured endpoint registers nothing, so that nobody knows whether it is there.
#[test]
fn a_configured_endpoint_is_not_said_to_be_alive() {
    let word = |endpoint: serde_json::Value| {
        let endpoint: super::data::Endpoint =
            serde_json::from_value(endpoint).expect("an endpoint");
        endpoint.word()
    };
    let url = "http://127.0.0.1:9";
    assert_eq!(word(json!({"endpoint": url, "configured": true, "alive": true})), "configured");
    assert_eq!(word(json!({"endpoint": "in-process", "configured": true, "alive": true})), "alive");
    assert_eq!(word(json!({"endpoint": url, "alive": true})), "alive");
    assert_eq!(word(json!({"endpoint": url})), "gone");
}
