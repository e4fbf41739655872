//! Warnings about what others can do: callers who may do too much, and calls that can be read on the way.

use rustix::process::Signal;

use super::{Program, Served, addresses, command, file, new_path, run, serve, sqlite};
use crate::security::Authority;

/// A start says that everybody with a certificate may do everything, and that one caller can take the places of all.
#[tokio::test]
async fn a_start_tells_which_callers_may_do_too_much() {
    const ALL_ROLES: &str = "every program with a certificate of these authorities has every role";
    const UNBOUNDED: &str = "identities is set, and neither identity-rate nor identity-calls is";
    const HALF: &str = "identity-calls is set and identity-rate is not";
    let authority = Authority::new();
    let (cert, key) = authority.server();
    let [cert, key, ca] = [cert, key, authority.ca()].map(|path| path.display().to_string());
    let identities =
        file("[[identity]]\nname = \"web\"\nroles = [\"initiator\"]\nsubjects = [\"web\"]\n");
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let with_ca = [&tls[..], &["--tls-client-ca", &ca]].concat();
    let known = [&with_ca[..], &["--identities", &identities]].concat();
    let half = [&known[..], &["--identity-calls", "512"]].concat();
    let bounded = [&half[..], &["--identity-rate", "1000"]].concat();
    for (args, told) in [
        (&tls[..], [false, false, false]),
        (&with_ca[..], [true, false, false]),
        (&known[..], [false, true, false]),
        (&half[..], [false, false, true]),
        (&bounded[..], [false, false, false]),
    ] {
        let mut program = serve(&sqlite(&new_path(".db")), args);
        addresses(&mut program).await;
        program.process.signal(Signal::TERM);
        let ran = program.end().await;
        let warned =
            |words: &str| ran.err.lines().any(|line| line.contains("WARN") && line.contains(words));
        assert_eq!(
            [ALL_ROLES, UNBOUNDED, HALF].map(warned),
            told,
            "{args:?}: {}",
            ran.check(0).err
        );
    }
}

/// A command tells that its calls can be read, and sends a token there only where that is allowed. 0.0.0.0 is no loopback,
/// and leads to this machine.
#[tokio::test]
async fn a_command_without_tls_to_another_machine_warns() {
    let served = Served::start(&[]).await;
    let far = served.endpoint.replace("127.0.0.1", "0.0.0.0");
    assert_ne!(far, served.endpoint);
    let warning = format!("warning: {far} is on another machine and without TLS");
    let list = |more: &[&str]| {
        let all = [&["tx", "list", "--endpoint", &far][..], more].concat();
        command(&all)
    };
    let ended = async |command| Program::start(command).end().await;
    let told = ended(list(&[])).await;
    told.check(0).complains(&[&warning]);
    assert!(
        !told.out.contains("warning") && told.err.matches("warning").count() == 1,
        "{}",
        told.err
    );
    let mut by_variable = list(&[]);
    by_variable.env("UNANIMO_CLIENT_INSECURE", "true");
    let mut not_by_variable = list(&[]);
    not_by_variable.env("UNANIMO_CLIENT_INSECURE", "false");
    let near = run(&["tx", "list", "--endpoint", &served.endpoint]).await;
    for silent in [ended(list(&["--insecure"])).await, ended(by_variable).await, near] {
        assert!(!silent.check(0).err.contains("warning"), "{}", silent.err);
    }
    ended(not_by_variable).await.check(0).complains(&[&warning]);

    let token = file("a-token");
    let with_token = ["--token-file", &token];
    let refused = ended(list(&with_token)).await;
    refused
        .check(2)
        .complains(&["send a token to another machine without TLS", "--insecure allow it"]);
    ended(list(&[&with_token[..], &["--insecure"]].concat())).await.check(0);
    served.stop().await.check(0);
}
