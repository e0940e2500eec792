//! How attacks are measured: by how they end, by the process's memory, and by a well-behaved client.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use httvps::frame::{Frame, StreamId, Target};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::node::CHACHA;
use crate::support::procfs::resident_kib;
use crate::support::raw::RawClient;
use crate::support::wait::TIMEOUT;

/// A flood is cut within two seconds; an idle machine takes a tenth of one.
pub(crate) const FLOOD_ENDS: Duration = Duration::from_secs(2);
/// How much the gateway's memory may grow.
const GROWTH_KIB: u64 = 16 * 1024;
/// How soon a well-behaved client is answered.
const ANSWERED: Duration = Duration::from_secs(5);

/// How a connection ended for the attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a WebSocket Close.
    Closed(u16),
    /// Cleanly, without one.
    Finished,
    Reset,
    /// It is still open.
    Open,
}

/// Reads everything that arrives within a time.
pub(crate) async fn read_to_end(socket: &mut (impl AsyncRead + Unpin), within: Duration) -> End {
    let (mut last, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    let reading = async {
        loop {
            match socket.read(&mut chunk).await {
                Ok(0) => return End::Finished,
                Ok(read) => {
                    last.extend_from_slice(&chunk[..read]);
                    let surplus = last.len().saturating_sub(64);
                    last.drain(..surplus);
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return End::Finished,
                Err(_) => return End::Reset,
            }
        }
    };
    let end = tokio::time::timeout(within, reading).await.unwrap_or(End::Open);
    let close = last.len().checked_sub(4).filter(|at| last[*at] == 0x88);
    match close {
        Some(at) if end != End::Open => End::Closed(u16::from_be_bytes([last[at + 2], last[at + 3]])),
        _ => end,
    }
}

/// Sends the same bytes repeatedly while reading, until the connection ends; returns how long that took.
pub(crate) async fn flooded<S>(socket: S, bytes: &[u8]) -> (Duration, End)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (took, end, _) = counted(socket, bytes).await;
    (took, end)
}

/// The same, and the number of bytes that were accepted.
pub(crate) async fn counted<S>(socket: S, bytes: &[u8]) -> (Duration, End, u64)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut read, mut write) = tokio::io::split(socket);
    let flood = bytes.to_vec();
    let started = Instant::now();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    let writing = tokio::spawn(async move {
        while write.write_all(&flood).await.is_ok() {
            counter.fetch_add(flood.len() as u64, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    let end = read_to_end(&mut read, TIMEOUT).await;
    let took = started.elapsed();
    writing.abort();
    (took, end, taken.load(Ordering::Relaxed))
}

/// A well-behaved client that keeps sending a kilobyte and waiting for its echo.
pub(crate) struct Bystander {
    over: Arc<AtomicBool>,
    task: JoinHandle<usize>,
}

impl Bystander {
    pub(crate) async fn begin(deployment: &Deployment) -> Self {
        let echo = Destination::start(Behavior::Echo);
        let mut raw = RawClient::session(deployment).await;
        let target = Some(Target::Ip(echo.address));
        raw.frames(&[Frame::Open { id: StreamId(1), target, payload: Bytes::new(), fin: false, udp: false }]).await;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let task = tokio::spawn(async move {
            let mut answers = 0;
            let mut consumed = 0;
            while !stop.load(Ordering::Relaxed) || answers == 0 {
                let payload = Bytes::from(vec![b'x'; 1024]);
                raw.frames(&[Frame::Data { id: StreamId(1), payload, fin: false }]).await;
                let mut missing = 1024;
                while missing > 0 {
                    let frame = tokio::time::timeout(ANSWERED, raw.next_frame()).await.expect("an answer in time");
                    let Frame::Data { payload, .. } = frame else { panic!("{frame:?}") };
                    missing -= payload.len();
                }
                consumed += 1024;
                let window = Frame::Window { id: StreamId(1), consumed, limit: consumed + 65_536 };
                raw.frames(&[window]).await;
                answers += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drop(echo);
            answers
        });
        Self { over, task }
    }

    /// Stops it; it must have seen no error. Returns the number of answers.
    pub(crate) async fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("it saw no error")
    }

    /// Whether it fails on its own.
    pub(crate) async fn fails(self) -> bool {
        tokio::time::timeout(TIMEOUT, self.task).await.is_ok_and(|ended| ended.is_err())
    }
}

/// Watches a bystander and the gateway's memory.
pub(crate) struct AttackScenario {
    bystander: Bystander,
    before: u64,
    most: JoinHandle<u64>,
    over: Arc<AtomicBool>,
}

impl AttackScenario {
    pub(crate) async fn begin(deployment: &Deployment) -> Self {
        let bystander = Bystander::begin(deployment).await;
        let pid = deployment.gateway().pid();
        let before = resident_kib(pid);
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let most = tokio::spawn(async move {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                most = most.max(resident_kib(pid));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            most
        });
        Self { bystander, before, most, over }
    }

    /// Checks that the bystander was not disturbed and that memory stayed within bounds.
    pub(crate) async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        let grown = self.most.await.unwrap().saturating_sub(self.before);
        assert!(grown <= GROWTH_KIB, "{grown} KiB more");
        assert!(self.bystander.end().await > 0);
    }
}

/// The deadlines of the gateways in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

pub(crate) const LIMITS: [(&str, &str); 4] = [
    ("TUNNEL__HANDSHAKE_TIMEOUT", "3s"),
    ("TUNNEL__HELLO_TIMEOUT", "3s"),
    ("TUNNEL__CLOSE_TIMEOUT", "3s"),
    ("DECOY__IDLE_TIMEOUT", "3s"),
];

pub(crate) async fn deployment() -> Deployment {
    Deployment::build(Kind::Sqlite, &[CHACHA], json!({}), &LIMITS).await
}
