//! Reaper: a shell that outlives the test process by a moment, and removes what it has made.
//!
//! The shell waits for the end of its standard input, which the test process holds open and never
//! writes to. When that process ends, also by `kill -9`, the shell kills the processes that are
//! listed in the run's folder, and removes the folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// User of the servers if the tests run as root, as which database servers refuse to run.
pub const NOBODY: u32 = 65_534;

/// Longest time that all tests of a process may take together, in several times what they need. One that
/// hangs would keep the process for ever, and nobody would learn which one it is.
const TESTS_TIMEOUT: Duration = Duration::from_secs(50 * 60);

/// Script of the shell. It asks a PostgreSQL server to stop at once before it kills it, so that its
/// children end, too.
const SCRIPT: &str = r#"
cat >/dev/null
for file in "$0"/*/data/postmaster.pid; do
    [ -f "$file" ] && kill -QUIT "$(head -n 1 "$file")" 2>/dev/null
done
for file in "$0"/pids/*; do
    [ -e "$file" ] && kill -KILL "${file##*/}" 2>/dev/null
done
sleep 0.3
for file in "$0"/*/data/postmaster.pid; do
    [ -f "$file" ] && kill -KILL "$(head -n 1 "$file")" 2>/dev/null
done
rm -rf "$0"
"#;

struct Run {
    folder: PathBuf,
    _reaper: Child,
    /// Standard input of the shell, which waits for its end.
    _life: ChildStdin,
}

/// Returns the folder of this run. It is removed when the process has ended.
pub fn run_folder() -> &'static Path {
    static RUN: OnceLock<Run> = OnceLock::new();
    &RUN.get_or_init(start).folder
}

fn start() -> Run {
    // The name is short, because a socket's path has at most 107 bytes.
    let folder = TempDir::with_prefix("unanimo-").expect("a temporary folder").keep();
    fs::create_dir(folder.join("pids")).expect("a folder in it");
    if is_root() {
        let all = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&folder, all).expect("a folder that others may pass through");
    }
    let mut reaper = Command::new("sh")
        .args(["-c", SCRIPT])
        .arg(&folder)
        .stdin(Stdio::piped())
        // A process group of its own: Ctrl-C, which ends the tests, must not end the shell.
        .process_group(0)
        .spawn()
        .expect("a shell");
    let life = reaper.stdin.take().expect("it is piped");
    if !std::env::args().any(|argument| argument == "--ignored") {
        end_after(TESTS_TIMEOUT);
    }
    Run { folder, _reaper: reaper, _life: life }
}

/// Ends the process with an error if it is still there after this time. What takes longer on purpose is
/// ignored unless it is asked for.
fn end_after(timeout: Duration) {
    thread::spawn(move || {
        thread::sleep(timeout);
        eprintln!(
            "the tests have run for {} min: one of those that are said above to have been running for over \
             60 seconds does not end",
            timeout.as_secs() / 60
        );
        std::process::exit(1);
    });
}

/// Tells whether the tests run as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Process that is killed when it is dropped, and when the test process ends.
#[derive(Debug)]
pub struct Owned {
    child: Child,
    listed: PathBuf,
}

impl Owned {
    /// Starts the process.
    ///
    /// # Panics
    /// The process cannot be started.
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let listed = run_folder().join("pids").join(child.id().to_string());
        fs::write(&listed, "").expect("list a process");
        Self { child, listed }
    }

    /// Returns the process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, if the process has not ended.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        let pid = rustix::process::Pid::from_raw(id).expect("a process id");
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }

    /// Kills it with -9, and waits for its end.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
        // The folder may have been removed already.
        let _ = fs::remove_file(&self.listed);
    }
}
