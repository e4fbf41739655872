//! Sources of a configuration, merged.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use unanimo_core::Violation;

use super::variables::nearest_key;
use super::{Config, DATABASE_URL_DEFAULT, Described, Error, Layer, Sources, unknown_variables};

/// Key of the setting that must not be forgotten.
const DATABASE_URL: &str = "database-url";

/// Configuration, with the source of each setting.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged configuration.
    pub config: Config,
    sources: Sources,
    file: Option<PathBuf>,
}

/// Setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key, as in the file.
    pub key: String,
    /// Its value, as TOML. A password in it is hidden.
    pub value: String,
    /// Its source: `default`, `file`, `environment` or `flag`.
    pub source: String,
}

impl Loaded {
    /// Merges the sources, of which a later one wins: defaults, file, environment, flags. Then it
    /// checks the result. A program without a command line takes [`Layer::from_env`] and
    /// [`Layer::default`].
    ///
    /// # Errors
    /// The file cannot be read or is no configuration, settings break rules, or something is
    /// configured and the database is not.
    pub fn load(file: Option<&Path>, environment: Layer, flags: Layer) -> Result<Self, Error> {
        let mut loaded = Self {
            config: Config::default(),
            sources: Sources::new(),
            file: file.map(Path::to_owned),
        };
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| Error::File { path: path.to_owned(), source })?;
            let layer =
                toml::from_str(&text).map_err(|source| not_understood(path, &text, &source))?;
            loaded.config.apply(layer, "file", &mut loaded.sources);
        }
        loaded.config.apply(environment, "environment", &mut loaded.sources);
        loaded.config.apply(flags, "flag", &mut loaded.sources);
        let mut violations = loaded.config.violations();
        violations.extend(loaded.forgotten_database());
        if violations.is_empty() { Ok(loaded) } else { Err(Error::Invalid(violations)) }
    }

    /// Returns where the database was named: the file, `environment`, `flag`, or `default` if nothing
    /// is configured.
    #[must_use]
    pub fn database_source(&self) -> String {
        match (self.sources.get(DATABASE_URL), &self.file) {
            (Some(&"file"), Some(path)) => format!("file {}", path.display()),
            (Some(source), _) => (*source).to_owned(),
            (None, _) => "default".to_owned(),
        }
    }

    /// Returns the complaint that anything is configured and no database is: the default's is another
    /// one, and empty, and every transaction would be done once more.
    fn forgotten_database(&self) -> Option<Violation> {
        let configured = self.file.is_some() || !self.sources.is_empty();
        if self.sources.contains_key(DATABASE_URL) || !configured {
            return None;
        }
        let line = "database-url = \"postgres://USER:PASSWORD@HOST/DATABASE\"";
        let place = match &self.file {
            Some(path) => format!("add the line {line} to {}", path.display()),
            None => "pass --database-url postgres://USER:PASSWORD@HOST/DATABASE".to_owned(),
        };
        Some(Violation::new(
            DATABASE_URL,
            format!(
                "must be set where anything else is: {place}, or set the variable \
                 UNANIMO_DATABASE_URL; the file that `unanimo serve` uses without any setting is \
                 {DATABASE_URL_DEFAULT}"
            ),
        ))
    }

    /// Returns each setting in force, with passwords hidden, and its source.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let plain = toml::to_string(&self.config).expect("settings have plain values");
        // Endpoints of participants are a table, at the end.
        let mut is_table = false;
        let settings = plain.lines().filter_map(|line| {
            is_table |= line == "[participants]";
            let (key, value) = line.split_once(" = ")?;
            let source_key = if is_table { "participants" } else { key };
            let source = self.sources.get(source_key).copied().unwrap_or("default");
            let key = if is_table { format!("participants.{key}") } else { key.to_owned() };
            Some(Setting { key, value: value.to_owned(), source: source.to_owned() })
        });
        settings.collect()
    }

    /// Returns the configuration as TOML of a file, with passwords hidden. A comment names the
    /// source of each setting that is not a default.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let plain = toml::to_string(&self.config).expect("settings have plain values");
        let lines = plain.lines().map(|line| {
            let key = line.split(" = ").next().unwrap_or_default();
            match self.sources.get(key) {
                Some(source) => format!("{line}  # {source}\n"),
                None => format!("{line}\n"),
            }
        });
        lines.collect()
    }
}

impl Layer {
    /// Reads the settings in the process's environment. A command line need not call it: its own
    /// parser reads the variables that [`Config::described`] names.
    ///
    /// # Errors
    /// [`Error::Invalid`], which names each variable whose value its setting does not accept, and each
    /// that begins with `UNANIMO_` and that nobody reads.
    pub fn from_env() -> Result<Self, Error> {
        let unknown = unknown_variables(std::env::vars_os());
        if !unknown.is_empty() {
            return Err(Error::Invalid(unknown));
        }
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let mut layer = Self::default();
        let mut violations = Vec::new();
        for Described { key, env, .. } in Config::described() {
            let Some(value) = variable(env) else { continue };
            let set = match value.to_str() {
                Some(text) => layer.set(&key, text),
                None => Err("must be text in UTF-8".to_owned()),
            };
            if let Err(rule) = set {
                violations.push(Violation::new(env, format!("has a bad value: {rule}")));
            }
        }
        if violations.is_empty() { Ok(layer) } else { Err(Error::Invalid(violations)) }
    }
}

/// Makes the error of a file. A key that is no setting's is told with the one that was probably meant; the parser would
/// list all of them.
fn not_understood(path: &Path, text: &str, source: &toml::de::Error) -> Error {
    let path = path.to_owned();
    let unknown = source.message().strip_prefix("unknown field `");
    let unknown = unknown.and_then(|rest| rest.split_once('`'));
    let start = source.span().map_or(0, |span| span.start);
    let line = 1 + text.get(..start).unwrap_or_default().matches('\n').count();
    match unknown {
        Some((key, _)) => Error::Key { path, line, key: key.to_owned(), meant: nearest_key(key) },
        None => Error::Syntax { path, line, rule: without_value(source.message()) },
    }
}

/// Returns the parser's words without a value that they repeat, if that may be an address with a password.
fn without_value(words: &str) -> String {
    if let Some(rest) = words.strip_prefix("invalid type: string ")
        && let Some((_, expected)) = rest.rsplit_once(", expected ")
    {
        return format!("invalid type: a text, expected {expected}");
    }
    let may_be_secret =
        words.contains("password") || (words.contains("://") && words.contains('@'));
    if may_be_secret { "the value does not fit its key".to_owned() } else { words.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Period;

    fn parse(text: &str) -> Layer {
        toml::from_str(text).expect("a layer")
    }

    #[test]
    fn the_defaults_are_accepted_and_read_back() {
        let loaded = Loaded::load(None, Layer::default(), Layer::default()).expect("the defaults");
        let text = loaded.to_toml();
        let mut again = Config::default();
        again.apply(parse(&text), "file", &mut Sources::new());
        assert_eq!(again, loaded.config, "{text}");
    }

    #[test]
    fn a_later_source_wins_and_is_named() {
        let folder = std::env::temp_dir().join(format!("unanimo-config-{}", std::process::id()));
        let file = folder.with_extension("toml");
        let text = "lease = \"20s\"\nnode = \"from-file\"\n\
                    database-url = \"postgres://ann:secret@db/x\"\n\
                    [participants]\nbank = [\"http://10.0.0.1:7000\"]\n";
        std::fs::write(&file, text).expect("write a file");
        let environment = parse("node = \"from-variable\"\nwait-max = \"7s\"");
        let flags = parse("node = \"from-flag\"");
        let loaded = Loaded::load(Some(&file), environment, flags).expect("a configuration");
        std::fs::remove_file(&file).expect("remove it");
        assert_eq!(loaded.config.lease, Period::secs(20));
        assert_eq!(loaded.config.node.as_str(), "from-flag");
        let text = loaded.to_toml();
        assert!(text.contains("lease = \"20s\"  # file\n"), "{text}");
        assert!(text.contains("node = \"from-flag\"  # flag\n"), "{text}");
        assert!(text.contains("wait-max = \"7s\"  # environment\n"), "{text}");
        assert!(text.contains("postgres://ann:***@db/x"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("[participants]\nbank = [\"http://10.0.0.1:7000\"]"), "{text}");
        let settings = loaded.settings();
        for (key, value, source) in [
            ("lease", "\"20s\"", "file"),
            ("node", "\"from-flag\"", "flag"),
            ("wait-max", "\"7s\"", "environment"),
            ("insecure", "false", "default"),
            ("database-url", "\"postgres://ann:***@db/x\"", "file"),
            ("participants.bank", "[\"http://10.0.0.1:7000\"]", "file"),
        ] {
            let [key, value, source] = [key, value, source].map(str::to_owned);
            assert!(settings.contains(&Setting { key, value, source }), "{settings:?}");
        }
    }

    #[test]
    fn the_environment_is_read_and_a_bad_variable_is_named() {
        let read = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.to_vec();
            Layer::from_variables(move |name| {
                let found = pairs.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| OsString::from(value))
            })
        };
        let database = ("UNANIMO_DATABASE_URL", "sqlite:x.db");
        let set = [("UNANIMO_LEASE", "20s"), ("UNANIMO_INSECURE", "true"), database];
        let layer = read(&set);
        let loaded = Loaded::load(None, layer.expect("a layer"), Layer::default());
        let loaded = loaded.expect("a configuration");
        assert_eq!(loaded.config.lease, Period::secs(20));
        assert!(loaded.config.insecure);
        let error = read(&[("UNANIMO_LEASE", "fast"), ("UNANIMO_LISTEN", "here")]);
        let error = error.expect_err("two bad variables").to_string();
        for named in ["\n  UNANIMO_LEASE has a bad value: \"fast\"", "\n  UNANIMO_LISTEN"] {
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn whoever_configures_anything_names_the_database() {
        let none = Layer::default;
        let loaded = Loaded::load(None, none(), none()).expect("nothing is configured");
        assert_eq!(loaded.database_source(), "default");
        let flag = parse("lease = \"20s\"");
        let participant = parse("[participants]\nbank = [\"http://10.0.0.1:7000\"]");
        for (environment, flags) in [(none(), flag.clone()), (flag, none()), (none(), participant)]
        {
            let error = Loaded::load(None, environment, flags).expect_err("no database");
            let error = error.to_string();
            assert!(
                error.contains("\n  database-url must be set where anything else is"),
                "{error}"
            );
            assert!(error.contains("pass --database-url postgres://"), "{error}");
        }
        let file = std::env::temp_dir().join(format!("unanimo-empty-{}.toml", std::process::id()));
        std::fs::write(&file, "").expect("write a file");
        let error = Loaded::load(Some(&file), none(), none()).expect_err("no database").to_string();
        let line = format!(
            "add the line database-url = \"postgres://USER:PASSWORD@HOST/DATABASE\" to {}",
            file.display()
        );
        assert!(error.contains(&line), "{error}");
        let url = parse("database-url = \"sqlite:x.db\"");
        let loaded = Loaded::load(Some(&file), none(), url.clone()).expect("it is named");
        assert_eq!(loaded.database_source(), "flag");
        let loaded = Loaded::load(None, url, none()).expect("it is named");
        assert_eq!(loaded.database_source(), "environment");
        std::fs::write(&file, "database-url = \"sqlite:x.db\"").expect("write a file");
        let loaded = Loaded::load(Some(&file), none(), none()).expect("it is named");
        assert_eq!(loaded.database_source(), format!("file {}", file.display()));
        std::fs::remove_file(&file).expect("remove it");
    }

    #[test]
    fn every_documented_key_can_be_set_to_its_documented_values() {
        for Described { key, values, .. } in Config::described() {
            for value in values {
                Layer::default().set(&key, value).expect(&key);
            }
        }
        Layer::default().set("participants", "bank=http://10.0.0.1:7000").expect("a participant");
        for text in ["bank", "bank=10.0.0.1", "a b=http://10.0.0.1:7000"] {
            Layer::default().set("participants", text).expect_err(text);
        }
    }

    #[test]
    fn a_misspelt_key_is_told_with_the_one_that_was_meant() {
        let file = std::env::temp_dir().join(format!("unanimo-key-{}.toml", std::process::id()));
        for (key, meant) in [
            ("leese", "; did you mean lease?"),
            ("databse-url", "; did you mean database-url?"),
            ("database_url", "; did you mean database-url?"),
            ("fruit-of-the-day", "; `unanimo config` prints them all"),
        ] {
            std::fs::write(&file, format!("node = \"n\"\n{key} = \"1s\"\n")).expect("write a file");
            let error = Loaded::load(Some(&file), Layer::default(), Layer::default());
            let error = error.expect_err(key).to_string();
            let path = file.display();
            assert_eq!(
                error,
                format!(
                    "understand the configuration file {path}: line 2: {key} is no setting{meant}"
                )
            );
        }
        std::fs::remove_file(&file).expect("remove it");
    }

    #[test]
    fn a_mistake_in_the_file_is_told_without_a_password() {
        let file = std::env::temp_dir().join(format!("unanimo-secret-{}.toml", std::process::id()));
        let url = "postgres://ann:s3cr3t@db/x";
        for (text, expected) in [
            (format!("lease = \"20s\"\ndatabase-url = \"{url}\n"), "line 2: "),
            (format!("database-url = {url}\n"), "line 1: "),
            (format!("database-url = [\"{url}\"]\n"), "line 1: invalid type: sequence"),
            (
                format!("database-url = \"{url}\"\ndatabase-url = \"{url}\"\n"),
                "line 2: duplicate key",
            ),
            (format!("[participants]\ndatabase-url = \"{url}\"\n"), "line 2: "),
            (format!("lease = \"{url}\"\n"), "line 1: "),
            (format!("listen = \"{url}\"\n"), "line 1: "),
            (format!("insecure = \"{url}\"\n"), "line 1: invalid type: a text, expected a boolean"),
            (format!("database-url = \"\"\"{url}\n"), "line "),
            ("lease = \"fast\"\n".to_owned(), "\"fast\" is no duration"),
        ] {
            std::fs::write(&file, &text).expect("write a file");
            let error = Loaded::load(Some(&file), Layer::default(), Layer::default());
            let error = crate::store::in_full(&error.expect_err(&text));
            assert!(error.contains(expected), "{expected} in: {error}");
            assert!(!error.contains("s3cr3t"), "{error}");
        }
        std::fs::remove_file(&file).expect("remove it");
    }

    #[test]
    fn a_duration_that_is_a_number_is_told_the_rule() {
        for (value, is) in [("15", "15"), ("-1", "-1"), ("1.5", "1.5")] {
            let error = toml::from_str::<Layer>(&format!("lease = {value}")).expect_err(value);
            let rule = format!("must be a text such as \"30s\" or \"1h 30m\", is {is}");
            assert_eq!(error.message(), rule);
        }
    }

    #[test]
    fn an_unknown_key_and_a_bad_value_are_named() {
        for (text, names) in [
            ("leese = \"1s\"", "leese"),
            ("lease = 15", "lease"),
            ("lease = \"fast\"", "lease"),
            ("listen = \"localhost\"", "listen"),
            ("endpoint-allow = [\"10.0.0.0/99\"]", "endpoint-allow"),
            ("node = \"a b\"", "node"),
            ("[participants]\n\"a b\" = []", "a b"),
        ] {
            let error = toml::from_str::<Layer>(text).expect_err(text).to_string();
            assert!(error.contains(names), "{text}: {error}");
        }
    }
}
