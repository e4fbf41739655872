//! Receivers over TLS: events go to a server that proves its name by the authority that is set, and to no other.

use std::fs;

use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use unanimo_tls::ServerFiles;

use super::*;
use crate::security::{Authority, Valid, setting};

/// A receiver behind TLS, and the files of its certificate.
struct Secured {
    receiver: Receiver,
    cert: PathBuf,
    key: PathBuf,
}

impl Secured {
    async fn start((cert, key): (PathBuf, PathBuf)) -> Self {
        let mut receiver = Receiver::start().await;
        let inner = receiver.url.split('/').nth(2).unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        receiver.url = format!("https://{}/hook", listener.local_addr().unwrap());
        let tls = unanimo_tls::Server::load(ServerFiles::new(&cert, &key)).unwrap();
        tokio::spawn(async move {
            let mut streams = tls.http(TcpListenerStream::new(listener));
            while let Some(stream) = streams.next().await {
                let (Ok(mut stream), inner) = (stream, inner.clone()) else { continue };
                tokio::spawn(async move {
                    let mut plain = TcpStream::connect(inner).await.unwrap();
                    // Either end may close it.
                    drop(tokio::io::copy_bidirectional(&mut stream, &mut plain).await);
                });
            }
        });
        Self { receiver, cert, key }
    }

    /// Gives it other files, which it reads while it serves.
    fn replace(&self, (cert, key): (PathBuf, PathBuf)) {
        fs::copy(cert, &self.cert).unwrap();
        fs::copy(key, &self.key).unwrap();
    }
}

/// Not a byte of an event goes to a server that cannot be known, and nothing is lost by that: all comes, in order, once it
/// has a good certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_events_go_to_receivers_that_prove_their_name_alone_and_none_is_lost() {
    let (authority, other) = (Authority::new(), Authority::new());
    let good = || authority.sign(&["127.0.0.1"], Valid::Now);
    let mut receivers = Vec::new();
    for (name, files, why) in [
        ("good", good(), ""),
        ("authority", other.sign(&["127.0.0.1"], Valid::Now), "UnknownIssuer"),
        (
            "name",
            authority.sign(&["127.0.0.2", "localhost"], Valid::Now),
            "certificate not valid for name \"127.0.0.1\"",
        ),
        ("expired", authority.sign(&["127.0.0.1"], Valid::Formerly), "certificate expired"),
        ("early", authority.sign(&["127.0.0.1"], Valid::Later), "certificate not valid yet"),
    ] {
        receivers.push((name, Secured::start(files).await, why));
    }
    // One that has no TLS, where TLS is asked for.
    let mut plain = Receiver::start().await;
    plain.url = plain.url.replace("http://", "https://");
    let entries =
        receivers.iter().map(|(name, secured, _)| entry(name, &secured.receiver, &[SECRET], ""));
    let text = entries.collect::<String>() + &entry("plain", &plain, &[SECRET], "");
    let mut config = with(config(&sqlite_url()), &file(&text));
    config.webhook_tls_ca = setting(&authority.ca());
    let world = World::start(config).await;
    for name in receivers.iter().map(|(name, ..)| *name).chain(["plain"]) {
        begins(&world, name).await;
    }
    for gid in ["g-1", "g-2"] {
        world.submit(tcc(gid, &["ok"])).await.unwrap();
    }
    let taken = receivers[0].1.receiver.has_taken(2).await;
    assert!(taken.iter().all(|message| message.is_signed_with(SECRET)));
    let failing = async |name: &str| {
        until("it to fail", async || {
            let all = webhooks(&world).await;
            let found = all.into_iter().find(|webhook| webhook.name == name).unwrap();
            (found.state() == WebhookState::Failing).then_some(found.last_error)
        })
        .await
    };
    for (name, _, why) in &receivers[1..] {
        let error = failing(name).await;
        assert!(error.contains(why), "{name}: {why} in: {error}");
    }
    failing("plain").await;
    let seen =
        |receiver: &Receiver| receiver.taken().len() + receiver.refused.lock().unwrap().len();
    for (name, secured, _) in &receivers[1..] {
        assert_eq!(seen(&secured.receiver), 0, "{name}");
        secured.replace(good());
    }
    assert_eq!(seen(&plain), 0);
    world.submit(tcc("g-3", &["ok"])).await.unwrap();
    for (name, secured, _) in &receivers {
        secured.receiver.has_taken(3).await;
        let told = secured.receiver.told();
        let expected = ["g-1", "g-2", "g-3"].map(|gid| (gid.to_owned(), "committed".to_owned()));
        assert_eq!(told, expected, "{name}");
    }
    assert!(dead_letters(&world, "").await.is_empty());
}
