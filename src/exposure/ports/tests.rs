//! What counts as a way to bypass the gate, without sockets.

use super::*;

fn at(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(addresses: &[&str]) -> Vec<OwnAddress> {
    addresses.iter().map(|a| OwnAddress { ip: at(a), scope: 0 }).collect()
}

fn port(ours: &[(&str, Families)]) -> ServicePort {
    let ours = ours.iter().map(|(at, families)| (at.parse().unwrap(), *families));
    ServicePort::new("127.0.0.1", 9000, ours).unwrap()
}

fn judged(
    port: &ServicePort,
    sockets: &[&str],
    answer: fn(SocketAddr) -> ConnectAttempt,
) -> Exposure {
    let sockets: Vec<_> = sockets.iter().map(|s| at(s)).collect();
    port.judge(&sockets, &own(&["10.0.0.5", "10.0.0.6", "fd00::1"]), answer)
}

#[test]
fn lines_of_both_files_are_read() {
    let v4 =
        "   2: 00000000:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 623 1";
    assert_eq!(listener(v4), Some("0.0.0.0:9000".parse().unwrap()));
    let established = v4.replace(" 0A ", " 01 ");
    assert_eq!(listener(&established), None);
    let words = |ip: &str| -> String {
        let bytes = ip.parse::<Ipv6Addr>().unwrap().octets();
        let word = |four: &[u8]| u32::from_ne_bytes(four.try_into().unwrap());
        bytes.chunks(4).map(|four| format!("{:08X}", word(four))).collect()
    };
    for (ip, want) in [("fd00::2", "[fd00::2]:80"), ("::ffff:10.0.0.1", "10.0.0.1:80")] {
        let line = format!("  0: {}:0050 {}:0000 0A 0:0", words(ip), words("::"));
        assert_eq!(listener(&line), Some(want.parse().unwrap()));
    }
    for broken in [
        "",
        "sl local_address rem_address st",
        "0: 0100:1 0:0 0A",
        "0: zz 0 0A",
        "0: ÄÄÄÄ:1 0:0 0A",
    ] {
        assert_eq!(listener(broken), None, "{broken}");
    }
}

#[test]
fn a_socket_beyond_loopback_that_answers_is_a_way_around() {
    let port = port(&[]);
    for (sockets, reached) in [
        (&["0.0.0.0"][..], &["10.0.0.5:9000"][..]),
        (&["::"], &["10.0.0.5:9000"]),
        (&["127.0.0.1", "10.0.0.6"], &["10.0.0.6:9000"]),
        (&["fd00::1", "0.0.0.0"], &["[fd00::1]:9000", "10.0.0.5:9000"]),
    ] {
        let found = judged(&port, sockets, |_| ConnectAttempt::Accepted);
        assert_eq!(found.state, super::super::ExposureState::Exposed, "{sockets:?}");
        assert_eq!(found.reached, reached, "{sockets:?}");
    }
    for sockets in [&[][..], &["127.0.0.1"], &["::1", "127.0.0.53"]] {
        assert_eq!(judged(&port, sockets, |_| ConnectAttempt::Accepted), Exposure::closed());
    }
    assert_eq!(judged(&port, &["0.0.0.0", "::"], |_| ConnectAttempt::Refused), Exposure::closed());
    // The next address is tried, including those of the other family.
    let only_v6 = |at: SocketAddr| {
        if at.is_ipv6() { ConnectAttempt::Accepted } else { ConnectAttempt::Refused }
    };
    assert_eq!(judged(&port, &["::"], only_v6).reached, ["[fd00::1]:9000"]);
    let silent = judged(&port, &["0.0.0.0"], |_| ConnectAttempt::Unclear);
    assert_eq!(silent.gauge(), -1);
    assert!(silent.why.unwrap().contains("10.0.0.5:9000, 10.0.0.6:9000"));
}

#[test]
fn sockets_of_keygate_are_no_way_around_it() {
    let gate = port(&[("10.0.0.5:9000", Families::Both), ("10.0.0.6:9001", Families::Both)]);
    assert_eq!(judged(&gate, &["10.0.0.5"], |_| ConnectAttempt::Accepted), Exposure::closed());
    // The service has every address, and the gate has its own one of them.
    assert_eq!(
        judged(&gate, &["0.0.0.0"], |_| ConnectAttempt::Accepted).reached,
        ["10.0.0.6:9000"]
    );
    for (ours, families, reached) in [
        ("0.0.0.0:9000", Families::Both, &["[fd00::1]:9000"][..]),
        ("[::]:9000", Families::OnlyIpv6, &["10.0.0.5:9000"]),
        ("[::]:9000", Families::Both, &[]),
    ] {
        let other = if ours.starts_with('0') { "::" } else { "0.0.0.0" };
        let found = judged(&port(&[(ours, families)]), &[other], |_| ConnectAttempt::Accepted);
        assert_eq!(found.reached, reached, "{ours}");
    }
}

#[test]
fn hosts_are_told_apart() {
    let new = |host| ServicePort::new(host, 1, std::iter::empty());
    for host in ["127.0.0.1", "[::1]", "::1", "localhost", "LocalHost", "0.0.0.0", "10.0.0.5"] {
        assert!(new(host).is_some(), "{host}");
    }
    for host in ["app", "localhost.example", "10.0.0"] {
        assert!(new(host).is_none(), "{host}");
    }
    // TEST-NET-1 of RFC 5737 is not an address of a machine, except in some sandboxes. The third
    // network is never one.
    let elsewhere = new("203.0.113.77").unwrap().look();
    assert_eq!(elsewhere.gauge(), -1);
}
