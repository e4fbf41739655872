//! Crowds of connections from this machine: the descriptors for them, and clients from other addresses of it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, MutexGuard};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Authority, Valid};

/// Connections of one crowd.
pub(super) const CROWD: usize = 10_000;

/// Descriptors that everything else in this process may take.
const OTHERS: u64 = 2_000;

/// Address of the crowd, and that of somebody else.
pub(super) const CROWDS: [u8; 4] = [127, 0, 0, 1];
pub(crate) const ANOTHER: [u8; 4] = [127, 0, 0, 2];

/// Raises the limit of descriptors for a crowd, and waits until no other one is there.
pub(super) async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let limit = maximum.or(current).unwrap_or(u64::MAX);
    assert!(
        limit >= CROWD as u64 + OTHERS,
        "`ulimit -Hn` is {limit}: {CROWD} connections need more"
    );
    ONE.lock().await
}

/// Connects from this address of the machine.
pub(crate) async fn connect_from(local: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    if local == CROWDS {
        // The system's own choice.
        return TcpStream::connect(to).await;
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind((local, 0).into())?;
    socket.connect(to).await
}

/// TLS of a client that shows a certificate, if it is given; of these versions.
pub(super) fn client(
    authority: &Authority,
    valid: Option<Valid>,
    versions: &[&'static SupportedProtocolVersion],
    protocol: &str,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match valid {
        None => builder.with_no_client_auth(),
        Some(valid) => {
            let (cert, key) = authority.sign(&["spiffe://shop.example/web"], valid);
            let cert = CertificateDer::from_pem_file(cert).unwrap();
            builder
                .with_client_auth_cert(vec![cert], PrivateKeyDer::from_pem_file(key).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Arc::new(config)
}

/// Makes a TLS connection.
pub(super) async fn shake_hands(
    tcp: TcpStream,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, tcp).await
}

/// Begins HTTP/2, and waits for the server's first frame: a server of TLS 1.3 judges a client when the client thinks
/// that it is connected.
pub(super) async fn begin_http_2(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    stream.read_exact(&mut [0; 9]).await.map(drop)
}

/// Asks for a page, and returns the answer's first line.
pub(crate) async fn ask_http<S>(stream: &mut S, path: &str) -> std::io::Result<String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let is_whole = match length {
                Some(length) => body.len() >= length.parse().unwrap(),
                None => body.ends_with("0\r\n\r\n"),
            };
            if is_whole {
                return Ok(head.lines().next().unwrap_or_default().to_uppercase());
            }
        }
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
