//! The record of processing that the LGPD asks for (art. 37), made of the configuration in force: what comes from whom and
//! why, who gets it, how long it is kept, and what nobody has said yet. What people read of it is Brazilian Portuguese.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Serialize;

use crate::config::{Config, EventName, Keep, Personal, PersonalKind};

/// The country whose law this is: whatever goes elsewhere is an international transfer.
const HOME: &str = "BR";

#[derive(Debug, Serialize)]
pub(crate) struct Record {
    sources: Vec<SourceRecord>,
    endpoints: Vec<EndpointRecord>,
    retention: BTreeMap<&'static str, Keep>,
    /// What is not said, one sentence each.
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SourceRecord {
    name: String,
    description: String,
    purpose: String,
    basis: String,
    categories: Vec<String>,
    subjects: Vec<String>,
    personal: Vec<Personal>,
    sealed: bool,
    retention: Keep,
    /// Types that its webhooks are known to have.
    events: BTreeSet<String>,
    /// Whether the sender may name any other type.
    any_event: bool,
    recipients: Vec<Recipient>,
}

#[derive(Debug, Serialize)]
struct Recipient {
    endpoint: String,
    purpose: String,
    /// To another country, if it is one.
    transfer_to: Option<String>,
    /// False when it depends on the type that the sender names.
    certain: bool,
}

#[derive(Debug, Serialize)]
struct EndpointRecord {
    name: String,
    recipient: String,
    purpose: String,
    basis: String,
    categories: Vec<String>,
    subjects: Vec<String>,
    country: String,
    transfer: bool,
    safeguard: String,
    /// Types of the events that go there.
    receives: BTreeSet<String>,
    /// Of the events that come of its answers.
    personal: Vec<Personal>,
    sealed: bool,
    retention: Keep,
}

/// What an operator should know when a configuration comes into force: people's data that the record says nothing of.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let says = |kind: &str, name: &str| {
        format!(
            "{kind} \"{name}\" has personal data and no processing: the record of processing (LGPD, art. 37) lacks it; add \
             [{kind}s.{name}.processing]"
        )
    };
    let sources = config.sources.iter().filter(|(_, source)| source.sensitive || !source.personal.is_empty());
    let sources = sources.filter(|(_, source)| source.processing.is_none()).map(|(name, _)| says("source", name));
    let endpoints = config.endpoints.iter().filter(|(_, other)| other.sensitive || !other.personal.is_empty());
    let endpoints = endpoints.filter(|(_, other)| other.processing.is_none()).map(|(name, _)| says("endpoint", name));
    sources.chain(endpoints).collect()
}

impl Record {
    pub(crate) fn of(config: &Config) -> Record {
        let times = &config.retention;
        let mut record = Record {
            sources: config.sources.keys().filter_map(|name| source(config, name)).collect(),
            endpoints: config.endpoints.keys().filter_map(|name| endpoint(config, name)).collect(),
            retention: [
                ("content", times.content()),
                ("dead_letters", times.dead_letters()),
                ("logs", times.logs()),
                ("attempts", times.attempts()),
                ("events", times.events()),
                ("idempotency_keys", times.idempotency_keys()),
                ("sync_jobs", times.sync_jobs()),
                ("audit", times.audit()),
            ]
            .into(),
            missing: Vec::new(),
        };
        let mut missing = Vec::new();
        let mut ask = |kind: &str, name: &str, needed: &[(bool, &str)]| {
            missing.extend(needed.iter().filter(|(lacks, _)| *lacks).map(|(_, what)| format!("{kind} {name}: {what}")));
        };
        for source in &record.sources {
            ask(
                "fonte",
                &source.name,
                &[
                    (source.purpose.is_empty(), "falta a finalidade"),
                    (source.basis.is_empty(), "falta a base legal"),
                    (source.categories.is_empty(), "faltam as categorias de dados"),
                    (source.subjects.is_empty(), "faltam as categorias de titulares"),
                ],
            );
        }
        for endpoint in &record.endpoints {
            ask(
                "destino",
                &endpoint.name,
                &[
                    (endpoint.recipient.is_empty(), "falta o destinatário"),
                    (endpoint.purpose.is_empty(), "falta a finalidade"),
                    (endpoint.basis.is_empty(), "falta a base legal"),
                    (endpoint.country.is_empty(), "falta o país"),
                    (
                        endpoint.transfer && endpoint.safeguard.is_empty(),
                        "falta a salvaguarda da transferência internacional",
                    ),
                ],
            );
        }
        record.missing = missing;
        record
    }

    /// For people: Markdown, Brazilian Portuguese.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "# Registro das operações de tratamento (LGPD, art. 37)\n\nGerado da configuração em vigor neste hub.\n\n## Fontes\n",
        );
        for source in &self.sources {
            let kinds = personal(&source.personal);
            heading(&mut text, &source.name, &source.description);
            for (label, value) in [
                ("Finalidade", said(&source.purpose)),
                ("Base legal", said(&source.basis)),
                ("Categorias de dados", list(&source.categories)),
                ("Categorias de titulares", list(&source.subjects)),
                ("Campos que identificam pessoas", kinds),
                ("Cifrado em repouso", yes(source.sealed)),
                ("Conteúdo guardado por", keep(source.retention)),
            ] {
                line(&mut text, label, &value);
            }
            let types: Vec<String> = source.events.iter().cloned().collect();
            let any = if source.any_event { " (e qualquer outro que o remetente indique)" } else { "" };
            line(&mut text, "Tipos de evento", &format!("{}{any}", list(&types)));
            text.push_str("- **Destinatários:**\n");
            if source.recipients.is_empty() {
                text.push_str("  - nenhum\n");
            }
            for recipient in &source.recipients {
                let abroad = recipient.transfer_to.as_ref();
                let abroad = abroad.map(|country| format!("; **transferência internacional: {}**", plain(country)));
                let maybe = if recipient.certain { "" } else { " (conforme o tipo do evento)" };
                let _ = writeln!(
                    text,
                    "  - {}: {}{}{maybe}",
                    plain(&recipient.endpoint),
                    said(&recipient.purpose),
                    abroad.unwrap_or_default()
                );
            }
        }
        text.push_str("\n## Destinos\n");
        for endpoint in &self.endpoints {
            heading(&mut text, &endpoint.name, "");
            let types: Vec<String> = endpoint.receives.iter().cloned().collect();
            for (label, value) in [
                ("Destinatário", said(&endpoint.recipient)),
                ("Finalidade", said(&endpoint.purpose)),
                ("Base legal", said(&endpoint.basis)),
                ("Categorias de dados", list(&endpoint.categories)),
                ("Categorias de titulares", list(&endpoint.subjects)),
                ("País", said(&endpoint.country)),
                ("Transferência internacional", yes(endpoint.transfer)),
                ("Recebe", list(&types)),
                ("Campos que identificam pessoas nas respostas", personal(&endpoint.personal)),
                ("Cifrado em repouso", yes(endpoint.sealed)),
                ("Conteúdo das respostas guardado por", keep(endpoint.retention)),
            ] {
                line(&mut text, label, &value);
            }
            if endpoint.transfer {
                line(&mut text, "Salvaguarda (art. 33)", &said(&endpoint.safeguard));
            }
        }
        text.push_str("\n## Prazos de guarda\n\n");
        for (rule, label) in [
            ("content", "Conteúdo dos eventos, em geral"),
            ("dead_letters", "Entregas desistidas, com o conteúdo"),
            ("logs", "Mensagens e registros das tentativas"),
            ("attempts", "Tentativas"),
            ("events", "Eventos e entregas, sem conteúdo"),
            ("idempotency_keys", "Chaves de idempotência"),
            ("sync_jobs", "Execuções de sincronização"),
            ("audit", "Registro de auditoria"),
        ] {
            line(&mut text, label, &self.retention.get(rule).map_or(String::new(), |time| keep(*time)));
        }
        text.push_str("\n## O que falta\n\n");
        if self.missing.is_empty() {
            text.push_str("Nada.\n");
        }
        for what in &self.missing {
            let _ = writeln!(text, "- {}", plain(what));
        }
        text
    }
}

fn source(config: &Config, name: &str) -> Option<SourceRecord> {
    let source = config.sources.get(name)?;
    let said = source.processing.clone().unwrap_or_default();
    let mut events = BTreeSet::new();
    let mut any_event = false;
    for webhook in &source.webhooks {
        match &webhook.event {
            EventName::Fixed(event) => drop(events.insert(event.clone())),
            EventName::Header(_) => any_event = true,
            EventName::Pointer(rule) => {
                events.extend(rule.map.values().chain(&rule.default).cloned());
                any_event |= rule.map.is_empty() && rule.default.is_none();
            }
        }
    }
    // By endpoint: whether it gets something for certain.
    let mut reached: BTreeMap<&str, bool> = BTreeMap::new();
    for route in &config.routes {
        let certain = events.contains(&route.event);
        // What a job asks for does not come from outside.
        if certain || (any_event && !route.event.starts_with("sync.")) {
            *reached.entry(&route.endpoint).or_default() |= certain;
        }
    }
    let recipient = |(endpoint, certain): (&str, bool)| {
        let said = config.endpoints.get(endpoint).and_then(|endpoint| endpoint.processing.clone()).unwrap_or_default();
        let is_abroad = is_abroad(&said.country);
        Recipient {
            endpoint: endpoint.into(),
            purpose: said.purpose,
            transfer_to: is_abroad.then_some(said.country),
            certain,
        }
    };
    Some(SourceRecord {
        name: name.into(),
        description: source.description.clone(),
        purpose: said.purpose,
        basis: said.basis,
        categories: said.categories,
        subjects: said.subjects,
        personal: source.personal.clone(),
        sealed: source.sensitive,
        retention: source.retention.unwrap_or(config.retention.content()),
        recipients: reached.into_iter().map(recipient).collect(),
        events,
        any_event,
    })
}

fn endpoint(config: &Config, name: &str) -> Option<EndpointRecord> {
    let endpoint = config.endpoints.get(name)?;
    let said = endpoint.processing.clone().unwrap_or_default();
    let routes = config.routes.iter().filter(|route| route.endpoint == name);
    Some(EndpointRecord {
        name: name.into(),
        recipient: said.recipient,
        purpose: said.purpose,
        basis: said.basis,
        categories: said.categories,
        subjects: said.subjects,
        transfer: is_abroad(&said.country),
        country: said.country,
        safeguard: said.safeguard,
        receives: routes.map(|route| route.event.clone()).collect(),
        personal: endpoint.personal.clone(),
        sealed: endpoint.sensitive,
        retention: endpoint.retention.unwrap_or(config.retention.content()),
    })
}

fn is_abroad(country: &str) -> bool {
    !country.is_empty() && country != HOME
}

fn heading(text: &mut String, name: &str, description: &str) {
    let separator = if description.is_empty() { "" } else { ": " };
    let _ = write!(text, "\n### {}{separator}{}\n\n", plain(name), plain(description));
}

fn line(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "- **{label}:** {value}");
}

fn said(text: &str) -> String {
    if text.is_empty() { "(não informado)".into() } else { plain(text) }
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "(não informado)".into() } else { plain(&words.join(", ")) }
}

fn yes(is: bool) -> String {
    if is { "sim" } else { "não" }.into()
}

fn keep(keep: Keep) -> String {
    match keep {
        Keep::Forever => "prazo indeterminado".into(),
        Keep::For(seconds) if seconds % 86_400 == 0 => format!("{} dias", seconds / 86_400),
        Keep::For(seconds) => format!("{} horas", seconds / 3600),
    }
}

fn personal(fields: &[Personal]) -> String {
    let kind = |kind: PersonalKind| match kind {
        PersonalKind::Cpf => "CPF",
        PersonalKind::Phone => "telefone",
        PersonalKind::Email => "e-mail",
    };
    let shown: Vec<String> = fields.iter().map(|field| format!("{} ({})", field.pointer, kind(field.kind))).collect();
    if shown.is_empty() { "nenhum declarado".into() } else { plain(&shown.join(", ")) }
}

/// Text as text: what a configuration says makes no heading, link or HTML of itself.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' | '|') {
            plain.push('\\');
        }
        plain.push(if letter.is_control() { ' ' } else { letter });
    }
    plain
}
