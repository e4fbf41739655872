//! Readers of the metrics, which name the participants of all tenants, and of the reasons for not being ready.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use unanimo_coordinator::identity::Token;
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use super::standby::admin;
use super::{Program, command};

/// Identities, each with a role and a namespace.
const IDENTITIES: [(&str, &str); 4] =
    [("viewer", ""), ("operator", ""), ("initiator", ""), ("viewer", "tenant-a")];

fn token(number: usize) -> Token {
    Token::new([u8::try_from(number).unwrap(); Token::RANDOM_BYTES])
}

/// Writes the identities to a file.
fn identities() -> String {
    let entries = IDENTITIES.iter().enumerate().map(|(number, (role, namespace))| {
        let namespace = match *namespace {
            "" => String::new(),
            namespace => format!("namespace = \"{namespace}\"\n"),
        };
        let hashed = token(number).hashed();
        format!(
            "[[identity]]\nname = \"of-{number}\"\nroles = [\"{role}\"]\n{namespace}tokens = [\"{hashed}\"]\n"
        )
    });
    let path = run_folder().join(Uuid::new_v4().to_string());
    std::fs::write(&path, entries.collect::<String>()).unwrap();
    path.display().to_string()
}

/// Asks for a page as the identity with this number, or as nobody.
fn get(port: u16, path: &str, of: Option<usize>) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let header = of.map(|of| format!("authorization: Bearer {}\r\n", token(of).text()));
    let header = header.unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Starts a coordinator that never serves, because its database takes connections and says nothing.
async fn starting(more: &[&str]) -> (Program, u16, TcpListener) {
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://x@{}/x?sslmode=disable", database.local_addr().unwrap());
    let identities = identities();
    let mut args =
        vec!["serve", "--listen", "127.0.0.1:0", "--node", "one", "--database-url", &url];
    args.extend(["--identities", &identities]);
    args.extend(more);
    let mut program = Program::start(command(&args));
    let address: SocketAddr = admin(&mut program).await;
    (program, address.port(), database)
}

/// Beyond loopback a token is needed of one who sees everything.
#[tokio::test]
async fn metrics_and_reasons_are_for_those_who_see_everything() {
    const REASON: &str = "not ready: it connects to its database\n";
    const NOT_READY: &str = "not ready\n";
    let beyond = ["--admin-listen", "0.0.0.0:0", "--insecure"];
    let open = [&beyond[..], &["--metrics-open"]].concat();
    let local = ["--admin-listen", "127.0.0.1:0"];
    for (args, of_all, reason_of_all) in
        [(&beyond[..], 403, NOT_READY), (&open, 200, NOT_READY), (&local, 200, REASON)]
    {
        let (mut program, port, _database) = starting(args).await;
        for (of, sees_all) in [
            (None, false),
            (Some(0), true),
            (Some(1), true),
            (Some(2), false),
            (Some(3), false),
            // The file has no such token.
            (Some(4), false),
        ] {
            let (code, text) = get(port, "/metrics", of);
            assert_eq!(code, if sees_all { 200 } else { of_all }, "{args:?}, {of:?}: {text}");
            assert_eq!(text.contains("unanimo_"), code == 200, "{args:?}, {of:?}: {text}");
            let reason = if sees_all { REASON } else { reason_of_all };
            assert_eq!(get(port, "/readyz", of), (503, reason.to_owned()), "{args:?}, {of:?}");
            assert_eq!(get(port, "/healthz", of), (200, "ok\n".to_owned()), "{args:?}, {of:?}");
        }
        program.process.signal(Signal::TERM);
        program.end().await.check(0);
    }
}
