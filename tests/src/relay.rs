//! An address that stays while what is behind it is started again elsewhere.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};

/// Passes connections on to wherever it was told last; refuses them while there is nothing.
#[derive(Clone, Debug)]
pub struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Relay {
    /// Starts one.
    ///
    /// # Panics
    /// No port can be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let target = Arc::new(Mutex::new(None));
        let relay = Self { address, target };
        let this = relay.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Some(target) = this.target() else { continue };
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    // Either end may go away at any moment: that is what it is for.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        relay
    }

    /// From now on new connections go there.
    pub fn point_to(&self, target: Option<SocketAddr>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    fn target(&self) -> Option<SocketAddr> {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address that stays.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
