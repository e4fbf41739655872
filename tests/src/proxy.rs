//! Proxy in front of a server, which loses acknowledgements.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

/// Proxy that forwards connections to a Unix socket, and drops answers when a test asks for it.
#[derive(Clone, Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Drops every answer, and cuts the connection.
    lose_answers: AtomicBool,
    /// Drops the answer to the next statement that contains this text, and cuts the connection.
    lose_answer_to: Mutex<Option<String>>,
    lost: AtomicU64,
    /// Connections made so far; those up to this number are silent.
    made: AtomicU64,
    silent_to: AtomicU64,
    socket: Mutex<PathBuf>,
}

impl Proxy {
    /// Starts a proxy.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State { socket: Mutex::new(socket), ..State::default() });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let socket = shared.socket.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let Ok(server) = UnixStream::connect(&socket).await else {
                    continue;
                };
                let number = shared.made.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::spawn(pass(client, server, number, Arc::clone(&shared)));
            }
        });
        Self { port, state }
    }

    /// Returns the address of a database behind it.
    #[must_use]
    pub fn url(&self, direct: &str) -> String {
        let (user, rest) = direct.split_once('@').expect("user@host/database");
        let database = rest.rsplit('/').next().expect("a database");
        format!("{user}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    /// Makes the proxy cut each connection when the server next answers on it, or stops that.
    pub fn lose_answers(&self, lose: bool) {
        self.state.lose_answers.store(lose, Ordering::SeqCst);
    }

    /// Lets the next statement that contains this text arrive, and loses the answer to it alone.
    pub fn lose_answer_to(&self, text: &str) {
        let mut wanted = self.state.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = Some(text.to_owned());
    }

    /// Swallows everything on the connections that there are, as if the server had vanished without a word.
    /// New ones are passed on.
    pub fn fall_silent(&self) {
        self.state.silent_to.store(self.state.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Passes new connections on to another server.
    pub fn point_to(&self, socket: PathBuf) {
        *self.state.socket.lock().unwrap_or_else(PoisonError::into_inner) = socket;
    }

    /// Returns the number of answers that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl State {
    fn is_silent(&self, number: u64) -> bool {
        number <= self.silent_to.load(Ordering::SeqCst)
    }

    /// Tells whether the answer to this statement is to be lost.
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

async fn pass(client: tokio::net::TcpStream, server: UnixStream, number: u64, state: Arc<State>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let cut = Arc::new(AtomicBool::new(false));
    let (shared, cutting) = (Arc::clone(&state), Arc::clone(&cut));
    let requests = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if shared.is_silent(number) {
                continue;
            }
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
        if state.is_silent(number) {
            continue;
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
