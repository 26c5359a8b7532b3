//! A connector that has `settings.items` items and hands out `settings.per_page` of them at a time. Asked for the page
//! at `settings.broken_at` it says what `settings.url` answers, so that a test decides what becomes of it.

use tomada_sdk::prelude::*;

#[derive(Deserialize)]
struct Settings {
    url: String,
    items: u64,
    per_page: u64,
    broken_at: Option<u64>,
    /// Answers with the cursor that it was asked with.
    #[serde(default)]
    stands_still: bool,
}

#[derive(Deserialize)]
struct Page {
    cursor: Option<String>,
}

#[connector(name = "pager", hosts = ["settings.url"], emits = ["item.found"])]
fn handle(cx: &Context<Settings>, event: Event<Page>) -> Result<Receipt, Failure> {
    let settings = &cx.settings;
    let from: u64 = event.payload.cursor.as_deref().unwrap_or("0").parse().expect("it is our own cursor");
    if settings.broken_at == Some(from) {
        cx.get(&settings.url).send()?.ok()?;
    }
    let to = settings.items.min(from + settings.per_page);
    let mut receipt = Receipt::new();
    for item in from..to {
        receipt = receipt.emit_once("item.found", &json!({ "item": item }), format!("item/{item}"))?;
    }
    let next = if settings.stands_still { from } else { to };
    Ok(if to < settings.items { receipt.cursor(next.to_string()) } else { receipt })
}
