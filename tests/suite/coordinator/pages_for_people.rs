//! Pages of the dashboard: what they show, to whom, and that nothing in them is anybody else's program.

use std::time::{Duration, Instant};

use serde_json::json;
use unanimo_coordinator::Config;
use unanimo_coordinator::identity::Token;
use unanimo_proto::v1::{self, Mode};
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;

use super::acts::{stall, stuck};
use super::http::{Reply, http_call};
use super::{World, branch, config, sqlite_url, tcc};

async fn page(world: &World, path: &str) -> Reply {
    http_call(world.running.admin_address().unwrap(), "GET", path, &[], b"").await
}

/// Text of a user that would do harm in a page.
const HOSTILE: &str =
    "</pre></title><script>alert(1)</script><img src=x onerror='alert(1)'>\"&{{ 7*7 }}";

/// Every page is there, loads nothing from elsewhere, and has no program in it.
#[tokio::test]
async fn pages_are_served_and_keep_to_themselves() {
    let world = World::sqlite().await;
    world.submit(tcc("first", &["ok"])).await.unwrap();
    let tx = world.get_until("first", "its end", |tx| tx.ended_at.is_some()).await;
    let of_tx = format!("/tx/{}", tx.tx_id);
    for (path, shown) in [
        (
            "/",
            &[
                "Nothing needs a person.",
                ">first</a>",
                "active",
                "committed",
                " ago</span>",
                "Counted at 20",
            ][..],
        ),
        ("/attention", &["No transaction needs a person."]),
        ("/transactions", &[">first</a>", "tcc", "needs a person"]),
        (
            "/transactions?gidPrefix=fir&states=TRANSACTION_STATE_COMMITTED",
            &[">first</a>", "value=\"fir\""],
        ),
        ("/transactions?gidPrefix=other", &["No transaction matches."]),
        ("/participants", &[">p</a>", "in-process", "alive"]),
        (
            "/system",
            &[
                "0.1.0",
                "branches max",
                "two_phase_commit",
                "<dt>payload bytes max</dt><dd>1 MiB</dd>",
                "data-every=\"10000\"",
            ],
        ),
        (
            &of_tx,
            &[
                "first",
                "<svg",
                "class=\"prepare\"",
                "class=\"commit\"",
                "<td>Commit</td>",
                "payload of a",
                "COMMIT is decided",
                "begun",
            ],
        ),
    ] {
        let reply = page(&world, path).await;
        assert_eq!(reply.code, 200, "{path}: {reply:?}");
        for text in shown {
            assert!(reply.body.contains(text), "{text} in {path}: {}", reply.body);
        }
        assert!(
            reply.head.contains("content-security-policy: default-src 'none'; script-src 'self'"),
            "{path}"
        );
        let body = &reply.body;
        for not in ["http://", "https://", "style=", "onclick", "<style", "javascript:"] {
            assert!(!body.contains(not), "{not} in {path}: {body}");
        }
        let scripts: Vec<_> = body.split("<script").skip(1).map(|rest| &rest[..12]).collect();
        assert_eq!(scripts, [" src=\"/asset"], "{path}");
    }
    for (path, media_type) in [
        ("/assets/style.css", "text/css"),
        ("/assets/live.js", "text/javascript"),
        ("/assets/icon.svg", "image/svg+xml"),
    ] {
        let reply = page(&world, path).await;
        assert!(reply.code == 200 && reply.head.contains(media_type), "{path}: {}", reply.head);
    }
    for (path, code) in [
        ("/tx/nothing", 400),
        ("/tx/%ff", 400),
        ("/tx/%ff/retry", 400),
        ("/tx/0199b0d0-0000-7000-8000-000000000000/retry%ff", 400),
        ("/tx/%ff/history.json", 400),
        ("/gid/%ff", 400),
        ("/attention/%ff", 400),
        ("/acts/%ff", 400),
        ("/tx/0199b0d0-0000-7000-8000-000000000000", 404),
        ("/transactions?states=NONE", 400),
        ("/transactions?pageToken=x", 400),
        ("/nothing", 404),
    ] {
        let reply = page(&world, path).await;
        assert_eq!(reply.code, code, "{path}");
        assert!(reply.body.contains("</nav>"), "a page with its ways to others: {path}: {reply:?}");
        for header in ["content-security-policy: ", "nosniff", "no-store"] {
            assert!(reply.head.contains(header), "{header} of {path}: {}", reply.head);
        }
    }
    let address = world.running.admin_address().unwrap();
    let elsewhere = http_call(address, "GET", "/", &[("host", "evil.example")], b"").await;
    assert_eq!(elsewhere.code, 421, "{elsewhere:?}");
}

/// With the setting, the id of a trace leads to the trace; without it it is a text.
#[tokio::test]
async fn a_transaction_leads_to_its_trace() {
    let linked = Config {
        trace_link: "https://traces.example/trace/{trace_id}?of=unanimo".to_owned(),
        ..config(&sqlite_url())
    };
    for world in [World::start(linked).await, World::sqlite().await] {
        world.submit(tcc("g", &["ok"])).await.unwrap();
        let tx = world.get("g").await;
        let reply = page(&world, &format!("/tx/{}", tx.tx_id)).await;
        let id = &tx.trace_id;
        let link = format!(
            "<a href=\"https://traces.example/trace/{id}?of=unanimo\" rel=\"noopener noreferrer\">"
        );
        let has_link = !world.config.trace_link.is_empty();
        assert_eq!(reply.body.contains(&link), has_link, "{}", reply.body);
        assert!(!id.is_empty() && reply.body.contains(id.as_str()), "{}", reply.body);
        assert_eq!(reply.body.contains("https://"), has_link, "{}", reply.body);
    }
}

/// Texts of users and participants are texts: in each page that shows them.
#[tokio::test]
async fn texts_of_users_are_escaped() {
    let world = World::sqlite().await;
    let mut request = tcc("g", &["ok"]);
    request.metadata.insert("note".into(), HOSTILE.into());
    let payload = json!({ "text": HOSTILE }).to_string();
    request.branches[0].payload = unanimo_tests::payload(payload.into_bytes());
    world.p.hold(true);
    world.submit(request).await.unwrap();
    let tx = world.get("g").await;
    let operated =
        json!({"resolution": "RESOLUTION_COMMITTED", "operator": "ann", "note": HOSTILE});
    let path = format!("/v1/tx/{}/branches/a:resolve", tx.tx_id);
    let address = world.running.admin_address().unwrap();
    let headers = [("content-type", "application/json")];
    let body = operated.to_string();
    let resolved = http_call(address, "POST", &path, &headers, body.as_bytes()).await;
    assert_eq!(resolved.code, 200, "{resolved:?}");
    let encoded: String = HOSTILE.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let (of_tx, filter) =
        (format!("/tx/{}", tx.tx_id), format!("/transactions?participant={encoded}"));
    let bad_filter = format!("/transactions?states={encoded}");
    let of_nothing = format!("/tx/{encoded}");
    for (path, least) in
        [(&of_tx, 4), (&filter, 1), (&bad_filter, 1), (&of_nothing, 1), (&"/".to_owned(), 0)]
    {
        let reply = page(&world, path).await;
        let escaped = reply.body.matches("&#60;script&#62;").count();
        assert!(reply.body.contains("</html>"), "{path}: {reply:?}");
        assert!(escaped >= least || reply.code == 400, "{escaped} in {path}: {}", reply.body);
        assert!(
            !reply.body.contains("<script>") && !reply.body.contains("<img"),
            "{path}: {}",
            reply.body
        );
    }
    world.p.hold(false);
}

/// Each step of a saga is in its graph by its whole name, with every sign that a name may have, and is an element of nothing.
#[tokio::test]
async fn steps_are_in_the_graph_by_their_names() {
    let world = World::sqlite().await;
    let names = ["0.book:hotel-1_A", "_", "Z.Z:Z-Z_Z"];
    let mut saga = tcc("trip", &["ok", "ok", "ok"]);
    saga.mode = Mode::Saga.into();
    for (branch, name) in saga.branches.iter_mut().zip(names) {
        branch.branch_id = name.to_owned();
    }
    saga.branches[2].depends_on = vec![names[0].to_owned(), names[1].to_owned()];
    let tx_id = world.submit(saga).await.unwrap().tx_id;
    world.get_until("trip", "its end", |tx| tx.ended_at.is_some()).await;
    let body = page(&world, &format!("/tx/{tx_id}")).await.body;
    let (_, graph) = body.split_once("<h2 id=\"saga\">").expect(&body);
    let (graph, _) = graph.split_once("</svg>").unwrap();
    for name in names {
        assert!(graph.contains(&format!(">{name} ")), "{name}: {graph}");
    }
    for element in graph.split('<').skip(1) {
        let name = element.trim_start_matches('/').split([' ', '>', '/']).next().unwrap();
        let drawn =
            ["h2", "div", "svg", "title", "defs", "marker", "path", "g", "rect", "text", "line"];
        assert!(drawn.contains(&name), "<{name}>: {graph}");
    }
}

/// A transaction that hangs says why on the first page and on its own.
#[tokio::test]
async fn a_transaction_that_hangs_says_why() {
    let world = World::sqlite().await;
    world.p.hold(true);
    world.submit(tcc("held", &["ok"])).await.unwrap();
    let tx = world.get("held").await;
    let path = format!("/tx/{}", tx.tx_id);
    let reply = until("the reason", async || {
        let reply = page(&world, &path).await;
        reply.body.contains("It waits:").then_some(reply)
    })
    .await;
    assert!(reply.body.contains("of branch a"), "{}", reply.body);
    let watched = format!("data-watch=\"/v1/tx/{}:watch?afterRevision=", tx.tx_id);
    assert!(reply.body.contains(&watched), "{}", reply.body);
    world.p.hold(false);
    world.get_until("held", "its end", |tx| tx.ended_at.is_some()).await;
    let reply = page(&world, &path).await;
    assert!(
        !reply.body.contains("data-watch") && !reply.body.contains("It waits:"),
        "{}",
        reply.body
    );
}

/// The script catches up with what came while the page was read or not seen, gives up on what does not answer, and holds no
/// connection for a page that nobody sees.
#[tokio::test]
async fn the_script_catches_up_and_lets_go() {
    let world = World::sqlite().await;
    let script = page(&world, "/assets/live.js").await.body;
    for part in [
        "addEventListener(\"visibilitychange\"",
        "addEventListener(\"focusout\"",
        "addEventListener(\"selectionchange\"",
        "AbortSignal.timeout(",
        "events?.close()",
        "d.open = chosen.get(",
    ] {
        assert!(script.contains(part), "{part}: {script}");
    }
}

/// Lists in lists around many numbers would be a hundred times as long with indents.
#[tokio::test]
async fn a_payload_in_many_lists_makes_no_large_page() {
    let world = World::sqlite().await;
    let (open, close) = ("[".repeat(120), "]".repeat(120));
    let mut request = tcc("g", &["ok", "ok"]);
    for (branch, numbers) in request.branches.iter_mut().zip([9_000, 400_000]) {
        let payload = format!("{open}{}1{close}", "1,".repeat(numbers));
        branch.payload = unanimo_tests::payload(payload.into_bytes());
    }
    world.submit(request).await.unwrap();
    let tx = world.get("g").await;
    let reply = page(&world, &format!("/tx/{}", tx.tx_id)).await;
    assert_eq!(reply.code, 200, "{}", reply.head);
    assert!(reply.body.contains("(800241 bytes in all)"), "{} bytes", reply.body.len());
    assert!(reply.body.len() < 100_000, "{} bytes", reply.body.len());
}

/// The numbers on the overview.
fn figures(reply: &Reply) -> &str {
    let (_, rest) = reply.body.split_once("<dl class=\"figures\">").expect(&reply.body);
    rest.split_once("</dl>").unwrap().0
}

/// Counting may read millions of rows: it is done once for all who look within some seconds.
#[tokio::test]
async fn numbers_are_counted_once_for_all_who_look() {
    loop {
        let world = World::sqlite().await;
        let began = Instant::now();
        let first = page(&world, "/").await;
        world.p.hold(true);
        world.submit(tcc("held", &["ok"])).await.unwrap();
        let second = page(&world, "/").await;
        let took = began.elapsed();
        assert!(second.body.contains(">held</a>"), "the lists are new: {}", second.body);
        world.p.hold(false);
        // On a machine that is very slow they are counted anew.
        if took < Duration::from_secs(5) {
            assert_eq!(figures(&first), figures(&second));
            return;
        }
    }
}

/// Numbers of all transactions are for operators and viewers, also those that were counted for one of these a moment ago.
#[tokio::test]
async fn numbers_that_another_one_counted_are_for_those_who_may_see_them() {
    let (path, tokens) = (
        run_folder().join(uuid::Uuid::new_v4().to_string()),
        [1, 2].map(|n| Token::new([n; Token::RANDOM_BYTES])),
    );
    let entries = ["viewer", "initiator"].iter().zip(&tokens).map(|(role, token)| {
        let token = token.hashed();
        format!("[[identity]]\nname = \"{role}\"\nroles = [\"{role}\"]\ntokens = [\"{token}\"]\n")
    });
    std::fs::write(&path, entries.collect::<String>()).unwrap();
    let mut config = config(&sqlite_url());
    config.identities = crate::security::setting(&path);
    let world = World::start(config).await;
    let address = world.running.admin_address().unwrap();
    let get = async |token: &str, path: &str| {
        let header = format!("Bearer {token}");
        http_call(address, "GET", path, &[("authorization", &header)], b"").await
    };
    for (token, code) in tokens.iter().zip([200, 303]) {
        let reply = get(token.text(), "/").await;
        assert_eq!(reply.code, code, "{reply:?}");
        assert_eq!(reply.body.contains("Counted at"), code == 200, "{reply:?}");
    }
    // An initiator's first page is its list, and nobody's is that of whoever is not known.
    let reply = get(tokens[1].text(), "/").await;
    assert!(reply.head.to_lowercase().contains("location: /transactions"), "{reply:?}");
    assert_eq!(get(tokens[1].text(), "/transactions").await.code, 200);
    for path in ["/", "/transactions"] {
        assert_eq!(get("unknown", path).await.code, 401, "{path}");
    }
}

/// A filter that is none, by its form or by what the API says of it, is told above a form with what was typed.
#[tokio::test]
async fn a_bad_filter_is_mended_in_its_form() {
    let world = World::sqlite().await;
    for (query, typed, why) in [
        ("gidPrefix=pay&metadata=eu", "value=\"eu\"", "metadata must be KEY=VALUE."),
        ("gidPrefix=pay&until=soon", "value=\"soon\"", "createdUntil"),
        ("gidPrefix=pay&participant=a+b", "value=\"a b\"", "participant"),
        ("gidPrefix=pay&pageToken=x", "value=\"pay\"", "page_token"),
        ("gidPrefix=pay&state=x", "value=\"pay\"", "state is no part"),
    ] {
        let reply = page(&world, &format!("/transactions?{query}")).await;
        assert_eq!(reply.code, 400, "{query}: {reply:?}");
        for shown in [typed, "value=\"pay\"", "This is no filter:", why, "<button>Show</button>"] {
            assert!(reply.body.contains(shown), "{shown} of {query}: {}", reply.body);
        }
        assert!(!reply.body.contains("No transaction matches"), "{}", reply.body);
    }
}

/// The list of what needs a person says of each what it waits for, of which participant, and what that has said last; what fails
/// besides stands above.
#[tokio::test]
async fn what_needs_a_person_says_what_it_waits_for() {
    let world = World::start(stuck()).await;
    let tx_id = stall(&world, "g", &["commit-fail-9", "ok"]).await;
    // Lists are read in the database, where its alarm comes a moment later.
    let list = until("its alarm in the list", async || {
        let list = page(&world, "/attention").await.body;
        list.contains(&tx_id).then_some(list)
    })
    .await;
    let of_tx = page(&world, &format!("/tx/{tx_id}")).await.body;
    let (_, sentence) = of_tx.split_once("It waits:</strong> ").expect(&of_tx);
    let sentence = sentence.split_once(" It is tried").map_or(sentence, |(begin, _)| begin);
    let sentence: String = sentence.chars().take(40).collect();
    assert!(list.contains(&format!("It waits:</strong> {sentence}")), "{sentence}: {list}");
    // Its commands are complete but for how the branch has ended, which nobody else can say; b has ended.
    let command = format!("<code>unanimo tx resolve {tx_id} --branch a --as HOW");
    assert!(list.contains(&command) && !list.contains("--branch b"), "{list}");
    assert!(!list.contains(">The coordinator</h2>"), "nothing else is wrong: {list}");
}

/// A child leads to its parent, and the parent to its child by its gid.
#[tokio::test]
async fn a_child_and_its_parent_lead_to_each_other() {
    let world = World::sqlite().await;
    let child = v1::ChildTransaction {
        mode: v1::Mode::Saga.into(),
        branches: vec![branch("inner", "ok")],
        ..Default::default()
    };
    let mut saga = tcc("trip", &[]);
    saga.mode = v1::Mode::Saga.into();
    saga.branches = vec![v1::BranchSpec {
        branch_id: "hotel".into(),
        child: Some(child),
        ..Default::default()
    }];
    world.submit(saga).await.unwrap();
    let parent = world.get_until("trip", "its end", |tx| tx.ended_at.is_some()).await;
    let child = world.get("trip.hotel").await;
    let of_parent = page(&world, &format!("/tx/{}", parent.tx_id)).await.body;
    assert!(of_parent.contains("<a href=\"/gid/trip.hotel\">trip.hotel</a>"), "{of_parent}");
    let led = page(&world, "/gid/trip.hotel").await;
    let to = format!("location: /tx/{}", child.tx_id);
    assert!(led.code == 303 && led.head.to_lowercase().contains(&to), "{led:?}");
    let of_child = page(&world, &format!("/tx/{}", child.tx_id)).await.body;
    let to = format!("<a href=\"/tx/{0}\">{0}</a>, branch hotel", parent.tx_id);
    assert!(of_child.contains(&to), "{to}: {of_child}");
    assert_eq!(page(&world, "/gid/nobody").await.code, 404);
}

/// A page that is not there says so, and leads back; a call that is not there is a problem.
#[tokio::test]
async fn what_is_not_there_says_so() {
    let world = World::sqlite().await;
    for path in ["/nix", "/transactions/nix", "/tx", "/%3Cscript%3E"] {
        let reply = page(&world, path).await;
        assert_eq!(reply.code, 404, "{path}");
        let head = reply.head.to_lowercase();
        assert!(
            head.contains("content-type: text/html") && head.contains("script-src 'self'"),
            "{head}"
        );
        assert!(reply.body.contains(&format!("<code>{path}</code>")), "{}", reply.body);
        assert!(reply.body.contains("<a href=\"/\">") && !reply.body.contains("<script>"));
    }
    for path in ["/v1", "/v1/", "/v1/nix"] {
        let reply = page(&world, path).await;
        assert_eq!(reply.code, 404, "{path}");
        assert!(reply.head.contains("application/problem+json"), "{path}: {}", reply.head);
        let problem: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(problem["status"], 404);
    }
}
