//! Clients of a coordinator, with certificates of every kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use unanimo_tls::ClientFiles;

use super::{Authority, Valid, ask, channel, guarded, setting};
use crate::coordinator::World;

fn https(world: &World) -> String {
    format!("https://{}", world.running.grpc_address().unwrap())
}

#[track_caller]
fn refused(answer: Result<String, String>, why: &str) {
    let error = answer.expect_err(why);
    assert!(error.contains(why), "{why} in: {error}");
}

/// A client without a certificate, or with a bad one, is not served, and neither is one without TLS.
#[tokio::test]
async fn only_clients_with_a_good_certificate_are_served() {
    let (authority, other) = (Authority::new(), Authority::new());
    let world = World::start(guarded(&authority)).await;
    let url = https(&world);
    ask(channel(&url, authority.client())).await.expect("a good certificate");

    // A server of TLS 1.3 judges a client when the client thinks that it is connected; the reason may be lost.
    ask(channel(&url, authority.trusting())).await.expect_err("no certificate");
    for (signed_by, valid, why) in [
        (&other, Valid::Now, "another authority"),
        (&authority, Valid::Formerly, "expired"),
        (&authority, Valid::Later, "not valid yet"),
    ] {
        let (cert, key) = signed_by.sign(&["spiffe://shop.example/web"], valid);
        let files = authority.trusting().identity(cert, key);
        ask(channel(&url, files)).await.expect_err(why);
    }
    let plain = Endpoint::from_shared(url.replace("https", "http")).unwrap().connect_lazy();
    ask(plain).await.expect_err("without TLS");
    ask(channel(&url, authority.client())).await.expect("it is served after all that");
}

/// A client does not talk to a server that it cannot know.
#[tokio::test]
async fn a_client_refuses_a_server_that_is_not_the_right_one() {
    let (authority, other) = (Authority::new(), Authority::new());
    let world = World::start(guarded(&authority)).await;
    let url = https(&world);
    let (cert, key) = authority.sign(&["x"], Valid::Now);
    let trusts_other = ClientFiles::new().ca(other.ca()).identity(&cert, &key);
    refused(ask(channel(&url, trusts_other)).await, "UnknownIssuer");
    refused(ask(channel(&url, ClientFiles::new().identity(&cert, &key))).await, "UnknownIssuer");
    let named = authority.client().server_name("other.example");
    refused(ask(channel(&url, named)).await, "certificate not valid for name \"other.example\"");
    ask(channel(&url, authority.client().server_name("localhost"))).await.expect("another name");

    for (names, valid, why) in [
        (["127.0.0.1"], Valid::Formerly, "certificate expired"),
        (["127.0.0.1"], Valid::Later, "certificate not valid yet"),
        (["127.0.0.2"], Valid::Now, "certificate not valid for name \"127.0.0.1\""),
    ] {
        let mut config = guarded(&authority);
        let (cert, key) = authority.sign(&names, valid);
        (config.tls_cert, config.tls_key) = (setting(&cert), setting(&key));
        let world = World::start(config).await;
        refused(ask(channel(&https(&world), authority.client())).await, why);
    }
}

/// Requests a page over TLS, with a certificate or without; returns the code and the body.
pub(super) async fn http_get(
    world: &World,
    authority: &Authority,
    path: &str,
    certificate: bool,
) -> (u16, String) {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match certificate {
        false => builder.with_no_client_auth(),
        true => {
            let (cert, key) = authority.sign(&["prometheus"], Valid::Now);
            let cert = CertificateDer::from_pem_file(cert).unwrap();
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    let tcp = TcpStream::connect(world.running.admin_address().unwrap()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    // A server that closes without a notice has sent all the same.
    let _ = stream.read_to_end(&mut response).await;
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Probes have no certificate; the metrics name participants.
#[tokio::test]
async fn health_needs_no_certificate_and_metrics_do() {
    let authority = Authority::new();
    let world = World::start(guarded(&authority)).await;
    assert_eq!(http_get(&world, &authority, "/healthz", false).await, (200, "ok\n".to_owned()));
    let denied = (403, "a client certificate is needed\n".to_owned());
    assert_eq!(http_get(&world, &authority, "/metrics", false).await, denied);
    let (code, text) = http_get(&world, &authority, "/metrics", true).await;
    assert!(code == 200 && text.contains("unanimo_lease_held 1"), "{code}: {text}");

    let mut open = guarded(&authority);
    open.tls_client_ca = Default::default();
    let world = World::start(open).await;
    assert_eq!(http_get(&world, &authority, "/metrics", false).await.0, 200);
    ask(channel(&https(&world), authority.trusting())).await.expect("none is demanded");
}

/// With identities a certificate of the authority is not enough beyond loopback.
#[tokio::test]
async fn metrics_beyond_loopback_are_for_those_who_see_everything() {
    let authority = Authority::new();
    let file = authority.ca().with_file_name("identities.toml");
    for (role, more, code) in [
        ("viewer", "", 200),
        ("operator", "", 200),
        ("viewer", "namespace = \"tenant-a\"\n", 403),
        ("initiator", "", 403),
    ] {
        let entry = format!("[[identity]]\nname = \"one\"\nroles = [\"{role}\"]\n{more}");
        std::fs::write(&file, format!("{entry}subjects = [\"prometheus\"]\n")).unwrap();
        let mut config = guarded(&authority);
        config.admin_listen = ([0, 0, 0, 0], 0).into();
        config.identities = setting(&file);
        let world = World::start(config).await;
        let (found, text) = http_get(&world, &authority, "/metrics", true).await;
        assert_eq!(found, code, "{role}, {more}: {text}");
        assert_eq!(http_get(&world, &authority, "/metrics", false).await.0, 403);
        assert_eq!(http_get(&world, &authority, "/healthz", false).await.0, 200);
    }
}

/// Connections that say nothing hold up nobody, and are closed.
#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_ended() {
    let authority = Authority::new();
    let world = World::start(guarded(&authority)).await;
    let address = world.running.grpc_address().unwrap();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let begun = Instant::now();
    ask(channel(&https(&world), authority.client())).await.expect("others are served");
    assert!(begun.elapsed() < unanimo_tls::HANDSHAKE_TIMEOUT, "{:?}", begun.elapsed());
    let limit = unanimo_tls::HANDSHAKE_TIMEOUT + Duration::from_secs(10);
    for mut silent in silent {
        let read = tokio::time::timeout(limit, silent.read_u8()).await;
        read.expect("it is closed in time").expect_err("nothing was said");
    }
}
