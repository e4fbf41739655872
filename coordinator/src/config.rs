//! What an operator can set: defaults < file < environment < flags, checked before anything binds.
//!
//! One table (`settings!`) makes the environment's variables, the file's keys, the printed
//! configuration, and, through [`Config::described`], the flags of the command line and
//! docs/reference/config.md.

mod answers;
mod load;
mod rules;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unanimo_core::{Backoff, Limits, ParticipantName, Policy, Violation};

pub use self::answers::CLIENT_BYTES_DEFAULT;
pub use self::load::Loaded;
use self::values::Named;
pub use self::values::{DatabaseUrl, LogFormat, NodeName, Period};
use crate::participants::allow::{self, Pattern};
use crate::participants::directory;
use crate::store::{PostgresOptions, Retention};
use crate::{api, engine};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read the configuration file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("understand the configuration file {path}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Settings break rules.
    #[error("accept the configuration:{}", lines(.0))]
    Invalid(Vec<Violation>),
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("\n  {violation}")).collect()
}

/// A setting, as documented.
#[derive(Clone, Debug)]
pub struct Described {
    /// Key in the file, and with `--` the flag.
    pub key: String,
    /// Variable of the environment; empty if it is for the file and flags only.
    pub env: &'static str,
    /// Name of a value in help texts.
    pub value_name: &'static str,
    /// Every value that it can have, if these are few.
    pub values: &'static [&'static str],
    /// Its default, as it would stand in the file.
    pub default: String,
    /// What it does.
    pub help: String,
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $kind:ty = $default:expr, $env:literal;
    )*) => {
        /// Everything that can be set.
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
            $($name: Option<$kind>,)*
            participants: BTreeMap<ParticipantName, Vec<String>>,
        }

        impl Layer {
            /// Sets what has this key in the file, from a text as a flag or a variable holds it. Of
            /// `participants` the text is NAME=URL, and is added to those that are set.
            ///
            /// # Errors
            /// The rule that the text breaks.
            pub fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
                match key.replace('-', "_").as_str() {
                    $(stringify!($name) => {
                        let value: $kind = text.parse().map_err(|rule| format!("{rule}"))?;
                        self.$name = Some(value);
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
                $(if let Some(value) = layer.$name {
                    self.$name = value;
                    sources.insert(stringify!($name).replace('_', "-"), source);
                })*
                for (name, urls) in layer.participants {
                    self.participants.entry(name).or_default().extend(urls);
                    sources.insert("participants".to_owned(), source);
                }
            }

            /// Every setting.
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
                        help: "Endpoints of participants that do not register: in the file a table \
                               of lists by name, as a flag `--participant NAME=URL`, once for each."
                            .to_owned(),
                    },
                ]
            }
        }
    };
}

settings! {
    /// Name of this node. Starting a node again ends the right of its earlier process to write.
    node: NodeName = NodeName::of_host(), "UNANIMO_NODE";
    /// Where the state is kept: `postgres://USER:PASSWORD@HOST/DATABASE`, or `sqlite:PATH` for one
    /// process and its file. Connect to PostgreSQL directly or through a session pool; pooling by
    /// transaction breaks it.
    database_url: DatabaseUrl = DatabaseUrl::new("sqlite:unanimo-data/unanimo.db"),
        "UNANIMO_DATABASE_URL";
    /// Address that gRPC is served on. Port 0 takes a free one.
    listen: SocketAddr = ([127, 0, 0, 1], 7610).into(), "UNANIMO_LISTEN";
    /// Address that health and metrics are served on, over HTTP.
    admin_listen: SocketAddr = ([127, 0, 0, 1], 7611).into(), "UNANIMO_ADMIN_LISTEN";
    /// Allow addresses that other machines can reach. There is no authentication yet: whoever
    /// reaches the port can start, commit and roll back transactions.
    insecure: bool = false, "UNANIMO_INSECURE";
    /// Endpoints that participants may register: `loopback`, `*`, a host, `*.domain`, or an address
    /// with a prefix length; each but the first two with an optional `:port`. Separated by commas.
    endpoint_allow: values::Patterns = values::Patterns(vec![Pattern::loopback()]),
        "UNANIMO_ENDPOINT_ALLOW";
    /// `human`, or `json` for one object a line.
    log_format: LogFormat = LogFormat::Human, "UNANIMO_LOG_FORMAT";
    /// What is logged, as `tracing` filters: a level, or `target=level` separated by commas.
    log: String = "info".to_owned(), "UNANIMO_LOG";
    /// How long an incarnation may be silent before another may end its right to write.
    lease: Period = Period::secs(15), "UNANIMO_LEASE";
    /// How long to wait at SIGTERM for transactions in flight to end.
    drain_timeout: Period = Period::secs(30), "UNANIMO_DRAIN_TIMEOUT";
    /// Longest wait of a call that has no deadline of its own.
    wait_max: Period = Period::secs(300), "UNANIMO_WAIT_MAX";
    /// Transactions in memory at which new work is refused.
    transactions_max: usize = 100_000, "UNANIMO_TRANSACTIONS_MAX";
    /// Bytes of payloads in memory at which new work is refused.
    live_bytes_max: usize = 256 << 20, "UNANIMO_LIVE_BYTES_MAX";
    /// Calls under way at one participant: so many Prepares, and apart from them so many Commits and
    /// Cancels.
    participant_slots: usize = 256, "UNANIMO_PARTICIPANT_SLOTS";
    /// How long to wait for a participant's answer before the call is sent again.
    call_timeout: Period = Period::secs(10), "UNANIMO_CALL_TIMEOUT";
    /// How often participants are to register again; one that was silent for three of these is gone.
    keep_alive_interval: Period = Period::secs(5), "UNANIMO_KEEP_ALIVE_INTERVAL";
    /// Pause after the first failed Prepare; it doubles with each.
    prepare_backoff: Period = Period::millis(50), "UNANIMO_PREPARE_BACKOFF";
    /// Longest pause between Prepares.
    prepare_backoff_max: Period = Period::secs(2), "UNANIMO_PREPARE_BACKOFF_MAX";
    /// Pause after the first failed Commit or Cancel; it doubles with each.
    finish_backoff: Period = Period::millis(100), "UNANIMO_FINISH_BACKOFF";
    /// Longest pause between Commits and Cancels, which are repeated for ever.
    finish_backoff_max: Period = Period::secs(30), "UNANIMO_FINISH_BACKOFF_MAX";
    /// Longest pause that a participant may ask for by answering that it is still working.
    retry_after_max: Period = Period::secs(60), "UNANIMO_RETRY_AFTER_MAX";
    /// Phase two that lasts longer raises the alarm `transaction_stalled`.
    stalled_after: Period = Period::secs(60), "UNANIMO_STALLED_AFTER";
    /// How far a participant's clock may run behind: a Prepare may start this much after the
    /// deadline.
    clock_skew: Period = Period::secs(5), "UNANIMO_CLOCK_SKEW";
    /// Timeout of transactions whose client asks for none.
    timeout_default: Period = Period::secs(60), "UNANIMO_TIMEOUT_DEFAULT";
    /// Longest timeout that a client may ask for.
    timeout_max: Period = Period::secs(24 * 60 * 60), "UNANIMO_TIMEOUT_MAX";
    /// Branches of a transaction.
    branches_max: usize = 64, "UNANIMO_BRANCHES_MAX";
    /// Bytes of one payload.
    payload_bytes_max: usize = 1 << 20, "UNANIMO_PAYLOAD_BYTES_MAX";
    /// Bytes of all payloads of a transaction.
    payloads_bytes_max: usize = 3 << 19, "UNANIMO_PAYLOADS_BYTES_MAX";
    /// Bytes of one output; a larger one is dropped and the vote stands.
    output_bytes_max: usize = 1 << 20, "UNANIMO_OUTPUT_BYTES_MAX";
    /// Bytes of all outputs of a transaction; what goes beyond is dropped and the votes stand.
    outputs_bytes_max: usize = 3 << 19, "UNANIMO_OUTPUTS_BYTES_MAX";
    /// Bytes of a transaction's metadata, and of a request's gRPC metadata.
    metadata_bytes_max: usize = 16 << 10, "UNANIMO_METADATA_BYTES_MAX";
    /// Bytes of a gRPC message.
    message_bytes_max: usize = 8 << 20, "UNANIMO_MESSAGE_BYTES_MAX";
    /// How long branches, outputs and history of ended transactions are kept. Heuristic ones are
    /// kept until an operator forgets them.
    retention: Period = Period::secs(24 * 60 * 60), "UNANIMO_RETENTION";
    /// How long a gid is kept: for so long it names the same transaction, and its outcome can be
    /// asked for.
    gid_retention: Period = Period::secs(7 * 24 * 60 * 60), "UNANIMO_GID_RETENTION";
    /// How often ended transactions are looked through.
    purge_interval: Period = Period::secs(10), "UNANIMO_PURGE_INTERVAL";
    /// Connections to PostgreSQL for reads and rare writes; the journal has its own.
    postgres_connections: u32 = 8, "UNANIMO_POSTGRES_CONNECTIONS";
    /// How long a statement may take in PostgreSQL.
    statement_timeout: Period = Period::secs(10), "UNANIMO_STATEMENT_TIMEOUT";
}

/// Source of each key that is set: `file`, `environment` or `flag`. A key that is not in it has its default.
type Sources = BTreeMap<String, &'static str>;

fn named_endpoint(text: &str) -> Result<(ParticipantName, String), String> {
    let (name, url) = text.split_once('=').ok_or("must be NAME=http://HOST:PORT")?;
    let name = ParticipantName::new(name).map_err(|rule| format!("NAME {rule}"))?;
    allow::parse_endpoint(url).map_err(|violation| violation.to_string())?;
    Ok((name, url.to_owned()))
}

/// A default, as documented: the same on every machine.
fn documented(name: &str, default: &impl Serialize) -> String {
    match name {
        "node" => "the host's name".to_owned(),
        _ => to_toml(default),
    }
}

/// A value as it would stand in the file.
fn to_toml(value: &impl Serialize) -> String {
    let value = toml::Value::try_from(value).expect("settings have plain values");
    value.to_string()
}

/// The settings as each room of the coordinator takes them.
impl Config {
    pub(crate) fn engine(&self) -> engine::Options {
        let limits = Limits {
            branches_max: self.branches_max,
            payload_bytes_max: self.payload_bytes_max,
            payloads_bytes_max: self.payloads_bytes_max,
            output_bytes_max: self.output_bytes_max,
            outputs_bytes_max: self.outputs_bytes_max,
            metadata_bytes_max: self.metadata_bytes_max,
            timeout_max: self.timeout_max.0,
            timeout_default: self.timeout_default.0,
        };
        let policy = Policy {
            limits,
            prepare_backoff: Backoff {
                base: self.prepare_backoff.0,
                cap: self.prepare_backoff_max.0,
            },
            phase_two_backoff: Backoff {
                base: self.finish_backoff.0,
                cap: self.finish_backoff_max.0,
            },
            retry_after_max: self.retry_after_max.0,
            stalled_after: self.stalled_after.0,
            clock_skew: self.clock_skew.0,
        };
        let bounds = engine::Bounds {
            transactions_max: self.transactions_max,
            bytes_max: self.live_bytes_max,
        };
        engine::Options { policy, bounds, call_timeout: self.call_timeout.0 }
    }

    pub(crate) fn directory(&self) -> directory::Options {
        directory::Options {
            slots: self.participant_slots,
            keep_alive_interval: self.keep_alive_interval.0,
            message_bytes_max: self.message_bytes_max,
        }
    }

    pub(crate) fn api(&self) -> api::Options {
        api::Options {
            message_bytes_max: self.message_bytes_max,
            header_bytes_max: u32::try_from(self.metadata_bytes_max).unwrap_or(u32::MAX),
            wait_max: self.wait_max.0,
            gid_retention: self.gid_retention.0,
            endpoint_allow: self.endpoint_allow.0.clone(),
        }
    }

    pub(crate) fn postgres(&self) -> PostgresOptions {
        PostgresOptions {
            pool_connections: self.postgres_connections,
            statement_timeout: self.statement_timeout.0,
        }
    }

    pub(crate) fn retention(&self) -> Retention {
        Retention { details: self.retention.0, gids: self.gid_retention.0 }
    }
}
