//! Proxy in front of a server: it loses acknowledgements, hangs, leads to another server, and changes
//! what it passes on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

/// Proxy that forwards connections to a Unix socket, and disturbs them when a test asks for it.
#[derive(Clone, Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// The server of new connections.
    socket: Mutex<PathBuf>,
    /// Connections from before are cut.
    era: watch::Sender<u64>,
    /// The connection that next sends this text passes nothing on any more, and stays open.
    hang_at: Mutex<Option<String>>,
    /// The connection that next sends this text passes that on so much later.
    delay_at: Mutex<Option<(String, Duration)>>,
    /// Text that is replaced by another one of the same length, in whatever clients send.
    rewrite: Mutex<Option<(String, String)>>,
    /// Start-up messages lose their `options`, as behind some poolers.
    strip_options: AtomicBool,
    /// Connections whose start names a parameter that PgBouncer does not know are refused, as it does by default.
    refuse_parameters: AtomicBool,
    /// Number of connections so far.
    made: AtomicU64,
    /// Connections up to this number swallow everything.
    silent_to: AtomicU64,
    /// True while answers are held back.
    hold: watch::Sender<bool>,
    /// Drops every answer, and cuts the connection.
    lose_answers: AtomicBool,
    /// Drops the answer to the next statement that contains this text, and cuts the connection.
    lose_answer_to: Mutex<Option<String>>,
    lost: AtomicU64,
}

impl Proxy {
    /// Starts a proxy.
    ///
    /// # Panics
    /// No port is free.
    pub async fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            socket: Mutex::new(socket),
            era: watch::Sender::new(0),
            hang_at: Mutex::default(),
            delay_at: Mutex::default(),
            rewrite: Mutex::default(),
            strip_options: AtomicBool::default(),
            refuse_parameters: AtomicBool::default(),
            hold: watch::Sender::new(false),
            made: AtomicU64::default(),
            silent_to: AtomicU64::default(),
            lose_answers: AtomicBool::default(),
            lose_answer_to: Mutex::default(),
            lost: AtomicU64::default(),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let socket = lock(&shared.socket).clone();
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

    /// Returns the address of a MariaDB database behind it.
    ///
    /// # Panics
    /// The direct address names no database.
    #[must_use]
    pub fn mariadb_url(&self, direct: &str) -> String {
        let (direct, _) = direct.split_once('?').expect("a socket");
        let (_, database) = direct.rsplit_once('/').expect("a database");
        format!("mysql://root@127.0.0.1:{}/{database}?ssl-mode=disabled", self.port)
    }

    /// Holds every answer back, as a server that has vanished does, or lets them go on.
    pub fn hold(&self, hold: bool) {
        self.state.hold.send_replace(hold);
    }

    /// Makes the proxy cut each connection when the server next answers on it, or stops that.
    pub fn lose_answers(&self, lose: bool) {
        self.state.lose_answers.store(lose, Ordering::SeqCst);
    }

    /// Leads new connections to another server, and cuts those that there are.
    pub fn switch_to(&self, socket: PathBuf) {
        *lock(&self.state.socket) = socket;
        self.state.era.send_modify(|era| *era += 1);
    }

    /// Leads new connections to another server, and leaves those that there are.
    pub fn lead_to(&self, socket: PathBuf) {
        *lock(&self.state.socket) = socket;
    }

    /// Hangs the connection that next sends this text, for ever.
    pub fn hang_at(&self, text: &str) {
        *lock(&self.state.hang_at) = Some(text.to_owned());
    }

    /// Passes on so much later what next has this text. What is sent behind it comes behind it.
    pub fn delay_at(&self, text: &str, by: Duration) {
        *lock(&self.state.delay_at) = Some((text.to_owned(), by));
    }

    /// Tells whether a connection has been hung since it was asked for.
    #[must_use]
    pub fn has_hung(&self) -> bool {
        lock(&self.state.hang_at).is_none()
    }

    /// Replaces a text by one of the same length in whatever clients send.
    ///
    /// # Panics
    /// The lengths differ.
    pub fn rewrite(&self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len(), "messages keep their lengths");
        *lock(&self.state.rewrite) = Some((from.to_owned(), to.to_owned()));
    }

    /// Passes on what clients send as it is, again.
    pub fn rewrite_nothing(&self) {
        *lock(&self.state.rewrite) = None;
    }

    /// Takes the `options` out of start-up messages.
    pub fn strip_options(&self) {
        self.state.strip_options.store(true, Ordering::SeqCst);
    }

    /// Refuses connections whose start names a parameter that PgBouncer does not know.
    pub fn refuse_parameters(&self) {
        self.state.refuse_parameters.store(true, Ordering::SeqCst);
    }

    /// Lets the next statement that contains this text arrive, and loses the answer to it alone.
    pub fn lose_answer_to(&self, text: &str) {
        *lock(&self.state.lose_answer_to) = Some(text.to_owned());
    }

    /// Swallows everything on the connections that there are, as if the server had vanished without a word.
    /// New ones are passed on.
    pub fn fall_silent(&self) {
        self.state.silent_to.store(self.state.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Returns the number of connections so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.state.made.load(Ordering::SeqCst)
    }

    /// Returns the number of answers that were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

impl State {
    fn is_silent(&self, number: u64) -> bool {
        number <= self.silent_to.load(Ordering::SeqCst)
    }

    /// Tells whether this request has the wanted text, which is then wanted no longer.
    fn takes(wanted: &Mutex<Option<String>>, request: &[u8]) -> bool {
        let mut wanted = lock(wanted);
        let found = wanted.as_ref().is_some_and(|text| find(request, text).is_some());
        if found {
            *wanted = None;
        }
        found
    }

    /// Returns the time by which this request is late, once.
    fn delays(&self, request: &[u8]) -> Option<Duration> {
        lock(&self.delay_at).take_if(|(text, _)| find(request, text).is_some()).map(|(_, by)| by)
    }

    fn rewrites(&self, request: &mut [u8]) {
        let Some((from, to)) = lock(&self.rewrite).clone() else { return };
        while let Some(at) = find(request, &from) {
            request[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }

    /// Returns a start-up message without its `options`.
    fn without_options(&self, message: &[u8]) -> Vec<u8> {
        let strips = self.strip_options.load(Ordering::SeqCst);
        let Some(pairs) = parameters(message).filter(|_| strips) else { return message.to_vec() };
        let mut stripped = message[..8].to_vec();
        for pair in pairs {
            if pair[0] != b"options" {
                stripped.extend([pair[0], &[0], pair[1], &[0]].concat());
            }
        }
        stripped.push(0);
        let length = u32::try_from(stripped.len()).expect("a short message");
        stripped[..4].copy_from_slice(&length.to_be_bytes());
        stripped
    }
}

/// Parameters that PgBouncer takes at the start of a connection.
const KNOWN: [&str; 7] = [
    "user",
    "database",
    "application_name",
    "client_encoding",
    "datestyle",
    "timezone",
    "standard_conforming_strings",
];

/// Returns the parameters of a start-up message: a length, a version, and pairs of texts.
fn parameters(message: &[u8]) -> Option<Vec<[&[u8]; 2]>> {
    const VERSION_3: &[u8] = &[0, 3, 0, 0];
    if message.get(4..8) != Some(VERSION_3) {
        return None;
    }
    let texts: Vec<&[u8]> = message[8..].split(|byte| *byte == 0).collect();
    let pairs = texts.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty());
    Some(pairs.map(|pair| [pair[0], pair[1]]).collect())
}

/// Returns what PgBouncer answers to a start-up message that names what it does not know.
fn refusal(message: &[u8]) -> Option<Vec<u8>> {
    let mut names = parameters(message)?.into_iter().map(|pair| String::from_utf8_lossy(pair[0]));
    let unknown = names.find(|name| !KNOWN.contains(&name.to_lowercase().as_str()))?;
    let text = format!("SFATAL\0C08P01\0Munsupported startup parameter: {unknown}\0\0");
    let length = u32::try_from(text.len() + 4).expect("a short message");
    Some([b"E".as_slice(), &length.to_be_bytes(), text.as_bytes()].concat())
}

async fn pass(client: tokio::net::TcpStream, server: UnixStream, number: u64, state: Arc<State>) {
    let mut era = state.era.subscribe();
    let passing = pass_until_cut(client, server, number, state);
    tokio::select! {
        () = passing => {}
        _ = era.changed() => {}
    }
}

async fn pass_until_cut(
    client: tokio::net::TcpStream,
    server: UnixStream,
    number: u64,
    state: Arc<State>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut first = Vec::with_capacity(64 << 10);
    if state.refuse_parameters.load(Ordering::SeqCst) {
        if !matches!(from_client.read_buf(&mut first).await, Ok(1..)) {
            return;
        }
        if let Some(refusal) = refusal(&first) {
            // The client may be gone.
            let _ = to_client.write_all(&refusal).await;
            return;
        }
    }
    let mut from_client = std::io::Cursor::new(first).chain(from_client);
    let cut = AtomicBool::new(false);
    let (state, cut) = (&*state, &cut);
    // It ends with its half of the connection to the server, which then ends, too.
    let requests = async move {
        let mut buffer = vec![0; 64 << 10];
        let mut is_first = true;
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            if state.is_silent(number) {
                continue;
            }
            let request = &mut buffer[..read];
            if State::takes(&state.hang_at, request) {
                std::future::pending::<()>().await;
            }
            if let Some(by) = state.delays(request) {
                tokio::time::sleep(by).await;
            }
            if State::takes(&state.lose_answer_to, request) {
                cut.store(true, Ordering::SeqCst);
            }
            state.rewrites(request);
            let sent = match std::mem::take(&mut is_first) {
                true => to_server.write_all(&state.without_options(request)).await,
                false => to_server.write_all(request).await,
            };
            if sent.is_err() {
                break;
            }
        }
    };
    let answers = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            if state.is_silent(number) {
                continue;
            }
            // The sender lives as long as the state, so the wait does not fail.
            let _ = state.hold.subscribe().wait_for(|hold| !hold).await;
            if state.lose_answers.load(Ordering::SeqCst) || cut.load(Ordering::SeqCst) {
                state.lost.fetch_add(1, Ordering::SeqCst);
                break;
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    // A client that is done sending may still wait for an answer.
    tokio::select! {
        () = answers => {}
        () = async { requests.await; std::future::pending().await } => {}
    }
}
