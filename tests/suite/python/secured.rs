//! Examples in Python with TLS and tokens on every way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use tonic::{Code, Request};
use unanimo_coordinator::identity::Token;
use unanimo_proto::v1::PrepareRequest;
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::wait::until;
use unanimo_tls::ClientFiles;
use uuid::Uuid;

use super::{python, root, stubs};
use crate::coordinator::World;
use crate::security::{Authority, Valid, channel, guarded, setting};

fn token(number: u8) -> Token {
    Token::new([number; Token::RANDOM_BYTES])
}

fn write(text: &str) -> PathBuf {
    let path = run_folder().join(Uuid::new_v4().to_string());
    fs::write(&path, text).unwrap();
    path
}

fn entry(name: &str, role: &str, token: &Token) -> String {
    format!("[[identity]]\nname = \"{name}\"\nroles = [{role}\ntokens = [\"{}\"]\n", token.hashed())
}

/// A coordinator that demands certificates and tokens, and sends one itself.
async fn coordinator(authority: &Authority) -> World {
    let mut config = guarded(authority);
    let shop = entry("py-shop", "\"participant\"]\nparticipants = [\"py-shop\"]", &token(2));
    let identities = entry("web", "\"initiator\"]", &token(1)) + &shop;
    config.identities = setting(&write(&identities));
    config.participant_tokens = setting(&write(&format!("py-shop = \"{}\"\n", token(3).text())));
    World::start(config).await
}

fn shop(authority: &Authority, url: &str, out: &Path) -> Owned {
    let ((cert, key), own) = (authority.server(), authority.sign(&["py-shop"], Valid::Now));
    let mut command = python();
    command
        .arg(root().join("examples/python-participant/shop.py"))
        .args(["--coordinator", url, "--item", "lamp=10", "--accept", "coordinator"])
        .arg("--database")
        .arg(run_folder().join(format!("{}.db", Uuid::new_v4())));
    for (option, path) in [
        ("--tls-cert", cert),
        ("--tls-key", key),
        ("--tls-client-ca", authority.ca()),
        ("--accept-tokens", write(&format!("# of the coordinator\n{}\n", token(3).hashed()))),
        ("--coordinator-tls-ca", authority.ca()),
        ("--coordinator-tls-cert", own.0),
        ("--coordinator-tls-key", own.1),
        ("--token-file", write(token(2).text())),
    ] {
        command.arg(option).arg(path);
    }
    let file = |name: &str| fs::File::create(out.with_extension(name)).unwrap();
    command.env("PYTHONPATH", stubs()).stdout(file("out")).stderr(file("err"));
    Owned::spawn(&mut command)
}

async fn order(authority: &Authority, url: &str, gid: &str, token: &Token) -> Output {
    let (cert, key) = authority.sign(&["web"], Valid::Now);
    let mut command = tokio::process::Command::from(python());
    command
        .arg(root().join("examples/python-initiator/order.py"))
        .args(["submit", gid, "--coordinator", url, "--patience", "30"])
        .arg("--tls-ca")
        .arg(authority.ca())
        .arg("--tls-cert")
        .arg(cert)
        .arg("--tls-key")
        .arg(key)
        .arg("--token-file")
        .arg(write(token.text()))
        .env("PYTHONPATH", stubs());
    command.output().await.unwrap()
}

#[tokio::test]
async fn the_examples_in_python_know_whom_they_talk_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let world = coordinator(&authority).await;
    let url = format!("https://{}", world.running.grpc_address().unwrap());
    let out = run_folder().join(Uuid::new_v4().to_string());
    let _shop = shop(&authority, &url, &out);
    let log = || fs::read_to_string(out.with_extension("err")).unwrap();
    let endpoint = until("the shop to say where it answers", async || {
        let line = fs::read_to_string(out.with_extension("out")).unwrap();
        Some(line.strip_suffix('\n')?.rsplit_once(' ')?.1.to_owned())
    })
    .await;
    assert!(endpoint.starts_with("https://127.0.0.1:"), "{endpoint}");
    until("the shop to be registered", async || {
        let gid = format!("o-{}", Uuid::new_v4());
        let done = order(&authority, &url, &gid, &token(1)).await;
        (done.status.code() == Some(0)).then_some(())
    })
    .await;
    let refused = order(&authority, &url, "g", &token(9)).await;
    let said = format!("{refused:?}");
    assert!(!refused.status.success() && said.contains("UNAUTHENTICATED"), "{said}");
    let secrets = [1, 2, 3, 9].map(|number| token(number).text()[30..].to_owned());
    let told = said + &log();
    assert!(secrets.iter().all(|secret| !told.contains(secret)), "{told}");

    let prepare = async |files: ClientFiles, token: Option<Token>| {
        let mut request = Request::new(PrepareRequest::default());
        if let Some(token) = token {
            let header = format!("Bearer {}", token.text()).parse().unwrap();
            request.metadata_mut().insert("authorization", header);
        }
        let mut client = ParticipantServiceClient::new(channel(&endpoint, files));
        client.prepare(request).await.expect_err("it has no context").code()
    };
    let named = |signed_by: &Authority, name: &str| {
        let (cert, key) = signed_by.sign(&[name], Valid::Now);
        authority.trusting().identity(cert, key)
    };
    assert_eq!(prepare(named(&authority, "coordinator"), None).await, Code::InvalidArgument);
    let by_token = prepare(named(&authority, "web"), Some(token(3))).await;
    assert_eq!(by_token, Code::InvalidArgument, "the token is the coordinator's");
    assert_eq!(prepare(named(&authority, "web"), None).await, Code::PermissionDenied);
    let guessed = prepare(named(&authority, "coordinator"), Some(token(9))).await;
    assert_eq!(guessed, Code::Unauthenticated);
    let stranger = prepare(named(&other, "coordinator"), None).await;
    assert!(![Code::InvalidArgument, Code::PermissionDenied].contains(&stranger), "{stranger:?}");
}

/// Options that would leave the port open, or make an error of Python's.
#[test]
fn a_shop_with_half_of_its_files_ends_with_a_sentence() {
    for (options, rule) in [
        (&["--tls-cert", "x"][..], "--tls-cert and --tls-key"),
        (&["--tls-key", "x"], "--tls-cert and --tls-key"),
        (&["--tls-client-ca", "x"], "--tls-client-ca is for a server with TLS"),
        (&["--accept", "c", "--accept-tokens", "x"], "give --tls-client-ca"),
    ] {
        let mut command = python();
        command.arg(root().join("examples/python-participant/shop.py")).args(options);
        let ended = command.env("PYTHONPATH", stubs()).current_dir(run_folder()).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains(rule) && !said.contains("Traceback"), "{options:?}: {said}");
        assert!(!ended.status.success());
    }
}

/// Runs statements beside the files of the example participant.
#[track_caller]
fn runs(statements: &str) {
    let folder = root().join("examples/python-participant");
    let ran = python().args(["-c", statements]).env("PYTHONPATH", folder).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// A method of another kind would be served to everybody.
#[test]
fn a_method_whose_callers_are_not_judged_is_refused() {
    runs(
        "import grpc, accept
class Call:
    def abort(self, code, text):
        raise PermissionError(text)
served = lambda request, call: iter(())
for made in (grpc.unary_stream_rpc_method_handler, grpc.stream_unary_rpc_method_handler,
             grpc.stream_stream_rpc_method_handler):
    handler = accept.Accept(['c'], None).intercept_service(lambda _: made(served), None)
    kinds = handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream
    for kind in filter(None, kinds):
        try:
            kind(iter(()), Call())
        except PermissionError:
            continue
        raise AssertionError(f'{made} is served')
assert accept.Accept(['c'], None).intercept_service(lambda _: None, None) is None
",
    );
}

/// A proxy that the environment names would read the token.
#[test]
fn a_token_without_tls_goes_through_no_proxy() {
    runs(
        "import grpc, secure
given = []
make = grpc.insecure_channel
grpc.insecure_channel = lambda address, options: given.append(options) or make(address, options)
secure.channel('http://127.0.0.1:1', secure.Files(token='x'), [('a', 1)])
secure.channel('http://127.0.0.1:1', secure.Files(), [('a', 1)])
direct = ('grpc.enable_http_proxy', 0)
assert [direct in options for options in given] == [True, False], given
assert all(('a', 1) in options for options in given), given
",
    );
}

/// A token goes to no other machine without TLS, unless that is allowed; without a token it is told.
#[test]
fn what_others_can_read_is_refused_with_a_token_and_told_without() {
    runs(
        "import logging, secure
told = []
class Heard(logging.Handler):
    def emit(self, line):
        told.append(line.getMessage())
logging.getLogger('secure').addHandler(Heard())
far = ('http://10.1.2.3:1', '10.1.2.3:1', 'http://localhost.x:1')
for url in far:
    try:
        secure.channel(url, secure.Files(token='x'))
    except ValueError as error:
        assert 'use https://, or allow it (insecure)' in str(error), error
    else:
        raise AssertionError(url)
    secure.channel(url, secure.Files(token='x', insecure=True))
for url in ('http://127.0.0.1:1', 'http://[::1]:1', 'localhost:1', 'https://10.1.2.3:1'):
    secure.channel(url, secure.Files(token='x'))
    secure.channel(url)
assert told == [], told
for url in far:
    secure.channel(url)
assert len(told) == 3 and all('without TLS' in line for line in told), told
",
    );
}

/// Both examples have the same file.
#[test]
fn both_examples_secure_their_channels_alike() {
    let read = |of: &str| fs::read(root().join(format!("examples/python-{of}/secure.py"))).unwrap();
    assert!(read("participant") == read("initiator"));
}
