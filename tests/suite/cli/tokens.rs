//! Bearer tokens: made, used by the commands, and printed by nobody.

use std::fs;

use super::{addresses, new_path, run, serve, sqlite};

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
