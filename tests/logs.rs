//! What the source may log: constant messages, and fields that are on the list of `telemetry.rs`.

use tomada::telemetry;

use crate::layers::files;

/// Those who speak to the person at the terminal.
const FACES: &[&str] = &["cli", "demo", "bench", "send", "child", "toolchain", "main"];

/// The arguments of each macro that logs, with the file.
fn logged() -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (file, text) in files() {
        for level in ["trace", "debug", "info", "warn", "error", "event"] {
            let call = format!("tracing::{level}!(");
            found.extend(text.match_indices(&call).map(|(at, _)| (file.clone(), arguments(&text[at + call.len()..]))));
        }
    }
    found
}

/// Up to the bracket that closes, split at the commas of this level.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut all = vec![String::new()];
    for c in text.chars() {
        let last = all.last_mut().expect("one at least");
        match c {
            _ if quoted => {
                quoted = escaped || c != '"';
                escaped = !escaped && c == '\\';
            }
            '"' => quoted = true,
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        last.push(c);
    }
    all.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// `name = value`, `%name`, `?name`, `name`
fn field(argument: &str) -> &str {
    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
    name.trim().trim_start_matches(['%', '?'])
}

#[test]
fn messages_are_constants_and_fields_are_on_the_list() {
    let known = telemetry::fields();
    let logged = logged();
    assert!(logged.len() > 20, "only {} calls were found", logged.len());
    let mut wrong = Vec::new();
    for (file, arguments) in &logged {
        let (message, fields) = arguments.split_last().expect("something is logged");
        if !message.starts_with('"') || !message.ends_with('"') || message.contains(['{', '}']) {
            wrong.push(format!("{file}: the message is not constant: {message}"));
        }
        for argument in fields {
            let name = field(argument);
            if !known.contains(&name) {
                wrong.push(format!("{file}: the field {name} is not in FIELDS of telemetry.rs, with what it may hold"));
            }
        }
    }
    for name in known {
        if !logged.iter().any(|(_, arguments)| arguments.iter().any(|argument| field(argument) == name)) {
            wrong.push(format!("nothing logs {name}: take it out of FIELDS"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn there_is_no_other_way_to_the_log() {
    let mut wrong = Vec::new();
    for (file, text) in files() {
        let face = FACES.contains(&file.trim_end_matches(".rs").split('/').next().unwrap_or_default());
        for way in ["println!", "eprint!", "print!", "dbg!", "stderr()", "stdout()"] {
            let own = face || file == "telemetry.rs" && way == "stderr()";
            // The macros of anstream end alike.
            if !own && text.contains(way) {
                wrong.push(format!("{file} has {way}"));
            }
        }
        for way in ["use tracing::", "span!(", "instrument]", "instrument("] {
            if file != "telemetry.rs" && text.contains(way) {
                wrong.push(format!("{file} has {way}: log by tracing::info!(…) and the like"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
