// driver.cjs FOLDER: an AWS SDK for JavaScript, installed in FOLDER, whose
// credentials are asked for once a simulated minute.
//
// It prints {} when it is ready. Then each line of the input is how far the clock is
// ahead, in seconds; each line of the output is what the SDK then said, as JSON:
//
//   {"now": UNIX_SECONDS, "key": "ACCESS_KEY_ID", "requests": N, "error": ""}
//
// now is the SDK's own clock, requests is how many HTTP requests it made since
// the line before, those included that it makes while it has answered already.
"use strict";

// The clock first: an SDK may keep hold of Date.
const RealDate = Date;
let ahead = 0;
globalThis.Date = class Date extends RealDate {
  constructor(...args) {
    if (args.length === 0) super(RealDate.now() + ahead);
    else super(...args);
  }
  static now() {
    return RealDate.now() + ahead;
  }
};

let requests = 0;
const open = new Set(); // requests under way
require("node:diagnostics_channel").subscribe("http.client.request.start", ({ request }) => {
  requests++;
  const done = new Promise((resolve) => request.once("close", resolve));
  open.add(done);
  done.then(() => open.delete(done));
});

const turn = () => new Promise((resolve) => setImmediate(resolve));

const quiet = async () => {
  do {
    await Promise.all(open);
    for (let i = 0; i < 5; i++) await turn(); // what a SDK does next, it does now
  } while (open.size > 0);
};

const { createRequire } = require("node:module");
const installed = createRequire(require("node:path").resolve(process.argv[2], "here.js"));
let key;
try {
  const { STSClient } = installed("@aws-sdk/client-sts");
  const { credentials } = new STSClient({}).config;
  key = async () => (await credentials()).accessKeyId;
} catch (e) {
  if (e.code !== "MODULE_NOT_FOUND") throw e;
  const { config } = new (installed("aws-sdk").STS)();
  key = () =>
    new Promise((resolve, reject) => {
      config.getCredentials((err, c) => (err ? reject(err) : resolve(c.accessKeyId)));
    });
}

(async () => {
  console.log("{}");
  for await (const line of require("node:readline").createInterface({ input: process.stdin })) {
    ahead = Number(line) * 1000;
    const out = { key: "", error: "" };
    try {
      out.key = await key();
    } catch (e) {
      out.error = String(e);
    }
    await quiet();
    out.now = Math.floor(Date.now() / 1000);
    out.requests = requests;
    requests = 0;
    console.log(JSON.stringify(out));
  }
})();
