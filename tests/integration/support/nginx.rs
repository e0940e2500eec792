//! Debian's nginx as a child process.

use std::path::Path;
use std::process::Stdio;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::support::environment::{free_port, is_root};
use crate::support::wait::eventually;

/// A running nginx with a site: HTTP/1.1 and HTTP/2 in clear text and over TLS, each on a port of its own.
pub(crate) struct Nginx {
    _child: Child,
    folder: tempfile::TempDir,
    pub(crate) clear: u16,
    pub(crate) tls: u16,
    pub(crate) clear2: u16,
    pub(crate) tls2: u16,
}

impl Nginx {
    /// Serves a small site; `directives` go into its server, next to listeners in clear text and with a certificate.
    pub(crate) async fn site(cert: &str, key: &str, directives: &str) -> Self {
        let [clear, tls, clear2, tls2] = [(); 4].map(|()| free_port());
        let http = format!(
            "server {{\n listen 127.0.0.1:{clear};\n listen 127.0.0.1:{tls} ssl;\n listen 127.0.0.1:{clear2} http2;\n \
             listen 127.0.0.1:{tls2} ssl http2;\n ssl_certificate {cert};\n ssl_certificate_key {key};\n root site;\n \
             {directives}\n}}\n"
        );
        let (child, folder) = Self::start(&http, clear).await;
        Self { _child: child, folder, clear, tls, clear2, tls2 }
    }

    async fn start(http: &str, port: u16) -> (Child, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("site")).unwrap();
        std::fs::write(root.join("site/index.html"), "<h1>A web site</h1>\n").unwrap();
        std::fs::write(root.join("site/large.bin"), vec![b'x'; 3_000_000]).unwrap();
        let user = if is_root() { "user root;\n" } else { "" };
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", root.join(name).display()))
            .concat();
        let config = format!(
            "{user}daemon off;\nmaster_process off;\npid {0}/pid;\nerror_log {0}/error.log;\nevents {{}}\nhttp {{\n\
             access_log {0}/access.log;\n{temporary}{http}}}\n",
            root.display()
        );
        std::fs::write(root.join("nginx.conf"), config).unwrap();
        let child = Command::new(std::env::var("HTTVPS_TEST_NGINX").unwrap())
            .args(["-p", &root.to_string_lossy(), "-c", "nginx.conf", "-e", &Self::log(root)])
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        eventually(|| async {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(_) => Ok(()),
                Err(error) => Err(format!("{error}: {}", std::fs::read_to_string(Self::log(root)).unwrap_or_default())),
            }
        })
        .await;
        (child, folder)
    }

    fn log(root: &Path) -> String {
        root.join("error.log").to_string_lossy().into_owned()
    }

    /// The access log.
    pub(crate) fn requests(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }
}
