use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::measure::{median, percentile, rounds};
use crate::peers::Subject;
use crate::report::{Goal, Report, SS_LOCAL};
use crate::support::destination::{Behavior, Destination};
use crate::support::socks;
use crate::support::wait::TIMEOUT;

pub(crate) const WARM_UP: usize = 200;
const REQUESTS: usize = 2_000;
const BYTES: usize = 64;
const TIMES_SS_LOCAL: f64 = 1.5;

pub(crate) struct Exchange {
    socket: TcpStream,
}

impl Exchange {
    pub(crate) async fn open(proxy: &str, target: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: socks::connect(proxy, target).await? })
    }

    async fn once(&mut self) -> io::Result<f64> {
        let started = Instant::now();
        self.socket.write_all(&[b'x'; BYTES]).await?;
        self.socket.read_exact(&mut [0; BYTES]).await?;
        Ok(started.elapsed().as_secs_f64() * 1e6)
    }

    async fn repeated(&mut self, mut goes_on: impl FnMut(usize) -> bool) -> io::Result<Vec<f64>> {
        let mut samples = Vec::new();
        while goes_on(samples.len()) {
            samples.push(self.once().await?);
        }
        Ok(samples)
    }

    pub(crate) async fn times(&mut self, count: usize) -> io::Result<Vec<f64>> {
        timeout(TIMEOUT, self.repeated(|done| done < count)).await?
    }

    pub(crate) async fn lasting(&mut self, time: Duration) -> io::Result<Vec<f64>> {
        let end = Instant::now() + time;
        timeout(TIMEOUT, self.repeated(|_| Instant::now() < end)).await?
    }
}

async fn of(subject: &Subject) -> io::Result<(f64, f64)> {
    let echo = Destination::start(Behavior::Echo);
    let mut exchange = Exchange::open(&subject.socks, echo.address).await?;
    exchange.times(WARM_UP).await?;
    let samples = exchange.times(REQUESTS).await?;
    Ok((percentile(samples.clone(), 0.5), percentile(samples, 0.99)))
}

pub(crate) async fn run(subjects: &[Subject], report: &mut Report) {
    let mut rounds_of: HashMap<&str, Vec<(f64, f64)>> = HashMap::new();
    for round in 1..=rounds() {
        for subject in subjects {
            match of(subject).await {
                Ok(both) => rounds_of.entry(subject.name).or_default().push(both),
                Err(error) => eprintln!("round {round}, {}, latency: {error}", subject.name),
            }
        }
    }
    let figure = |subject: &str, of: fn(&(f64, f64)) -> f64| {
        rounds_of.get(subject).map(|rounds| median(rounds.iter().map(of).collect()))
    };
    let goal = figure(SS_LOCAL, |both| both.0).map_or(Goal::NONE, |theirs| Goal::at_most(TIMES_SS_LOCAL * theirs));
    for subject in subjects {
        if let (Some(half), Some(most)) = (figure(subject.name, |both| both.0), figure(subject.name, |both| both.1)) {
            report.add("request_p50", subject.name, half, "us", goal);
            report.add("request_p99", subject.name, most, "us", Goal::NONE);
        }
    }
}
