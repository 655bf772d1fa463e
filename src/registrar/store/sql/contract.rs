//! The contract: each method is a job for the writer or for a reader.

use async_trait::async_trait;
use tokio::sync::watch;

use super::people::MembersOf;
use super::writer::Work;
use super::{
    SqlStore, SystemRandom, apply, due, embed, import, keys, lease, list, log, people, publish,
    recover, usage,
};
use crate::core::{Digest, KeyId, OrgId};
use crate::manage::registry::settings::RawSettings;
use crate::registrar::store::{
    ArtefactKind, AudienceName, AuditEvent, AuditHead, AuditPage, AuditQuery, ChainFault,
    ChangeRequest, Changed, Checkpoint, FindingQuery, FoundUsage, HeldLease, ImportBatch,
    ImportedBatch, KeyCount, KeyPage, KeyQuery, KeyRef, KeyRow, KeySnapshot, KeyUsage, KeysDue,
    Member, MemberChange, NewEmbedToken, OrgChange, OrgRow, Person, PersonId, Publication,
    PublishedBase, RecoveredKeys, Serials, SessionRow, SidecarReport, SignIn, SignerRow, Store,
    StoreError, StoredArtefact, TableToPublish, UsageBatch, UsageTaken, UseReporter, UsedLease,
};

#[async_trait]
impl Store for SqlStore {
    async fn change(&self, request: ChangeRequest) -> Result<Changed, StoreError> {
        self.refusals.check(Some(&request.audience))?;
        self.change_key(move |store| apply::change(store, &request, &mut SystemRandom)).await
    }

    fn watch(&self) -> watch::Receiver<Serials> {
        self.serials.subscribe()
    }

    async fn keys(&self, query: KeyQuery) -> Result<KeyPage, StoreError> {
        self.read(move |store| list::page(store, &query)).await
    }

    async fn count_keys(&self, query: KeyQuery) -> Result<KeyCount, StoreError> {
        self.read(move |store| list::count(store, &query)).await
    }

    async fn key(
        &self,
        audience: &AudienceName,
        org: Option<&OrgId>,
        key: KeyRef,
    ) -> Result<KeyRow, StoreError> {
        let audience = audience.clone();
        let org = org.cloned();
        self.look_up(move |store| {
            keys::load(store, &audience, org.as_ref(), key).map(|found| found.key)
        })
        .await
    }

    async fn key_of_secret(
        &self,
        audience: &AudienceName,
        digest: Digest,
    ) -> Result<Option<KeyRow>, StoreError> {
        let audience = audience.clone();
        self.look_up(move |store| keys::of_secret(store, &audience, &digest)).await
    }

    async fn import(&self, batch: ImportBatch) -> Result<ImportedBatch, StoreError> {
        self.refusals.check(Some(&batch.audience))?;
        self.write(move |store| import::import(store, &batch)).await
    }

    async fn settings(&self, audience: &AudienceName) -> Result<RawSettings, StoreError> {
        let audience = audience.clone();
        self.read(move |store| import::settings(store, &audience)).await
    }

    async fn org(&self, org: &OrgId) -> Result<OrgRow, StoreError> {
        let org = org.clone();
        self.look_up(move |store| people::org(store, &org)).await
    }

    async fn change_org(&self, change: OrgChange) -> Result<OrgRow, StoreError> {
        self.refusals.check(None)?;
        self.write(move |store| people::change_org(store, &change)).await
    }

    async fn put_person(&self, person: Person) -> Result<(), StoreError> {
        self.write(move |store| people::put_person(store, &person)).await
    }

    async fn person(&self, id: &PersonId) -> Result<Option<Person>, StoreError> {
        let id = id.clone();
        self.look_up(move |store| people::person(store, &id)).await
    }

    async fn members(&self, org: &OrgId) -> Result<Vec<Member>, StoreError> {
        let org = org.clone();
        self.read(move |store| people::members(store, MembersOf::Org(&org))).await
    }

    async fn memberships(&self, id: &PersonId) -> Result<Vec<Member>, StoreError> {
        let id = id.clone();
        self.read(move |store| people::members(store, MembersOf::Person(&id))).await
    }

    async fn change_member(&self, change: MemberChange) -> Result<(), StoreError> {
        self.refusals.check(None)?;
        self.write(move |store| people::change_member(store, &change)).await
    }

    async fn keys_due(&self) -> Result<Vec<KeysDue>, StoreError> {
        self.look_up(due::all).await
    }

    async fn settle_keys(&self, keys: KeysDue) -> Result<(), StoreError> {
        self.write(move |store| due::settle(store, &keys)).await
    }

    async fn put_session(&self, session: SessionRow) -> Result<(), StoreError> {
        self.write(move |store| people::put_session(store, &session)).await
    }

    async fn put_embed_token(&self, token: NewEmbedToken) -> Result<(), StoreError> {
        self.write(move |store| embed::put(store, &token)).await
    }

    async fn session(&self, digest: Digest, now_ms: u64) -> Result<Option<SessionRow>, StoreError> {
        self.look_up(move |store| people::session(store, &digest, now_ms)).await
    }

    async fn touch_session(
        &self,
        digest: Digest,
        now_ms: u64,
        org: Option<OrgId>,
    ) -> Result<(), StoreError> {
        self.write(move |store| people::touch_session(store, &digest, now_ms, org.as_ref())).await
    }

    async fn sessions(&self, id: &PersonId, now_ms: u64) -> Result<Vec<SessionRow>, StoreError> {
        let id = id.clone();
        self.read(move |store| people::sessions(store, &id, now_ms)).await
    }

    async fn end_session(&self, id: &PersonId, session: &str) -> Result<bool, StoreError> {
        let id = id.clone();
        let session = session.to_owned();
        self.write(move |store| people::end_session(store, &id, &session)).await
    }

    async fn end_sessions(&self, id: &PersonId) -> Result<u64, StoreError> {
        let id = id.clone();
        self.write(move |store| people::end_sessions(store, &id)).await
    }

    async fn put_sign_in(&self, sign_in: SignIn) -> Result<(), StoreError> {
        self.write(move |store| people::put_sign_in(store, &sign_in)).await
    }

    async fn take_sign_in(
        &self,
        digest: Digest,
        now_ms: u64,
    ) -> Result<Option<SignIn>, StoreError> {
        self.write(move |store| people::take_sign_in(store, &digest, now_ms)).await
    }

    async fn note(&self, event: AuditEvent) -> Result<AuditHead, StoreError> {
        self.write(move |store| log::note(store, &event).map(Work::Keep)).await
    }

    async fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        self.read(move |store| log::page(&store.connection, &query)).await
    }

    async fn audit_head(&self) -> Result<AuditHead, StoreError> {
        self.look_up(move |store| log::head(&store.connection)).await
    }

    async fn verify_audit(&self, noted: Vec<AuditHead>) -> Result<Vec<ChainFault>, StoreError> {
        self.read(move |store| log::verify(&store.connection, &noted)).await
    }

    async fn unlogged_keys(&self, most: usize) -> Result<Vec<KeyId>, StoreError> {
        self.read(move |store| log::unlogged_keys(&store.connection, most)).await
    }

    async fn put_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        self.write(move |store| log::put_checkpoint(&store.connection, &checkpoint).map(Work::Keep))
            .await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.read(move |store| log::checkpoints(&store.connection)).await
    }

    async fn publication(&self, audience: &AudienceName) -> Result<Publication, StoreError> {
        let audience = audience.clone();
        self.read(move |store| publish::publication(store, &audience)).await
    }

    async fn snapshot(
        &self,
        audience: &AudienceName,
        since: u64,
    ) -> Result<KeySnapshot, StoreError> {
        self.take_snapshot(audience, since).await
    }

    async fn put_artefact(&self, artefact: StoredArtefact) -> Result<StoredArtefact, StoreError> {
        self.write(move |store| publish::put_artefact(store, artefact)).await
    }

    async fn sign_draft(
        &self,
        draft: StoredArtefact,
    ) -> Result<Option<StoredArtefact>, StoreError> {
        self.write(move |store| publish::drafts::sign_draft(store, draft)).await
    }

    async fn co_sign(
        &self,
        draft: StoredArtefact,
        event: AuditEvent,
    ) -> Result<Option<StoredArtefact>, StoreError> {
        self.write(move |store| publish::drafts::co_sign(store, draft, &event)).await
    }

    async fn artefact(
        &self,
        audience: &AudienceName,
        kind: ArtefactKind,
        serial: u64,
    ) -> Result<Option<StoredArtefact>, StoreError> {
        let audience = audience.clone();
        self.read(move |store| publish::artefact(&store.connection, &audience, kind, serial)).await
    }

    async fn set_published(&self, audience: &AudienceName, serial: u64) -> Result<(), StoreError> {
        let audience = audience.clone();
        self.write(move |store| publish::set_published(store, &audience, serial)).await
    }

    async fn note_signing(&self, audience: &AudienceName, serial: u64) -> Result<(), StoreError> {
        let audience = audience.clone();
        self.write(move |store| publish::note_signing(store, &audience, serial)).await
    }

    async fn withdraw_signing(
        &self,
        audience: &AudienceName,
        serial: u64,
        before: u64,
    ) -> Result<(), StoreError> {
        let audience = audience.clone();
        self.write(move |store| publish::withdraw_signing(store, &audience, serial, before)).await
    }

    async fn noted_signing(&self, audience: &AudienceName) -> Result<u64, StoreError> {
        let audience = audience.clone();
        self.read(move |store| publish::noted_signing(&store.connection, &audience)).await
    }

    async fn claim_serials(&self, audience: &AudienceName, count: u64) -> Result<u64, StoreError> {
        let audience = audience.clone();
        self.write(move |store| publish::claim_serials(store, &audience, count)).await
    }

    async fn set_base(&self, base: PublishedBase) -> Result<(), StoreError> {
        self.write(move |store| publish::set_base(store, &base)).await
    }

    async fn publish_table(&self, table: TableToPublish) -> Result<bool, StoreError> {
        self.write(move |store| publish::publish_table(store, table)).await
    }

    async fn release_table(
        &self,
        audience: &AudienceName,
        serial: u64,
    ) -> Result<bool, StoreError> {
        let audience = audience.clone();
        self.write(move |store| publish::drafts::release_table(store, &audience, serial)).await
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn refuse_changes(&self, audience: &AudienceName, why: Option<Box<str>>) {
        self.refusals.set(audience, why);
    }

    fn note_audit(&self, noted: AuditHead) {
        self.refusals.note(noted);
    }

    async fn recover(&self, batch: RecoveredKeys) -> Result<u64, StoreError> {
        self.write(move |store| recover::recover(store, &batch)).await
    }

    async fn put_sidecar(&self, report: SidecarReport) -> Result<(), StoreError> {
        self.write(move |store| publish::put_sidecar(store, &report)).await
    }

    async fn sidecars(&self, audience: &AudienceName) -> Result<Vec<SidecarReport>, StoreError> {
        let audience = audience.clone();
        self.read(move |store| publish::sidecars(store, &audience)).await
    }

    async fn forget_sidecars(&self, silent: Vec<SidecarReport>) -> Result<u64, StoreError> {
        self.write(move |store| publish::forget_sidecars(store, &silent)).await
    }

    async fn put_signer(&self, signer: SignerRow) -> Result<(), StoreError> {
        self.write(move |store| publish::put_signer(store, &signer)).await
    }

    async fn signers(&self) -> Result<Vec<SignerRow>, StoreError> {
        self.read(publish::signers).await
    }

    async fn epoch(&self) -> Result<u64, StoreError> {
        self.read(people::epoch).await
    }

    async fn begin_epoch(&self, above: Serials, event: AuditEvent) -> Result<u64, StoreError> {
        self.write(move |store| publish::begin_epoch(store, &above, &event)).await
    }

    async fn take_usage(&self, batch: UsageBatch) -> Result<UsageTaken, StoreError> {
        self.write(move |store| usage::take(store, &batch)).await
    }

    async fn key_usage(
        &self,
        audience: &AudienceName,
        org: Option<&OrgId>,
        key: KeyRef,
        now_ms: u64,
    ) -> Result<KeyUsage, StoreError> {
        let (audience, org) = (audience.clone(), org.cloned());
        self.read(move |store| usage::of_key(store, &audience, org.as_ref(), key, now_ms)).await
    }

    async fn use_reporters(
        &self,
        audience: &AudienceName,
        after_ms: u64,
    ) -> Result<Vec<UseReporter>, StoreError> {
        let audience = audience.clone();
        self.read(move |store| usage::reporters(store, &audience, after_ms)).await
    }

    async fn found_usage(&self, query: FindingQuery) -> Result<Vec<FoundUsage>, StoreError> {
        self.read(move |store| usage::found(store, &query)).await
    }

    async fn forget_usage(&self, now_ms: u64, lease: UsedLease) -> Result<Option<u64>, StoreError> {
        self.write(move |store| usage::forget(store, now_ms, &lease)).await
    }

    async fn lease(
        &self,
        name: &str,
        holder: &str,
        now_ms: u64,
        until_ms: u64,
    ) -> Result<Option<HeldLease>, StoreError> {
        let name = name.to_owned();
        let holder = holder.to_owned();
        self.write(move |store| lease::take(store, &name, &holder, now_ms, until_ms)).await
    }
}
