use std::time::Duration;

use super::Failure;
use crate::net::tls;
use crate::telemetry::causes;

#[derive(clap::Args)]
pub(super) struct Args {
    /// What to ask
    #[arg(long, default_value = "http://127.0.0.1:9100/readyz")]
    url: String,
    /// Seconds to wait
    #[arg(long, default_value_t = 3)]
    timeout: u64,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let tls = tls::client_for(&args.url, None).map_err(Failure::runtime)?;
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.as_ref().clone())
        .no_proxy()
        .timeout(Duration::from_secs(args.timeout))
        .build()
        .map_err(Failure::runtime)?;
    let response = client.get(&args.url).send().await.map_err(|error| Failure::runtime(causes(&error)))?;
    if response.status() == reqwest::StatusCode::OK {
        return Ok(());
    }
    let status = response.status();
    let reason = response.text().await.unwrap_or_default();
    Err(Failure::runtime(format!("{} answered {status}: {}", args.url, reason.trim())))
}
