//! The terminal, taken for a while and given back as it was.

use std::io::{Read, Write, stdin, stdout};

use rustix::process;
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
    page: String,
    wishes: Wishes,
}

/// Keys and signals.
struct Wishes {
    keys: mpsc::Receiver<u8>,
    ends: [Signal; 2],
    stops: Signal,
}

/// Wish of the user.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// End the program.
    End,
    /// Stop it for a while: Ctrl-Z.
    Stop,
}

impl Screen {
    pub(super) fn open() -> Result<Self, Error> {
        let failed = |source| Error::System { doing: "take the terminal", source };
        let wishes = Wishes::new(keys()).map_err(failed)?;
        let before = termios::tcgetattr(stdin()).ok();
        let screen = Self { before, page: String::new(), wishes };
        take(screen.before.as_ref()).map_err(failed)?;
        Ok(screen)
    }

    /// Returns the number of lines that fit.
    pub(super) fn lines(&self) -> usize {
        let size = termios::tcgetwinsize(stdout()).ok();
        size.map(|size| size.ws_row.into()).filter(|lines| *lines > 0).unwrap_or(LINES_DEFAULT)
    }

    /// Shows a page in place of the one before.
    pub(super) fn show(&mut self, page: String) -> Result<(), Error> {
        self.page = page;
        show(&self.page)
    }

    /// Does some work, and returns nothing if the user has ended the program meanwhile.
    pub(super) async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let Self { before, page, wishes } = self;
        wishes.unless_ended(work, || stand_aside(before.as_ref(), page)).await
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(self.before.as_ref());
    }
}

impl Wishes {
    fn new(keys: mpsc::Receiver<u8>) -> std::io::Result<Self> {
        let ends = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        let stops = signal(SignalKind::from_raw(process::Signal::TSTP.as_raw()))?;
        Ok(Self { keys, ends, stops })
    }

    async fn next(&mut self) -> Wish {
        let [interrupt, terminate] = &mut self.ends;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Wish::End,
                _ = terminate.recv() => return Wish::End,
                _ = self.stops.recv() => return Wish::Stop,
                Some(key) = self.keys.recv() => if matches!(key, b'q' | b'Q') { return Wish::End },
            }
        }
    }

    /// Does some work, stops where the user wishes it, and returns nothing if the program shall end before.
    async fn unless_ended<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut stop: impl FnMut(),
    ) -> Option<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                wish = self.next() => match wish {
                    Wish::End => return None,
                    Wish::Stop => stop(),
                },
            }
        }
    }
}

/// Takes the terminal: keys come at once and are not shown. Ctrl-C and Ctrl-Z stay signals.
fn take(before: Option<&Termios>) -> std::io::Result<()> {
    if let Some(before) = before {
        let mut now = before.clone();
        now.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        termios::tcsetattr(stdin(), OptionalActions::Now, &now)?;
    }
    steer(ENTER)
}

/// Gives the terminal back as it was. One that is gone needs nothing.
fn give_back(before: Option<&Termios>) {
    let _ = steer(LEAVE);
    if let Some(before) = before {
        let _ = termios::tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

/// Gives the terminal back, stops until the shell lets the program go on, and shows the page again.
fn stand_aside(before: Option<&Termios>, page: &str) {
    give_back(before);
    let _ = process::kill_process(process::getpid(), process::Signal::STOP);
    // What fails here fails again with the next page.
    let _ = take(before);
    let _ = show(page);
}

fn show(page: &str) -> Result<(), Error> {
    let failed = |source| Error::System { doing: "write to the terminal", source };
    steer(HOME).map_err(failed)?;
    output::print(page.trim_end())
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

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_key_ends_what_is_waited_for() {
        let (sender, keys) = mpsc::channel(4);
        let mut wishes = Wishes::new(keys).expect("signals");
        sender.send(b'x').await.expect("it is read");
        assert_eq!(wishes.unless_ended(ready(1), || {}).await, Some(1));
        sender.send(b'Q').await.expect("it is read");
        assert_eq!(wishes.unless_ended(pending::<()>(), || {}).await, None);
    }
}
