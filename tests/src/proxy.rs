//! A way to a server that loses acknowledgements.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

/// Passes connections on to a Unix socket, until it is told to swallow what comes back.
#[derive(Clone, Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that go to the server pass, answers do not: after the next one the connection is cut.
    lose_answers: AtomicBool,
    /// The same from the next statement on that holds this.
    lose_answer_to: Mutex<Option<String>>,
    lost: AtomicU64,
}

impl Proxy {
    /// Starts one.
    ///
    /// # Panics
    /// No port can be had.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&socket).await else {
                    continue;
                };
                tokio::spawn(pass(client, server, Arc::clone(&shared)));
            }
        });
        Self { port, state }
    }

    /// The address of a database behind it.
    #[must_use]
    pub fn url(&self, direct: &str) -> String {
        let (user, rest) = direct.split_once('@').expect("user@host/database");
        let database = rest.rsplit('/').next().expect("a database");
        format!("{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// From now on each connection is cut when the server next answers on it.
    pub fn lose_answers(&self, lose: bool) {
        self.state.lose_answers.store(lose, Ordering::SeqCst);
    }

    /// The next statement that holds this text arrives, and its answer is lost; only that one.
    pub fn lose_answer_to(&self, text: &str) {
        let mut wanted = self.state.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = Some(text.to_owned());
    }

    /// How many answers were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl State {
    /// Whether this is the statement whose answer is to be lost.
    fn takes(&self, request: &[u8]) -> bool {
        let mut wanted = self.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner);
        let found = wanted.as_ref().is_some_and(|text| {
            request.windows(text.len()).any(|window| window == text.as_bytes())
        });
        if found {
            *wanted = None;
        }
        found
    }
}

async fn pass(client: tokio::net::TcpStream, server: UnixStream, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let cut = Arc::new(AtomicBool::new(false));
    let (shared, cutting) = (Arc::clone(&state), Arc::clone(&cut));
    let requests = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if shared.takes(&buffer[..read]) {
                cutting.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from_server.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        if state.lose_answers.load(Ordering::SeqCst) || cut.load(Ordering::SeqCst) {
            state.lost.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to_client.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    requests.abort();
}
