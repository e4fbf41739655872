//! `unanimo certs`: certificates for trying TLS out.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use unanimo_core::ParticipantName;

use crate::error::Error as CliError;
use crate::output;

/// Days for which the certificates are good. Enough to try it out, and too few to forget that this is no
/// authority for production.
const DAYS: i64 = 30;

/// Trust domain of the names of clients.
const TRUST_DOMAIN: &str = "spiffe://unanimo.dev/";

/// Make certificates for trying TLS out
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Dev(DevArgs),
}

/// Make a small authority and certificates of it, NOT FOR PRODUCTION
///
/// The key of the authority is left in a file without a password, and nothing can be revoked. In
/// production use the authority that your platform has.
///
/// DIR gets ca.pem and ca-key.pem, server.pem and server-key.pem (for this machine, and each --host), and for each
/// --client NAME a pair NAME.pem and NAME-key.pem with the name spiffe://unanimo.dev/NAME, which can also serve
/// a participant. All of them are good for 30 days. A file that is there is not written over.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): an object with ca, server and clients: an object, an object and
  a list of objects with name, certificate and key (the files).")]
struct DevArgs {
    /// Folder of the files; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Host name or IP address of the servers besides localhost, 127.0.0.1 and ::1; may be given again
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,
    /// Client that gets a certificate; may be given again
    #[arg(
        long = "client",
        value_name = "NAME",
        default_value = "client",
        value_parser = ParticipantName::new
    )]
    clients: Vec<ParticipantName>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Failure to make certificates.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file cannot be written.
    #[error("write {path}: {source}")]
    Write { path: String, source: std::io::Error },
    /// A name cannot be in a certificate.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

pub(super) fn run(args: Args) -> Result<ExitCode, CliError> {
    let Command::Dev(args) = args.command;
    make(&args)?;
    output::note(
        "these certificates are for trying TLS out, and not for production: the key of their authority has no \
         password, and they end in 30 days",
    );
    if args.json {
        let pair = |name: &str| {
            let file =
                |end: &str| args.folder.join(format!("{name}{end}.pem")).display().to_string();
            serde_json::json!({ "name": name, "certificate": file(""), "key": file("-key") })
        };
        let clients: Vec<_> = args.clients.iter().map(|client| pair(client.as_str())).collect();
        output::print_json(
            &serde_json::json!({ "ca": pair("ca"), "server": pair("server"), "clients": clients }),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = args.folder.display();
    output::print(&format!(
        "unanimo serve --database-url sqlite:unanimo.db --tls-cert {folder}/server.pem \
         --tls-key {folder}/server-key.pem --tls-client-ca {folder}/ca.pem\n\
         unanimo tx list --endpoint https://localhost:7610 --tls-ca {folder}/ca.pem \
         --tls-cert {folder}/{client}.pem --tls-key {folder}/{client}-key.pem\n",
        client = args.clients[0],
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn make(args: &DevArgs) -> Result<(), Error> {
    let folder = args.folder.as_path();
    let write = |source, path: &Path| Error::Write { path: path.display().to_string(), source };
    fs::create_dir_all(folder).map_err(|source| write(source, folder))?;
    let key = KeyPair::generate()?;
    let mut params = bounded("Unanimo, for trying out")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&key)?;
    save(folder, "ca", &ca.pem(), &key)?;
    let issuer = Issuer::new(params, key);

    let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let hosts: Vec<String> = local.into_iter().chain(args.hosts.iter().cloned()).collect();
    let names = hosts.iter().map(|host| name_of(host)).collect::<Result<Vec<_>, _>>()?;
    signed(folder, "server", names.clone(), &issuer)?;
    for client in &args.clients {
        let uri = SanType::URI(format!("{TRUST_DOMAIN}{client}").try_into()?);
        let all = std::iter::once(uri).chain(names.iter().cloned()).collect();
        signed(folder, client.as_str(), all, &issuer)?;
    }
    Ok(())
}

fn signed(
    folder: &Path,
    name: &str,
    names: Vec<SanType>,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<(), Error> {
    let key = KeyPair::generate()?;
    let mut params = bounded(name)?;
    params.subject_alt_names = names;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, issuer)?;
    save(folder, name, &certificate.pem(), &key)
}

/// Returns parameters that are good from yesterday on: clocks differ.
fn bounded(name: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    let today = jiff::tz::TimeZone::UTC.to_datetime(jiff::Timestamp::now()).date();
    let day = |days: i64| {
        let date = today.saturating_add(jiff::Span::new().days(days));
        let part = |part: i8| u8::try_from(part).unwrap_or(1);
        date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
    };
    (params.not_before, params.not_after) = (day(-1), day(DAYS));
    Ok(params)
}

fn name_of(host: &str) -> Result<SanType, Error> {
    Ok(match host.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(host.to_owned().try_into()?),
    })
}

/// Writes a certificate and its key, which nobody else may read.
fn save(folder: &Path, name: &str, pem: &str, key: &KeyPair) -> Result<(), Error> {
    let files = [(format!("{name}.pem"), pem.to_owned(), 0o644), {
        (format!("{name}-key.pem"), key.serialize_pem(), 0o600)
    }];
    for (file, text, mode) in files {
        let path = folder.join(file);
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| Error::Write { path: path.display().to_string(), source })?;
    }
    Ok(())
}
