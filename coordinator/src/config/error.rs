//! Failure to load a configuration.

use std::path::PathBuf;

use unanimo_core::Violation;

/// Failure to load a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read the configuration file {path}")]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a configuration.
    #[error("understand the configuration file {path}: line {line}: {rule}")]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
        /// Words of the parser. They repeat no line of the file, which may have the password of the database.
        rule: String,
    },
    /// A key of the file is no setting's.
    #[error("understand the configuration file {path}: line {line}: {key} is no setting{}", did_you_mean(.meant.as_deref()))]
    Key {
        /// Path of the file.
        path: PathBuf,
        /// Number of the line.
        line: usize,
        /// The key.
        key: String,
        /// Key that was probably meant.
        meant: Option<String>,
    },
    /// Settings break rules.
    #[error("accept the configuration:{}", lines(.0))]
    Invalid(Vec<Violation>),
}

fn did_you_mean(key: Option<&str>) -> String {
    match key {
        Some(key) => format!("; did you mean {key}?"),
        None => "; `unanimo config` prints them all".to_owned(),
    }
}

fn lines(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("\n  {violation}")).collect()
}
