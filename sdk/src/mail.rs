//! E-mail, over the server and from the address that the operator granted to the endpoint. A connector says so with
//! `mail = true` in its attribute.
//!
//! ```
//! use tomada_sdk::prelude::*;
//!
//! #[connector(name = "greeter", mail = true)]
//! fn handle(cx: &Context, event: Event<Json>) -> Result<Receipt, Failure> {
//!     let address = event.payload["email"].as_str().unwrap_or_default();
//!     cx.mail().to(address).subject("Welcome").text("Good to have you here.").send()?;
//!     Ok(Receipt::new())
//! }
//!
//! use tomada_sdk::test::{Host, event};
//! let run = Host::new().mailbox().run(handle, event("client.registered", json!({"email": "ana@example.com"})));
//! assert_eq!(run.mails[0].to, ["ana@example.com"]);
//! ```

use crate::bindings::connector::tomada::hub::mail;
use crate::{Failure, host};

pub use mail::{Error, Refusal};

/// An e-mail that is being written. [`Context::mail`](crate::Context::mail) begins it, [`send`](Mail::send) ends it.
#[derive(Debug, Default)]
#[must_use = "an e-mail does nothing until `.send()`"]
pub struct Mail {
    to: Vec<String>,
    subject: String,
    text: String,
    html: Option<String>,
    reply_to: Option<String>,
}

impl Mail {
    /// One recipient more, 1 to 10 in all: `ana@example.com` or `Ana <ana@example.com>`. They see each other.
    pub fn to(mut self, mailbox: impl Into<String>) -> Mail {
        self.to.push(mailbox.into());
        self
    }

    /// The subject: one line, 1 to 255 characters.
    pub fn subject(mut self, subject: impl Into<String>) -> Mail {
        self.subject = subject.into();
        self
    }

    /// What it says, at most 1 MiB.
    pub fn text(mut self, text: impl Into<String>) -> Mail {
        self.text = text.into();
        self
    }

    /// The same in HTML, at most 1 MiB, for readers that show it. Values that come from an event have to be escaped.
    pub fn html(mut self, html: impl Into<String>) -> Mail {
        self.html = Some(html.into());
        self
    }

    /// Where answers go, instead of to the sender.
    pub fn reply_to(mut self, mailbox: impl Into<String>) -> Mail {
        self.reply_to = Some(mailbox.into());
        self
    }

    /// Sends it, and answers its Message-ID, `<…@…>`: the same over all attempts of a delivery, as long as the
    /// connector sends its e-mails in the same order.
    ///
    /// # Errors
    ///
    /// Nothing was sent: misconfigured (`mail-denied`) when the operator granted no server, unauthorized
    /// (`mail-unauthorized`) when the server does not take the credentials, transient (`mail-unreachable`, or `smtp-`
    /// and a 4xx code), rejected (`mail-invalid`, or `smtp-` and a 5xx code).
    ///
    /// It may have been sent: rejected (`outcome-unknown`). A second message to a person is worse than asking an
    /// operator.
    pub fn send(self) -> Result<String, Failure> {
        let Mail { to, subject, text, html, reply_to } = self;
        let sent = host::send_mail(&mail::Message { to, subject, text, html, reply_to });
        sent.map(|sent| sent.message_id).map_err(failure)
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::Denied(why) => Failure::misconfigured("mail-denied", why),
        Error::Invalid(why) => Failure::rejected("mail-invalid", why),
        Error::Unreachable(why) => Failure::transient("mail-unreachable", why),
        Error::Interrupted(why) => Failure::rejected(
            "outcome-unknown",
            format!("{why}: the e-mail may have been sent; replay the delivery if it was not"),
        ),
        Error::Refused(Refusal { code, permanent: true, message }) => {
            Failure::rejected(format!("smtp-{code}"), message)
        }
        Error::Refused(Refusal { code, permanent: false, message }) => {
            Failure::transient(format!("smtp-{code}"), message)
        }
        Error::Unauthorized(why) => Failure::unauthorized("mail-unauthorized", why),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test::{Host, event};
    use crate::{Context, Event, Raw, Receipt};

    fn two(cx: &Context, _: Event<Raw>) -> Result<Receipt, Failure> {
        let first = cx.mail().to("ana@example.com").to("Eva <eva@example.com>").subject("Olá").text("1").html("<p>1");
        assert_eq!(first.reply_to("oi@example.com").send()?, "<test.1@test>");
        assert_eq!(cx.mail().to("ana@example.com").subject("Olá").text("2").send()?, "<test.2@test>");
        Ok(Receipt::new())
    }

    #[test]
    fn what_was_written_is_what_is_sent() {
        let run = Host::new().mailbox().run(two, event("t", json!({})));
        assert!(run.result.is_ok());
        let sent = |to: &[&str], text: &str, html: Option<&str>, reply_to: Option<&str>| mail::Message {
            to: to.iter().map(|&to| to.to_owned()).collect(),
            subject: "Olá".to_owned(),
            text: text.to_owned(),
            html: html.map(str::to_owned),
            reply_to: reply_to.map(str::to_owned),
        };
        assert_eq!(
            run.mails,
            [
                sent(&["ana@example.com", "Eva <eva@example.com>"], "1", Some("<p>1"), Some("oi@example.com")),
                sent(&["ana@example.com"], "2", None, None),
            ]
        );
    }

    #[test]
    fn every_error_says_what_happens_next() {
        let why = || "why".to_owned();
        let refused = |code, permanent| Error::Refused(Refusal { code, permanent, message: why() });
        for (error, kind, code) in [
            (Error::Denied(why()), "Misconfigured", "mail-denied"),
            (Error::Invalid(why()), "Rejected", "mail-invalid"),
            (Error::Unreachable(why()), "Transient", "mail-unreachable"),
            (Error::Interrupted(why()), "Rejected", "outcome-unknown"),
            (refused(451, false), "Transient", "smtp-451"),
            (refused(550, true), "Rejected", "smtp-550"),
            (Error::Unauthorized(why()), "Unauthorized", "mail-unauthorized"),
        ] {
            let run = Host::new().take_mail().no_mail(error).run(two, event("t", json!({})));
            assert_eq!(run.mails.len(), 2, "{code}");
            let failure = run.failure();
            assert!(format!("{failure:?}").starts_with(&format!("Failure::{kind}(")), "{failure:?}");
            assert_eq!(failure.detail().code, code);
            assert!(failure.detail().message.starts_with("why"), "{failure:?}");
        }
        let run = Host::new().run(two, event("t", json!({})));
        assert_eq!((run.failure().detail().code.as_str(), run.mails.len()), ("mail-denied", 0));
    }
}
