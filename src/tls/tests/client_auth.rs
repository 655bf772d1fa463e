//! Certificates of clients: which ones are accepted, under which name, and for how long.

use rcgen::{DistinguishedName, SanType};

use super::*;

fn named(common_name: &str) -> CertificateParams {
    let mut params = params(&[], 2100);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Example, Inc.");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn subject(pair: &Pair) -> Option<String> {
    let now = Clock::system().now();
    let subject = client_subject(pair.1.get_ref().1, now).unwrap();
    subject.map(|s| s.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn client_certificates_required_and_optional() {
    let (ca, stranger, dir) = (Authority::new("ca"), Authority::new("stranger"), Dir::new());
    let ca_file = dir.write("ca.crt", &ca.pem);
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let mut files = server_files(vec![pair]);

    let anonymous = client_files(&ca_file);
    let with = |certificate| TlsClient { certificate: Some(certificate), ..anonymous.clone() };
    let known = with(dir.pair("alice", &ca.issue(&named("alice"))));
    let unknown = with(dir.pair("mallory", &stranger.issue(&named("alice"))));
    let alice = r"CN=alice,O=Example\, Inc.";

    let none = ClientAuth::None;
    let optional = ClientAuth::Optional { ca: ca_file.clone() };
    let required = ClientAuth::Required { ca: ca_file.clone() };
    let cases = [
        ("none, anonymous", &none, &anonymous, Ok(None)),
        ("none, known", &none, &known, Ok(None)),
        ("optional, anonymous", &optional, &anonymous, Ok(None)),
        ("optional, known", &optional, &known, Ok(Some(alice.to_owned()))),
        ("optional, unknown", &optional, &unknown, Err(())),
        ("required, anonymous", &required, &anonymous, Err(())),
        ("required, known", &required, &known, Ok(Some(alice.to_owned()))),
        ("required, unknown", &required, &unknown, Err(())),
    ];
    for (name, auth, client, want) in cases {
        files.client_auth = auth.clone();
        let met = meet(&load_server(&files), &load_client(client, "a.example")).await;
        assert_eq!(met.map(|pair| subject(&pair)).map_err(|_| ()), want, "{name}");
    }
}

#[tokio::test]
async fn subjects_are_safe_in_a_header() {
    let (ca, dir) = (Authority::new("ca"), Dir::new());
    let ca_file = dir.write("ca.crt", &ca.pem);
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let mut files = server_files(vec![pair]);
    files.client_auth = ClientAuth::Required { ca: ca_file.clone() };
    let server = load_server(&files);

    let spiffe = {
        let mut params = params(&[], 2100);
        params.distinguished_name = DistinguishedName::new();
        let uri = "spiffe://example.org/ns/default/sa/web".try_into().unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
        params
    };
    let nameless = {
        let mut params = params(&[], 2100);
        params.distinguished_name = DistinguishedName::new();
        params
    };
    let odd = {
        let mut params = named("x");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "DE ");
        params.distinguished_name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "own");
        params
    };
    let cases = [
        ("plain", named("alice"), Some(r"CN=alice,O=Example\, Inc.")),
        (
            "forged",
            named("a,CN=root\r\nX-Org-Id: 1"),
            Some(r"CN=a\,CN\=root%0D%0AX-Org-Id: 1,O=Example\, Inc."),
        ),
        ("umlaut", named("Jörg 100%"), Some(r"CN=J%C3%B6rg 100%25,O=Example\, Inc.")),
        ("edges", named(" #x "), Some(r"CN=\ #x\ ,O=Example\, Inc.")),
        ("odd", odd, Some(r"1.2.3.4=own,C=DE\%20")),
        ("spiffe", spiffe, Some("URI:spiffe://example.org/ns/default/sa/web")),
        ("nameless", nameless, None),
    ];
    for (name, params, want) in cases {
        let client = TlsClient {
            certificate: Some(dir.pair("client", &ca.issue(&params))),
            ..client_files(&ca_file)
        };
        let pair = meet(&server, &load_client(&client, "a.example")).await.unwrap();
        assert_eq!(subject(&pair).as_deref(), want, "{name}");
    }
    // Longer than any header should be: refused, never truncated.
    let client = TlsClient {
        certificate: Some(dir.pair("client", &ca.issue(&named(&"x".repeat(5000))))),
        ..client_files(&ca_file)
    };
    let pair = meet(&server, &load_client(&client, "a.example")).await.unwrap();
    assert_eq!(
        client_subject(pair.1.get_ref().1, Clock::system().now()),
        Err(ClientCertificateError::Unreadable)
    );
}

#[tokio::test]
async fn sessions_resume_but_not_past_a_change_of_authorities() {
    let (ca, next, dir) = (Authority::new("ca"), Authority::new("next"), Dir::new());
    let ca_file = dir.write("ca.crt", &ca.pem);
    let clients = dir.write("clients.crt", &ca.pem);
    let pair = dir.pair("server", &ca.issue(&params(&["a.example"], 2100)));
    let mut files = server_files(vec![pair]);
    files.client_auth = ClientAuth::Required { ca: clients };
    let server = load_server(&files);
    let alice = TlsClient {
        certificate: Some(dir.pair("alice", &ca.issue(&named("alice")))),
        ..client_files(&ca_file)
    };
    let client = load_client(&alice, "a.example");

    assert_eq!(kind(&meet(&server, &client).await.unwrap()), HandshakeKind::Full);
    let resumed = meet(&server, &client).await.unwrap();
    assert_eq!(kind(&resumed), HandshakeKind::Resumed);
    // The identity of the first handshake is included, and its dates are still checked.
    assert_eq!(subject(&resumed).as_deref(), Some(r"CN=alice,O=Example\, Inc."));
    let far_future = Clock::manual(4_200_000_000).now();
    assert_eq!(
        client_subject(resumed.1.get_ref().1, far_future),
        Err(ClientCertificateError::Expired)
    );

    // Another certificate of ours is not a reason to start again.
    dir.pair("server", &ca.issue(&params(&["a.example"], 2101)));
    assert!(server.reload().unwrap());
    assert_eq!(kind(&meet(&server, &client).await.unwrap()), HandshakeKind::Resumed);

    // One more authority: everybody is verified again.
    dir.write("clients.crt", &format!("{}{}", ca.pem, next.pem));
    assert!(server.reload().unwrap());
    assert_eq!(kind(&meet(&server, &client).await.unwrap()), HandshakeKind::Full);
    assert_eq!(kind(&meet(&server, &client).await.unwrap()), HandshakeKind::Resumed);

    // The old one is gone: alice's session does not let her in.
    dir.write("clients.crt", &next.pem);
    assert!(server.reload().unwrap());
    assert!(meet(&server, &client).await.is_err());
}
