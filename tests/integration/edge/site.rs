//! A web site behind a gateway, and exchanges with both.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::nginx::Nginx;
use crate::support::node::CHACHA;
use crate::support::wait::TIMEOUT;

/// Shorter timeouts than usual, to keep the test short; the gateway has the same.
pub(crate) const SITE: &str =
    "client_header_timeout 2s; client_body_timeout 2s; keepalive_timeout 3s; lingering_time 2s;
    lingering_timeout 1s; absolute_redirect off; location = /moved { return 301 /; } location = /gone { return 410; }";

pub(crate) const SLACK: Duration = Duration::from_millis(1500);

pub(crate) struct Site {
    pub(crate) deployment: Deployment,
    pub(crate) nginx: Nginx,
}

impl Site {
    pub(crate) async fn start(directives: &str, more: &[(&str, &str)]) -> Self {
        let mut deployment = Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), more).await;
        let nginx = Nginx::site(&deployment.ca(), &deployment.ca().replace("cert.pem", "key.pem"), directives).await;
        deployment.gateway.take().unwrap().stop().await;
        let at = |port: u16| format!("127.0.0.1:{port}");
        let (upstream, upstream_h2, plain) = (at(nginx.clear), at(nginx.clear2), at(nginx.tls));
        deployment.gateway_env.extend(crate::support::environment::env(&[
            ("DECOY__UPSTREAM", &upstream),
            ("DECOY__UPSTREAM_H2", &upstream_h2),
            ("DECOY__PLAIN", &plain),
            ("TUNNEL__HANDSHAKE_TIMEOUT", "2s"),
            ("TUNNEL__MAX_PRE_HELLO_PER_ADDRESS", "500"),
        ]));
        deployment.start_gateway().await;
        Self { deployment, nginx }
    }

    pub(crate) fn address(&self) -> String {
        self.deployment.address().to_owned()
    }
}

/// What a probe received, without the date, and how long it took.
pub(crate) struct Transcript {
    pub(crate) bytes: String,
    pub(crate) lasted: Duration,
}

/// Sends pieces a third of a second apart and reads until the peer closes.
pub(crate) async fn converse(socket: &mut (impl AsyncRead + AsyncWrite + Unpin), pieces: &[Vec<u8>]) -> Transcript {
    let began = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(socket);
    let write = async {
        for (number, piece) in pieces.iter().enumerate() {
            if number > 0 {
                tokio::time::sleep(Duration::from_millis(333)).await;
            }
            if writing.write_all(piece).await.is_err() || writing.flush().await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let mut all = Vec::new();
        while reading.read_buf(&mut all).await.is_ok_and(|read| read > 0) {}
        (all, began.elapsed())
    };
    let ((), (all, lasted)) =
        tokio::time::timeout(TIMEOUT, async { tokio::join!(write, read) }).await.expect("it ends");
    let text = String::from_utf8_lossy(&all).into_owned();
    let lines = text.split_inclusive('\n').map(|line| if line.starts_with("Date: ") { "Date\n" } else { line });
    Transcript { bytes: lines.collect(), lasted }
}

pub(crate) async fn answer_without_end(mut socket: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await?;
    loop {
        socket.write_all(&[b'x'; 1000]).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A web server whose response to the first request of each connection never ends.
pub(crate) async fn endless_site() -> (String, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer_without_end(socket));
        }
    });
    (address, task.abort_handle())
}
