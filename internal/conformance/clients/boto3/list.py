"""list.py ENDPOINT BUCKET [SECONDS]

Prints the names of the bucket's objects, one a line. With SECONDS it lists
ten times a second with one client for so long, without retries, and prints
{"calls": N, "key_ids": N, "failures": ["...", ...]}.
"""

import json
import sys
import time

import boto3
from botocore.config import Config

endpoint, bucket = sys.argv[1:3]
session = boto3.session.Session()
s3 = session.client(
    "s3",
    endpoint_url=endpoint,
    config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
)


def names():
    return [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]]


if len(sys.argv) == 3:
    print("\n".join(names()))
    sys.exit()

calls, key_ids, failures = 0, set(), []


def signed(request, **_):  # Credential=KEY/20261122/us-east-1/s3/aws4_request
    header = request.headers["Authorization"]
    if isinstance(header, bytes):
        header = header.decode()
    key_ids.add(header.split("Credential=")[1].split("/")[0])


s3.meta.events.register("before-send.s3", signed)
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    calls += 1
    try:
        names()
    except Exception as e:  # every kind of failure counts
        failures.append(repr(e))
    time.sleep(0.1)
print(json.dumps({"calls": calls, "key_ids": len(key_ids), "failures": failures}))
