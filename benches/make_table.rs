//! Key tables and patches for the benches, made by the library's own writer and signed with a
//! publicly known key. Prints the signer in the form that `trusted_signers` takes.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read, Seek, Write as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use keygate::core::{
    Digest, Environment, Grant, KeyId, KeyKind, KeySpec, KeyStatus, Limit, LimitSet, NetworkSet,
    OrgId, Permission, PermissionSet,
};
use keygate::table::write::{BodyBuilder, Draft, InMemory, PatchDraft, RemovalOf};
use keygate::table::{Bounds, Issue, PublicKey, Table, Trust};

type Failure = Box<dyn Error + Send + Sync>;

const AUDIENCE: &str = "bench";

#[derive(Parser)]
struct Args {
    /// Lines of `secret org`.
    #[arg(long)]
    keys: PathBuf,
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    serial: u64,
    /// One more key, with this secret.
    #[arg(long)]
    extra: Option<String>,
    /// Rate limit of every key, such as `600/min`.
    #[arg(long)]
    limit: Option<String>,
    /// Beside the table, `OUT.1.kgp` to `OUT.N.kgp`: patch n revokes the first n of these secrets.
    #[arg(long)]
    revoke: Option<PathBuf>,
    /// Revocations that every patch has besides, of the last keys of the table.
    #[arg(long, default_value_t = 0)]
    entries: usize,
}

struct Signer {
    pair: Ed25519KeyPair,
    key: PublicKey,
}

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let signer = Signer::new()?;
    let grant = Grant {
        status: KeyStatus::Active,
        kind: KeyKind::Single,
        environment: Some(Environment::Live),
        not_before: None,
        permissions: PermissionSet::new([Permission::parse("read")?, Permission::parse("write")?]),
        networks: NetworkSet::default(),
        limits: LimitSet::of_key(args.limit.as_deref().map(Limit::parse).transpose()?),
        sunset: None,
    };
    let spec = |number: usize, secret: &str, org: &str| -> Result<KeySpec, Failure> {
        Ok(KeySpec {
            id: KeyId::parse(&format!("key_{number:010}"))?,
            org: OrgId::parse(org)?,
            name: format!("Key {number}").into(),
            digest: Digest::of(secret.as_bytes()),
            public_id: None,
            expires: None,
            grant: grant.clone(),
            owner: None,
        })
    };
    let mut builder = BodyBuilder::new(InMemory, 8 << 30);
    let mut count = 0;
    for line in BufReader::with_capacity(1 << 20, File::open(&args.keys)?).lines() {
        let line = line?;
        let (secret, org) = line.split_once(' ').ok_or("a line is `secret org`")?;
        builder.push(&spec(count, secret, org)?)?;
        count += 1;
    }
    if let Some(secret) = &args.extra {
        builder.push(&spec(count, secret, "org-1")?)?;
    }
    let table = builder.finish()?.into_table(signer.issue(args.serial))?;
    signer.write(table, &args.out)?;
    if let Some(path) = &args.revoke {
        let open = std::fs::read(&args.out)?;
        let bounds = Bounds::default();
        let table = Table::open(open, &Trust::new([signer.key], 1, AUDIENCE)?, &bounds)?;
        let mut draft = PatchDraft::over(&table);
        let all = std::fs::read_to_string(&args.keys)?;
        let secrets: Vec<&str> = all.lines().filter_map(|l| l.split(' ').next()).collect();
        for (number, secret) in secrets.iter().enumerate().rev().take(args.entries) {
            let id = KeyId::parse(&format!("key_{number:010}"))?;
            draft.remove(Digest::of(secret.as_bytes()), id, RemovalOf::Key);
        }
        for (n, line) in std::fs::read_to_string(path)?.lines().enumerate() {
            let secret = line.split(' ').next().unwrap_or_default();
            let digest = Digest::of(secret.as_bytes());
            let number = secrets.iter().position(|s| *s == secret).ok_or("no such key")?;
            draft.remove(digest, KeyId::parse(&format!("key_{number:010}"))?, RemovalOf::Key);
            let sealed = draft.build(signer.issue(args.serial + 1 + n as u64))?;
            let file = args.out.with_extension(format!("{}.kgp", n + 1));
            signer.write(sealed, &file)?;
            let patch = keygate::table::Patch::open(
                std::fs::read(&file)?,
                &Trust::new([signer.key], 1, AUDIENCE)?,
                &bounds,
            )?;
            draft = PatchDraft::after(&patch).ok_or("a patch has a base")?;
        }
    }
    println!("ed25519:{}", STANDARD.encode(signer.pair.public_key()));
    Ok(())
}

// === impl Signer ===

impl Signer {
    fn new() -> Result<Self, Failure> {
        // RFC 8032 §7.1, test 1: a private key that was published.
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)?;
        let key = PublicKey::from_raw(pair.public_key().as_ref().try_into()?)?;
        Ok(Self { pair, key })
    }

    fn issue(&self, serial: u64) -> Issue {
        Issue {
            serial,
            includes_through: serial,
            issued_at_ms: 1_790_000_000_000,
            expires_at: None,
            audience: AUDIENCE.into(),
            signers: vec![self.key.id()],
            acknowledge: Vec::new(),
        }
    }

    fn write<F: Read + Seek>(&self, mut draft: Draft<F>, path: &Path) -> Result<(), Failure> {
        let signature: [u8; 64] = self.pair.sign(draft.message()).as_ref().try_into()?;
        draft.attach(&self.key, &signature)?;
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        draft.write(&mut out)?;
        out.flush()?;
        Ok(())
    }
}
