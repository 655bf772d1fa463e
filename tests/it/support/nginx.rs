//! A real nginx that answers with what it received.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::tools;

pub(crate) struct Nginx {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

// === impl Nginx ===

impl Nginx {
    pub(crate) fn start() -> Self {
        // nginx cannot use port 0: ask the system for a free one, and again if somebody was faster.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let here = folder.path().display();
            let config = format!(
                "daemon off;\nmaster_process off;\npid {here}/pid;\nerror_log stderr;\n\
                 events {{ worker_connections 64; }}\nhttp {{\n  access_log off;\n\
                 client_body_temp_path {here}/body;\n  proxy_temp_path {here}/proxy;\n\
                 fastcgi_temp_path {here}/fastcgi;\n  uwsgi_temp_path {here}/uwsgi;\n\
                 scgi_temp_path {here}/scgi;\n  server {{\n    listen {address};\n    location / {{\n\
                 default_type text/plain;\n      return 200 \"org=$http_x_org_id key=$http_x_api_key \
                 auth=$http_authorization secret=$http_x_api_secret\\n\";\n    }}\n  }}\n}}\n"
            );
            let file = folder.path().join("nginx.conf");
            std::fs::write(&file, config).unwrap();
            let mut command = tools::command("nginx");
            command.arg("-c").arg(&file).arg("-p").arg(folder.path()).args(["-e", "stderr"]);
            let process = Process::start(&mut command);
            if process.soon(Duration::from_secs(3), || TcpStream::connect(address).is_ok()) {
                return Self { address, _process: process, _folder: folder };
            }
        }
        panic!("nginx does not start");
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
