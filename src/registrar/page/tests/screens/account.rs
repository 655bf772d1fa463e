//! Sessions, signers, signing in, and errors.

use askama::Template as _;

use super::*;

pub(super) fn screens(w: &Words) -> Vec<Screen> {
    let mut pages = Vec::new();
    let session = |agent: &str, current| SessionView {
        id: "s".into(),
        agent: agent.into(),
        address: "2001:db8:1234:5678:9abc:def0:1234:5678".into(),
        created: moment(&fill(&w.ago_hours, &[("count", "5")])),
        seen: moment(&w.ago_now),
        current,
    };
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0";
    pages.push(screen("sessions", {
        let sessions = vec![session(firefox, true), session("curl/8.5", false)];
        SessionsPage { w, shell: shell(w, &w.sessions_title, "sessions"), sessions }.render()
    }));
    pages.push(screen("signers", {
        let signer = SignerView {
            id: "shop-2026".into(),
            note: "On the signing host".into(),
            key: "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=".into(),
            added: moment(&fill(&w.ago_days, &[("count", "200")])),
            state: Badge { class: "good", label: w.active_filter.to_string() },
        };
        SignersPage { w, shell: shell(w, &w.signers_title, "signers"), signers: vec![signer] }
            .render()
    }));
    pages.push(screen("sign-in", {
        let shell = Shell { person: None, links: Vec::new(), ..shell(w, &w.sign_in_button, "") };
        let told =
            SignInNote { text: w.sign_in_used.to_string(), is_bad: true, ..SignInNote::default() };
        SignInPage { w, shell, told: Some(told), providers: Vec::new(), fresh: false }.render()
    }));
    pages.push(screen("sign-in-provider", {
        let shell = Shell { person: None, links: Vec::new(), ..shell(w, &w.sign_in_button, "") };
        let named = [("provider", "Example Identity")];
        let told = SignInNote {
            text: fill(&w.oidc_no_role, &named),
            is_bad: true,
            identity: Some((
                "https://login.example.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0".into(),
                "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ".into(),
            )),
            link: Some(Link { href: "going.html".into(), label: fill(&w.sign_out_there, &named) }),
        };
        let providers =
            vec![ProviderView { name: "example".into(), label: fill(&w.sign_in_with, &named) }];
        SignInPage { w, shell, told: Some(told), providers, fresh: true }.render()
    }));
    pages.push(screen("going", {
        let named = [("provider", "Example Identity")];
        let title = fill(&w.going_title, &named);
        let shell = Shell { person: None, links: Vec::new(), ..shell(w, &title, "") };
        let label = fill(&w.going_link, &named);
        let page = GoingPage { w, shell, to: "list.html".into(), label }.render();
        // A browser of the tests must not go anywhere.
        page.map(|html| html.replace("http-equiv=\"refresh\"", "name=\"leads\""))
    }));
    let error = |title: &str, text: &str, choices| ErrorPage {
        w,
        shell: shell(w, title, ""),
        text: text.into(),
        request_id: String::new(),
        choices,
        href: "list.html".into(),
    };
    pages.push(screen("error", {
        let request_id = "5f0c1e9a7d3b4a86921c0e5d7f3a1b42".into();
        ErrorPage { request_id, ..error(&w.trouble_title, &w.trouble_text, Vec::new()) }.render()
    }));
    pages.push(screen("choose-org", {
        let orgs = vec![choice("acme", "Acme Corporation", "acme"), choice("globex", "Globex", "")];
        error(&w.choose_org_title, &w.choose_org_text, orgs).render()
    }));
    pages
}
