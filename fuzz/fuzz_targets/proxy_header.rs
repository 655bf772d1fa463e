//! The PROXY header: the same answer however the network cuts it, and no byte of what follows is lost.

#![cfg_attr(fuzzing, no_main)]

use std::net::SocketAddr;

use keygate::proxy::proxy_protocol::read_header;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

fn read(bytes: &[u8], pieces: usize) -> Option<(Option<SocketAddr>, Vec<u8>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut near, mut far) = duplex(pieces);
        let feed = async {
            // The reader may have refused it and gone.
            let _ = far.write_all(bytes).await;
            drop(far);
        };
        let take = async move {
            let (source, ahead) = read_header(&mut near).await.ok()?;
            let mut rest = ahead.to_vec();
            near.read_to_end(&mut rest).await.ok()?;
            Some((source, rest))
        };
        tokio::join!(feed, take).1
    })
}

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, 1), whole);
    if let Some((source, rest)) = whole {
        assert!(bytes.ends_with(&rest) && rest.len() < bytes.len());
        assert!(source.is_none_or(|s| s.ip() == keygate::core::address::canonical(s.ip())));
    }
});
