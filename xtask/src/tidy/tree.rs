//! Text files of the repository, read once.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::rust::Masked;

/// Folders without files of the project.
const OTHERS: [&str; 5] = ["target", ".git", ".venv", "unanimo-data", "__pycache__"];

/// Extensions of text files.
const TEXTS: [&str; 12] =
    ["rs", "md", "toml", "proto", "sql", "py", "yaml", "yml", "txt", "sh", "Dockerfile", "run"];

/// Text file.
#[derive(Debug)]
pub(super) struct File {
    /// Path from the workspace's folder, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// Code, comments and strings, if the file is Rust.
    pub(super) rust: Option<Masked>,
}

impl File {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let rust = path.ends_with(".rs").then(|| Masked::new(text));
        Self { path: path.to_owned(), text: text.to_owned(), rust }
    }

    pub(super) fn is(&self, extension: &str) -> bool {
        self.path.rsplit(['.', '/']).next() == Some(extension)
    }

    /// Tells whether the file is generated code.
    pub(super) fn is_generated(&self) -> bool {
        self.path.contains("/src/gen/")
    }

    /// Tells whether the file is code of tests only, by its folder.
    pub(super) fn is_test(&self) -> bool {
        self.path.split('/').any(|part| part == "tests")
    }

    pub(super) fn is_under(&self, prefix: &str) -> bool {
        is_under(&self.path, prefix)
    }
}

/// Tells whether `path` is `prefix`, is in the folder `prefix`, or is `prefix.rs`.
pub(super) fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

/// Returns the line of an offset, from 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// Reads every text file of the repository, in the order of paths.
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.collect(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// Makes a tree for tests.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| File::new(path, text)).collect() }
    }

    pub(super) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Returns the Rust files that are not generated.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&File, &Masked)> {
        let written = self.files.iter().filter(|file| !file.is_generated());
        written.filter_map(|file| Some((file, file.rust.as_ref()?)))
    }

    fn collect(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if path.is_symlink() || OTHERS.contains(&name) {
                continue;
            }
            let place = format!("{prefix}{name}");
            if path.is_dir() {
                self.collect(&path, &format!("{place}/"))?;
            } else if name.rsplit('.').next().is_some_and(|end| TEXTS.contains(&end)) {
                let text = fs::read_to_string(&path).with_context(|| format!("read {place}"))?;
                self.files.push(File::new(&place, &text));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_whole_folder_or_module() {
        assert!(is_under("a/store/x.rs", "a/store"));
        assert!(is_under("a/store.rs", "a/store"));
        assert!(!is_under("a/stores/x.rs", "a/store"));
    }

    #[test]
    fn kinds_of_files() {
        assert!(File::new("tests/suite/x.rs", "").is_test());
        assert!(File::new("core/tests/x.rs", "").is_test());
        assert!(!File::new("src/testing/x.rs", "").is_test());
        assert!(File::new("proto/src/gen/v1.rs", "").is_generated());
        assert!(File::new("a/Cargo.toml", "").is("toml"));
    }
}
