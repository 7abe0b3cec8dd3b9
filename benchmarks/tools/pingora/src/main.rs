//! A proxy built with Pingora that does what the other subjects of the comparison do, and no more.
//!
//!     bench-pingora 127.0.0.1:8080 127.0.0.1:9000 THREADS POOL
//!
//! It passes every request to one upstream, keeps up to POOL idle connections to it, sets
//! X-Forwarded-For and X-Forwarded-Proto, and writes no access log. A single thread, which is as one
//! worker of the other proxies, has no other thread to steal work from.

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::http::RequestHeader;
use pingora::prelude::*;
use pingora::proxy::{http_proxy_service, ProxyHttp, Session};
use pingora::server::configuration::ServerConf;

struct Relay {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Relay {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        if let Some(client) = session.client_addr().and_then(|a| a.as_inet()) {
            request.insert_header("X-Forwarded-For", client.ip().to_string())?;
        }
        request.insert_header("X-Forwarded-Proto", "http")
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, listen, upstream, threads, pool] = arguments.as_slice() else {
        eprintln!("usage: bench-pingora LISTEN UPSTREAM THREADS POOL");
        std::process::exit(2);
    };
    let threads: usize = threads.parse().expect("THREADS: a number");
    let conf = ServerConf {
        threads,
        work_stealing: threads > 1,
        upstream_keepalive_pool_size: pool.parse().expect("POOL: a number"),
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let upstream = upstream.parse().expect("UPSTREAM: ADDRESS:PORT");
    let mut service = http_proxy_service(&server.configuration, Relay { upstream });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
