//! Settings of a coordinator. A later source wins: defaults, file, environment, flags. All rules
//! are checked before the coordinator opens anything.
//!
//! The table in `settings!` defines the environment's variables, the file's keys, the printed
//! configuration and, through [`Config::described`], the flags of the command line and
//! docs/reference/config.md.

mod answers;
mod defaults;
mod error;
mod load;
mod parts;
mod rules;
mod values;
mod variables;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use unanimo_core::ParticipantName;

pub use self::answers::CLIENT_BYTES_DEFAULT;
use self::defaults::documented;
pub use self::error::Error;
pub use self::load::{Loaded, Setting};
pub use self::values::{
    DatabaseSchema, DatabaseUrl, FilePath, History, HostNames, KeysPlace, LogFormat, NodeName,
    OptionalAddress, Origins, OtlpProtocol, Period, Ratio, ServerName,
};
use self::values::{Given, Named, named_endpoint};
pub use self::variables::unknown_variables;

/// Place of a trace's id in `trace-link`.
pub(crate) const TRACE_ID: &str = "{trace_id}";
use crate::participants::allow::Pattern;

/// Documentation of a setting.
#[derive(Clone, Debug)]
pub struct Described {
    /// Key in the file; with `--` in front it is the flag.
    pub key: String,
    /// Variable of the environment; empty if it has none.
    pub env: &'static str,
    /// Name of a value in help texts.
    pub value_name: &'static str,
    /// All values, if they are few; otherwise empty.
    pub values: &'static [&'static str],
    /// Default, in the form of the file.
    pub default: String,
    /// Meaning.
    pub help: String,
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $kind:ty = $default:expr, $env:literal;
    )*) => {
        /// All settings of a coordinator.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $kind,)*
            /// Endpoints of participants that do not register: lists by name.
            pub participants: BTreeMap<ParticipantName, Vec<String>>,
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* participants: BTreeMap::new() }
            }
        }

        /// Settings of one source: the flags and the environment, or the file.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Layer {
            $($name: Option<Given<$kind>>,)*
            participants: BTreeMap<ParticipantName, Vec<String>>,
        }

        impl Layer {
            /// Sets the setting of this key from the text of a flag or a variable. For
            /// `participants` the text is NAME=URL and is added to those that are set.
            ///
            /// # Errors
            /// The rule that the text breaks.
            pub fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key.replace('-', "_").as_str() {
                    $(stringify!($name) => {
                        self.$name = Some(Given(<$kind as Named>::of_text(text)?));
                    })*
                    "participants" => {
                        let (name, url) = named_endpoint(text)?;
                        self.participants.entry(name).or_default().push(url);
                    }
                    _ => return Err(format!("there is no setting {key:?}")),
                }
                Ok(())
            }
        }

        impl Config {
            fn apply(&mut self, layer: Layer, source: &'static str, sources: &mut Sources) {
                $(if let Some(Given(value)) = layer.$name {
                    self.$name = value;
                    sources.insert(stringify!($name).replace('_', "-"), source);
                })*
                for (name, urls) in layer.participants {
                    self.participants.entry(name).or_default().extend(urls);
                    sources.insert("participants".to_owned(), source);
                }
            }

            /// Returns the documentation of every setting.
            #[must_use]
            pub fn described() -> Vec<Described> {
                let defaults = Self::default();
                vec![
                    $(Described {
                        key: stringify!($name).replace('_', "-"),
                        env: $env,
                        value_name: <$kind as Named>::NAME,
                        values: <$kind as Named>::VALUES,
                        default: documented(stringify!($name), &defaults.$name),
                        help: concat!($($doc, "\n"),+).trim().replace("\n ", "\n"),
                    },)*
                    Described {
                        key: "participants".to_owned(),
                        env: "",
                        value_name: "NAME=URL",
                        values: &[],
                        default: "none".to_owned(),
                        help: "Endpoints of participants that do not register. In the file it is a \
                               table of lists by name; the flag is `--participant NAME=URL`, once for \
                               each endpoint."
                            .to_owned(),
                    },
                ]
            }
        }
    };
}

settings! {
    /// Name of this node. If a node of this name starts again, its earlier process is fenced: it
    /// may write no more. A node of another name waits until no other one serves the database.
    node: NodeName = NodeName::of_host(), "UNANIMO_NODE";
    /// Database of the coordinator: `postgres://USER:PASSWORD@HOST/DATABASE`, or `sqlite:PATH` for
    /// a file of one process. Several hosts of PostgreSQL are separated by commas, and the one that
    /// takes writes is used, of several the one on the latest timeline: name all servers that may be
    /// promoted. Connect directly or through a pool in session mode; a pool in transaction mode does
    /// not work. Where anything else is set, this must be set, too.
    database_url: DatabaseUrl = DatabaseUrl::new(DATABASE_URL_DEFAULT), "UNANIMO_DATABASE_URL";
    /// Schema of the coordinator's tables in PostgreSQL. It is made if it is not there. Coordinators
    /// of one database and different schemas are different coordinator groups.
    database_schema: DatabaseSchema = DatabaseSchema::default(), "UNANIMO_DATABASE_SCHEMA";
    /// Address on which gRPC is served; the host may be a name, such as `localhost`. Port 0 takes a
    /// free port.
    listen: SocketAddr = ([127, 0, 0, 1], 7610).into(), "UNANIMO_LISTEN";
    /// Address on which health and metrics are served, over HTTP; the host may be a name. Port 0 takes
    /// a free port. The [API over HTTP](../http.md) is served there, too, unless `http-listen` is set, or other
    /// machines can reach the address and clients are not known.
    admin_listen: SocketAddr = ([127, 0, 0, 1], 7611).into(), "UNANIMO_ADMIN_LISTEN";
    /// Address on which the [API over HTTP](../http.md) is served alone, and not on `admin-listen`. Its rules are those
    /// of `listen`.
    http_listen: OptionalAddress = OptionalAddress::default(), "UNANIMO_HTTP_LISTEN";
    /// Names of hosts by which the [API over HTTP](../http.md) is asked, separated by commas, such as that of a proxy or of a
    /// container: as long as callers have no identities, another name than these and `localhost` is refused, because a page
    /// may have turned its own to this address. Addresses of IP need not be here.
    http_hosts: HostNames = HostNames::default(), "UNANIMO_HTTP_HOSTS";
    /// Origins of pages of other sites that may use the [API over HTTP](../http.md#from-a-browser) and grpc-web (CORS), separated by
    /// commas, such as `https://shop.example`: none, unless they are here. A page acts by the token that it sends, and by nothing
    /// that a browser adds; as long as callers have no identities it may do all that the API can.
    http_origins: Origins = Origins::default(), "UNANIMO_HTTP_ORIGINS";
    /// Show the metrics to whoever reaches `admin-listen`; with `tls-client-ca`, to each of its certificates. Without it, where
    /// callers have `identities` and other machines reach that address, the metrics and the reasons for not being ready are for
    /// those who are a viewer or an operator without a namespace.
    metrics_open: bool = false, "UNANIMO_METRICS_OPEN";
    /// Certificate of the coordinator for TLS: a PEM file, with the certificates of the authorities between
    /// it and the root after it. It serves gRPC, health and metrics. All such files are read again when they
    /// change. See [security](../security.md).
    tls_cert: FilePath = FilePath::default(), "UNANIMO_TLS_CERT";
    /// Private key of `tls-cert`: a PEM file.
    tls_key: FilePath = FilePath::default(), "UNANIMO_TLS_KEY";
    /// Authorities of clients: a PEM file. Every client of gRPC then needs a certificate that one of them has
    /// signed, and so does whoever reads the metrics; health needs none. A connection ends with the time of its
    /// client's certificate.
    tls_client_ca: FilePath = FilePath::default(), "UNANIMO_TLS_CLIENT_CA";
    /// Identities of callers and their roles: a TOML file. Only they can then call the coordinator, each what its
    /// roles allow. Without it everybody who can connect may do everything. See
    /// [security](../security.md#identities).
    identities: FilePath = FilePath::default(), "UNANIMO_IDENTITIES";
    /// Let viewers read payloads and outputs, as operators do. Without it they see the size and the media type of those
    /// of others. See [security](../security.md#roles).
    viewers_see_payloads: bool = false, "UNANIMO_VIEWERS_SEE_PAYLOADS";
    /// Public keys of an issuer of tokens, such as an OpenID provider: its JSON Web Key Set. A file is read again when it
    /// changes, an address (`https://…`, or `http://…` on this machine) is fetched again every `jwt-keys-refresh`, and
    /// `discover` asks `jwt-issuer` for that address. Callers may then show its tokens (JWT), as the identities that
    /// have their claim. See [security](../security.md#tokens-of-an-issuer).
    jwt_keys: KeysPlace = KeysPlace::default(), "UNANIMO_JWT_KEYS";
    /// Authorities of the server of `jwt-keys`: a PEM file. Without it: the public ones.
    jwt_keys_ca: FilePath = FilePath::default(), "UNANIMO_JWT_KEYS_CA";
    /// Interval at which keys are fetched again, less up to a fifth of it; at least 1s. A token with a key that is not
    /// known has them fetched at once, ten seconds after the last time at the earliest.
    jwt_keys_refresh: Period = Period::secs(300), "UNANIMO_JWT_KEYS_REFRESH";
    /// Age at which keys that cannot be fetched again count no more: tokens are then refused.
    jwt_keys_age_max: Period = Period::secs(24 * 60 * 60), "UNANIMO_JWT_KEYS_AGE_MAX";
    /// Name of the issuer, as in the claim `iss` of its tokens.
    jwt_issuer: String = String::new(), "UNANIMO_JWT_ISSUER";
    /// Name of this coordinator at the issuer: tokens of another `aud` are not accepted.
    jwt_audience: String = String::new(), "UNANIMO_JWT_AUDIENCE";
    /// Claim of a token that says who calls: a text, or a list of texts.
    jwt_claim: String = "sub".to_owned(), "UNANIMO_JWT_CLAIM";
    /// Most by which the issuer's clock may differ from the coordinator's.
    jwt_leeway: Period = Period::secs(30), "UNANIMO_JWT_LEEWAY";
    /// Authorities of participants that are called over `https://`: a PEM file. Without it: the public ones.
    participant_tls_ca: FilePath = FilePath::default(), "UNANIMO_PARTICIPANT_TLS_CA";
    /// Certificate that the coordinator shows to participants: a PEM file.
    participant_tls_cert: FilePath = FilePath::default(), "UNANIMO_PARTICIPANT_TLS_CERT";
    /// Private key of `participant-tls-cert`: a PEM file.
    participant_tls_key: FilePath = FilePath::default(), "UNANIMO_PARTICIPANT_TLS_KEY";
    /// Name that the certificate of each participant must have. Without it: the host of its endpoint.
    participant_tls_name: ServerName = ServerName::default(), "UNANIMO_PARTICIPANT_TLS_NAME";
    /// Tokens that the coordinator sends to participants, so that they know it: a TOML file with a line
    /// `NAME = "TOKEN"` for each. A token goes over `https://` and to loopback alone. See
    /// [security](../security.md#a-participants-side).
    participant_tokens: FilePath = FilePath::default(), "UNANIMO_PARTICIPANT_TOKENS";
    /// Webhooks, to which [events](../notifications.md#webhooks) are sent: a TOML file, which is read again when it changes.
    webhooks: FilePath = FilePath::default(), "UNANIMO_WEBHOOKS";
    /// Authorities of receivers of webhooks over `https://`: a PEM file. Without it: the public ones.
    webhook_tls_ca: FilePath = FilePath::default(), "UNANIMO_WEBHOOK_TLS_CA";
    /// Allow what is not safe on a network that others use: `listen` an address that other machines can
    /// reach without certificates of clients, where every program that reaches the port can start, commit and
    /// roll back transactions; the same for `http-listen`; `admin-listen` such an address without TLS; and, with `tls-cert`, endpoints of
    /// participants on other machines without TLS; and receivers of webhooks there without it.
    insecure: bool = false, "UNANIMO_INSECURE";
    /// Endpoints that participants may register, separated by commas: `loopback`, `*`, a host,
    /// `*.domain`, or an address with a prefix length. Each but the first two may have a `:port`.
    endpoint_allow: values::Patterns = values::Patterns(vec![Pattern::loopback()]),
        "UNANIMO_ENDPOINT_ALLOW";
    /// Format of the log: `human`, or `json` for one object a line.
    log_format: LogFormat = LogFormat::Human, "UNANIMO_LOG_FORMAT";
    /// Filter of the log: a level, or `target=level`, separated by commas. A level alone is that of
    /// Unanimo's own lines; those of the libraries below it are shown from `warn` on, or as `target=level`
    /// says. `info,unanimo::ended=off` leaves out the lines of transactions that have ended.
    log: String = "info".to_owned(), "UNANIMO_LOG";
    /// Collector of OpenTelemetry to which spans of transactions go: `http://HOST:PORT` or `https://HOST:PORT`; without
    /// it none are made. With `otlp-protocol` = `http/protobuf` it may have a path, and spans go to `/v1/traces` below it.
    /// See [traces](../operating.md#traces).
    otlp_endpoint: String = String::new(), "UNANIMO_OTLP_ENDPOINT";
    /// Protocol of the collector: `grpc` (often port 4317) or `http/protobuf` (often 4318).
    otlp_protocol: OtlpProtocol = OtlpProtocol::Grpc, "UNANIMO_OTLP_PROTOCOL";
    /// Headers that the collector demands, such as a key: a TOML file with a line `NAME = "VALUE"` for each. They go over
    /// `https://` and to this machine alone, unless `insecure` is set.
    otlp_headers_file: FilePath = FilePath::default(), "UNANIMO_OTLP_HEADERS_FILE";
    /// Authorities of the collector: a PEM file. Without it: the public ones.
    otlp_tls_ca: FilePath = FilePath::default(), "UNANIMO_OTLP_TLS_CA";
    /// Part of the transactions that have spans, from `0` to `1`, where whoever began one has no trace. Where it has one,
    /// that says it.
    otlp_sampling: Ratio = Ratio::ALL, "UNANIMO_OTLP_SAMPLING";
    /// Address at which people see a trace, with `{trace_id}` where its id goes, such as
    /// `https://jaeger.example/trace/{trace_id}`: pages of transactions have a link to it.
    trace_link: String = String::new(), "UNANIMO_TRACE_LINK";
    /// Time for which an incarnation may act without renewing its lease in the database. Then
    /// another one may fence it.
    lease: Period = Period::secs(15), "UNANIMO_LEASE";
    /// Time to wait for transactions in flight to end after SIGTERM.
    drain_timeout: Period = Period::secs(30), "UNANIMO_DRAIN_TIMEOUT";
    /// Longest wait for an outcome by a client whose call has no deadline.
    wait_max: Period = Period::secs(300), "UNANIMO_WAIT_MAX";
    /// Most transactions in memory. At this number new work is refused.
    transactions_max: usize = 100_000, "UNANIMO_TRANSACTIONS_MAX";
    /// Most bytes of payloads, outputs, metadata and texts in memory. At this number new work is
    /// refused. Requests on their way in may take as much again, and one message at least; and the first 64 KiB of
    /// each, altogether, as much once more. Answers that their callers have not read yet may take the same, and so may
    /// calls under way, of 16 KiB each: past three quarters of that a call waits for two seconds at most, past all of it
    /// work that waits is refused, and Commit and Rollback are answered as soon as they are accepted; GetTransaction that
    /// waits and WatchTransaction are refused past half of it. Answers of participants on
    /// their way in may take the same, and two messages at least; one that would go over it is asked for again.
    live_bytes_max: usize = 256 << 20, "UNANIMO_LIVE_BYTES_MAX";
    /// Most connections of callers over gRPC at once, of which one address may take three quarters of those that others
    /// leave. One more is closed at once; with TLS, behind its handshake. A few more serve calls of operators alone.
    /// At `http-listen` as many may be open again; there, for one more, the earliest is closed on which no call is under way, of
    /// the address that has the most. Where the limit of open files is too low for that, there are fewer.
    connections_max: usize = 4096, "UNANIMO_CONNECTIONS_MAX";
    /// Longest life of a connection of a caller: it is then told to make another one, and calls under way end on it.
    /// With it clients spread anew over several addresses, and new certificates are judged. 0s is no bound.
    connection_age_max: Period = Period::secs(0), "UNANIMO_CONNECTION_AGE_MAX";
    /// Most calls a second of one identity, on average; as many may come at once after a pause. One more is refused
    /// before it is read, with the time after which to come back. 0 is no bound; without `identities` there is none.
    identity_rate: u32 = 0, "UNANIMO_IDENTITY_RATE";
    /// Most calls of one identity under way at a time, open streams included, whose callers still wait. 0 is no bound;
    /// without `identities` there is none.
    identity_calls: usize = 0, "UNANIMO_IDENTITY_CALLS";
    /// Most calls a second of all identities of one namespace together, beside what each of them may. 0 is no bound.
    namespace_rate: u32 = 0, "UNANIMO_NAMESPACE_RATE";
    /// Most of their calls under way at a time. 0 is no bound.
    namespace_calls: usize = 0, "UNANIMO_NAMESPACE_CALLS";
    /// Most calls a second from one address of IP, or network of 64 bits of IPv6, by callers without an identity. 0 is no
    /// bound; with `identities` there are no such callers.
    address_rate: u32 = 0, "UNANIMO_ADDRESS_RATE";
    /// Most of their calls from one address under way at a time. 0 is no bound.
    address_calls: usize = 0, "UNANIMO_ADDRESS_CALLS";
    /// Most transactions that each identity may have open, where its entry says no other number. 0 is no bound.
    open_transactions_per_identity: usize = 0, "UNANIMO_OPEN_TRANSACTIONS_PER_IDENTITY";
    /// Most bytes of payloads, outputs, metadata and texts of these. 0 is no bound.
    open_bytes_per_identity: usize = 0, "UNANIMO_OPEN_BYTES_PER_IDENTITY";
    /// Most transactions that all identities of one namespace may have open together. 0 is no bound.
    open_transactions_per_namespace: usize = 0, "UNANIMO_OPEN_TRANSACTIONS_PER_NAMESPACE";
    /// Most bytes of these. 0 is no bound.
    open_bytes_per_namespace: usize = 0, "UNANIMO_OPEN_BYTES_PER_NAMESPACE";
    /// Part of `transactions-max`, less what the transactions of others hold, that one participant's transactions may take,
    /// in percent. The rest is for others, however many are slow: once a participant's branches of a transaction have ended, or
    /// while the transaction waits for nothing but others' calls that move nothing, it counts there no more.
    participant_share: usize = 70, "UNANIMO_PARTICIPANT_SHARE";
    /// Most names of participants that are kept. At this number a new name is refused, unless one that is
    /// long gone can be forgotten.
    participants_max: usize = 1000, "UNANIMO_PARTICIPANTS_MAX";
    /// Most of these in one namespace; at this number a new name of it is refused likewise. 0 is no bound.
    participants_per_namespace: usize = 0, "UNANIMO_PARTICIPANTS_PER_NAMESPACE";
    /// Most calls in flight to one endpoint of a participant, counted apart for Prepare and for Commit
    /// and Cancel together.
    participant_slots: usize = 256, "UNANIMO_PARTICIPANT_SLOTS";
    /// Time to wait for a participant's answer before the call is repeated.
    call_timeout: Period = Period::secs(unanimo_core::CALL_TIMEOUT_DEFAULT.as_secs()), "UNANIMO_CALL_TIMEOUT";
    /// Interval at which participants are asked to register again. One that has not done so for
    /// three intervals counts as gone.
    keep_alive_interval: Period = Period::secs(5), "UNANIMO_KEEP_ALIVE_INTERVAL";
    /// Pause after the first failed Prepare; it doubles with each failure.
    prepare_backoff: Period = Period::millis(50), "UNANIMO_PREPARE_BACKOFF";
    /// Longest pause between Prepares.
    prepare_backoff_max: Period = Period::secs(2), "UNANIMO_PREPARE_BACKOFF_MAX";
    /// Pause after the first failed Commit or Cancel; it doubles with each failure.
    phase_two_backoff: Period = Period::millis(100), "UNANIMO_PHASE_TWO_BACKOFF";
    /// Longest pause between Commits or Cancels. They are repeated until the branch ends.
    phase_two_backoff_max: Period = Period::secs(30), "UNANIMO_PHASE_TWO_BACKOFF_MAX";
    /// Longest pause that a participant may ask for by answering that it is still working.
    retry_after_max: Period = Period::secs(60), "UNANIMO_RETRY_AFTER_MAX";
    /// Duration of phase two after which the alarm `transaction_stalled` is raised.
    stalled_after: Period = Period::secs(60), "UNANIMO_STALLED_AFTER";
    /// Most by which a participant's clock may be behind the coordinator's. A Prepare may start
    /// this much after the deadline.
    clock_skew: Period = Period::secs(5), "UNANIMO_CLOCK_SKEW";
    /// Timeout of a transaction whose client gives none.
    timeout_default: Period = Period::secs(60), "UNANIMO_TIMEOUT_DEFAULT";
    /// Longest timeout that a client may give.
    timeout_max: Period = Period::secs(24 * 60 * 60), "UNANIMO_TIMEOUT_MAX";
    /// Most branches of a transaction.
    branches_max: usize = 64, "UNANIMO_BRANCHES_MAX";
    /// Most bytes of one payload.
    payload_bytes_max: usize = 1 << 20, "UNANIMO_PAYLOAD_BYTES_MAX";
    /// Most bytes of all payloads of a transaction.
    payloads_bytes_max: usize = 3 << 19, "UNANIMO_PAYLOADS_BYTES_MAX";
    /// Most bytes of one output. A larger one is dropped, and the vote counts; a saga in which another
    /// step reads it aborts.
    output_bytes_max: usize = 1 << 20, "UNANIMO_OUTPUT_BYTES_MAX";
    /// Most bytes of all outputs of a transaction. An output beyond it is dropped, and the vote
    /// counts.
    outputs_bytes_max: usize = 3 << 19, "UNANIMO_OUTPUTS_BYTES_MAX";
    /// Most bytes of a transaction's metadata, and of a request's gRPC metadata.
    metadata_bytes_max: usize = 16 << 10, "UNANIMO_METADATA_BYTES_MAX";
    /// Most bytes of a gRPC message.
    message_bytes_max: usize = 8 << 20, "UNANIMO_MESSAGE_BYTES_MAX";
    /// Time for which branches, outputs and history of an ended transaction are kept. Those of a
    /// heuristic transaction are kept until an operator forgets it.
    retention: Period = Period::secs(24 * 60 * 60), "UNANIMO_RETENTION";
    /// Time for which gid and outcome of an ended transaction are kept. Until then the gid names
    /// the same transaction. They are kept for half of it, at least, after the details have gone: an end that a wrong
    /// clock stored does not shorten that.
    gid_retention: Period = Period::secs(7 * 24 * 60 * 60), "UNANIMO_GID_RETENTION";
    /// Time for which entries of the [audit](../security.md#audit) are kept, whatever becomes of the transactions that
    /// they name; at least a day. 0s keeps them for ever.
    audit_retention: Period = Period::secs(365 * 24 * 60 * 60), "UNANIMO_AUDIT_RETENTION";
    /// Time for which [events](../notifications.md) are kept: whoever follows them and was away for longer has missed
    /// some, and is told so. 0s keeps them for ever.
    events_retention: Period = Period::secs(7 * 24 * 60 * 60), "UNANIMO_EVENTS_RETENTION";
    /// Interval between two purges of ended transactions.
    purge_interval: Period = Period::secs(10), "UNANIMO_PURGE_INTERVAL";
    /// Transactions of which a history is recorded, for export and replay: `sagas`, `all` or `none`.
    history: History = History::default(), "UNANIMO_HISTORY";
    /// Connections to PostgreSQL for reads and rare writes. The journal has its own.
    postgres_connections: u32 = 8, "UNANIMO_POSTGRES_CONNECTIONS";
    /// Longest time of a statement in PostgreSQL.
    statement_timeout: Period = Period::secs(10), "UNANIMO_STATEMENT_TIMEOUT";
}

/// Database of a coordinator for which nothing is configured.
const DATABASE_URL_DEFAULT: &str = "sqlite:unanimo-data/unanimo.db";

/// Source of each key that is set: `file`, `environment` or `flag`. A key that is not in it has its
/// default.
type Sources = BTreeMap<String, &'static str>;
