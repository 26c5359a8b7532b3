//! The page behind a signed link: a person rates a service, and the answer is an event. What customers read is
//! Brazilian Portuguese.
//!
//! Looking at the page changes nothing, because mail programs follow links before people do; only posting it does.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;

use super::verify::{self, Reason, Signed};
use super::{ACCEPTED, DUPLICATE, Door, Share, Stranger, find, read, spend};
use crate::catalog::{Draft, Webhook};
use crate::committer::CommitError;
use crate::event::EventId;
use crate::ingress::key::{Key, event_name};
use crate::store::Done;

/// Characters of a comment; what is beyond is cut.
const MAX_COMMENT: usize = 2000;

/// `/feedback/{token}`: GET shows the form, POST takes the answer.
pub(crate) async fn page(State(door): State<Arc<Door>>, request: Request<Body>) -> Response {
    let met = Stranger::meet(&door, request.headers(), request.extensions()).await;
    let wait_s = met.as_ref().err().map(|standing| standing.wait_s);
    let (status, body) = match met {
        Err(_) => too_many(),
        Ok(stranger) => {
            let mut proven = false;
            let page = answer(&door, request, &mut proven).await;
            if !proven {
                stranger.failed().await;
            }
            if page.as_ref().is_err_and(|(status, _)| *status == StatusCode::SERVICE_UNAVAILABLE) {
                door.metrics.unavailable("feedback");
            }
            page.unwrap_or_else(|page| page)
        }
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        // The link is a key: it must not travel to other sites, nor stay in a shared computer.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex"));
    if let Some(wait_s) = wait_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_s));
    }
    response
}

type Page = (StatusCode, String);

async fn answer(door: &Door, request: Request<Body>, proven: &mut bool) -> Result<Page, Page> {
    let catalog = door.catalog.get();
    let (parts, body) = request.into_parts();
    let unknown = || told(StatusCode::NOT_FOUND, "Link inválido", "Confira se o link foi copiado por inteiro.");
    let (webhook, token) = find(&catalog, parts.uri.path()).ok_or_else(unknown)?;
    let token = token.ok_or_else(unknown)?;
    let now_ms = door.clock.now_ms();
    let signed = Signed { headers: &parts.headers, target: "", body: &[], token: Some(token) };
    let verified = verify::verify(&webhook.proof.scheme, &signed, now_ms).map_err(|reason| {
        door.metrics.unverified(&webhook.source, reason.as_str());
        tracing::info!(source = &*webhook.source, reason = reason.as_str(), "link refused");
        match reason {
            Reason::Stale => told(
                StatusCode::GONE,
                "Este link expirou",
                "O prazo para avaliar este atendimento já passou. Se quiser falar conosco, é só responder à nossa mensagem.",
            ),
            _ => unknown(),
        }
    })?;
    *proven = true;
    webhook.proof.matched(verified.secret, now_ms);
    match parts.method {
        Method::GET | Method::HEAD => {
            let chosen = field(parts.uri.query().unwrap_or_default().as_bytes(), "rating");
            Ok((StatusCode::OK, form(chosen.as_deref().and_then(rating), None)))
        }
        Method::POST => {
            spend(door, webhook, now_ms).await.map_err(|_| too_many())?;
            let mut share = Share { bodies: &door.bodies, bytes: 0 };
            let body = read(webhook, &parts.headers, body, &mut share).await.map_err(|_| {
                told(StatusCode::BAD_REQUEST, "Não conseguimos ler a sua resposta", "Por favor, tente novamente.")
            })?;
            accept(door, webhook, &parts.headers, token, &body, now_ms).await
        }
        _ => Err(told(StatusCode::METHOD_NOT_ALLOWED, "Link inválido", "Abra o link no navegador.")),
    }
}

async fn accept(
    door: &Door,
    webhook: &Webhook,
    headers: &HeaderMap,
    token: &str,
    body: &Bytes,
    now_ms: u64,
) -> Result<Page, Page> {
    let Some(rating) = field(body, "rating").as_deref().and_then(rating) else {
        return Err((StatusCode::UNPROCESSABLE_ENTITY, form(None, Some("Escolha uma nota de 1 a 5."))));
    };
    let comment = field(body, "comment").unwrap_or_default();
    let comment: String = comment.trim().chars().take(MAX_COMMENT).collect();
    // It has been verified.
    let mut claims = verify::link_claims(token).unwrap_or_default();
    claims.remove("exp");
    // Who got two links for one service still rates it once.
    let key = match claims.get("service_id") {
        Some(service) if !service.is_null() => format!("service/{service}"),
        _ => format!("link/{token}"),
    };
    claims.insert("rating".into(), rating.into());
    claims.insert("comment".into(), if comment.is_empty() { Value::Null } else { comment.into() });
    claims.insert("channel".into(), "email".into());
    let payload = Bytes::from(Value::Object(claims).to_string());
    let busy = || {
        told(
            StatusCode::SERVICE_UNAVAILABLE,
            "Não conseguimos registrar a sua avaliação agora",
            "Por favor, tente novamente em alguns instantes.",
        )
    };
    let event_type = event_name(&webhook.event, headers, &payload).map_err(|_| busy())?;
    let id = EventId(door.ids.next(now_ms));
    let key = Key::given(&webhook.source, &key);
    let draft = Draft::json(id, webhook.source.clone(), &event_type, payload, key, webhook.queue, now_ms);
    let event = door.catalog.get().event(&door.ring, Draft { care: webhook.care.clone(), ..draft });
    match door.committer.accept(event).await {
        Ok(Done::Accepted { duplicate: false, .. }) => {
            door.metrics.webhook(Some(&webhook.source), ACCEPTED);
            Ok(told(
                StatusCode::OK,
                "Obrigado pela sua avaliação!",
                "A sua opinião nos ajuda a cuidar cada vez melhor.",
            ))
        }
        Ok(Done::Accepted { .. }) => {
            door.metrics.webhook(Some(&webhook.source), DUPLICATE);
            Ok(told(
                StatusCode::OK,
                "Já recebemos a sua avaliação",
                "Obrigado! Ela já está registrada e não precisa ser enviada de novo.",
            ))
        }
        Ok(_) | Err(CommitError::Failed | CommitError::Full) => Err(busy()),
    }
}

fn too_many() -> Page {
    told(
        StatusCode::TOO_MANY_REQUESTS,
        "Muitas tentativas em pouco tempo",
        "Por favor, aguarde um pouco e tente novamente.",
    )
}

fn rating(text: &str) -> Option<u8> {
    text.parse().ok().filter(|rating| (1..=5).contains(rating))
}

/// The first field of this name in a form.
fn field(form: &[u8], name: &str) -> Option<String> {
    url::form_urlencoded::parse(form).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

const HEAD: &str = "<!doctype html>\n<html lang=\"pt-BR\"><meta charset=\"utf-8\">\
    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Carinho</title><style>\
    :root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:3rem auto;padding:0 1.2rem}\
    fieldset{border:0;padding:0;margin:1.5rem 0;display:flex;gap:.4rem;flex-wrap:wrap}\
    label.nota{padding:.5rem .9rem;border:1px solid;border-radius:.6rem;cursor:pointer}\
    textarea{width:100%;box-sizing:border-box;font:inherit;padding:.6rem}\
    button{font:inherit;margin-top:1rem;padding:.7rem 1.6rem;border:0;border-radius:.6rem;background:#b3395b;color:#fff;cursor:pointer}\
    .erro{color:#c62828}</style>";

/// The texts are our own: nothing of a request is shown.
fn told(status: StatusCode, title: &str, text: &str) -> Page {
    (status, format!("{HEAD}<h1>{title}</h1><p>{text}</p></html>\n"))
}

fn form(chosen: Option<u8>, error: Option<&str>) -> String {
    let ratings: String = (1..=5)
        .map(|rating| {
            let checked = if chosen == Some(rating) { " checked" } else { "" };
            format!(
                "<label class=\"nota\"><input type=\"radio\" name=\"rating\" value=\"{rating}\" required{checked}> \
                 {rating} ⭐</label>"
            )
        })
        .collect();
    let error = error.map(|error| format!("<p class=\"erro\" role=\"alert\">{error}</p>")).unwrap_or_default();
    format!(
        "{HEAD}<h1>Como foi o atendimento?</h1>{error}<form method=\"post\">\
         <fieldset><legend>A sua nota, de 1 (ruim) a 5 (ótimo):</legend>{ratings}</fieldset>\
         <label>Quer contar mais? (opcional)<br><textarea name=\"comment\" rows=\"4\" maxlength=\"{MAX_COMMENT}\">\
         </textarea></label><br><button>Enviar avaliação</button></form></html>\n"
    )
}
