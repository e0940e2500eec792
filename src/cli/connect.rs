use super::{Failure, REFUSED, say};
use crate::client::Client;
use crate::config::{ConfigError, Source};
use crate::lifecycle::Shutdown;

#[derive(clap::Args)]
pub(super) struct Args {
    /// wss://host:port/path
    #[arg(long)]
    gateway: Option<String>,
    /// The device's id
    #[arg(long)]
    device_id: Option<String>,
    /// Code of the exit region
    #[arg(long)]
    region: Option<String>,
    /// The device's access token; better in `HTTVPS_CLIENT__TOKEN`
    #[arg(long)]
    token: Option<String>,
    /// Address of the SOCKS5 listener; "" for none
    #[arg(long)]
    socks: Option<String>,
    /// Address of the HTTP CONNECT listener; "" for none
    #[arg(long)]
    http: Option<String>,
    /// PEM file of the authority to trust
    #[arg(long)]
    ca: Option<String>,
    /// Encoding of the tunnel
    #[arg(long, value_parser = ["v1", "v2"])]
    encoding: Option<String>,
    /// Transport of the tunnel
    #[arg(long, value_parser = ["auto", "h2", "h2ws", "ws"])]
    transport: Option<String>,
}

impl Args {
    pub(super) fn apply(&self, source: Source) -> Result<Source, ConfigError> {
        let flags = [
            ("gateway", &self.gateway),
            ("device_id", &self.device_id),
            ("region", &self.region),
            ("token", &self.token),
            ("socks", &self.socks),
            ("http", &self.http),
            ("ca", &self.ca),
            ("encoding", &self.encoding),
            ("transport", &self.transport),
        ];
        let set = flags.into_iter().filter_map(|(key, value)| {
            let name = format!("HTTVPS_CLIENT__{}", key.to_uppercase());
            value.clone().map(|value| (name, value))
        });
        source.overridden(set)
    }
}

pub(super) async fn run(source: &Source) -> Result<(), Failure> {
    let client = Client::bind(source).await?;
    let shutdown = Shutdown::default();
    shutdown.on_signals()?;
    let (socks, http) = client.addresses();
    if let Some(address) = socks {
        say(format_args!("socks {address}"));
    }
    if let Some(address) = http {
        say(format_args!("http {address}"));
    }
    client
        .serve(&shutdown, || say("ready"))
        .await
        .map_err(|refused| Failure { code: REFUSED, message: refused.to_string() })
}
