use proptest::prelude::*;

use super::*;

fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let bit = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        len @ 0..126 => bytes.push(bit | len as u8),
        len @ 126..65536 => {
            bytes.push(bit | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(bit | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let key = mask.unwrap_or_default();
    bytes.extend(mask.iter().flatten());
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, Some([1, 2, 3, 4]), payload)
}

fn read(max: usize, bytes: &[u8]) -> Result<Vec<Incoming>, Violation> {
    let mut reader = Reader::new(Side::Server, max, 4096);
    let mut buf = BytesMut::from(bytes);
    let mut messages = Vec::new();
    loop {
        match reader.next(&mut buf) {
            Ok(message) => messages.push(message),
            Err(Ok(_)) => return Ok(messages),
            Err(Err(violation)) => return Err(violation),
        }
    }
}

#[test]
fn whole_and_fragmented_messages() {
    assert_eq!(read(100, &masked(0x82, b"abc")), Ok(vec![Incoming::Binary(Bytes::from_static(b"abc"))]));
    let parts = [masked(0x01, b"he"), masked(0x89, b"p"), masked(0x00, b"ll"), masked(0x80, b"o")].concat();
    let expected = vec![Incoming::Ping(Bytes::from_static(b"p")), Incoming::Text(Bytes::from_static(b"hello"))];
    assert_eq!(read(5, &parts), Ok(expected));
    assert_eq!(read(4, &parts), Err(Violation::TooLarge), "the total counts");
}

#[test]
fn violations() {
    let cases: [(&[u8], Violation); 14] = [
        (&frame(0x82, None, b"a"), Violation::Mask),
        (&masked(0xc2, b"a"), Violation::Reserved),
        (&masked(0x83, b"a"), Violation::Reserved),
        (&masked(0x09, b"a"), Violation::Control),
        (&masked(0x89, &[0; 126]), Violation::Control),
        (&masked(0x80, b"a"), Violation::Fragment),
        (&[masked(0x01, b"a"), masked(0x81, b"b")].concat(), Violation::Fragment),
        (&masked(0x81, b"\xff"), Violation::Utf8),
        (&masked(0x88, b"\x03"), Violation::Close),
        (&masked(0x88, &1005u16.to_be_bytes()), Violation::Close),
        (&masked(0x88, b"\x03\xe8\xff"), Violation::Utf8),
        (&[0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0], Violation::TooLarge),
        (&[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Violation::TooLarge),
        (&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Violation::TooLarge),
    ];
    for (bytes, violation) in cases {
        assert_eq!(read(1000, bytes), Err(violation), "{bytes:02x?}");
    }
}

#[test]
fn a_declared_length_takes_no_memory() {
    let mut reader = Reader::new(Side::Server, 1 << 20, 4096);
    let mut buf = BytesMut::from(&[0x82u8, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0][..]);
    let before = buf.capacity();
    assert_eq!(reader.next(&mut buf), Err(Ok(1 << 20)));
    assert_eq!(buf.capacity(), before);
}

proptest! {
    #[test]
    fn what_one_side_seals_the_other_reads(payload in prop::collection::vec(any::<u8>(), 0..70_000), client: bool, cut in 0usize..80, split in 0usize..70_000) {
        let (side, other) = if client { (Side::Client, Side::Server) } else { (Side::Server, Side::Client) };
        let (head, body) = payload.split_at(payload.len() - split.min(payload.len()));
        let mut message = Message::from(head).with_body(Bytes::copy_from_slice(body));
        write_header(&mut message, OpCode::Binary, side);
        let bytes = message.concat();
        let mut reader = Reader::new(other, 70_000, 4096);
        let mut buf = BytesMut::from(&bytes[..cut.min(bytes.len() - 1)]);
        prop_assert!(matches!(reader.next(&mut buf), Err(Ok(1..))));
        buf.extend_from_slice(&bytes[cut.min(bytes.len() - 1)..]);
        prop_assert_eq!(reader.next(&mut buf), Ok(Incoming::Binary(payload.into())));
        prop_assert!(buf.is_empty());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(100, &bytes).is_ok();
    }
}
