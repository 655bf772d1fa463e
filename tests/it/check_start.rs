//! `check` reports about addresses, files and the machine what `serve` would find: each fault with
//! its place and its remedy, by the real programs, and both with the same code.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::start::{ADMIN, LISTEN, StartFolder};

#[test]
fn the_machine_is_looked_at_as_a_start_would() {
    let setup = StartFolder::new();
    setup.write("file", b"");
    let here = setup.path().display();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let state = "state_file = \"state\"\n";
    let long = format!("address = \"unix:/{}\"\n", "a".repeat(108));
    let nowhere = format!("address = \"unix:{here}/none/a.sock\"\n");
    let file = format!("address = \"unix:{here}/file\"\n");
    let twice = format!("address = \"{taken}\"\n[[listen]]\naddress = \"{taken}\"\n");
    let any = |port: u16| {
        format!("address = \"0.0.0.0:{port}\"\n[[listen]]\naddress = \"127.0.0.1:{port}\"\n")
    };
    let sockets = format!(
        "address = \"unix:{here}/a.sock\"\n[[listen]]\naddress = \"unix:{here}/./a.sock\"\n"
    );
    let admin = "[admin]\naddress = \"0.0.0.0:9\"\n";
    let cases = [
        (
            "state: no directory",
            LISTEN,
            "state_file = \"none/state\"\n",
            ADMIN,
            "table.state_file: ",
            "cannot be written",
        ),
        (
            "state: a file on the way",
            LISTEN,
            "state_file = \"file/state\"\n",
            ADMIN,
            "table.state_file: ",
            "cannot be written",
        ),
        (
            "state: a directory",
            LISTEN,
            "state_file = \".\"\n",
            ADMIN,
            "table.state_file: ",
            "cannot be written",
        ),
        (
            "access log",
            LISTEN,
            state,
            "[log]\naccess_file = \"none/log\"\n[admin]\naddress = \"127.0.0.1:0\"\n",
            "log.access_file: ",
            "cannot be written",
        ),
        ("socket's directory", &nowhere, state, ADMIN, "listen.address: ", "cannot be bound"),
        (
            "a file in the socket's place",
            &file,
            state,
            ADMIN,
            "listen.address: ",
            "cannot be bound",
        ),
        ("too long for a socket", &long, state, ADMIN, "listen.address: ", "at most 107 bytes"),
        (
            "no such address here",
            "address = \"203.0.113.7:80\"\n",
            state,
            ADMIN,
            "listen.address: ",
            "cannot be bound",
        ),
        (
            "twice",
            &twice,
            state,
            ADMIN,
            "listen[1].address: ",
            "is also listen[0].address (line 2)",
        ),
        ("all and one", &any(taken.port()), state, ADMIN, "listen[1].address: ", "are one"),
        (
            "one socket, two spellings",
            &sockets,
            state,
            ADMIN,
            "listen[1].address: ",
            "beside another address",
        ),
        (
            "the admin listener's",
            "address = \"127.0.0.1:9\"\n",
            state,
            admin,
            "admin.address: ",
            "are one",
        ),
    ];
    for (name, listen, table, more, place, want) in cases {
        setup.configure(listen, table, more);
        let text = fs::read_to_string(setup.path().join("keygate.toml")).unwrap();
        if listen.contains("[[listen]]") {
            setup.write("keygate.toml", text.replacen("[listen]", "[[listen]]", 1).as_bytes());
        }
        let said = setup.check(&[]);
        assert_eq!(said.code, 78, "{name}: {}{}", said.out, said.err);
        let line = said.err.lines().find(|l| l.contains(place));
        let line = line.unwrap_or_else(|| panic!("{name}: {}", said.err));
        assert!(line.contains(want), "{name}: {line}");
        assert!(said.err.contains("\nhint: "), "{name}: {}", said.err);
    }
    // The checks left nothing behind.
    assert!(!setup.path().join("a.sock").exists() && !setup.path().join("state").exists());
}

/// It may be the sidecar that runs: no fault, and not silent either.
#[test]
fn an_address_in_use_is_said_not_to_be_checked() {
    let setup = StartFolder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let admin = format!("[admin]\naddress = \"{taken}\"\n");
    setup.configure(LISTEN, "state_file = \"state\"\n", &admin);
    let said = setup.check(&[]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains(&format!("\nnot checked: {taken} is in use")), "{}", said.out);
}

/// Opening a pipe waits for a writer, which a start must not do.
#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_at_once() {
    let setup = StartFolder::new();
    let pipe = setup.path().join("pipe");
    let made = Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap();
    assert!(made.success());
    let url = "http.bearer_file = \"pipe\"\n";
    let signers = "trusted_signers = [\"pipe\"]\n";
    let tls = "address = \"127.0.0.1:0\"\ntls.certificate = \"pipe\"\ntls.key = \"pipe\"\n";
    let admin = format!("{ADMIN}token_file = \"pipe\"\n");
    let assertion = format!("{ADMIN}[assertion]\nkey_file = \"pipe\"\naudience = \"a\"\n");
    let credential =
        format!("{ADMIN}[upstream.credential]\nkind = \"fixed\"\nsecret_file = \"pipe\"\n");
    let issuer = format!(
        "{ADMIN}[[tokens]]\nissuer = \"https://idp.example/\"\naudiences = [\"a\"]\n\
         algorithms = [\"EdDSA\"]\njwks = \"https://idp.example/jwks\"\njwks_ca = \"pipe\"\n\
         org_claim = \"org\"\n"
    );
    for (listen, table, more, place) in [
        (LISTEN, "", &*admin, "admin.token_file"),
        (LISTEN, "", &assertion, "assertion.key_file"),
        (LISTEN, "", &credential, "upstream.credential.secret_file"),
        (LISTEN, "", &issuer, "tokens[0].jwks_ca"),
        (LISTEN, url, ADMIN, "table.http.bearer_file"),
        (LISTEN, signers, ADMIN, "table.trusted_signers"),
        (tls, "", ADMIN, "listen.tls"),
    ] {
        setup.configure(listen, table, more);
        if table == signers {
            let text = fs::read_to_string(setup.path().join("keygate.toml")).unwrap();
            let text = text.replacen("trusted_signers = [\"signer.pub\"]\n", "", 1);
            setup.write("keygate.toml", text.as_bytes());
        }
        for said in [setup.check(&[]), setup.serve()] {
            assert_eq!(said.code, 78, "{place}: {}{}", said.out, said.err);
            assert!(said.err.contains(place), "{place}: {}", said.err);
            assert!(said.err.contains("it is no regular file"), "{place}: {}", said.err);
            assert!(said.err.contains("\nhint: "), "{place}: {}", said.err);
        }
    }
}

/// A service at keygate's own address would be a loop.
#[test]
fn the_service_is_somebody_else() {
    let setup = StartFolder::new();
    for listen in ["0.0.0.0:9", "127.0.0.1:9", "[::]:9"] {
        setup.configure(&format!("address = \"{listen}\"\n"), "state_file = \"state\"\n", ADMIN);
        for said in [setup.check(&[]), setup.serve()] {
            assert_eq!(said.code, 78, "{listen}");
            assert!(
                said.err.contains("upstream.url: is where keygate itself listens"),
                "{}",
                said.err
            );
        }
    }
}

/// Both families on one port, and the mode of a socket's file, by the real program.
#[test]
fn addresses_beside_each_other_and_the_mode_of_a_socket() {
    use std::os::unix::fs::PermissionsExt as _;
    let setup = StartFolder::new();
    let probe = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let socket = setup.path().join("a.sock");
    let listen = format!(
        "address = \"0.0.0.0:{port}\"\n[[listen]]\naddress = \"[::]:{port}\"\n\
         [[listen]]\naddress = \"unix:{}\"\nsocket_mode = \"0640\"\n",
        socket.display()
    );
    setup.configure(&listen, "state_file = \"state\"\n", ADMIN);
    let text = fs::read_to_string(setup.path().join("keygate.toml")).unwrap();
    setup.write("keygate.toml", text.replacen("[listen]", "[[listen]]", 1).as_bytes());
    let said = setup.check(&["--strict"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    let mut child = Command::new(env!("CARGO_BIN_EXE_keygate"))
        .arg("serve")
        .current_dir(setup.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let answers = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["-s", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() == "401"
    };
    let (four, six) = (format!("http://127.0.0.1:{port}/"), format!("http://[::1]:{port}/"));
    let file = socket.display().to_string();
    let end = Instant::now() + Duration::from_secs(20);
    while !answers(&[&four]) {
        let over = child.try_wait().unwrap().is_some() || Instant::now() >= end;
        assert!(!over, "it does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    // A machine may have IPv6 without an address for loopback.
    if TcpListener::bind("[::1]:0").is_ok() {
        assert!(answers(&[&six]), "IPv6");
    }
    assert!(answers(&["--unix-socket", &file, "http://a/"]), "Unix");
    let mode = fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    // A second one on the same addresses names them, and leaves the first alone.
    let said = setup.serve();
    assert_eq!(said.code, 73, "{}", said.err);
    assert!(said.err.contains("another process listens there"), "{}", said.err);
    assert!(answers(&[&four]));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A budget that cannot hold what the limits allow is reported before clients notice.
#[test]
fn a_memory_budget_that_is_too_small_is_warned_of() {
    let setup = StartFolder::new();
    for (limits, said) in [
        (
            "memory = \"16MiB\"\n",
            "warning: limits.memory: 16 MiB is room for 1310 idle connections, and \
             limits.connections allows 16384",
        ),
        ("memory = \"16MiB\"\nconnections = 1000\nconnections_per_address = 1000\n", ""),
        ("memory = \"none\"\n", ""),
    ] {
        let more = format!("{ADMIN}[limits]\n{limits}");
        setup.configure(LISTEN, "state_file = \"state\"\n", &more);
        let out = setup.check(&[]).out;
        assert_eq!(out.contains("warning: limits.memory"), !said.is_empty(), "{limits}: {out}");
        assert!(out.contains(said), "{limits}: {out}");
    }
}
