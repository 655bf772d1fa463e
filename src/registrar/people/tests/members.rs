//! Roles, and the keys of people who lose them.

use super::*;
use crate::core::Permission;
use crate::manage::operation::{CreateRequest, DetailRequest, OwnerChange};
use crate::registrar::store::{
    AuditQuery, BOOTSTRAP, KeyChange, KeyRef, OrgChange, OrgRules, OwnerLeaves, StoreError,
};

/// A key of `acme` that this person has made.
async fn key_of(
    desk: &TestDesk,
    caller: &Caller,
    name: &str,
    words: &[&str],
) -> crate::core::KeyId {
    let StoreActor::Person { owner, .. } = &caller.actor else { panic!("{caller:?}") };
    let said = owner.view();
    let details = DetailRequest {
        owner: OwnerChange::State {
            subject: Some(said.subject.to_owned()),
            email: None,
            role: Some(said.role.to_owned()),
        },
        ..DetailRequest::default()
    };
    let wanted = CreateRequest {
        details,
        permissions: words.iter().map(|word| Permission::parse(word).unwrap()).collect(),
        ..suite::new_key(name)
    };
    let change = KeyChange::Create(Box::new(wanted));
    let made = desk.store.change(suite::request(caller.actor.clone(), change)).await.unwrap();
    assert_eq!(made.key.entry.owner.as_ref(), Some(owner));
    made.key.entry.id
}

/// The caller whom a cookie identifies.
async fn caller(desk: &TestDesk, cookie: &str) -> Caller {
    let request = axum::http::Request::builder().uri("/").header("cookie", cookie);
    let (parts, ()) = request.body(()).unwrap().into_parts();
    desk.app.people.caller(&parts, &Peer::default()).await.unwrap()
}

async fn status(desk: &TestDesk, key: crate::core::KeyId) -> String {
    let row = desk.store.key(&suite::audience(), None, KeyRef::Id(key)).await.unwrap();
    row.entry.status.as_str().to_owned()
}

async fn set_policy(desk: &TestDesk, owner_leaves: OwnerLeaves) {
    let change = OrgChange {
        org: suite::org("acme"),
        rules: OrgRules { owner_leaves, ..OrgRules::default() },
        if_match: None,
        actor: suite::host(),
        channel: Default::default(),
        at_ms: NOW,
    };
    desk.store.change_org(change).await.unwrap();
}

fn id(name: &str) -> PersonId {
    PersonId { iss: BOOTSTRAP.into(), sub: name.into() }
}

#[test]
fn keys_of_somebody_who_leaves_go_by_the_policy() {
    run(async {
        let desk = TestDesk::new("");
        let people = &desk.app.people;
        let owner = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let kim = caller(&desk, &owner).await;
        for (policy, want) in [(OwnerLeaves::Keep, "active"), (OwnerLeaves::Disable, "disabled")] {
            set_policy(&desk, policy).await;
            let name = format!("lee {want}");
            let cookie = signed_in(&desk, Some("acme"), "admin", &name).await;
            let lee = caller(&desk, &cookie).await;
            let strong = key_of(&desk, &lee, "strong", &["send"]).await;
            let weak = key_of(&desk, &lee, "weak", &["read"]).await;
            let foreign = key_of(&desk, &kim, "foreign", &["send"]).await;
            // From admin to member: what members may have stays.
            let role = Some(PersonRole::Member);
            let left = change_member(people, &kim, id(&name), role).await.unwrap().unwrap();
            assert_eq!([left.kept, left.disabled].concat(), [strong]);
            assert_eq!(status(&desk, strong).await, want);
            assert_eq!(status(&desk, weak).await, "active");
            // But the service behind learns what they are now.
            let row = desk.store.key(&suite::audience(), None, KeyRef::Id(weak)).await.unwrap();
            assert_eq!(row.entry.owner.as_ref().unwrap().view().role, "member");
            let gone = desk.send(Ask::get("/who").with("cookie", &cookie)).await;
            assert_eq!(gone.code(), "invalid_credential", "sessions of the former role end");
            // Removed: all of their keys.
            change_member(people, &kim, id(&name), None).await.unwrap().unwrap();
            assert_eq!(status(&desk, weak).await, want);
            assert_eq!(status(&desk, foreign).await, "active", "another's");
            let lines = desk
                .store
                .audit(AuditQuery { limit: 200, ..AuditQuery::default() })
                .await
                .unwrap()
                .lines;
            let of = |key: crate::core::KeyId| {
                let of_it = lines.iter().filter(|line| *line.object == *key.to_string());
                of_it.map(|line| line.action.to_string()).collect::<Vec<_>>()
            };
            let word = if want == "active" { "keep of former owner" } else { "disable" };
            assert!(of(strong).contains(&word.to_owned()), "{:?}", of(strong));
            assert!(of(weak).contains(&word.to_owned()), "{:?}", of(weak));
        }
    });
}

#[test]
fn members_change_by_a_fresh_sign_in_of_the_right_role() {
    run(async {
        let desk = TestDesk::new("");
        let people = &desk.app.people;
        let owner = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let admin = signed_in(&desk, Some("acme"), "admin", "lee").await;
        let member = signed_in(&desk, Some("acme"), "member", "max").await;
        let (kim, lee, max) = (
            caller(&desk, &owner).await,
            caller(&desk, &admin).await,
            caller(&desk, &member).await,
        );
        let change = async |by: &Caller, name: &str, role| {
            change_member(people, by, id(name), role).await.unwrap()
        };
        for (by, whom, role) in [
            (&max, "lee", None),
            (&max, "max", Some(PersonRole::Owner)),
            (&lee, "kim", None),
            (&lee, "lee", Some(PersonRole::Owner)),
            (&lee, "max", Some(PersonRole::Admin)),
            (&kim, "max", Some(PersonRole::Operator)),
        ] {
            let refused = change(by, whom, role).await;
            assert!(matches!(refused, Err(StoreError::Forbidden { .. })), "{whom}: {refused:?}");
        }
        let last = change(&kim, "kim", Some(PersonRole::Admin)).await;
        assert!(matches!(last, Err(StoreError::LastOwner)), "{last:?}");
        change(&lee, "max", Some(PersonRole::Auditor)).await.unwrap();
        desk.advance(601);
        let late = change_member(people, &kim, id("max"), None).await;
        assert!(matches!(late, Err(AuthError::SignInAgain)), "{late:?}");
        // In another org the same owner is nobody.
        let elsewhere = kim.clone().in_org(&suite::org("other"));
        assert!(matches!(elsewhere, Err(AuthError::NotFound)), "{elsewhere:?}");
    });
}

/// The same name means the same person. A link with a lesser role takes nothing away.
#[test]
fn nothing_demotes_the_last_owner() {
    run(async {
        let desk = TestDesk::new("");
        let change = |role| RoleChange {
            org: suite::org("acme"),
            id: id("kim"),
            role,
            within: None,
            actor: suite::host(),
            channel: Default::default(),
        };
        signed_in(&desk, Some("acme"), "owner", "kim").await;
        let again = signed_in(&desk, Some("acme"), "auditor", "kim").await;
        assert_eq!(caller(&desk, &again).await.role, Some(PersonRole::Owner));
        let people = &desk.app.people;
        for role in [Some(PersonRole::Member), None] {
            let refused = people.change_role(change(role)).await;
            assert!(matches!(refused, Err(StoreError::LastOwner)), "{refused:?}");
        }
    });
}

/// The role is gone at once, and the keys follow: by the same request again, or by themselves.
#[test]
fn keys_that_a_lost_role_did_not_reach_follow_later() {
    run(async {
        let desk = TestDesk::new("");
        let people = &desk.app.people;
        let owner = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let kim = caller(&desk, &owner).await;
        set_policy(&desk, OwnerLeaves::Disable).await;
        for repeats in [true, false] {
            let name = format!("lee {repeats}");
            let cookie = signed_in(&desk, Some("acme"), "admin", &name).await;
            let lee = caller(&desk, &cookie).await;
            let key = key_of(&desk, &lee, &name, &["send"]).await;
            break_keys(&desk);
            let failed = change_member(people, &kim, id(&name), None).await.unwrap();
            assert!(failed.is_err(), "{failed:?}");
            assert_eq!(desk.store.memberships(&id(&name)).await.unwrap(), []);
            people.finish_all_roles().await.expect("somebody is at it");
            desk.advance(31);
            people.finish_all_roles().await.expect_err("the database is away");
            assert_eq!(status(&desk, key).await, "active");
            mend_keys(&desk);
            if repeats {
                let left = change_member(people, &kim, id(&name), None).await.unwrap().unwrap();
                assert_eq!(left.disabled, [key]);
            } else {
                people.finish_all_roles().await.unwrap();
            }
            assert_eq!(status(&desk, key).await, "disabled");
            assert_eq!(desk.store.keys_due().await.unwrap(), []);
        }
    });
}

/// By the role that the person has by then.
#[test]
fn a_role_that_is_given_back_keeps_the_keys() {
    run(async {
        let desk = TestDesk::new("");
        let people = &desk.app.people;
        let owner = signed_in(&desk, Some("acme"), "owner", "kim").await;
        let kim = caller(&desk, &owner).await;
        set_policy(&desk, OwnerLeaves::Disable).await;
        let cookie = signed_in(&desk, Some("acme"), "admin", "lee").await;
        let key = key_of(&desk, &caller(&desk, &cookie).await, "CRM", &["send"]).await;
        break_keys(&desk);
        change_member(people, &kim, id("lee"), None).await.unwrap().unwrap_err();
        mend_keys(&desk);
        set_role(&desk, "acme", &id("lee"), Some(PersonRole::Admin)).await;
        desk.advance(31);
        people.finish_all_roles().await.unwrap();
        assert_eq!(status(&desk, key).await, "active");
        assert_eq!(desk.store.keys_due().await.unwrap(), []);
    });
}
