"""model.py ENDPOINT < CALLS

Holds an STS against botocore's model of the service. CALLS is a JSON list of

    {"name": "...", "action": "AssumeRole", "params": {...},
     "signer": {"id": "...", "secret": "..."}, {"call": "NAME"}, or null,
     "code": "AccessDenied" or ""}

The signer {"call": NAME} is the credentials that an earlier call returned.

Each is made through a boto3 client, and its answer, error or not, is compared
element by element with the model. Then the first call of each action that
succeeds is made again with one parameter at a time left out, or just outside
the model's bounds, which has to be refused for that parameter.

Prints {"actions": [...], "calls": N, "findings": ["...", ...]}.
"""

import json
import re
import sys
from datetime import datetime
from xml.etree import ElementTree

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import ResponseParserError

MODEL = Loader().load_service_model("sts", "service-2")
SERVICE = ServiceModel(MODEL, "sts")
NAMESPACE = "{" + MODEL["metadata"]["xmlNamespace"] + "}"

# Beside those of the model's operations: "Common Errors" of the STS API
# reference, and what STS was seen to answer for the same. Code: status.
COMMON = {
    "AccessDenied": 403,
    "AccessDeniedException": 403,
    "ExpiredToken": 403,
    "IncompleteSignature": 400,
    "InternalFailure": 500,
    "InvalidAction": 400,
    "InvalidClientTokenId": 403,
    "InvalidParameterCombination": 400,
    "InvalidParameterValue": 400,
    "InvalidQueryParameter": 400,
    "MalformedInput": 400,
    "MalformedQueryString": 404,
    "MissingAction": 400,
    "MissingAuthenticationToken": 403,
    "MissingParameter": 400,
    "NotAuthorized": 400,
    "OptInRequired": 403,
    "RequestExpired": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "Throttling": 400,
    "ValidationError": 400,
}

# What the stand-in refuses by name instead of ignoring it.
NOT_SENT = {"MinimumSessionTokenSize"}

# Its trade-in tokens bring no policy.
NOT_SHOWN = {("GetDelegatedAccessToken", "PackedPolicySize")}

findings = []
made = 0


def finding(where, what):
    findings.append(f"{where}: {what}")


clients = {}


def client(endpoint, signer):
    known = json.dumps(signer)
    if known not in clients:
        clients[known] = new_client(endpoint, signer)
    return clients[known]


def new_client(endpoint, signer):
    keys = {}
    signature = UNSIGNED
    if signer:
        signature = "v4"
        keys = dict(
            aws_access_key_id=signer["id"],
            aws_secret_access_key=signer["secret"],
            aws_session_token=signer.get("token"),
        )
    c = boto3.session.Session().client(
        "sts",
        region_name="eu-central-1",
        endpoint_url=endpoint,
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False, signature_version=signature),
        **keys,
    )
    c.meta.events.register("before-parse.sts", keep)
    return c


answer = {}
minted = {}


def keep(response_dict, **_):
    answer.update(body=response_dict["body"], status=response_dict["status_code"], headers=response_dict["headers"])


def local(element):
    return element.tag.removeprefix(NAMESPACE)


def scalar(where, shape, text):
    text = text or ""
    kind = shape.type_name
    if kind == "string":
        low, high, pattern = shape.metadata.get("min", 0), shape.metadata.get("max"), pattern_of(shape)
        if len(text) < low:
            finding(where, f"{len(text)} characters, the model wants {low} at least")
        if high is not None and len(text) > high:
            finding(where, f"{len(text)} characters, the model wants {high} at most")
        if pattern and not re.fullmatch(pattern, text):
            finding(where, f"does not match {pattern}")
        if not text:
            finding(where, "is empty")
    elif kind in ("integer", "long"):
        if not re.fullmatch(r"-?[0-9]+", text):
            finding(where, f"{text!r} is no integer")
        elif int(text) < shape.metadata.get("min", 0):
            finding(where, f"{text} is below the model's minimum")
    elif kind == "timestamp":
        try:
            if datetime.fromisoformat(text).tzinfo is None or not text.endswith("Z"):
                finding(where, f"{text!r} is not in UTC")
        except ValueError:
            finding(where, f"{text!r} is no time by ISO 8601")
    elif kind == "boolean":
        if text not in ("true", "false"):
            finding(where, f"{text!r} is no boolean")
    else:
        finding(where, f"the script does not know the model's type {kind}")


def pattern_of(shape):
    pattern = shape.metadata.get("pattern") or MODEL["shapes"][shape.name].get("pattern")
    if pattern:  # the model writes characters beyond 16 bits as Java does
        pattern = pattern.replace("\\u10000-\\u10FFFF", "\\U00010000-\\U0010FFFF")
    return pattern


def structure(where, shape, element, seen):
    names = [local(e) for e in element]
    for name in shape.required_members:
        if name not in names:
            finding(where, f"the required {name} is missing")
    for e in element:
        name = local(e)
        if name not in shape.members:
            finding(where, f"the model knows no {name}")
            continue
        if names.count(name) > 1:
            finding(where, f"{name} comes more than once")
        seen.add(name)
        member = shape.members[name]
        if member.type_name == "structure":
            structure(f"{where}.{name}", member, e, set())
        else:
            if len(e):
                finding(f"{where}.{name}", "has elements in it")
            scalar(f"{where}.{name}", member, e.text)


def document(where):
    try:
        return ElementTree.fromstring(answer["body"])
    except ElementTree.ParseError as e:
        finding(where, f"no XML: {e}")


def request_id(where, element):
    if element is None or [local(e) for e in element] != ["RequestId"] or not element[0].text:
        finding(where, "no RequestId where the protocol has it")
    elif answer["headers"].get("x-amzn-requestid") != element[0].text:
        finding(where, "the RequestId is not that of the header x-amzn-requestid")


def success(where, operation, seen):
    root = document(where)
    if root is None:
        return
    wrapper = MODEL["operations"][operation.name]["output"]["resultWrapper"]
    if root.tag != NAMESPACE + operation.name + "Response" or [local(e) for e in root] != [wrapper, "ResponseMetadata"]:
        finding(where, f"{root.tag} with {[e.tag for e in root]}, want {operation.name}Response with {wrapper} and ResponseMetadata")
        return
    if answer["status"] != 200:
        finding(where, f"status {answer['status']}")
    structure(where, operation.output_shape, root[0], seen)
    request_id(where, root[1])


def failure(where, operation):
    root = document(where)
    if root is None:
        return
    if root.tag != NAMESPACE + "ErrorResponse" or [local(e) for e in root] != ["Error", "RequestId"]:
        finding(where, f"{root.tag} with {[e.tag for e in root]}, want ErrorResponse with Error and RequestId")
        return
    error = {local(e): e.text or "" for e in root[0]}
    if not set(error) <= {"Type", "Code", "Message", "Detail"} or not {"Type", "Code"} <= set(error):
        finding(where, f"an error of {sorted(error)}")
        return
    statuses = dict(COMMON)
    for shape in operation.error_shapes:
        statuses[shape.metadata["error"]["code"]] = shape.metadata["error"]["httpStatusCode"]
    code = error["Code"]
    if code not in statuses:
        finding(where, f"{operation.name} has no error {code}")
    elif answer["status"] != statuses[code]:
        finding(where, f"{code} with status {answer['status']}, want {statuses[code]}")
    if error["Type"] != ("Receiver" if answer["status"] >= 500 else "Sender"):
        finding(where, f"status {answer['status']} is of type {error['Type']}")


def call(endpoint, where, action, params, signer, seen):
    """Returns the error's code and message, or two empty texts."""
    global made
    made += 1
    answer.clear()
    c = client(endpoint, signer)
    method = next(m for m, name in c.meta.method_to_api_mapping.items() if name == action)
    operation = SERVICE.operation_model(action)
    try:
        result = getattr(c, method)(**params)
    except ClientError as e:
        failure(where, operation)
        return e.response["Error"].get("Code", ""), e.response["Error"].get("Message", "")
    except ResponseParserError as e:
        finding(where, f"no XML: {e}")
        return "", ""
    success(where, operation, seen)
    if set(result.get("Credentials", {})) >= {"AccessKeyId", "SecretAccessKey", "SessionToken"}:
        credentials = result["Credentials"]
        minted[where] = {"id": credentials["AccessKeyId"], "secret": credentials["SecretAccessKey"], "token": credentials["SessionToken"]}
    return "", ""


def outside(shape):
    """Values that the model does not allow, each with why."""
    meta = MODEL["shapes"][shape.name]
    if shape.type_name == "integer":
        if "min" in meta:
            yield meta["min"] - 1, "below the minimum"
        if "max" in meta:
            yield meta["max"] + 1, "above the maximum"
    elif shape.type_name == "string":
        if meta.get("min", 0) > 1:
            yield "a" * (meta["min"] - 1), "too short"
        if "max" in meta:
            yield "a" * (meta["max"] + 1), "too long"
        if meta.get("pattern") and not re.fullmatch(pattern_of(shape), "\u20ac" * max(meta.get("min", 1), 1)):
            yield "\u20ac" * max(meta.get("min", 1), 1), "of other characters"
        if "enum" in meta:
            yield "none-of-these", "not of the enumeration"


def named(message, member, value):
    """Whether an error is about a parameter: by its name, or repeating it."""
    return member[0].lower() + member[1:] in message or member in message or bool(value) and f"{value} is invalid" in message


def bend(endpoint, base):
    action, params = base["action"], base["params"]
    shape = SERVICE.operation_model(action).input_shape
    for member, of in shape.members.items():
        tries = []
        if member in shape.required_members:
            tries.append(({k: v for k, v in params.items() if k != member}, "left out"))
        tries += [({**params, member: value}, why) for value, why in outside(of)]
        for changed, why in tries:
            where = f"{action}, {member} {why}"
            code, message = call(endpoint, where, action, changed, base["signer"], set())
            if code not in ("ValidationError", "MissingParameter") and member not in NOT_SENT:
                finding(where, f"{code or 'no error'}: {message[:200]}")
            elif not named(message, member, changed.get(member)):
                finding(where, f"the error names another: {message[:200]}")


def main(endpoint, calls):
    shown = {name: set() for name in SERVICE.operation_names}
    sent = {name: set() for name in SERVICE.operation_names}
    bases = {}
    for c in calls:
        where = f"{c['action']}, {c['name']}"
        if c["signer"] and "call" in c["signer"]:
            c["signer"] = minted[c["signer"]["call"]]
        code, message = call(endpoint, where, c["action"], c["params"], c["signer"], shown[c["action"]])
        if code != c["code"]:
            finding(where, f"want {c['code'] or 'success'}, got {code or 'success'}: {message}")
        elif not code:
            sent[c["action"]] |= set(c["params"])
            bases.setdefault(c["action"], c)
    for name in SERVICE.operation_names:
        operation = SERVICE.operation_model(name)
        if name not in bases:
            finding(name, "no call succeeds")
            continue
        for member in operation.output_shape.members:
            if member not in shown[name] and (name, member) not in NOT_SHOWN:
                finding(name, f"no answer holds {member}")
        for member in operation.input_shape.members if operation.input_shape else ():
            if member not in sent[name] | NOT_SENT:
                finding(name, f"no call sends {member}")
        if operation.input_shape:
            bend(endpoint, bases[name])
    print(json.dumps({"actions": list(SERVICE.operation_names), "calls": made, "findings": findings}))


main(sys.argv[1], json.load(sys.stdin))
