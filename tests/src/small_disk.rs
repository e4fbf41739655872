//! Disk with little space, a file system in memory; and other mounts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uuid::Uuid;

use crate::reaper::run_folder;

/// File system that is unmounted at its drop.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Makes a file system of so many bytes; `None`, with a line on standard error, if this process may not
    /// mount one.
    ///
    /// # Panics
    /// The folder cannot be made.
    #[must_use]
    pub fn mount(bytes: u64) -> Option<Self> {
        let folder = run_folder().join(Uuid::new_v4().simple().to_string());
        fs::create_dir(&folder).expect("a new folder");
        Self::mount_over(&folder, bytes)
    }

    /// Makes a file system with these options; `None` as above.
    ///
    /// # Panics
    /// The folder cannot be made.
    #[must_use]
    pub fn mount_with(options: &str) -> Option<Self> {
        let folder = run_folder().join(Uuid::new_v4().simple().to_string());
        fs::create_dir(&folder).expect("a new folder");
        Self::mount_at(&folder, options)
    }

    /// Makes a file system over a folder.
    #[must_use]
    pub fn mount_over(folder: &Path, bytes: u64) -> Option<Self> {
        Self::mount_at(folder, &format!("size={bytes}"))
    }

    fn mount_at(folder: &Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(folder)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { folder: folder.to_owned() });
        }
        eprintln!("this test is skipped: this process may not mount a file system");
        None
    }

    /// Mounts a file over another one; `None` as above.
    #[must_use]
    pub fn bind(file: &Path, over: &Path) -> Option<Self> {
        let mut bind = Command::new("mount");
        let mounted = bind.arg("--bind").args([file, over]).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self { folder: over.to_owned() });
        }
        eprintln!("this test is skipped: this process may not mount a file");
        None
    }

    /// Returns its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fills it to its last byte.
    ///
    /// # Panics
    /// It cannot be written, and is not full.
    pub fn fill(&self) {
        let file = fs::File::options().create(true).append(true).open(self.filler());
        let mut file = file.expect("a file of nothing");
        for size in [1 << 16, 4096, 1] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
    }

    /// Makes files of nothing until there can be no more. Returns them.
    #[must_use]
    pub fn fill_names(&self) -> Vec<PathBuf> {
        let names = (0..).map(|n| self.folder.join(format!("name-{n}")));
        names.take_while(|name| fs::File::create(name).is_ok()).collect()
    }

    /// Gives the space back.
    ///
    /// # Panics
    /// It was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What is still open in it goes when that is closed.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
