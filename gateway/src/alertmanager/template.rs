//! Texts with values of an alert: `{{ label }}`, `{{ annotations.name }}`, `{{ group }}`.

use super::{alert::Alert, matcher::Groups};

/// A text, or parts of one between values of an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) parts: Vec<TemplatePart>,
}

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TemplatePart {
    /// Text that stays as it is.
    Text(String),
    /// A value of the alert.
    Value(Placeholder),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Placeholder {
    /// A label of the alert.
    Label(String),
    /// An annotation of the alert.
    Annotation(String),
    /// A named group of the rule's matchers.
    Group(String),
}

/// A value that the alert does not have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missing {
    /// No label.
    #[error("the alert has no label `{0}`")]
    Label(String),
    /// No annotation.
    #[error("the alert has no annotation `{0}`")]
    Annotation(String),
    /// No group.
    #[error("the group `{0}` matched nothing")]
    Group(String),
}

impl Template {
    /// Reads a template. `groups` are the named groups that it can use; they take precedence over labels.
    ///
    /// # Errors
    /// When it is malformed; the text says what to write.
    pub(super) fn parse(text: &str, groups: &[&str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after
                .split_once("}}")
                .ok_or_else(|| format!("`{text}` has a `{{{{` without its `}}}}`"))?;
            if !before.is_empty() {
                parts.push(TemplatePart::Text(before.to_owned()));
            }
            parts.push(TemplatePart::Value(Placeholder::parse(name.trim(), groups)?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(TemplatePart::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The text, if no alert changes it.
    pub(super) fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [TemplatePart::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The values that it needs.
    pub(super) fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Text(_) => None,
            TemplatePart::Value(placeholder) => Some(placeholder),
        })
    }

    /// With the values of an alert.
    ///
    /// # Errors
    /// When it lacks one, which is the same as an empty one.
    pub(super) fn fill(&self, alert: &Alert, groups: &Groups<'_>) -> Result<String, Missing> {
        let mut text = String::new();
        for part in &self.parts {
            text.push_str(match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Value(placeholder) => {
                    placeholder.value(alert, groups).ok_or_else(|| placeholder.missing())?
                }
            });
        }
        Ok(text)
    }

    /// With the values of an alert, and nothing in the place of those that it lacks.
    pub(super) fn fill_what_is_there(&self, alert: &Alert, groups: &Groups<'_>) -> String {
        let parts = self.parts.iter().map(|part| match part {
            TemplatePart::Text(text) => text,
            TemplatePart::Value(placeholder) => {
                placeholder.value(alert, groups).unwrap_or_default()
            }
        });
        parts.collect()
    }
}

impl Placeholder {
    fn parse(name: &str, groups: &[&str]) -> Result<Self, String> {
        let is_plain = |name: &str| {
            let mut characters = name.chars();
            characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if groups.contains(&name) {
            return Ok(Self::Group(name.to_owned()));
        }
        if is_plain(name) {
            return Ok(Self::Label(name.to_owned()));
        }
        let in_quotes = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        if let Some(label) = in_quotes.filter(|name| !name.is_empty()) {
            return Ok(Self::Label(label.to_owned()));
        }
        match name.strip_prefix("annotations.") {
            Some(name) if !name.is_empty() && !name.contains(char::is_whitespace) => {
                Ok(Self::Annotation(name.to_owned()))
            }
            Some(_) | None => Err(format!(
                "`{{{{ {name} }}}}` can't be filled in: write `{{{{ name }}}}` for a label or for a named \
                group of the rule's matchers, `{{{{ annotations.name }}}}` for an annotation, and \
                `{{{{ \"name\" }}}}` for a label whose name has other characters than letters, digits and _"
            )),
        }
    }

    fn value<'a>(&self, alert: &'a Alert, groups: &Groups<'a>) -> Option<&'a str> {
        let value = match self {
            Self::Label(name) => alert.labels.get(name).map(String::as_str),
            Self::Annotation(name) => alert.annotations.get(name).map(String::as_str),
            Self::Group(name) => groups.get(name.as_str()).copied(),
        };
        value.filter(|value| !value.is_empty())
    }

    fn missing(&self) -> Missing {
        match self {
            Self::Label(name) => Missing::Label(name.clone()),
            Self::Annotation(name) => Missing::Annotation(name.clone()),
            Self::Group(name) => Missing::Group(name.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::alert::Labels, *};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn alert() -> Alert {
        let given = labels(&[("service", "DNS"), ("service.name", "dns"), ("region", "label")]);
        Alert::firing(given, labels(&[("summary", "It is slow"), ("run.book", "here")]))
    }

    /// A template, and what it is for the alert, or what it lacks.
    #[test]
    fn templates_are_filled_with_values_of_the_alert() {
        let alert = alert();
        let groups = Groups::from([("region", "eu"), ("empty", "")]);
        for (text, expected) in [
            ("", Ok("")),
            ("DNS", Ok("DNS")),
            ("{{ service }}", Ok("DNS")),
            ("{{service}}-{{  service}}!", Ok("DNS-DNS!")),
            ("{{ \"service.name\" }}", Ok("dns")),
            ("{{ region }}", Ok("eu")),
            ("{{ \"region\" }}", Ok("label")),
            ("{{ annotations.summary }} ({{ annotations.run.book }})", Ok("It is slow (here)")),
            ("}} {", Ok("}} {")),
            ("x{{ zone }}", Err("the alert has no label `zone`")),
            ("{{ annotations.zone }}", Err("the alert has no annotation `zone`")),
            ("{{ empty }}", Err("the group `empty` matched nothing")),
        ] {
            let template = Template::parse(text, &["region", "empty"]).expect(text);
            let filled = template.fill(&alert, &groups).map_err(|missing| missing.to_string());
            assert_eq!(filled.as_deref().map_err(String::as_str), expected, "{text}");
            assert_eq!(template.constant().is_some(), !text.contains("{{"), "{text}");
        }
        let partly = Template::parse("{{ zone }}: {{ service }}", &[]).expect("it is one");
        assert_eq!(partly.fill_what_is_there(&alert, &groups), ": DNS");
    }

    #[test]
    fn what_is_no_template_says_what_to_write() {
        for (text, says) in [
            ("{{ service", "without its `}}`"),
            ("{{ }}", "write `{{ name }}` for a label"),
            ("{{ $labels.service }}", "`{{ $labels.service }}` can't be filled in"),
            ("{{ .Labels.service }}", "write `{{ name }}` for a label"),
            ("{{ labels.service }}", "write `{{ name }}` for a label"),
            ("{{ annotation.summary }}", "`{{ annotations.name }}` for an annotation"),
            ("{{ annotations. }}", "`{{ annotations.name }}` for an annotation"),
            ("{{ service.name }}", "`{{ \"name\" }}` for a label whose name has"),
            ("{{ service | upper }}", "can't be filled in"),
            ("{{ \"\" }}", "can't be filled in"),
        ] {
            let error = Template::parse(text, &[]).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_template_or_refused(text in "[{} a.\"]{0,12}|.{0,20}") {
            if let Ok(template) = Template::parse(&text, &[]) {
                template.fill_what_is_there(&alert(), &Groups::new());
            }
        }
    }
}
