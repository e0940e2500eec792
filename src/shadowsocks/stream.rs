use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::shadowsocks::ServerConfig;
use ::shadowsocks::config::ServerType;
use ::shadowsocks::context::{Context as CipherContext, SharedContext};
use ::shadowsocks::crypto::CipherKind;
use ::shadowsocks::relay::tcprelay::crypto_io::{DecryptedReader, EncryptedWriter, StreamType};
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::digest::fresh_number;
use crate::frame::Target;
use crate::net::buffered::Buffered;
use crate::net::dial::Dialer;
use crate::net::tunnel::ResetOnClose;

/// The first chunk carries the target, too, and must stay below Shadowsocks' limit of 16,383 bytes.
const FIRST_CHUNK: usize = 16_000;
const CHUNK: usize = 16_383;
/// An AEAD-2022 request without payload carries 1 to 900 bytes of padding.
const PADDING_MAX: u64 = 900;

pub(super) fn context() -> &'static SharedContext {
    static CONTEXT: OnceLock<SharedContext> = OnceLock::new();
    CONTEXT.get_or_init(|| CipherContext::new_shared(ServerType::Local))
}

/// An encrypted stream through a node to a target. The target travels with the first write, or alone when a reader has
/// waited for a while. Writes are gathered until a flush; a write that was pending has to be repeated with the same
/// bytes. A connection that ends inside a chunk is reset; one that ends before any is an end without a byte.
pub struct NodeStream<S = TcpStream> {
    socket: Buffered<S>,
    reader: DecryptedReader,
    writer: EncryptedWriter,
    method: CipherKind,
    first: First,
    wait: Option<Pin<Box<Sleep>>>,
    answered: bool,
}

enum First {
    Unsent(Target),
    Sending { chunk: BytesMut, payload: usize },
    Sent,
}

/// Connects to a node and prepares a stream to a target, which waits `coalesce` for first bytes to travel with it.
pub async fn connect(
    dialer: &Dialer,
    config: &ServerConfig,
    target: Target,
    coalesce: Duration,
) -> io::Result<NodeStream> {
    let socket = reach(dialer, config).await?;
    Ok(NodeStream::new(socket, config, target, coalesce))
}

/// Connects to a node and says nothing.
pub async fn reach(dialer: &Dialer, config: &ServerConfig) -> io::Result<TcpStream> {
    let (host, port) = address(config);
    dialer.connect(&host, port).await
}

/// A node's host without brackets, and its port.
pub(super) fn address(config: &ServerConfig) -> (String, u16) {
    let addr = config.addr();
    (addr.host().trim_matches(['[', ']']).to_owned(), addr.port())
}

impl<S> NodeStream<S> {
    fn new(socket: S, config: &ServerConfig, target: Target, coalesce: Duration) -> Self {
        let method = config.method();
        let mut salt = vec![0; method.salt_len()];
        context().generate_nonce(method, &mut salt, true);
        let key = config.key();
        Self {
            socket: Buffered::both(socket),
            reader: DecryptedReader::new(StreamType::Client, method, key),
            writer: EncryptedWriter::with_identity(StreamType::Client, method, key, &salt, config.identity_keys()),
            method,
            first: First::Unsent(target),
            wait: Some(Box::pin(tokio::time::sleep(coalesce))),
            answered: !method.is_aead_2022(),
        }
    }
}

impl<S: ResetOnClose> ResetOnClose for NodeStream<S> {
    fn reset_on_close(&self, reset: bool) {
        self.socket.get_ref().reset_on_close(reset);
    }
}

impl<S: AsyncWrite + Unpin> NodeStream<S> {
    /// Sends the target, with as much of a payload as fits; gives how much of it was taken.
    fn poll_begin(&mut self, cx: &mut Context<'_>, payload: &[u8]) -> Poll<io::Result<usize>> {
        if let First::Unsent(target) = &self.first {
            let payload = &payload[..payload.len().min(FIRST_CHUNK - Target::MAX_LEN)];
            let mut chunk = BytesMut::with_capacity(target.encoded_len() + payload.len());
            target.encode(&mut chunk);
            if self.method.is_aead_2022() {
                let padding = if payload.is_empty() { 1 + fresh_number() % PADDING_MAX } else { 0 };
                let padding = u16::try_from(padding).unwrap_or(1);
                chunk.put_u16(padding);
                chunk.put_bytes(0, padding.into());
            }
            chunk.extend_from_slice(payload);
            self.first = First::Sending { chunk, payload: payload.len() };
        }
        let First::Sending { chunk, payload } = &self.first else { return Poll::Ready(Ok(0)) };
        ready!(self.writer.poll_write_encrypted(cx, &mut self.socket, chunk))?;
        let taken = *payload;
        self.first = First::Sent;
        Poll::Ready(Ok(taken))
    }

    /// Sends the target alone once the time for first bytes is over.
    fn poll_introduce(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        ready!(self.poll_begin(cx, &[]))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn is_fresh(&self) -> bool {
        !matches!(self.first, First::Sent)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for NodeStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.first, First::Unsent(_)) {
            ready!(this.poll_introduce(cx))?;
        }
        let before = buf.filled().len();
        match ready!(this.reader.poll_read_decrypted(cx, context(), &mut this.socket, buf)).map_err(io::Error::from) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let answered = this.reader.handshaked();
                return Poll::Ready(if answered { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) });
            }
            read => read?,
        }
        if !this.answered && buf.filled().len() > before {
            if this.reader.request_nonce() != Some(this.writer.nonce()) {
                return Poll::Ready(Err(io::Error::other("the node answered another request")));
            }
            this.answered = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NodeStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_fresh() {
            this.wait = None;
            return this.poll_begin(cx, bytes);
        }
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        this.writer.poll_write_encrypted(cx, &mut this.socket, bytes).map_err(Into::into)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_fresh() {
            ready!(self.poll_begin(cx, &[]))?;
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
