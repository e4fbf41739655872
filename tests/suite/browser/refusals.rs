//! Pages of what cannot be shown: to whoever asks, or to anybody.

use serde_json::json;
use unanimo_coordinator::Config;
use unanimo_coordinator::identity::Token;
use unanimo_tests::reaper::run_folder;

use super::{page, wrong_with};
use crate::coordinator::{World, config, sqlite_url};

/// Returns settings with an identity for each of these lists of roles, and their headers `authorization`.
pub(super) fn known(roles: &[&[&str]]) -> (Config, Vec<String>) {
    let path = run_folder().join(uuid::Uuid::new_v4().to_string());
    let tokens: Vec<_> =
        (1..).zip(roles).map(|(n, _)| Token::new([n; Token::RANDOM_BYTES])).collect();
    let entries = roles.iter().zip(&tokens).enumerate().map(|(n, (roles, token))| {
        let token = token.hashed();
        format!("[[identity]]\nname = \"one-{n}\"\nroles = {roles:?}\ntokens = [\"{token}\"]\n")
    });
    std::fs::write(&path, entries.collect::<String>()).unwrap();
    let config = Config { identities: crate::security::setting(&path), ..config(&sqlite_url()) };
    (config, tokens.iter().map(|token| format!("Bearer {}", token.text())).collect())
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
