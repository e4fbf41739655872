//! Address that a participant listens on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::participant::Error;

/// Address or socket that is listened on.
#[derive(Clone, Debug)]
pub(super) enum Listen {
    Address(String),
    Listener(Arc<std::net::TcpListener>),
}

impl Listen {
    pub(super) async fn begin(self) -> Result<(TcpListener, SocketAddr), Error> {
        let (name, listener) = match self {
            Self::Address(address) => {
                let listener = TcpListener::bind(&address).await;
                (address, listener)
            }
            Self::Listener(listener) => ("the listener that was given".to_owned(), own(&listener)),
        };
        let listener = listener.and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        listener.map_err(|source| Error::Listen { address: name, source })
    }
}

fn own(listener: &std::net::TcpListener) -> io::Result<TcpListener> {
    let listener = listener.try_clone()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
