use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::measure::{cpu_seconds, in_lanes};
use crate::peers::Subject;
use crate::report::{Goal, Report};
use crate::support::destination::{Behavior, Destination};
use crate::support::socks;

pub(crate) const FIGURE: &str = "cpu_stream";
const STREAMS: usize = 4_000;
const LANES: usize = 16;
const MILLISECONDS: f64 = 0.12;
const PATIENCE: Duration = Duration::from_mins(5);

pub(crate) async fn touch(proxy: &str, echo: &Destination) -> io::Result<TcpStream> {
    let mut socket = socks::connect(proxy, echo.address).await?;
    socket.write_all(b"x").await?;
    socket.read_exact(&mut [0; 1]).await?;
    Ok(socket)
}

pub(crate) async fn cost(subject: &Subject) -> io::Result<f64> {
    let echo = Destination::start(Behavior::Echo);
    let before = cpu_seconds(subject.pid);
    let opened = in_lanes(STREAMS, LANES, || async { touch(&subject.socks, &echo).await.map(drop) });
    let opened = timeout(PATIENCE, opened).await.map_err(io::Error::from)?;
    opened.into_iter().collect::<io::Result<()>>()?;
    Ok((cpu_seconds(subject.pid) - before) * 1000.0 / STREAMS as f64)
}

pub(crate) async fn run(subjects: &[Subject], report: &mut Report) {
    for subject in subjects {
        match cost(subject).await {
            Ok(cost) => report.add(FIGURE, subject.name, cost, "ms", Goal::at_most(MILLISECONDS)),
            Err(error) => eprintln!("{}, streams: {error}", subject.name),
        }
    }
}
