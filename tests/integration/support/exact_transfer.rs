//! Transfers of many sizes, by any transport, with exact totals.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, GREETING};
use crate::support::node::Software;
use crate::support::process::Process;
use crate::support::socks;
use crate::support::transfer::{download, echo, upload_then_half_close};
use crate::support::wait::eventually;

pub(crate) const SIZES: [usize; 6] = [0, 1, 16_383, 16_384, 65_536, 50_000_000];

pub(crate) async fn exact_by(kind: Kind, software: Software, transport: &str, encoding: &str) {
    let deployment = Deployment::start(kind, software).await;
    let client: Process = deployment.connect_by(transport, encoding).await;
    let proxy = client.line("socks").to_owned();
    let [source, echoing, greeter, sink] = [
        Destination::start(Behavior::Source),
        Destination::start(Behavior::Echo),
        Destination::start(Behavior::Greeter),
        Destination::start(Behavior::Sink),
    ];
    for len in SIZES {
        download(&proxy, source.address, len).await;
        echo(&proxy, echoing.address, len).await;
    }
    let mut streams = Vec::new();
    for index in 0..200 {
        let (proxy, target) = (proxy.clone(), echoing.address);
        streams.push(tokio::spawn(async move { echo(&proxy, target, 1_000 + index * 17).await }));
    }
    for stream in streams {
        stream.await.unwrap();
    }
    let mut greeted = socks::connect(&proxy, greeter.address).await.unwrap();
    let mut greeting = vec![0; GREETING.len()];
    greeted.read_exact(&mut greeting).await.unwrap();
    assert_eq!(greeting, GREETING);
    greeted.write_all(b"EHLO").await.unwrap();
    greeted.read_exact(&mut greeting[..4]).await.unwrap();
    assert_eq!(&greeting[..4], b"EHLO");
    drop(greeted);
    if encoding == "v2" && matches!(software, Software::Crate(_)) {
        for len in SIZES {
            upload_then_half_close(&proxy, sink.address, len).await;
        }
    }
    deployment.metric_is("httvps_streams", 0).await;
    let all = [&source, &echoing, &greeter, &sink];
    let up = all.iter().map(|destination| destination.got()).sum();
    let down = all.iter().map(|destination| destination.gave()).sum();
    deployment.totals_are(up, down).await;
    assert_eq!(deployment.metric("httvps_bytes_total{direction=\"up\"}").await, up);
    assert_eq!(deployment.tunnels_by(transport).await, 1);
    assert_eq!(client.stop().await.code, Some(0));
    deployment.totals_are(up, down).await;
    eventually(|| async {
        match &deployment.control.list("sessions").await[0]["state"] {
            state if state == "ended" => Ok(()),
            state => Err(state.to_string()),
        }
    })
    .await;
}
