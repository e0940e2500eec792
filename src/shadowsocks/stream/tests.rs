use ::shadowsocks::config::{ServerUser, ServerUserManager};
use ::shadowsocks::relay::tcprelay::proxy_listener::ProxyListener;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::shadowsocks::{AccessKey, NodeKey};

fn target() -> Target {
    Target::parse("192.0.2.1:80").unwrap()
}

#[tokio::test]
async fn a_key_with_a_relays_key_reaches_the_user_behind_it() {
    let [relay, user] = [[1; 16], [2; 16]].map(|bytes| BASE64_STANDARD.encode(bytes));
    let method = "2022-blake3-aes-128-gcm";
    let mut config = ServerConfig::new(("127.0.0.1", 0), relay.clone(), method.parse().unwrap()).unwrap();
    let mut users = ServerUserManager::new();
    users.add_user(ServerUser::new("user", vec![2; 16]));
    config.set_user_manager(users);
    let server = ProxyListener::bind(CipherContext::new_shared(ServerType::Server), &config).await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            assert_eq!(stream.handshake().await.unwrap().port(), 80);
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&request).await.unwrap();
        }
    });
    let by_url = AccessKey::parse(&format!("ss://{method}:{relay}:{user}@127.0.0.1:{port}")).unwrap().key;
    let password = format!("{relay}:{user}");
    let by_fields = NodeKey { host: "127.0.0.1".into(), port, method: method.into(), password };
    for key in [by_url, by_fields] {
        let mut stream =
            connect(&Dialer::of_defaults(), &key.server_config().unwrap(), target(), Duration::ZERO).await.unwrap();
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"ping");
    }
}

/// What a node answers, encrypted, and what a reader makes of its first `len` bytes and the end of the connection.
async fn read_of(method: &str, password: &str, len: impl Fn(usize) -> usize) -> (Vec<u8>, io::Result<()>) {
    let config = ServerConfig::new(("192.0.2.2", 1), password.to_owned(), method.parse().unwrap()).unwrap();
    let mut answer = Vec::new();
    let salt = vec![9; config.method().salt_len()];
    let mut writer = EncryptedWriter::new(StreamType::Server, config.method(), config.key(), &salt);
    for chunk in ["half ", "a file"] {
        std::future::poll_fn(|cx| writer.poll_write_encrypted(cx, &mut answer, chunk.as_bytes())).await.unwrap();
    }
    answer.truncate(len(answer.len()));
    let (near, mut far) = duplex(4096);
    let mut stream = NodeStream::new(near, &config, target(), Duration::ZERO);
    far.write_all(&answer).await.unwrap();
    far.shutdown().await.unwrap();
    let mut read = Vec::new();
    let ended = stream.read_to_end(&mut read).await.map(|_| ());
    (read, ended)
}

#[tokio::test]
async fn an_end_inside_a_chunk_is_an_error_and_between_chunks_an_end() {
    let (method, password) = ("aes-256-gcm", "hush");
    let (read, ended) = read_of(method, password, |len| len).await;
    assert_eq!((read.as_slice(), ended.is_ok()), (&b"half a file"[..], true));
    let chunk = 2 + 16 + "a file".len() + 16;
    let (read, ended) = read_of(method, password, |len| len - chunk).await;
    assert_eq!((read.as_slice(), ended.is_ok()), (&b"half "[..], true));
    for cut in [1, 5, chunk - 18, chunk - 1, chunk + 1, chunk + 30] {
        let (_, ended) = read_of(method, password, |len| len - cut).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{cut}");
    }
    let (read, ended) = read_of(method, password, |_| 0).await;
    assert!(read.is_empty() && ended.is_ok(), "{ended:?}");
}
