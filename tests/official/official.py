"""Signs and verifies with the libraries that the schemes' owners publish: one JSON object in, one out."""

import json
import sys
from datetime import datetime, timezone

import standardwebhooks.webhooks
import stripe
import svix.webhooks

asked = json.load(sys.stdin)
scheme, secret, body = asked["scheme"], asked["secret"], asked["body"]


def sign():
    at = asked["timestamp"]
    if scheme == "stripe":
        # The library's own computation: it has no public signer.
        signature = stripe.WebhookSignature._compute_signature(f"{at}.{body}", secret)
        return {"stripe-signature": f"t={at},v1={signature}"}
    library, names = {
        "standard-webhooks": (standardwebhooks.webhooks, "webhook"),
        "svix": (svix.webhooks, "svix"),
    }[scheme]
    signed = library.Webhook(secret).sign(asked["id"], datetime.fromtimestamp(at, timezone.utc), body)
    return {f"{names}-id": asked["id"], f"{names}-timestamp": str(at), f"{names}-signature": signed}


def verify():
    headers = asked["headers"]
    try:
        if scheme == "stripe":
            # The whole event that this returns is no business of ours.
            stripe.WebhookSignature.verify_header(body, headers["stripe-signature"], secret, tolerance=300)
        elif scheme == "svix":
            svix.webhooks.Webhook(secret).verify(body, headers)
        else:
            standardwebhooks.webhooks.Webhook(secret).verify(body, headers)
    except (standardwebhooks.webhooks.WebhookVerificationError, stripe.SignatureVerificationError) as error:
        return {"verified": False, "why": str(error)}
    return {"verified": True}


print(json.dumps({"sign": sign, "verify": verify}[asked["do"]]()))
