//! Acts by the dashboard: a page that says what it will do, a form that counts once, and a page with what came of it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use unanimo_coordinator::Config;
use unanimo_coordinator::config::Period;
use unanimo_coordinator::identity::Token;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::scripted::Mood;
use unanimo_tests::wait::until;

use super::http::{Reply, http_call};
use super::{World, config, sqlite_url, tcc};

/// One whose branches that fail once stay stuck until somebody acts.
pub(crate) fn stuck() -> Config {
    Config {
        stalled_after: Period::millis(100),
        call_timeout: Period::secs(10),
        phase_two_backoff: Period::secs(1000),
        phase_two_backoff_max: Period::secs(1000),
        ..config(&sqlite_url())
    }
}

/// Address and identity of a caller of pages.
#[derive(Clone)]
pub(crate) struct Eyes {
    address: SocketAddr,
    /// Its header `authorization`; empty without one.
    authorization: String,
}

impl Eyes {
    pub(crate) fn of(world: &World) -> Self {
        Self { address: world.running.admin_address().unwrap(), authorization: String::new() }
    }

    fn with(&self, token: &Token) -> Self {
        Self { authorization: format!("Bearer {}", token.text()), ..self.clone() }
    }

    async fn call(&self, method: &str, path: &str, more: &[(&str, &str)], body: &str) -> Reply {
        let mut headers = more.to_vec();
        if !self.authorization.is_empty() {
            headers.push(("authorization", &self.authorization));
        }
        http_call(self.address, method, path, &headers, body.as_bytes()).await
    }

    pub(crate) async fn page(&self, path: &str) -> Reply {
        self.call("GET", path, &[], "").await
    }

    /// Sends a form as a browser does.
    pub(crate) async fn send(&self, path: &str, body: &str) -> Reply {
        let origin = format!("http://{}", self.address);
        let headers =
            [("origin", origin.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        self.call("POST", path, &headers, body).await
    }

    /// Opens the page before an act, and returns the mark of its form.
    async fn mark(&self, path: &str) -> String {
        let page = self.page(path).await;
        mark(&page)
    }

    /// Returns the page to which a form led, when the act has ended.
    async fn came_of(&self, sent: &Reply) -> String {
        assert_eq!(sent.code, 303, "{sent:?}");
        let path = location(sent);
        until("the end of the act", async || {
            let page = self.page(&path).await;
            assert_eq!(page.code, 200, "{page:?}");
            (!page.body.contains("Under way")).then_some(page.body)
        })
        .await
    }

    async fn audit(&self) -> Vec<Value> {
        let reply = self.page("/v1/audit").await;
        let answer: Value = serde_json::from_str(&reply.body).unwrap();
        answer["entries"].as_array().cloned().unwrap_or_default()
    }
}

#[track_caller]
fn mark(page: &Reply) -> String {
    let (_, rest) = page.body.split_once("name=\"form\" value=\"").expect(&page.body);
    rest.split_once('"').unwrap().0.to_owned()
}

fn location(sent: &Reply) -> String {
    let line = sent.head.lines().find_map(|line| line.strip_prefix("location: "));
    line.unwrap_or_else(|| panic!("{sent:?}")).to_owned()
}

/// Starts one of these gids and waits until it needs a person.
pub(crate) async fn stall(world: &World, gid: &str, actions: &[&str]) -> String {
    world.submit(tcc(gid, actions)).await.unwrap();
    world.get_until(gid, "its alarm", |tx| tx.stalled).await.tx_id
}

/// Starts many whose Commits are to be sent again in an hour; by a retry they are done.
pub(crate) async fn stall_many(world: &World, prefix: &str, count: u32) {
    world.p.set_mood(Mood::WorkingInPhaseTwo(3_600_000));
    let numbers: Vec<u32> = (0..count).collect();
    for some in numbers.chunks(50) {
        let mut submits = tokio::task::JoinSet::new();
        for n in some {
            let (mut client, request) = (world.client(), tcc(&format!("{prefix}{n}"), &["ok"]));
            submits.spawn(async move { client.submit_transaction(request).await.unwrap() });
        }
        submits.join_all().await;
    }
    for n in 0..count {
        world.get_until(&format!("{prefix}{n}"), "its alarm", |tx| tx.stalled).await;
    }
    world.p.set_mood(Mood::Well);
}

/// A stuck transaction is retried by one form and resolved by another, and forgotten by a third one, which asks whether
/// somebody has looked.
#[tokio::test]
async fn one_that_is_stuck_is_retried_resolved_and_forgotten() {
    let world = World::start(stuck()).await;
    let eyes = Eyes::of(&world);
    let tx_id = stall(&world, "g", &["commit-fail-2", "ok"]).await;
    let of_tx = format!("/tx/{tx_id}");
    let page = eyes.page(&of_tx).await.body;
    for act in ["retry", "resolve"] {
        assert!(page.contains(&format!("href=\"{of_tx}/{act}\"")), "{act}: {page}");
    }
    let retry = format!("{of_tx}/retry");
    let asked = eyes.page(&retry).await;
    for said in [
        "Retry g",
        "is sent now, before its next retry",
        "name=\"operator\"",
        "name=\"note\"",
        "in the audit",
    ] {
        assert!(asked.body.contains(said), "{said}: {}", asked.body);
    }
    assert!(!asked.body.contains("data-every"), "a form stays as it is");
    assert_eq!(world.p.calls(&tx_id, "a").len(), 2, "to look is not to act");

    let form = format!("form={}&operator=ann&branch=", mark(&asked));
    for note in ["", "&note=", "&note=+"] {
        let without = eyes.send(&retry, &format!("{form}{note}")).await;
        assert!(without.code == 400 && without.body.contains("A reason is needed"), "{without:?}");
    }
    assert!(eyes.audit().await.is_empty(), "{:?}", eyes.audit().await);
    let form = format!("{form}&note=the+bank+is+%3Cup%3E");
    let sent = eyes.send(&retry, &form).await;
    let came = eyes.came_of(&sent).await;
    assert!(came.contains("The calls that waited are sent now."), "{came}");
    until("the call", async || (world.p.calls(&tx_id, "a").len() == 3).then_some(())).await;
    // The same form again, as by a second click, leads to the same page.
    let again = eyes.send(&retry, &form).await;
    assert_eq!(location(&again), location(&sent));
    let entries = eyes.audit().await;
    let asked: Vec<_> =
        entries.iter().filter(|entry| entry["kind"] == "AUDIT_KIND_ASKED").collect();
    assert_eq!(asked.len(), 1, "{entries:?}");
    assert_eq!(asked[0]["reason"], "the bank is <up>");
    let timeline = eyes.page(&of_tx).await.body;
    assert!(timeline.contains("by ann: the bank is &#60;up&#62;"), "{timeline}");

    let resolve = format!("{of_tx}/resolve");
    let asked = eyes.page(&resolve).await;
    for said in
        ["The decision, COMMIT, does not change", "<option value=\"a\">", "hazard", "required"]
    {
        assert!(asked.body.contains(said), "{said}: {}", asked.body);
    }
    assert!(!asked.body.contains("<option value=\"b\">"), "it has ended: {}", asked.body);
    // Until something was done the form may be sent again, with what was missing.
    let form = format!("form={}&branch=a&resolution=RESOLUTION_COMMITTED", mark(&asked));
    for (lacks, named) in [("&operator=ann&note=", "note must"), ("&note=gone", "operator must")] {
        let without = eyes.send(&resolve, &format!("{form}{lacks}")).await;
        let came = eyes.came_of(&without).await;
        assert!(came.contains("It was refused.") && came.contains(named), "{named}: {came}");
    }
    let form = format!("{form}&operator=ann&note=the+bank+%3Cis%3E+closed");
    for output in ["%7B", "x", "1+2"] {
        let bad = eyes.send(&resolve, &format!("{form}&output={output}")).await;
        assert!(bad.code == 400 && bad.body.contains("field output must be JSON"), "{bad:?}");
    }
    let came = eyes.came_of(&eyes.send(&resolve, &form).await).await;
    assert!(came.contains("Branch a has ended by your word."), "{came}");
    let tx = world.get("g").await;
    assert_eq!(tx.branches[0].heuristic_note, "ann: the bank <is> closed");

    let forget = format!("{of_tx}/forget");
    let asked = eyes.page(&forget).await;
    let held = "p (branch a) has not confirmed the end of what ann resolved";
    assert!(
        asked.body.contains(held) && asked.body.contains("name=\"released\""),
        "{}",
        asked.body
    );
    let form = format!("form={}&operator=ann&note=paid", mark(&asked));
    let came = eyes.came_of(&eyes.send(&forget, &form).await).await;
    assert!(came.contains("(STILL_HELD)") && came.contains("a of p"), "{came}");
    assert!(world.get("g").await.attention);
    let form = format!("form={}&operator=ann&note=paid&released=true", eyes.mark(&forget).await);
    let came = eyes.came_of(&eyes.send(&forget, &form).await).await;
    assert!(came.contains("The alarm is cleared."), "{came}");
    assert!(!world.get("g").await.attention);
    let page = eyes.page(&forget).await.body;
    assert!(page.contains("was forgotten before") && !page.contains("name=\"form\""), "{page}");
    let entries = eyes.audit().await;
    let last = entries.last().unwrap();
    assert_eq!(
        (&last["act"], &last["operator"], &last["reason"]),
        (&json!("ForgetTransaction"), &json!("ann"), &json!("paid"))
    );
}

/// A form that no page of this coordinator has shown for this act does nothing.
#[tokio::test]
async fn forms_of_others_do_nothing() {
    let world = World::start(stuck()).await;
    let eyes = Eyes::of(&world);
    let tx_id = stall(&world, "g", &["commit-fail-1", "ok"]).await;
    let other = stall(&world, "h", &["commit-fail-1", "ok"]).await;
    let (retry, resolve) = (format!("/tx/{tx_id}/retry"), format!("/tx/{tx_id}/resolve"));
    let good = format!("form={}&operator=ann&note=n", eyes.mark(&retry).await);
    let own = format!("http://{}", eyes.address);
    let form = "application/x-www-form-urlencoded";
    for (path, headers, body, code) in [
        (&retry, &[("content-type", form)][..], good.as_str(), 403),
        (&retry, &[("content-type", form), ("origin", "null")], &good, 403),
        (&retry, &[("content-type", form), ("origin", "http://evil.example")], &good, 403),
        (
            &retry,
            &[("content-type", form), ("origin", &own), ("sec-fetch-site", "cross-site")],
            &good,
            403,
        ),
        (&retry, &[("content-type", form), ("origin", &own), ("host", "evil.example")], &good, 421),
        (&retry, &[("content-type", "text/plain"), ("origin", &own)], &good, 415),
        (&retry, &[("content-type", form), ("origin", &own)], "operator=ann", 403),
        (&retry, &[("content-type", form), ("origin", &own)], "form=1.2.3&operator=ann", 403),
        (&resolve, &[("content-type", form), ("origin", &own)], &good, 403),
        (&format!("/tx/{other}/retry"), &[("content-type", form), ("origin", &own)], &good, 403),
        (&"/attention/retry".to_owned(), &[("content-type", form), ("origin", &own)], &good, 403),
        (&"/attention/purge".to_owned(), &[("content-type", form), ("origin", &own)], &good, 404),
    ] {
        let reply = eyes.call("POST", path, headers, body).await;
        assert_eq!(reply.code, code, "{path} {headers:?} {body}: {reply:?}");
        assert!(reply.head.contains("content-security-policy: "), "{path}: {}", reply.head);
    }
    let large = format!("{good}&note={}", "x".repeat(300 << 10));
    assert_eq!(eyes.send(&retry, &large).await.code, 413);
    assert_eq!(eyes.page("/acts/0199b0d0-0000-7000-8000-000000000000").await.code, 404);
    assert!(eyes.audit().await.is_empty(), "{:?}", eyes.audit().await);
    for tx_id in [&tx_id, &other] {
        assert_eq!(world.p.calls(tx_id, "a").len(), 2);
    }
    // The form itself still counts.
    let came = eyes.came_of(&eyes.send(&retry, &good).await).await;
    assert!(came.contains("are sent now"), "{came}");
}

/// A caller who may not act sees no button and no form, and what it sends is denied and entered.
#[tokio::test]
async fn roles_hold_for_acts() {
    let (path, tokens) = (
        run_folder().join(uuid::Uuid::new_v4().to_string()),
        [1, 2, 3].map(|n| Token::new([n; Token::RANDOM_BYTES])),
    );
    let names = [("ann", "operator"), ("bob", "operator"), ("eve", "viewer")];
    let entries = names.iter().zip(&tokens).map(|((name, role), token)| {
        let (token, more) = (token.hashed(), if *name == "ann" { ", \"initiator\"" } else { "" });
        format!(
            "[[identity]]\nname = \"{name}\"\nroles = [\"{role}\"{more}]\ntokens = [\"{token}\"]\n"
        )
    });
    std::fs::write(&path, entries.collect::<String>()).unwrap();
    let config = Config { identities: crate::security::setting(&path), ..stuck() };
    let world = World::start(config).await;
    let [ann, bob, eve] = [0, 1, 2].map(|n| Eyes::of(&world).with(&tokens[n]));
    let begun = json!({"gid": "g", "mode": "MODE_TCC", "branches": [
        {"branchId": "a", "participant": "p", "action": "commit-fail-1"}
    ]});
    let headers = [("content-type", "application/json")];
    let begun = ann.call("POST", "/v1/transactions", &headers, &begun.to_string()).await;
    let begun: Value = serde_json::from_str(&begun.body).unwrap();
    let of_tx = format!("/tx/{}", begun["result"]["txId"].as_str().unwrap());
    until("its alarm", async || ann.page("/attention").await.body.contains(">g</a>").then_some(()))
        .await;

    let retry = format!("{of_tx}/retry");
    for page in [of_tx.as_str(), "/attention"] {
        let of = |reply: Reply| (reply.body.contains(&retry), reply.body.contains("Retry many"));
        let is_list = page == "/attention";
        assert_eq!(of(ann.page(page).await), (true, is_list), "{page}");
        assert_eq!(of(eve.page(page).await), (false, false), "{page}");
    }
    let of_ann = format!("form={}&note=n", ann.mark(&retry).await);
    for path in [&retry, "/attention/retry", &format!("{of_tx}/forget")] {
        let asked = eve.page(path).await;
        assert!(asked.code == 403 && !asked.body.contains("name=\"form\""), "{asked:?}");
        assert_eq!(eve.send(path, &of_ann).await.code, 403);
    }
    // The form of one operator does not count for another one.
    assert_eq!(bob.send(&retry, &of_ann).await.code, 403);
    let nobody = Eyes { authorization: String::new(), ..ann.clone() };
    assert_eq!(nobody.send(&retry, &of_ann).await.code, 401);
    until("the denial in the audit", async || {
        let entries = ann.audit().await;
        entries
            .iter()
            .any(|entry| entry["kind"] == "AUDIT_KIND_DENIED" && entry["identity"] == "eve")
            .then_some(())
    })
    .await;
    assert!(ann.audit().await.iter().all(|entry| entry["kind"] != "AUDIT_KIND_ASKED"));
    let sent = ann.send(&retry, &of_ann).await;
    let came = ann.came_of(&sent).await;
    assert!(came.contains("are sent now"), "{came}");
    assert_eq!(eve.page(&location(&sent)).await.code, 403);
    let entries = ann.audit().await;
    let done = entries.iter().find(|entry| entry["kind"] == "AUDIT_KIND_ASKED").unwrap();
    assert_eq!((&done["identity"], &done["operator"]), (&json!("ann"), &json!("ann")));
}

/// An act is not on those that end or begin between the page with their number and its form.
#[tokio::test]
async fn many_are_those_that_were_there_when_they_were_counted() {
    let world = World::start(stuck()).await;
    let eyes = Eyes::of(&world);
    let deviate = async |gid: &str| {
        world.submit(tcc(gid, &["commit-heuristic", "ok"])).await.unwrap();
        world.get_until(gid, "its end", |tx| tx.ended_at.is_some()).await;
    };
    let send = async |path: &str, page: &Reply, more: &str| {
        let form = format!("form={}&operator=ann&note=paid&{more}", mark(page));
        eyes.came_of(&eyes.send(path, &form).await).await
    };
    let counted = async |path: &str, count: u32| {
        until("so many", async || {
            let page = eyes.page(path).await;
            page.body.contains(&format!("<strong>{count}</strong> transaction")).then_some(page)
        })
        .await
    };
    let (forget, of_those) = ("/attention/forget", "/attention/forget?gidPrefix=h-");
    for gid in ["h-1", "h-2"] {
        deviate(gid).await;
    }
    let page = counted(of_those, 2).await;
    let (_, only) = page.body.split_once("name=\"only\" value=\"").expect(&page.body);
    let only = only.split_once('"').unwrap().0;
    assert_eq!(only.split(',').count(), 2, "{only}");
    // Newer ones are first in the list.
    for gid in ["h-3", "h-4"] {
        deviate(gid).await;
    }
    let came = send(forget, &page, &format!("most=2&gidPrefix=h-&only={only}")).await;
    assert!(came.contains("Finished: 2 done, 0 refused, of 2."), "{came}");
    for (gid, attention) in [("h-1", false), ("h-2", false), ("h-3", true), ("h-4", true)] {
        assert_eq!(world.get(gid).await.attention, attention, "{gid}");
    }

    // Where they are many, their time tells.
    let page = counted(of_those, 2).await;
    deviate("h-5").await;
    let came = send(forget, &page, "most=2&gidPrefix=h-").await;
    assert!(came.contains("Finished: 2 done, 0 refused, of 2."), "{came}");
    for (gid, attention) in [("h-3", false), ("h-4", false), ("h-5", true)] {
        assert_eq!(world.get(gid).await.attention, attention, "{gid}");
    }
    let old = stall(&world, "s-1", &["commit-fail-1"]).await;
    let page = counted("/attention/retry?gidPrefix=s-", 1).await;
    let new = stall(&world, "s-2", &["commit-fail-1"]).await;
    let came = send("/attention/retry", &page, "most=1&gidPrefix=s-").await;
    assert!(came.contains("Finished: 1 done, 0 refused, of 1."), "{came}");
    until("the call", async || (world.p.calls(&old, "a").len() == 3).then_some(())).await;
    assert_eq!(world.p.calls(&new, "a").len(), 2, "it had not begun");
}

/// Many are counted first, and acted on one after the other; what does not match is left alone, and it can be stopped.
#[tokio::test]
async fn many_are_counted_retried_resolved_and_stopped() {
    let world = World::start(stuck()).await;
    let eyes = Eyes::of(&world);
    stall(&world, "other", &["commit-fail-1"]).await;
    stall_many(&world, "stuck-", 415).await;
    let counted = async |act: &str, count: u32| {
        until("so many", async || {
            let page = eyes.page(&format!("/attention/{act}?gidPrefix=stuck-&participant=p")).await;
            page.body.contains(&format!("<strong>{count}</strong> transactions")).then_some(page)
        })
        .await
    };
    let page = counted("retry", 415).await;
    assert!(page.body.contains("and others") && page.body.contains("at most a hundred a second"));
    let none = eyes.page("/attention/retry?gidPrefix=none").await.body;
    assert!(none.contains("No transaction matches.") && !none.contains("name=\"form\""), "{none}");
    let one = eyes.page("/attention/resolve").await.body;
    assert!(one.contains("name it, and count again") && !one.contains("name=\"form\""), "{one}");

    // No more than were counted.
    let form = |page: &Reply, most: u32, more: &str| {
        let mark = mark(page);
        format!("form={mark}&most={most}&gidPrefix=stuck-&participant=p&operator=ann{more}")
    };
    let act = async |name: &str, form: &str| {
        eyes.came_of(&eyes.send(&format!("/attention/{name}"), form).await).await
    };
    let bad = eyes.send("/attention/retry", &form(&page, 10, "&note=")).await;
    assert!(bad.code == 400 && bad.body.contains("A reason is needed"), "{bad:?}");
    let came = act("retry", &form(&page, 10, "&note=up")).await;
    assert!(came.contains("Finished: 10 done, 0 refused, of 10."), "{came}");
    let page = counted("resolve", 405).await;
    assert!(page.body.contains("every branch of p"), "{}", page.body);
    let came = act("resolve", &form(&page, 5, "&resolution=RESOLUTION_HAZARD&note=gone")).await;
    assert!(came.contains("Finished: 5 done, 0 refused, of 5."), "{came}");

    // Without the word that somebody has looked each is refused, by its name.
    let came = act("forget", &form(&counted("forget", 5).await, 5, "&note=paid")).await;
    assert!(came.contains("0 done, 5 refused, of 5"), "{came}");
    assert_eq!(came.matches("(STILL_HELD)").count(), 5, "{came}");
    let word = "&note=paid&released=true";
    let came = act("forget", &form(&counted("forget", 5).await, 5, word)).await;
    assert!(came.contains("Finished: 5 done"), "{came}");

    for most in [0, 99_999] {
        let bad = form(&eyes.page("/attention/retry").await, most, "&note=up");
        assert_eq!(eyes.send("/attention/retry", &bad).await.code, 400, "{bad}");
    }
    // At its pace the rest takes at least four seconds.
    let form = form(&counted("retry", 400).await, 400, "&note=up");
    let id: uuid::Uuid = form.split('.').nth(1).unwrap().parse().unwrap();
    let run = format!("/acts/{id}");
    let (sender, sent) = (eyes.clone(), form.clone());
    let sending = tokio::spawn(async move { sender.send("/attention/retry", &sent).await });
    let shown =
        until("its page", async || Some(eyes.page(&run).await).filter(|page| page.code == 200))
            .await;
    for part in
        ["Under way: ", "<progress max=\"400\"", "data-every=\"1000\"", "http-equiv=\"refresh\""]
    {
        assert!(shown.body.contains(part), "{part}: {}", shown.body);
    }
    let stopped = eyes.send(&format!("{run}/stop"), &format!("form={}", mark(&shown))).await;
    let came = eyes.came_of(&stopped).await;
    assert!(came.contains("Stopped: ") && !came.contains("data-every"), "{came}");
    sending.await.unwrap();
    assert!(world.get("other").await.ended_at.is_none(), "it did not match");
}
