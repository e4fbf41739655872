//! Lists that are read while others come, and everything by the keyboard alone.

use serde_json::json;
use unanimo_tests::browser::Page;
use unanimo_tests::wait::until;

use super::page;
use crate::coordinator::acts::{stall, stuck};
use crate::coordinator::{World, tcc};

/// New transactions are told above the list, and in the title; nothing of it moves, and its rows change in their places.
#[tokio::test]
async fn new_ones_flow_in_without_moving_what_is_read() {
    let world = World::sqlite().await;
    for n in 0..30 {
        world.submit(tcc(&format!("old-{n}"), &["ok"])).await.unwrap();
        world.get_until(&format!("old-{n}"), "its end", |tx| tx.ended_at.is_some()).await;
    }
    world.p.hold(true);
    world.submit(tcc("held", &["ok"])).await.unwrap();
    let mut page = page(&world).await;
    page.size(1024, 500).await;
    page.open("/transactions").await;
    page.value("document.querySelectorAll('tbody tr')[15].scrollIntoView()").await;
    let place = "[...document.querySelectorAll('tbody tr')].map((row) => \
                 [row.querySelector('a').textContent, Math.round(row.getBoundingClientRect().top)])";
    let before = page.value(place).await;
    assert_eq!(before.as_array().unwrap().len(), 31);
    // Whoever chooses by the form, or follows a link by the keyboard, is told as well.
    page.value("document.querySelectorAll('tbody a')[15].focus({ preventScroll: true })").await;
    let state = "document.querySelector('tbody tr td').textContent";
    assert_eq!(page.value(state).await, json!("committing"));
    for n in 0..3 {
        world.submit(tcc(&format!("new-{n}"), &["ok"])).await.unwrap();
    }
    page.sees("3 newer").await;
    assert_eq!(page.value("document.title").await, json!("(3) Transactions · Unanimo"));
    world.p.hold(false);
    let ended = async || (page.value(state).await == json!("committed")).then_some(());
    until("its end in the list", ended).await;
    assert_eq!(page.value(place).await, before, "nothing moves");
    let focus = "document.activeElement === document.querySelectorAll('tbody a')[15]";
    assert_eq!(page.value(focus).await, json!(true));
    page.follow("#newer a").await;
    let newest = "[...document.querySelectorAll('tbody a')].map((a) => a.textContent).slice(0, 4)";
    assert_eq!(page.value(newest).await, json!(["new-2", "new-1", "new-0", "held"]));
    assert_eq!(page.value("document.title").await, json!("Transactions · Unanimo"));

    // One that is chosen no more stays where it is until the reader asks for the list anew.
    world.p.hold(true);
    world.submit(tcc("first", &["ok"])).await.unwrap();
    world.submit(tcc("second", &["commit-hang"])).await.unwrap();
    world.submit(tcc("third", &["ok"])).await.unwrap();
    page.open("/transactions?states=TRANSACTION_STATE_COMMITTING&from=&until=").await;
    let gids = "[...document.querySelectorAll('tbody a')].map((a) => a.textContent)";
    assert_eq!(page.value(gids).await, json!(["third", "second", "first"]));
    world.p.hold(false);
    page.sees("1 shown that matches no more").await;
    assert_eq!(page.value(gids).await, json!(["third", "second", "first"]));
    assert_eq!(page.problems(), [""; 0]);
}

/// Waits until an open page has come anew by itself.
async fn renewed(page: &mut Page) {
    // Nobody reads it: it catches up.
    page.value("document.activeElement.blur(); document.querySelector('h1').id = 'old'").await;
    let is_new = "document.getElementById('old') === null";
    until("the page anew", async || (page.value(is_new).await == json!(true)).then_some(())).await;
}

/// On a telephone a wide table is pushed aside, and a long text down: they stay so when the page comes anew.
#[tokio::test]
async fn a_page_that_comes_anew_stays_where_it_is_scrolled_to() {
    let world = World::sqlite().await;
    world.p.hold(true);
    let mut request = tcc("g", &["ok", "ok"]);
    for branch in &mut request.branches {
        branch.payload = unanimo_tests::payload("one line\n".repeat(200).into_bytes());
    }
    let tx_id = world.submit(request).await.unwrap().tx_id;
    let mut page = page(&world).await;
    page.size(360, 700).await;
    for (path, scrolled) in [
        ("/participants".to_owned(), ".wide[aria-label=Endpoints]"),
        ("/".to_owned(), "section[aria-labelledby=newest] .wide"),
        ("/system".to_owned(), ".wide[aria-label=Incarnations]"),
        (format!("/tx/{tx_id}"), ".wide[aria-label=Attempts]"),
        (format!("/tx/{tx_id}"), "details[data-key=b] pre"),
    ] {
        page.open(&path).await;
        let element = format!("document.querySelector(\"{scrolled}\")");
        let to = format!(
            "{element}.closest('details')?.setAttribute('open', ''); {element}.scrollTo(77, 55)"
        );
        page.value(&to).await;
        let place =
            format!("(() => {{ const e = {element}; return [e.scrollLeft, e.scrollTop]; }})()");
        let before = page.value(&place).await;
        assert!(before == json!([77, 0]) || before == json!([0, 55]), "{path}: {before}");
        renewed(&mut page).await;
        assert_eq!(page.value(&place).await, before, "{scrolled} of {path}");
    }
    world.p.hold(false);
    assert_eq!(page.problems(), [""; 0]);
}

/// A filter that is half filled in stays so while the list under it comes anew.
#[tokio::test]
async fn what_is_chosen_stays_while_a_page_comes_anew() {
    let world = World::sqlite().await;
    let mut page = page(&world).await;
    page.open("/transactions?modes=MODE_TCC").await;
    page.sees("No transaction matches.").await;
    let choose = "document.querySelector('select[name=states]').value = 'TRANSACTION_STATE_ABORTED'; \
                  document.querySelector('select[name=modes]').value = ''";
    page.value(choose).await;
    page.click("input[name=attention]").await;
    page.write("input[name=gidPrefix]", "order-").await;
    let chosen = "['states', 'modes', 'gidPrefix', 'participant'].map((name) => document.getElementsByName(name)[0].value) \
                  .concat([document.getElementsByName('attention')[0].checked])";
    let before = page.value(chosen).await;
    assert_eq!(before, json!(["TRANSACTION_STATE_ABORTED", "", "order-", "", true]));
    renewed(&mut page).await;
    assert_eq!(page.value(chosen).await, before);
    assert_eq!(page.problems(), [""; 0]);
}

/// A page after the first has nothing newer, and asks for nothing.
#[tokio::test]
async fn a_later_page_is_as_it_was_asked_for() {
    let world = World::sqlite().await;
    world.submit(tcc("g", &["ok"])).await.unwrap();
    let tx = world.get("g").await;
    let mut page = page(&world).await;
    page.open("/transactions").await;
    assert_eq!(page.value("'newer' in document.querySelector('main').dataset").await, json!(true));
    page.open(&format!("/transactions?pageToken={}", tx.tx_id)).await;
    page.sees("No transaction matches.").await;
    assert_eq!(
        page.value("document.querySelector('main').dataset.every ?? null").await,
        json!(null)
    );
    assert_eq!(page.problems(), [""; 0]);
}

/// From the first page to an act that is done, by the keys Tab, Enter and the space bar alone, and the focus is always seen.
#[tokio::test]
async fn everything_is_reached_by_the_keyboard_alone() {
    let world = World::start(stuck()).await;
    let tx_id = stall(&world, "g", &["commit-fail-2", "ok"]).await;
    let mut page = page(&world).await;
    page.open("/").await;
    page.tab_to("a.skip").await;
    page.press("Enter").await;
    let skipped = "location.hash === '#main' && document.activeElement.id === 'main'";
    until("the content", async || (page.value(skipped).await == json!(true)).then_some(())).await;
    page.tab_to("main a[href='/attention']").await;
    page.enter().await;
    page.tab_to("summary").await;
    page.press("Enter").await;
    page.tab_to("input[name=gidPrefix]").await;
    page.tab_to("a.button[href$='/retry']").await;
    page.enter().await;
    page.tab_to("input[name=operator]").await;
    page.type_text("ann").await;
    page.tab_to("input[name=note]").await;
    page.type_text("it is up again").await;
    page.tab_to("button.go").await;
    page.enter().await;
    page.sees("The calls that waited are sent now.").await;
    until("the call", async || (world.p.calls(&tx_id, "a").len() == 3).then_some(())).await;
    // A list is chosen and gone through.
    page.open("/transactions").await;
    page.tab_to("select[name=states]").await;
    page.tab_to("input[name=gidPrefix]").await;
    page.type_text("g").await;
    page.tab_to("input[name=attention]").await;
    page.press(" ").await;
    assert_eq!(page.value("document.activeElement.checked").await, json!(true));
    page.press(" ").await;
    page.tab_to("form.filters button").await;
    page.enter().await;
    page.tab_to("tbody a").await;
    page.enter().await;
    page.sees(&tx_id).await;
    // Each part that scrolls, and each branch, has the focus in its turn.
    page.tab_to("details[data-key] > summary").await;
    page.tab_to("[role=group][aria-label=History]").await;
    assert_eq!(page.problems(), [""; 0]);
}
