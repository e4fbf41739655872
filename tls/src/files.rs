//! PEM files.

use std::path::PathBuf;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
use crate::peer::out_of_time;

/// Most bytes of a file. A bundle of all public authorities has a fifth of it.
const FILE_BYTES_MAX: usize = 1 << 20;

/// A file, and its content for messages: `certificate`, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content, for messages.
    pub what: &'static str,
    /// Path.
    pub path: PathBuf,
}

impl File {
    /// Names a file.
    pub fn new(what: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { what, path: path.into() }
    }

    /// Reads it whole.
    pub(crate) fn read(&self) -> Result<Vec<u8>, Error> {
        let content = std::fs::read(&self.path).map_err(|source| Error::Read {
            what: self.what,
            path: self.path.clone(),
            source,
        })?;
        match content.len() {
            0..=FILE_BYTES_MAX => Ok(content),
            found => {
                Err(self.breaks(format!("must have at most {FILE_BYTES_MAX} bytes, has {found}")))
            }
        }
    }

    /// Makes the error that its content breaks a rule.
    pub fn breaks(&self, rule: impl Into<String>) -> Error {
        Error::Content { what: self.what, path: self.path.clone(), rule: rule.into() }
    }

    /// Reads the certificates of a PEM file. The parser's own messages repeat lines of the file, which might
    /// be those of a key.
    pub(crate) fn certificates(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let found = found.map_err(|_| self.breaks("it must be PEM, and is not well formed"))?;
        match found.is_empty() {
            true => Err(self.breaks("it must be PEM with a certificate, and has none")),
            false => Ok(found),
        }
    }

    /// Refuses a certificate, or one of those between it and its root, that is out of its time, where it would take the place
    /// of another one. Of a start it is only told: there is nothing better.
    pub(crate) fn check_times(
        &self,
        certificates: &[CertificateDer<'_>],
        is_replacement: bool,
    ) -> Result<(), Error> {
        let now = SystemTime::now();
        let Some(why) = certificates.iter().find_map(|of| out_of_time(of, now)) else {
            return Ok(());
        };
        if is_replacement {
            return Err(self.breaks(format!("a certificate {why}")));
        }
        tracing::warn!(
            file = %self.path.display(),
            "a certificate {why}: whoever looks at its time refuses it"
        );
        Ok(())
    }

    pub(crate) fn key(&self, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
            self.breaks("it must be PEM with a private key, and has none that is well formed")
        })
    }

    pub(crate) fn roots(&self, pem: &[u8]) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(pem)? {
            roots.add(certificate).map_err(|error| {
                self.breaks(format!("a certificate cannot be an authority's: {error}"))
            })?;
        }
        Ok(roots)
    }
}
