//! Who issued a key: a management service needs this, and upstream credentials are made from it.

use super::key::NameError;

/// The most bytes of each of the three texts.
pub const MAX_TEXT: usize = 128;

/// The person or machine that issued a key, as the publisher's identity provider knows them. It is
/// free text, so it never goes into a header unencoded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    subject: Box<str>,
    email: Box<str>,
    role: Box<str>,
}

/// An [`Owner`] that borrows from a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerView<'k> {
    /// Never empty.
    pub subject: &'k str,
    /// Possibly empty.
    pub email: &'k str,
    /// Possibly empty.
    pub role: &'k str,
}

// === impl Owner ===

impl Owner {
    /// `email` and `role` may be empty. Each has at most 128 bytes, without control characters.
    pub fn new(subject: &str, email: &str, role: &str) -> Result<Self, NameError> {
        OwnerView { subject, email, role }.to_owner().ok_or(NameError::Owner)
    }

    pub fn view(&self) -> OwnerView<'_> {
        OwnerView { subject: &self.subject, email: &self.email, role: &self.role }
    }
}

// === impl OwnerView ===

impl OwnerView<'_> {
    pub fn is_valid(&self) -> bool {
        let fits = |text: &str| text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
        !self.subject.is_empty() && [self.subject, self.email, self.role].into_iter().all(fits)
    }

    /// `None` if it is not valid.
    pub fn to_owner(&self) -> Option<Owner> {
        self.is_valid().then(|| Owner {
            subject: self.subject.into(),
            email: self.email.into(),
            role: self.role.into(),
        })
    }
}

impl std::fmt::Display for OwnerView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.subject)?;
        match self.email {
            "" => {}
            email => write!(f, " <{email}>")?,
        }
        match self.role {
            "" => Ok(()),
            role => write!(f, " ({role})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners() {
        let long = "x".repeat(MAX_TEXT + 1);
        let cases = [
            ("a subject is enough", ["u-1", "", ""], true),
            ("all three", ["cn=Kim, ou=Ops", "kim@example.com", "admin"], true),
            ("longest", [&long[1..], &long[1..], &long[1..]], true),
            ("no subject", ["", "kim@example.com", ""], false),
            ("long email", ["u-1", &long, ""], false),
            ("line feed", ["u-1", "", "ad\nmin"], false),
            ("a control character of Latin-1", ["u-\u{85}", "", ""], false),
        ];
        for (name, [subject, email, role], ok) in cases {
            assert_eq!(Owner::new(subject, email, role).is_ok(), ok, "{name}");
        }
        let kim = Owner::new("u-1", "kim@example.com", "admin").unwrap();
        assert_eq!(kim.view().to_string(), "u-1 <kim@example.com> (admin)");
    }
}
