//! Both instances behind one address: a sidecar that fetches gets an answer now of one, now of the
//! other, and one of them learns late of what the other has published.

use std::io;
use std::net::TcpListener;

use super::*;

/// Leads each request to one of two servers, in turn.
fn in_turn(to: [SocketAddr; 2]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the process.
    thread::spawn(move || {
        for (n, client) in listener.incoming().flatten().enumerate() {
            thread::spawn(move || pass_on(client, to[n % 2]));
        }
    });
    address
}

/// One request, and its answer, which ends the connection.
fn pass_on(mut client: TcpStream, to: SocketAddr) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend_from_slice(&byte);
    }
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"connection: close\r\n\r\n");
    let mut server = TcpStream::connect(to)?;
    server.write_all(&head)?;
    io::copy(&mut server, &mut client)?;
    Ok(())
}

#[test]
fn a_sidecar_that_changes_its_instance_refuses_nothing() {
    let database = server().url(&server().database());
    let (folder, caller) = folder(&database);
    folder.write_secret("fleet.token", "token-of-the-fleet-0123456789");
    for name in ["a", "b"] {
        let config = format!("{name}.toml");
        let fleet =
            "[[fleets]]\nname = \"web\"\naudiences = [\"shop\"]\nbearer_file = \"fleet.token\"\n";
        // Nobody tells an instance with a pooler of changes: it looks once a second.
        let pooled = folder.read(&config).replace("[listen]", "pooled = true\n[listen]");
        folder.write(&config, &format!("{pooled}{fleet}"));
    }
    let instances = ["a", "b"].map(|name| Instance::start(&folder, name));
    let at_both = || ["a", "b"].iter().all(|n| folder.file(&format!("out-{n}/keys.kgt")).exists());
    instances[0].process.eventually("tables", at_both);
    let url = format!("http://{}/artefacts/shop", in_turn(instances.each_ref().map(|i| i.address)));
    let upstream = Upstream::start();
    let own = Folder::empty();
    own.write_secret("fleet.token", "token-of-the-fleet-0123456789");
    let config = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n[upstream]\nurl = \
         \"http://{}\"\n[[credentials]]\nsource = \"header\"\nname = \"x-api-key\"\n[[routes]]\npath = \
         \"/*\"\n[table]\naudience = \"shop\"\ntrusted_signers = [\"{}\"]\nstate_file = \"state\"\nurl = \
         \"{url}/table.kgt\"\npatch = \"{url}/patch.kgp\"\npoll = \"100ms\"\npatch_poll = \"50ms\"\n\
         [table.http]\nbearer_file = \"fleet.token\"\n",
        upstream.address,
        folder.file("signer.pub").display(),
    );
    own.write("keygate.toml", &config);
    let gate = Gate::serve(own);
    gate.wait_ready();
    let mut secret = String::new();
    for n in 0..40 {
        let body = format!("{{\"name\":\"key {n}\",\"permissions\":[\"read\"]}}");
        let to = instances[0].address;
        let (answered, made) = ask(to, &caller, "POST /v1/orgs/acme/keys", &body).unwrap();
        assert_eq!(answered, 201);
        secret = made["secret"].as_str().unwrap().to_owned();
        thread::sleep(Duration::from_millis(50));
    }
    gate.process.eventually("the last key", || status(&gate, &secret) == 200);
    assert_eq!(failures(&gate), Vec::<String>::new(), "{}", gate.log());
}
