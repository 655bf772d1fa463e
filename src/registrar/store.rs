//! Where the management service keeps keys, orgs, people, publications and the audit log: the
//! contract ([`Store`]) and its rows. [`sql`] holds the code that SQL databases share; [`sqlite`]
//! and [`postgres`] are the two databases.
//!
//! The pure rules of `manage` decide what a change means. A store loads the rows that the change
//! concerns, asks those rules, and writes rows, audit line and idempotency row in one transaction.
//! When a method returns an answer, everything in it is committed and survives a crash.

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
pub use self::import::{ImportBatch, ImportPart, ImportedBatch, RecoveredKeys};
pub use self::names::{AudienceName, BOOTSTRAP, OIDC, PersonId, Uid, owner_subject};
pub use self::people::{
    KeysDue, Member, MemberChange, NewEmbedToken, OrgChange, OrgRow, OrgRules, OwnerLeaves, Person,
    SessionKind, SessionRow, SignIn,
};
pub use self::publishing::{
    ArtefactHead, ArtefactKind, ArtefactState, Checkpoint, HeldLease, KeySnapshot, Publication,
    PublishedBase, Serials, SidecarReport, SignerRow, SnapshotKey, StoredArtefact, TableToPublish,
    UsedLease,
};
pub use self::query::{
    AuditPage, AuditQuery, Cursor, KeyCount, KeyPage, KeyQuery, KeySort, KeyState, UnusedKeys,
};
pub use self::rows::{KeyRow, LastUse};
pub use self::sql::{SchemaState, SqlStore};
pub use self::usage::{
    FindingQuery, FoundUsage, KeyUsage, RefusedFor, ReportedUse, UsageAlert, UsageBatch,
    UsageBucket, UsageTaken, UseReporter, UsedNetwork,
};

use crate::core::{Digest, KeyId, OrgId};
use crate::manage::registry::settings::RawSettings;

/// Keys, orgs, people, publications and the audit log in a database.
///
/// All times are milliseconds since 1970-01-01T00:00:00Z and come from the caller. A store reads no
/// clock except for its own waiting. A method that changes something is cancel-safe only in that
/// the change happens as a whole or not at all: a caller that drops the future does not learn
/// which.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    // --- changes of keys

    /// Makes one change, or none of it. Each change that is answered [`Replay::Fresh`] and did
    /// change something raises the audience's serial by one.
    async fn change(&self, request: ChangeRequest) -> Result<Changed, StoreError>;

    /// The highest committed serial per audience; wakes the publisher. A change by another process
    /// (`keygatectl admin revoke`) does not wake it, so anything that waits here also looks at
    /// [`Store::publication`] once a second.
    fn watch(&self) -> watch::Receiver<Serials>;

    // --- keys

    /// One page in the order of `query.sort`.
    async fn keys(&self, query: KeyQuery) -> Result<KeyPage, StoreError>;

    /// How many keys `query` matches (ignoring its cursor and limit), up to [`KeyCount::MOST`].
    async fn count_keys(&self, query: KeyQuery) -> Result<KeyCount, StoreError>;

    /// One key. With `org`, the key must belong to that org. Otherwise the answer is
    /// [`StoreError::NoSuchKey`], as for a key that does not exist.
    async fn key(
        &self,
        audience: &AudienceName,
        org: Option<&OrgId>,
        key: KeyRef,
    ) -> Result<KeyRow, StoreError>;

    /// The key that has this secret now or had it before the last rotation, for callers with a key.
    /// The caller judges whether the secret is in force. A removed secret finds no key.
    async fn key_of_secret(
        &self,
        audience: &AudienceName,
        digest: Digest,
    ) -> Result<Option<KeyRow>, StoreError>;

    /// Imports keys of a registry as they are, all or none, with one serial. Skips keys that exist
    /// with the same content already. `settings` are the registry's, if they are to replace the
    /// audience's.
    async fn import(&self, batch: ImportBatch) -> Result<ImportedBatch, StoreError>;

    /// The settings of an audience as a registry has them: plans, limits of orgs, prefixes.
    async fn settings(&self, audience: &AudienceName) -> Result<RawSettings, StoreError>;

    // --- orgs and people

    /// An org's policy. An org without one of its own has the configuration's, version 0.
    async fn org(&self, org: &OrgId) -> Result<OrgRow, StoreError>;

    /// Sets an org's policy, with an audit line.
    async fn change_org(&self, change: OrgChange) -> Result<OrgRow, StoreError>;

    /// Adds a person, or updates name, address and time of a known one.
    async fn put_person(&self, person: Person) -> Result<(), StoreError>;

    async fn person(&self, id: &PersonId) -> Result<Option<Person>, StoreError>;

    /// The members of an org, by name.
    async fn members(&self, org: &OrgId) -> Result<Vec<Member>, StoreError>;

    /// The orgs of a person, by id of the org.
    async fn memberships(&self, id: &PersonId) -> Result<Vec<Member>, StoreError>;

    /// Adds, changes or removes a member, with an audit line. Refuses to remove the last owner of
    /// an org: [`StoreError::LastOwner`]. Ends the sessions of a person who lost the role.
    async fn change_member(&self, change: MemberChange) -> Result<(), StoreError>;

    /// Keys that have to follow a changed role: noted together with each change of a role.
    async fn keys_due(&self) -> Result<Vec<KeysDue>, StoreError>;

    /// These keys are dealt with. Does nothing if the role has changed again since.
    async fn settle_keys(&self, due: KeysDue) -> Result<(), StoreError>;

    /// Keeps a session under the digest of its token.
    async fn put_session(&self, session: SessionRow) -> Result<(), StoreError>;

    /// Stores a token for the component in somebody's page, with an audit line. The same
    /// transaction checks whether its maker may make it, by the rights they hold at that moment.
    async fn put_embed_token(&self, token: NewEmbedToken) -> Result<(), StoreError>;

    /// The session with this digest, if it has not ended at `now_ms` and is of the present epoch.
    async fn session(&self, digest: Digest, now_ms: u64) -> Result<Option<SessionRow>, StoreError>;

    /// Notes that the session was used at `now_ms`, and which org its person is looking at. Callers
    /// do so at most once a minute, because it is a write.
    async fn touch_session(
        &self,
        digest: Digest,
        now_ms: u64,
        org: Option<OrgId>,
    ) -> Result<(), StoreError>;

    /// The living sessions of a person, the newest first.
    async fn sessions(&self, id: &PersonId, now_ms: u64) -> Result<Vec<SessionRow>, StoreError>;

    /// Ends the session with this public id, if it belongs to that person. Returns whether there
    /// was one.
    async fn end_session(&self, id: &PersonId, session: &str) -> Result<bool, StoreError>;

    /// Ends all sessions of a person and returns how many there were.
    async fn end_sessions(&self, id: &PersonId) -> Result<u64, StoreError>;

    /// Keeps a one-use sign-in under the digest of its token.
    async fn put_sign_in(&self, sign_in: SignIn) -> Result<(), StoreError>;

    /// Uses a sign-in up. `None`: it does not exist, was used, has ended, or belongs to a former
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

    /// Reads the whole log and looks for lines that were changed, removed, inserted or cut off.
    /// `noted`: ends of the log that were noted outside the database.
    async fn verify_audit(&self, noted: Vec<AuditHead>) -> Result<Vec<ChainFault>, StoreError>;

    /// Up to `most` keys that no line of the log mentions: somebody wrote them into the database.
    async fn unlogged_keys(&self, most: usize) -> Result<Vec<KeyId>, StoreError>;

    /// Stores a signature over an end of the log.
    async fn put_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError>;

    /// All checkpoints, the oldest first.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError>;

    // --- publishing

    /// What an audience has published, and what it still has to publish.
    async fn publication(&self, audience: &AudienceName) -> Result<Publication, StoreError>;

    /// The keys that changed after serial `since` (0: all keys), as they are at one serial. Read in
    /// batches, in a transaction of its own: a slow reader holds nobody up.
    async fn snapshot(
        &self,
        audience: &AudienceName,
        since: u64,
    ) -> Result<KeySnapshot, StoreError>;

    /// Stores an artefact. The first one of an (audience, kind, serial) stays: the answer is the
    /// stored one, and the caller publishes that. A patch for a former table is
    /// [`StoreError::Conflict`]: whatever has a higher serial than a table is for that table.
    ///
    /// A draft of a patch replaces drafts with lower serials, tables among them, which are
    /// forgotten. Such a draft behind a newer patch, or over a draft of a table that has been
    /// forgotten, is [`StoreError::Conflict`].
    async fn put_artefact(&self, artefact: StoredArtefact) -> Result<StoredArtefact, StoreError>;

    /// Replaces the stored draft with one that has more signatures, or that enough have signed, as
    /// long as the stored one is not in force. The number that is enough may have changed by then.
    /// The answer is what is stored afterwards: when two add a signature at the same time, the
    /// second has to try again. `None`: the draft no longer exists.
    async fn sign_draft(&self, draft: StoredArtefact)
    -> Result<Option<StoredArtefact>, StoreError>;

    /// The same for somebody else's signature, with an audit line in the same transaction if what
    /// is given is stored.
    async fn co_sign(
        &self,
        draft: StoredArtefact,
        event: AuditEvent,
    ) -> Result<Option<StoredArtefact>, StoreError>;

    /// A stored artefact.
    async fn artefact(
        &self,
        audience: &AudienceName,
        kind: ArtefactKind,
        serial: u64,
    ) -> Result<Option<StoredArtefact>, StoreError>;

    /// Records that everything up to `serial` is published. Never goes back.
    async fn set_published(&self, audience: &AudienceName, serial: u64) -> Result<(), StoreError>;

    /// Records that a table or patch of this serial is about to be signed.
    async fn note_signing(&self, audience: &AudienceName, serial: u64) -> Result<(), StoreError>;

    /// Takes that back because the signature was refused. `before`: what was recorded until then.
    async fn withdraw_signing(
        &self,
        audience: &AudienceName,
        serial: u64,
        before: u64,
    ) -> Result<(), StoreError>;

    /// The highest serial that [`Store::note_signing`] recorded, or 0.
    async fn noted_signing(&self, audience: &AudienceName) -> Result<u64, StoreError>;

    /// Takes the next `count` serials for artefacts that change no key, and returns the last of
    /// them.
    async fn claim_serials(&self, audience: &AudienceName, count: u64) -> Result<u64, StoreError>;

    /// Records that the table `base` is published: patches are for it now. Forgets the secrets that
    /// were removed up to the change that it includes, and artefacts that no sidecar needs any
    /// more: tables before the former base, and patches for those.
    async fn set_base(&self, base: PublishedBase) -> Result<(), StoreError>;

    /// Stores a table and makes it the one that patches are for, as [`Store::set_base`] does. The
    /// next serial is reserved for the first of those patches. Returns whether it did so: it does
    /// not if the lease has another holder, or if a change has the table's serial or a higher one.
    /// A draft is only stored; [`Store::release_table`] makes it that table.
    async fn publish_table(&self, table: TableToPublish) -> Result<bool, StoreError>;

    /// Makes a table that enough have signed the one that patches are for, together with the newest
    /// patch, which has to be over it and signed as well. Returns whether it is that table now.
    async fn release_table(&self, audience: &AudienceName, serial: u64)
    -> Result<bool, StoreError>;

    /// Whether other instances of the service may work on the same database.
    fn is_shared(&self) -> bool;

    /// Refuses changes of an audience's keys and of orgs from now on, as [`StoreError::ReadOnly`],
    /// until a call with `None`. The reason is that the database is behind what was published.
    fn refuse_changes(&self, audience: &AudienceName, why: Option<Box<str>>);

    /// A line that the audit log has now. If a server's database lacks it later, as after a failover
    /// to a standby that missed it, the first write finds that out and is refused as
    /// [`StoreError::ReadOnly`], and so are changes until the next call.
    fn note_audit(&self, noted: AuditHead);

    /// Writes keys as a published table has them, whatever the database says about them, even while
    /// changes are refused. All or none, with one serial above `above`. Forgets the artefacts that
    /// the database has, so that a new table is published.
    async fn recover(&self, batch: RecoveredKeys) -> Result<u64, StoreError>;

    /// Records a sidecar's report.
    async fn put_sidecar(&self, report: SidecarReport) -> Result<(), StoreError>;

    /// All sidecars of an audience that were not forgotten, by fleet and name.
    async fn sidecars(&self, audience: &AudienceName) -> Result<Vec<SidecarReport>, StoreError>;

    /// Forgets these sidecars, except those that have reported since. Returns how many.
    async fn forget_sidecars(&self, silent: Vec<SidecarReport>) -> Result<u64, StoreError>;

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

    /// Takes in a part of a sidecar's record, in one transaction. Per process and key, only the
    /// rise over what that process reported before counts. Repeats, disorder and two readers
    /// therefore change nothing.
    async fn take_usage(&self, batch: UsageBatch) -> Result<UsageTaken, StoreError>;

    /// How a key was used. `org` as in [`Store::key`].
    async fn key_usage(
        &self,
        audience: &AudienceName,
        org: Option<&OrgId>,
        key: KeyRef,
        now_ms: u64,
    ) -> Result<KeyUsage, StoreError>;

    /// The sidecars of an audience that have reported the use of keys since `after_ms`, by name.
    async fn use_reporters(
        &self,
        audience: &AudienceName,
        after_ms: u64,
    ) -> Result<Vec<UseReporter>, StoreError>;

    /// Keys whose use stands out.
    async fn found_usage(&self, query: FindingQuery) -> Result<Vec<FoundUsage>, StoreError>;

    /// Forgets hours after 8 days, days after 400, and processes that ended 40 days ago. Returns
    /// how many rows those were. `None`: the lease has another holder, and nothing was forgotten.
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
