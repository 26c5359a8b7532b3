//! Z-API's callbacks (developer.z-api.io, "Webhooks"), made into events.
//!
//! They are read through JSON and not through types: documented examples repeat keys, of which the last counts, and a
//! field of another kind than documented should cost that field and not the message.

use tomada_sdk::prelude::*;
use tomada_sdk::time::rfc3339;

use crate::phone;

/// Bytes of a text that is passed on (a message, a caption, an address, a vCard); the rest is cut off and `…` says so.
/// WhatsApp itself takes 65,536 characters. A payload has at most two such texts, so even if each byte had to be
/// escaped (six bytes) it would stay below the hub's 1 MiB.
const TEXT_LIMIT: usize = 64 * 1024;
/// Bytes of a name, a title, a URL or an id. A longer name is cut; a longer URL or id would be another one, and is null.
const SHORT_LIMIT: usize = 4 * 1024;
/// Message ids in one delivery state, and bytes of each.
const IDS_LIMIT: usize = 1000;
const ID_LIMIT: usize = 128;
/// The end of the year 9999, milliseconds since 1970-01-01 UTC: later times have no RFC 3339.
const TIME_LIMIT_MS: u64 = 253_402_300_800_000;

/// Emits what a callback says, or notes why it says nothing. `accepted_ms`, when the hub accepted it, stands in when the
/// callback has no time.
///
/// # Errors
///
/// Rejected: `payload-invalid`, `instance-unknown`, and for a message `phone-missing` and `phone-invalid`.
pub(crate) fn normalise(mut callback: Json, accepted_ms: u64, instance_id: &str) -> Result<Receipt, Failure> {
    if !callback.is_object() {
        return Err(Failure::rejected("payload-invalid", "a callback of Z-API is a JSON object, and this is none"));
    }
    if text_at(&callback, "instanceId") != Some(instance_id) {
        return Err(Failure::rejected(
            "instance-unknown",
            "`instanceId` is not the `instance_id` of the settings: either is wrong, or it is not from our Z-API",
        ));
    }
    match text_at(&callback, "type") {
        Some("ReceivedCallback") => received(&mut callback, accepted_ms),
        Some("MessageStatusCallback") => state(&mut callback),
        Some("DeliveryCallback") => ignored("DeliveryCallback: Z-API has sent what it was asked to"),
        Some("ConnectedCallback") => ignored("ConnectedCallback: the instance has connected"),
        Some("DisconnectedCallback") => ignored("DisconnectedCallback: the instance has disconnected"),
        Some("PresenceChatCallback") => ignored("PresenceChatCallback: somebody is typing, or is not"),
        _ => ignored("a callback of a type that is not known"),
    }
}

fn ignored(why: &str) -> Result<Receipt, Failure> {
    Ok(Receipt::new().note(format!("ignored: {why}")))
}

fn received(callback: &mut Json, accepted_ms: u64) -> Result<Receipt, Failure> {
    if let Some(why) = not_for_us(callback) {
        return ignored(why);
    }
    let phone = phone::of_sender(callback.get("phone"))?;
    if let Some(rating) = rating(callback) {
        let feedback = json!({"phone": phone, "rating": rating, "channel": "whatsapp"});
        return Receipt::new().emit("feedback.received", &feedback);
    }
    let Some(content) = Content::take(callback) else {
        return ignored("no content that is known");
    };
    let received_ms = whole(callback.get("momment")).filter(|ms| (1..TIME_LIMIT_MS).contains(ms));
    let mut message = json!({
        "phone": phone,
        "name": name(callback, "senderName").or_else(|| name(callback, "chatName")),
        "body": content.body,
        "type": content.kind,
        "channel": "whatsapp",
        "message_id": id(callback, "messageId"),
        "received_at": rfc3339(received_ms.unwrap_or(accepted_ms)),
        "lead_id": null,
    });
    if let Some(id) = id(callback, "referenceMessageId") {
        message["reference_message_id"] = id.into();
    }
    if let Some(object) = content.object {
        message[content.kind] = object;
    }
    Receipt::new().emit("whatsapp.inbound", &message)
}

/// Why a message is not one that a person wrote to us.
fn not_for_us(callback: &Json) -> Option<&'static str> {
    let is = |key| match callback.get(key) {
        Some(Json::Bool(yes)) => *yes,
        Some(Json::String(text)) => text == "true",
        _ => false,
    };
    let names_group = |key| text_at(callback, key).is_some_and(phone::is_group);
    let newsletter = || text_at(callback, "phone").is_some_and(|phone| phone.ends_with("@newsletter"));
    // In a group somebody takes part; where `isGroup` says no, that is believed.
    let takes_part = || {
        text_at(callback, "participantPhone").is_some_and(|phone| !phone.is_empty())
            && callback.get("isGroup").is_none_or(Json::is_null)
    };
    if is("fromMe") {
        Some("our own message")
    } else if is("isNewsletter") || newsletter() {
        Some("a newsletter")
    } else if is("isGroup") || names_group("phone") || names_group("participantPhone") || takes_part() {
        Some("a message to a group")
    } else if is("isStatusReply") {
        Some("a reply to a status")
    } else if is("waitingMessage") {
        Some("a message that WhatsApp cannot show yet; it comes again")
    } else if is("isEdit") {
        Some("an edit of a message that was passed on")
    } else {
        None
    }
}

/// 1 to 5, when the buttons of `feedback_request` were used.
fn rating(callback: &Json) -> Option<u8> {
    match text_at(callback.get("buttonsResponseMessage")?, "buttonId")?.strip_prefix("rating_")?.as_bytes() {
        [digit @ b'1'..=b'5'] => Some(digit - b'0'),
        _ => None,
    }
}

/// What somebody sent.
struct Content {
    kind: &'static str,
    /// Something to show in any case.
    body: String,
    /// All that is known of it, except of a text.
    object: Option<Json>,
}

impl Content {
    fn new(kind: &'static str, body: String, object: Json) -> Option<Content> {
        Some(Content { kind, body, object: Some(object) })
    }

    /// The first content object that there is; Z-API sends one.
    fn take(callback: &mut Json) -> Option<Content> {
        let mut object = |key| callback.get_mut(key).map(Json::take).filter(Json::is_object);
        if let Some(mut button) = object("buttonsResponseMessage") {
            let id = id(&mut button, "buttonId");
            let body = text(&mut button, "message").or_else(|| id.clone())?;
            return Content::new("button", body, json!({"id": id}));
        }
        if let Some(mut list) = object("listResponseMessage") {
            let (row_id, title) = (id(&mut list, "selectedRowId"), name(&mut list, "title"));
            let body = text(&mut list, "message").or_else(|| title.clone()).or_else(|| row_id.clone())?;
            return Content::new("list", body, json!({"row_id": row_id, "title": title}));
        }
        if let Some(mut reaction) = object("reaction") {
            let value = name(&mut reaction, "value");
            let message_id = match reaction.get_mut("referencedMessage") {
                Some(message) if message.is_object() => id(message, "messageId"),
                _ => id(&mut reaction, "referencedMessage"),
            };
            let body = value.clone().unwrap_or_else(|| "[reação removida]".to_owned());
            return Content::new("reaction", body, json!({"value": value, "message_id": message_id}));
        }
        if let Some(mut image) = object("image") {
            let caption = text(&mut image, "caption");
            let body = caption.clone().unwrap_or_else(|| "[imagem]".to_owned());
            let (url, mime_type) = (id(&mut image, "imageUrl"), id(&mut image, "mimeType"));
            return Content::new("image", body, json!({"url": url, "caption": caption, "mime_type": mime_type}));
        }
        if let Some(mut audio) = object("audio") {
            let (url, mime_type) = (id(&mut audio, "audioUrl"), id(&mut audio, "mimeType"));
            let object = json!({"url": url, "seconds": number(&mut audio, "seconds"), "mime_type": mime_type});
            return Content::new("audio", "[áudio]".to_owned(), object);
        }
        if let Some(mut video) = object("video") {
            let caption = text(&mut video, "caption");
            let body = caption.clone().unwrap_or_else(|| "[vídeo]".to_owned());
            let (url, mime_type) = (id(&mut video, "videoUrl"), id(&mut video, "mimeType"));
            return Content::new("video", body, json!({"url": url, "caption": caption, "mime_type": mime_type}));
        }
        if let Some(mut document) = object("document") {
            let file_name = name(&mut document, "fileName");
            let title = || file_name.as_ref().map_or("[documento]".to_owned(), |name| format!("[documento] {name}"));
            let body = text(&mut document, "caption").unwrap_or_else(title);
            let (url, mime_type) = (id(&mut document, "documentUrl"), id(&mut document, "mimeType"));
            return Content::new("document", body, json!({"url": url, "file_name": file_name, "mime_type": mime_type}));
        }
        if let Some(mut location) = object("location") {
            let address = text(&mut location, "address");
            let body = address.clone().unwrap_or_else(|| "[localização]".to_owned());
            let (latitude, longitude) = (number(&mut location, "latitude"), number(&mut location, "longitude"));
            let object = json!({"latitude": latitude, "longitude": longitude, "address": address});
            return Content::new("location", body, object);
        }
        if let Some(mut contact) = object("contact") {
            let name = name(&mut contact, "displayName");
            let body = name.clone().unwrap_or_else(|| "[contato]".to_owned());
            return Content::new("contact", body, json!({"name": name, "vcard": text(&mut contact, "vCard")}));
        }
        let body = match callback.get_mut("text") {
            Some(written) if written.is_object() => text(written, "message"),
            _ => text(callback, "text"),
        };
        body.map(|body| Content { kind: "text", body, object: None })
    }
}

/// `whatsapp.status`: what has become of messages, in Z-API's own fields.
fn state(callback: &mut Json) -> Result<Receipt, Failure> {
    let known = ["SENT", "RECEIVED", "READ", "READ_BY_ME", "PLAYED"];
    if !text_at(callback, "status").is_some_and(|status| known.contains(&status)) {
        return ignored("a delivery state that is not known");
    }
    let mut event = json!({});
    for key in ["type", "status", "momment", "phone", "isGroup", "instanceId"] {
        let value = match callback.get_mut(key).map(Json::take) {
            Some(Json::String(text)) if text.len() <= SHORT_LIMIT => text.into(),
            Some(value @ (Json::Bool(_) | Json::Number(_))) => value,
            _ => continue,
        };
        event[key] = value;
    }
    let mut receipt = Receipt::new();
    if let Some(ids) = callback.get("ids").and_then(Json::as_array) {
        let kept: Vec<&str> =
            ids.iter().filter_map(Json::as_str).filter(|id| id.len() <= ID_LIMIT).take(IDS_LIMIT).collect();
        if kept.len() < ids.len() {
            receipt = receipt.note(format!(
                "{} of {} ids are left out: no text, or too many",
                ids.len() - kept.len(),
                ids.len()
            ));
        }
        event["ids"] = kept.into();
    }
    receipt.emit("whatsapp.status", &event)
}

fn text_at<'a>(object: &'a Json, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Json::as_str)
}

/// Takes a text that says something, cut at [`TEXT_LIMIT`].
fn text(object: &mut Json, key: &str) -> Option<String> {
    cut(object, key, TEXT_LIMIT)
}

/// Takes a text of a few words, cut at [`SHORT_LIMIT`].
fn name(object: &mut Json, key: &str) -> Option<String> {
    cut(object, key, SHORT_LIMIT)
}

fn cut(object: &mut Json, key: &str, limit: usize) -> Option<String> {
    let Json::String(mut text) = object.get_mut(key)?.take() else { return None };
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push('…');
    }
    (!text.trim().is_empty()).then_some(text)
}

/// Takes a text that is of use as a whole or not at all.
fn id(object: &mut Json, key: &str) -> Option<String> {
    match object.get_mut(key)?.take() {
        Json::String(text) if !text.is_empty() && text.len() <= SHORT_LIMIT => Some(text),
        _ => None,
    }
}

fn number(object: &mut Json, key: &str) -> Option<Json> {
    object.get_mut(key).map(Json::take).filter(Json::is_number)
}

/// A whole number, which may be text.
fn whole(value: Option<&Json>) -> Option<u64> {
    match value? {
        Json::String(text) => text.parse().ok(),
        value => value.as_u64(),
    }
}
