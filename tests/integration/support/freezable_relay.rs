//! A relay whose connections can freeze.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A relay to a server; freezing leaves existing connections open but carries nothing more.
pub(crate) struct FreezableRelay {
    pub(crate) port: u16,
    generation: watch::Sender<u32>,
}

impl FreezableRelay {
    pub(crate) async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (generation, seen) = watch::channel(0);
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut seen, server) = (seen.clone(), server.clone());
                seen.mark_unchanged();
                tokio::spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let mut both = [vec![0; 65_536], vec![0; 65_536]];
                    let [up, down] = &mut both;
                    loop {
                        tokio::select! {
                            biased;
                            _ = seen.changed() => break,
                            read = from_client.read(up) => match read {
                                Ok(len @ 1..) => to_server.write_all(&up[..len]).await.unwrap(),
                                _ => return,
                            },
                            read = from_server.read(down) => match read {
                                Ok(len @ 1..) => if to_client.write_all(&down[..len]).await.is_err() { return },
                                _ => return,
                            },
                        }
                    }
                    std::future::pending::<()>().await;
                });
            }
        });
        Self { port, generation }
    }

    pub(crate) fn freeze(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}
