//! Coordinator in a process of its own, for programs that show what happens when it is killed: the demo,
//! and the examples of sagas.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// Coordinator that can be killed, and started again at the same address.
///
/// Its process runs the program that calls this, with `serve` as the first argument: the program's `main`
/// hands that to [`main`](crate::main). It is killed when this value is dropped.
#[derive(Debug)]
pub struct Coordinator {
    arguments: Vec<String>,
    child: Child,
    endpoint: String,
    pages: String,
}

/// Failure to start or to kill a coordinator's process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("start the coordinator: {0}")]
    Process(#[source] std::io::Error),
    /// It ended at once. The text is what it said, after a colon, if it said something.
    #[error("start the coordinator: its process ended at once{0}")]
    Ended(String),
}

impl Coordinator {
    /// Starts a coordinator with this database and node name, the settings (flags of `unanimo serve`),
    /// and participants as `NAME=ENDPOINT`. It takes free ports.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(
        database_url: &str,
        node: &str,
        settings: &[&str],
        participants: &[String],
    ) -> Result<Self, Error> {
        let own = ["serve", "--admin-listen", "127.0.0.1:0", "--node", node];
        let own = own.into_iter().chain(["--database-url", database_url]);
        let mut arguments: Vec<String> =
            own.chain(settings.iter().copied()).map(str::to_owned).collect();
        for participant in participants {
            arguments.extend(["--participant".to_owned(), participant.clone()]);
        }
        let (child, [endpoint, pages]) = spawn(&arguments, "127.0.0.1:0").await?;
        Ok(Self { arguments, child, endpoint, pages })
    }

    /// Address of its gRPC services: `http://HOST:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Address of its pages for people, of its API over HTTP, and of health and metrics: `http://HOST:PORT`.
    #[must_use]
    pub fn pages(&self) -> &str {
        &self.pages
    }

    /// Returns the id of its process; 0 if it has ended.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills the process as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// The operating system refuses.
    pub async fn kill(&mut self) -> Result<(), Error> {
        self.child.kill().await.map_err(Error::Process)
    }

    /// Waits until the process ends by itself. Its wait may be dropped.
    ///
    /// # Errors
    /// The operating system refuses.
    pub async fn ended(&mut self) -> Result<(), Error> {
        self.child.wait().await.map(drop).map_err(Error::Process)
    }

    /// Starts the coordinator again, with the same database and address.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_again(&mut self) -> Result<(), Error> {
        let listen = self.endpoint.trim_start_matches("http://").to_owned();
        (self.child, [self.endpoint, self.pages]) = spawn(&self.arguments, &listen).await?;
        Ok(())
    }
}

/// Starts the process, and returns the addresses of its gRPC services and of its pages.
async fn spawn(arguments: &[String], listen: &str) -> Result<(Child, [String; 2]), Error> {
    let program = std::env::current_exe().map_err(Error::Process)?;
    let mut command = Command::new(program);
    command.args(arguments).args(["--listen", listen, "--log", "warn"]);
    // The user's settings are for another coordinator, not for this one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(Error::Process)?;
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::Ended(String::new()));
    };
    let mut lines = BufReader::new(stdout).lines();
    let mut next = async || lines.next_line().await.map_err(Error::Process);
    let (first, second) = (next().await?, next().await?);
    let address =
        |line: &Option<String>, of: &str| Some(line.as_ref()?.strip_prefix(of)?.to_owned());
    let addresses = address(&first, "grpc ").zip(address(&second, "admin "));
    let Some((endpoint, pages)) = addresses else {
        let mut text = String::new();
        // Its error output is added if it can be read.
        let _ = stderr.read_to_string(&mut text).await;
        return Err(Error::Ended(format!(": {}", text.trim())));
    };
    // Its warnings are expected, because faults are made on purpose. They are read, so that the pipe
    // does not fill, and dropped.
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    });
    Ok((child, [endpoint, pages]))
}

fn is_setting(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("UNANIMO_"))
}
