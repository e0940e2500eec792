//! Less common requests to the client's SOCKS5 listener.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::destination::{Behavior, Destination, GREETING};
use crate::support::node::CHACHA;
use crate::support::process::Process;
use crate::support::udp_echo::Echo;
use crate::support::wait::TIMEOUT;

async fn read<const N: usize>(socket: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    timeout(TIMEOUT, socket.read_exact(&mut bytes)).await.expect("it answers").unwrap();
    bytes
}

fn request(command: u8, target: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(target) = target else { panic!("an IPv4 destination") };
    [&[5, command, 0, 1], &target.ip().octets()[..], &target.port().to_be_bytes()].concat()
}

fn named(name: &str, port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, name.len() as u8], name.as_bytes(), &port.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_accepted_and_addresses_may_be_names() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let client = deployment.connect("v2").await;
    let greeter = Destination::start(Behavior::Greeter);
    let credentials = b"\x01\x03ann\x04hush";
    let connect = request(1, greeter.address);
    let port = greeter.address.port();
    let flights: [(&[u8], &[u8], Vec<u8>); 6] = [
        (&[5, 2, 0, 2], &[5, 0], connect.clone()),
        (&[5, 2, 0, 2], &[5, 0], [credentials, &connect[..]].concat()),
        (&[5, 1, 2], &[5, 2, 1, 0], [credentials, &connect[..]].concat()),
        (&[5, 2, 1, 2], &[5, 2, 1, 0], [b"\x01\x00\x00", &connect[..]].concat()),
        (&[5, 1, 0], &[5, 0], named("[127.0.0.1]", port)),
        (&[5, 1, 0], &[5, 0], named("127.0.0.1.", port)),
    ];
    for (greeting, chosen, rest) in flights {
        let mut socket = TcpStream::connect(client.line("socks")).await.unwrap();
        socket.write_all(&[greeting, &rest].concat()).await.unwrap();
        let mut answer = vec![0; chosen.len()];
        timeout(TIMEOUT, socket.read_exact(&mut answer)).await.expect("it answers").unwrap();
        assert_eq!(answer, chosen);
        assert_eq!(read::<10>(&mut socket).await[..4], [5, 0, 0, 1]);
        assert_eq!(read::<{ GREETING.len() }>(&mut socket).await, GREETING, "{greeting:?}");
    }
    let mut socket = TcpStream::connect(client.line("socks")).await.unwrap();
    socket.write_all(&[5, 1, 1]).await.unwrap();
    assert_eq!(read::<2>(&mut socket).await, [5, 0xff]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv4_programs_get_an_ipv4_address() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let mut env = deployment.client_env("v2");
    env.retain(|(key, _)| key != "HTTVPS_CLIENT__SOCKS");
    env.push(("HTTVPS_CLIENT__SOCKS".into(), "[::]:0".into()));
    let client = Process::start(&["connect"], &env).await;
    let port: u16 = client.line("socks").rsplit_once(':').unwrap().1.parse().unwrap();
    let echo = Echo::start().await;
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    connection.write_all(&[&[5, 1, 0][..], &request(3, ([0, 0, 0, 0], 0).into())].concat()).await.unwrap();
    let answer = read::<12>(&mut connection).await;
    assert_eq!(answer[..10], [5, 0, 5, 0, 0, 1, 127, 0, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", u16::from_be_bytes([answer[10], answer[11]]))).await.unwrap();
    let mut packet = vec![0, 0];
    packet.extend(&request(0, echo.address)[2..]);
    packet.extend(b"hello");
    socket.send(&packet).await.unwrap();
    let mut got = [0; 100];
    let len = timeout(TIMEOUT, socket.recv(&mut got)).await.expect("it comes back").unwrap();
    assert!(got[..len].ends_with(b"hello"));
}
