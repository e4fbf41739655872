//! Coordinator in a process of its own.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Failure;

/// Coordinator that can be killed, and started again at the same address.
pub(super) struct Coordinator {
    arguments: Vec<String>,
    child: Child,
    /// Address of its gRPC services: `http://HOST:PORT`.
    pub(super) endpoint: String,
}

/// Settings that make the tour short: calls are repeated soon.
const SHORT: [&str; 4] = ["--phase-two-backoff-max", "100ms", "--call-timeout", "500ms"];

impl Coordinator {
    pub(super) async fn start(
        database_url: &str,
        participants: &[String],
    ) -> Result<Self, Failure> {
        let mut arguments: Vec<String> =
            ["serve", "--admin-listen", "127.0.0.1:0", "--node", "demo", "--database-url"]
                .map(str::to_owned)
                .into();
        arguments.push(database_url.to_owned());
        arguments.extend(SHORT.map(str::to_owned));
        for participant in participants {
            arguments.extend(["--participant".to_owned(), participant.clone()]);
        }
        let (child, endpoint) = spawn(&arguments, "127.0.0.1:0").await?;
        Ok(Self { arguments, child, endpoint })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Kills the process as `kill -9` does, and waits until it is gone.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(Failure::Child)
    }

    /// Starts the coordinator again, with the same database and address.
    pub(super) async fn start_again(&mut self) -> Result<(), Failure> {
        let listen = self.endpoint.trim_start_matches("http://").to_owned();
        (self.child, self.endpoint) = spawn(&self.arguments, &listen).await?;
        Ok(())
    }
}

async fn spawn(arguments: &[String], listen: &str) -> Result<(Child, String), Failure> {
    let program = std::env::current_exe().map_err(Failure::Child)?;
    let mut command = Command::new(program);
    command.args(arguments).args(["--listen", listen, "--log", "warn"]);
    // The user's settings are for another coordinator, not for this one.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(Failure::Child)?;
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Failure::ChildEnded(String::new()));
    };
    let mut lines = BufReader::new(stdout).lines();
    let first = lines.next_line().await.map_err(Failure::Child)?;
    let endpoint = first.as_deref().and_then(|line| line.strip_prefix("grpc "));
    let Some(endpoint) = endpoint else {
        let mut text = String::new();
        // Its error output is added if it can be read.
        let _ = stderr.read_to_string(&mut text).await;
        return Err(Failure::ChildEnded(format!(": {}", text.trim())));
    };
    // Its warnings are expected, because the tour makes faults. They are read, so that the pipe
    // does not fill, and dropped.
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    });
    Ok((child, endpoint.to_owned()))
}

fn is_setting(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("UNANIMO_"))
}
