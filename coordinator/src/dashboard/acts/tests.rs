//! Acts and pages of theirs that a coordinator in a test does not easily show.

use jiff::Timestamp;
use serde_json::Value;

use super::order::{Counted, is_for, is_of_all, refused_of};
use super::*;
use crate::api::Turns;
use crate::api::http::{Asker, Slot};
use crate::dashboard::data::Tx;
use crate::dashboard::filter::Filter;

fn tx(of: Value) -> Tx {
    serde_json::from_value(of).expect("a transaction")
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn shown(total: u64) -> String {
    let form = Form { made: at("2026-03-04T12:00:00Z"), id: Uuid::from_u128(7) };
    let run = Arc::new(Run::new(form, "Retry g".into(), "/tx/1".into(), total));
    let page = Shown { here: "/attention", progress: run.progress(), run, mark: String::new() };
    page.render().expect("a page")
}

/// One act cannot be stopped between two transactions.
#[test]
fn many_can_be_stopped_and_one_cannot() {
    assert!(!shown(1).contains("Stop"), "{}", shown(1));
    let stop = "action=\"/acts/00000000-0000-0000-0000-000000000007/stop\"";
    assert!(shown(2).contains(stop) && shown(2).contains("<button>Stop"), "{}", shown(2));
}

#[test]
fn an_act_on_many_is_on_what_was_counted() {
    let old = "2026-03-04T12:00:00.000001Z";
    let counted = |only: Option<&str>| Counted {
        filter: Filter::default(),
        made: at(old),
        only: only.map(|only| only.split(',').map(str::to_owned).collect()),
    };
    for (act, created_at, ended_at, only, is_counted) in [
        (Act::Retry, old, "", None, true),
        (Act::Resolve, "2026-03-04T12:00:00.000002Z", "", None, false),
        (Act::Retry, "", "", None, false),
        (Act::Forget, "2026-03-04T11:00:00Z", old, None, true),
        (Act::Forget, "2026-03-04T11:00:00Z", "2026-03-04T12:00:00.000002Z", None, false),
        (Act::Forget, "", old, Some("s,t"), true),
        (Act::Retry, old, "", Some("s,tt"), false),
    ] {
        let tx = tx(json!({"txId": "t", "createdAt": created_at, "endedAt": ended_at}));
        assert_eq!(counted(only).has(act, &tx), is_counted, "{act:?} {tx:?} {only:?}");
    }
}

/// The end of a branch of one that is not decided may be its decision.
#[test]
fn many_are_resolved_only_if_they_are_decided() {
    let open = tx(json!({"txId": "t", "state": "TRANSACTION_STATE_ACTIVE"}));
    assert!(is_for(Act::Retry, &open) && !is_for(Act::Resolve, &open));
    let decided = tx(json!({"txId": "t", "decidedAt": "2026-03-04T12:00:00Z"}));
    assert!(is_for(Act::Resolve, &decided));
    let says = words::says_of_many(Act::Resolve, "p").join(" ");
    assert!(says.contains("Transactions that are not decided are left out"), "{says}");
}

#[test]
fn a_refused_branch_does_not_hide_the_others() {
    let problem = json!({"status": 400, "detail": "output must be given", "reason": "WHY"});
    let refusals = [("b".to_owned(), problem)];
    let part = refused_of(3, &refusals).expect_err("one was refused");
    let said = "2 of 3 branches were resolved, but not b: output must be given (WHY)";
    assert_eq!((&part["detail"], &part["status"]), (&json!(said), &Value::Null));
    let none = refused_of(1, &refusals).expect_err("all were refused");
    assert_eq!(none["status"], 400, "nothing was done: the form may be sent again");
    assert!(refused_of(2, &[]).is_ok());
}

/// A refusal of one transaction is no reason to stop; one of whoever acts is.
#[test]
fn who_may_not_act_any_more_goes_no_further() {
    for (status, is_end) in [(401, true), (403, true), (503, true), (404, false), (409, false)] {
        let problem = json!({"status": status, "detail": "no"});
        assert_eq!(is_of_all(&problem), is_end, "{status}");
    }
    assert!(is_of_all(&Value::Null), "no answer at all");
    assert!(!is_of_all(&json!({"detail": "no call to p is owed"})));
}

/// Nothing is said of all if not all were looked at.
#[test]
fn none_that_were_looked_at_are_not_none_at_all() {
    let mut many = Many::new("forget", Filter::default());
    assert_eq!(words::nothing_of_many(Act::Forget, &many), "No transaction matches.");
    (many.at_least, many.looked_at) = (true, 20_000);
    let said = words::nothing_of_many(Act::Forget, &many);
    assert!(said.starts_with("None among the first 20000 that were looked at"), "{said}");
    many.count = 1;
    assert_eq!(words::nothing_of_many(Act::Forget, &many), "");
}

#[test]
fn steps_that_lack_an_output_are_named() {
    let of = |state: &str, voted_at: &str| {
        tx(json!({"outcome": "OUTCOME_COMMITTED", "branches": [
            {"branchId": "a", "state": state},
            {"branchId": "b", "inputs": [{"name": "n", "branchId": "a"}], "votedAt": voted_at},
            {"branchId": "c"},
        ]}))
    };
    let never = |tx: &Tx| words::never_done(tx, "a").unwrap_or_default();
    let hazard = never(&of("BRANCH_STATE_HEURISTIC_HAZARD", ""));
    assert!(hazard.starts_with("b cannot be done without the output of a"), "{hazard}");
    assert_eq!(never(&of("BRANCH_STATE_HEURISTIC_COMMIT", "")), "");
    assert_eq!(never(&of("BRANCH_STATE_HEURISTIC_HAZARD", "2026-03-04T12:00:00Z")), "");
}

/// An act on many goes on when its form is answered, and keeps nobody from a turn of HTTP.
#[test]
fn l5_an_act_that_goes_on_has_no_turn() {
    let turns = Turns::new(8);
    let free = || std::iter::from_fn(|| turns.next(None)).collect::<Vec<_>>().len();
    let mut request = Request::new(axum::body::Body::empty());
    request.extensions_mut().insert(turns.next(None).expect("a turn"));
    let looking = Looking { api: Slot::default(), asker: Asker::new(&request, None) };
    drop(request);
    assert_eq!(free(), 6, "whoever looks has one of seven");
    let form = Form { made: at("2026-03-04T12:00:00Z"), id: Uuid::from_u128(7) };
    let sent = Sent { who: String::new(), form, fields: Fields::of("") };
    let _order = Order::of(Act::Retry, looking, &sent);
    assert_eq!(free(), 7);
}
