//! A coordinator in a process of its own, with one participant, `p`, in the test's.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use tonic::transport::{Channel, Endpoint};
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::scripted::Scripted;

pub(crate) struct Process {
    owned: Owned,
    endpoint: Endpoint,
    pub(crate) channel: Channel,
    pub(crate) p: Scripted,
    admin: SocketAddr,
    /// Address of the API over HTTP, if it has its own.
    http: Option<SocketAddr>,
}

impl Process {
    pub(crate) async fn start(database_url: &str, more: &[String]) -> Self {
        Self::start_with(database_url, more, &[]).await
    }

    /// Starts it with more arguments, and variables of its environment.
    pub(crate) async fn start_with(
        database_url: &str,
        more: &[String],
        environment: &[(&str, String)],
    ) -> Self {
        let p = Scripted::default();
        let participant = format!("p={}", p.serve().await);
        let log = run_folder().join(format!("process{}.log", uuid::Uuid::new_v4()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_unanimo-under-test"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(["--database-url", database_url, "--node", "one", "--lease", "2s"])
            .args(["--participant", &participant])
            .args(more)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log).unwrap());
        let mut owned = Owned::spawn(&mut command);
        let stdout = owned.child().stdout.take().unwrap();
        let count = if more.iter().any(|arg| arg == "--http-listen") { 3 } else { 2 };
        let lines = tokio::task::spawn_blocking(move || {
            let lines = BufReader::new(stdout).lines().take(count);
            lines.collect::<Result<Vec<_>, _>>().expect("it starts")
        });
        let lines = lines.await.unwrap();
        let address = lines[0].strip_prefix("grpc ").unwrap().to_owned();
        let address_of = |line: &str| line.split_once("://").unwrap().1.parse().unwrap();
        assert!(lines[1].starts_with("admin http"), "{lines:?}");
        let (admin, http) = (address_of(&lines[1]), lines.get(2).map(|line| address_of(line)));
        let endpoint = Endpoint::from_shared(address).unwrap();
        let channel = endpoint.connect_lazy();
        Self { owned, endpoint, channel, p, admin, http }
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.owned.kill();
    }

    /// The address of gRPC.
    pub(crate) fn address(&self) -> String {
        self.endpoint.uri().authority().unwrap().to_string()
    }

    /// The address of health and metrics.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The address of the API over HTTP, for one with `--http-listen`.
    pub(crate) fn http_address(&self) -> SocketAddr {
        self.http.expect("an address of its own")
    }

    /// A connection of its own.
    pub(crate) fn another_channel(&self) -> Channel {
        self.endpoint.connect_lazy()
    }

    /// A connection of its own that takes so many bytes of each answer, and of all, before they are read.
    pub(crate) fn channel_with_windows(&self, of_each: u32, of_all: u32) -> Channel {
        let endpoint = self.endpoint.clone().initial_stream_window_size(of_each);
        endpoint.initial_connection_window_size(of_all).connect_lazy()
    }

    pub(crate) fn client(&self) -> CoordinatorServiceClient<Channel> {
        CoordinatorServiceClient::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// Bytes that the process has in memory.
    pub(crate) fn resident(&mut self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Most bytes of memory that it ever had.
    pub(crate) fn resident_max(&mut self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&mut self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.owned.child().id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}
