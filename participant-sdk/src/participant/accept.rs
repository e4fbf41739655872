//! Callers that a participant accepts: its coordinators.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::service::Interceptor;
use tonic::{Extensions, Request, Status, metadata::MetadataMap};
use unanimo_tls::{File, Peer, Reload, ServerFiles, TokenHashes, bearer, is_subject};

use super::Error;

/// Pause between two lines in the log about calls of others.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Coordinators, by names in their certificates and by tokens. See
/// [`Participant::accept`](super::Participant::accept).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accept {
    subjects: Vec<String>,
    token_hashes: Option<PathBuf>,
}

impl Accept {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts those with this name in their certificate, which an accepted authority has signed: a URI, such as a
    /// SPIFFE id, or a DNS name, as it is. May be called again. A participant that is served without
    /// [`ServerFiles::client_ca`] cannot know it, and ends with an error.
    #[must_use]
    pub fn subject(mut self, name: impl Into<String>) -> Self {
        self.subjects.push(name.into());
        self
    }

    /// Accepts those with a token of which this file has the hash: a line `ID:HASH` for each, as `unanimo token
    /// coordinator` prints it. Empty lines, and those that begin with `#`, are passed over. The file is read again when
    /// it changes.
    #[must_use]
    pub fn token_hashes(mut self, file: impl Into<PathBuf>) -> Self {
        self.token_hashes = Some(file.into());
        self
    }

    /// Reads the file.
    pub(super) fn load(self) -> Result<Accepted, Error> {
        let Self { subjects, token_hashes } = self;
        let bad = |rule| Err(Error::Tls(unanimo_tls::Error::Settings(rule)));
        if subjects.is_empty() && token_hashes.is_none() {
            return bad("Participant::accept has nobody: name the coordinators that are accepted");
        }
        if !subjects.iter().all(|subject| is_subject(subject)) {
            return bad(
                "Participant::accept has a subject that is no name in a certificate: it must be a URI with its \
                 scheme, or a DNS name",
            );
        }
        let hashes = token_hashes.map(|path| {
            let file = File::new("hashes of tokens", path);
            let files = vec![file.clone()];
            Reload::start(files, move |contents| hashes(&file, &contents[0]))
        });
        let hashes = hashes.transpose().map_err(Error::Tls)?;
        let told = Mutex::default();
        Ok(Accepted(Some(Arc::new(Known { subjects, hashes, told }))))
    }
}

/// Reads the file of hashes. No message repeats a line.
fn hashes(file: &File, content: &[u8]) -> Result<TokenHashes<()>, unanimo_tls::Error> {
    let text = std::str::from_utf8(content).map_err(|_| file.breaks("it must be UTF-8"))?;
    let mut hashes = TokenHashes::default();
    let lines = text.lines().map(str::trim).enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let added = hashes.add(line, ());
        added.map_err(|bad| file.breaks(format!("line {} {bad}", index + 1)))?;
    }
    Ok(hashes)
}

/// Those that are accepted; everybody, where nobody was named.
#[derive(Clone, Debug, Default)]
pub(super) struct Accepted(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    subjects: Vec<String>,
    hashes: Option<Arc<Reload<TokenHashes<()>>>>,
    /// When a call of another one was last told, and how many there were since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Accepted {
    /// Tells whether everybody is accepted.
    pub(super) fn is_anybody(&self) -> bool {
        self.0.is_none()
    }

    /// Checks that all of them can be known, where callers are served with this TLS.
    pub(super) fn check(&self, tls: Option<&ServerFiles>) -> Result<(), Error> {
        let Some(known) = &self.0 else { return Ok(()) };
        match known.subjects.is_empty() || tls.is_some_and(ServerFiles::has_client_ca) {
            true => Ok(()),
            false => Err(Error::Tls(unanimo_tls::Error::Settings(
                "Participant::accept compares names in verified certificates: give Serve::tls files with \
                 ServerFiles::client_ca",
            ))),
        }
    }

    /// Refuses a call of anybody else.
    pub(super) fn judge(&self, headers: &MetadataMap, of: &Extensions) -> Result<(), Status> {
        let Some(known) = &self.0 else { return Ok(()) };
        known.judge(headers, of).inspect_err(|status| known.tell(status))
    }
}

impl Known {
    /// A call with a token is the token's, whatever certificate it comes with.
    fn judge(&self, headers: &MetadataMap, of: &Extensions) -> Result<(), Status> {
        let mut shown = headers.get_all("authorization").iter();
        if let Some((hashes, header)) = self.hashes.as_ref().zip(shown.next()) {
            // Of two nobody can tell which one counts.
            let token = bearer(header.as_encoded_bytes()).filter(|_| shown.next().is_none());
            return match token.and_then(|token| hashes.current().find(token).copied()) {
                Some(()) => Ok(()),
                None => Err(Status::unauthenticated(
                    "this participant does not know the token: it accepts those of its coordinators",
                )),
            };
        }
        // Without TLS there is no peer, and no name.
        let names = of.get::<Peer>().and_then(|peer| peer.names.as_deref());
        match names.is_some_and(|names| names.iter().any(|name| self.subjects.contains(name))) {
            true => Ok(()),
            false if names.is_none() && self.hashes.is_some() => Err(Status::unauthenticated(
                "this participant accepts calls of its coordinators, and this one has no token",
            )),
            false => Err(Status::permission_denied(
                "this participant accepts calls of other coordinators: no name in the certificate is \
                 one of them",
            )),
        }
    }

    /// Tells the first such call, and from then on one a minute: whoever reaches the port can make any number.
    fn tell(&self, status: &Status) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.1 += 1;
        if told.0.is_none_or(|at| at.elapsed() >= TELL_INTERVAL) {
            let (why, refused) = (status.message(), told.1);
            tracing::warn!(
                why,
                refused,
                "a call was refused: it is of no coordinator that is accepted"
            );
            *told = (Some(Instant::now()), 0);
        }
    }
}

/// Before a message is read.
impl Interceptor for Accepted {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.judge(request.metadata(), request.extensions())?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use unanimo_tls::Token;

    use super::*;

    #[test]
    fn a_subject_that_nobody_can_have_is_refused() {
        for good in ["spiffe://shop.example/coordinator", "coordinator.shop.example"] {
            Accept::new().subject(good).load().expect(good);
        }
        for bad in ["CN=coordinator", "10.0.0.1", ""] {
            let error = Accept::new().subject(bad).load().expect_err(bad).to_string();
            assert!(error.contains("no name in a certificate"), "{error}");
        }
    }

    #[tokio::test]
    async fn of_two_tokens_none_counts() {
        let path = std::env::temp_dir().join(format!("unanimo-hashes-{}", std::process::id()));
        let tokens = [1, 2].map(|n| Token::new([n; Token::RANDOM_BYTES]));
        std::fs::write(&path, tokens[0].hashed()).expect("a file");
        let accepted = Accept::new().token_hashes(&path).load().expect("it is read");
        std::fs::remove_file(&path).expect("the file is there");
        let judge = |shown: &[&Token]| {
            let mut headers = MetadataMap::new();
            for token in shown {
                let header = format!("Bearer {}", token.text()).parse().expect("a header");
                headers.append("authorization", header);
            }
            accepted.judge(&headers, &Extensions::default()).is_ok()
        };
        let [known, unknown] = &tokens;
        assert!(judge(&[known]) && !judge(&[unknown]) && !judge(&[]));
        assert!(!judge(&[known, unknown]) && !judge(&[unknown, known]) && !judge(&[known, known]));
    }

    #[test]
    fn a_mistake_in_the_file_is_told_with_its_line_and_without_its_text() {
        let file = File::new("hashes of tokens", "hashes");
        let hashed = Token::new([1; Token::RANDOM_BYTES]).hashed();
        let token = Token::new([1; Token::RANDOM_BYTES]);
        let read = |text: &str| hashes(&file, text.as_bytes()).map_err(|error| error.to_string());
        let good = format!("# of the coordinator\n\n  {hashed}  \n");
        assert!(read(&good).expect("a hash").find(token.text()).is_some());
        assert!(read("").expect("nobody").is_empty());
        let token = token.text();
        for (text, rule) in [
            (format!("\n{token}\n"), "line 2 must be ID:HASH"),
            (format!("{good}{hashed}"), "line 4 another one has its id"),
            (format!("{hashed}{hashed}"), "line 1 must be ID:HASH"),
        ] {
            let error = read(&text).expect_err(rule);
            assert!(error.contains(rule), "{rule} in: {error}");
            assert!(!error.contains(token) && !error.contains(&hashed[17..]), "{error}");
        }
    }
}
