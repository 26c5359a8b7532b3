//! What people read: the templates, and how they are filled in.

use serde::Deserialize;

/// Templates. `{nome}` is the person's name, `{cuidador}` the caregiver's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Texts {
    lead_response: String,
    welcome: String,
    service_completed: String,
    feedback_request: String,
    feedback_thanks_high: String,
    feedback_thanks_low: String,
}

impl Default for Texts {
    fn default() -> Texts {
        Texts {
            lead_response: "Olá, {nome}! Recebemos o seu contato e já estamos cuidando dele. \
                            Em instantes alguém da nossa equipe fala com você por aqui."
                .to_owned(),
            welcome: "Olá, {nome}! Que alegria ter você na Carinho. O seu cadastro está pronto, \
                      e nossa equipe está por aqui para o que você precisar."
                .to_owned(),
            service_completed: "Olá, {nome}! O atendimento foi concluído. Agradecemos a confiança. \
                                Se precisar de algo, é só responder por aqui."
                .to_owned(),
            feedback_request: "Olá, {nome}! Como foi o atendimento de {cuidador}? \
                               Toque em uma nota de 1 a 5: a sua opinião nos ajuda a cuidar melhor."
                .to_owned(),
            feedback_thanks_high:
                "Que alegria saber disso! Agradecemos a sua avaliação e a confiança em nosso trabalho.".to_owned(),
            feedback_thanks_low: "Agradecemos a sua sinceridade, e sentimos que não tenha sido como você esperava. \
                                  Nossa equipe vai conversar com você para fazermos melhor."
                .to_owned(),
        }
    }
}

impl Texts {
    /// The names of the templates, for people.
    pub(crate) const NAMES: &str = "lead_response, welcome, service_completed, feedback_request, feedback_thanks_high, \
                                    feedback_thanks_low";

    pub(crate) fn template(&self, name: &str) -> Option<&str> {
        Some(match name {
            "lead_response" => &self.lead_response,
            "welcome" => &self.welcome,
            "service_completed" => &self.service_completed,
            "feedback_request" => &self.feedback_request,
            "feedback_thanks_high" => &self.feedback_thanks_high,
            "feedback_thanks_low" => &self.feedback_thanks_low,
            _ => return None,
        })
    }
}

/// Characters of a name; whoever has a longer one is greeted with its beginning.
const LONGEST_NAME: usize = 100;

/// What leads to a name and goes when there is none.
const JOINTS: [&str; 11] =
    [", ", " de ", " da ", " do ", " com ", " por ", " pela ", " pelo ", " para ", " a ", " ao "];

/// `template` with its names. Without a name the sentence is said without it: "Olá, {nome}!" is "Olá!", and "o
/// atendimento de {cuidador}" is "o atendimento". Braces in a name are only braces.
pub(crate) fn filled_in(template: &str, nome: Option<&str>, cuidador: Option<&str>) -> String {
    let (nome, cuidador) = (name(nome), name(cuidador));
    let (mut text, mut rest) = (String::new(), template);
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, after) = if let Some(after) = rest.strip_prefix("{nome}") {
            (&nome, after)
        } else if let Some(after) = rest.strip_prefix("{cuidador}") {
            (&cuidador, after)
        } else {
            text.push('{');
            rest = &rest[1..];
            continue;
        };
        rest = if name.is_empty() { closed_up(&mut text, after) } else { after };
        text.push_str(name);
    }
    text.push_str(rest);
    text
}

/// A name on one line, empty when there is none.
fn name(name: Option<&str>) -> String {
    let words = name.unwrap_or_default().split_whitespace();
    let name = words.flat_map(|word| [" ", word]).skip(1).flat_map(str::chars).take(LONGEST_NAME).collect::<String>();
    name.trim_end().to_owned()
}

/// Makes good the gap that a name leaves between `text` and `rest`; what is left of `rest`.
fn closed_up<'a>(text: &mut String, rest: &'a str) -> &'a str {
    if let Some(before) = JOINTS.iter().find_map(|joint| text.strip_suffix(joint)) {
        text.truncate(before.len());
        return rest;
    }
    let before = text.trim_end();
    if !before.is_empty() && !before.ends_with(['.', '!', '?', ':']) {
        text.truncate(before.len());
        return rest;
    }
    // The sentence began with the name: it begins with the next word.
    let rest = rest.trim_start_matches([',', '.', '!', ' ']);
    match rest.chars().next() {
        Some(first @ ('a'..='z' | 'à'..='ö' | 'ø'..='þ')) => {
            // Capitals of ASCII and Latin-1 are 32 before; all of Unicode's would fill a page of memory.
            text.extend(char::from_u32(u32::from(first) - 32));
            &rest[first.len_utf8()..]
        }
        _ => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::filled_in;

    #[test]
    fn names_and_their_absence() {
        for (template, nome, cuidador, expected) in [
            ("Olá, {nome}!", Some("Ana"), None, "Olá, Ana!"),
            ("Olá, {nome}!", Some(" Ana \n Souza "), None, "Olá, Ana Souza!"),
            ("Olá, {nome}!", Some(" \t"), None, "Olá!"),
            ("Olá, {nome}, tudo bem?", None, None, "Olá, tudo bem?"),
            ("Oi {nome}! Tudo bem?", None, None, "Oi! Tudo bem?"),
            ("{nome}, é um prazer.", None, None, "É um prazer."),
            ("{nome}, tudo bem?", Some("Ana"), None, "Ana, tudo bem?"),
            ("Obrigado! {nome}, até logo.", None, None, "Obrigado! Até logo."),
            ("{nome}", None, None, ""),
            ("Foi com {cuidador} hoje?", None, None, "Foi hoje?"),
            ("O atendimento de {cuidador}, {nome}?", None, None, "O atendimento?"),
            ("O atendimento de {cuidador}, {nome}?", Some("Ana"), Some("Rui"), "O atendimento de Rui, Ana?"),
            ("{nome} e {cuidador}", Some("{cuidador}"), Some("{nome}"), "{cuidador} e {nome}"),
            ("{Nome} {x {nome}", Some("Ana"), None, "{Nome} {x Ana"),
            ("{nome}{cuidador}é", None, None, "É"),
        ] {
            assert_eq!(filled_in(template, nome, cuidador), expected, "{template}");
        }
    }

    #[test]
    fn a_name_has_an_end() {
        let long = "é".repeat(101);
        assert_eq!(filled_in("{nome}", Some(&long), None), "é".repeat(100));
        let words = format!("{} b", "a".repeat(99));
        assert_eq!(filled_in("{nome}", Some(&words), None), "a".repeat(99));
    }
}
