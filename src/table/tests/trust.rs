//! Whose signature counts, and what a signature is.

use crate::core::KeySpec;
use crate::table::testkit::*;
use crate::table::write::SealError;
use crate::table::*;

fn hex(text: &str) -> [u8; 32] {
    BodyHash::parse(text).unwrap().0
}

/// A signature that aws-lc-rs accepts for a key of small order, whatever the message: `R` is the
/// identity, `S` is 0. It is why such a key must never be trusted.
fn forged_for(key: [u8; 32], message: &[u8]) -> bool {
    let mut signature = [0u8; 64];
    signature[0] = 1;
    aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, key)
        .verify(message, &signature)
        .is_ok()
}

macro_rules! small_order {
    ($( $name:ident $hex:literal, )*) => { $(
        #[test]
        fn $name() {
            assert_eq!(PublicKey::from_raw(hex($hex)), Err(PublicKeyError::SmallOrder));
        }
    )* };
}

// The eight canonical encodings of points of small order.
small_order! {
    small_order_1_identity "0100000000000000000000000000000000000000000000000000000000000000",
    small_order_2 "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    small_order_4 "0000000000000000000000000000000000000000000000000000000000000000",
    small_order_4_negative "0000000000000000000000000000000000000000000000000000000000000080",
    small_order_8_a "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    small_order_8_a_negative "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    small_order_8_b "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    small_order_8_b_negative "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
}

#[test]
fn non_canonical_keys() {
    let sign = |mut key: [u8; 32]| {
        key[31] |= 0x80;
        key
    };
    let p = hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
    for above in 0..19u8 {
        let mut key = p;
        key[0] += above;
        for key in [key, sign(key)] {
            assert_eq!(PublicKey::from_raw(key), Err(PublicKeyError::NonCanonical), "p + {above}");
        }
    }
    // x = 0 has no negative: these two are spellings of the identity and of the point of order 2.
    let identity = hex("0100000000000000000000000000000000000000000000000000000000000080");
    let order_2 = hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff");
    for key in [identity, order_2] {
        assert_eq!(PublicKey::from_raw(key), Err(PublicKeyError::SmallOrder));
    }
}

#[test]
fn the_library_itself_takes_the_identity() {
    let identity = hex("0100000000000000000000000000000000000000000000000000000000000000");
    assert!(forged_for(identity, b"any message"), "then our own check could go");
}

#[test]
fn ordinary_keys_are_taken_in_every_spelling() {
    for seed in 0..50 {
        let key = Signer::new(seed).key;
        assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        assert_eq!(PublicKey::parse(&key.spki_pem()), Ok(key));
        assert_eq!(SignerId::parse(&key.id().to_string()), Some(key.id()));
    }
    let two = [Signer::new(1).key.spki_pem(), Signer::new(2).key.spki_pem()].concat();
    for text in ["", "ed25519:", "ed25519:AAAA", "-----BEGIN PUBLIC KEY-----", "rsa:AAAA", &two] {
        assert!(PublicKey::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn openssl_agrees_on_the_spelling_of_a_key() {
    // RFC 8410 section 10.1, and its identifier by `openssl pkey -pubin -outform DER | sha256sum`.
    let pem = "-----BEGIN PUBLIC KEY-----\n\
               MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
               -----END PUBLIC KEY-----\n";
    let key = PublicKey::parse(pem).unwrap();
    assert_eq!(key.spki_pem(), pem);
    assert_eq!(key.id().to_string(), "ed25519:a1e9156054e04fac");
}

/// `S + L` satisfies the equation just as `S` does. If it were accepted, one publication would have
/// two files.
#[test]
fn malleable_signatures_are_refused() {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let signer = Signer::new(1);
    let mut file = table_file(&[spec(1)], issue(1, &[&signer]), &[&signer]);
    assert!(Table::open(file.clone(), &signer.trust(), &Bounds::default()).is_ok());
    let mut message = body(&[spec(1)]).into_table(issue(1, &[&signer])).unwrap();
    let signature = signer.sign(message.message());
    let at = file.windows(64).position(|w| w == signature).unwrap() + 32;
    let mut carry = 0u16;
    for (byte, l) in file[at..at + 32].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(l) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0, "S + L fits");
    let opened = Table::open(file.clone(), &signer.trust(), &Bounds::default());
    assert_eq!(opened.unwrap_err().reason(), "bad_signature");
    let malleable = file[at - 32..at + 32].try_into().unwrap();
    assert!(message.attach(&signer.key, &malleable).is_err(), "nor can it be attached");
}

#[test]
fn k_of_n() {
    let [a, b, c] = [1, 2, 3].map(Signer::new);
    let two_of_three = Trust::new([a.key, b.key, c.key], 2, AUDIENCE).unwrap();
    let all = [&a, &b, &c];
    let file = |by: &[&Signer]| table_file(&[spec(1)], issue(1, &all), by);
    let reason = |file: Vec<u8>, trust: &Trust| {
        Table::open(file, trust, &Bounds::default()).err().map(|r| r.reason())
    };
    assert_eq!(reason(file(&[&a]), &two_of_three), Some("few_signers"));
    assert_eq!(reason(file(&[&a, &c]), &two_of_three), None);
    assert_eq!(reason(file(&all), &two_of_three), None);
    assert_eq!(reason(file(&[]), &two_of_three), Some("unsigned"));
    assert_eq!(reason(file(&[&b]), &a.trust()), Some("unknown_signer"));
    // A stranger's signature next to a trusted one does no harm and counts for nothing.
    assert_eq!(reason(file(&[&a, &b]), &a.trust()), None);
    let a_and_d = Trust::new([a.key, Signer::new(4).key], 2, AUDIENCE).unwrap();
    assert_eq!(reason(file(&[&a, &b]), &a_and_d), Some("few_signers"));
}

#[test]
fn trust_that_makes_no_sense() {
    let (a, b) = (Signer::new(1).key, Signer::new(2).key);
    assert!(matches!(Trust::new([], 1, "x"), Err(TrustError::NoSigner)));
    assert!(matches!(Trust::new([a, a], 1, "x"), Err(TrustError::Duplicate(id)) if id == a.id()));
    assert!(matches!(Trust::new([a, b], 0, "x"), Err(TrustError::Required { .. })));
    assert!(matches!(Trust::new([a, b], 3, "x"), Err(TrustError::Required { .. })));
}

#[test]
fn a_rotation_of_signers_has_no_gap() {
    let (old, new) = (Signer::new(1), Signer::new(2));
    let both = Trust::new([old.key, new.key], 1, AUDIENCE).unwrap();
    let specs: [KeySpec; 1] = [spec(1)];
    let by_old = table_file(&specs, issue(1, &[&old]), &[&old]);
    let by_new = table_file(&specs, issue(2, &[&new]), &[&new]);
    let opens =
        |file: &[u8], trust: &Trust| Table::open(file.to_vec(), trust, &Bounds::default()).is_ok();
    assert!(opens(&by_old, &old.trust()) && opens(&by_old, &both));
    assert!(opens(&by_new, &both) && opens(&by_new, &new.trust()));
    assert!(!opens(&by_old, &new.trust()), "from then on the old signer counts for nothing");
}

#[test]
fn only_named_signers_may_sign() {
    let (named, other) = (Signer::new(1), Signer::new(2));
    let mut draft = body(&[spec(1)]).into_table(issue(1, &[&named])).unwrap();
    let signature = other.sign(draft.message());
    let refused = draft.attach(&other.key, &signature);
    assert!(matches!(refused, Err(SealError::NotNamed { signer }) if signer == other.key.id()));
}
