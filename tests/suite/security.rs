//! TLS: real handshakes, with certificates that are good, bad and replaced.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use tonic::Status;
use tonic::transport::Channel;
use unanimo_coordinator::Config;
use unanimo_proto::v1::GetServerInfoRequest;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::reaper::run_folder;
use unanimo_tls::{Client, ClientFiles, ServerFiles};
use uuid::Uuid;

use crate::coordinator::{config, sqlite_url};

mod aged;
mod asleep;
mod audit;
pub(crate) mod crowd;
mod database;
mod expiring;
mod fetched;
mod greedy;
mod half_open;
mod handshakes;
mod hidden;
mod hostile;
pub(crate) mod issued;
mod namespaces;
mod over_http;
mod own;
mod plaintext;
mod quotas;
mod replaced;
mod roles;
mod several;
mod slow_http;
mod standing;
mod strangers;
mod turns;
mod unread;

/// Time in which a certificate is good.
#[derive(Clone, Copy)]
pub(crate) enum Valid {
    Now,
    Formerly,
    Later,
    /// From now on, and no longer.
    For(Duration),
}

/// An authority, and a folder with its certificate and those that it has signed.
pub(crate) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str, valid: Valid) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let (from, until) = match valid {
        Valid::Now | Valid::For(_) => (2020, 2090),
        Valid::Formerly => (2020, 2021),
        Valid::Later => (2080, 2090),
    };
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = match valid {
        Valid::For(time) => (SystemTime::now() + time).into(),
        _ => date_time_ymd(until, 1, 1),
    };
    params
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = run_folder().join(Uuid::new_v4().to_string());
        std::fs::create_dir(&folder).unwrap();
        // Names of authorities are compared before signatures are.
        let mut params = params(&format!("authority {}", Uuid::new_v4()), Valid::Now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(folder.join("ca.pem"), pem).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Signs a certificate for these names: URIs with a scheme, IP addresses, host names.
    pub(crate) fn sign(&self, names: &[&str], valid: Valid) -> (PathBuf, PathBuf) {
        let file = Uuid::new_v4().to_string();
        let files = (self.folder.join(&file), self.folder.join(format!("{file}-key")));
        self.sign_into(names, valid, &files.0, &files.1);
        files
    }

    fn sign_into(&self, names: &[&str], valid: Valid, cert: &Path, key_file: &Path) {
        let mut params = params("somebody", valid);
        let name = |name: &&str| match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if name.contains("://") => SanType::URI((*name).to_owned().try_into().unwrap()),
            Err(_) => SanType::DnsName((*name).to_owned().try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(name).collect();
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        std::fs::write(cert, pem).unwrap();
        std::fs::write(key_file, key.serialize_pem()).unwrap();
    }

    /// Files of a server at 127.0.0.1.
    pub(crate) fn server(&self) -> (PathBuf, PathBuf) {
        self.sign(&["127.0.0.1", "localhost"], Valid::Now)
    }

    /// Files of a server that demands certificates of this authority.
    pub(crate) fn serves(&self) -> ServerFiles {
        let (cert, key) = self.server();
        ServerFiles::new(cert, key).client_ca(self.ca())
    }

    /// Files of a client that trusts this authority, and shows nothing.
    pub(crate) fn trusting(&self) -> ClientFiles {
        ClientFiles::new().ca(self.ca())
    }

    /// Files of a client that trusts this authority, and shows a certificate of it.
    pub(crate) fn client(&self) -> ClientFiles {
        let (cert, key) = self.sign(&["spiffe://shop.example/web"], Valid::Now);
        self.trusting().identity(cert, key)
    }
}

/// Text of a path, as a setting has it.
pub(crate) fn setting<T: std::str::FromStr<Err: std::fmt::Debug>>(path: &Path) -> T {
    path.to_str().unwrap().parse().unwrap()
}

/// Configuration of a coordinator that demands certificates of this authority, and shows one of it.
pub(crate) fn guarded(authority: &Authority) -> Config {
    let (server, client) = (authority.server(), authority.sign(&["coordinator"], Valid::Now));
    Config {
        tls_cert: setting(&server.0),
        tls_key: setting(&server.1),
        tls_client_ca: setting(&authority.ca()),
        participant_tls_ca: setting(&authority.ca()),
        participant_tls_cert: setting(&client.0),
        participant_tls_key: setting(&client.1),
        ..config(&sqlite_url())
    }
}

/// Makes a channel that is not connected yet.
pub(crate) fn channel(url: &str, files: ClientFiles) -> Channel {
    Client::load(files).unwrap().lazy(url, std::convert::identity).unwrap()
}

/// Asks for the server's version; an error with all its causes.
async fn ask(channel: Channel) -> Result<String, String> {
    let mut client = CoordinatorServiceClient::new(channel);
    let answer = client.get_server_info(GetServerInfoRequest::default());
    let answer = answer.await.map_err(|status: Status| {
        let mut text = status.to_string();
        let mut cause = std::error::Error::source(&status);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    });
    answer.map(|answer| answer.into_inner().version)
}
