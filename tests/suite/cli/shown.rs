//! Settings of a process as it shows them while it runs.

use std::net::SocketAddr;

use serde_json::Value;
use unanimo_coordinator::identity::Token;
use unanimo_tests::postgres::Server;

use super::{addresses, file, serve};
use crate::coordinator::http::http_call;

const PASSWORD: &str = "hush-4711";
const COLLECTORS_KEY: &str = "hush-4712";

/// Who looks, by the place in the file of identities.
const LOOKERS: [(&str, &str); 4] = [
    ("ann", "roles = [\"operator\"]"),
    ("bob", "roles = [\"viewer\"]"),
    ("web", "roles = [\"initiator\"]"),
    ("eve", "roles = [\"operator\", \"viewer\"]\nnamespace = \"tenant-a\""),
];

/// Operators see the settings in force with their sources, nobody else does, and nobody sees a secret.
#[tokio::test]
async fn settings_are_shown_to_operators_alone_and_secrets_to_nobody() {
    let url = Server::shared().database().await.replacen('@', &format!(":{PASSWORD}@"), 1);
    assert!(url.contains(PASSWORD), "{url}");
    let tokens: Vec<Token> = (0..4).map(|n| Token::new([40 + n; Token::RANDOM_BYTES])).collect();
    let entries = LOOKERS.iter().zip(&tokens).map(|((name, rest), token)| {
        format!("[[identity]]\nname = \"{name}\"\n{rest}\ntokens = [\"{}\"]\n", token.hashed())
    });
    let identities = file(&entries.collect::<String>());
    let headers = file(&format!("api-key = \"{COLLECTORS_KEY}\"\n"));
    let more = [
        "--identities",
        &identities,
        "--otlp-endpoint",
        "http://127.0.0.1:9",
        "--otlp-headers-file",
        &headers,
        "--call-timeout",
        "7s",
    ];
    let mut program = serve(&url, &more);
    let (_, admin) = addresses(&mut program).await;
    let admin: SocketAddr = admin.trim_start_matches("http://").parse().unwrap();
    for (looker, (name, _)) in LOOKERS.iter().enumerate() {
        let authorization = format!("Bearer {}", tokens[looker].text());
        let signed = [("authorization", authorization.as_str())];
        let get = async |path: &str| http_call(admin, "GET", path, &signed, b"").await;
        let (page, answer) =
            (get("/system").await, get("/v1/statistics?includeSettings=true").await);
        assert_eq!(page.code, 200, "{name}");
        let told: Value = serde_json::from_str(&answer.body).unwrap();
        let settings = told["settings"].as_array().cloned().unwrap_or_default();
        match *name {
            "ann" => {
                assert!(page.body.contains("Settings in force"), "{}", page.body);
                let row = "<th scope=\"row\">call-timeout</th><td class=\"detail\">&#34;7s&#34;</td><td>flag</td>";
                assert!(page.body.contains(row), "{}", page.body);
                let of = |key: &str| {
                    let found = settings.iter().find(|setting| setting["key"] == key);
                    found.unwrap_or_else(|| panic!("no {key}"))["value"].as_str().unwrap()
                };
                assert!(of("database-url").contains(":***@"), "{}", of("database-url"));
                assert!(of("otlp-headers-file").contains(&headers), "the file, and nothing in it");
            }
            _ => {
                assert!(!page.body.contains("Settings in force"), "{name}: {}", page.body);
                assert!(!page.body.contains("call-timeout"), "{name}: {}", page.body);
                assert!(settings.is_empty(), "{name}: {told}");
                assert_eq!(answer.code, if *name == "web" { 403 } else { 200 }, "{name}");
            }
        }
        let all = format!("{}{}", page.body, answer.body);
        let hashes = tokens.iter().map(|token| token.hashed());
        let hashes: Vec<String> =
            hashes.map(|hashed| hashed.rsplit(':').next().unwrap_or_default().to_owned()).collect();
        let secrets = hashes.iter().map(String::as_str).chain([PASSWORD, COLLECTORS_KEY]);
        for secret in secrets.chain(tokens.iter().map(Token::text)) {
            assert!(!all.contains(secret), "{name} is shown {secret}");
        }
    }
}
