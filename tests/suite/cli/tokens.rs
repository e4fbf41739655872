//! Bearer tokens: made, used by the commands, and printed by nobody.

use std::fs;

use serde_json::json;

use super::{Served, addresses, new_path, run, serve, sqlite};
use crate::security::issued;

#[tokio::test]
async fn a_new_token_is_an_identity_and_nothing_else_prints_it() {
    let (identities, token) = (new_path(".toml"), new_path(".token"));
    let (file, token_file) = (identities.display().to_string(), token.display().to_string());
    let new = ["token", "new", "--name", "ann", "--role", "viewer", "--file", &file];
    let made = run(&new).await;
    made.check(0);
    fs::write(&token, &made.out).unwrap();
    let text = made.out.trim();
    let (_, secret) = text.rsplit_once('_').unwrap();
    let stored = fs::read_to_string(&identities).unwrap();
    assert!(stored.contains("name = \"ann\"") && !stored.contains(secret), "{stored}");
    let (_, hash) = stored.split_once(':').unwrap();
    let hash = &hash[..64];

    let database = sqlite(&new_path(".db"));
    let mut program = serve(&database, &["--identities", &file, "--log", "trace"]);
    let (grpc, _) = addresses(&mut program).await;
    let tx = async |args: &[&str]| {
        let all: Vec<&str> = ["tx", "--endpoint", &grpc].iter().chain(args).copied().collect();
        run(&all).await
    };
    let mut printed = Vec::new();
    let known = tx(&["list", "--token-file", &token_file]).await;
    printed.push(known.check(0).err.clone());
    let nobody = tx(&["list"]).await;
    nobody.check(1).complains(&["UNAUTHENTICATED", "neither a token nor a certificate"]);
    let test = ["webhook", "test", "w", "--endpoint", &grpc, "--token-file", &token_file];
    let denied = run(&test).await;
    denied.check(1).complains(&[
        "ann may not call TestWebhook: that needs the role operator, and it has ",
        "\n  reason: DENIED (PERMISSION_DENIED)",
        "hint: let the file of identities give it a role for this call (operator), or call as one that has it\n",
    ]);
    fs::write(&token, format!("{}x", &text[..text.len() - 1])).unwrap();
    let guessed = tx(&["list", "--token-file", &token_file]).await;
    printed.push(guessed.check(1).complains(&["the token is not known"]).err.clone());
    fs::write(&token, format!("{text} {text}")).unwrap();
    let bad = tx(&["list", "--token-file", &token_file]).await;
    printed.push(bad.check(2).complains(&[&token_file, "must have a token alone"]).err.clone());
    let far = ["tx", "list", "--endpoint", "http://10.1.2.3:1", "--token-file", &token_file];
    run(&far).await.check(2).complains(&["send a token to another machine without TLS"]);
    let config = run(&["config", "--identities", &file, "--database-url", &database]).await;
    printed.push(config.check(0).says(&[&file]).out.clone());

    program.until_err("a call was denied").await;
    // A mistake in the file is told without what is in it.
    fs::write(&identities, format!("{stored}tokens = [\"{text}\"]\n")).unwrap();
    program.until_err("files have changed and cannot be used").await;
    printed.extend([program.err(), program.out()]);
    for printed in printed {
        assert!(!printed.contains(secret) && !printed.contains(hash), "{printed}");
    }
}

/// A viewer, who may not read payloads and outputs, is told their sizes and media types.
#[tokio::test]
async fn what_a_viewer_may_not_read_is_told_by_its_size() {
    let file = new_path(".toml").display().to_string();
    let token = async |name: &str, role: &str| {
        let made = run(&["token", "new", "--name", name, "--role", role, "--file", &file]).await;
        let path = new_path(".token");
        fs::write(&path, &made.check(0).out).unwrap();
        path.display().to_string()
    };
    let web = token("web", "initiator").await;
    let (ann, bob) = (token("ann", "viewer").await, token("bob", "operator").await);
    let served = Served::start(&["--identities", &file]).await;
    let by_web = ["--wait", "ended", "--token-file", &web];
    served.submit("g", &["typed", "output-5"], &by_web).await.check(0);
    let show = async |token: &str, more: &[&str]| {
        served.tx(&[&["show", "g", "--token-file", token], more].concat()).await
    };
    let seen = show(&ann, &[]).await;
    seen.check(0).says(&["40B of application/json, hidden from you\n"]);
    seen.says(&["1B of text/plain, hidden from you\n", "5B, hidden from you\n"]);
    let branch = show(&ann, &["--json"]).await.check(0).json()["branches"][0].take();
    let hidden = |bytes: u64, media_type: &str| json!({"bytes": bytes, "media_type": media_type});
    assert_eq!(branch["hidden_payload"], hidden(40, "application/json"), "{branch}");
    assert_eq!(branch["hidden_output"], hidden(1, "text/plain"), "{branch}");
    assert!(branch.get("payload").is_none() && branch.get("output_base64").is_none(), "{branch}");

    let seen = show(&bob, &[]).await;
    seen.check(0).says(&["  40B\n", "  5B\n"]);
    assert!(!seen.out.contains("hidden"), "{}", seen.out);
    let branch = show(&bob, &["--json"]).await.check(0).json()["branches"][0].take();
    assert_eq!((&branch["payload"]["of"], branch.get("hidden_payload")), (&json!("a"), None));
}

/// A file that the coordinator would refuse is not made, and a good one is not spoilt.
#[tokio::test]
async fn a_token_that_the_coordinator_could_not_use_is_not_written() {
    let path = new_path(".toml");
    let file = path.display().to_string();
    let new = async |name: &str, more: &[&str]| {
        let all = ["token", "new", "--name", name, "--file", &file];
        run(&all.iter().chain(more).copied().collect::<Vec<_>>()).await
    };
    for args in [&["--role", "participant"][..], &["--role", "viewer", "--participant", "p"]] {
        new("bank", args).await.check(2).complains(&["--participant NAME", "give both"]);
        assert!(!path.exists());
    }
    new("ann", &["--role", "viewer"]).await.check(0);
    let stored = fs::read_to_string(&path).unwrap();
    let again = new("ann", &["--role", "operator"]).await;
    again.check(2).complains(&["another one has this name: use another one"]);
    assert_eq!((again.out.as_str(), fs::read_to_string(&path).unwrap()), ("", stored.clone()));
    // A mistake that is there already is told with its place, and stays as it is.
    let mistaken = format!("{stored}roles = 1\n");
    fs::write(&path, &mistaken).unwrap();
    new("bob", &["--role", "viewer"]).await.check(2).complains(&["line 6"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), mistaken);
    new("bank", &["--role", "participant", "--participant", "p"]).await.check(2);
    fs::remove_file(&path).unwrap();
    new("bank", &["--role", "participant", "--participant", "p"]).await.check(0);
}

/// The coordinator's own file gets the token, and the participant's the hash.
#[tokio::test]
async fn a_token_of_the_coordinator_is_in_its_file_and_the_hash_is_printed() {
    let path = new_path(".toml");
    let file = path.display().to_string();
    let new = async |name: &str| {
        run(&["token", "coordinator", "--participant", name, "--file", &file]).await
    };
    let made = new("bank").await;
    made.check(0);
    let stored = fs::read_to_string(&path).unwrap();
    let token = stored.trim_start_matches("\"bank\" = \"").trim_end_matches("\"\n");
    let mut hashes = unanimo_tls::TokenHashes::default();
    hashes.add(made.out.trim(), ()).unwrap();
    assert!(hashes.find(token).is_some(), "{stored}");
    assert!(!made.out.contains(token) && !made.err.contains(token), "{} {}", made.out, made.err);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // One that is there already is not made again, and a line that does not end is not continued.
    let again = new("bank").await;
    again.check(2).complains(&["line 2", "NAME = "]);
    assert_eq!(fs::read_to_string(&path).unwrap(), stored);
    fs::write(&path, stored.trim_end()).unwrap();
    new("shop.eu").await.check(0);
    assert!(fs::read_to_string(&path).unwrap().starts_with(&format!("{stored}\"shop.eu\" = ")));
}

/// All that a program reads is in one object, and nothing else is printed.
#[tokio::test]
async fn tokens_are_made_for_programs() {
    let path = new_path(".toml");
    let file = path.display().to_string();
    let new = ["token", "new", "--name", "ann", "--role", "viewer", "--json"];
    let made = run(&new).await;
    let told = made.check(0).json();
    assert_eq!((&told["file"], made.err.as_str()), (&serde_json::Value::Null, ""), "{told}");
    let text = |of: &serde_json::Value| of.as_str().unwrap().to_owned();
    let (token, hash, entry) = (text(&told["token"]), text(&told["hash"]), text(&told["entry"]));
    assert!(entry.contains("name = \"ann\"") && entry.contains(&hash), "{told}");
    assert!(!entry.contains(&token), "{told}");
    let told = run(&[&new[..], &["--file", &file]].concat()).await.check(0).json();
    assert_eq!(told["file"], file.as_str());
    assert_eq!(fs::read_to_string(&path).unwrap(), text(&told["entry"]));

    let new = ["token", "coordinator", "--participant", "bank", "--json"];
    let made = run(&new).await;
    let told = made.check(0).json();
    assert_eq!((&told["file"], made.err.as_str()), (&serde_json::Value::Null, ""), "{told}");
    let entry = text(&told["entry"]);
    let token = entry.trim_start_matches("\"bank\" = \"").trim_end_matches("\"\n");
    let mut hashes = unanimo_tls::TokenHashes::default();
    hashes.add(&text(&told["hash"]), ()).unwrap();
    assert!(hashes.find(token).is_some(), "{told}");
    let of = new_path(".toml");
    let made = run(&[&new[..], &["--file", &of.display().to_string()]].concat()).await;
    let told = made.check(0).json();
    // The token is in the file, and nowhere else.
    assert_eq!(told["entry"], serde_json::Value::Null, "{told}");
    let stored = fs::read_to_string(&of).unwrap();
    let token = stored.trim_start_matches("\"bank\" = \"").trim_end_matches("\"\n");
    assert!(!made.out.contains(token) && made.err.is_empty(), "{}{}", made.out, made.err);
}

/// Neither lines of every level nor errors, settings or alarms have a part of it.
#[tokio::test]
async fn a_token_of_an_issuer_is_printed_by_nobody() {
    let signer = issued::Signer::ed25519();
    let (identities, keys) = issued::write(&[signer.public("k")]);
    let mut claims = issued::claims();
    claims["sub"] = "ann".into();
    let jwt = signer.good("k", &claims);
    let (signed, signature) = jwt.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{signed}.{first}{}", &signature[1..]);
    let token = new_path(".token");
    let token_file = token.display().to_string();
    let database = sqlite(&new_path(".db"));
    let (who, set) = (identities.display().to_string(), keys.display().to_string());
    let settings = [
        ["--identities", &who],
        ["--jwt-keys", &set],
        ["--jwt-issuer", "https://login.example"],
        ["--jwt-audience", "unanimo"],
    ];
    let settings = settings.concat();
    let mut program = serve(&database, &[&settings[..], &["--log", "trace"]].concat());
    let (grpc, _) = addresses(&mut program).await;
    let mut printed = Vec::new();
    for (text, code, says) in [(&jwt, 0, ""), (&forged, 1, "the token's signature is not good")] {
        fs::write(&token, text).unwrap();
        let args = ["tx", "--endpoint", &grpc, "list", "--token-file", &token_file];
        let listed = run(&args).await;
        printed.push(listed.check(code).complains(&[says]).err.clone());
    }
    let config = [&["config", "--database-url", &database], &settings[..]].concat();
    printed.push(run(&config).await.check(0).says(&[&set, "login.example"]).out.clone());
    program.until_err("a call was denied").await;
    fs::write(&keys, &jwt).unwrap();
    program.until_err("files have changed and cannot be used").await;
    printed.extend([program.err(), program.out()]);
    let parts: Vec<&str> = signed.split('.').chain([&signature[1..]]).collect();
    for printed in printed {
        let found = parts.iter().find(|part| printed.contains(**part));
        assert_eq!(found, None, "{printed}");
    }
}
