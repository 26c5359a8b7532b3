// Signs and verifies with GitHub's own library: one JSON object in, one out.

import { sign, verify } from "@octokit/webhooks-methods";

let text = "";
for await (const part of process.stdin) text += part;
const { do: wanted, secret, body, headers } = JSON.parse(text);

const answer =
  wanted === "sign"
    ? { "x-hub-signature-256": await sign(secret, body) }
    : { verified: await verify(secret, body, headers["x-hub-signature-256"]) };
console.log(JSON.stringify(answer));
