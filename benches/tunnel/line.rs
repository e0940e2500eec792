use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

pub(crate) const BYTES_PER_SECOND: f64 = 12_500_000.0;
const DELAY: Duration = Duration::from_millis(50);
const SLACK: Duration = Duration::from_millis(5);
const ON_THE_WAY: usize = 750_000;
const RECEIVE_BUFFER: u32 = 64 * 1024;
const CHUNK: usize = 16 * 1024;

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
}

pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

impl Line {
    pub(crate) fn to(gateway: SocketAddr) -> Self {
        let socket = shallow();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = shallow().connect(gateway).await.unwrap();
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                tokio::spawn(take(near_read, far_write));
                tokio::spawn(take(far_read, near_write));
            }
        });
        Self { address, task: task.abort_handle() }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn shallow() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    socket
}

async fn take(mut from: OwnedReadHalf, to: OwnedWriteHalf) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(ON_THE_WAY));
    let (queue, chunks) = unbounded_channel();
    tokio::spawn(deliver(chunks, to));
    let mut buffer = vec![0; CHUNK];
    let mut free = Instant::now();
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let room = Arc::clone(&room).acquire_many_owned(read as u32).await.map_err(io::Error::other)?;
        let now = Instant::now();
        let earliest = now.checked_sub(SLACK).unwrap_or(now);
        free = free.max(earliest) + Duration::from_secs_f64(read as f64 / BYTES_PER_SECOND);
        let chunk = Chunk { due: free.max(now) + DELAY, bytes: buffer[..read].to_vec(), room };
        if queue.send(chunk).is_err() {
            return Ok(());
        }
        sleep_until(free).await;
    }
}

async fn deliver(mut chunks: UnboundedReceiver<Chunk>, mut to: OwnedWriteHalf) -> io::Result<()> {
    while let Some(Chunk { due, bytes, room }) = chunks.recv().await {
        sleep_until(due).await;
        to.write_all(&bytes).await?;
        drop(room);
    }
    to.shutdown().await
}
