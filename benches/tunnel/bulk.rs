use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::floor;
use crate::measure::{GIB, MIB, cpu_seconds, gib, median, rounds};
use crate::peers::Subject;
use crate::report::{FLOOR, Goal, Report, SING_BOX};
use crate::support::destination::{Behavior, Destination};
use crate::support::socks;

const BUFFER: usize = 256 * 1024;
const SHARE_OF_SING_BOX: f64 = 0.65;
const PATIENCE_PER_GIB: f64 = 120.0;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    up: bool,
    streams: u64,
}

pub(crate) const CASES: [Case; 4] = [
    Case { name: "down_1", up: false, streams: 1 },
    Case { name: "down_16", up: false, streams: 16 },
    Case { name: "up_1", up: true, streams: 1 },
    Case { name: "up_16", up: true, streams: 16 },
];

pub(crate) struct Sample {
    cpu: f64,
    wall: f64,
    bytes: u64,
}

impl Sample {
    pub(crate) fn cpu_of_a_gib(&self) -> f64 {
        self.cpu / (self.bytes as f64 / GIB)
    }
}

impl Case {
    pub(crate) async fn once(&self, subject: &Subject) -> io::Result<Sample> {
        let each = (gib() * GIB) as u64 / self.streams;
        let (before, started) = (cpu_seconds(subject.pid), Instant::now());
        if self.up {
            self.upload(&subject.socks, each).await?;
        } else {
            self.download(&subject.socks, each).await?;
        }
        let (cpu, wall) = (cpu_seconds(subject.pid) - before, started.elapsed().as_secs_f64());
        Ok(Sample { cpu, wall, bytes: each * self.streams })
    }

    async fn download(&self, proxy: &str, each: u64) -> io::Result<()> {
        let zeros = Destination::start(Behavior::Zeros);
        try_join_all((0..self.streams).map(|_| fetch(proxy, zeros.address, each))).await?;
        Ok(())
    }

    async fn upload(&self, proxy: &str, each: u64) -> io::Result<()> {
        let discard = Destination::start(Behavior::Discard);
        let sending = try_join_all((0..self.streams).map(|_| send(proxy, discard.address, each)));
        let arrived = async {
            while discard.got() < each * self.streams {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            ended = sending => ended.map(drop),
            () = arrived => Ok(()),
        }
    }
}

async fn fetch(proxy: &str, source: SocketAddr, len: u64) -> io::Result<()> {
    let mut socket = socks::connect(proxy, source).await?;
    socket.write_all(&len.to_be_bytes()).await?;
    let mut buffer = vec![0; BUFFER];
    let mut left = len;
    while left > 0 {
        match socket.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => left -= read as u64,
        }
    }
    Ok(())
}

async fn send(proxy: &str, sink: SocketAddr, len: u64) -> io::Result<()> {
    let mut socket = socks::connect(proxy, sink).await?;
    let buffer = vec![0; BUFFER];
    let mut left = len;
    while left > 0 {
        let piece = left.min(BUFFER as u64);
        socket.write_all(&buffer[..piece as usize]).await?;
        left -= piece;
    }
    socket.read(&mut [0; 1]).await?;
    Err(io::Error::other("an upload ended before it had arrived"))
}

/// The minimum cost of a gateway at the machine's current speed.
async fn bare_gateway() -> f64 {
    let bytes = (gib() * GIB) as u64;
    let cpu = tokio::task::spawn_blocking(move || floor::bare_gateway(bytes)).await.unwrap();
    cpu / (bytes as f64 / GIB)
}

pub(crate) async fn run(subjects: &[Subject], report: &mut Report) {
    let patience = Duration::from_secs_f64((PATIENCE_PER_GIB * gib()).max(PATIENCE_PER_GIB));
    let mut samples: HashMap<(&str, &str), Vec<Sample>> = HashMap::new();
    let mut bare = Vec::new();
    for round in 1..=rounds() {
        for subject in subjects {
            for case in &CASES {
                match timeout(patience, case.once(subject)).await {
                    Ok(Ok(sample)) => samples.entry((case.name, subject.name)).or_default().push(sample),
                    Ok(Err(error)) => eprintln!("round {round}, {}, {}: {error}", subject.name, case.name),
                    Err(_) => eprintln!("round {round}, {}, {}: not done in time", subject.name, case.name),
                }
            }
        }
        bare.push(bare_gateway().await);
    }
    for case in &CASES {
        let figure = |subject: &str, of: fn(&Sample) -> f64| {
            samples.get(&(case.name, subject)).map(|samples| median(samples.iter().map(of).collect()))
        };
        let cpu: fn(&Sample) -> f64 = Sample::cpu_of_a_gib;
        let speed: fn(&Sample) -> f64 = |sample| sample.bytes as f64 / MIB / sample.wall;
        let goal = figure(SING_BOX, cpu).map_or(Goal::NONE, |theirs| Goal::at_most(SHARE_OF_SING_BOX * theirs));
        report.add(&format!("cpu_{}", case.name), FLOOR, median(bare.clone()), "s/GiB", Goal::NONE);
        for subject in subjects {
            if let (Some(cpu), Some(speed)) = (figure(subject.name, cpu), figure(subject.name, speed)) {
                report.add(&format!("cpu_{}", case.name), subject.name, cpu, "s/GiB", goal);
                report.add(&format!("wall_{}", case.name), subject.name, speed, "MiB/s", Goal::NONE);
            }
        }
    }
}
