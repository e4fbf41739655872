//! Addresses to which no token goes without TLS: the same in each language, however an address is written.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use unanimo_sdk::{Client, Coordinator};
use unanimo_tests::reaper::run_folder;
use uuid::Uuid;

use crate::python::{python, root};

/// Addresses, and whether others can read what is sent there.
const ADDRESSES: [(&str, bool); 26] = [
    ("http://localhost", false),
    ("http://localhost:7610", false),
    ("http://localhost:7610/", false),
    ("http://LOCALHOST", false),
    ("http://LocalHost:7610", false),
    ("HTTP://localhost:7610", false),
    ("http://127.0.0.1", false),
    ("http://127.0.0.1:7610", false),
    ("http://127.8.9.10:7610", false),
    ("http://[::1]", false),
    ("http://[::1]:7610", false),
    ("http://[0:0::1]:7610", false),
    ("https://10.0.0.1:7610", false),
    ("HTTPS://coordinator", false),
    ("http://coordinator", true),
    ("http://10.0.0.1", true),
    ("http://10.0.0.1:7610", true),
    ("HTTP://10.0.0.1:7610", true),
    ("http://0.0.0.0:7610", true),
    ("http://[::2]:7610", true),
    ("http://[::]", true),
    ("http://[::ffff:127.0.0.1]:7610", true),
    ("http://localhost.x:7610", true),
    ("http://xlocalhost", true),
    ("http://127.0.0.1.x", true),
    // What comes before the host is a name and a password.
    ("http://localhost:7610@coordinator:7610", true),
];

/// Addresses of gRPC's own, which the examples in Python take.
const OF_GRPC: [(&str, bool); 8] = [
    ("localhost:7610", false),
    ("LOCALHOST:7610", false),
    ("localhost", false),
    ("[::1]:7610", false),
    ("unix:/run/coordinator.sock", false),
    ("unix:///run/coordinator.sock", false),
    ("coordinator:7610", true),
    ("unix.x:7610", true),
];

/// Checks what was found out about each address.
#[track_caller]
fn check(language: &str, expected: &[(&str, bool)], is_open: impl Fn(&str) -> bool) {
    let wrong: Vec<_> = expected.iter().filter(|(at, expected)| is_open(at) != *expected).collect();
    assert!(wrong.is_empty(), "{language}: {wrong:?}");
}

#[test]
fn a_token_goes_in_rust_where_nobody_reads_it() {
    let is_open = |address: &str| {
        let coordinator = Coordinator::at(address).token_file("no-such-file");
        let error = Client::of([coordinator]).expect_err("there is no token").to_string();
        let is_open = error.contains("a token is sent to it, so it must be https");
        assert!(is_open || error.contains("read the token no-such-file"), "{address}: {error}");
        is_open
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _within = runtime.enter();
    check("Rust", &ADDRESSES, is_open);
}

#[test]
fn a_token_goes_in_python_where_nobody_reads_it() {
    const SCRIPT: &str = "import sys, secure
for url in sys.argv[1:]:
    try:
        secure.channel(url, secure.Files(token='x'))
    except ValueError as error:
        assert 'a token would be read on the way' in str(error), (url, error)
        print(url)
";
    let all = [&ADDRESSES[..], &OF_GRPC[..]].concat();
    let mut command: Command = python();
    command.env("PYTHONPATH", root().join("examples/python-initiator"));
    let ran = command.args(["-c", SCRIPT]).args(all.iter().map(|(at, _)| at)).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let refused = String::from_utf8(ran.stdout).unwrap();
    check("Python", &all, |address| refused.lines().any(|refused| refused == address));
}

#[test]
fn a_token_goes_in_node_where_nobody_reads_it() {
    let folder = run_folder().join(Uuid::new_v4().to_string());
    fs::create_dir(&folder).unwrap();
    let token = folder.join("token");
    fs::write(&token, "x").unwrap();
    // It does not come so far as to serve.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let is_open = |address: &str| {
        let mut node = Command::new("node");
        node.arg(root().join("examples/node-participant/server.js"));
        node.args(["--coordinator", address, "--listen", &taken]).arg("--token-file").arg(&token);
        let ran = node.arg("--file").arg(folder.join("shop.journal")).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        let is_open = said.contains("--token-file would be read on the way");
        assert!(is_open || said.contains("EADDRINUSE"), "{address}: {said}");
        is_open
    };
    check("Node", &ADDRESSES, is_open);
}
