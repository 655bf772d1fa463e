//! Where the management service keeps keys, orgs, people, publications and the audit log: the
//! contract ([`Store`]) and its rows. What databases of SQL have in common is in
//! [`sql`]; [`sqlite`] and [`postgres`] are two of them.
//!
//! What a change means is decided by the pure rules of `manage`; a store loads what the change
//! concerns, asks them, and writes rows, audit line and idempotency row in one transaction.
//! Everything that a method answers is committed and will survive a crash.

pub mod audit;
pub mod change;
mod decide;
pub mod error;
pub mod import;
pub mod names;
pub mod people;
pub mod postgres;
pub mod publishing;
pub mod query;
pub mod rows;
pub mod sql;
pub mod sqlite;
#[cfg(test)]
pub mod suite;
pub mod usage;

use async_trait::async_trait;
use tokio::sync::watch;

pub use self::audit::{AuditHead, AuditLine, ChainFault, ChainHash};
pub use self::change::{
    AuditEvent, ChangeRequest, Changed, Channel, IdempotencyKey, KeyChange, KeyRef, Replay,
    StoreActor,
};
pub use self::decide::may_in;
pub use self::error::StoreError;
pub use self::import::{ImportBatch, ImportedBatch, RecoveredKeys};
pub use self::names::{AudienceName, BOOTSTRAP, OIDC, PersonId, Uid, owner_subject};
pub use self::people::{
    Member, MemberChange, NewEmbedToken, OrgChange, OrgRow, OrgRules, OwnerLeaves, Person,
    SessionKind, SessionRow, SignIn,
};
pub use self::publishing::{
    ArtefactHead, ArtefactKind, ArtefactState, Checkpoint, HeldLease, KeySnapshot, Publication,
    PublishedBase, Serials, SidecarReport, SignerRow, SnapshotKey, StoredArtefact, TableToPublish,
    UsedLease,
};
pub use self::query::{
    AuditPage, AuditQuery, Cursor, KeyCount, KeyPage, KeyQuery, KeySort, KeyState,
};
pub use self::rows::{KeyRow, LastUse};
pub use self::sql::{SchemaState, SqlStore};
pub use self::usage::{
    FindingQuery, FoundUsage, KeyUsage, RefusedFor, ReportedUse, UsageAlert, UsageBatch,
    UsageBucket, UsageTaken, UsedNetwork,
};

use crate::core::{Digest, KeyId, OrgId};
use crate::manage::registry::settings::RawSettings;

/// Keys, orgs, people, publications and the audit log in a database.
///
/// All times are milliseconds since 1970-01-01T00:00:00Z and come from the caller; a store reads no
/// clock but for its own waiting. A method that changes something is cancel-safe only in that the
/// change happens as a whole or not at all: who drops the future does not learn which.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    // --- changes of keys

    /// Makes one change, or none of it. The audience's serial rises by one with each change that is
    /// answered [`Replay::Fresh`] and changed anything.
    async fn change(&self, request: ChangeRequest) -> Result<Changed, StoreError>;

    /// The highest committed serial per audience; wakes the publisher. A change that another process
    /// makes (`keygatectl admin revoke`) does not wake it: who waits here looks at
    /// [`Store::publication`] once a second as well.
    fn watch(&self) -> watch::Receiver<Serials>;

    // --- keys

    /// One page in the order of `query.sort`.
    async fn keys(&self, query: KeyQuery) -> Result<KeyPage, StoreError>;

    /// How many keys `query` means (its cursor and limit do not count), up to
    /// [`KeyCount::MOST`].
    async fn count_keys(&self, query: KeyQuery) -> Result<KeyCount, StoreError>;

    /// One key. `org`: it must belong to that one; else [`StoreError::NoSuchKey`], as for a key that
    /// is not there.
    async fn key(
        &self,
        audience: &AudienceName,
        org: Option<&OrgId>,
        key: KeyRef,
    ) -> Result<KeyRow, StoreError>;

    /// The key with this secret, now or before the last rotation: for callers with a key. Whether it
    /// is in force is the caller's to judge. A removed secret finds none.
    async fn key_of_secret(
        &self,
        audience: &AudienceName,
        digest: Digest,
    ) -> Result<Option<KeyRow>, StoreError>;

    /// Puts keys of a registry in, as they are, all or none, with one serial: those that are there
    /// with the same content already are passed over. `settings` are the registry's, if they are to
    /// take the place of the audience's.
    async fn import(&self, batch: ImportBatch) -> Result<ImportedBatch, StoreError>;

    /// The settings of an audience as a registry has them: plans, limits of orgs, prefixes.
    async fn settings(&self, audience: &AudienceName) -> Result<RawSettings, StoreError>;

    // --- orgs and people

    /// An org's policy; an org that nobody has set one for has that of the configuration, version 0.
    async fn org(&self, org: &OrgId) -> Result<OrgRow, StoreError>;

    /// Sets an org's policy, with an audit line.
    async fn change_org(&self, change: OrgChange) -> Result<OrgRow, StoreError>;

    /// Adds a person, or notes name, address and time of one who is there.
    async fn put_person(&self, person: Person) -> Result<(), StoreError>;

    async fn person(&self, id: &PersonId) -> Result<Option<Person>, StoreError>;

    /// The members of an org, by name.
    async fn members(&self, org: &OrgId) -> Result<Vec<Member>, StoreError>;

    /// The orgs of a person, by id of the org.
    async fn memberships(&self, id: &PersonId) -> Result<Vec<Member>, StoreError>;

    /// Adds, changes or removes a member, with an audit line. The last owner of an org stays:
    /// [`StoreError::LastOwner`]. Ends the sessions of a person who lost the role.
    async fn change_member(&self, change: MemberChange) -> Result<(), StoreError>;

    /// Keeps a session under the digest of its token.
    async fn put_session(&self, session: SessionRow) -> Result<(), StoreError>;

    /// Keeps a token for the component in somebody's page, with an audit line. Whether its maker may make
    /// it is settled in the same transaction, by what they hold then.
    async fn put_embed_token(&self, token: NewEmbedToken) -> Result<(), StoreError>;

    /// The session with this digest, if it has not ended at `now_ms` and is of the present epoch.
    async fn session(&self, digest: Digest, now_ms: u64) -> Result<Option<SessionRow>, StoreError>;

    /// Notes that the session was used at `now_ms`, and the org that its person looks at. Callers
    /// do so at most once a minute: it is a write.
    async fn touch_session(
        &self,
        digest: Digest,
        now_ms: u64,
        org: Option<OrgId>,
    ) -> Result<(), StoreError>;

    /// The living sessions of a person, the newest first.
    async fn sessions(&self, id: &PersonId, now_ms: u64) -> Result<Vec<SessionRow>, StoreError>;

    /// Ends the session with this public id, if it is that person's. Whether there was one.
    async fn end_session(&self, id: &PersonId, session: &str) -> Result<bool, StoreError>;

    /// Ends all sessions of a person, and says how many there were.
    async fn end_sessions(&self, id: &PersonId) -> Result<u64, StoreError>;

    /// Keeps a one-use sign-in under the digest of its token.
    async fn put_sign_in(&self, sign_in: SignIn) -> Result<(), StoreError>;

    /// Uses a sign-in up. `None`: there is none, it was used, it has ended, or it is of a former
    /// epoch.
    async fn take_sign_in(&self, digest: Digest, now_ms: u64)
    -> Result<Option<SignIn>, StoreError>;

    // --- the audit log

    /// Appends an event that changes no key: a sign-in, a recovery.
    async fn note(&self, event: AuditEvent) -> Result<AuditHead, StoreError>;

    /// The newest lines first.
    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError>;

    /// Where the log ends.
    async fn audit_head(&self) -> Result<AuditHead, StoreError>;

    /// Reads the whole log and looks for lines that were changed, taken out, put in or cut off.
    /// `noted`: ends of the log that were noted outside the database.
    async fn verify_audit(&self, noted: Vec<AuditHead>) -> Result<Vec<ChainFault>, StoreError>;

    /// Up to `most` keys that no line of the log tells of: somebody wrote them into the database.
    async fn unlogged_keys(&self, most: usize) -> Result<Vec<KeyId>, StoreError>;

    /// Keeps a signature of an end of the log.
    async fn put_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError>;

    /// All checkpoints, the oldest first.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError>;

    // --- publishing

    /// What an audience has published, and what it has not yet.
    async fn publication(&self, audience: &AudienceName) -> Result<Publication, StoreError>;

    /// The keys that changed after serial `since` (0: all keys), as they are at one serial. Read in
    /// one transaction of its own, in batches: a slow reader holds up nobody.
    async fn snapshot(
        &self,
        audience: &AudienceName,
        since: u64,
    ) -> Result<KeySnapshot, StoreError>;

    /// Keeps an artefact. The first one of an (audience, kind, serial) stays: the answer is what is
    /// kept, and the caller publishes that. A patch for a former table is
    /// [`StoreError::Conflict`]: whatever has a higher serial than a table is for that table.
    ///
    /// A patch that is a draft takes the place of drafts with lower serials, tables among them, which
    /// are forgotten; one behind a newer patch, or over a draft of a table that is forgotten, is
    /// [`StoreError::Conflict`].
    async fn put_artefact(&self, artefact: StoredArtefact) -> Result<StoredArtefact, StoreError>;

    /// Puts a draft with more signatures, or one that enough have signed, in the place of what is kept,
    /// as long as that is not in force: how many are enough may be another number by then.
    /// The answer is what is kept then: of two who add one at a time, the second has to try again.
    /// `None`: there is no such draft any more.
    async fn sign_draft(&self, draft: StoredArtefact)
    -> Result<Option<StoredArtefact>, StoreError>;

    /// An artefact that was kept.
    async fn artefact(
        &self,
        audience: &AudienceName,
        kind: ArtefactKind,
        serial: u64,
    ) -> Result<Option<StoredArtefact>, StoreError>;

    /// Everything up to `serial` is published. Never goes back.
    async fn set_published(&self, audience: &AudienceName, serial: u64) -> Result<(), StoreError>;

    /// Notes that a table or patch of this serial is about to be signed.
    async fn note_signing(&self, audience: &AudienceName, serial: u64) -> Result<(), StoreError>;

    /// Takes that back: it was refused. `before`: what was noted until then.
    async fn withdraw_signing(
        &self,
        audience: &AudienceName,
        serial: u64,
        before: u64,
    ) -> Result<(), StoreError>;

    /// The highest serial that was noted so, or 0.
    async fn noted_signing(&self, audience: &AudienceName) -> Result<u64, StoreError>;

    /// Takes the next `count` serials for artefacts that change no key, and answers the last of them.
    async fn claim_serials(&self, audience: &AudienceName, count: u64) -> Result<u64, StoreError>;

    /// The table `base` is published: patches are for it now. Forgets the secrets that were removed
    /// up to the change that it includes, and artefacts that no sidecar needs any more: tables before
    /// the former base, patches for those.
    async fn set_base(&self, base: PublishedBase) -> Result<(), StoreError>;

    /// Keeps a table and makes it the one that patches are for, as [`Store::set_base`] does; the next
    /// serial is taken for the first of them. Whether it did: not if the lease has another holder, or a
    /// change has the table's serial or a higher one. A draft is kept, and becomes that table by
    /// [`Store::release_table`].
    async fn publish_table(&self, table: TableToPublish) -> Result<bool, StoreError>;

    /// Makes a table that enough have signed the one that patches are for, together with the newest
    /// patch, which has to be over it and signed as well. Whether it is.
    async fn release_table(&self, audience: &AudienceName, serial: u64)
    -> Result<bool, StoreError>;

    /// Whether other instances of the service may work on the same database.
    fn is_shared(&self) -> bool;

    /// Refuses changes of an audience's keys and of orgs from now on, as
    /// [`StoreError::ReadOnly`], until it is told `None`: the database is behind what was published.
    fn refuse_changes(&self, audience: &AudienceName, why: Option<Box<str>>);

    /// Puts keys in as a published table has them, whatever the database says of them, also while
    /// changes are refused. All or none, with one serial above `above`; what the database has of
    /// artefacts is forgotten, so that a new table is published.
    async fn recover(&self, batch: RecoveredKeys) -> Result<u64, StoreError>;

    /// Notes what a sidecar has reported.
    async fn put_sidecar(&self, report: SidecarReport) -> Result<(), StoreError>;

    /// All sidecars of an audience that were ever heard of, by fleet and name.
    async fn sidecars(&self, audience: &AudienceName) -> Result<Vec<SidecarReport>, StoreError>;

    /// Forgets sidecars that were last heard of before `before_ms`.
    async fn forget_sidecars(
        &self,
        audience: &AudienceName,
        before_ms: u64,
    ) -> Result<u64, StoreError>;

    /// Adds a signer, or changes its note and whether it is retired.
    async fn put_signer(&self, signer: SignerRow) -> Result<(), StoreError>;

    /// All signers, the oldest first.
    async fn signers(&self) -> Result<Vec<SignerRow>, StoreError>;

    /// The epoch of the database. A recovery raises it, which ends every session, sign-in and embed
    /// token.
    async fn epoch(&self) -> Result<u64, StoreError>;

    /// Raises the epoch and every audience's serial above `above`, after a restored backup.
    async fn begin_epoch(&self, above: Serials, event: AuditEvent) -> Result<u64, StoreError>;

    // --- the use of keys

    /// Takes a part of a sidecar's record in, in one transaction. Per process and key only the rise
    /// over what it has told before counts, so that repeats, disorder and two readers change nothing.
    async fn take_usage(&self, batch: UsageBatch) -> Result<UsageTaken, StoreError>;

    /// How a key was used. `org` as in [`Store::key`].
    async fn key_usage(
        &self,
        audience: &AudienceName,
        org: Option<&OrgId>,
        key: KeyRef,
        now_ms: u64,
    ) -> Result<KeyUsage, StoreError>;

    /// What stands out in the use of keys.
    async fn found_usage(&self, query: FindingQuery) -> Result<Vec<FoundUsage>, StoreError>;

    /// Forgets hours after 8 days, days after 400, and processes that ended 40 days ago, and says how
    /// many rows that were. `None`: the lease has another holder, and nothing was forgotten.
    async fn forget_usage(&self, now_ms: u64, lease: UsedLease) -> Result<Option<u64>, StoreError>;

    // --- leases

    /// Takes or renews the lease `name` until `until_ms`. `None`: another holder has it at `now_ms`.
    async fn lease(
        &self,
        name: &str,
        holder: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<HeldLease>, StoreError>;
}
