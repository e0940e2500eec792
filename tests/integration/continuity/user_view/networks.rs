//! A host in two networks, in its own network namespace.

use std::net::Ipv4Addr;
use std::process::Command;

use rcgen::{CertificateParams, KeyPair};

use crate::support::environment::Env;
use crate::support::process::Process;

/// The host's links: one to its programs, and two to the gateway.
const LAN: u8 = 0;
const WIFI: u8 = 1;
const LTE: u8 = 2;

pub(crate) struct MultihomedHost {
    name: String,
    number: u8,
    folder: tempfile::TempDir,
}

fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split(' ')).output().is_ok_and(|output| output.status.success())
}

impl MultihomedHost {
    /// `None` without the privileges for it; the test must say that it is skipped.
    pub(crate) fn make() -> Option<Self> {
        let number = (std::process::id() % 250) as u8;
        let host = Self { name: format!("httvpsc{number}"), number, folder: tempfile::tempdir().unwrap() };
        let Self { name, .. } = &host;
        if !ip(&format!("netns add {name}")) {
            return None;
        }
        for line in [LAN, WIFI, LTE] {
            let (there, here) = (host.there(line), host.here(line));
            for args in [
                format!("link add {name}{line} type veth peer name line{line} netns {name}"),
                format!("addr add {there}/30 dev {name}{line}"),
                format!("link set {name}{line} up"),
                format!("-n {name} addr add {here}/30 dev line{line}"),
                format!("-n {name} link set line{line} up"),
            ] {
                assert!(ip(&args), "{args}");
            }
        }
        assert!(ip(&format!("addr add {}/32 dev {name}{LAN}", host.address(254))));
        host.route(WIFI, 100);
        host.route(LTE, 200);
        Some(host)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 214, self.number, last)
    }

    /// The far end of a link.
    fn there(&self, line: u8) -> Ipv4Addr {
        self.address(4 * line + 1)
    }

    /// The host's end of a link.
    fn here(&self, line: u8) -> Ipv4Addr {
        self.address(4 * line + 2)
    }

    /// An address that a gateway is reachable at over both networks.
    pub(crate) fn gateway(&self, port: u16) -> String {
        format!("{}:{port}", self.address(254))
    }

    /// An address that the host is reachable at, whatever network it is in.
    pub(crate) fn near(&self, port: u16) -> String {
        format!("{}:{port}", self.here(LAN))
    }

    /// Files with a certificate for the gateway's address and its key.
    pub(crate) fn identity(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new([self.address(254).to_string()]).unwrap().self_signed(&key).unwrap();
        let [cert, key] = [("cert.pem", cert.pem()), ("key.pem", key.serialize_pem())].map(|(name, text)| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_string_lossy().into_owned()
        });
        (cert, key)
    }

    /// Starts `httvps` on the host.
    pub(crate) async fn start(&self, args: &[&str], env: &Env) -> Process {
        let all = [&["netns", "exec", &self.name, env!("CARGO_BIN_EXE_httvps")], args].concat();
        Process::try_start_by("ip", &all, env).await.unwrap_or_else(|ended| panic!("{args:?} ended: {}", ended.stderr))
    }

    fn on(&self, args: &str) {
        assert!(ip(&format!("-n {} {args}", self.name)), "{args}");
    }

    fn route(&self, line: u8, metric: u32) {
        self.on(&format!("route add default via {} dev line{line} metric {metric}", self.there(line)));
    }

    /// Drops all packets in both directions silently.
    fn swallow(&self, line: u8) {
        self.on(&format!("rule add from {} blackhole", self.here(line)));
        assert!(ip(&format!("route add blackhole {}", self.here(line))));
    }

    fn mend(&self, line: u8) {
        self.on(&format!("rule del from {} blackhole", self.here(line)));
        assert!(ip(&format!("route del blackhole {}", self.here(line))));
    }

    /// Changes interfaces and routes in ways that do not affect connections to the gateway.
    pub(crate) fn bustle(&self) {
        self.on("link add bridge type bridge");
        self.on("addr add 172.17.0.1/16 dev bridge");
        self.on("link set bridge up");
        self.on(&format!("addr add 192.0.2.1/24 dev line{WIFI}"));
        self.on(&format!("route add 198.51.100.0/24 via {} dev line{LTE}", self.there(LTE)));
        self.on(&format!("addr del 192.0.2.1/24 dev line{WIFI}"));
    }

    /// The host leaves the network that it preferred and gives up its address there.
    pub(crate) fn leave_wifi(&self) {
        self.swallow(WIFI);
        self.on(&format!("addr del {}/30 dev line{WIFI}", self.here(WIFI)));
    }

    /// The host is back in that network and prefers it; it is still in the other one, which no longer works.
    pub(crate) fn prefer_wifi(&self) {
        self.mend(WIFI);
        self.swallow(LTE);
        self.on(&format!("addr add {}/30 dev line{WIFI}", self.here(WIFI)));
        self.route(WIFI, 100);
    }
}

impl Drop for MultihomedHost {
    fn drop(&mut self) {
        for line in [WIFI, LTE] {
            ip(&format!("route del blackhole {}", self.here(line)));
        }
        for line in [LAN, WIFI, LTE] {
            ip(&format!("link del {}{line}", self.name));
        }
        ip(&format!("netns del {}", self.name));
    }
}
