//! A node in a network namespace, behind a link that drops every packet for a while.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use super::deployment::{DrillDeployment, seconds};
use super::scale;
use crate::support::control::REGION;
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination};
use crate::support::environment::{TO_MAKE_NAMESPACES, free_port, skip};
use crate::support::wait::eventually;

/// A namespace with a link to this one.
struct Namespace {
    name: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split(' ')).output().is_ok_and(|output| output.status.success())
}

impl Namespace {
    /// `None` without the privileges for it; the test must say that it is skipped.
    fn make() -> Option<Self> {
        let number = (std::process::id() % 250) as u8;
        let (here, there) = (Ipv4Addr::new(10, 213, number, 1), Ipv4Addr::new(10, 213, number, 2));
        let name = format!("httvps{number}");
        let (near, far) = (format!("{name}a"), format!("{name}b"));
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("link add {near} type veth peer name {far}"))
            && ip(&format!("link set {far} netns {name}"))
            && ip(&format!("addr add {here}/30 dev {near}"))
            && ip(&format!("link set {near} up"))
            && ip(&format!("-n {name} addr add {there}/30 dev {far}"))
            && ip(&format!("-n {name} link set {far} up"));
        let namespace = Self { name, here, there };
        made.then_some(namespace)
    }

    /// Drops everything sent from there silently.
    fn cut(&self) {
        assert!(ip(&format!("-n {} route add blackhole {}", self.name, self.here)));
    }

    /// Whether the node has or attempts connections to an address.
    fn has_connections(&self, address: SocketAddr) -> bool {
        let filter = format!("netns exec {} ss -Htn state connected dst {address}", self.name);
        let listed = Command::new("ip").args(filter.split(' ')).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        !listed.stdout.is_empty()
    }

    fn mend(&self) {
        assert!(ip(&format!("-n {} route del blackhole {}", self.name, self.here)));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("link del {}a", self.name));
        ip(&format!("netns del {}", self.name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_to_a_node_drops_everything() {
    let Some(namespace) = Namespace::make() else {
        return skip("drill partition", TO_MAKE_NAMESPACES);
    };
    let (host, port) = (namespace.there.to_string(), free_port().to_string());
    let method = "chacha20-ietf-poly1305";
    let server = ["ss-server", "-s", &host, "-p", &port, "-k", "secret", "-m", method, "-t", "600", "-u"];
    let _node = tokio::process::Command::new("ip")
        .args(["netns", "exec", &namespace.name])
        .args(server)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let address = (namespace.there, port.parse().unwrap());
    eventually(|| async { tokio::net::TcpStream::connect(address).await.map_err(|error| error.to_string()) }).await;
    let deployment = Deployment::build(Kind::Postgres, &[], json!({}), &[]).await;
    let node = json!({
        "region": REGION, "internal_ip": host, "port": address.1, "method": method, "password": "secret",
    });
    deployment.control.create("nodes", node).await;
    let source = Destination::start_at(Behavior::Source, namespace.here);
    let drill = DrillDeployment::of("partition", Kind::Postgres, deployment, source).await;
    let mut crowd = drill.crowd().await;
    namespace.cut();
    tokio::time::sleep(scale().phase * 2).await;
    namespace.mend();
    let mended = Instant::now();
    let served = crowd.served_since(mended).await;
    assert_eq!(crowd.lost(), 0, "tunnels outlive their node");
    let tally = crowd.leave().await;
    eventually(|| async {
        if namespace.has_connections(drill.source.address) { Err("the node still asks".to_owned()) } else { Ok(()) }
    })
    .await;
    let mark = drill.between(&tally, 0).await;
    drill.crowd().await.leave().await;
    drill.exact_since(mark).await;
    let said = format!("all served {} after the line was mended; {} cut short", seconds(served), tally.cut_short);
    drill.ends_clean(&said).await;
}
