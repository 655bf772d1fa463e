//! Bodies written in the configuration, for services whose clients know another form.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::Saying;
use super::body::phrase;

/// A body with placeholders: `{"code":"{{code}}"}`. Their values are escaped for the content type.
#[derive(Clone, Debug)]
pub struct Template {
    content_type: HeaderValue,
    headers: Vec<(HeaderName, HeaderValue)>,
    escape: Escape,
    body: TemplateBody,
    /// Replacements for `body`, by code.
    by_code: Vec<(&'static str, TemplateBody)>,
}

/// Literal text and the placeholders in between.
#[derive(Clone, Debug)]
struct TemplateBody(Vec<TemplatePart>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("is not JSON once its placeholders are filled: {0}")]
    Json(String),
    #[error("has a `{{{{` without `}}}}`")]
    Open,
    #[error("has an unknown placeholder `{{{{{0}}}}}`")]
    Placeholder(String),
}

#[derive(Clone, Debug)]
enum TemplatePart {
    Literal(Box<str>),
    Placeholder(Placeholder),
}

#[derive(Clone, Copy, Debug)]
enum Placeholder {
    Advice,
    Code,
    Message,
    Permissions,
    RequestId,
    RetryAfter,
    Status,
    Title,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    Json,
    Markup,
    Plain,
}

const PLACEHOLDERS: [(&str, Placeholder); 8] = [
    ("advice", Placeholder::Advice),
    ("code", Placeholder::Code),
    ("message", Placeholder::Message),
    ("permissions", Placeholder::Permissions),
    ("request_id", Placeholder::RequestId),
    ("retry_after", Placeholder::RetryAfter),
    ("status", Placeholder::Status),
    ("title", Placeholder::Title),
];

// === impl Template ===

impl Template {
    /// The names that are allowed between `{{` and `}}`.
    pub fn placeholders() -> impl Iterator<Item = &'static str> {
        PLACEHOLDERS.iter().map(|(name, _)| *name)
    }

    /// # Errors
    /// A placeholder that does not exist or has no end, or invalid JSON.
    pub fn parse(
        content_type: HeaderValue,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: &str,
    ) -> Result<Self, TemplateError> {
        let escape = escape(content_type.to_str().unwrap_or_default());
        let body = TemplateBody::parse(body, escape)?;
        Ok(Self { content_type, headers, escape, body, by_code: Vec::new() })
    }

    /// Gives refusals with this code a body of their own.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn add_body(&mut self, code: &'static str, body: &str) -> Result<(), TemplateError> {
        self.by_code.push((code, TemplateBody::parse(body, self.escape)?));
        Ok(())
    }

    pub(super) fn content_type(&self) -> &HeaderValue {
        &self.content_type
    }

    pub(super) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    pub(super) fn render(&self, saying: &Saying<'_>) -> Bytes {
        let own = self.by_code.iter().find(|(code, _)| *code == saying.code);
        own.map_or(&self.body, |(_, body)| body).render(saying, self.escape)
    }
}

// === impl TemplateBody ===

impl TemplateBody {
    fn parse(body: &str, escape: Escape) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = body;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after.split_once("}}").ok_or(TemplateError::Open)?;
            let name = name.trim();
            let (_, place) = PLACEHOLDERS
                .iter()
                .find(|(known, _)| *known == name)
                .ok_or_else(|| TemplateError::Placeholder(name.to_owned()))?;
            parts.push(TemplatePart::Literal(before.into()));
            parts.push(TemplatePart::Placeholder(*place));
            rest = after;
        }
        parts.push(TemplatePart::Literal(rest.into()));
        let body = Self(parts);
        if escape == Escape::Json {
            let sample = body.render(&sample(), escape);
            serde_json::from_slice::<serde::de::IgnoredAny>(&sample)
                .map_err(|e| TemplateError::Json(e.to_string()))?;
        }
        Ok(body)
    }

    fn render(&self, saying: &Saying<'_>, escape: Escape) -> Bytes {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Literal(text) => out.push_str(text),
                TemplatePart::Placeholder(place) => place.fill(&mut out, saying, escape),
            }
        }
        out.into()
    }
}

// === impl Placeholder ===

impl Placeholder {
    fn fill(self, out: &mut String, saying: &Saying<'_>, escape: Escape) {
        match self {
            Placeholder::Advice => escape.push(out, &saying.advice),
            Placeholder::Code => escape.push(out, saying.code),
            Placeholder::Message => escape.push(out, &saying.message),
            Placeholder::Permissions => escape.push(out, &saying.permissions),
            Placeholder::RequestId => escape.push(out, saying.request_id),
            // Writes a number even if there is nothing to wait for, so that JSON stays JSON.
            Placeholder::RetryAfter => out.push_str(&saying.retry_after.unwrap_or(0).to_string()),
            Placeholder::Status => out.push_str(saying.status.as_str()),
            Placeholder::Title => escape.push(out, phrase(saying)),
        }
    }
}

// === impl Escape ===

impl Escape {
    fn push(self, out: &mut String, text: &str) {
        match self {
            Escape::Plain => out.push_str(text),
            Escape::Json => {
                // A JSON string without the surrounding quotes, which the template has.
                let quoted = serde_json::Value::from(text).to_string();
                out.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
            }
            Escape::Markup => {
                for c in text.chars() {
                    match c {
                        '&' => out.push_str("&amp;"),
                        '<' => out.push_str("&lt;"),
                        '>' => out.push_str("&gt;"),
                        '"' => out.push_str("&quot;"),
                        '\'' => out.push_str("&#39;"),
                        c => out.push(c),
                    }
                }
            }
        }
    }
}

fn escape(content_type: &str) -> Escape {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let (_, subtype) = kind.split_once('/').unwrap_or_default();
    match subtype.rsplit('+').next() {
        Some("json") => Escape::Json,
        Some("html" | "xml") => Escape::Markup,
        _ => Escape::Plain,
    }
}

fn sample() -> Saying<'static> {
    Saying {
        status: http::StatusCode::UNAUTHORIZED,
        code: "code",
        message: "message".to_owned(),
        description: "message",
        advice: "advice".to_owned(),
        request_id: "id",
        permissions: String::new(),
        retry_after: None,
        violated: Vec::new(),
        docs: None,
    }
}
