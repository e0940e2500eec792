//! Transfers through the SOCKS5 listener of a client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, pattern_bytes, sum};
use crate::support::process::Process;
use crate::support::socks;

pub(crate) async fn read_until_closed(mut socket: TcpStream) -> u64 {
    let mut buffer = vec![0; 65_536];
    let mut total = 0;
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        total += read as u64;
    }
    total
}

pub(crate) async fn download(proxy: &str, source: SocketAddr, len: usize) {
    let mut socket = socks::connect(proxy, source).await.unwrap();
    socket.write_all(&(len as u64).to_be_bytes()).await.unwrap();
    let mut got = Vec::with_capacity(len);
    socket.read_to_end(&mut got).await.unwrap();
    assert!(got == pattern_bytes(len), "{} of {len} bytes", got.len());
}

/// Sends bytes and reads their echo, without a half close.
pub(crate) async fn echo(proxy: &str, target: SocketAddr, len: usize) {
    let (mut read, mut write) = socks::connect(proxy, target).await.unwrap().into_split();
    let sent = Arc::new(pattern_bytes(len));
    let expected = Arc::clone(&sent);
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut got = vec![0; len];
    read.read_exact(&mut got).await.unwrap();
    assert!(got == *expected);
    writer.await.unwrap();
}

pub(crate) async fn upload_then_half_close(proxy: &str, sink: SocketAddr, len: usize) {
    let mut socket = socks::connect(proxy, sink).await.unwrap();
    let bytes = pattern_bytes(len);
    socket.write_all(&bytes).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, sum(&bytes, 0).to_be_bytes());
}

pub(crate) async fn ping(socket: &mut TcpStream) -> Result<(), String> {
    let exchange = async {
        socket.write_all(b"ping").await?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await.map(|_| answer)
    };
    match timeout(Duration::from_secs(5), exchange).await {
        Ok(Ok(answer)) if &answer == b"ping" => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

pub(crate) async fn open_echo(client: &Process, echo: &Destination) -> Result<TcpStream, String> {
    let mut socket = socks::connect(client.line("socks"), echo.address).await.map_err(|error| error.to_string())?;
    ping(&mut socket).await?;
    Ok(socket)
}

pub(crate) async fn start_streaming(client: &Process, endless: &Destination) -> TcpStream {
    let mut socket = socks::connect(client.line("socks"), endless.address).await.unwrap();
    socket.write_all(b"x").await.unwrap();
    socket.read_exact(&mut [0; 100_000]).await.unwrap();
    socket
}

pub(crate) async fn fetch(proxy: &str, source: &Destination, len: u64) {
    let mut socket = socks::connect(proxy, source.address).await.unwrap();
    socket.write_all(&len.to_be_bytes()).await.unwrap();
    let mut got = Vec::new();
    socket.read_to_end(&mut got).await.unwrap();
    assert_eq!(got.len() as u64, len);
}

/// A client that streams from a destination until it is cut off; the task returns the number of bytes.
pub(crate) async fn stream_in_background(deployment: &Deployment) -> (Process, Destination, JoinHandle<u64>) {
    let client = deployment.connect("v2").await;
    let endless = Destination::start(Behavior::Endless);
    let reading = tokio::spawn(read_until_closed(start_streaming(&client, &endless).await));
    (client, endless, reading)
}
