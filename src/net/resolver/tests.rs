use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::*;
use crate::config::Source;

const DELAY: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(3);

fn v4(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

async fn after(millis: u64, answer: Answer) -> Answer {
    sleep(Duration::from_millis(millis)).await;
    answer
}

async fn asked(one: (u64, Answer), other: (u64, Answer)) -> (Answer, u128) {
    let begun = tokio::time::Instant::now();
    let answer = both((after(one.0, one.1), DELAY), (after(other.0, other.1), LONG)).await;
    (answer, begun.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn one_family_has_a_moment_once_the_other_has_answered() {
    let found = |last| Ok(vec![v4(last)]);
    let none = || Err(LookupError::NoAddress);
    assert_eq!(asked((10, found(1)), (40, found(2))).await, (Ok(vec![v4(1), v4(2)]), 40));
    assert_eq!(asked((9_999, found(1)), (10, found(2))).await, (found(2), 60));
    assert_eq!(asked((10, found(1)), (1_000, found(2))).await, (Ok(vec![v4(1), v4(2)]), 1_000));
    assert_eq!(asked((10, found(1)), (9_999, found(2))).await, (found(1), 2_010));
    assert_eq!(asked((10, none()), (400, found(2))).await, (found(2), 400));
    assert_eq!(asked((10, none()), (400, none())).await, (none(), 400));
    assert_eq!(asked((10, none()), (400, Err(LookupError::Timeout))).await, (Err(LookupError::Timeout), 400));
    assert_eq!(asked((10, Err(LookupError::Timeout)), (400, none())).await, (Err(LookupError::Timeout), 400));
    assert_eq!(asked((10, Err(LookupError::NoName)), (9_999, none())).await, (Err(LookupError::NoName), 10));
}

/// A name server on loopback: counts questions, and answers by name.
pub(crate) struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

pub(crate) fn net() -> Net {
    Source::with::<&str, &str>([]).unwrap().section().unwrap()
}

const A: u8 = 1;
const AAAA: u8 = 28;
const CNAME: u8 = 5;

impl Server {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut packet = vec![0; 4096];
            loop {
                let (len, from) = socket.recv_from(&mut packet).await.unwrap();
                let nth = count.fetch_add(1, Ordering::SeqCst);
                if let Some(answer) = answer(&packet[..len], nth) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    pub(crate) fn resolver(&self) -> Resolver {
        Resolver::new(&net(), &[self.address]).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        name.split('.').flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

fn answer(question: &[u8], nth: usize) -> Option<Vec<u8>> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let (name, kind) = (question[12..end - 4].to_ascii_lowercase(), question[end - 3]);
    let is = |wanted: &str| name == labels(wanted);
    let ip = |last: u8| (A, vec![192, 0, 2, last]);
    let (code, records) = match kind {
        _ if is("silent.test") => return None,
        AAAA if is("lost.test") => return None,
        A if (is("late.test") || is("slow.test")) && nth < 2 => return None,
        A if is("mute.test") => return None,
        AAAA if ["both.test", "slow.test", "mute.test"].into_iter().any(is) => {
            (0, vec![(AAAA, "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec())])
        }
        A if ["lost.test", "both.test", "late.test", "slow.test", "target.test"].into_iter().any(is) => {
            (0, vec![ip(7)])
        }
        A if is("two.test") => (0, vec![(A, vec![127, 0, 0, 2]), (A, vec![127, 0, 0, 3])]),
        A if is("rebound.test") => (0, vec![(A, vec![127, 0, 0, 1]), (A, vec![169, 254, 169, 254])]),
        A if is("mixed.test") => (0, vec![(A, vec![127, 0, 0, 1]), (A, vec![1, 1, 1, 1])]),
        A if is("alias.test") => (0, vec![(CNAME, labels("target.test"))]),
        _ if is("none.test") => (3, vec![]),
        _ => (0, vec![]),
    };
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x84, code, 0, 1, 0, u8::try_from(records.len()).unwrap(), 0, 0, 0, 0]);
    for (kind, data) in records {
        answer.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
        answer.extend(data);
    }
    Some(answer)
}

#[tokio::test]
async fn a_lost_answer_of_one_family_costs_a_moment() {
    let server = Server::start().await;
    let resolver = server.resolver();
    let begun = Instant::now();
    assert_eq!(resolver.lookup("lost.test.").await, Ok(vec![v4(7)]));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_question_without_an_answer_is_repeated_soon() {
    let server = Server::start().await;
    let resolver = server.resolver();
    let found = timeout(SOON, resolver.lookup("late.test.")).await.expect("soon");
    assert_eq!(found, Ok(vec![v4(7)]));
}

#[tokio::test]
async fn a_lost_answer_for_ipv4_does_not_leave_ipv6_alone_where_ipv4_is_wanted() {
    let server = Server::start().await;
    let found = timeout(SOON, server.resolver().lookup_v4_first("slow.test.")).await.expect("soon").unwrap();
    assert_eq!(found, [v4(7), "2001:db8::1".parse().unwrap()]);
}

#[tokio::test]
async fn names_are_asked_for_once_in_their_time_and_followed() {
    let server = Server::start().await;
    let resolver = server.resolver();
    let both = vec!["2001:db8::1".parse().unwrap(), v4(7)];
    for _ in 0..3 {
        assert_eq!(resolver.lookup("both.test.").await, Ok(both.clone()));
    }
    assert_eq!(server.asked(), 2, "A and AAAA, once");
    assert_eq!(resolver.lookup("alias.test.").await, Ok(vec![v4(7)]));
    assert_eq!(resolver.lookup("none.test.").await, Err(LookupError::NoName));
    assert_eq!(resolver.lookup("empty.test.").await, Err(LookupError::NoAddress));
}

#[tokio::test]
async fn addresses_and_local_names_need_no_server() {
    let server = Server::start().await;
    let resolver = server.resolver();
    assert_eq!(resolver.lookup("192.0.2.9").await, Ok(vec![v4(9)]));
    assert!(resolver.lookup("localhost").await.unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
    assert_eq!(server.asked(), 0);
}
