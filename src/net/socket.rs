//! An accepted connection, encrypted by TLS or in clear text.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::buffered::Buffered;

/// What a client's bytes come through.
#[derive(Debug)]
pub struct Socket {
    /// What was read and put back.
    ahead: Bytes,
    line: Line,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are TLS, and a box would cost each of them an allocation")]
enum Line {
    /// TLS that ends here.
    Tls(TlsStream<Buffered<TcpStream>>),
    /// TLS ended before, at a proxy.
    Clear(TcpStream),
}

impl From<TlsStream<Buffered<TcpStream>>> for Socket {
    fn from(tls: TlsStream<Buffered<TcpStream>>) -> Self {
        Self { ahead: Bytes::new(), line: Line::Tls(tls) }
    }
}

impl From<TcpStream> for Socket {
    fn from(tcp: TcpStream) -> Self {
        Self { ahead: Bytes::new(), line: Line::Clear(tcp) }
    }
}

impl Socket {
    /// The connection itself.
    pub fn tcp(&self) -> &TcpStream {
        match &self.line {
            Line::Tls(tls) => tls.get_ref().0.get_ref(),
            Line::Clear(tcp) => tcp,
        }
    }

    /// The protocol that was agreed on by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.line {
            Line::Tls(tls) => tls.get_ref().1.alpn_protocol(),
            Line::Clear(_) => None,
        }
    }

    /// Gives what was read once more, in front of what was put back before.
    pub fn put_back(&mut self, read: Bytes) {
        self.ahead = if self.ahead.is_empty() { read } else { [read, std::mem::take(&mut self.ahead)].concat().into() };
    }

    /// Whether the connection begins with these bytes, which stay to be read.
    pub async fn begins_with(&mut self, expected: &[u8]) -> io::Result<bool> {
        let mut read = BytesMut::with_capacity(expected.len());
        while read.len() < expected.len() && expected.starts_with(&read) {
            let missing = expected.len() - read.len();
            if self.read_buf(&mut (&mut read).limit(missing)).await? == 0 {
                break;
            }
        }
        let begins = read == expected;
        self.put_back(read.freeze());
        Ok(begins)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let len = this.ahead.len().min(out.remaining());
            out.put_slice(&this.ahead.split_to(len));
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        match &mut this.line {
            Line::Tls(tls) => Pin::new(tls).poll_read(cx, out),
            Line::Clear(tcp) => Pin::new(tcp).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().line {
            Line::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Line::Clear(tcp) => Pin::new(tcp).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().line {
            Line::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Line::Clear(tcp) => Pin::new(tcp).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().line {
            Line::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Line::Clear(tcp) => Pin::new(tcp).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().line {
            Line::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
            Line::Clear(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.line {
            Line::Tls(tls) => tls.is_write_vectored(),
            Line::Clear(tcp) => tcp.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap().0.into(), far)
    }

    #[tokio::test]
    async fn what_was_put_back_comes_first() {
        let (mut near, mut far) = pair().await;
        far.write_all(b" and the rest").await.unwrap();
        drop(far);
        near.put_back(Bytes::from_static(b" beginning"));
        near.put_back(Bytes::from_static(b"the"));
        let mut got = [0; 5];
        near.read_exact(&mut got).await.unwrap();
        let mut rest = String::new();
        near.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&got, rest.as_str()), (b"the b", "eginning and the rest"));
    }

    #[tokio::test]
    async fn a_look_at_the_beginning_takes_nothing() {
        for (sent, begins) in [("PRI * and", true), ("PRI *", true), ("PR", false), ("PRINT", false), ("GET", false)] {
            let (mut near, mut far) = pair().await;
            far.write_all(sent.as_bytes()).await.unwrap();
            drop(far);
            assert_eq!(near.begins_with(b"PRI *").await.unwrap(), begins, "{sent}");
            let mut all = String::new();
            near.read_to_string(&mut all).await.unwrap();
            assert_eq!(all, sent);
        }
    }
}
