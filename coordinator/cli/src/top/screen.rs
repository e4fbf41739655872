//! The terminal, taken for a while and given back as it was.

use std::io::{Read, Write, stdin, stdout};
use std::time::Duration;

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::Error;
use crate::output;

/// Lines where nobody knows the terminal's.
const LINES_DEFAULT: usize = 24;

/// Another screen without a cursor, and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// The beginning of the screen, with all below it cleared.
const HOME: &str = "\x1b[H\x1b[J";

/// Terminal that shows one page, and is given back when this is dropped.
pub(super) struct Screen {
    /// Settings of the terminal before; `None` if standard input is no terminal.
    before: Option<Termios>,
    keys: mpsc::Receiver<u8>,
    ends: [Signal; 2],
}

impl Screen {
    pub(super) fn open() -> Result<Self, Error> {
        let failed = |source| Error::System { doing: "take the terminal", source };
        let ends = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        let [interrupt, terminate] = ends;
        let ends = [interrupt.map_err(failed)?, terminate.map_err(failed)?];
        let before = termios::tcgetattr(stdin()).ok();
        if let Some(before) = &before {
            // Keys come at once and are not shown; Ctrl-C stays a signal.
            let mut now = before.clone();
            now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            termios::tcsetattr(stdin(), OptionalActions::Now, &now)
                .map_err(|error| failed(error.into()))?;
        }
        let screen = Self { before, keys: keys(), ends };
        steer(ENTER).map_err(failed)?;
        Ok(screen)
    }

    /// Returns the number of lines that fit.
    pub(super) fn lines(&self) -> usize {
        let size = termios::tcgetwinsize(stdout()).ok();
        size.map(|size| size.ws_row.into()).filter(|lines| *lines > 0).unwrap_or(LINES_DEFAULT)
    }

    /// Shows a page in place of the one before.
    pub(super) fn show(&mut self, page: &str) -> Result<(), Error> {
        let failed = |source| Error::System { doing: "write to the terminal", source };
        steer(HOME).map_err(failed)?;
        output::print(page.trim_end())
    }

    /// Waits for so long, and tells whether the user has ended it meanwhile.
    pub(super) async fn ended_within(&mut self, pause: Duration) -> bool {
        let [interrupt, terminate] = &mut self.ends;
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return false,
                _ = interrupt.recv() => return true,
                _ = terminate.recv() => return true,
                Some(key) = self.keys.recv() => if matches!(key, b'q' | b'Q') { return true },
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = steer(LEAVE);
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Writes a sequence that steers the terminal, also where colors are off.
fn steer(sequence: &str) -> std::io::Result<()> {
    let mut stdout = stdout().lock();
    stdout.write_all(sequence.as_bytes())?;
    stdout.flush()
}

/// Reads keys on a thread of its own, which ends with the process: a read cannot be given up.
fn keys() -> mpsc::Receiver<u8> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut key = [0];
        while let Ok(1) = stdin().read(&mut key) {
            if sender.blocking_send(key[0]).is_err() {
                return;
            }
        }
    });
    receiver
}
