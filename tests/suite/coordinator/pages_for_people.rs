//! Pages of the dashboard: what they show, to whom, and that nothing in them is anybody else's program.

use serde_json::json;
use unanimo_tests::wait::until;

use super::http::{Reply, http_call};
use super::{World, tcc};

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
        ("/", &["Nothing needs a person.", ">first</a>", "active", "committed"][..]),
        ("/transactions", &[">first</a>", "tcc", "needs a person"]),
        (
            "/transactions?gidPrefix=fir&states=TRANSACTION_STATE_COMMITTED",
            &[">first</a>", "value=\"fir\""],
        ),
        ("/transactions?gidPrefix=other", &["No transaction matches."]),
        ("/participants", &[">p</a>", "in-process", "alive"]),
        ("/system", &["0.1.0", "branches max", "two_phase_commit"]),
        (
            &of_tx,
            &[
                "first",
                "<svg",
                "class=\"prepare\"",
                "class=\"two\"",
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
        ("/tx/0199b0d0-0000-7000-8000-000000000000", 404),
        ("/transactions?states=NONE", 400),
        ("/transactions?pageToken=x", 400),
        ("/nothing", 404),
    ] {
        assert_eq!(page(&world, path).await.code, code, "{path}");
    }
    let address = world.running.admin_address().unwrap();
    let elsewhere = http_call(address, "GET", "/", &[("host", "evil.example")], b"").await;
    assert_eq!(elsewhere.code, 421, "{elsewhere:?}");
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
        [(&of_tx, 3), (&filter, 1), (&bad_filter, 1), (&of_nothing, 1), (&"/".to_owned(), 0)]
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
