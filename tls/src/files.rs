//! PEM files.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Error;
use crate::peer::out_of_time;

/// The certificate that is shown, as it was read last.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<Option<CertificateDer<'static>>>);

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

    /// Refuses a certificate that is out of its time, where it would take the place of another one. Of the one that is shown
    /// already, and of those between it and its root, it is only told: what else has changed is used all the same.
    pub(crate) fn check_times(
        &self,
        certificates: &[CertificateDer<'_>],
        shown: &Shown,
    ) -> Result<(), Error> {
        let Some(own) = certificates.first() else { return Ok(()) };
        let mut shown = shown.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = shown.as_ref().is_some_and(|shown| shown == own);
        let now = SystemTime::now();
        if let Some(why) = out_of_time(own, now).filter(|_| !is_same && shown.is_some()) {
            return Err(self.breaks(format!("a certificate {why}")));
        }
        if let Some(why) = certificates.iter().find_map(|of| out_of_time(of, now)) {
            tracing::warn!(
                file = %self.path.display(),
                "a certificate {why}: whoever looks at its time refuses it"
            );
        }
        *shown = Some(own.clone().into_owned());
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(until: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    /// An authority that was taken out is out, whatever became of the certificate that is shown.
    #[test]
    fn a_certificate_that_has_expired_keeps_no_other_change_back() {
        let file = File::new("certificate", "a-file");
        let shown = Shown::default();
        let (expired, other, good) = (certificate(2001), certificate(2002), certificate(2999));
        let check = |chain: &[&CertificateDer<'static>]| {
            let chain: Vec<_> = chain.iter().map(|of| (*of).clone()).collect();
            file.check_times(&chain, &shown).is_ok()
        };
        assert!(check(&[&expired]), "at a start there is nothing better");
        assert!(check(&[&expired]), "another file has changed");
        assert!(!check(&[&other]), "it takes the place of nothing");
        assert!(
            check(&[&good, &expired]),
            "those between it and its root are judged by whoever connects"
        );
        assert!(!check(&[&expired]));
        assert!(check(&[&good]));
    }
}
