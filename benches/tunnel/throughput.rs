use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::support::destination::{Behavior, Destination};
use crate::support::socks;

const BUFFER: usize = 256 * 1024;

#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
}

impl Span {
    async fn rate(self, count: impl Fn() -> u64) -> f64 {
        sleep(self.warm_up).await;
        let (before, started) = (count(), Instant::now());
        sleep(self.time).await;
        (count() - before) as f64 / started.elapsed().as_secs_f64()
    }
}

pub(crate) async fn down(proxy: &str, streams: usize, span: Span) -> f64 {
    let endless = Destination::start(Behavior::Endless);
    let got = AtomicU64::new(0);
    let readers = join_all((0..streams).map(|_| read(proxy, endless.address, &got)));
    tokio::select! {
        _ = readers => panic!("the downloads ended"),
        rate = span.rate(|| got.load(Ordering::Relaxed)) => rate,
    }
}

async fn read(proxy: &str, source: SocketAddr, got: &AtomicU64) {
    let mut socket = socks::connect(proxy, source).await.unwrap();
    let mut buffer = vec![0; BUFFER];
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        got.fetch_add(read as u64, Ordering::Relaxed);
    }
}

pub(crate) async fn up(proxy: &str, streams: usize, span: Span) -> f64 {
    let discard = Destination::start(Behavior::Discard);
    let writers = join_all((0..streams).map(|_| write(proxy, discard.address)));
    tokio::select! {
        _ = writers => panic!("the uploads ended"),
        rate = span.rate(|| discard.got()) => rate,
    }
}

async fn write(proxy: &str, sink: SocketAddr) {
    let mut socket = socks::connect(proxy, sink).await.unwrap();
    let buffer = vec![0; BUFFER];
    while socket.write_all(&buffer).await.is_ok() {}
}
