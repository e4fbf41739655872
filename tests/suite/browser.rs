//! The dashboard in a real browser.

mod hostile;
mod pictures;
mod reading;
mod refusals;
mod shop;

use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use unanimo_coordinator::Recorded;
use unanimo_coordinator::config::Period;
use unanimo_proto::v1::{
    BeginTransactionRequest, ChildTransaction, CommitBranch, CommitTransactionRequest,
    ExecuteBranchRequest, Lock, LockMode, Mode, Payload, RegisterEndpointRequest, Vote, WaitFor,
};
use unanimo_tests::browser::{Browser, Page};
use unanimo_tests::wait::{until, until_for};

use self::refusals::known;
use crate::coordinator::acts::{stall, stall_many, stuck};
use crate::coordinator::webhooks::unreachable;
use crate::coordinator::{World, branch, millis, tcc};

/// Variable with the folder for the pictures of docs/dashboard.md; without it none are made.
const PICTURES: &str = "DASHBOARD_PICTURES";

/// Widths of windows: a telephone, a laptop, a screen on a wall.
const WIDTHS: [u32; 3] = [360, 1024, 1920];

const THEMES: [&str; 2] = ["light", "dark"];

/// Text that would run, load or break out if it were anything but text.
const HOSTILE: &str = "</pre></title><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>\"'&{{7*7}}";

async fn page(world: &World) -> Page {
    let address = world.running.admin_address().unwrap();
    let page = Browser::shared().page(&format!("http://{address}")).await;
    page.size(1024, 900).await;
    page
}

/// Elements that are wider than the window, if the page is.
const OVERFLOW: &str = "(() => { const w = document.documentElement; if (w.scrollWidth <= w.clientWidth) return []; \
     return [w.scrollWidth, w.clientWidth].concat([...document.querySelectorAll('body *')] \
     .filter((e) => e.getBoundingClientRect().right > w.clientWidth + 1 && !e.closest('.wide')) \
     .map((e) => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40))); })()";

/// Values that have less than half of their list's width, lists of transactions that are cut on a laptop, and a header that does not
/// begin where the content does.
const CRAMPED: &str = "(() => { const width = (e) => e.getBoundingClientRect().width; \
     const left = (e) => Math.round(e.getBoundingClientRect().left); \
     const lists = document.documentElement.clientWidth < 1024 ? [] : [...document.querySelectorAll('.wide:not([tabindex])')]; \
     const edges = ['header > *', 'h1'].map((of) => document.querySelector(of)).filter((e) => e); \
     return [...document.querySelectorAll('.pairs > dd')].filter((e) => width(e) < width(e.parentElement) / 2) \
     .concat(lists.filter((e) => e.scrollWidth > e.clientWidth)) \
     .concat(edges.length === 2 && left(edges[0]) !== left(edges[1]) ? edges : []) \
     .map((e) => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40)); })()";

/// Cards in one row whose parts are not at one height: their number, what stands below it, their line.
const UNEVEN: &str = "(() => { const top = (e) => Math.round(e.getBoundingClientRect().top); \
     const parts = ['dd', 'dd.more', 'dd.spark']; \
     const uneven = (a, b) => parts.some((of) => { const [one, other] = [a, b].map((e) => e.querySelector(of)); \
         return one && other && top(one) !== top(other); }); \
     return [...document.querySelectorAll('.figures > div')] \
         .filter((card) => [...card.parentElement.children].some((other) => top(other) === top(card) && uneven(card, other))) \
         .map((card) => card.textContent.trim().slice(0, 40)); })()";

/// Texts with a contrast to what is behind them that is too small: less than 4.5 to 1.
const PALE: &str = include_str!("browser/pale.js");

/// Checker of accessibility (axe-core), and all that it calls serious or critical.
const AXE: &str = include_str!("browser/axe.min.js");
const BARRIERS: &str = "axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations \
     .filter((v) => ['serious', 'critical'].includes(v.impact)) \
     .map((v) => [v.id, v.help, ...v.nodes.map((n) => n.html.slice(0, 120))]))";

/// A world in which every page has something to show: long names, hostile texts, a stuck and a heuristic one, and a saga.
async fn full() -> (World, Vec<(&'static str, String)>) {
    let mut config = stuck();
    config.webhooks = unreachable().to_str().unwrap().parse().unwrap();
    let world = World::start(config).await;
    let long = format!("order-{}", "0123456789".repeat(12));
    world.submit(tcc("order-4711", &["ok", "ok"])).await.unwrap();
    world.submit(tcc("order-4712", &["ok", "refuse"])).await.unwrap();
    world.submit(tcc("order-4713", &["commit-heuristic", "ok"])).await.unwrap();
    let mut request = tcc(&long, &["commit-fail-1", "ok"]);
    request.metadata.insert("note".into(), HOSTILE.into());
    request.branches[0].payload =
        unanimo_tests::payload(json!({ "text": HOSTILE }).to_string().into_bytes());
    world.submit(request).await.unwrap();
    let mut saga = tcc("trip-1", &["ok", "ok", "commit-fail-9"]);
    saga.mode = Mode::Saga.into();
    saga.branches = ["flight", "hotel-with-a-rather-long-name", "payment"]
        .iter()
        .enumerate()
        .map(|(n, id)| {
            let mut step = branch(id, "ok");
            step.depends_on = if n == 2 {
                vec!["flight".into(), "hotel-with-a-rather-long-name".into()]
            } else {
                vec![]
            };
            step
        })
        .collect();
    world.submit(saga).await.unwrap();
    let mut parent = tcc("parent-of-a-child", &["ok"]);
    parent.mode = Mode::Saga.into();
    parent.branches[0].child = Some(ChildTransaction {
        mode: Mode::Saga.into(),
        branches: vec![branch("inner", "ok")],
        ..Default::default()
    });
    parent.branches[0].participant.clear();
    parent.branches[0].action.clear();
    parent.branches[0].payload = None;
    world.submit(parent).await.unwrap();
    let mut late = tcc("too-late", &["hang"]);
    late.timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    late.wait_for = WaitFor::Accepted.into();
    world.submit(late).await.unwrap();
    world.submit(tcc("resolved", &["commit-fail-1"])).await.unwrap();
    let mut scheduled = tcc("next-year", &["ok", "ok"]);
    let later = SystemTime::now() + Duration::from_secs(300 * 86_400);
    scheduled.start_at = Some(later.into());
    scheduled.wait_for = WaitFor::Accepted.into();
    world.submit(scheduled).await.unwrap();
    // One holds a lock for ever, and another one waits for it.
    for (gid, action) in [("first-in-line", "commit-fail-99"), ("second-in-line", "ok")] {
        let mut locking = tcc(gid, &[action]);
        let name = format!("account:{}", "0123456789".repeat(5));
        locking.locks =
            vec![Lock { name, mode: LockMode::Exclusive.into(), wait_max: millis(3_600_000) }];
        locking.timeout = millis(3_600_000);
        locking.wait_for = WaitFor::Accepted.into();
        world.submit(locking).await.unwrap();
    }
    // Two versions of a participant with a long name; nobody calls it.
    for (port, sdk, features) in [
        (1, "unanimo-sdk-rust/0.1.0", vec!["must_succeed", "saga", "step_inputs", "tcc"]),
        (2, "another-sdk-with-a-rather-long-name/12.34.56-beta.789", vec!["tcc"]),
    ] {
        let request = RegisterEndpointRequest {
            participant: format!("bank-{}", "0123456789".repeat(5)),
            endpoint: format!("http://127.0.0.1:{port}"),
            instance_id: format!("i-{port}"),
            features: features.into_iter().map(str::to_owned).collect(),
            sdk: sdk.into(),
            ..Default::default()
        };
        world.directory().register_endpoint(request).await.unwrap();
    }
    let stuck = world.get_until(&long, "its alarm", |tx| tx.stalled).await.tx_id;
    let heuristic =
        world.get_until("order-4713", "its end", |tx| tx.ended_at.is_some()).await.tx_id;
    let ended =
        async |gid: &str| world.get_until(gid, "its end", |tx| tx.ended_at.is_some()).await.tx_id;
    let resolved = world.get_until("resolved", "its alarm", |tx| tx.stalled).await.tx_id;
    let paths = vec![
        ("overview", "/".to_owned()),
        ("attention", "/attention".into()),
        ("transactions", "/transactions".into()),
        ("participants", "/participants".into()),
        ("system", "/system".into()),
        ("ended", format!("/tx/{}", ended("order-4711").await)),
        ("saga", format!("/tx/{}", ended("trip-1").await)),
        ("stuck", format!("/tx/{stuck}")),
        ("retry", format!("/tx/{stuck}/retry")),
        ("resolve", format!("/tx/{stuck}/resolve")),
        ("forget", format!("/tx/{heuristic}/forget")),
        ("retry-many", "/attention/retry".into()),
        ("forget-many", "/attention/forget".into()),
        ("resolve-many", "/attention/resolve".into()),
        ("resolve-those", "/attention/resolve?participant=p".into()),
        ("scheduled", "/gid/next-year".into()),
        ("locked", "/gid/second-in-line".into()),
        ("none", "/transactions?gidPrefix=none".into()),
        ("aborted", format!("/tx/{}", ended("order-4712").await)),
        ("too-late", format!("/tx/{}", ended("too-late").await)),
        ("parent", format!("/tx/{}", ended("parent-of-a-child").await)),
        ("child", "/gid/parent-of-a-child.a".into()),
        ("bad-filter", format!("/transactions?metadata={}", "x".repeat(200))),
        ("no-transaction", "/tx/0199b0d0-0000-7000-8000-000000000000".into()),
        ("no-id", format!("/tx/{}", "0123456789".repeat(30))),
        ("no-page", format!("/{}", "0123456789".repeat(30))),
        (RESOLVED, format!("/tx/{resolved}")),
    ];
    (world, paths)
}

/// Transaction of which a branch is resolved by clicks, and whose alarm is then not cleared.
const RESOLVED: &str = "resolved";

/// Ends a branch by word, and asks for the alarm to be cleared without a word that somebody has looked. Returns the path of the
/// page that tells the refusal.
async fn refused(page: &mut Page, of_tx: &str) -> String {
    for act in ["resolve", "forget"] {
        page.open(&format!("{of_tx}/{act}")).await;
        for (field, text) in [("operator", "ann"), ("note", "the bank is closed")] {
            page.write(&format!("input[name={field}]"), text).await;
        }
        if act == "resolve" {
            page.click("input[value=RESOLUTION_COMMITTED]").await;
        }
        page.follow("button.go").await;
    }
    page.sees("It was refused.").await;
    page.value("location.pathname").await.as_str().unwrap().to_owned()
}

/// Opens a page, and returns what is wrong with it.
async fn wrong_with(page: &mut Page, path: &str) -> Vec<String> {
    page.open(path).await;
    wrong_here(page, path).await
}

/// Looks at the page that is open, in each theme at each width, and returns what is wrong with it.
async fn wrong_here(page: &mut Page, path: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    page.value(&format!("{AXE};0")).await;
    for theme in THEMES {
        page.theme(theme).await;
        for width in WIDTHS {
            page.size(width, 900).await;
            for check in [OVERFLOW, CRAMPED, UNEVEN, PALE, BARRIERS] {
                let found = page.value(check).await;
                if found != json!([]) {
                    wrong.push(format!("{path}, {theme} at {width}: {found}"));
                }
            }
        }
    }
    // A page that says what is wrong has such a status, and the browser tells it.
    let told = |problem: &String| !problem.contains("the server responded with a status of 4");
    let problems = page.problems().into_iter().filter(told);
    wrong.extend(problems.map(|problem| format!("{path}: {problem}")));
    let unnamed = "[...document.querySelectorAll('main input:not([type=hidden]), select, textarea, button')] \
                   .filter((e) => !e.textContent.trim() && !e.labels?.length).map((e) => e.outerHTML)";
    assert_eq!(page.value(unnamed).await, json!([]), "{path}: each field has a label");
    wrong
}

/// Every page in both themes and at three widths: nothing is cut off or pale, nothing is wrong with it, and nothing comes from
/// elsewhere.
#[tokio::test]
async fn every_page_is_whole_in_both_themes_and_at_three_widths() {
    let (world, mut paths) = full().await;
    let mut page = page(&world).await;
    let mut wrong = Vec::new();
    for (_, path) in &paths {
        wrong.extend(wrong_with(&mut page, path).await);
    }
    let refusal = refused(&mut page, &paths[paths.len() - 1].1).await;
    wrong.extend(wrong_here(&mut page, &refusal).await);
    paths.push(("refused", refusal));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The graph of the saga has each step with its state.
    page.open(&paths.iter().find(|(name, _)| *name == "saga").unwrap().1).await;
    let boxes = "[...document.querySelectorAll('.saga text')].map((e) => e.textContent).filter((t) => t.includes('done'))";
    assert_eq!(
        page.value(&format!("{boxes}.length")).await,
        json!(3),
        "{}",
        page.value(boxes).await
    );
    if let Some(folder) = std::env::var_os(PICTURES) {
        take_pictures(&mut page, &paths, Path::new(&folder)).await;
    }
}

/// Where there is nothing yet, and nobody has registered, the pages say so.
#[tokio::test]
async fn empty_pages_are_whole_and_say_so() {
    let world = World::sqlite().await;
    let mut page = page(&world).await;
    let mut wrong = Vec::new();
    for (path, says) in [
        ("/", "There is no transaction yet."),
        ("/attention", "No transaction needs a person."),
        ("/transactions", "No transaction matches."),
        ("/participants", "not called lately"),
        ("/system", "Limits in force"),
    ] {
        wrong.extend(wrong_with(&mut page, path).await);
        page.sees(says).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Takes pictures of all pages as a reader on a laptop sees them, and of some as others do.
async fn take_pictures(page: &mut Page, paths: &[(&str, String)], folder: &Path) {
    for (name, path) in paths {
        for (theme, width, height) in
            [("light", 1024, 720), ("dark", 1024, 720), ("light", 360, 720), ("dark", 1920, 1000)]
        {
            page.theme(theme).await;
            page.size(width, height).await;
            page.open(path).await;
            let picture = BASE64_STANDARD.decode(page.picture().await).unwrap();
            std::fs::write(folder.join(format!("{name}-{theme}-{width}.png")), picture).unwrap();
        }
    }
}

/// A recorded history is gone through by clicks from its first input to its last, and each page is whole.
#[tokio::test]
async fn a_recorded_history_is_gone_through_by_clicks() {
    let history = "saga-trip-with-pivot";
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("histories/0.1.0");
    let text = std::fs::read(folder.join(format!("{history}.json"))).unwrap();
    let recorded = Recorded::new(serde_json::from_slice(&text).unwrap()).unwrap();
    assert_eq!(recorded.remark(), None);
    let count = recorded.count();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(recorded.serve(listener, std::future::pending()));
    let mut page = Browser::shared().page(&format!("http://{address}")).await;
    page.size(1024, 900).await;
    let first = wrong_with(&mut page, "/").await;
    let last = wrong_with(&mut page, &format!("/{count}")).await;
    assert_eq!([first, last].concat(), [""; 0]);
    if let Some(folder) = std::env::var_os(PICTURES) {
        let paths = [("recorded", format!("/{}", count / 2))];
        take_pictures(&mut page, &paths, Path::new(&folder)).await;
    }
    page.open("/").await;
    page.sees("begun with ").await;
    assert_eq!(page.value("document.querySelectorAll('a[accesskey=p]').length").await, json!(0));
    for number in 2..=count {
        page.follow("a[accesskey=n]").await;
        page.sees(&format!("Input {number} of {count}")).await;
    }
    page.sees("committed").await;
    assert_eq!(page.value("document.querySelectorAll('a[accesskey=n]').length").await, json!(0));
    let steps = "document.querySelectorAll('.saga text').length > 0";
    assert_eq!(page.value(steps).await, json!(true));
    page.follow("a[accesskey=f]").await;
    page.sees(&format!("Input 1 of {count}")).await;
    assert_eq!(page.problems(), [""; 0]);
    serving.abort();
}

/// An open page follows a transaction from its begin to its end, without being loaded again: nothing is in it at first, then
/// its first branch is called and votes, then its second one, then it is decided, and at last it has ended.
#[tokio::test]
async fn a_transaction_is_followed_from_begin_to_end() {
    let world = World::sqlite().await;
    let mut page = page(&world).await;
    let request = BeginTransactionRequest {
        gid: "g".into(),
        mode: Mode::Tcc.into(),
        timeout: millis(600_000),
        ..Default::default()
    };
    let tx_id = world.client().begin_transaction(request).await.unwrap().into_inner().tx_id;
    page.open("/transactions").await;
    page.follow("tbody a").await;
    let state =
        async |page: &Page| page.value("document.querySelector('h1 + p .state').textContent").await;
    assert_eq!(state(&page).await, json!("active"));
    assert_eq!(page.value("document.querySelectorAll('details[data-key]').length").await, json!(0));
    page.value("window.stayed = true").await;
    let execute = |id: &str, action: &str| {
        let (mut client, branch) = (world.client(), Some(branch(id, action)));
        let request = ExecuteBranchRequest { tx_id: tx_id.clone(), branch, ..Default::default() };
        async move { client.execute_branch(request).await.unwrap() }
    };
    // What is seen of each branch: its name, its state.
    let branches = "[...document.querySelectorAll('details[data-key] > summary')] \
                    .map((of) => [of.querySelector('.name').textContent, of.querySelector('.state').textContent])";
    let shown = async |page: &Page, expected: Value| {
        let seen = async || (page.value(branches).await == expected).then_some(());
        until(&expected.to_string(), seen).await;
    };
    execute("a", "ok").await;
    shown(&page, json!([["a", "prepared"]])).await;
    world.p.hold(true);
    let (_, ()) = tokio::join!(execute("b", "gated"), async {
        shown(&page, json!([["a", "prepared"], ["b", "preparing"]])).await;
        page.sees("It waits:").await;
        world.p.hold(false);
    });
    shown(&page, json!([["a", "prepared"], ["b", "prepared"]])).await;
    assert_eq!(state(&page).await, json!("active"));
    world.p.hold(true);
    let of = |id: &str| CommitBranch { branch_id: id.into(), vote: Vote::Unspecified.into() };
    let request = CommitTransactionRequest {
        tx_id: tx_id.clone(),
        branches: vec![of("a"), of("b")],
        wait_for: WaitFor::Decided.into(),
        ..Default::default()
    };
    world.client().commit_transaction(request).await.unwrap();
    page.sees("committing").await;
    page.sees("It waits:").await;
    world.p.hold(false);
    page.sees("committed").await;
    until("the end", async || {
        let text = page.text().await;
        (!text.contains("It waits:") && text.contains("ended\n")).then_some(())
    })
    .await;
    assert_eq!(page.value("window.stayed").await, json!(true));
    assert_eq!(page.problems(), [""; 0]);
}

/// Stuck ones are retried, resolved and forgotten by clicks alone; without scripts as well.
#[tokio::test]
async fn stuck_ones_are_steered_by_clicks() {
    let world = World::start(stuck()).await;
    let tx_id = stall(&world, "g", &["commit-fail-2", "ok"]).await;
    let mut page = page(&world).await;
    page.open("/").await;
    page.sees("Needs a person").await;
    page.follow("section a[href='/attention']").await;
    page.follow("a.button[href$='/retry']").await;
    page.write("input[name=operator]", "ann").await;
    // Without a reason it is not sent.
    page.click("button.go").await;
    page.write("input[name=note]", "the bank is up again").await;
    page.follow("button.go").await;
    page.sees("The calls that waited are sent now.").await;
    until("the call", async || (world.p.calls(&tx_id, "a").len() == 3).then_some(())).await;

    // From here on without scripts: forms and links alone.
    page.scripts(false).await;
    page.follow("main a[href^='/tx/']").await;
    page.follow("a.button[href$='/resolve']").await;
    // What is needed and missing is not sent.
    page.click("button.go").await;
    for (field, text) in [("operator", "ann"), ("note", "the bank is closed")] {
        page.write(&format!("input[name={field}]"), text).await;
    }
    page.click("input[value=RESOLUTION_COMMITTED]").await;
    page.follow("button.go").await;
    page.sees("has ended by your word").await;
    page.follow("main a[href^='/tx/']").await;
    page.follow("a.button[href$='/forget']").await;
    page.sees("hold nothing more of it").await;
    for (field, text) in [("operator", "ann"), ("note", "paid by hand")] {
        page.write(&format!("input[name={field}]"), text).await;
    }
    page.click("input[name=released]").await;
    page.follow("button.go").await;
    page.sees("The alarm is cleared.").await;
    let tx = world.get("g").await;
    assert!(!tx.attention && tx.ended_at.is_some(), "{tx:?}");
    assert_eq!(page.problems(), [""; 0]);
}

/// The checker finds what is wrong: an image without words, pale text, a field without a label.
#[tokio::test]
async fn barriers_are_found() {
    let world = World::sqlite().await;
    let page = &mut page(&world).await;
    page.open("/").await;
    let worse = "document.querySelector('main').innerHTML = '<img src=/icon.svg><input><p>pale</p>'; \
                 Object.assign(document.querySelector('main p').style, { color: '#999', background: '#fff' })";
    page.value(worse).await;
    page.value(&format!("{AXE};0")).await;
    let found = page.value(BARRIERS).await.to_string();
    for barrier in ["image-alt", "label", "color-contrast"] {
        assert!(found.contains(barrier), "{barrier}: {found}");
    }
}

/// Many are retried by clicks, and the page shows how it goes.
#[tokio::test]
async fn many_are_retried_by_clicks() {
    let world = World::start(stuck()).await;
    stall_many(&world, "order-", 5_000).await;
    let mut page = page(&world).await;
    // A text that is filled in stays while the page comes anew.
    page.open("/attention").await;
    page.click("summary").await;
    page.write("input[name=gidPrefix]", "order-").await;
    let renew = "document.activeElement.blur(); document.querySelector('h1').id = 'old'; \
                 document.dispatchEvent(new Event('visibilitychange'))";
    page.value(renew).await;
    until("the page anew", async || {
        let is_old = page.value("document.getElementById('old') !== null").await;
        (is_old == json!(false)).then_some(())
    })
    .await;
    let filled_in = page.value("document.querySelector('input[name=gidPrefix]').value").await;
    assert_eq!(filled_in, json!("order-"));
    page.follow("summary + form button").await;
    page.sees("5000 transactions need a person").await;
    page.write("form.act input[name=operator]", "ann").await;
    page.write("form.act input[name=note]", "the bank is up again").await;
    // Clicked twice: it is one act. The answer to the first click comes after three seconds.
    let twice = "const go = document.querySelector('button.go'); go.click(); setTimeout(() => go.click(), 100)";
    page.led_by(twice).await;
    page.sees("Under way: ").await;
    let path = page.value("location.pathname").await.as_str().unwrap().to_owned();
    assert_eq!(wrong_here(&mut page, &path).await, [""; 0]);
    if let Some(folder) = std::env::var_os(PICTURES) {
        take_pictures(&mut page, &[("under-way", path)], Path::new(&folder)).await;
    }
    // At most a hundred a second.
    let finished = "Finished: 5000 done, 0 refused, of 5000.";
    let seen = async || page.text().await.contains(finished).then_some(());
    until_for(Duration::from_secs(300), finished, seen).await;
    page.open("/attention").await;
    page.sees("No transaction needs a person.").await;
    assert_eq!(page.problems(), [""; 0]);
}

/// Texts of users and participants are texts: nothing of them runs, loads or becomes an element.
#[tokio::test]
async fn texts_of_users_stay_texts() {
    let mut config = stuck();
    config.call_timeout = Period::millis(500);
    let world = World::start(config).await;
    let mut request = tcc("g", &["commit-fail-1", "ok", "ok"]);
    // Each text has a mark of its own.
    let hostile = |mark: &str| format!("{HOSTILE}{mark}");
    request.metadata.insert("note".into(), hostile("in-metadata"));
    request.branches[0].payload =
        unanimo_tests::payload(json!({ "text": hostile("in-json") }).to_string().into_bytes());
    request.branches[1].payload = unanimo_tests::payload(hostile("in-text").into_bytes());
    // Of bytes that are no text the type alone is shown.
    let (data, media_type) = (vec![0xff_u8, 0xfe].into(), hostile("in-type"));
    request.branches[2].payload = Some(Payload { data, media_type });
    let tx_id = world.submit(request).await.unwrap().tx_id;
    world.get_until("g", "its alarm", |tx| tx.stalled).await;
    let mut page = page(&world).await;
    page.open(&format!("/tx/{tx_id}/resolve")).await;
    page.write("input[name=operator]", &hostile("in-operator")).await;
    page.write("input[name=note]", &hostile("in-note")).await;
    page.click("input[value=RESOLUTION_HAZARD]").await;
    page.follow("button.go").await;
    page.sees("has ended by your word").await;
    page.open(&format!("/tx/{tx_id}")).await;
    for mark in ["in-metadata", "in-json", "in-text", "in-type", "in-operator", "in-note"] {
        let texts = page.value("document.documentElement.textContent").await;
        assert!(texts.as_str().is_some_and(|texts| texts.contains(mark)), "{mark}: {texts}");
    }
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for (path, least) in [
        (format!("/tx/{tx_id}"), 5),
        (format!("/tx/{tx_id}/forget"), 1),
        ("/attention".to_owned(), 0),
        (format!("/attention/retry?gidPrefix=x&participant=p&metadata=x={encoded}"), 0),
        (format!("/transactions?metadata=x={encoded}"), 0),
        ("/".to_owned(), 0),
    ] {
        page.open(&path).await;
        let shown = page
            .value("document.documentElement.textContent.split('onerror=alert(1)').length - 1")
            .await;
        assert!(shown.as_u64() >= Some(least), "{shown} in {path}: {}", page.text().await);
        let strange = "document.querySelectorAll('img, script:not([src=\"/assets/live.js\"]), iframe, [onerror]').length";
        assert_eq!(page.value(strange).await, json!(0), "{path}");
    }
    assert_eq!(page.problems(), [""; 0]);
}

/// A caller who may not act sees no button.
#[tokio::test]
async fn roles_hold_in_pages() {
    let (config, known) = known(&[&["operator", "initiator"], &["viewer", "initiator"]]);
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    let header = |n: usize| known[n].clone();
    let begun = json!({"gid": "g", "mode": "MODE_TCC", "waitFor": "WAIT_FOR_DECIDED", "branches": [
        {"branchId": "a", "participant": "p", "action": "ok"}
    ]});
    world.p.hold(true);
    let headers = [("authorization", header(0)), ("content-type", "application/json".to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let body = begun.to_string();
    let reply = crate::coordinator::http::http_call(
        address,
        "POST",
        "/v1/transactions",
        &headers,
        body.as_bytes(),
    )
    .await;
    let begun: Value = serde_json::from_str(&reply.body).unwrap();
    let of_tx = format!("/tx/{}", begun["result"]["txId"].as_str().unwrap());
    let mut page = page(&world).await;
    for (n, buttons) in [(0, 2), (1, 0)] {
        page.headers(json!({"authorization": header(n)})).await;
        page.open(&of_tx).await;
        page.sees("committing").await;
        assert_eq!(page.value("document.querySelectorAll('.button').length").await, json!(buttons));
        assert_eq!(page.problems(), [""; 0]);
    }
    page.open(&format!("{of_tx}/retry")).await;
    page.sees("may not call").await;
    assert_eq!(page.value("document.querySelectorAll('form').length").await, json!(0));
    world.p.hold(false);
}
