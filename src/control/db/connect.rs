//! Connections to PostgreSQL (docs/01, "Connections to PostgreSQL").

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::SimpleAsyncConnection;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::pg;
use crate::config::{Database, Invalid, Key, Secret, key, read_file};
use crate::net::tls;
use crate::telemetry::causes;

pub(super) type Tls = tokio_postgres_rustls::MakeRustlsConnect;
pub(super) type Started = (tokio_postgres::Client, tokio_postgres::Connection<tokio_postgres::Socket, TlsStream>);
type TlsStream = <Tls as tokio_postgres::tls::MakeTlsConnect<tokio_postgres::Socket>>::Stream;

/// How PostgreSQL is reached: one or more hosts, of which the one that answered last is asked first. A host at which a
/// caller gave up half-way is asked last.
#[derive(Clone)]
pub(super) struct Connector {
    hosts: Arc<[Config]>,
    tls: Tls,
    timeout: Duration,
    /// What is set once connected: start-up options do not pass a connection pooler.
    setup: Arc<str>,
    last: Arc<AtomicUsize>,
}

impl Connector {
    /// What `database.url` says.
    pub(super) fn new(config: &Database) -> Result<Self, Invalid> {
        Self::of(config, key!(Database, url), &config.url)
    }

    /// What `database.listen_url` says, or `database.url` without one: past a connection pooler.
    pub(super) fn direct(config: &Database) -> Result<Self, Invalid> {
        if config.listen_url.is_empty() {
            Self::new(config)
        } else {
            Self::of(config, key!(Database, listen_url), &config.listen_url)
        }
    }

    fn of(config: &Database, key: Key, url: &Secret) -> Result<Self, Invalid> {
        let url = url
            .expose()
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        let mut settings: Config =
            url.parse().map_err(|error| Invalid::new(key, format_args!("not a PostgreSQL URL: {}", causes(&error))))?;
        let ca = match config.ca.as_str() {
            "" => None,
            path => Some(read_file(path).map_err(|error| Invalid::new(key!(Database, ca), error))?),
        };
        let clear = settings.get_ssl_mode() == SslMode::Disable;
        let tls = if clear { tls::trusting_nobody() } else { tls::client(ca.as_deref()) };
        let tls = Tls::new(tls.map_err(|error| Invalid::new(key!(Database, ca), error))?.as_ref().clone());
        settings.application_name("httvps");
        let says = |name: &str| url.contains(&format!("{name}="));
        if !says("keepalives_idle") {
            settings.keepalives_idle(config.keepalive_idle);
        }
        if !says("keepalives_interval") {
            settings.keepalives_interval(config.keepalive_interval);
        }
        if !says("keepalives_retries") {
            settings.keepalives_retries(config.keepalive_retries);
        }
        if !says("tcp_user_timeout") {
            settings.tcp_user_timeout(config.tcp_user_timeout);
        }
        let hosts = settings.get_hosts().len().max(settings.get_hostaddrs().len());
        if hosts > 1 && !says("target_session_attrs") {
            settings.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let ports = settings.get_ports().len();
        if ports > 1 && ports != hosts {
            let reason = format_args!("{hosts} hosts and {ports} ports: one port, or one for each host");
            return Err(Invalid::new(key, reason));
        }
        let timeout = settings.get_connect_timeout().copied().unwrap_or(config.connect_timeout);
        let hosts: Arc<[Config]> = (0..hosts).map(|at| single(&settings, at, timeout)).collect();
        if hosts.is_empty() {
            return Err(Invalid::new(key, "names no host"));
        }
        let setup = format!(
            "SET statement_timeout = {}; SET enable_seqscan = off; SET jit = off",
            config.statement_timeout.as_millis()
        );
        Ok(Self { hosts, tls, timeout, setup: setup.into(), last: Arc::default() })
    }

    /// The longest that all hosts together may take.
    pub(super) fn longest(&self) -> Duration {
        self.timeout.saturating_mul(u32::try_from(self.hosts.len()).unwrap_or(u32::MAX))
    }

    /// A connection that is set up.
    pub(super) async fn connect(&self) -> ConnectionResult<pg::Conn> {
        let (client, connection) =
            self.start().await.map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
        let setting_up = async {
            let mut conn = pg::Conn::try_from_client_and_connection(client, connection).await?;
            conn.batch_execute(&self.setup).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        };
        let late = |_| {
            self.last.fetch_add(1, Ordering::Relaxed);
            ConnectionError::BadConnection(format!("not set up within {:?}", self.timeout))
        };
        tokio::time::timeout(self.timeout, setting_up).await.map_err(late)?
    }

    /// The driver's own connection, to the first host that will do.
    pub(super) async fn start(&self) -> Result<Started, Unreachable> {
        let count = self.hosts.len();
        let first = self.last.load(Ordering::Relaxed);
        let mut failed = Vec::new();
        for at in (0..count).map(|step| (first + step) % count) {
            let Some(host) = self.hosts.get(at) else { continue };
            let mut attempt = Attempt { first: &self.last, next: (at + 1) % count, is_over: false };
            let connected = tokio::time::timeout(self.timeout, host.connect(self.tls.clone())).await;
            attempt.is_over = true;
            match connected {
                Ok(Ok(started)) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(started);
                }
                Ok(Err(error)) => failed.push(HostError::Failed(error)),
                Err(_) => failed.push(HostError::TimedOut(self.timeout)),
            }
        }
        Err(Unreachable(failed))
    }
}

/// No host takes connections; why each does not.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(super) struct Unreachable(Vec<HostError>);

/// Why a host takes no connection.
#[derive(Debug, thiserror::Error)]
enum HostError {
    #[error("{}", causes(.0))]
    Failed(tokio_postgres::Error),
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
}

/// An attempt at a host; dropped before it is over, it leaves the next one to be asked first.
struct Attempt<'a> {
    first: &'a AtomicUsize,
    next: usize,
    is_over: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.first.store(self.next, Ordering::Relaxed);
        }
    }
}

/// The settings of one host alone.
fn single(all: &Config, at: usize, timeout: Duration) -> Config {
    let mut one = Config::new();
    match all.get_hosts().get(at) {
        Some(Host::Tcp(name)) => one.host(name),
        Some(Host::Unix(path)) => one.host_path(path),
        None => &mut one,
    };
    if let Some(address) = all.get_hostaddrs().get(at) {
        one.hostaddr(*address);
    }
    if let Some(port) = all.get_ports().get(at).or_else(|| all.get_ports().first()) {
        one.port(*port);
    }
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(name) = all.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    if let Some(interval) = all.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = all.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    if let Some(longest) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*longest);
    }
    one.keepalives(all.get_keepalives())
        .keepalives_idle(all.get_keepalives_idle())
        .connect_timeout(timeout)
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .channel_binding(all.get_channel_binding())
        .target_session_attrs(all.get_target_session_attrs())
        .load_balance_hosts(all.get_load_balance_hosts());
    one
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Source;

    fn connector(url: &str) -> Result<Connector, Invalid> {
        let source = Source::with([("HTTVPS_DATABASE__URL", url)]).unwrap();
        Connector::new(&source.section().unwrap())
    }

    #[test]
    fn each_host_has_its_own_settings() {
        let pair = connector("postgres://u:p@a:1,b:2/db?sslmode=disable").unwrap();
        let [a, b] = &pair.hosts[..] else { panic!("two hosts") };
        assert_eq!((a.get_hosts(), a.get_ports()), ([Host::Tcp("a".into())].as_slice(), [1].as_slice()));
        assert_eq!((b.get_hosts(), b.get_ports()), ([Host::Tcp("b".into())].as_slice(), [2].as_slice()));
        assert_eq!((b.get_user(), b.get_password(), b.get_dbname()), (Some("u"), Some(b"p".as_slice()), Some("db")));
        assert_eq!(b.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(b.get_ssl_mode(), SslMode::Disable);
        assert!(b.get_options().is_none() && b.get_tcp_user_timeout().is_some() && b.get_keepalives());
        let one = connector("postgres://u@a/db?sslmode=disable&tcp_user_timeout=9").unwrap();
        assert_eq!(one.hosts[0].get_target_session_attrs(), TargetSessionAttrs::Any);
        assert_eq!(one.hosts[0].get_tcp_user_timeout(), Some(&Duration::from_secs(9)));
        let any = connector("postgres://u@a,b/db?sslmode=disable&target_session_attrs=any").unwrap();
        assert_eq!(any.hosts[1].get_target_session_attrs(), TargetSessionAttrs::Any);
    }

    #[tokio::test]
    async fn callers_that_give_up_half_way_come_to_every_host() {
        let (asked, mut heard) = mpsc::unbounded_channel();
        let mut ports = Vec::new();
        for host in 0..3 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ports.push(listener.local_addr().unwrap().port());
            let asked = asked.clone();
            tokio::spawn(async move {
                while let Ok((mut socket, _)) = listener.accept().await {
                    asked.send(host).unwrap();
                    tokio::spawn(async move { while socket.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {} });
                }
            });
        }
        let hosts: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let connector = connector(&format!("postgres://u@{}/db?sslmode=disable", hosts.join(","))).unwrap();
        for host in [0, 1, 2, 0] {
            tokio::select! {
                started = connector.start() => panic!("{:?}", started.err()),
                first = heard.recv() => assert_eq!(first, Some(host)),
            }
        }
    }

    #[tokio::test]
    async fn callers_at_the_same_time_are_not_sent_to_a_silent_host() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let held_back = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let [first, second] = [&silent, &held_back].map(|listener| listener.local_addr().unwrap().port());
        let connector =
            connector(&format!("postgres://u@127.0.0.1:{first},127.0.0.1:{second}/db?sslmode=disable")).unwrap();
        connector.last.store(1, Ordering::Relaxed);
        let callers = futures_util::future::join_all([connector.start(), connector.start()]);
        let mut callers = std::pin::pin!(callers);
        let mut held = Vec::new();
        while held.len() < 2 {
            tokio::select! {
                _ = &mut callers => panic!("nobody answers"),
                asked = held_back.accept() => held.push(asked.unwrap()),
                _ = silent.accept() => panic!("the silent host was asked"),
            }
        }
    }
}
