//! Bank as a process of its own: `MODE NAME DATABASE_URL`. It kills itself or its database at the
//! crash point that the environment names.

use unanimo_examples::{tcc, two_phase};
use unanimo_sdk::{MySql, Postgres, Serve, TokioPostgres};
use unanimo_tests::bank;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    unanimo_tests::crash::arm();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, name, url] = arguments.as_slice() else { return Err("MODE NAME URL".into()) };
    let serve = Serve::on("127.0.0.1:0");
    let serving = match mode.as_str() {
        "tcc" => tcc::bank(name, Postgres::connect(url).await?).serve(serve).await?,
        "two-phase" => two_phase::bank(name, Postgres::connect(url).await?).serve(serve).await?,
        "tcc-over-tokio" => {
            let database = Postgres::over(TokioPostgres::new(url.parse()?)).await?;
            bank::tcc(name, database).serve(serve).await?
        }
        "two-phase-over-tokio" => {
            let database = Postgres::over(TokioPostgres::new(url.parse()?)).await?;
            bank::two_phase(name, database).serve(serve).await?
        }
        "tcc-on-mariadb" => bank::tcc(name, MySql::connect(url).await?).serve(serve).await?,
        "two-phase-on-mariadb" => {
            bank::two_phase(name, MySql::connect(url).await?).serve(serve).await?
        }
        other => return Err(format!("there is no mode {other}").into()),
    };
    announce(serving.address());
    serving.until_stopped().await?;
    Ok(())
}

/// Prints the address, as `unanimo serve` does: the test waits for this line.
#[expect(clippy::print_stdout, reason = "the test that started it reads it")]
fn announce(address: std::net::SocketAddr) {
    println!("grpc http://{address}");
}
