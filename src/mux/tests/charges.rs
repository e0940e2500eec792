//! What moves nothing is paid for: as small frames, at the plan's rate, and with the session if there is no end of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::frame::Notice;

#[derive(Debug, Default)]
struct Counted(AtomicUsize);

impl Pacer for Counted {
    fn idle(&self, bytes: usize) -> Option<Instant> {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        None
    }
}

#[derive(Debug)]
struct Slow(Instant);

impl Pacer for Slow {
    fn idle(&self, _: usize) -> Option<Instant> {
        Some(self.0)
    }
}

/// An open v2 session whose stream 1 is over and whose stream 3 is open.
fn paced() -> (Pair, Arc<Counted>) {
    let mut pair = Pair::open(Encoding::V2);
    let (ours, theirs) = pair.stream();
    pair.stream();
    pair.client.reset(ours, StreamCode::Cancelled);
    pair.exchange();
    assert!(matches!(pair.gateway.receive(theirs), Received::Reset(_)));
    pair.gateway.tiny = TokenBucket::new(100, pair.now);
    let paid = Arc::new(Counted::default());
    pair.gateway.pace(Arc::clone(&paid) as Arc<dyn Pacer>);
    (pair, paid)
}

fn data(id: u32, len: usize) -> Frame {
    Frame::Data { id: StreamId(id), payload: vec![7; len].into(), fin: false }
}

/// Frames that move nothing, and the bytes that each is charged.
fn idle() -> Vec<(&'static str, Frame, usize)> {
    vec![
        ("padding", Frame::Padding(1000), 1008),
        ("a stream that is over", data(1, 1000), 1008),
        ("empty data", data(3, 0), 8),
        ("pong", Frame::Pong([0; 8]), 0),
        ("window", Frame::Window { id: StreamId(3), consumed: 0, limit: 1 }, 0),
        ("window of a stream that is over", Frame::Window { id: StreamId(1), consumed: 0, limit: 1 }, 0),
        ("goaway", Frame::GoAway { last: StreamId(0), reconnect_in_ms: 0, code: SessionCode::GoingAway }, 18),
        ("notice", Frame::Notice(Notice::Maintenance { within_ms: 1 }), 8),
    ]
}

#[test]
fn each_counts_as_a_small_frame_and_at_the_rate() {
    for (name, frame, bytes) in idle() {
        let (mut pair, paid) = paced();
        raw(&mut pair.gateway, &vec![frame.clone(); 100], pair.now).unwrap();
        assert_eq!(paid.0.load(Ordering::Relaxed), 100 * bytes, "{name}");
        assert!(!pair.gateway.is_paused(), "{name}");
        raw(&mut pair.gateway, &[frame], pair.now).unwrap();
        assert!(pair.gateway.is_paused(), "{name}");
    }
}

#[test]
fn ignored_types_and_empty_messages_do_too() {
    let (mut pair, paid) = paced();
    let mut ignored = vec![0x90, 0, 0x03, 0xe8, 0, 0, 0, 0];
    ignored.extend([0; 1000]);
    pair.gateway.handle_message(ignored.into(), pair.now).unwrap();
    assert_eq!(paid.0.swap(0, Ordering::Relaxed), 1008);
    for _ in 0..100 {
        pair.gateway.handle_message(Bytes::new(), pair.now).unwrap();
    }
    assert_eq!(paid.0.load(Ordering::Relaxed), 800);
    assert!(pair.gateway.is_paused());
}

#[test]
fn small_fragments_and_pongs_of_the_transport_do_too() {
    let (mut pair, paid) = paced();
    pair.gateway.charge_fragments(60, pair.now).unwrap();
    assert_eq!(paid.0.swap(0, Ordering::Relaxed), 480);
    for _ in 0..41 {
        pair.gateway.pong(pair.now).unwrap();
    }
    assert_eq!(paid.0.load(Ordering::Relaxed), 0, "they steer");
    assert!(pair.gateway.is_paused());
}

#[test]
fn what_is_refused_or_dropped_is_paced() {
    let (mut pair, paid) = paced();
    pair.gateway.refuse_streams();
    let open =
        Frame::Open { id: StreamId(5), target: Some(target()), payload: vec![0; 1000].into(), fin: false, udp: false };
    raw(&mut pair.gateway, &[open], pair.now).unwrap();
    assert_eq!(paid.0.load(Ordering::Relaxed), 1008);
    let mut pair = Pair::open(Encoding::V2);
    let paid = Arc::new(Counted::default());
    pair.gateway.pace(Arc::clone(&paid) as Arc<dyn Pacer>);
    pair.client.open_udp(pair.now).unwrap();
    pair.exchange();
    pair.gateway.pace(Arc::new(Slow(pair.now + Duration::from_secs(1))) as Arc<dyn Pacer>);
    raw(&mut pair.gateway, &[data(1, 10_000)], pair.now).unwrap();
    assert!(!pair.gateway.is_paused(), "nothing was dropped");
    pair.gateway.pace(Arc::clone(&paid) as Arc<dyn Pacer>);
    raw(&mut pair.gateway, &vec![data(1, 10_000); 20], pair.now).unwrap();
    let dropped = 20 * 10_000 - 64 * 1024;
    let paid = paid.0.load(Ordering::Relaxed);
    assert!((dropped..dropped + 20_000).contains(&paid), "{paid} of about {dropped}: datagrams that nobody took");
}

#[test]
fn the_rate_holds_up_the_session() {
    let (mut pair, _) = paced();
    let until = pair.now + Duration::from_secs(3);
    pair.gateway.pace(Arc::new(Slow(until)));
    raw(&mut pair.gateway, &[Frame::Padding(60_000)], pair.now).unwrap();
    assert!(pair.gateway.is_paused());
    assert_eq!(pair.gateway.poll_timeout(), Some(until));
    pair.gateway.handle_timeout(until).unwrap();
    assert!(!pair.gateway.is_paused());
    raw(&mut pair.gateway, &[data(3, 1000)], until).unwrap();
    assert!(!pair.gateway.is_paused(), "what moves is paced where it is billed");
}

#[test]
fn a_flood_of_them_ends_the_session() {
    for (name, frame, _) in idle() {
        let mut pair = Pair::open_with(Encoding::V2, Limits { idle_frames_per_second: 50, ..limits() });
        pair.stream();
        pair.stream();
        let reset = Frame::Reset { id: StreamId(1), code: StreamCode::Cancelled };
        raw(&mut pair.gateway, &[reset], pair.now).unwrap();
        pair.gateway.idle = TokenBucket::new(50, pair.now);
        raw(&mut pair.gateway, &vec![frame.clone(); 50], pair.now).unwrap();
        let flood = raw(&mut pair.gateway, &[frame], pair.now);
        assert_eq!(flood, Err(SessionError::Flood("frames that move nothing")), "{name}");
    }
    let mut pair = Pair::open_with(Encoding::V2, Limits { idle_frames_per_second: 50, ..limits() });
    assert!(pair.gateway.charge_fragments(51, pair.now).is_err());
}

#[test]
fn before_hello_little_is_read_and_nothing_answered() {
    let mut pair = Pair::greeting(Encoding::V2, limits());
    raw(&mut pair.gateway, &[Frame::Ping([0; 8]), Frame::Padding(100)], pair.now).unwrap();
    assert!(pair.gateway.poll_transmit().is_none());
    raw(&mut pair.gateway, &[Frame::Padding(65_000)], pair.now).unwrap();
    let more = raw(&mut pair.gateway, &[Frame::Padding(1000)], pair.now);
    assert_eq!(more, Err(SessionError::Unexpected("so much before `hello`")));
    assert!(pair.gateway.is_unheard());
    pair.gateway.close(Some(SessionCode::ProtocolError), "why", None);
    assert!(matches!(pair.gateway.poll_transmit(), Some(Transmit::Close(_))), "no error before it");
    let mut pair = Pair::greeting(Encoding::V2, limits());
    raw(&mut pair.gateway, &[Frame::Padding(60_000)], pair.now).unwrap();
    raw(&mut pair.gateway, &[Frame::Hello(Box::new(hello()))], pair.now).unwrap();
    raw(&mut pair.gateway, &[Frame::Padding(60_000)], pair.now).unwrap();
    assert!(!pair.gateway.is_paused(), "what came before does not count as early data");
}
