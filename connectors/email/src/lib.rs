//! E-mail to the people that Carinho cares for: a message names a template and what goes into it, or brings subject and
//! text along.
//!
//! Each template has one wording. Its HTML is made of its text, paragraph by paragraph, so that the two cannot say
//! different things and an operator who changes a text writes it once. Whatever comes from an event is escaped there,
//! and is one short line here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tomada_sdk::prelude::*;

/// Days that a feedback link is good for.
const LINK_DAYS: u64 = 7;
/// Characters of a name that are used. Whoever writes more there is advertising.
const MAX_NAME: usize = 60;

/// A rating, and what it means. Text and colour of its button have a contrast of at least 4.5 (WCAG 2.2, 1.4.3), on
/// whatever background a reader shows them.
const RATINGS: [(u8, &str, &str); 5] = [
    (1, "Muito ruim", "#b3261e"),
    (2, "Ruim", "#a84300"),
    (3, "Regular", "#7a5c00"),
    (4, "Bom", "#4c6b00"),
    (5, "Ótimo", "#1e7033"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Where people reach the hub, for instance `https://integracoes.carinho.com.vc`.
    hub_url: String,
    /// Instead of our own.
    #[serde(default)]
    texts: Texts,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Texts {
    signup_welcome: Wording,
    feedback_request: Wording,
}

/// What stands in it: `{nome}`, `{cuidador}`, and in the feedback request's text `{notas}` (a paragraph of its own: five
/// links) and `{link}` (the page). Paragraphs have an empty line between them.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Wording {
    subject: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    template: Option<String>,
    to: Option<String>,
    nome: Option<String>,
    cuidador: Option<String>,
    service_id: Option<Json>,
    client_id: Option<Json>,
    caregiver_id: Option<Json>,
    /// Without a template.
    subject: Option<String>,
    text: Option<String>,
    html: Option<String>,
}

/// What a feedback link stands for; the hub reads it again.
#[derive(Serialize)]
struct Claims<'a> {
    service_id: &'a Option<Json>,
    client_id: &'a Option<Json>,
    caregiver_id: &'a Option<Json>,
    /// Seconds since 1970-01-01 UTC.
    exp: u64,
}

#[connector(
    name = "email",
    mail = true,
    secrets = ["feedback_link"],
    description = "Writes e-mails to the people that Carinho cares for."
)]
fn handle(cx: &Context<Settings>, event: Event<Message>) -> Result<Receipt, Failure> {
    let message = event.payload;
    let to = address(message.to.as_deref())?;
    let mail = cx.mail().to(to);
    let texts = &cx.settings.texts;
    let (mail, note) = match message.template.as_deref() {
        Some("signup_welcome") => {
            let values = Values::of(&message, None);
            (write(mail, &texts.signup_welcome, SIGNUP_WELCOME, &values), "signup_welcome was sent")
        }
        Some("feedback_request") => {
            let values = Values::of(&message, Some(feedback_link(cx, &message)?));
            (write(mail, &texts.feedback_request, FEEDBACK_REQUEST, &values), "feedback_request was sent")
        }
        Some(_) => {
            return Err(Failure::rejected(
                "template-unknown",
                "`template` names none that there is: known are signup_welcome and feedback_request",
            ));
        }
        None => {
            let (Some(subject), Some(text)) = (message.subject, message.text) else {
                return Err(Failure::rejected(
                    "message-incomplete",
                    "a message without `template` needs `subject` and `text`",
                ));
            };
            let mail = mail.subject(subject).text(text);
            (if let Some(html) = message.html { mail.html(html) } else { mail }, "the message was sent")
        }
    };
    mail.send()?;
    Ok(Receipt::new().note(note))
}

/// One address, whose details are the server's to judge.
fn address(to: Option<&str>) -> Result<&str, Failure> {
    let to = to.unwrap_or_default().trim();
    if to.is_empty() {
        return Err(Failure::rejected("address-missing", "the message has no `to`: ask the source for an address"));
    }
    let invalid = |c: char| c.is_whitespace() || c.is_control() || "<>()[],;:\\\"".contains(c);
    let parts = to.split_once('@').filter(|(local, domain)| {
        !local.is_empty() && domain.split('.').count() > 1 && domain.split('.').all(|label| !label.is_empty())
    });
    if to.len() > 254 || to.contains(invalid) || parts.is_none_or(|(_, domain)| domain.contains('@')) {
        return Err(Failure::rejected("address-invalid", "`to` is not one e-mail address: correct it at its source"));
    }
    Ok(to)
}

const SIGNUP_WELCOME: (&str, &str) = (
    "Boas-vindas à Carinho, {nome}!",
    "Olá, {nome}!\n\n\
     Que bom ter você com a gente. O seu cadastro está pronto, e a nossa equipe já está cuidando dos próximos passos.\n\n\
     Se precisar de algo, é só chamar a gente no WhatsApp.\n\n\
     Um abraço,\nEquipe Carinho",
);

const FEEDBACK_REQUEST: (&str, &str) = (
    "Como foi o atendimento, {nome}?",
    "Olá, {nome}!\n\n\
     O atendimento com {cuidador} terminou há pouco, e queremos saber como foi. Escolha uma nota de 1 a 5:\n\n\
     {notas}\n\n\
     Prefere contar com as suas palavras? É por aqui: {link}\n\n\
     O link vale por 7 dias. Obrigado por confiar na gente!\n\n\
     Um abraço,\nEquipe Carinho",
);

/// What goes into a wording.
struct Values {
    nome: String,
    cuidador: String,
    link: Option<String>,
}

impl Values {
    fn of(message: &Message, link: Option<String>) -> Values {
        Values { nome: name(message.nome.as_deref()), cuidador: name(message.cuidador.as_deref()), link }
    }

    /// Of `{key}`; None is left as it stands.
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "nome" => Some(&self.nome),
            "cuidador" => Some(&self.cuidador),
            "link" => self.link.as_deref(),
            _ => None,
        }
    }

    /// In one pass, so that a name with braces in it stays a name. Who has no name is not missed in the sentence.
    fn fill(&self, wording: &str, escape: impl Fn(&str) -> String) -> String {
        let mut wording = wording.to_owned();
        for (name, around) in [(&self.nome, ", {nome}"), (&self.cuidador, " com {cuidador}")] {
            if name.is_empty() {
                wording = wording.replace(around, "");
            }
        }
        let mut filled = String::with_capacity(wording.len());
        let mut rest = wording.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(&escape(before));
            match after.split_once('}').and_then(|(key, after)| Some((self.get(key)?, after))) {
                Some((value, after)) => {
                    filled.push_str(&escape(value));
                    rest = after;
                }
                None => {
                    filled.push('{');
                    rest = after;
                }
            }
        }
        filled.push_str(&escape(rest));
        filled
    }
}

/// A name as it may stand in a line: what controls a line or its direction is a space.
fn name(name: Option<&str>) -> String {
    let controls = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let line: String = name.unwrap_or_default().chars().map(|c| if controls(c) { ' ' } else { c }).collect();
    let words: Vec<&str> = line.split_whitespace().collect();
    words.join(" ").chars().take(MAX_NAME).collect::<String>().trim_end().to_owned()
}

fn write(
    mail: tomada_sdk::mail::Mail,
    wording: &Wording,
    ours: (&str, &str),
    values: &Values,
) -> tomada_sdk::mail::Mail {
    let subject = wording.subject.as_deref().unwrap_or(ours.0);
    let text = wording.text.as_deref().unwrap_or(ours.1);
    mail.subject(values.fill(subject, str::to_owned)).text(plain(text, values)).html(html(text, values))
}

fn plain(text: &str, values: &Values) -> String {
    let paragraphs = paragraphs(text).map(|paragraph| match (&values.link, paragraph) {
        (Some(link), "{notas}") => {
            let line =
                |(rating, meaning, _): &(u8, &str, &str)| format!("{rating} – {meaning}: {link}?rating={rating}");
            RATINGS.iter().map(line).collect::<Vec<_>>().join("\n")
        }
        _ => values.fill(paragraph, str::to_owned),
    });
    paragraphs.collect::<Vec<_>>().join("\n\n") + "\n"
}

/// The page keeps its hands off colours but for the buttons, so that it is dark where everything else is.
fn html(text: &str, values: &Values) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"pt-BR\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"supported-color-schemes\" content=\"light dark\">\n</head>\n<body style=\"margin:0\">\n\
         <div style=\"max-width:36em;margin:0 auto;padding:24px 16px;\
         font:17px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif\">\n",
    );
    for paragraph in paragraphs(text) {
        match (&values.link, paragraph) {
            (Some(link), "{notas}") => {
                page.push_str("<p style=\"margin:0 0 16px\">\n");
                for (rating, meaning, colour) in RATINGS {
                    page.push_str(&format!(
                        "<a href=\"{}?rating={rating}\" style=\"display:inline-block;margin:0 8px 8px 0;padding:12px 16px;\
                         border-radius:8px;background:{colour};color:#ffffff;text-decoration:none\">\
                         <b>{rating}</b> {meaning}</a>\n",
                        escaped(link)
                    ));
                }
                page.push_str("</p>\n");
            }
            (link, paragraph) => {
                let mut filled = values.fill(paragraph, escaped).replace('\n', "<br>\n");
                if let Some(link) = link {
                    let link = escaped(link);
                    filled = filled.replace(&link, &format!("<a href=\"{link}\">abrir a página de avaliação</a>"));
                }
                page.push_str(&format!("<p style=\"margin:0 0 16px\">{filled}</p>\n"));
            }
        }
    }
    page.push_str("</div>\n</body>\n</html>\n");
    page
}

fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty())
}

/// Fit for text and for quoted attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
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
    out
}

/// `{hub_url}/feedback/{token}`. The token is the claims in base64url, a dot, and the HMAC-SHA256 of what stands before
/// the dot, in base64url.
fn feedback_link(cx: &Context<Settings>, message: &Message) -> Result<String, Failure> {
    let Message { service_id, client_id, caregiver_id, .. } = message;
    let exp = cx.now_ms() / 1000 + LINK_DAYS * 24 * 3600;
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Claims { service_id, client_id, caregiver_id, exp })?);
    let signature = URL_SAFE_NO_PAD.encode(&*cx.hmac_sha256("feedback_link", &claims)?);
    Ok(format!("{}/feedback/{claims}.{signature}", cx.settings.hub_url.trim_end_matches('/')))
}

#[cfg(test)]
mod tests;
