//! Messages to people: a template that is filled in, or what Z-API takes, by its own field names
//! (developer.z-api.io, "Mensagens").

use tomada_sdk::prelude::*;

use crate::phone;
use crate::text::{Texts, filled_in};

/// What Z-API is asked to send.
#[derive(Debug)]
pub(crate) struct Message {
    /// The end of the path, for instance `send-text`.
    pub(crate) method: String,
    pub(crate) body: Json,
}

impl Message {
    /// Reads `{"template", "phone", "nome"?, "cuidador"?}` or `{"type", "phone", …}`.
    ///
    /// # Errors
    ///
    /// Rejected: `template-unknown`, `message-invalid`, `phone-missing`, `phone-invalid`.
    pub(crate) fn read(payload: Json, texts: &Texts) -> Result<Message, Failure> {
        let fields = Fields(payload);
        match (fields.get("template"), fields.get("type")) {
            (Some(name), _) => from_template(name, &fields, texts),
            (None, Some(kind)) => direct(kind, &fields),
            (None, None) => Err(invalid("a message is an object with a `template` or a `type`")),
        }
    }

    fn new(method: impl Into<String>, body: Json) -> Message {
        Message { method: method.into(), body }
    }
}

fn from_template(name: &Json, fields: &Fields, texts: &Texts) -> Result<Message, Failure> {
    let unknown =
        || Failure::rejected("template-unknown", format!("there is no such `template`; known are {}", Texts::NAMES));
    let name = name.as_str().ok_or_else(unknown)?;
    let template = texts.template(name).ok_or_else(unknown)?;
    let phone = fields.phone()?;
    // A name of another kind is no name, and the message is worth more than it.
    let name_at = |key| fields.get(key).and_then(Json::as_str);
    let message = filled_in(template, name_at("nome"), name_at("cuidador"));
    if name == "feedback_request" {
        // `inbound` knows the ids.
        let buttons: Json = (1..=5).map(|n| json!({"id": format!("rating_{n}"), "label": format!("{n} ⭐")})).collect();
        let body = json!({"phone": phone, "message": message, "buttonList": {"buttons": buttons}});
        return Ok(Message::new("send-button-list", body));
    }
    Ok(Message::new("send-text", json!({"phone": phone, "message": message})))
}

fn direct(kind: &Json, fields: &Fields) -> Result<Message, Failure> {
    match kind.as_str() {
        Some("text") => {
            let body = json!({"phone": fields.phone()?, "message": fields.text("message")?});
            Ok(Message::new("send-text", body))
        }
        Some("image") => {
            let mut body = json!({"phone": fields.phone()?, "image": fields.text("image")?});
            fields.copy("caption", &mut body)?;
            Ok(Message::new("send-image", body))
        }
        Some("document") => {
            let mut body = json!({"phone": fields.phone()?, "document": fields.text("document")?});
            fields.copy("fileName", &mut body)?;
            Ok(Message::new(format!("send-document/{}", fields.extension()?), body))
        }
        Some("link") => {
            let mut body = json!({
                "phone": fields.phone()?,
                "message": fields.text("message")?,
                "linkUrl": fields.text("linkUrl")?,
                "title": fields.text("title")?,
            });
            fields.copy("linkDescription", &mut body)?;
            fields.copy("image", &mut body)?;
            Ok(Message::new("send-link", body))
        }
        Some("button-list") => {
            let body = json!({
                "phone": fields.phone()?,
                "message": fields.text("message")?,
                "buttonList": {"buttons": fields.buttons()?},
            });
            Ok(Message::new("send-button-list", body))
        }
        _ => Err(invalid("there is no such `type` of message; known are text, image, document, link, button-list")),
    }
}

/// The payload. Null is as good as absent; fields that are not asked for are left alone.
struct Fields(Json);

impl Fields {
    fn get(&self, key: &str) -> Option<&Json> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn phone(&self) -> Result<String, Failure> {
        phone::to_write_to(self.get("phone"))
    }

    fn optional(&self, key: &str) -> Result<Option<&str>, Failure> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.trim().is_empty())),
            Some(_) => Err(invalid(format!("`{key}` is no text"))),
        }
    }

    fn text(&self, key: &str) -> Result<&str, Failure> {
        self.optional(key)?.ok_or_else(|| invalid(format!("`{key}` is missing: this type of message needs it")))
    }

    fn copy(&self, key: &str, body: &mut Json) -> Result<(), Failure> {
        if let Some(text) = self.optional(key)? {
            body[key] = text.into();
        }
        Ok(())
    }

    /// Of a document: `extension` (or `ext`), else that of `fileName`, else that of the URL. It is part of the path.
    fn extension(&self) -> Result<String, Failure> {
        let said = match self.optional("extension")? {
            None => self.optional("ext")?,
            extension => extension,
        };
        // What follows the host; the other kind of document, base64, has no name.
        let path =
            self.text("document")?.split(['?', '#']).next().and_then(|url| url.split_once("://")?.1.split_once('/'));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let checked = |extension: &str| {
            let extension = extension.to_ascii_lowercase();
            (matches!(extension.len(), 1..=8) && extension.bytes().all(plain)).then_some(extension)
        };
        let ending = |name: &str| checked(name.rsplit_once('.')?.1);
        let extension = match said {
            Some(said) => checked(said.trim_start_matches('.')),
            None => self.optional("fileName")?.and_then(ending).or_else(|| ending(path?.1)),
        };
        extension.ok_or_else(|| {
            invalid("the document has no `extension` of 1 to 8 letters and digits, and its name has none either")
        })
    }

    /// Of a button list: at least one, each with a label.
    fn buttons(&self) -> Result<Json, Failure> {
        let buttons = self.get("buttonList").and_then(|list| list.get("buttons")).and_then(Json::as_array);
        let Some(buttons) = buttons.filter(|buttons| !buttons.is_empty()) else {
            return Err(invalid("`buttonList.buttons` is no list of buttons, or an empty one"));
        };
        let read = |(index, button): (usize, &Json)| {
            let within =
                |_| invalid(format!("`buttonList.buttons[{index}]` has no `label`, or an `id` that is no text"));
            let button = Fields(button.clone());
            let mut body = json!({"label": button.text("label").map_err(within)?});
            button.copy("id", &mut body).map_err(within)?;
            Ok(body)
        };
        buttons.iter().enumerate().map(read).collect()
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure::rejected("message-invalid", message)
}
