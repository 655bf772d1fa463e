//! Tunnels between in-memory streams.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{DuplexStream, duplex};
use tokio::task::yield_now;

use super::*;

const LIMITS: Limits = Limits { idle: None, half_closed: None, write: Duration::from_millis(200) };
const REVOKED: TunnelCut = TunnelCut::Close { code: 1008, reason: "key revoked" };
const GOODBYE: &[u8] = b"\x88\x0d\x03\xf0key revoked";

/// Both ends as their owners see them.
struct Ends {
    client: DuplexStream,
    server: DuplexStream,
    stop: Stop,
}

/// Runs a tunnel and a script over its ends side by side.
async fn with_tunnel<T>(
    framing: Framing,
    limits: Limits,
    buffer: usize,
    leftovers: (&'static [u8], &'static [u8]),
    script: impl AsyncFnOnce(Ends) -> T,
) -> (TunnelSummary, T) {
    let (client, mut near) = duplex(buffer);
    let (server, far) = duplex(buffer);
    let stop = Stop::new();
    let tunnel = Tunnel {
        client: &mut near,
        upstream: far,
        framing,
        from_client: Bytes::from_static(leftovers.0),
        from_upstream: Bytes::from_static(leftovers.1),
        limits,
    };
    let handle = stop.clone();
    let run = tunnel.run(move |cx| handle.poll_cut(cx));
    let both = async { tokio::join!(run, script(Ends { client, server, stop })) };
    timeout(Duration::from_secs(20), both).await.unwrap()
}

async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

async fn read_exactly<const N: usize>(stream: &mut DuplexStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_mebibyte_each_way_at_once() {
    let data: Rc<Vec<u8>> = Rc::new((0..1 << 20).map(|n: u32| (n % 251) as u8).collect());
    for buffer in [7, 4096, 65_536] {
        let length = if buffer == 7 { 1 << 16 } else { 1 << 20 };
        let data = data.clone();
        let (ended, ()) = with_tunnel(Framing::Opaque, LIMITS, buffer, (b"", b""), async |ends| {
            let (mut client_read, mut client_write) = tokio::io::split(ends.client);
            let (mut server_read, mut server_write) = tokio::io::split(ends.server);
            let send = async |to: &mut (dyn AsyncWrite + Unpin)| {
                to.write_all(&data[..length]).await.unwrap();
                to.shutdown().await.unwrap();
            };
            let receive = async |from: &mut (dyn AsyncRead + Unpin)| {
                let mut got = Vec::new();
                from.read_to_end(&mut got).await.unwrap();
                assert!(got == data[..length], "bytes changed on the way");
            };
            tokio::join!(
                send(&mut client_write),
                send(&mut server_write),
                receive(&mut client_read),
                receive(&mut server_read),
            );
        })
        .await;
        let length = length as u64;
        assert_eq!(
            ended,
            TunnelSummary {
                end: TunnelEnd::Finished,
                to_client: length,
                to_upstream: length,
                must_reset: false
            }
        );
    }
}

#[tokio::test]
async fn leftovers_go_first() {
    let (ended, ()) =
        with_tunnel(Framing::Opaque, LIMITS, 64, (b"early ", b"first "), async |mut ends| {
            ends.client.write_all(b"bird").await.unwrap();
            ends.server.write_all(b"come").await.unwrap();
            assert_eq!(&read_exactly::<10>(&mut ends.server).await, b"early bird");
            assert_eq!(&read_exactly::<10>(&mut ends.client).await, b"first come");
        })
        .await;
    assert_eq!((ended.to_client, ended.to_upstream), (10, 10));
}

#[tokio::test]
async fn one_half_ends_and_the_other_goes_on() {
    let (ended, ()) = with_tunnel(Framing::Opaque, LIMITS, 64, (b"", b""), async |mut ends| {
        ends.client.write_all(b"question").await.unwrap();
        ends.client.shutdown().await.unwrap();
        let mut question = Vec::new();
        ends.server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        settle().await;
        ends.server.write_all(b"answer").await.unwrap();
        ends.server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        ends.client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    })
    .await;
    assert_eq!(ended.end, TunnelEnd::Finished);
}

#[tokio::test]
async fn back_pressure_bounds_what_is_held() {
    let (_, ()) = with_tunnel(Framing::Opaque, LIMITS, 1024, (b"", b""), async |mut ends| {
        let flood = async {
            let mut sent = 0;
            while let Ok(Ok(count)) =
                timeout(Duration::from_millis(50), ends.server.write(&[0; 4096])).await
            {
                sent += count;
            }
            sent
        };
        // Both duplex buffers and one chunk: nothing else may hold bytes.
        assert!(flood.await <= 2 * 1024 + CHUNK);
        ends.stop.cut(TunnelCut::Abrupt);
    })
    .await;
}

#[tokio::test]
async fn cut_between_frames_says_goodbye() {
    let (ended, ()) =
        with_tunnel(Framing::WebSocket, LIMITS, 256, (b"", b"\x81\x02"), async |mut ends| {
            ends.server.write_all(b"hi").await.unwrap();
            assert_eq!(&read_exactly::<4>(&mut ends.client).await, b"\x81\x02hi");
            ends.stop.cut(REVOKED);
            // The upstream is gone before the client has said anything.
            assert_eq!(ends.server.read(&mut [0; 8]).await.unwrap(), 0);
            let mut last = Vec::new();
            ends.client.read_to_end(&mut last).await.unwrap();
            assert_eq!(last, GOODBYE);
        })
        .await;
    assert_eq!(
        ended,
        TunnelSummary { end: TunnelEnd::Cut, to_client: 4, to_upstream: 0, must_reset: false }
    );
}

#[tokio::test]
async fn cut_inside_a_frame_is_abrupt() {
    let (ended, ()) = with_tunnel(Framing::WebSocket, LIMITS, 256, (b"", b""), async |mut ends| {
        ends.server.write_all(b"\x81\x05hel").await.unwrap();
        assert_eq!(&read_exactly::<5>(&mut ends.client).await, b"\x81\x05hel");
        ends.stop.cut(REVOKED);
        assert_eq!(ends.server.read(&mut [0; 8]).await.unwrap(), 0);
    })
    .await;
    assert_eq!(
        ended,
        TunnelSummary { end: TunnelEnd::Cut, to_client: 5, to_upstream: 0, must_reset: true }
    );
}

#[tokio::test]
async fn cut_without_frames_or_words_is_abrupt() {
    let cases = [
        (Framing::Opaque, REVOKED),
        (Framing::WebSocket, TunnelCut::Abrupt),
        (Framing::Opaque, TunnelCut::Abrupt),
    ];
    for (framing, cut) in cases {
        let (ended, ()) = with_tunnel(framing, LIMITS, 256, (b"", b""), async |mut ends| {
            ends.stop.cut(cut);
            ends.stop.cut(REVOKED);
            assert_eq!(ends.server.read(&mut [0; 8]).await.unwrap(), 0);
        })
        .await;
        assert_eq!((ended.end, ended.must_reset), (TunnelEnd::Cut, true), "{framing:?} {cut:?}");
    }
}

/// After the cut, not one more byte goes either way, even of what was read before it.
#[tokio::test]
async fn nothing_passes_after_the_cut() {
    let (ended, ()) = with_tunnel(Framing::Opaque, LIMITS, 8, (b"", b""), async |mut ends| {
        ends.server.write_all(b"12345678").await.unwrap();
        settle().await;
        ends.server.write_all(b"abcdefgh").await.unwrap();
        settle().await;
        // Eight bytes wait at the client, eight more in the tunnel.
        ends.client.write_all(b"too late").await.unwrap();
        ends.stop.cut(REVOKED);
        settle().await;
        let mut got = Vec::new();
        ends.server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"");
        assert_eq!(&read_exactly::<8>(&mut ends.client).await, b"12345678");
        let more = timeout(Duration::from_millis(20), ends.client.read(&mut [0; 8])).await;
        assert!(!matches!(more, Ok(Ok(1..))), "{more:?}");
    })
    .await;
    assert_eq!((ended.to_client, ended.to_upstream, ended.must_reset), (8, 0, true));
}

/// The upstream side stops immediately although the client has never read a byte. The client is
/// given up at the write deadline.
#[tokio::test]
async fn cut_does_not_wait_for_a_client_that_does_not_read() {
    let gone_at_once = Rc::new(Cell::new(false));
    let seen = gone_at_once.clone();
    let (ended, client) =
        with_tunnel(Framing::WebSocket, LIMITS, 8, (b"", b""), async |mut ends| {
            // One whole frame fills the client's buffer to the last byte.
            ends.server.write_all(b"\x81\x06frames").await.unwrap();
            settle().await;
            ends.stop.cut(REVOKED);
            let gone = timeout(Duration::from_millis(100), ends.server.read(&mut [0; 8])).await;
            seen.set(matches!(gone, Ok(Ok(0))));
            ends.client
        })
        .await;
    drop(client);
    assert!(gone_at_once.get());
    assert_eq!(
        ended,
        TunnelSummary { end: TunnelEnd::Cut, to_client: 8, to_upstream: 0, must_reset: true }
    );
}

/// A client that reads but never ends its half is reset at the same deadline, whatever it sends.
#[tokio::test]
async fn goodbye_is_bounded() {
    let (ended, client) =
        with_tunnel(Framing::WebSocket, LIMITS, 256, (b"", b""), async |mut ends| {
            ends.stop.cut(REVOKED);
            assert_eq!(&read_exactly::<15>(&mut ends.client).await, GOODBYE);
            ends.client.write_all(b"still here").await.unwrap();
            ends.client
        })
        .await;
    drop(client);
    assert!(ended.must_reset);
}

#[tokio::test]
async fn no_second_close_frame() {
    let (ended, ()) = with_tunnel(Framing::WebSocket, LIMITS, 256, (b"", b""), async |mut ends| {
        ends.server.write_all(b"\x88\x02\x03\xe8").await.unwrap();
        assert_eq!(&read_exactly::<4>(&mut ends.client).await, b"\x88\x02\x03\xe8");
        ends.stop.cut(REVOKED);
        settle().await;
    })
    .await;
    assert_eq!((ended.to_client, ended.must_reset), (4, true));
}

#[tokio::test]
async fn idle_ends_and_progress_moves_the_deadline() {
    let limits = Limits { idle: Some(Duration::from_millis(200)), ..LIMITS };
    let (ended, ()) = with_tunnel(Framing::WebSocket, limits, 64, (b"", b""), async |mut ends| {
        for _ in 0..6 {
            sleep(Duration::from_millis(60)).await;
            ends.client.write_all(b".").await.unwrap();
            read_exactly::<1>(&mut ends.server).await;
        }
        let mut last = Vec::new();
        ends.client.read_to_end(&mut last).await.unwrap();
        assert_eq!(last, b"\x88\x06\x03\xe9idle");
    })
    .await;
    assert_eq!((ended.end, ended.to_upstream, ended.must_reset), (TunnelEnd::Idle, 6, false));
}

#[tokio::test]
async fn a_half_closed_tunnel_has_its_own_bound() {
    let limits = Limits { half_closed: Some(Duration::from_millis(50)), ..LIMITS };
    let (ended, client) = with_tunnel(Framing::Opaque, limits, 64, (b"", b""), async |mut ends| {
        sleep(Duration::from_millis(100)).await;
        ends.server.shutdown().await.unwrap();
        assert_eq!(ends.client.read(&mut [0; 8]).await.unwrap(), 0);
        ends.client
    })
    .await;
    drop(client);
    assert_eq!(ended.end, TunnelEnd::Idle);
}

/// A server that closes while the client still sends is read to its last byte.
#[tokio::test]
async fn last_words_of_an_upstream_that_takes_no_more() {
    let (ended, ()) =
        with_tunnel(Framing::WebSocket, LIMITS, 4096, (b"", b""), async |mut ends| {
            ends.server.write_all(b"\x88\x02\x03\xf1").await.unwrap();
            drop(ends.server);
            ends.client.write_all(b"unheard").await.unwrap();
            let mut last = Vec::new();
            ends.client.read_to_end(&mut last).await.unwrap();
            assert_eq!(last, b"\x88\x02\x03\xf1");
        })
        .await;
    assert_eq!(ended.end, TunnelEnd::Upstream(io::ErrorKind::BrokenPipe));
    assert_eq!(ended.to_client, 4);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_it() {
    let (ended, ()) = with_tunnel(Framing::WebSocket, LIMITS, 64, (b"", b""), async |mut ends| {
        drop(ends.client);
        let mut rest = Vec::new();
        ends.server.read_to_end(&mut rest).await.unwrap();
        ends.server.write_all(b"\x81\x00").await.unwrap();
    })
    .await;
    assert!(matches!(ended.end, TunnelEnd::Client(_)), "{ended:?}");
}
