use std::io;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use httvps::frame::{Frame, StreamCode, StreamId, Target};
use rustls::client::Resumption;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::field;
use crate::latency::{Exchange, WARM_UP};
use crate::measure::percentile;
use crate::report::{Goal, HTTVPS, Report};
use crate::session::{Door, Session, message, open};
use crate::support::destination::{Behavior, Destination};

const TIME: Duration = Duration::from_secs(5);
const LEAD: Duration = Duration::from_millis(500);
const AGAIN: Duration = Duration::from_millis(500);
const TIMES_QUIET: f64 = 2.0;
const LOWEST_PRIORITY: i32 = 19;
const DATA_FRAMES: usize = 7_000;
const DATA_MESSAGES: usize = 9;
const OPENS: u32 = 1_000;
const RESETS: usize = 250;
const PINGS: usize = 20;
const FAR_AHEAD: u32 = 1_000_001;

#[derive(Clone, Copy)]
enum Kind {
    Data,
    Opens,
    Resets,
    Pings,
}

const KINDS: [(&str, Kind); 4] =
    [("data", Kind::Data), ("opens", Kind::Opens), ("resets", Kind::Resets), ("pings", Kind::Pings)];

pub(crate) async fn run(report: &mut Report) {
    let deployment = field::deployment(json!({}), &[]).await;
    let client = deployment.connect("v2").await;
    let echo = Destination::start(Behavior::Echo);
    let discard = Destination::start(Behavior::Discard);
    let door = Door::of(&deployment, Resumption::default());
    for (name, kind) in KINDS {
        let (door, target) = (door.clone(), Target::Ip(discard.address));
        match against(client.line("socks"), &echo, kind, door, target).await {
            Ok((quiet, flooded, sessions)) => {
                report.add(&format!("flood_{name}_quiet_p99"), HTTVPS, quiet, "us", Goal::NONE);
                report.add(&format!("flood_{name}_p99"), HTTVPS, flooded, "us", Goal::NONE);
                report.add(&format!("flood_{name}_ratio"), HTTVPS, flooded / quiet, "", Goal::at_most(TIMES_QUIET));
                report.add(&format!("flood_{name}_sessions"), HTTVPS, f64::from(sessions), "", Goal::NONE);
            }
            Err(error) => eprintln!("{HTTVPS}, flood of {name}: {error}"),
        }
    }
}

async fn against(
    proxy: &str,
    echo: &Destination,
    kind: Kind,
    door: Door,
    target: Target,
) -> io::Result<(f64, f64, u32)> {
    let mut exchange = Exchange::open(proxy, echo.address).await?;
    exchange.times(WARM_UP).await?;
    let quiet = percentile(exchange.lasting(TIME).await?, 0.99);
    let flooder = thread::spawn(move || flood(kind, &door, &target));
    sleep(LEAD).await;
    let flooded = exchange.lasting(TIME).await;
    let sessions = tokio::task::spawn_blocking(|| flooder.join().unwrap()).await.unwrap();
    Ok((quiet, percentile(flooded?, 0.99), sessions))
}

fn flood(kind: Kind, door: &Door, target: &Target) -> u32 {
    if let Err(error) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
        eprintln!("the flooding thread keeps its priority: {error}");
    }
    let mut sessions = 0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let attacks = async {
            loop {
                match door.enter(&[]).await {
                    Ok(session) => {
                        sessions += 1;
                        attack(kind, session, target).await.ok();
                    }
                    Err(error) => eprintln!("the flooder is not let in: {error}"),
                }
                sleep(AGAIN).await;
            }
        };
        timeout(LEAD + TIME + LEAD, attacks).await.ok();
    });
    sessions
}

async fn attack(kind: Kind, session: Session, target: &Target) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(session.socket);
    let draining = async {
        let mut buffer = vec![0; 64 * 1024];
        while reader.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    let sending = async {
        match kind {
            Kind::Data => send_data(&mut writer, target).await,
            Kind::Opens => send_opens(&mut writer, target).await,
            Kind::Resets => {
                send(&mut writer, &message(&[open(FAR_AHEAD, target, b"")])).await?;
                let reset = Frame::Reset { id: StreamId(1), code: StreamCode::Cancelled };
                send_over_and_over(&mut writer, &vec![reset; RESETS]).await
            }
            Kind::Pings => send_over_and_over(&mut writer, &vec![Frame::Ping([0; 8]); PINGS]).await,
        }
    };
    tokio::select! {
        ended = draining => ended,
        ended = sending => ended,
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

async fn send_over_and_over(writer: &mut (impl AsyncWrite + Unpin), frames: &[Frame]) -> io::Result<()> {
    let bytes = message(frames);
    loop {
        send(writer, &bytes).await?;
    }
}

async fn send_data(writer: &mut (impl AsyncWrite + Unpin), target: &Target) -> io::Result<()> {
    let mut next = 1;
    loop {
        let id = StreamId(next);
        send(writer, &message(&[open(next, target, b"")])).await?;
        let frame = Frame::Data { id, payload: Bytes::from_static(b"x"), fin: false };
        let bytes = message(&vec![frame; DATA_FRAMES]);
        for _ in 0..DATA_MESSAGES {
            send(writer, &bytes).await?;
        }
        send(writer, &message(&[Frame::Reset { id, code: StreamCode::Cancelled }])).await?;
        next += 2;
    }
}

async fn send_opens(writer: &mut (impl AsyncWrite + Unpin), target: &Target) -> io::Result<()> {
    let mut next = 1;
    loop {
        let frames: Vec<Frame> = (0..OPENS).map(|at| open(next + 2 * at, target, b"")).collect();
        send(writer, &message(&frames)).await?;
        next += 2 * OPENS;
    }
}
