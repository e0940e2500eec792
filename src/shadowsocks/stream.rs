use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use ::shadowsocks::ServerConfig;
use ::shadowsocks::config::ServerType;
use ::shadowsocks::context::{Context as CipherContext, SharedContext};
use ::shadowsocks::relay::tcprelay::crypto_io::{DecryptedReader, EncryptedWriter, StreamType};
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::frame::Target;
use crate::net::buffered::Buffered;

/// The first chunk carries the target, too, and must stay below Shadowsocks' limit of 16,383 bytes.
const FIRST_CHUNK: usize = 16_000;
const CHUNK: usize = 16_383;

fn context() -> &'static SharedContext {
    static CONTEXT: OnceLock<SharedContext> = OnceLock::new();
    CONTEXT.get_or_init(|| CipherContext::new_shared(ServerType::Local))
}

/// An encrypted stream through a node to a target. Writes are gathered until a flush; a write that was pending has to
/// be repeated with the same bytes.
pub struct NodeStream<S = TcpStream> {
    socket: Buffered<S>,
    reader: DecryptedReader,
    writer: EncryptedWriter,
    first: First,
}

enum First {
    Unsent(Target),
    Sending { chunk: BytesMut, payload: usize },
    Sent,
}

/// Connects to a node and prepares a stream to a target.
pub async fn connect(config: &ServerConfig, target: Target) -> io::Result<NodeStream> {
    let addr = config.addr();
    let host = addr.host();
    let socket = TcpStream::connect((host.trim_matches(['[', ']']), addr.port())).await?;
    socket.set_nodelay(true)?;
    Ok(NodeStream::new(socket, config, target))
}

impl<S> NodeStream<S> {
    fn new(socket: S, config: &ServerConfig, target: Target) -> Self {
        let method = config.method();
        let mut salt = vec![0; method.salt_len()];
        context().generate_nonce(method, &mut salt, true);
        let key = config.key();
        Self {
            socket: Buffered::both(socket),
            reader: DecryptedReader::new(StreamType::Client, method, key),
            writer: EncryptedWriter::with_identity(StreamType::Client, method, key, &salt, config.identity_keys()),
            first: First::Unsent(target),
        }
    }
}

impl<S: AsyncWrite + Unpin> NodeStream<S> {
    /// Sends the target, with as much of a payload as fits; gives how much of it was taken.
    pub fn poll_begin(&mut self, cx: &mut Context<'_>, payload: &[u8]) -> Poll<io::Result<usize>> {
        if let First::Unsent(target) = &self.first {
            let room = FIRST_CHUNK.saturating_sub(target.encoded_len());
            let payload = &payload[..payload.len().min(room)];
            let mut chunk = BytesMut::with_capacity(target.encoded_len() + payload.len());
            target.encode(&mut chunk);
            chunk.extend_from_slice(payload);
            self.first = First::Sending { chunk, payload: payload.len() };
        }
        let First::Sending { chunk, payload } = &self.first else { return Poll::Ready(Ok(0)) };
        ready!(self.writer.poll_write_encrypted(cx, &mut self.socket, chunk))?;
        let taken = *payload;
        self.first = First::Sent;
        Poll::Ready(Ok(taken))
    }

    /// Whether the target is still to be sent.
    pub fn is_fresh(&self) -> bool {
        !matches!(self.first, First::Sent)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NodeStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.reader.poll_read_decrypted(cx, context(), &mut this.socket, buf).map_err(Into::into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NodeStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_fresh() {
            return this.poll_begin(cx, bytes);
        }
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        this.writer.poll_write_encrypted(cx, &mut this.socket, bytes).map_err(Into::into)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
