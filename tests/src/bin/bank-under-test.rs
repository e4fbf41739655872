//! A bank of the examples as a process of its own: `MODE NAME DATABASE_URL`. It kills itself, or its
//! database, at a point that the environment names.

use unanimo_examples::{tcc, two_phase};
use unanimo_sdk::{Postgres, Serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    unanimo_tests::crash::arm();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, name, url] = arguments.as_slice() else { return Err("MODE NAME URL".into()) };
    let database = Postgres::connect(url).await?;
    let bank = match mode.as_str() {
        "two-phase" => two_phase::bank(name, database),
        _ => tcc::bank(name, database),
    };
    let serving = bank.serve(Serve::on("127.0.0.1:0")).await?;
    announce(serving.address());
    serving.until_stopped().await?;
    Ok(())
}

/// As the coordinator's program does: whoever started it waits for this line.
#[expect(clippy::print_stdout, reason = "it is read by whoever started it")]
fn announce(address: std::net::SocketAddr) {
    println!("grpc http://{address}");
}
