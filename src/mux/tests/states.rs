//! The tables of docs/03, "States and frames", cell by cell.

use super::*;
use crate::frame::{Notice, Resumable, Resume, json};

const DOCUMENT: &str = include_str!("../../../docs/03-httvps-protocol.md");

/// The rows of the table behind a heading in bold: the columns' names, then each row's name and cells.
fn table(heading: &str) -> (Vec<String>, Vec<(String, Vec<String>)>) {
    let (_, behind) = DOCUMENT.split_once(&format!("**{heading}**")).unwrap_or_else(|| panic!("no {heading}"));
    let lines = behind.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut rows = lines.map(|line| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        (cells.next().unwrap(), cells.collect::<Vec<_>>())
    });
    let (_, columns) = rows.next().unwrap();
    let rows: Vec<_> = rows.skip(1).collect();
    assert!(!rows.is_empty() && rows.iter().all(|(_, cells)| cells.len() == columns.len()), "{heading}: {rows:?}");
    (columns, rows)
}

fn drop_events(session: &mut Session) {
    while session.poll_event().is_some() {}
}

fn drop_transmits(session: &mut Session) {
    while session.poll_transmit().is_some() {}
}

fn ticket() -> Token {
    Token::from("ticket".to_owned())
}

fn resumable() -> Resumable {
    Resumable { ticket: ticket(), hold: 30, resumed: false, opened: 0, streams: Vec::new() }
}

/// A gateway in a state of its session.
fn gateway(encoding: Encoding, state: &str, resumable: Option<Resumable>) -> (Session, Instant) {
    let mut pair = Pair::greeting(encoding, limits());
    let resume = (state == "resuming").then(|| Resume { ticket: ticket(), opened: 0, streams: Vec::new() });
    if state != "greeting" {
        pair.client.hello(Hello { features: Features::ALL, resume, ..hello() });
        pair.carry_up().unwrap();
    }
    if matches!(state, "open" | "draining") {
        pair.gateway.accept(HelloOk { features: Features::ALL, resume: resumable, ..consent() });
    }
    if state == "draining" {
        pair.gateway.refuse_streams();
    }
    drop_transmits(&mut pair.gateway);
    drop_events(&mut pair.gateway);
    (pair.gateway, pair.now)
}

/// A client in a state of its session, with stream 1 behind its hello.
fn client(state: &str, resumable: Option<Resumable>) -> (Session, Instant) {
    let mut pair = Pair::greeting(Encoding::V2, limits());
    pair.client.hello(Hello { features: Features::ALL, ..hello() });
    pair.client.open(&target(), Bytes::new(), pair.now).unwrap();
    pair.carry_up().unwrap();
    if state != "greeting" {
        pair.gateway.accept(HelloOk { resume: resumable, ..consent() });
    }
    if state == "draining" {
        pair.gateway.refuse_streams();
    }
    pair.exchange();
    if state == "resuming" {
        pair.client.resume_with(hello(), &ticket(), pair.now);
        drop_transmits(&mut pair.client);
    }
    drop_events(&mut pair.client);
    (pair.client, pair.now)
}

/// What a message led to, in the words of the tables.
fn outcome(session: &mut Session, result: &Result<(), SessionError>) -> String {
    if let Err(error) = result {
        assert_eq!(error.code(), SessionCode::ProtocolError);
        return if session.is_unheard() { "silence" } else { "error" }.into();
    }
    let event = std::iter::from_fn(|| session.poll_event()).find(|event| !matches!(event, Event::Wake(_)));
    let answer = if session.wants_transmit() { session.control.pop_front() } else { None };
    let word = match (event, answer) {
        (_, Some(Frame::Pong(_))) => "PONG",
        (_, Some(Frame::Reset { code, .. } | Frame::StreamError { code, .. })) => return format!("RESET {code}"),
        (Some(Event::Hello(_)), _) => "hello",
        (Some(Event::Accepted(_)), _) => "opened",
        (Some(Event::Opened { .. }), _) => "opens",
        (Some(Event::GoingAway { .. }), _) => "draining",
        (Some(Event::Notice(_)), _) => "told",
        (Some(Event::Ended { .. }), None) if session.is_resuming() => "held, or closed",
        _ if session.is_closed() => "closed",
        (None, None) => "ignored",
        (event, answer) => panic!("{event:?} {answer:?}"),
    };
    word.into()
}

fn frame_named(name: &str, id: u32) -> Frame {
    let code = SessionCode::GoingAway;
    let id = StreamId(id);
    match name {
        "HELLO" | "hello" => Frame::Hello(Box::new(Hello { features: Features::ALL, ..hello() })),
        "HELLO_OK" | "hello_ok" => Frame::HelloOk(consent()),
        "ERROR" | "error" => Frame::Error { code, message: String::new(), retry_after_ms: None },
        "error with stream_id" => Frame::StreamError { id, code: StreamCode::Blocked, message: String::new() },
        "PING" => Frame::Ping([0; 8]),
        "PONG" => Frame::Pong([0; 8]),
        "GOAWAY" => Frame::GoAway { last: StreamId(1), reconnect_in_ms: 0, code },
        "PADDING" => Frame::Padding(3),
        "NOTICE" | "notice" => Frame::Notice(Notice::Maintenance { within_ms: 1 }),
        "OPEN" | "stream_open" => {
            Frame::Open { id, target: Some(target()), payload: Bytes::new(), fin: false, udp: false }
        }
        "DATA" | "stream_data" => Frame::Data { id, payload: Bytes::from_static(b"x"), fin: false },
        "DATA, FIN" => Frame::Data { id, payload: Bytes::from_static(b"x"), fin: true },
        "WINDOW" | "stream_window" => Frame::Window { id, consumed: 0, limit: 200_000 },
        "RESET" | "code" => Frame::Reset { id, code: StreamCode::Refused },
        "stream_close" => Frame::Close { id, half: false },
        "half" => Frame::Close { id, half: true },
        other => panic!("no frame {other}"),
    }
}

fn message(encoding: Encoding, name: &str, id: u32) -> Bytes {
    match name {
        "type 0x80" => Bytes::from_static(b"\x80\0\0\x01\0\0\0\x01x"),
        "type 0x7f" => Bytes::from_static(b"\x7f\0\0\0\0\0\0\x01"),
        "an unknown type" => Bytes::from_static(b"{\"type\":\"later\"}"),
        _ => written(encoding, &frame_named(name, id)),
    }
}

fn written(encoding: Encoding, frame: &Frame) -> Bytes {
    match encoding {
        Encoding::V1 => {
            let mut text = Vec::new();
            json::encode(frame, Features::ALL, &mut text);
            text.into()
        }
        Encoding::V2 => {
            let mut bytes = BytesMut::new();
            binary::encode(frame, &mut bytes);
            bytes.freeze()
        }
    }
}

/// Compares every cell with what happens; a cell that leaves it to the stream's table must name a stream that is open.
fn drive(heading: &str, encoding: Encoding, session: impl Fn(&str) -> (Session, Instant)) {
    let (states, rows) = table(heading);
    for (name, cells) in rows {
        for (state, cell) in states.iter().zip(cells) {
            let (mut session, now) = session(state);
            let result = session.handle_message(message(encoding, &name, 1), now);
            let expected = match (cell.as_str(), encoding, session.role) {
                ("stream", Encoding::V2, Role::Gateway) => "WINDOW" != name,
                ("stream", Encoding::V1, _) | ("stream", _, Role::Client) => false,
                _ => {
                    assert_eq!(outcome(&mut session, &result), cell, "{heading}: {name}, {state}");
                    continue;
                }
            };
            assert_eq!(result.is_err(), expected, "{heading}: {name}, {state}: stream 1 was never opened, or is free");
        }
    }
}

#[test]
fn every_cell_of_the_sessions() {
    for resumable in [None, Some(resumable())] {
        let resumable = || resumable.clone();
        drive("Session, v2, at the gateway", Encoding::V2, |state| gateway(Encoding::V2, state, resumable()));
        drive("Session, v1, at the gateway.", Encoding::V1, |state| gateway(Encoding::V1, state, resumable()));
        drive("Session, v2, at a client.", Encoding::V2, |state| client(state, resumable()));
    }
}

#[test]
fn every_cell_of_a_lost_connection() {
    let (columns, rows) = table("A lost connection.");
    assert_eq!(columns, ["gateway, with a ticket", "client, with a ticket", "without a ticket"]);
    let word = |session: &Session| if session.is_resumable() { "held" } else { "closed" };
    for (state, cells) in rows {
        for encoding in [Encoding::V1, Encoding::V2] {
            assert_eq!(
                word(&gateway(encoding, &state, Some(resumable())).0),
                cells[0],
                "{encoding:?} gateway, {state}"
            );
            assert_eq!(word(&gateway(encoding, &state, None).0), cells[2], "{encoding:?} gateway, {state}");
        }
        let has_ticket = state != "greeting";
        if !cells[1].is_empty() {
            assert_eq!(word(&client(&state, has_ticket.then(resumable)).0), cells[1], "client, {state}");
        }
        if !matches!(state.as_str(), "deciding" | "resuming" | "greeting") {
            assert_eq!(word(&client(&state, None).0), cells[2], "client, {state}");
        }
    }
}

/// An open session with a stream in a state, and the stream's id.
fn stream(encoding: Encoding, state: &str) -> (Pair, u32) {
    let mut pair =
        Pair::featured(encoding, if encoding == Encoding::V1 { Features::ALL } else { Features::NONE }, limits());
    let (ours, theirs) = pair.stream();
    let id = match state {
        "an even id" => 2,
        "above the last opened" => 3,
        "free" => 5,
        _ => 1,
    };
    match state {
        "half closed (remote)" => pair.client.finish(ours),
        "half closed (local)" => pair.gateway.finish(theirs),
        "closed, or left out" => pair.client.reset(ours, StreamCode::Cancelled),
        _ => {}
    }
    pair.exchange();
    if state == "closed, or left out" {
        assert!(matches!(pair.gateway.receive(theirs), Received::Reset(_)));
    }
    drop_events(&mut pair.gateway);
    (pair, id)
}

/// What a frame made of stream 1, in the words of the tables.
fn change(pair: &mut Pair, state: &str, before: (u64, u64), result: &Result<(), SessionError>) -> String {
    let seen = outcome_of_stream(&mut pair.gateway, result);
    if seen != "ignored" {
        return seen;
    }
    let Some(stream) = pair.gateway.streams.values().next() else {
        return if state.starts_with("closed") { "ignored" } else { "closed" }.into();
    };
    let (received, limit) = (stream.incoming.received, stream.outgoing.limit);
    let finished = (stream.incoming.finished, stream.outgoing.finished);
    let was_finished = (state == "half closed (remote)", state == "half closed (local)");
    if stream.reset.is_some() || finished == (true, true) && was_finished != (true, true) {
        "closed".into()
    } else if finished != was_finished {
        "half closed (remote)".into()
    } else if received > before.0 {
        "taken".into()
    } else if limit > before.1 && !finished.1 {
        "credit".into()
    } else {
        "ignored".into()
    }
}

fn outcome_of_stream(session: &mut Session, result: &Result<(), SessionError>) -> String {
    session.events.retain(|event| !matches!(event, Event::Wake(_)));
    outcome(session, result)
}

#[test]
fn every_cell_of_the_streams() {
    for (heading, encoding) in
        [("Stream, v2, at the gateway.", Encoding::V2), ("Stream, v1 with all features, at the gateway", Encoding::V1)]
    {
        let (names, rows) = table(heading);
        for (state, cells) in rows {
            for (name, cell) in names.iter().zip(cells) {
                let (mut pair, id) = stream(encoding, &state);
                let before = pair.gateway.streams.values().next();
                let before = before.map_or((0, 0), |stream| (stream.incoming.received, stream.outgoing.limit));
                let result = pair.gateway.handle_message(message(encoding, name, id), pair.now);
                let changed = change(&mut pair, &state, before, &result);
                assert_eq!(changed, cell, "{heading}: {name}, {state}");
            }
        }
    }
}

#[test]
fn a_client_reads_the_streams_table_as_the_gateway_does() {
    let (mut pair, _) = stream(Encoding::V2, "half closed (remote)");
    let late = message(Encoding::V2, "DATA, FIN", 1);
    assert_eq!(pair.client.handle_message(late.clone(), pair.now), Ok(()), "half closed (local) at the client: taken");
    assert_eq!(pair.client.handle_message(late, pair.now), Ok(()));
    assert!(pair.client.handle_message(message(Encoding::V2, "OPEN", 3), pair.now).is_err());
    assert!(pair.client.handle_message(message(Encoding::V2, "DATA", 3), pair.now).is_err());
    assert_eq!(pair.client.handle_message(message(Encoding::V2, "WINDOW", 3), pair.now), Ok(()));
}

/// An open session that can be resumed, with a stream on which either side has sent a byte.
fn resumable_stream(encoding: Encoding, state: &str) -> Pair {
    let mut pair =
        Pair::greeting(encoding, Limits { kept: Arc::new(MemoryBudget::new(99)), kept_per_session: 99, ..limits() });
    pair.client.hello(Hello { features: Features::ALL, ..hello() });
    pair.exchange();
    pair.gateway.accept(HelloOk { features: Features::ALL, resume: Some(resumable()), ..consent() });
    pair.exchange();
    let (ours, theirs) = pair.stream();
    send_all(&mut pair.client, ours, b"x");
    send_all(&mut pair.gateway, theirs, b"x");
    if state != "open" {
        pair.gateway.finish(theirs);
    }
    if state == "both ended" {
        pair.client.finish(ours);
    }
    pair.exchange();
    let end = receive_all(&mut pair.gateway, theirs, pair.now).1;
    assert_eq!(end == Received::Finished, state == "both ended");
    drop_transmits(&mut pair.gateway);
    drop_events(&mut pair.gateway);
    pair
}

#[test]
fn every_cell_of_streams_that_can_be_resumed() {
    let (names, rows) = table("Stream with resume in force, at the gateway.");
    for encoding in [Encoding::V1, Encoding::V2] {
        for (state, cells) in &rows {
            for (name, cell) in names.iter().zip(cells) {
                let mut pair = resumable_stream(encoding, state);
                let id = StreamId(1);
                let frame = match name.as_str() {
                    "WINDOW up to the size" => Frame::Window { id, consumed: 1, limit: 200_000 },
                    "WINDOW, size + 1" => Frame::Window { id, consumed: 2, limit: 200_000 },
                    _ => frame_named(name, 1),
                };
                pair.gateway.handle_message(written(encoding, &frame), pair.now).unwrap();
                let word = match pair.gateway.streams.values().next() {
                    None => "closed",
                    Some(stream) if stream.reset.is_some() => "closed",
                    Some(stream) if stream.outgoing.end_taken => "end taken",
                    Some(stream) if !stream.outgoing.finished && stream.outgoing.limit == 200_000 => "credit",
                    Some(_) => "ignored",
                };
                assert_eq!(word, cell, "{encoding:?}: {name}, {state}");
            }
        }
    }
}
