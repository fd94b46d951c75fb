// list.mjs ENDPOINT BUCKET [SECONDS]
//
// Prints the names of the bucket's objects, one a line. With SECONDS it lists
// ten times a second with one client for so long, without retries, and prints
// {"calls": N, "key_ids": N, "failures": ["...", ...]}.

import { ListObjectsV2Command, S3Client } from "@aws-sdk/client-s3";
import { setTimeout as sleep } from "node:timers/promises";

const [endpoint, bucket, seconds] = process.argv.slice(2);
const s3 = new S3Client({ endpoint, forcePathStyle: true, maxAttempts: 1 });
const names = async () =>
  (await s3.send(new ListObjectsV2Command({ Bucket: bucket }))).Contents.map((o) => o.Key);

if (seconds === undefined) {
  console.log((await names()).join("\n"));
} else {
  let calls = 0;
  const keyIDs = new Set();
  const failures = [];
  // The signed header is "… Credential=KEY/20261122/us-east-1/s3/aws4_request, …".
  s3.middlewareStack.add(
    (next) => (args) => {
      keyIDs.add(args.request.headers.authorization.split("Credential=")[1].split("/")[0]);
      return next(args);
    },
    { step: "finalizeRequest", priority: "low" },
  );
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
