//! The form that makes a new secret, and forms that are sent a second time.

use super::*;

#[test]
fn a_key_is_rotated_and_both_are_shown_as_what_they_are() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let (made, _) = desk.key(&["read"]).await;
        let path = format!("/keys/{}/rotate", made.key.entry.id);
        let hidden = kim.hidden(&path).await;
        let shown = kim.post(&path, &format!("{hidden}&overlap=24h")).await;
        let secret = secret_of(&shown).unwrap_or_else(|| panic!("{}", shown.body));
        let href = shown.body.split("href=\"").find(|part| part.starts_with("/keys/key_"));
        let successor = kim.get(href.unwrap().split('"').next().unwrap()).await;
        assert!(successor.body.contains("Is the old key still in use?"), "{}", successor.body);
        assert!(successor.body.contains(&made.key.entry.id.to_string()));
        assert!(!successor.body.contains(&secret));
        let again = kim.post(&path, &format!("{hidden}&overlap=24h")).await;
        assert!(again.body.contains("was shown already"), "{}", again.body);
    });
}

/// What an operation refuses as a key stands, the form asks for, or the page says why not.
#[test]
fn a_rotation_on_the_page_has_no_dead_end() {
    use crate::manage::operation::StatusChange;
    run(async {
        let desk = TestDesk::made(|_| {
            let settings = crate::registrar::serve::tests::SETTINGS;
            settings.replace("name = \"shop\"", "name = \"shop\"\nkind = \"pair\"")
        });
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let hidden = kim.hidden("/keys/new").await;
        let made = kim.post("/keys", &format!("{hidden}&name=Pair&expires=30d")).await;
        let href = made.body.split("href=\"").find(|part| part.starts_with("/keys/key_")).unwrap();
        let key = href.split('"').next().unwrap().to_owned();
        let path = format!("{key}/rotate");
        let hidden = kim.hidden(&path).await;
        let first = kim.post(&path, &format!("{hidden}&overlap=7d&expires=keep")).await;
        assert!(secret_of(&first).is_some(), "{}", first.body);
        // Sent again, perhaps because its answer was lost: the secret that would have to make room is
        // the one in use, and nobody is asked to end it.
        let again = kim.post(&path, &format!("{hidden}&overlap=7d&expires=keep")).await;
        assert!(again.body.contains("was shown already"), "{}", again.body);
        let shown = kim.get(&key).await;
        assert!(shown.body.contains("Former secret") && shown.body.contains("in 7 days"));
        // The former secret is valid: somebody says that it ends.
        let form = kim.get(&path).await;
        assert!(form.body.contains("drop_former"), "{}", form.body);
        let refused = kim.post(&path, &format!("{}&overlap=24h", hidden_of(&form))).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(refused.body.contains("href=\"#former\""), "{}", refused.body);
        let again = format!("{}&overlap=0s&drop_former=1", hidden_of(&refused));
        assert!(secret_of(&kim.post(&path, &again).await).is_some());
        assert!(!kim.get(&path).await.body.contains("drop_former"), "there is none any more");
        // Expired: with a new end.
        desk.advance(31 * 86_400);
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let form = kim.get(&path).await;
        assert!(!form.body.contains("value=\"keep\""), "{}", form.body);
        let kept = format!("{}&overlap=0s&expires=keep", hidden_of(&form));
        assert!(kim.post(&path, &kept).await.status.is_client_error());
        let ended = format!("{}&overlap=0s&expires=90d", hidden_of(&form));
        assert!(secret_of(&kim.post(&path, &ended).await).is_some());
        // A disabled one says what to do first.
        let id = crate::core::KeyId::parse(key.rsplit('/').next().unwrap()).unwrap();
        let off = suite::set(id, StatusChange::Disable);
        desk.store.change(suite::request(suite::host(), off)).await.unwrap();
        let shown = kim.get(&key).await;
        assert!(!shown.body.contains(&path) && shown.body.contains("Enable it first"));
        let form = kim.get(&path).await;
        assert_eq!(form.status, StatusCode::CONFLICT);
        assert!(form.body.contains("Enable it first"), "{}", form.body);
    });
}

/// Of the form that came first, nothing but what became of it is known.
#[test]
fn a_form_that_is_sent_again_with_other_content_says_what_was_done() {
    run(async {
        let desk = desk();
        let kim = Browser::signed_in(&desk, Some("acme"), "owner").await;
        let (made, _) = desk.key(&["read"]).await;
        let w = Words::preferred("en");
        for (path, first, second, said) in [
            (
                format!("/keys/{}/edit", made.key.entry.id),
                "name=One&permission=read&expires=keep",
                "name=Two&permission=read&expires=keep",
                &w.fault_edit_sent_before,
            ),
            (
                format!("/keys/{}/rotate", made.key.entry.id),
                "overlap=24h",
                "overlap=7d",
                &w.fault_rotation_sent_before,
            ),
        ] {
            let hidden = kim.hidden(&path).await;
            let told = kim.post(&path, &format!("{hidden}&{first}")).await;
            assert!(told.status != StatusCode::UNPROCESSABLE_ENTITY, "{}", told.body);
            let told = kim.post(&path, &format!("{hidden}&{second}")).await;
            assert_eq!(told.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
            assert!(told.body.contains(&**said), "{path}: {}", told.body);
            assert!(!told.body.contains(&*w.fault_sent_before), "no key was made: {}", told.body);
            // And what they typed can be sent in a form of its own.
            let again = kim.post(&path, &format!("{}&{second}", hidden_of(&told))).await;
            assert_ne!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", again.body);
        }
    });
}
