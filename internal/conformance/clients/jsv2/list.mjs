// list.mjs ENDPOINT BUCKET [SECONDS]
//
// Prints the names of the bucket's objects, one a line. With SECONDS it lists
// ten times a second with one client for so long, without retries, and prints
// {"calls": N, "key_ids": N, "failures": ["...", ...]}.

import { setTimeout as sleep } from "node:timers/promises";

// Without this the SDK sees the credentials file only, and no credential_process
// of a config file. It looks at it while it is loaded.
process.env.AWS_SDK_LOAD_CONFIG = "1";
process.env.AWS_SDK_JS_SUPPRESS_MAINTENANCE_MODE_MESSAGE = "1";
const { default: AWS } = await import("aws-sdk");

const [endpoint, bucket, seconds] = process.argv.slice(2);
const s3 = new AWS.S3({ endpoint, s3ForcePathStyle: true, maxRetries: 0 });
const keyIDs = new Set();
const names = async () => {
  const request = s3.listObjectsV2({ Bucket: bucket });
  // The signed header is "… Credential=KEY/20261122/us-east-1/s3/aws4_request, …".
  request.on("send", (r) =>
    keyIDs.add(r.request.httpRequest.headers.Authorization.split("Credential=")[1].split("/")[0]),
  );
  return (await request.promise()).Contents.map((o) => o.Key);
};

if (seconds === undefined) {
  console.log((await names()).join("\n"));
} else {
  let calls = 0;
  const failures = [];
  const end = performance.now() + Number(seconds) * 1000;
  while (performance.now() < end) {
    calls++;
    try {
      await names();
    } catch (e) {
      failures.push(String(e));
    }
    await sleep(100);
  }
  console.log(JSON.stringify({ calls, key_ids: keyIDs.size, failures }));
}
