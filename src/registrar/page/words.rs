//! Every text of the page, by language. Templates have no text of their own; a test checks that.
//! `{name}` in a text is a place that [`fill`] fills.

use std::borrow::Cow;
use std::sync::LazyLock;

macro_rules! words {
    ($($name:ident = $text:literal;)*) => {
        /// The texts of one language.
        #[derive(Debug)]
        pub struct Words {
            /// Of the `lang` attribute (BCP 47).
            pub lang: &'static str,
            /// `ltr` or `rtl`.
            pub dir: &'static str,
            $(pub $name: Cow<'static, str>,)*
        }

        static ENGLISH: Words = Words { lang: "en", dir: "ltr", $($name: Cow::Borrowed($text),)* };

        static STRETCHED: LazyLock<Words> = LazyLock::new(|| Words {
            lang: "ar-XB",
            dir: "rtl",
            $($name: Cow::Owned(stretch($text)),)*
        });
    };
}

words! {
    action = "Action";
    active_filter = "Active";
    actor = "Who";
    add = "Add";
    add_my_address = "Add my address, {address}";
    add_member = "Add a member";
    add_member_help = "People appear here when they first sign in. Somebody who has not yet can be added by the name under which they sign in.";
    address = "Address";
    all_filter = "All";
    artefact_patch = "Patch";
    artefact_table = "Table";
    as_of = "As of";
    audit_empty = "Nothing has happened yet.";
    audit_lead = "Every change, newest first. Each line covers the one before, so that a line that is altered or taken out shows.";
    audit_title = "Audit log";
    audit_verified = "Checked by";
    back_to_key = "Back to the key";
    back_to_keys = "Back to the list";
    behind_text = "The database is older than what was published: it looks like a restored backup, or like one that keys still have to move to. Nothing can be changed until it has caught up. On the host, an operator learns how from this command:";
    behind_title = "Read-only: the database is behind";
    browser = "Browser";
    away_text = "The database cannot be reached at the moment. If you have just changed something, it may have been done: look before you try again.";
    busy_text = "Another process is using the database, or more is waiting than is done. Nothing was changed. Try again in a moment.";
    busy_title = "Not done: the database is busy";
    cancel = "Cancel";
    canary = "Canary";
    changed = "Last change";
    change_role = "Change";
    clear_search = "Show all";
    copied = "Copied";
    copy_key_id = "Copy the key";
    copy_curl = "Copy the command";
    copy_secret = "Copy the secret";
    count_many = "{count} keys";
    count_one = "1 key";
    created = "Created";
    curl_help = "Try it";
    current_filter = "Current";
    custom_date = "On a date";
    date = "Date";
    days_365 = "1 year";
    days_7 = "7 days";
    days_90 = "90 days";
    days_30 = "30 days";
    detail = "What changed";
    disable = "Disable";
    disabled = "Disabled";
    disabled_notice = "The key is disabled";
    done = "Done";
    edit = "Edit";
    edit_title = "Edit {name}";
    edited_notice = "Your changes are saved";
    embed_copy_id = "Copy the public id";
    embed_create = "Create key";
    embed_former_ends = "Its former secret, which would work until {end}, ends at once: a key has two secrets at most.";
    embed_new = "New key";
    embed_offline = "The service cannot be reached. Try again in a moment.";
    embed_pair_secret = "Secret";
    embed_public_id = "Public id";
    embed_title = "API keys";
    embed_unsettled = "Nobody knows whether it was done. Press the button again: it is done only once, and then you are told.";
    embed_wait = "Loading…";
    empty_text = "A key lets your own code call the API without a person signing in. Give each program a key of its own, with the permissions that it needs and no more.";
    empty_title = "No keys yet";
    enable = "Enable";
    enabled_notice = "The key is enabled";
    end_session = "End";
    end_other_sessions = "End all other sessions";
    environment = "Environment";
    environment_help = "Written into the key, so that nobody takes one for the other.";
    error = "Error";
    evidence = "Is the old key still in use?";
    evidence_safe = "Unused for 24 hours, and {count} of {all} sidecars have reported: safe to revoke, as far as you trust their reports.";
    evidence_unknown = "Not known: {who} has been silent since";
    evidence_nobody = "Not known: no use was ever reported.";
    evidence_no_sidecar = "Not known: use is reported, but no sidecar is known to this service, and so not whether all report.";
    evidence_never_answered = "Not known: {who} has never answered.";
    evidence_unreported = "Not known: {who} has not reported the use of keys within 24 hours.";
    evidence_stopped = "Not known: {who} has not reported the use of keys since";
    evidence_young = "Not known: the use of keys has been reported only since";
    evidence_young_of = "Not known: {who} has reported the use of keys without a gap only since";
    evidence_used = "Not yet: the old key was last used";
    expired = "Expired";
    expired_filter = "Expired";
    expires = "Expires";
    expires_help = "After that time the key is refused.";
    expires_help_longest = "After that time the key is refused. Keys of this organization live at most {life}.";
    expires_soon_filter = "Expire in 14 days";
    faults_title_many = "{count} things need your attention";
    faults_title_one = "One thing needs your attention";
    field_expires = "Expires";
    field_limit = "Limit";
    field_name = "Name";
    field_networks = "IP restrictions";
    field_note = "Note";
    field_permissions = "Permissions";
    filter_by = "Filter";
    first_used = "First used";
    first_page = "First page";
    fleet = "Fleet";
    forbidden_text = "Your role does not include this.";
    forbidden_title = "You may not do that";
    former_drop = "End it now";
    former_help = "A key has two secrets at most, and one before the present is valid still. Programs that use it are refused as soon as it ends. By itself it ends";
    former_secret = "Former secret";
    going_link = "Go on to {provider}";
    going_text = "Your browser goes there by itself. If it does not:";
    going_title = "Going to {provider}";
    hour_1 = "1 hour";
    hours_24 = "24 hours";
    history = "History";
    in_force = "In force on {count} of {all} sidecars";
    in_force_after = "In force on {count} of {all} sidecars after {ms} ms";
    in_force_none = "Published. No sidecar reports to this service, so nobody knows where it is in force";
    in_force_unpublished = "Kept, and not published yet";
    installation = "Installation";
    instance = "Sidecar";
    keep_expiry = "As it is: {end}";
    keep_open = "Keep this page open until you have stored it.";
    key = "Key";
    key_details = "Details";
    key_name = "Name";
    key_start = "Begins with";
    last_used = "Last used";
    last_seen = "Last seen";
    limit_help = "How many requests are let through. Empty: as many as the plan allows.";
    limit_count = "Requests";
    limit_per = "Per";
    limit_per_day = "day";
    limit_per_hour = "hour";
    limit_per_minute = "minute";
    limit_per_second = "second";
    limits = "Limits";
    live_environment = "Live";
    members_lead = "Who may manage the keys of this organization.";
    members_title = "Members";
    may_not_create = "Your role issues no keys here.";
    member_iss = "Identity provider";
    member_sub = "Subject";
    menu = "Sections";
    more_permissions = "and {count} more";
    name_example = "For example “Client CRM integration”";
    name_help = "A clear name, by which you find the right key again when one has to go.";
    networks = "IP restrictions";
    networks_help = "Addresses or networks, one a line, such as 203.0.113.7 or 2001:db8::/32. Empty: from everywhere.";
    networks_help_needed = "Addresses or networks, one a line, such as 203.0.113.7 or 2001:db8::/32. Each key of this organization needs one at least.";
    networks_everywhere = "From everywhere";
    networks_understood = "Understood as";
    never = "Never";
    never_expires = "Never";
    never_used_filter = "Never used";
    new_key_lead = "The secret is shown once, right after this.";
    next_page = "Next page";
    no_history = "No change is on record.";
    no_match_text = "No key matches what you are looking for.";
    no_match_title = "Nothing found";
    no_permissions = "None";
    no_such_key = "There is no such key here, or it belongs to another organization.";
    no_such_page = "There is no page at this address.";
    no_usage = "No use has been reported yet. Until a sidecar reports to this service, nobody knows whether keys are used. Whoever runs the service switches that on.";
    not_done_title = "Not done";
    read_only_title = "Nothing can be changed now";
    signed_out_title = "You are signed out";
    signed_out_text = "Your session has ended. Sign in again; what you had typed was not sent.";
    not_reported = "Not reported";
    not_found_title = "Not found";
    not_yet_valid = "Not yet valid";
    note = "Note";
    note_help = "For those who look after keys. Never shown to callers.";
    object = "On";
    oidc_denied = "{provider} did not sign you in. Try again, or use another way.";
    oidc_no_role = "{provider} has signed you in, but nobody has given you a role here. An owner of your organization can, by these two:";
    oidc_stale = "This sign-in was begun in another browser, was finished already, or took too long. Nobody was signed in. Start again here.";
    oidc_unreachable = "{provider} does not answer. Try again in a moment, or use another way.";
    oidc_untrusted = "What {provider} has answered cannot be trusted, so nobody was signed in. The reason is in the log of this service.";
    old_key_works = "Both keys work until the old one ends, so that you can swap without an outage.";
    old_secret_works = "Both secrets work until the old one ends, so that you can swap without an outage.";
    older = "Older";
    optional = "optional";
    org = "Organization";
    other_org_text = "This form belongs to {org}. Switch to that organization and send it again; nothing was changed.";
    other_org_title = "You are in another organization now";
    overlap = "Old key stays valid for";
    overlap_none = "End it at once";
    overlap_help = "Time to bring the new secret to every program that uses the old one.";
    owner = "Owner";
    permissions = "Permissions";
    permissions_all_help = "Full access to all endpoints, now and those to come.";
    permissions_help = "Tick what this key needs, and no more.";
    permissions_other = "Others that it has";
    permissions_manage = "Managing keys";
    permission_audit = "See the audit log.";
    permission_embed = "Make tokens for the component in your page.";
    permission_read = "See the keys of this organization.";
    permission_revoke = "Revoke and disable keys.";
    permission_usage = "See how keys are used.";
    permission_write = "Create and change keys.";
    person = "Person";
    plan = "Plan";
    prefix = "Form";
    choose_org_title = "Which organization?";
    choose_org_text = "You are in several. Choose the one whose keys you want to see; you can switch at the top of every page.";
    product_sign_in_text = "Sign in as you always do, then open this page again.";
    product_sign_in_title = "You are not signed in";
    public_key = "Public key";
    publication_all = "Everything is published";
    publication_behind = "Changes wait to be published: {count}";
    publication_lead = "What the sidecars decide by.";
    publication_none = "Nothing has been published yet.";
    publication_title = "Publication";
    published = "Published up to";
    refusals = "Refusals";
    replaces = "Replaces";
    requests = "Requests";
    requests_days = "Requests of the last 30 days";
    retired = "Retired";
    revoke = "Revoke";
    revoke_consequence = "Programs that use it are refused at once. This cannot be undone.";
    revoke_key = "Revoke key";
    revoke_title = "Revoke {name}?";
    revoke_type_name = "It was used within the last 24 hours. Type its name to confirm:";
    revoke_type_name_unknown = "Nobody knows whether it is in use: no sidecar is known, or not every one has reported the use of keys for 24 hours. Type its name to confirm:";
    revoke_unused = "Sidecars report the use of keys, and none has seen it in the last 24 hours.";
    revoked = "Revoked";
    revoked_filter = "Revoked";
    revoked_notice = "The key is revoked";
    role = "Role";
    role_admin = "Admin";
    role_auditor = "Auditor";
    role_member = "Member";
    role_operator = "Operator";
    role_owner = "Owner";
    role_remove = "Remove from the organization";
    rotate = "Rotate";
    rotate_button = "Make the new secret";
    rotate_disabled_pair = "It cannot be rotated while it is disabled: a new secret would be refused too. Enable it first.";
    rotate_expires_help = "After that time the new secret is refused.";
    rotate_lead = "A new secret with the same permissions, restrictions and limits.";
    rotate_title = "Rotate {name}";
    save = "Save changes";
    search = "Search";
    search_by = "Name, key id or first characters";
    serial = "Serial";
    session_current = "This one";
    sessions_lead = "Where you are signed in.";
    sessions_title = "Sessions";
    sidecars = "Sidecars";
    sidecars_empty = "No sidecar has reported yet. One that fetches its table appears here when it first asks; one that reads files, once [[status.pull]] in admin.toml names it.";
    sidecar_current = "Up to date";
    sidecar_never = "Never answered";
    sidecar_late = "Behind by {count}";
    sidecar_silent = "Silent";
    sign_in_again_title = "Sign in again first";
    sign_in_again_text = "This needs a sign-in of the last minutes.";
    sign_in_button = "Sign in";
    sign_in_lead = "The link that brought you here can be used once, within 15 minutes.";
    sign_in_link_missing = "Ask whoever runs this service for a sign-in link. It is made on the host by";
    sign_in_noscript = "Copy the part of this page's address behind the # sign into the field.";
    sign_in_other = "With a sign-in link";
    sign_in_too_many = "Too many attempts came from your network. Wait a minute.";
    sign_in_token = "Sign-in code";
    sign_in_with = "Sign in with {provider}";
    sign_in_used = "This link was used already, or has ended. Ask for a new one.";
    sign_out = "Sign out";
    sign_out_there = "Sign out of {provider} as well";
    signed_out_notice = "You are signed out here.";
    signed_in = "Signed in";
    signer = "Signer";
    signers_empty = "No signer has signed yet.";
    signers_lead = "Whose signature the sidecars are meant to trust.";
    signers_title = "Signers";
    skip = "Skip to the content";
    start_again = "Start again";
    state = "State";
    store_safe = "Store it where your program's other secrets are. It is not kept here and cannot be shown again; if it is lost, make a new key.";
    store_title = "Copy the secret now: it is shown once";
    sunset = "Meant to go out of use";
    switch_org = "Switch";
    test_environment = "Test";
    time = "When";
    trouble_text = "Nothing was changed. What went wrong is in the service's log, under this request id:";
    trouble_title = "Something went wrong";
    unused_filter = "Unused 90 days";
    usage = "Usage";
    usage_table = "As a table";
    used_networks = "Used from";
    uuid = "UUID";
    valid_until = "Valid until";
    version_conflict = "Somebody else changed this key while you were editing. What they changed:";
    version_conflict_kept = "What you typed is still in the form. Look it over and save again.";
    was = "was {before}, is {after}";
    was_shown_text = "This was done when it was first sent, and the secret was in that answer, which may have been lost. It is not kept, so it cannot be shown again. If nobody has stored it, rotate the key for a new one.";
    was_shown_title = "The secret was shown already";
    you = "you";
    ago_days = "{count} days ago";
    ago_day = "yesterday";
    ago_hours = "{count} h ago";
    ago_minutes = "{count} min ago";
    ago_now = "just now";
    in_days = "in {count} days";
    in_hours = "in {count} h";
    in_minutes = "in {count} min";
    longest_life = "{life}, the longest";
    many_count = "10,000+";
    detail_column = "Detail";
    finding = "Finding";
    findings_title = "Findings";
    findings_lead = "Keys whose use stands out, as far as sidecars have reported.";
    findings_none_title = "Nothing stands out";
    findings_none_text = "No canary was touched, no ended key is still used, no key is used from a new network or refused ten times as often as before, and every key was used within 90 days.";
    findings_more = "There are more than these. Deal with some, and the others appear.";
    finding_canary = "Canary used";
    finding_canary_text = "This key exists to be stolen, and somebody has used it. Look where it was kept.";
    finding_ended = "Used after its end";
    finding_ended_text = "The key is revoked or expired, and a program still sends it. Find that program, and give it a new key.";
    finding_network = "New network";
    finding_network_text = "The key is used from a network that it was never used from before. If nobody has moved a program, rotate it.";
    finding_refused = "Refused tenfold";
    finding_refused_text = "In the last day it was refused ten times as often as in the days before. The reasons are under Usage.";
    finding_unused = "Unused 90 days";
    finding_unused_text = "Nobody has used the key for 90 days. If no program needs it, revoke it.";
    keys_left_title = "Keys of {name} that their role does not cover";
    keys_left_keep = "They stay in force, as the policy of the organization says. Give each to somebody else, or revoke it.";
    keys_left_disable = "They were disabled, as the policy of the organization says. Enable what is still needed, or revoke it.";
    keys_left_more = "and {count} more";
    policy_title = "Policy";
    policy_lead = "What every key of this organization has to keep to, whoever makes it. Keys that are there stay as they are.";
    policy_owners_only = "Owners can change it.";
    policy_life = "Longest life of a key, in days";
    policy_life_help = "Empty: keys need no end.";
    policy_most = "Most keys at a time";
    policy_most_help = "Revoked and expired keys do not count. Empty: any number.";
    policy_networks = "Every key names its networks";
    policy_networks_help = "A key without IP restrictions cannot be made.";
    policy_permissions = "Permissions on offer";
    policy_permissions_help = "What keys of this organization can be given at all.";
    policy_permissions_all = "All of them";
    policy_permissions_some = "Only those ticked";
    policy_leaves = "When somebody leaves, or loses the role that their keys need";
    policy_leaves_help = "Those keys are listed under Members and in the audit log, either way.";
    policy_leaves_keep = "Their keys stay, so that no program stops. Somebody looks at them.";
    policy_leaves_disable = "Their keys are disabled at once.";
    policy_saved = "The policy is saved";
    policy_conflict = "Somebody else has changed the policy meanwhile. What you typed is still in the form; save again to put it in place of theirs.";
    fault_life = "must be a number of days, or a time such as 12h";
    fault_most = "must be a whole number above 0";
    fault_no_permission = "tick one at least, or offer all of them";
    since = "First failed";
    finding_requests = "requests: {count}";
    drafts_title = "Waiting for signatures";
    draft_signed_by = "Signed by";
    draft_own = "this service";
    draft_missing = "Not yet by";
    draft_required = "{count} have to sign.";
    unpublished_awaiting = "It is signed here, and waits for the signatures of others. Nothing is lost; sidecars learn of it once enough have signed.";
    unpublished_behind = "The database is older than what was published: it looks like a restored backup, or like one that keys still have to move to. On the host, `keygatectl admin check` tells an operator how it catches up.";
    unpublished_database = "The database does not answer. It is tried again each second.";
    unpublished_disk_full = "The disk is full: a table or patch could not be written. Once there is room, it is published by itself.";
    unpublished_no_signer = "No signer is configured for these keys, so nothing is signed.";
    unpublished_overtaken = "Another process publishes from the same database. It is tried again each second.";
    unpublished_refused = "The signer refuses to sign this: too many keys would end at once, or it goes back behind what was signed. Somebody has to look at it on the signer's host.";
    unpublished_signer = "The signer cannot be reached, or does not sign. Once it does, all changes are published by themselves; none is lost.";
    unpublished_target = "A directory that sidecars read takes nothing: it cannot be written, or something newer is in it.";
    unpublished_unfit = "What the keys say cannot be put into a table of the configured format.";
    fault_name_missing = "give it a name";
    fault_date = "give a date after today";
    fault_edit_sent_before = "This form was sent before with other content, and that was saved then. Send it again: you are shown what is different now, and can save this too.";
    fault_rotation_sent_before = "This form was sent before with other content, and a new secret was made then. Look at the list, and send it again if you want another one.";
    fault_sent_before = "This form was sent before, and the key was made then. Look it over, and send it again if you want another one.";
    fault_former = "tick this, or wait until it has ended";
    fault_missing = "is needed";
    fault_limit = "must be a whole number above 0";
    fault_name_confirm = "type the name as it stands there";
    fault_form_old = "This form was open for too long, or was made for another session. Nothing was changed; what you typed is still there, so send it again.";
}

// === impl Words ===

impl Words {
    /// The language that a browser prefers, by its `Accept-Language`. `ar-XB` is the tests'
    /// pseudo-language: 40 % longer, from right to left.
    pub fn preferred(accept: &str) -> &'static Self {
        let first = accept.split([',', ';']).next().unwrap_or_default().trim();
        if first.eq_ignore_ascii_case("ar-XB") { &STRETCHED } else { &ENGLISH }
    }
}

/// `text` with each `{name}` replaced.
pub fn fill(text: &str, places: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((name, after)) = behind.split_once('}') else { break };
        out.push_str(before);
        out.push_str(places.iter().find(|(known, _)| *known == name).map_or("", |(_, to)| *to));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The text with accents, and 40 % longer; places stay as they are.
fn stretch(text: &str) -> String {
    let mut out = String::from("[");
    let (mut letters, mut in_place) = (0_usize, false);
    for symbol in text.chars() {
        in_place = in_place && symbol != '}' || symbol == '{';
        letters += usize::from(symbol.is_alphabetic());
        out.push(match symbol {
            _ if in_place => symbol,
            'a' => 'á',
            'e' => 'é',
            'i' => 'í',
            'o' => 'ö',
            'u' => 'ü',
            'y' => 'ý',
            'n' => 'ñ',
            'c' => 'ç',
            's' => 'š',
            symbol => symbol,
        });
    }
    out.push_str(&" øü".repeat(letters * 2 / 15 + 1));
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_and_survive_the_pseudo_language() {
        assert_eq!(fill("in {count} of {all}", &[("all", "3"), ("count", "2")]), "in 2 of 3");
        assert_eq!(fill("an open { brace", &[]), "an open { brace");
        let text = stretch("{count} keys in force");
        assert!(text.contains("{count}") && !text.contains("keys"), "{text}");
        assert!(text.chars().count() * 10 >= "{count} keys in force".len() * 13, "{text}");
        assert_eq!(Words::preferred("ar-XB,en;q=0.5").dir, "rtl");
        assert_eq!(Words::preferred("de-DE").lang, "en");
    }
}
