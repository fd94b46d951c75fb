"""roles.py

Asks STS who each of role-01 to role-30 is, with boto3 alone, and prints the answers.
"""

import json
import os
import subprocess

import boto3

for n in range(1, 31):
    role = f"role-{n:02}"
    env = json.loads(subprocess.check_output(["stsbroker", "env", role, "--shell", "json"]))
    for name in env["unset"]:
        os.environ.pop(name, None)
    os.environ.update(env["set"])
    print(boto3.session.Session().client("sts").get_caller_identity()["Arn"])
