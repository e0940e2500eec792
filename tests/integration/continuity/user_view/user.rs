//! A user who downloads and opens a stream every ten milliseconds, and what they observe.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::support::destination::{Behavior, Destination, pattern};
use crate::support::process::Process;
use crate::support::socks;
use crate::support::wait::{TIMEOUT, eventually};

/// The pause between two streams.
const EVERY: Duration = Duration::from_millis(10);
/// The bytes that a stream sends and gets back.
const QUESTION: usize = 64;
/// The size and interval of the download's chunks.
const PIECE: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(5);
/// How long everything must have worked again.
const CALM: Duration = Duration::from_secs(1);
/// Consecutive streams that must be answered before that.
const ANSWERED: u64 = 20;

/// What the user observed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observations {
    /// The longest time without a byte of the download, until it ended.
    pub(crate) gap: Duration,
    /// The longest time from opening a stream to its answer.
    pub(crate) wait: Duration,
    /// Streams that were opened, including the download, and those that broke or were refused.
    pub(crate) opened: usize,
    pub(crate) lost: usize,
    pub(crate) is_download_lost: bool,
    /// Bytes that differ from what was sent.
    pub(crate) wrong: u64,
}

impl Observations {
    /// Prints one line.
    pub(crate) fn tell(&self, case: &str) {
        let Self { gap, wait, opened, lost, is_download_lost, wrong } = self;
        let (gap, wait) = (gap.as_millis(), wait.as_millis());
        println!(
            "continuity | {case} | download gap {gap} ms | new stream {wait} ms | lost {lost} of {opened}{} | wrong {wrong}",
            if *is_download_lost { ", the download" } else { "" }
        );
    }
}

/// A user of a client.
pub(crate) struct User {
    over: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    got: Arc<AtomicU64>,
    download: JoinHandle<(Duration, bool, u64)>,
    streams: JoinHandle<(Duration, usize, usize, u64)>,
    _source: AbortHandle,
    _echo: Destination,
}

async fn source() -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(pour(socket));
        }
    });
    (address, task.abort_handle())
}

async fn pour(mut socket: TcpStream) -> std::io::Result<()> {
    socket.read_u8().await?;
    let mut at = 0;
    loop {
        let piece: Vec<u8> = (at..at + PIECE as u64).map(pattern).collect();
        socket.write_all(&piece).await?;
        at += PIECE as u64;
        sleep(PAUSE).await;
    }
}

/// Returns the longest gap, whether the download broke off, and how many bytes were wrong.
async fn download(mut socket: TcpStream, over: Arc<AtomicBool>, got: Arc<AtomicU64>) -> (Duration, bool, u64) {
    let (mut gap, mut wrong, mut last) = (Duration::ZERO, 0, Instant::now());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = timeout(Duration::from_millis(100), socket.read(&mut buffer)).await;
        gap = gap.max(last.elapsed());
        match read {
            Ok(Ok(read @ 1..)) => {
                let at = got.fetch_add(read as u64, Ordering::Relaxed);
                wrong += buffer[..read].iter().zip(at..).filter(|(byte, at)| **byte != pattern(*at)).count() as u64;
                last = Instant::now();
            }
            Ok(_) => return (gap, true, wrong),
            Err(_) => {}
        }
        if over.load(Ordering::Relaxed) {
            return (gap, false, wrong);
        }
    }
}

/// Opens a stream, sends a question and checks the answer; returns the time taken and the number of wrong bytes.
async fn ask(proxy: String, echo: SocketAddr, number: u64) -> std::io::Result<(Duration, u64)> {
    let began = Instant::now();
    let question: Vec<u8> = (number..number + QUESTION as u64).map(pattern).collect();
    let mut socket = socks::connect(&proxy, echo).await?;
    socket.write_all(&question).await?;
    let mut answer = [0; QUESTION];
    socket.read_exact(&mut answer).await?;
    let wrong = answer.iter().zip(&question).filter(|(got, sent)| got != sent).count();
    Ok((began.elapsed(), wrong as u64))
}

impl User {
    /// Starts a user and waits until everything works.
    pub(crate) async fn of(client: &Process) -> Self {
        let proxy = client.line("socks").to_owned();
        let (address, source) = source().await;
        let echo = Destination::start(Behavior::Echo);
        let [over] = [Arc::new(AtomicBool::new(false))];
        let [begun, answered, got] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let mut socket = socks::connect(&proxy, address).await.unwrap();
        socket.write_all(b"x").await.unwrap();
        let download = tokio::spawn(download(socket, Arc::clone(&over), Arc::clone(&got)));
        let (stop, first, last, target) = (Arc::clone(&over), Arc::clone(&begun), Arc::clone(&answered), echo.address);
        let streams = tokio::spawn(async move {
            let mut asking = JoinSet::new();
            while !stop.load(Ordering::Relaxed) {
                let number = first.fetch_add(1, Ordering::Relaxed);
                let (proxy, answered) = (proxy.clone(), Arc::clone(&last));
                asking.spawn(async move {
                    let asked = timeout(TIMEOUT, ask(proxy, target, number)).await;
                    if matches!(asked, Ok(Ok(_))) {
                        answered.fetch_max(number, Ordering::Relaxed);
                    }
                    asked
                });
                sleep(EVERY).await;
            }
            let (mut wait, mut opened, mut lost, mut wrong) = (Duration::ZERO, 0, 0, 0);
            while let Some(asked) = asking.join_next().await {
                opened += 1;
                match asked.unwrap() {
                    Ok(Ok((took, bad))) => (wait, wrong) = (wait.max(took), wrong + bad),
                    Ok(Err(_)) | Err(_) => lost += 1,
                }
            }
            (wait, opened, lost, wrong)
        });
        let user = Self { over, begun, answered, got, download, streams, _source: source, _echo: echo };
        user.is_well().await;
        user
    }

    /// Waits until new streams are answered and the download continues or is over, then a little longer.
    pub(crate) async fn is_well(&self) {
        let (number, bytes) = (self.begun.load(Ordering::Relaxed), self.got.load(Ordering::Relaxed));
        eventually(|| async {
            let answered = self.answered.load(Ordering::Relaxed);
            let goes_on = self.got.load(Ordering::Relaxed) > bytes + 4 * PIECE as u64 || self.download.is_finished();
            if answered >= number + ANSWERED && goes_on {
                Ok(())
            } else {
                Err(format!("answered up to {answered}, {number} had begun; the download goes on: {goes_on}"))
            }
        })
        .await;
        sleep(CALM).await;
    }

    /// Stops and returns the observations.
    pub(crate) async fn stop(self) -> Observations {
        self.over.store(true, Ordering::Relaxed);
        let (gap, is_download_lost, wrong) = self.download.await.unwrap();
        let (wait, opened, lost, more) = self.streams.await.unwrap();
        let (opened, lost) = (opened + 1, lost + usize::from(is_download_lost));
        Observations { gap, wait, opened, lost, is_download_lost, wrong: wrong + more }
    }
}
