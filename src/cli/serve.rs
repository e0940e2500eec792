use super::{Failure, say};
use crate::clock::Clock;
use crate::config::Source;
use crate::control::Control;
use crate::gateway::Gateway;
use crate::lifecycle::Shutdown;
use crate::net::listener::Inherited;

pub(super) async fn control(source: &Source) -> Result<(), Failure> {
    let shutdown = Shutdown::default();
    shutdown.on_signals_of_a_role()?;
    let control = tokio::select! {
        bound = Control::bind(source, Clock::system()) => bound?,
        () = shutdown.draining() => return Ok(()),
    };
    let scheme = if control.is_tls() { "https" } else { "http" };
    say(format_args!("control {scheme}://{}", control.address()?));
    if let Some(address) = control.ops_address() {
        say(format_args!("ops-control http://{address}"));
    }
    say("ready");
    Box::pin(control.serve(shutdown)).await;
    Ok(())
}

pub(super) async fn gateway(source: &Source, inherited: Inherited) -> Result<(), Failure> {
    let shutdown = Shutdown::default();
    shutdown.on_signals_of_a_role()?;
    let mut gateway = tokio::select! {
        bound = Gateway::bind(source, Clock::system(), inherited) => bound?,
        () = shutdown.draining() => return Ok(()),
    };
    for (name, url) in gateway.urls()? {
        say(format_args!("{name} {url}"));
    }
    if let Some(address) = gateway.ops_address() {
        say(format_args!("ops-gateway http://{address}"));
    }
    if let Some(certificate) = gateway.certificate() {
        let config: crate::config::Gateway = source.section()?;
        let path = std::path::Path::new(&config.state_dir).join("ca.pem");
        std::fs::write(&path, certificate)?;
        say(format_args!("ca {}", path.display()));
    }
    gateway.succeed().await.map_err(Failure::runtime)?;
    say("ready");
    Box::pin(gateway.serve(shutdown)).await;
    Ok(())
}
