//! A connection together with what its thread knows: the audiences of the configuration, and the
//! settings that the database has for each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::super::error::StoreError;
use super::super::names::AudienceName;
use super::super::people::OrgRules;
use super::super::publishing::Serials;
use super::driver::{SearchIndex, SqlConnection};
use super::fault::OptionalExtension as _;
use super::known::KnownRows;
use super::rows::AudienceSettings;
use super::unindexed::Unindexed;
use crate::core::PermissionSet;
use crate::core::format::KeyFormat;
use crate::manage::operation::may::{AccessRules, ManagementWords, StarCovers};
use crate::manage::registry::settings::{RawSettings, RegistrySettings, VERSION};

/// What the configuration states about an audience.
#[derive(Clone, Debug)]
pub struct AudienceTerms {
    pub name: AudienceName,
    /// How secrets are written, by the name of their prefix. Empty: as an imported registry states.
    pub prefixes: BTreeMap<String, KeyFormat>,
    pub default_prefix: Option<String>,
    /// How many characters of a secret are stored for people to see, by prefix, where it is not the
    /// usual number.
    pub shown: BTreeMap<String, usize>,
    /// Who may do what to its keys.
    pub access: AccessRules,
}

/// What the configuration states for all connections.
#[derive(Debug)]
pub(super) struct StoreTerms {
    pub(super) audiences: Vec<AudienceTerms>,
    /// For orgs that have set none.
    pub(super) rules: OrgRules,
    pub(super) search: SearchIndex,
}

/// One thread's connection.
#[derive(Debug)]
pub(super) struct StoreConnection {
    pub(super) connection: SqlConnection,
    terms: Arc<StoreTerms>,
    settings: RefCell<BTreeMap<AudienceName, KnownSettings>>,
    pub(super) known: KnownRows,
    /// Serials that the transaction raised.
    pub(super) raised: RefCell<Vec<RaisedSerial>>,
    pub(super) unindexed: Unindexed,
}

#[derive(Clone, Debug)]
pub(super) struct RaisedSerial {
    pub(super) audience: AudienceName,
    pub(super) serial: u64,
}

#[derive(Debug)]
struct KnownSettings {
    text: String,
    settings: Arc<AudienceSettings>,
}

// === impl StoreConnection ===

impl StoreConnection {
    pub(super) fn new(connection: SqlConnection, terms: Arc<StoreTerms>) -> Self {
        Self {
            connection,
            terms,
            settings: RefCell::default(),
            known: KnownRows::default(),
            raised: RefCell::default(),
            unindexed: Unindexed::default(),
        }
    }

    /// Of an audience that is in the database.
    pub(super) fn settings(
        &self,
        audience: &AudienceName,
    ) -> Result<Arc<AudienceSettings>, StoreError> {
        if let Some(known) = self.known.settings(audience) {
            return Ok(known);
        }
        let row: Option<(String, u64)> = self
            .connection
            .prepare_cached("SELECT settings, serial FROM audience WHERE name = ?1")?
            .query_row([audience.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (text, serial) = row.ok_or(StoreError::NoSuchAudience)?;
        let settings = self.parsed(audience, text)?;
        self.known.put_settings(audience, serial, &settings);
        Ok(settings)
    }

    /// Parsed again after somebody changed them.
    fn parsed(
        &self,
        audience: &AudienceName,
        text: String,
    ) -> Result<Arc<AudienceSettings>, StoreError> {
        if let Some(known) = self.settings.borrow().get(audience)
            && known.text == text
        {
            return Ok(Arc::clone(&known.settings));
        }
        let mut registry = parse(&text)?;
        let terms = self.terms.audiences.iter().find(|terms| terms.name == *audience);
        if let Some(terms) = terms.filter(|terms| !terms.prefixes.is_empty()) {
            registry.prefixes.clone_from(&terms.prefixes);
            registry.default_prefix.clone_from(&terms.default_prefix);
            registry.shown.clone_from(&terms.shown);
        }
        let settings =
            Arc::new(AudienceSettings { registry, access: terms.map(|t| t.access.clone()) });
        let known = KnownSettings { text, settings: Arc::clone(&settings) };
        self.settings.borrow_mut().insert(audience.clone(), known);
        Ok(settings)
    }

    /// The index that a search uses.
    pub(super) fn search_index(&self) -> SearchIndex {
        self.terms.search
    }

    /// For an org that has set none.
    pub(super) fn standard_rules(&self) -> OrgRules {
        self.terms.rules.clone()
    }

    /// The rules of any audience: for actions that concern an org and no audience.
    pub(super) fn any_access(&self) -> Result<AccessRules, StoreError> {
        match self.terms.audiences.first() {
            Some(terms) => Ok(terms.access.clone()),
            None => standard_access(),
        }
    }

    /// Raises the audience's serial. A change does this first, so that serials become visible in
    /// order.
    pub(super) fn raise(&self, audience: &AudienceName) -> Result<u64, StoreError> {
        if self.known.serves() {
            self.settings(audience)?;
        }
        match self.known.raise(audience) {
            Some(serial) => self.raised_to(audience, serial),
            None => self.raise_by(audience, 1),
        }
    }

    /// Takes `count` serials and returns the last of them.
    pub(super) fn raise_by(&self, audience: &AudienceName, count: u64) -> Result<u64, StoreError> {
        let serial: Option<u64> = self
            .connection
            .prepare_cached(
                "UPDATE audience SET serial = serial + ?2 WHERE name = ?1 RETURNING serial",
            )?
            .query_row((audience.as_str(), count), |row| row.get(0))
            .optional()?;
        self.raised_to(audience, serial.ok_or(StoreError::NoSuchAudience)?)
    }

    fn raised_to(&self, audience: &AudienceName, serial: u64) -> Result<u64, StoreError> {
        if serial >= crate::table::manifest::MAX_SERIAL {
            return Err(StoreError::broken("the audience has no serial left"));
        }
        self.raised.borrow_mut().push(RaisedSerial { audience: audience.clone(), serial });
        Ok(serial)
    }
}

/// Access rules that restrict nobody, except by the permissions that manage keys.
pub(super) fn standard_access() -> Result<AccessRules, StoreError> {
    Ok(AccessRules {
        words: ManagementWords::standard().map_err(StoreError::broken)?,
        star: StarCovers::default(),
        member: PermissionSet::default(),
        offered: None,
    })
}

fn parse(text: &str) -> Result<RegistrySettings, StoreError> {
    let raw: RawSettings = serde_json::from_str(text).map_err(StoreError::broken)?;
    RegistrySettings::from_raw(raw, Path::new("settings"), &|_| 0).map_err(|faults| {
        let why = faults.first().map(|f| f.why.clone()).unwrap_or_default();
        StoreError::broken(format!("settings of an audience: {why}"))
    })
}

/// Adds rows for audiences of the configuration that the database does not have yet.
pub(super) fn add_audiences(
    connection: &SqlConnection,
    audiences: &[AudienceTerms],
) -> Result<(), StoreError> {
    for AudienceTerms { name, .. } in audiences {
        let raw = RawSettings {
            registry: VERSION,
            audience: Some(name.as_str().to_owned()),
            ..RawSettings::default()
        };
        let text = serde_json::to_string(&raw).map_err(StoreError::broken)?;
        connection.execute(
            "INSERT INTO audience (name, settings) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            (name.as_str(), text),
        )?;
    }
    Ok(())
}

/// For all audiences of the database.
pub(in super::super) fn serials(connection: &SqlConnection) -> Result<Serials, StoreError> {
    let mut statement = connection.prepare_cached("SELECT name, serial FROM audience")?;
    let mut rows = statement.query([])?;
    let mut serials = Serials::default();
    while let Some(row) = rows.next()? {
        let name = AudienceName::parse(&row.get::<_, String>(0)?);
        let name = name.ok_or_else(|| StoreError::broken("a strange audience"))?;
        serials.0.insert(name, row.get(1)?);
    }
    Ok(serials)
}
