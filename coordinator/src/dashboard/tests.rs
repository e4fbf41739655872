//! Pages that a coordinator in a test does not easily show.

use serde_json::json;

use super::chart::Chart;
use super::one::Transaction;
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

fn transaction(tx: Tx) -> Transaction {
    let now = "2026-03-04T12:06:00Z".parse().expect("a time");
    Transaction {
        here: "/transactions",
        chart: Chart::of(&tx, None, now),
        graph: None,
        trace_link: String::new(),
        tx,
        may_act: false,
        has_history: false,
        is_live: true,
    }
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

/// Times of the sentence are a calculation for a person; ages are none. What is past is not told as left.
#[test]
fn a_wait_is_told_with_its_ages() {
    let ages = |since: i64, until: Option<i64>| {
        let until = until.map(|secs| words::ago(-secs)).unwrap_or_default();
        let waiting = json!({"sentence": "S", "since": words::ago(since), "until": until});
        let tx = txs(json!([{ "txId": TX_ID, "waiting": waiting }])).remove(0);
        let html = transaction(tx).render().expect("a page");
        let (_, rest) = html.split_once("It waits:</strong> S").expect(&html);
        rest.split_once("</p>").expect(&html).0.to_owned()
    };
    let shown = |text: &str| format!(" <span class=\"more\">({text})</span>");
    assert_eq!(ages(180, Some(600)), shown("for 3 min by now, 9 min left"));
    assert_eq!(ages(180, None), shown("for 3 min by now"));
    assert_eq!(ages(180, Some(-10)), shown("for 3 min by now"));
    let tx = txs(json!([{ "txId": TX_ID, "waiting": { "sentence": "S" } }])).remove(0);
    assert!(transaction(tx).render().expect("a page").contains("It waits:</strong> S</p>"));
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

/// A row says in words what is wrong, whatever that is.
#[test]
fn a_row_says_why_it_needs_a_person() {
    for (alarms, said) in
        [(json!(["pivot_unanswered"]), "pivot unanswered"), (json!([]), "needs a person")]
    {
        let waits = json!([{
            "txId": TX_ID, "gid": "trip", "attention": true, "alarms": alarms,
            "state": "TRANSACTION_STATE_ACTIVE", "createdAt": "2026-03-04T12:00:00Z",
        }]);
        let html = overview(waits, true, None);
        assert!(html.contains(&format!("<span class=\"state bad\">{said}</span>")), "{html}");
    }
}

/// Its commands stand on its own page with the names of its branches, and in the list without them.
#[test]
fn one_that_needs_a_person_has_its_commands() {
    let stalled = json!({
        "txId": TX_ID, "gid": "pay-1", "attention": true, "stalled": true, "traceId": "0af7",
        "state": "TRANSACTION_STATE_COMMITTING", "createdAt": "2026-03-04T12:00:00Z",
        "decidedAt": "2026-03-04T12:00:01Z", "outcome": "OUTCOME_COMMITTED",
        "branches": [{
            "branchId": "debit", "votedAt": "2026-03-04T12:00:01Z",
            "prepareAttempts": {"count": 1, "firstAt": "2026-03-04T12:00:00Z", "lastAt": "2026-03-04T12:00:00Z"},
            "phaseTwoAttempts": {"count": 9, "firstAt": "2026-03-04T12:00:01Z", "lastAt": "2026-03-04T12:05:00Z"},
        }],
    });
    let tx: Tx = serde_json::from_value(stalled.clone()).expect("a transaction");
    let mut page = transaction(tx);
    page.trace_link = "https://jaeger.example/trace/0af7?a=1&b=2".to_owned();
    let html = page.render().expect("a page");
    let retry = format!("<code>unanimo tx retry {TX_ID}</code>");
    for shown in [
        retry.as_str(),
        "--branch debit --as HOW",
        "<details data-key=\"debit\" open>",
        "Attempts of 1 branch over 6 min; the list below has their number, times and errors",
        "<td>Commit</td><td class=\"number\">9</td><td class=\"when\">2026-03-04 12:00:01.000</td>",
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
    Attention { here: "/attention", list, next, back_to, may_act: false, alarms: Vec::new() }
}

#[test]
fn an_empty_page_of_a_list_is_no_all_clear_and_says_how_far_it_has_looked() {
    let calm = "No transaction needs a person.";
    let html = |next, back_to| attention(Vec::new(), next, back_to).render().expect("a page");
    assert!(html("", "").contains(calm));
    let list = |next: &str, back_to: &str| {
        let (filter, list) = (super::Filter::default(), Vec::new());
        let (next, back_to, wrong) = (next.to_owned(), back_to.to_owned(), String::new());
        let page =
            super::Transactions { here: "/transactions", filter, wrong, list, next, back_to };
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

/// All that the API tells of a transaction and its branches is on its page.
#[test]
fn one_transaction_has_all_that_the_api_tells() {
    let of = json!({
        "txId": TX_ID, "gid": "trip-1.child", "mode": "MODE_SAGA", "state": "TRANSACTION_STATE_ACTIVE",
        "createdAt": "2026-03-04T12:00:00Z", "startAt": "2026-03-04T12:00:05Z",
        "timelineDropped": 7, "timeline": [{"event": "decided"}],
        "parent": {"txId": "0199b0d0-0000-7000-8000-00000000000f", "branchId": "hotel"},
        "locks": [
            {"name": "stock", "mode": "LOCK_MODE_SHARED", "granted": true, "branchId": "debit"},
            {"name": "seat", "mode": "LOCK_MODE_EXCLUSIVE", "holderGid": "trip/0"},
            {"name": "bed", "holderGid": "trip-2", "holderWaits": true},
        ],
        "branches": [{
            "branchId": "debit", "mode": "MODE_SAGA", "state": "BRANCH_STATE_WAITING",
            "compensation": "COMPENSATION_KEPT", "dueAt": "2026-03-04T12:00:09Z", "childGid": "trip-1.inner",
            "inputs": [{"name": "room", "branchId": "hotel"}], "outputDropped": true,
            "resolvedBy": "ann", "resolutionNote": "paid by hand", "heuristicNote": "ann: paid by hand",
            "prepareAttempts": {"count": 2, "firstAt": "2026-03-04T12:00:00Z", "lastAt": "2026-03-04T12:00:01Z",
                "firstError": "at first", "lastError": "at last"},
            "hiddenPayload": {"byteCount": "1234", "mediaType": "text/plain"},
            "hiddenOutput": {"byteCount": "5"},
        }],
    });
    let tx: Tx = serde_json::from_value(of.clone()).expect("a transaction");
    let html = transaction(tx).render().expect("a page");
    let parent = "<a href=\"/tx/0199b0d0-0000-7000-8000-00000000000f\">0199b0d0-0000-7000-8000-00000000000f</a>, branch hotel";
    for shown in [
        parent,
        "<dt>starts</dt><dd>2026-03-04 12:00:05.000</dd>",
        "7 earlier entries are not shown",
        "stock <span class=\"state good\">held</span> <span class=\"more\">shared, branch debit</span>",
        "<span class=\"state wait\">waits: held by</span> <a href=\"/gid/trip%2F0\">trip/0</a>",
        "<span class=\"state wait\">waits behind</span> <a href=\"/gid/trip-2\">trip-2</a>",
        "<dt>compensation</dt><dd>none: its effect stays</dd>",
        "<dt>due at</dt><dd>2026-03-04 12:00:09.000</dd>",
        "<dt>inputs</dt><dd>room: output of hotel</dd>",
        "<dt>its first error</dt><dd>at first</dd>",
        "<dt>its last error</dt><dd>at last</dd>",
        "first: at first; last: at last",
        "<dt>output</dt><dd>lost: it was over a limit</dd>",
        "<dt>ended by the word of</dt><dd>ann</dd>",
        "<dt>note</dt><dd>paid by hand</dd>",
        "<dt>child</dt><dd><a href=\"/gid/trip-1.inner\">trip-1.inner</a></dd>",
        "1234 bytes, text/plain. Operators and its initiator may read them.",
        "5 bytes. Operators and its initiator may read them.",
    ] {
        assert!(html.contains(shown), "{shown}: {html}");
    }
    assert!(!html.contains("history.json") && !html.contains("were purged"), "{html}");
    // A history in a file leads to no other transaction.
    let mut page = transaction(serde_json::from_value(of.clone()).expect("a transaction"));
    page.is_live = false;
    page.has_history = true;
    let html = page.render().expect("a page");
    assert!(html.contains("<dt>child</dt><dd>trip-1.inner</dd>"), "{html}");
    assert!(html.contains(&format!("href=\"/tx/{TX_ID}/history.json\"")), "{html}");
    let mut started = of;
    started["startedAt"] = json!("2026-03-04T12:00:06Z");
    let html = transaction(serde_json::from_value(started).expect("a transaction")).render();
    let html = html.expect("a page");
    assert!(html.contains("<dt>started</dt><dd>2026-03-04 12:00:06.000</dd>"), "{html}");
}

/// One that was purged has no branches, and says why.
#[test]
fn a_purged_one_says_that_it_was_purged() {
    let of = json!({
        "txId": TX_ID, "gid": "old", "stripped": true, "state": "TRANSACTION_STATE_COMMITTED",
        "createdAt": "2026-03-04T12:00:00Z", "endedAt": "2026-03-04T12:00:01Z",
    });
    let html = transaction(serde_json::from_value(of).expect("a transaction")).render();
    let html = html.expect("a page");
    assert!(html.contains("were purged after the retention"), "{html}");
    assert!(!html.contains(">Branches<") && !html.contains(">History<"), "{html}");
}

/// The form keeps what was typed, and says what is wrong.
#[test]
fn a_bad_filter_keeps_its_form() {
    let filter = super::Filter::typed("metadata=eu&gidPrefix=pay&state=x");
    let page = super::Transactions {
        here: "/transactions",
        filter,
        wrong: "metadata must be KEY=VALUE.".to_owned(),
        list: Vec::new(),
        next: String::new(),
        back_to: String::new(),
    };
    let html = page.render().expect("a page");
    for shown in ["value=\"eu\"", "value=\"pay\"", "metadata must be KEY=VALUE.", "<button>Show"] {
        assert!(html.contains(shown), "{shown}: {html}");
    }
    for not in ["No transaction matches", "data-every"] {
        assert!(!html.contains(not), "{not}: {html}");
    }
}

/// Alarms of the process stand above the transactions, also where none of these needs a person.
#[test]
fn alarms_of_the_process_stand_first() {
    let mut page = attention(Vec::new(), "", "");
    page.alarms = vec![Alarm {
        name: "clock_skew".to_owned(),
        why: "A clock is ahead.".to_owned(),
        act: "Set it <right>.".to_owned(),
        page: "/system",
    }];
    let html = page.render().expect("a page");
    let alarm = html
        .find("clock_skew</span> A clock is ahead. Set it &#60;right&#62;. <a href=\"/system\">");
    let calm = html.find("No transaction needs a person.");
    assert!(alarm.is_some() && alarm < calm, "{html}");
}
