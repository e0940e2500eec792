//! Destination servers with byte counters.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;

/// What a destination does with a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Behavior {
    /// Echoes until the end of the input.
    Echo,
    /// Reads a length of 8 bytes, sends that many pattern bytes and closes.
    Source,
    /// Reads to the end, answers with a checksum of 8 bytes and closes.
    Sink,
    /// Sends a greeting, then echoes.
    Greeter,
    /// Echoes with a delay of 50 ms.
    Distant,
    /// Sends bytes until the connection ends.
    Endless,
    /// Reads a length of 8 bytes, sends that many zeros and closes; cheap enough for benchmarks.
    Zeros,
    /// Reads to the end and answers nothing.
    Discard,
    /// Sends a byte and then never reads, with a small receive buffer.
    Stalled,
    /// Sends a greeting, reads a little and resets the connection.
    Rude,
}

/// The round-trip time of a distant destination.
const DISTANCE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) got: AtomicU64,
    pub(crate) gave: AtomicU64,
    pub(crate) connections: AtomicUsize,
}

pub(crate) struct Destination {
    pub(crate) address: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    task: AbortHandle,
}

const SMALL_BUFFER: u32 = 4096;
pub(crate) const GREETING: &[u8] = b"220 ready\r\n";

pub(crate) fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ at as u8
}

pub(crate) fn pattern_bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(pattern).collect()
}

pub(crate) fn sum(bytes: &[u8], start: u64) -> u64 {
    bytes.iter().fold(start, |sum, byte| sum.wrapping_mul(1_099_511_628_211) ^ u64::from(*byte))
}

impl Destination {
    pub(crate) fn start(behavior: Behavior) -> Self {
        Self::start_at(behavior, Ipv4Addr::LOCALHOST)
    }

    pub(crate) fn start_at(behavior: Behavior, ip: Ipv4Addr) -> Self {
        let listener = listener(behavior, ip);
        let address = listener.local_addr().unwrap();
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(socket, behavior, Arc::clone(&shared)));
            }
        });
        Self { address, counters, task: task.abort_handle() }
    }

    pub(crate) fn got(&self) -> u64 {
        self.counters.got.load(Ordering::SeqCst)
    }

    pub(crate) fn gave(&self) -> u64 {
        self.counters.gave.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.counters.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listener(behavior: Behavior, ip: Ipv4Addr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    if matches!(behavior, Behavior::Stalled) {
        socket.set_recv_buffer_size(SMALL_BUFFER).unwrap();
    }
    socket.bind((ip, 0).into()).unwrap();
    socket.listen(1024).unwrap()
}

async fn serve(mut socket: TcpStream, behavior: Behavior, counters: Arc<Counters>) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    match behavior {
        Behavior::Greeter => {
            give(&mut socket, GREETING, &counters).await?;
            echo(&mut socket, &mut buffer, &counters).await
        }
        Behavior::Echo => echo(&mut socket, &mut buffer, &counters).await,
        Behavior::Source => {
            let mut len = [0; 8];
            socket.read_exact(&mut len).await?;
            counters.got.fetch_add(8, Ordering::SeqCst);
            let len = u64::from_be_bytes(len);
            let mut at = 0;
            while at < len {
                let piece = buffer.len().min((len - at) as usize);
                buffer[..piece].iter_mut().zip(at..).for_each(|(byte, at)| *byte = pattern(at));
                give(&mut socket, &buffer[..piece], &counters).await?;
                at += piece as u64;
            }
            socket.shutdown().await
        }
        Behavior::Sink => {
            let mut total = 0;
            loop {
                let read = take(&mut socket, &mut buffer, &counters).await?;
                if read == 0 {
                    break;
                }
                total = sum(&buffer[..read], total);
            }
            give(&mut socket, &total.to_be_bytes(), &counters).await?;
            socket.shutdown().await
        }
        Behavior::Zeros => {
            let mut len = [0; 8];
            socket.read_exact(&mut len).await?;
            let mut left = u64::from_be_bytes(len);
            while left > 0 {
                let piece = left.min(buffer.len() as u64);
                give(&mut socket, &buffer[..piece as usize], &counters).await?;
                left -= piece;
            }
            socket.shutdown().await
        }
        Behavior::Discard => {
            while take(&mut socket, &mut buffer, &counters).await? > 0 {}
            Ok(())
        }
        Behavior::Rude => {
            give(&mut socket, GREETING, &counters).await?;
            take(&mut socket, &mut buffer, &counters).await?;
            socket.set_zero_linger()
        }
        Behavior::Distant => loop {
            match take(&mut socket, &mut buffer, &counters).await? {
                0 => return socket.shutdown().await,
                read => {
                    tokio::time::sleep(DISTANCE).await;
                    give(&mut socket, &buffer[..read], &counters).await?;
                }
            }
        },
        Behavior::Stalled => {
            give(&mut socket, b"x", &counters).await?;
            std::future::pending().await
        }
        Behavior::Endless => loop {
            give(&mut socket, &buffer[..16_384], &counters).await?;
        },
    }
}

async fn echo(socket: &mut TcpStream, buffer: &mut [u8], counters: &Counters) -> std::io::Result<()> {
    loop {
        match take(socket, buffer, counters).await? {
            0 => return socket.shutdown().await,
            read => give(socket, &buffer[..read], counters).await?,
        }
    }
}

async fn take(socket: &mut TcpStream, buffer: &mut [u8], counters: &Counters) -> std::io::Result<usize> {
    let read = socket.read(buffer).await?;
    counters.got.fetch_add(read as u64, Ordering::SeqCst);
    Ok(read)
}

async fn give(socket: &mut TcpStream, mut bytes: &[u8], counters: &Counters) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let wrote = socket.write(bytes).await?;
        counters.gave.fetch_add(wrote as u64, Ordering::SeqCst);
        bytes = &bytes[wrote..];
    }
    Ok(())
}
