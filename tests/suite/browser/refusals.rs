//! Pages of what cannot be shown: to whoever asks, or to anybody.

use serde_json::json;
use unanimo_coordinator::Config;
use unanimo_coordinator::identity::Token;
use unanimo_core::TxId;
use unanimo_tests::reaper::run_folder;
use unanimo_tests::wait::until;

use super::{page, wrong_with};
use crate::coordinator::acts::{stall, stuck};
use crate::coordinator::unreadable::{UNKNOWN, VOTED, until_free};
use crate::coordinator::{World, config, sqlite_url, tcc};
use crate::store::rows;

/// Returns settings with an identity for each of these lists of roles, and their headers `authorization`.
pub(super) fn known(roles: &[&[&str]]) -> (Config, Vec<String>) {
    let path = run_folder().join(uuid::Uuid::new_v4().to_string());
    let tokens: Vec<_> =
        (1..).zip(roles).map(|(n, _)| Token::new([n; Token::RANDOM_BYTES])).collect();
    let entries = roles.iter().zip(&tokens).enumerate().map(|(n, (roles, token))| {
        let token = token.hashed();
        let speaks = if roles.contains(&"participant") { "participants = [\"p\"]\n" } else { "" };
        format!(
            "[[identity]]\nname = \"one-{n}\"\nroles = {roles:?}\ntokens = [\"{token}\"]\n{speaks}"
        )
    });
    std::fs::write(&path, entries.collect::<String>()).unwrap();
    let config = Config { identities: crate::security::setting(&path), ..config(&sqlite_url()) };
    (config, tokens.iter().map(|token| format!("Bearer {}", token.text())).collect())
}

/// The page of a transaction that cannot be read says why and what to do, is whole, and shows it once that is done.
#[tokio::test]
async fn a_damaged_transaction_says_what_to_do() {
    let world = World::start(stuck()).await;
    let url = world.config.database_url.expose().to_owned();
    world.submit(tcc("well", &["ok"])).await.unwrap();
    let tx_id = stall(&world, "damaged", &["commit-fail-9", "ok"]).await;
    let World { running, p, config, .. } = world;
    drop(running);
    until_free(&url).await;
    let id = TxId(tx_id.parse().unwrap());
    rows::edit(&url, id, |body| rows::replace(body, VOTED, UNKNOWN)).await;
    let world = World::start_with(config, p).await;
    let mut page = page(&world).await;
    let of_tx = format!("/tx/{tx_id}");
    until("it to be set aside", async || {
        page.open(&of_tx).await;
        page.text().await.contains("TRANSACTION_UNREADABLE").then_some(())
    })
    .await;
    page.problems();
    let mut wrong = Vec::new();
    for path in [&*of_tx, "/gid/damaged", "/attention", "/transactions", "/"] {
        wrong.extend(wrong_with(&mut page, path).await);
        // The status of the page is an error, and the browser tells it.
        wrong.retain(|problem| !problem.contains("the server responded with a status of 500"));
        let says = match path {
            "/attention" => "Its rows cannot be read.",
            "/" | "/transactions" => "damaged",
            _ => "Start the version that wrote its rows, or repair them.",
        };
        page.sees(says).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    page.open(&of_tx).await;
    for part in ["field 99", "status 500"] {
        page.sees(part).await;
    }
    page.follow("main a[href='/attention']").await;
    page.sees("damaged").await;
    // What cannot be read has no buttons: there is nothing to act on.
    let buttons = "document.querySelectorAll('.needs .button').length";
    assert_eq!(page.value(buttons).await, json!(0), "{}", page.text().await);
    rows::edit(&url, id, |body| rows::replace(body, UNKNOWN, VOTED)).await;
    until("it to be read again", async || {
        page.open(&of_tx).await;
        page.text().await.contains("committing").then_some(())
    })
    .await;
}

/// A page that is not for whoever asks says which roles it is for, and is whole.
#[tokio::test]
async fn a_page_of_another_role_is_whole_and_says_so() {
    let (config, headers) = known(&[&["viewer"], &["initiator"], &["participant"]]);
    let world = World::without_participants(config).await;
    let mut page = page(&world).await;
    let mut wrong = Vec::new();
    let nobody = "/tx/0199b0d0-0000-7000-8000-000000000000/retry";
    for (header, path, says) in [
        (Some(0), "/attention/retry", "that needs the role operator, and it has viewer"),
        (Some(0), nobody, "that needs the role operator, and it has viewer"),
        (Some(1), "/participants", "that needs the role operator or viewer, and it has initiator"),
        (Some(1), "/attention/forget", "that needs the role operator, and it has initiator"),
        (Some(2), "/", "needs the role operator or viewer, and it has participant"),
        (Some(2), "/transactions", "one-2 has the role participant alone"),
        (Some(2), "/attention", "Those of all need the role operator or viewer"),
        // Of the system an initiator sees what a client needs, and no more.
        (Some(1), "/system", "Limits in force"),
        (None, "/", "401"),
        (None, "/system", "401"),
    ] {
        let header = header.map(|n: usize| headers[n].clone());
        let sent = header.clone().map_or(json!({}), |header| json!({ "authorization": header }));
        page.headers(sent).await;
        wrong.extend(wrong_with(&mut page, path).await);
        page.sees(says).await;
        let text = page.text().await;
        let is_refused = says != "Limits in force";
        assert_eq!(text.contains("status 40"), is_refused, "{path} with {header:?}: {text}");
        // What is wrong, and what to do.
        let is_denied = is_refused && says != "401";
        for words in ["The caller's identity may not make this call.", "ask whoever keeps it"] {
            assert_eq!(text.contains(words), is_denied, "{path} with {header:?}: {text}");
        }
        assert!(!text.contains("incarnation"), "{path} with {header:?}: {text}");
        let forms = "document.querySelectorAll('form, .button').length";
        assert_eq!(page.value(forms).await, json!(0), "{path} with {header:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A coordinator of which no participant is known says so on its page of participants.
#[tokio::test]
async fn a_page_without_participants_is_whole_and_says_so() {
    let world = World::without_participants(config(&sqlite_url())).await;
    let mut page = page(&world).await;
    let wrong = wrong_with(&mut page, "/participants").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    page.sees("None has registered, and none is configured.").await;
    assert_eq!(page.value("document.querySelectorAll('table').length").await, json!(0));
}
