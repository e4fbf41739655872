//! TLS's cost: transactions over gRPC with TLS on each connection, and without, in turns in the same run.
//!
//! With TLS the client shows the coordinator a certificate, and the coordinator shows one to each participant. The journal's
//! connection to PostgreSQL is as it is without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use tempfile::TempDir;
use unanimo_coordinator::Config;
use unanimo_coordinator::config::FilePath;
use unanimo_tests::postgres::Server;
use unanimo_tls::{Client, ClientFiles, ServerFiles};

use crate::say;
use crate::world::{Shape, World};

/// Part of the throughput without TLS that is needed with it.
const RATIO_MIN: f64 = 0.85;

/// Rounds, each with both sides: what the machine does besides changes from one to the next, and both sides of a round see much
/// the same of it. The middle one of the ratios counts.
pub(crate) const ROUNDS: usize = 9;

/// Transactions under way at once.
const IN_FLIGHT: usize = 256;

/// Certificates of an authority for both ends of each connection.
pub(crate) struct Certificates {
    folder: TempDir,
}

/// A certificate's file, and that of its key.
type Pair = (PathBuf, PathBuf);

impl Certificates {
    /// Makes an authority, and a certificate for this machine.
    pub(crate) fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        fs::write(folder.path().join("ca.pem"), authority.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(authority, key);
        let mut params = CertificateParams::new(Vec::new())?;
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let key = KeyPair::generate()?;
        let certificates = Self { folder };
        let (cert, key_file) = certificates.pair();
        fs::write(cert, params.signed_by(&key, &issuer)?.pem())?;
        fs::write(key_file, key.serialize_pem())?;
        Ok(certificates)
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn pair(&self) -> Pair {
        (self.folder.path().join("cert.pem"), self.folder.path().join("key.pem"))
    }

    /// Has the coordinator demand certificates, and show one to participants.
    pub(crate) fn configure(&self, config: Config) -> Result<Config> {
        let setting = |path: &Path| -> Result<FilePath> {
            Ok(path.to_str().context("a path of text")?.parse::<FilePath>()?)
        };
        let ((cert, key), ca) = (self.pair(), self.ca());
        Ok(Config {
            tls_cert: setting(&cert)?,
            tls_key: setting(&key)?,
            tls_client_ca: setting(&ca)?,
            participant_tls_ca: setting(&ca)?,
            participant_tls_cert: setting(&cert)?,
            participant_tls_key: setting(&key)?,
            ..config
        })
    }

    /// TLS of a participant, which demands certificates.
    pub(crate) fn server(&self) -> Result<unanimo_tls::Server> {
        let (cert, key) = self.pair();
        Ok(unanimo_tls::Server::load(ServerFiles::new(cert, key).client_ca(self.ca()))?)
    }

    /// TLS of a client, which shows a certificate.
    pub(crate) fn client(&self) -> Result<Client> {
        let (cert, key) = self.pair();
        Ok(Client::load(ClientFiles::new().ca(self.ca()).identity(cert, key))?)
    }
}

/// Measures both sides in turns, and tells whether the cost is small enough.
pub(crate) async fn measure(server: &Server, time: Duration, rounds: usize) -> Result<bool> {
    let (plain, tls) = (World::over_grpc(server).await?, World::over_tls(server).await?);
    ensure!(tls.refuses_plaintext().await?, "the coordinator serves connections without TLS");
    let (mut ratios, mut figures) = (Vec::new(), [Vec::new(), Vec::new()]);
    for round in 0..rounds {
        // Neither side is always the first one.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut of_round = [0.0; 2];
        for side in order {
            let measured = [&plain, &tls][side].submit(Shape::Tcc, IN_FLIGHT, time).await?;
            of_round[side] = measured.per_second();
            figures[side].push(measured.per_second());
        }
        ratios.push(of_round[1] / of_round[0]);
    }
    plain.stop().await;
    tls.stop().await;
    let ([without, with], ratio) = (figures.map(|of| middle(&of)), middle(&ratios));
    let passed = ratio >= RATIO_MIN;
    let [least, most] = [
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    ];
    say(&format!(
        "TCC over gRPC at {IN_FLIGHT} in flight with TLS on each connection ÷ without = {ratio:.2}, of which at least \
         {RATIO_MIN} are needed: {}\n  {with:.0} and {without:.0} a second; {least:.2} to {most:.2} in {rounds} rounds",
        if passed { "passed" } else { "FAILED" }
    ));
    Ok(passed)
}

/// Measures TLS's cost alone.
pub(crate) async fn alone(time: Duration, rounds: usize, check: bool) -> Result<ExitCode> {
    let passed = measure(&Server::durable(), time, rounds).await?;
    Ok(if passed || !check { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the middle one; of an even number the upper one of the two.
fn middle(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or_default()
}
