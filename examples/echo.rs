//! A WebSocket echo server on the project's own layer, for `scripts/autobahn.sh`.
#![allow(clippy::large_futures, clippy::print_stdout, reason = "a tool for tests says where it listens")]

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fastwebsockets::OpCode;
use fastwebsockets::upgrade::{UpgradeFut, is_upgrade_request, upgrade};
use http_body_util::Empty;
use httvps::mux::Message;
use httvps::net::listener;
use httvps::net::websocket::{Incoming, Reader, Side, Violation, write_header};
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const ADDRESS: &str = "127.0.0.1:9001";
const MESSAGE_MAX: usize = 16 * 1024 * 1024 + 1024;
const FRAGMENTS_MAX: usize = 100_000;
const CHUNK: usize = 64 * 1024;
const LINGER: Duration = Duration::from_secs(5);

type Agreed = Arc<Mutex<Option<UpgradeFut>>>;

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| ADDRESS.to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("echo ws://{}", listener.local_addr()?);
    println!("ready");
    loop {
        let (socket, peer) = listener::accept(&listener).await;
        tokio::spawn(async move {
            if let Err(error) = serve(socket).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn serve(socket: TcpStream) -> Result<(), String> {
    let Some((socket, read)) = shake_hands(socket).await? else { return Ok(()) };
    let reader = Reader::new(Side::Server, MESSAGE_MAX, FRAGMENTS_MAX);
    let echo = Echo { socket, reader, input: BytesMut::from(read) };
    echo.run().await.map_err(|error| error.to_string())
}

async fn shake_hands(socket: TcpStream) -> Result<Option<(TcpStream, Bytes)>, String> {
    let agreed = Agreed::default();
    let service = service_fn(|request| {
        let response = respond(request, &agreed);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades()
        .await
        .map_err(|error| error.to_string())?;
    let Some(upgrade) = agreed.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        return Ok(None);
    };
    let upgraded = upgrade.await.map_err(|error| error.to_string())?.into_inner().into_inner();
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().map_err(|_| "the upgraded socket is of another type")?;
    Ok(Some((parts.io.into_inner(), parts.read_buf)))
}

fn respond(mut request: Request<Body>, agreed: &Agreed) -> Response<Empty<Bytes>> {
    if is_upgrade_request(&request)
        && let Ok((response, accepted)) = upgrade(&mut request)
    {
        *agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
        return response;
    }
    let mut response = Response::new(Empty::new());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

enum Next {
    Message(Incoming),
    Refused(Violation),
    Gone,
}

struct Echo {
    socket: TcpStream,
    reader: Reader,
    input: BytesMut,
}

impl Echo {
    async fn run(mut self) -> io::Result<()> {
        let code = loop {
            match self.next().await? {
                Next::Message(Incoming::Text(text)) => self.send(OpCode::Text, &text).await?,
                Next::Message(Incoming::Binary(bytes)) => self.send(OpCode::Binary, &bytes).await?,
                Next::Message(Incoming::Ping(payload)) => self.send(OpCode::Pong, &payload).await?,
                Next::Message(Incoming::Pong) => {}
                Next::Message(Incoming::Close(code)) => break code,
                Next::Refused(violation) => break Some(violation.close_code()),
                Next::Gone => return Ok(()),
            }
        };
        let payload = code.map_or_else(Bytes::new, |code| Bytes::copy_from_slice(&code.to_be_bytes()));
        self.send(OpCode::Close, &payload).await?;
        self.socket.shutdown().await?;
        timeout(LINGER, self.discard()).await.unwrap_or(Ok(()))
    }

    async fn next(&mut self) -> io::Result<Next> {
        loop {
            let missing = match self.reader.next(&mut self.input) {
                Ok(message) => return Ok(Next::Message(message)),
                Err(Ok(missing)) => missing,
                Err(Err(violation)) => return Ok(Next::Refused(violation)),
            };
            self.input.reserve(missing.max(CHUNK));
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Ok(Next::Gone);
            }
        }
    }

    async fn send(&mut self, opcode: OpCode, payload: &[u8]) -> io::Result<()> {
        let mut message = Message::from(payload);
        write_header(&mut message, opcode, Side::Server);
        self.socket.write_all(&message.concat()).await
    }

    async fn discard(&mut self) -> io::Result<()> {
        loop {
            self.input.clear();
            self.input.reserve(CHUNK);
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
        }
    }
}
