use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const LOCAL_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn named(client: &str, local: &str) -> Named {
    Named { client: client.parse().unwrap(), local: local.parse().unwrap() }
}

/// A header with what follows it, in pieces: what was read of it, and what is left in the socket.
async fn taken(bytes: &[u8], piece: usize) -> (Result<Option<Named>, HeaderError>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    near.set_nodelay(true).unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    let pieces: Vec<Vec<u8>> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
    let writer = tokio::spawn(async move {
        for piece in pieces {
            if near.write_all(&piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    let result = read(&far).await;
    let mut rest = Vec::new();
    if result.is_ok() {
        far.read_to_end(&mut rest).await.unwrap();
    }
    drop(far);
    writer.await.unwrap();
    (result, rest)
}

#[tokio::test]
async fn headers_of_both_versions_in_any_pieces_and_not_a_byte_more() {
    let ends = named("192.0.2.7:56324", "198.51.100.1:443");
    let ends6 = named("[2001:db8::7]:1", "[2001:db8::1]:443");
    let mixed = named("192.0.2.7:56324", "[2001:db8::1]:443");
    let mut extended = ends.header(Version::V2).unwrap();
    extended[15] += 7;
    extended.extend([0x04, 0, 4, 1, 2, 3, 4]);
    let headers: Vec<(Vec<u8>, Option<Named>)> = vec![
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n".to_vec(), Some(ends)),
        (b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 56324 443\r\n".to_vec(), Some(mixed)),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
        (LOCAL_V2.to_vec(), None),
        (extended, Some(ends)),
        (ends.header(Version::V1).unwrap(), Some(ends)),
        (ends6.header(Version::V1).unwrap(), Some(ends6)),
        (ends6.header(Version::V2).unwrap(), Some(ends6)),
        (mixed.header(Version::V1).unwrap(), Some(mixed)),
        (mixed.header(Version::V2).unwrap(), Some(mixed)),
    ];
    for (header, expected) in headers {
        for piece in [1, 3, 16, 4096] {
            let (result, rest) = taken(&[&header[..], b"\x16\x03\x01 and so on"].concat(), piece).await;
            assert_eq!(result.unwrap(), expected, "{}", header.escape_ascii());
            assert_eq!(rest, b"\x16\x03\x01 and so on", "{} in pieces of {piece}", header.escape_ascii());
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let too_long = [&LOCAL_V2[..14], &[0xff, 0xff], &[0; 4000]].concat();
    for (bytes, reason) in [
        (&b""[..], "before its first byte"),
        (b"PROXY TCP4 192.0", "after 16 bytes"),
        (&LOCAL_V2[..13], "after 13 bytes"),
        (b"\x16\x03\x01\x02", "begins with [16, 03, 01, 02]"),
        (b"GET / HTTP/1.1\r\n", "no PROXY header"),
        (b"PROXY TCP4 192.0.2.7 example.com 1 2\r\n", "destination"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 65536\r\n", "port"),
        (b"PROXY UDP4 192.0.2.7 192.0.2.8 1 2\r\n", "protocol"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\n", "port"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0", "version"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04\x01\x02\x03\x04", "12 bytes"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\x01\x02\x03\x04\x01\x02\x03\x04\0\x01\0\x02", "datagrams"),
        (&[b'P'; 200], "no PROXY header"),
        (&[&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(), "longer than 107"),
        (&too_long, "longer than 2048"),
    ] {
        let (result, _) = taken(bytes, 64).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains(reason), "{}: {error}", bytes.escape_ascii());
        assert!(!error.contains(['\r', '\n']), "{error:?}");
    }
}

#[test]
fn what_is_written_is_what_the_specification_shows() {
    let ends = named("192.0.2.7:56324", "198.51.100.1:443");
    assert_eq!(ends.header(Version::V1).unwrap(), b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n");
    let binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xdc\x04\x01\xbb";
    assert_eq!(ends.header(Version::V2).unwrap(), binary);
}
