//! The list of keys.

use axum::http::StatusCode;
use axum::response::Response;

use super::evidence::UseReports;
use super::view::{FilterTab, ListPage};
use super::visit::{Section, Visit};
use super::words::Words;
use super::{findings, html, show};
use crate::registrar::search::KeySearch;
use crate::registrar::store::{Cursor, KeyCount, KeyQuery, KeySort, KeyState, UnusedKeys};

/// Rows per page.
const ROWS: usize = 50;

/// The longest text to search for, in bytes.
const SEARCH: usize = 200;

/// The choices of the tabs above the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListFilter {
    Active,
    All,
    /// All keys except revoked ones and canaries, until somebody searches: a search finds every
    /// key.
    #[default]
    Current,
    Disabled,
    Expired,
    ExpiresSoon,
    NeverUsed,
    Revoked,
    Unused,
}

// === impl ListFilter ===

impl ListFilter {
    const TABS: [Self; 9] = [
        Self::Current,
        Self::Active,
        Self::ExpiresSoon,
        Self::NeverUsed,
        Self::Unused,
        Self::Disabled,
        Self::Expired,
        Self::Revoked,
        Self::All,
    ];

    /// Its name in the URL.
    const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::All => "all",
            Self::Current => "",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
            Self::ExpiresSoon => "expires-soon",
            Self::NeverUsed => "never-used",
            Self::Revoked => "revoked",
            Self::Unused => "unused",
        }
    }

    fn label(self, w: &Words) -> String {
        let label = match self {
            Self::Active => &w.active_filter,
            Self::All => &w.all_filter,
            Self::Current => &w.current_filter,
            Self::Disabled => &w.disabled,
            Self::Expired => &w.expired_filter,
            Self::ExpiresSoon => &w.expires_soon_filter,
            Self::NeverUsed => &w.never_used_filter,
            Self::Revoked => &w.revoked_filter,
            Self::Unused => &w.unused_filter,
        };
        label.to_string()
    }

    fn put_into(self, query: &mut KeyQuery) {
        let day = show::DAY * 1000;
        query.state = match self {
            Self::All => None,
            Self::Current if query.search.is_some() => None,
            Self::Current => Some(KeyState::Kept),
            Self::Active | Self::ExpiresSoon | Self::NeverUsed | Self::Unused => {
                Some(KeyState::Active)
            }
            Self::Disabled => Some(KeyState::Disabled),
            Self::Expired => Some(KeyState::Expired),
            Self::Revoked => Some(KeyState::Revoked),
        };
        match self {
            Self::ExpiresSoon => {
                query.expires_before_ms = Some(query.now_ms + 14 * day);
                query.sort = KeySort::Expires;
            }
            Self::NeverUsed => query.unused = Some(UnusedKeys::Never),
            Self::Unused => {
                let since = query.now_ms.saturating_sub(90 * day);
                query.unused = Some(UnusedKeys::Since(since));
            }
            _ => {}
        }
    }
}

pub(super) async fn list(visit: Visit) -> Result<Response, Response> {
    let w = visit.w;
    let named = visit.query.text("filter");
    let filter = ListFilter::TABS.into_iter().find(|f| f.name() == named).unwrap_or_default();
    let mut end = visit.query.text("q").len().min(SEARCH);
    while !visit.query.text("q").is_char_boundary(end) {
        end -= 1;
    }
    let typed = visit.query.text("q").get(..end).unwrap_or_default();
    let KeySearch { sought, shown: search } = KeySearch::of(&visit.audience, typed);
    if search.len() < typed.trim_end_matches(['…', '.']).len() {
        // A secret: the browser keeps no address with the whole of it. Where there is a script, none
        // is sent in the first place.
        return Ok(visit.go("/keys", &[("q", &search), ("filter", filter.name())]));
    }
    let cursor = visit.query.text("cursor").to_owned();
    let every = KeyQuery {
        owner: visit.sight.own_keys_only(),
        ..KeyQuery::all(visit.audience.name.clone(), visit.sight.org.clone(), visit.sight.now_ms)
    };
    let mut query = KeyQuery {
        search: (!sought.is_empty()).then(|| sought.into()),
        cursor: (!cursor.is_empty()).then(|| Cursor::of(&cursor)),
        limit: ROWS,
        ..every.clone()
    };
    filter.put_into(&mut query);
    let store = &visit.app.store;
    let count = store.count_keys(query.clone()).await.map_err(|e| visit.failed(&e))?;
    let page = store.keys(query).await.map_err(|e| visit.failed(&e))?;
    let ids = page.keys.iter().map(|key| key.entry.id).collect();
    let found = findings::of_keys(&visit, ids).await.map_err(|e| visit.failed(&e))?;
    let is_plain = search.is_empty() && filter == ListFilter::Current && cursor.is_empty();
    let is_empty = is_plain
        && page.keys.is_empty()
        && store.count_keys(every).await.map_err(|e| visit.failed(&e))? == KeyCount::Exactly(0);
    let address = |filter: &str, cursor: &str| {
        visit.link("/keys", &[("q", &search), ("filter", filter), ("cursor", cursor)])
    };
    let tabs = ListFilter::TABS.into_iter().map(|tab| FilterTab {
        href: address(tab.name(), ""),
        label: tab.label(w),
        current: tab == filter,
    });
    let rows = page.keys.iter().map(|key| {
        let mut row = show::row(w, &visit.audience, key, visit.now());
        let of_it = found.iter().filter(|found| found.key == key.entry.id);
        row.findings = of_it.map(|found| findings::badge(w, found.alert)).collect();
        row.href = visit.link(&format!("/keys/{}", key.entry.id), &[]);
        if visit.sight.org.is_none() {
            row.org = key.entry.org.as_str().to_owned();
        }
        row
    });
    let any_use = page.keys.iter().any(|key| key.last_use.is_some());
    let no_use = match page.keys.first() {
        // One query more, if it may be that nobody reports.
        Some(key) if !any_use => UseReports::of(&visit, key).await?.no_use(w),
        _ => w.never.to_string(),
    };
    let several = visit.app.settings.audiences.len() > 1;
    let screen = ListPage {
        w,
        shell: visit.shell(Section::Keys, &*visit.audience.labels.keys),
        can_create: visit.can_create(),
        new_label: visit.audience.labels.new.to_string(),
        count: (!is_empty).then(|| show::count(w, count)),
        is_empty,
        filter: filter.name().to_owned(),
        audience: if several { visit.audience.name.to_string() } else { String::new() },
        filters: tabs.collect(),
        no_use,
        rows: rows.collect(),
        first: (!cursor.is_empty()).then(|| address(filter.name(), "")),
        next: page.next.map(|next| address(filter.name(), next.as_str())),
        search: search.clone(),
        heads: KeySearch::heads(&visit.audience),
    };
    Ok(html(StatusCode::OK, &screen))
}
