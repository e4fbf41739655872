//! `unanimo demo`: the tour to its end, and the dashboard that stays.

use crate::coordinator::http::http_call;
use unanimo_tests::wait::until;

use super::{Program, Signal, command, run};

#[tokio::test]
async fn the_demo_shows_all_four_transfers() {
    let ran = run(&["demo"]).await;
    ran.check(0).says(&["150.00 before, 150.00 now.", "The demo has removed everything"]);
    assert!(!ran.out.contains("Dashboard:"), "{}", ran.out);
}

#[tokio::test]
async fn the_demo_leaves_its_dashboard_open_until_it_is_ended() {
    let mut demo = command(&["demo", "--open"]);
    // Nobody looks at a browser here.
    demo.env_remove("DISPLAY").env_remove("WAYLAND_DISPLAY");
    let mut program = Program::start(demo);
    let address = until("the dashboard's address", async || {
        let out = program.out();
        let line = out.lines().find_map(|line| line.strip_prefix("Dashboard: http://"))?;
        line.strip_suffix('/')?.parse().ok()
    })
    .await;
    let page = http_call(address, "GET", "/transactions", &[], b"").await;
    assert!(page.code == 200 && page.body.contains("demo-4"), "{page:?}");
    program.process.signal(Signal::INT);
    program.end().await.check(0).says(&["Ctrl-C ends the demo", "The demo has removed everything"]);
    let ended = async || tokio::net::TcpStream::connect(address).await.err();
    until("its coordinator to have ended", ended).await;
}
