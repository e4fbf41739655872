//! Fixed address in front of a process that is started again on other ports.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Relay that forwards connections to its present target, and refuses them while it has none.
#[derive(Clone, Debug)]
pub struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Connections made so far; those up to the second number are silent.
    made: Arc<AtomicU64>,
    silent_to: Arc<AtomicU64>,
}

impl Relay {
    /// Starts a relay without a target.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let target = Arc::new(Mutex::new(None));
        let (made, silent_to) = (Arc::default(), Arc::default());
        let relay = Self { address, target, made, silent_to };
        let this = relay.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Some(target) = this.target() else { continue };
                let number = this.made.fetch_add(1, Ordering::SeqCst) + 1;
                let silent_to = Arc::clone(&this.silent_to);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let is_silent = || number <= silent_to.load(Ordering::SeqCst);
                    // Either end may break off at any moment, which is not an error here.
                    tokio::join!(
                        pass(from_client, to_server, is_silent),
                        pass(from_server, to_client, is_silent)
                    );
                });
            }
        });
        relay
    }

    /// Sets the target of new connections.
    pub fn point_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Swallows everything on the connections that there are, and leaves them open. New ones are passed on.
    pub fn fall_silent(&self) {
        self.silent_to.store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn target(&self) -> Option<SocketAddr> {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the fixed address: `http://HOST:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Passes bytes on in one direction, and then its end.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, is_silent: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if !is_silent() && to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    if is_silent() {
        // The end is swallowed, too; without its half the connection would be closed.
        std::future::pending::<()>().await;
    }
    let _ = to.shutdown().await;
}
