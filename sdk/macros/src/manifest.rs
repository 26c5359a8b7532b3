//! An attribute's arguments, checked, and the manifest they make.

use serde_json::{Value, json};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, ExprLit, Lit, LitBool, LitStr, MetaNameValue, Result, Token};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Connector,
    Mapping,
}

#[derive(Default)]
pub(crate) struct Arguments {
    name: Option<LitStr>,
    version: Option<LitStr>,
    description: Option<LitStr>,
    settings_schema: Option<LitStr>,
    hosts: Vec<LitStr>,
    secrets: Vec<LitStr>,
    events: Vec<LitStr>,
    emits: Vec<LitStr>,
    mail: Option<LitBool>,
}

impl Parse for Arguments {
    fn parse(input: ParseStream) -> Result<Arguments> {
        let mut arguments = Arguments::default();
        let mut seen = Vec::new();
        for pair in Punctuated::<MetaNameValue, Token![,]>::parse_terminated(input)? {
            let key = pair.path.require_ident()?.to_string();
            if seen.contains(&key) {
                return Err(Error::new(pair.path.span(), format!("`{key}` is given twice")));
            }
            match key.as_str() {
                "name" => arguments.name = Some(text(&pair.value)?),
                "version" => arguments.version = Some(text(&pair.value)?),
                "description" => arguments.description = Some(text(&pair.value)?),
                "settings_schema" => arguments.settings_schema = Some(text(&pair.value)?),
                "hosts" => arguments.hosts = texts(&pair.value)?,
                "secrets" => arguments.secrets = texts(&pair.value)?,
                "events" => arguments.events = texts(&pair.value)?,
                "emits" => arguments.emits = texts(&pair.value)?,
                "mail" => arguments.mail = Some(flag(&pair.value)?),
                _ => {
                    return Err(Error::new(
                        pair.path.span(),
                        format!(
                            "there is no `{key}`; known are name, version, description, hosts, secrets, events, emits, \
                             mail, settings_schema"
                        ),
                    ));
                }
            }
            seen.push(key);
        }
        Ok(arguments)
    }
}

fn text(value: &Expr) -> Result<LitStr> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Ok(text.clone()),
        _ => {
            Err(Error::new(value.span(), "write a string literal: the manifest is made before anything else is known"))
        }
    }
}

fn flag(value: &Expr) -> Result<LitBool> {
    match value {
        Expr::Lit(ExprLit { lit: Lit::Bool(flag), .. }) => Ok(flag.clone()),
        _ => Err(Error::new(value.span(), "write true or false")),
    }
}

fn texts(value: &Expr) -> Result<Vec<LitStr>> {
    match value {
        Expr::Array(list) => list.elems.iter().map(text).collect(),
        _ => Err(Error::new(value.span(), "write a list of string literals, for instance [\"a\", \"b\"]")),
    }
}

impl Arguments {
    /// The manifest as JSON.
    pub(crate) fn manifest(&self, kind: Kind) -> Result<String> {
        let name = self
            .name
            .as_ref()
            .ok_or_else(|| Error::new(proc_macro2::Span::call_site(), "give it a name, for instance name = \"crm\""))?;
        let words = name.value();
        let is_word =
            |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !words.split('-').all(is_word) || !words.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(Error::new(
                name.span(),
                "a name has lower-case letters and digits, a letter first, and `-` between words",
            ));
        }
        if kind == Kind::Mapping
            && let Some(extra) = self.hosts.iter().chain(&self.secrets).chain(&self.emits).next()
        {
            return Err(Error::new(extra.span(), "a mapping is pure: it has no hosts, no secrets and emits nothing"));
        }
        let mail = self.mail.as_ref().filter(|mail| mail.value);
        if kind == Kind::Mapping
            && let Some(mail) = mail
        {
            return Err(Error::new(mail.span(), "a mapping is pure: it sends no e-mail"));
        }
        for host in &self.hosts {
            let value = host.value();
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if value != "*" && (value.is_empty() || !value.bytes().all(plain)) {
                return Err(Error::new(
                    host.span(),
                    "write a host name without scheme or path, `settings.<key>`, or `*`",
                ));
            }
        }
        let settings = match &self.settings_schema {
            None => Value::Null,
            Some(schema) => serde_json::from_str::<Value>(&schema.value())
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| Error::new(schema.span(), "a JSON Schema is a JSON object"))?,
        };

        // `log` is everybody's and not declared. Whether an interface is really used is only known after linking, when
        // what is not used is gone.
        let mut imports = Vec::new();
        if kind == Kind::Connector {
            imports.extend(["clock", "random"]);
            imports.extend((!self.hosts.is_empty()).then_some("http"));
            imports.extend(mail.map(|_| "mail"));
            imports.extend((!self.secrets.is_empty()).then_some("secrets"));
        }
        let manifest = json!({
            "sdk": env!("CARGO_PKG_VERSION"),
            "kind": if kind == Kind::Connector { "connector" } else { "mapping" },
            "name": words,
            "version": given_or_of_package(&self.version, "CARGO_PKG_VERSION"),
            "description": given_or_of_package(&self.description, "CARGO_PKG_DESCRIPTION"),
            "hosts": values(&self.hosts),
            "secrets": values(&self.secrets),
            "imports": imports,
            "events": values(&self.events),
            "emits": values(&self.emits),
            "settings": settings,
        });
        Ok(manifest.to_string())
    }
}

fn values(texts: &[LitStr]) -> Vec<String> {
    texts.iter().map(LitStr::value).collect()
}

/// Cargo tells the compiler about the package that is being compiled.
fn given_or_of_package(given: &Option<LitStr>, variable: &str) -> String {
    given.as_ref().map_or_else(|| std::env::var(variable).unwrap_or_default(), LitStr::value)
}
