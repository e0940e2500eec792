use std::hint::black_box;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{channel, sync_channel};
use std::task::{Context, Poll, Waker};

use aws_lc_rs::aead::{AES_128_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use httvps::clock::Clock;
use httvps::net::tls::Identity;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConnection, SideData};
use shadowsocks::config::ServerType;
use shadowsocks::context::Context as CipherContext;
use shadowsocks::crypto::CipherKind;
use shadowsocks::relay::tcprelay::crypto_io::{DecryptedReader, EncryptedWriter, StreamType};
use tokio::io::{AsyncWrite, ReadBuf};

use crate::handshake::server;
use crate::measure::thread_cpu_seconds;

const METHOD: CipherKind = CipherKind::CHACHA20_POLY1305;
const KEY: [u8; 32] = [7; 32];
const SALT: [u8; 32] = [9; 32];
const PIECE: usize = 16_383;
const PIECES: usize = 64;
const RECORD: usize = 16_384;
const RECORDS: usize = 128;
const BATCHES: usize = 4;

/// The ciphers of both sides without framing; encryption costs as much as decryption.
pub(crate) struct Passage {
    ciphers: [LessSafeKey; 2],
    pieces: u64,
}

impl Default for Passage {
    fn default() -> Self {
        let key = |of: &'static Algorithm| LessSafeKey::new(UnboundKey::new(of, &KEY[..of.key_len()]).unwrap());
        Self { ciphers: [key(&AES_128_GCM), key(&CHACHA20_POLY1305)], pieces: 0 }
    }
}

impl Passage {
    pub(crate) fn carry(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(PIECE) {
            self.pieces += 1;
            let mut nonce = [0; NONCE_LEN];
            nonce[..8].copy_from_slice(&self.pieces.to_le_bytes());
            for cipher in &self.ciphers {
                let nonce = Nonce::assume_unique_for_key(nonce);
                black_box(cipher.seal_in_place_separate_tag(nonce, Aad::empty(), piece).unwrap().as_ref()[0]);
            }
        }
    }
}

fn seal(into: &mut (impl AsyncWrite + Unpin), bytes: u64) {
    let mut writer = EncryptedWriter::new(StreamType::Client, METHOD, &KEY, &SALT);
    let plain = vec![0u8; PIECE];
    let mut cx = Context::from_waker(Waker::noop());
    let mut done = 0;
    while done < bytes {
        match writer.poll_write_encrypted(&mut cx, into, &plain) {
            Poll::Ready(Ok(written)) => done += written as u64,
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => panic!("memory never waits"),
        }
    }
}

pub(crate) fn shadowsocks_encrypt(bytes: u64) -> f64 {
    let before = thread_cpu_seconds();
    seal(&mut tokio::io::sink(), bytes);
    thread_cpu_seconds() - before
}

pub(crate) fn shadowsocks_decrypt(bytes: u64) -> f64 {
    let mut sealed: Vec<u8> = Vec::new();
    seal(&mut sealed, (PIECE * PIECES) as u64);
    let context = CipherContext::new_shared(ServerType::Local);
    let mut cx = Context::from_waker(Waker::noop());
    let mut plain = vec![0; RECORD];
    let before = thread_cpu_seconds();
    let mut done = 0;
    while done < bytes {
        let mut reader = DecryptedReader::new(StreamType::Client, METHOD, &KEY);
        let mut source = &sealed[..];
        for _ in 0..PIECES {
            let mut space = ReadBuf::new(&mut plain);
            match reader.poll_read_decrypted(&mut cx, &context, &mut source, &mut space) {
                Poll::Ready(Ok(())) => done += space.filled().len() as u64,
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => panic!("memory never waits"),
            }
        }
    }
    thread_cpu_seconds() - before
}

fn pair() -> (ClientConnection, ServerConnection) {
    let identity = Identity::self_signed(Clock::system().now()).unwrap();
    let mut server = ServerConnection::new(server(&identity)).unwrap();
    let suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    let provider = CryptoProvider { cipher_suites: suites, ..default_provider() };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&identity.cert).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
    }
    (client, server)
}

fn carry<A: SideData, B: SideData>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = &wire[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
}

fn write_record<T: SideData>(connection: &mut ConnectionCommon<T>, plain: &[u8], wire: &mut impl Write) {
    connection.writer().write_all(plain).unwrap();
    while connection.wants_write() {
        connection.write_tls(wire).unwrap();
    }
}

pub(crate) fn tls_encrypt(bytes: u64) -> f64 {
    let (_, mut server) = pair();
    let plain = vec![0; RECORD];
    let before = thread_cpu_seconds();
    let mut done = 0;
    while done < bytes {
        write_record(&mut server, &plain, &mut io::sink());
        done += RECORD as u64;
    }
    thread_cpu_seconds() - before
}

pub(crate) fn tls_decrypt(bytes: u64) -> f64 {
    let (mut client, mut server) = pair();
    let (full, batches) = sync_channel::<Vec<u8>>(BATCHES);
    let (empty, spare) = channel::<Vec<u8>>();
    for _ in 0..BATCHES {
        empty.send(Vec::new()).unwrap();
    }
    let sealing = std::thread::spawn(move || {
        let plain = vec![0; RECORD];
        let mut done = 0;
        while done < bytes {
            let mut batch = spare.recv().unwrap();
            batch.clear();
            for _ in 0..RECORDS {
                write_record(&mut client, &plain, &mut batch);
            }
            done += (RECORD * RECORDS) as u64;
            full.send(batch).unwrap();
        }
    });
    let mut plain = vec![0; RECORD];
    let before = thread_cpu_seconds();
    for batch in batches {
        let mut rest = &batch[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            let mut left = server.process_new_packets().unwrap().plaintext_bytes_to_read();
            while left > 0 {
                left -= server.reader().read(&mut plain).unwrap();
            }
        }
        empty.send(batch).ok();
    }
    let cpu = thread_cpu_seconds() - before;
    sealing.join().unwrap();
    cpu
}
