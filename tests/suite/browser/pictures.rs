//! Pictures of each page for people who have not started a coordinator yet.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tokio::net::TcpListener;
use unanimo_coordinator::Recorded;
use unanimo_tests::browser::{Browser, Page};
use unanimo_tests::wait::until;

use super::shop::Shop;
use super::{PICTURES, page, take_pictures, wrong_here};
use crate::coordinator::http::http_call;

/// Size of the window. A page that is shorter makes a smaller picture.
const WIDTH: u32 = 1_100;
const HEIGHT_MAX: u32 = 900;

/// Pages of which a picture goes on to the end of this part, however high it is by then.
const ENDS: [(&str, &str); 3] = [
    ("overview", "section[aria-labelledby=figures]"),
    ("saga", "section[aria-labelledby=saga]"),
    ("recorded", "section[aria-labelledby=saga]"),
];

/// Time for which orders are taken before: of some minutes there are lines over time to be seen.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(150);

/// Time for which orders are taken before the rates of the last seconds are looked at, and while they are.
const LATELY: Duration = Duration::from_secs(12);

/// Makes the picture of a page that the documentation has, and those to look at: in both themes, and in a narrow and a wide window.
async fn take(page: &mut Page, folder: Option<&OsStr>, name: &str, theme: &str, path: &str) {
    let Some(folder) = folder.map(Path::new) else { return };
    page.theme(theme).await;
    page.size(WIDTH, HEIGHT_MAX).await;
    page.open(path).await;
    let end = ENDS.iter().find(|(of, _)| *of == name);
    let (of, most) = end.map_or(("body", HEIGHT_MAX), |(_, of)| (*of, u32::MAX));
    let bottom =
        format!("Math.ceil(document.querySelector({}).getBoundingClientRect().bottom)", json!(of));
    let bottom = u32::try_from(page.value(&bottom).await.as_u64().unwrap()).unwrap();
    // Room below a part, as there is beside it.
    let height = if end.is_some() { bottom + 16 } else { bottom };
    page.size(WIDTH, height.min(most)).await;
    let picture = BASE64_STANDARD.decode(page.picture().await).unwrap();
    std::fs::write(folder.join(format!("dashboard-{name}.png")), picture).unwrap();
    take_pictures(page, &[(&format!("shop-{name}"), path.to_owned())], folder).await;
}

/// Names of the pictures of the dashboard that a page of the documentation shows.
fn shown_in(page: &str) -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = std::fs::read_to_string(docs.join(page)).unwrap();
    let shown = page.split("](pictures/dashboard-").skip(1);
    let names = shown.filter_map(|rest| rest.split_once(".png)").map(|(name, _)| name.to_owned()));
    let mut shown: Vec<String> = names.collect();
    shown.sort_unstable();
    shown
}

/// An ordinary system, with one service closed for maintenance: each page of it is whole and shows what it is for. The pictures
/// that docs/dashboard.md and docs/history.md have are those that are made here.
#[tokio::test]
async fn each_page_of_an_ordinary_system_is_in_the_guide() {
    let folder = std::env::var_os(PICTURES);
    let shop = Shop::open().await;
    shop.sell(if folder.is_some() { LONG } else { SHORT }).await;
    let [stuck, otherwise, saga] = shop.trouble().await;
    let pages = [
        ("attention", "light", "/attention".to_owned(), "order-4403"),
        ("transactions", "light", "/transactions".into(), "trip-2041"),
        ("stuck", "dark", format!("/tx/{stuck}"), "closed for maintenance"),
        ("saga", "light", format!("/tx/{saga}"), "tickets"),
        ("participants", "light", "/participants".into(), "most calls fail"),
        ("system", "light", "/system".into(), "Nodes and incarnations"),
        ("forget", "light", format!("/tx/{otherwise}/forget"), "order-4402"),
        // At last: new orders would be above the others in the list.
        ("overview", "light", "/".into(), "Needs a person"),
    ];
    let mut page = page(&shop.world).await;
    let mut wrong = Vec::new();
    for (name, theme, path, says) in &pages {
        // Each has been heard of a moment ago.
        shop.register().await;
        page.open(path).await;
        page.sees(says).await;
        wrong.extend(wrong_here(&mut page, path).await);
        let taking = take(&mut page, folder.as_deref(), name, theme, path);
        if *name == "overview" && folder.is_some() {
            shop.sell(LATELY).await;
            tokio::select! {
                () = shop.sell(LONG) => panic!("no picture in all that time"),
                () = taking => {}
            }
        } else {
            taking.await;
        }
    }
    // A history that was recorded there, as `unanimo view` shows it.
    let address = shop.world.running.admin_address().unwrap();
    let exported = http_call(address, "GET", &format!("/tx/{saga}/history.json"), &[], b"").await;
    let recorded = Recorded::new(serde_json::from_str(&exported.body).unwrap()).unwrap();
    let middle = format!("/{}", recorded.count() / 2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let viewed = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(recorded.serve(listener, std::future::pending()));
    let mut viewer = Browser::shared().page(&viewed).await;
    viewer.open(&middle).await;
    viewer.sees("Input ").await;
    wrong.extend(wrong_here(&mut viewer, &middle).await);
    take(&mut viewer, folder.as_deref(), "recorded", "light", &middle).await;
    serving.abort();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The pages of the documentation show each of them, and no other.
    let mut made: Vec<&str> = pages.iter().map(|(name, ..)| *name).collect();
    made.sort_unstable();
    assert_eq!(shown_in("dashboard.md"), made);
    assert_eq!(shown_in("history.md"), ["recorded"]);
    // Anybody who looks on sees the one that is stuck end by itself once its service is open again.
    shop.open_again();
    page.open(&format!("/tx/{stuck}/retry")).await;
    for (field, text) in [("operator", "ann"), ("note", "the issuer is open again")] {
        page.write(&format!("input[name={field}]"), text).await;
    }
    page.follow("button.go").await;
    page.open(&format!("/tx/{stuck}")).await;
    let ended = "document.querySelector('h1 + p .state').textContent";
    until("its end", async || (page.value(ended).await == json!("committed")).then_some(())).await;
    assert_eq!(page.problems(), [""; 0]);
}
