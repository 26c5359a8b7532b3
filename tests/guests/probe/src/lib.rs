//! A connector that posts what it was given to `settings.url`, and how often this instance was called: always 1, since
//! every delivery has a fresh one.

use std::sync::atomic::{AtomicU32, Ordering};

use tomada_sdk::prelude::*;

static CALLS: AtomicU32 = AtomicU32::new(0);

#[derive(Deserialize)]
struct Settings {
    url: String,
}

#[connector(name = "probe", hosts = ["settings.url"])]
fn handle(cx: &Context<Settings>, event: Event<Json>) -> Result<Receipt, Failure> {
    let calls = 1 + CALLS.fetch_add(1, Ordering::Relaxed);
    let told = json!({
        "event": event.id,
        "type": event.event_type,
        "delivery": event.delivery_id,
        "attempt": event.attempt,
        "payload": event.payload,
        "calls": calls,
    });
    let answer = cx.post(&cx.settings.url).header("Idempotency-Key", &event.delivery_id).json(&told).send()?;
    Ok(answer.ok()?.into())
}
