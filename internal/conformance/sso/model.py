"""model.py JOB < INPUT

Holds IAM Identity Center's stand-in, and what stsbroker sends to the real one,
against botocore's models of the services sso-oidc and sso. INPUT and what is
printed are JSON; "findings" lists what does not fit.

  answers    {"url", "expired", "failing", "start_url", "account", "role"}: makes every
             call, and every error that the stand-in has, with botocore's clients
  requests   [{"method", "path", "query", "headers", "body"}]: requests as botocore
             itself would have made them
  endpoints  [REGION, ...]: where botocore finds both services; prints {REGION: [..]}
  regions    prints every region of every partition
"""

import base64
import hashlib
import json
import os
import sys
import time
import urllib.parse

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.endpoint_provider import EndpointProvider
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer

from person import visit

SERVICES = ("sso-oidc", "sso")
MODELS = {s: ServiceModel(Loader().load_service_model(s, "service-2"), s) for s in SERVICES}

# Members of answers that the stand-in leaves out, as the service does for clients
# like these.
LEFT_OUT = {"idToken", "authorizationEndpoint", "tokenEndpoint", "reason", "refreshToken"}

# Errors that the services send and no model has.
UNMODELED = {"ForbiddenException": 403}

findings = []
seen = set()


def finding(where, what):
    findings.append(f"{where}: {what}")


def client(service, url):
    return botocore.session.Session().create_client(
        service,
        region_name="eu-central-1",
        endpoint_url=url,
        config=Config(retries={"total_max_attempts": 1}, parameter_validation=False, signature_version=UNSIGNED),
    )


answer = {}


def keep(response_dict, **_):
    answer.update(body=response_dict["body"], status=response_dict["status_code"], headers=response_dict["headers"])


def value(where, shape, got):
    kinds = {"string": str, "integer": int, "long": int, "list": list, "structure": dict}
    if not isinstance(got, kinds[shape.type_name]) or isinstance(got, bool):
        finding(where, f"{got!r} is no {shape.type_name}")
    elif shape.type_name == "structure":
        members(where, shape, got)
    elif shape.type_name == "list":
        for one in got:
            value(where, shape.member, one)
    elif got == "":
        finding(where, "is empty")


def members(where, shape, got):
    body = {n: s for n, s in shape.members.items() if "location" not in s.serialization}
    for name, one in got.items():
        if name not in body:
            finding(where, f"the model knows no {name}")
        else:
            value(f"{where}.{name}", body[name], one)
    return set(body) - set(got)


def call(clients, name, code, /, **params):
    """Makes one call; code is the error that it must have, "" for none."""
    service = "sso" if name in ("get_role_credentials", "logout") else "sso-oidc"
    c = clients[service]
    operation = MODELS[service].operation_model(c.meta.method_to_api_mapping[name])
    where = f"{operation.name} {code}"
    got, result = "", None
    try:
        result = getattr(c, name)(**params)
    except ClientError as e:
        got = e.response["Error"]["Code"]
        if got not in UNMODELED and type(e) is not getattr(c.exceptions, got, None):
            finding(where, f"{got} is a plain {type(e).__name__}")
    seen.add((operation.name, got))
    if got != code:
        finding(where, f"got {got!r}: {answer['body']}")
        return result
    if not answer["headers"].get("x-amzn-requestid"):
        finding(where, "no request id")
    if code:
        failure(where, operation, code)
    elif operation.output_shape is None:
        if answer["body"]:
            finding(where, f"a body: {answer['body']}")
    else:
        missing = members(where, operation.output_shape, json.loads(answer["body"])) - LEFT_OUT
        if missing:
            finding(where, f"without {sorted(missing)}")
        if answer["status"] != 200:
            finding(where, f"status {answer['status']}")
    return result


def failure(where, operation, code):
    shapes = {s.name: s for s in operation.error_shapes}
    body = json.loads(answer["body"])
    if code in UNMODELED:
        status = UNMODELED[code]
    elif code not in shapes:
        finding(where, "the operation has no such error")
        return
    else:
        status = shapes[code].metadata["error"]["httpStatusCode"]
        body.pop("__type", None)
        if members(where, shapes[code], body) - LEFT_OUT:
            finding(where, f"only {list(body)}")
    if answer["status"] != status:
        finding(where, f"status {answer['status']}, want {status}")


def clients_of(url):
    clients = {s: client(s, url) for s in SERVICES}
    for service, c in clients.items():
        c.meta.events.register_first(f"before-parse.{service}.*", keep)  # before botocore rewrites errors there
    return clients


def pkce():
    verifier = base64.urlsafe_b64encode(os.urandom(48)).decode()
    return verifier, base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


def answers(job):
    redirect = "http://127.0.0.1:9/oauth/callback"
    scopes = ["sso:account:access"]
    device = "urn:ietf:params:oauth:grant-type:device_code"
    cs, late, failing = clients_of(job["url"]), clients_of(job["expired"]), clients_of(job["failing"])

    def register(code="", to=cs, /, **params):
        return call(to, "register_client", code, **params)

    named = dict(clientName="model", clientType="public")
    coded = dict(named, scopes=scopes, grantTypes=["authorization_code", "refresh_token"],
                 redirectUris=["http://127.0.0.1/oauth/callback"], issuerUrl=job["start_url"])
    browser = register(**coded)
    plain = register(**named)
    scoped = register(**named, scopes=scopes)
    register("InvalidRequestException", clientName="model")
    register("InvalidRequestException", **dict(coded, issuerUrl="https://other.awsapps.com/start"))
    register("InvalidClientMetadataException", clientName="model", clientType="private")
    register("InvalidScopeException", **named, scopes=["everything"])
    register("UnsupportedGrantTypeException", **named, grantTypes=["password"])
    register("InvalidRedirectUriException", **dict(coded, redirectUris=["http://evil.example/oauth/callback"]))
    register("InternalServerException", failing, **named)

    def id_of(c):
        return dict(clientId=c["clientId"], clientSecret=c["clientSecret"])

    def start(code="", c=scoped, to=cs, /, **more):
        return call(to, "start_device_authorization", code, **dict(id_of(c), startUrl=job["start_url"], **more))

    def token(code, c, to=cs, /, **params):
        return call(to, "create_token", code, **id_of(c), **params)

    call(cs, "start_device_authorization", "InvalidRequestException", **id_of(scoped), startUrl="https://other.awsapps.com/start")
    call(cs, "start_device_authorization", "InvalidRequestException", startUrl=job["start_url"])
    start("InvalidClientException", dict(scoped, clientSecret="another"))
    start("UnauthorizedClientException", browser)
    start("InternalServerException", scoped, failing)

    # By a device: asked for too early, too often, allowed, denied, over.
    one = start()
    token("AuthorizationPendingException", scoped, grantType=device, deviceCode=one["deviceCode"])
    token("SlowDownException", scoped, grantType=device, deviceCode=one["deviceCode"])
    two = start()
    visit(two["verificationUriComplete"], "allow")
    token("InvalidGrantException", plain, grantType=device, deviceCode=two["deviceCode"])
    refreshable = token("", scoped, grantType=device, deviceCode=two["deviceCode"])
    token("InvalidGrantException", scoped, grantType=device, deviceCode=two["deviceCode"])
    three = start()
    visit(three["verificationUri"], "deny", user_code=three["userCode"])
    token("AccessDeniedException", scoped, grantType=device, deviceCode=three["deviceCode"])
    four = start("", plain)
    visit(four["verificationUriComplete"], "allow")
    if "refreshToken" in token("", plain, grantType=device, deviceCode=four["deviceCode"]):
        finding("CreateToken", "a refresh token for a client without scopes")
    old = register("", late, **named)
    five = start("", old, late)
    token("ExpiredTokenException", old, late, grantType=device, deviceCode=five["deviceCode"])

    # By a browser: the page, its code, and what must hold for that.
    def code(redirect=redirect, decision="allow"):
        verifier, challenge = pkce()
        back = visit(job["url"] + "/authorize?" + urllib.parse.urlencode({
            "response_type": "code", "client_id": browser["clientId"], "redirect_uri": redirect, "state": "a state",
            "code_challenge_method": "S256", "scopes": " ".join(scopes), "code_challenge": challenge}), decision)
        if not back.startswith(redirect + "?"):
            finding("authorize", f"the browser is sent to {back}")
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(back).query))
        if query.get("state") != "a state":
            finding("authorize", f"comes back with {query}")
        return dict(grantType="authorization_code", code=query.get("code"), codeVerifier=verifier, redirectUri=redirect), query

    good, _ = code()
    first = token("", browser, **good)
    token("InvalidGrantException", browser, **good)
    for spoilt in (dict(codeVerifier=pkce()[0]), dict(redirectUri="http://127.0.0.1:10/oauth/callback"), dict(code="another")):
        token("InvalidGrantException", browser, **dict(code()[0], **spoilt))
    token("InvalidClientException", dict(browser, clientSecret="another"), **code()[0])
    token("UnauthorizedClientException", scoped, **code()[0])
    token("UnsupportedGrantTypeException", browser, grantType="password")
    call(cs, "create_token", "InvalidRequestException", grantType="authorization_code")
    if (denied := code(decision="deny")[1]).get("error") != "access_denied":
        finding("authorize", f"denied, and comes back with {denied}")
    token("InternalServerException", browser, failing, **code()[0])

    # What a refresh gives is new, and the old one is over with its session.
    again = token("", scoped, grantType="refresh_token", refreshToken=refreshable["refreshToken"])
    if again["refreshToken"] == refreshable["refreshToken"]:
        finding("CreateToken", "the refresh token does not rotate")
    token("InvalidScopeException", scoped, grantType="refresh_token", refreshToken=again["refreshToken"], scope=["openid"])

    def role(code, to=cs, /, **params):
        return call(to, "get_role_credentials", code, **dict(dict(accountId=job["account"], roleName=job["role"], accessToken=again["accessToken"]), **params))

    got = role("")["roleCredentials"]
    if not time.time() * 1000 < got["expiration"] < (time.time() + 13 * 3600) * 1000:
        finding("GetRoleCredentials", f"expiration {got['expiration']} is no time in milliseconds")
    role("ForbiddenException", roleName="another")
    role("ResourceNotFoundException", accountId="999999999999")
    role("InvalidRequestException", accountId="1")
    role("UnauthorizedException", accessToken="another")
    role("UnauthorizedException", accessToken=first["accessToken"])  # its code was used twice
    role("TooManyRequestsException", clients_of(job["busy"]))
    call(cs, "logout", "InvalidRequestException", accessToken="")
    call(cs, "logout", "", accessToken=again["accessToken"])
    call(cs, "logout", "UnauthorizedException", accessToken=again["accessToken"])
    role("UnauthorizedException")
    token("InvalidGrantException", scoped, grantType="refresh_token", refreshToken=again["refreshToken"])

    done = {o for o, _ in seen}
    return {"operations": sorted(done), "pairs": len(seen)}


def requests(sent):
    """Reads each request back into parameters, has botocore make it of them, and compares."""
    names = []
    for r in sent:
        found = [(s, o) for s in SERVICES for o in map(MODELS[s].operation_model, MODELS[s].operation_names)
                 if (o.http["method"], o.http["requestUri"]) == (r["method"], r["path"])]
        if len(found) != 1:
            finding(r["method"] + " " + r["path"], "is no operation")
            continue
        service, operation = found[0]
        where = operation.name
        names.append(where)
        headers = {k.lower(): v for k, v in r["headers"].items()}
        query = dict(urllib.parse.parse_qsl(r["query"], keep_blank_values=True, strict_parsing=bool(r["query"])))
        params = {}
        for name, shape in operation.input_shape.members.items():
            at = shape.serialization.get("location")
            key = shape.serialization.get("name", name)
            if at == "querystring" and key in query:
                params[name] = query[key]
            elif at == "header" and key.lower() in headers:
                params[name] = headers[key.lower()]
        if r["body"]:
            body = json.loads(r["body"])
            members(where, operation.input_shape, body)
            params.update((n, v) for n, v in body.items() if n in operation.input_shape.members)
        for name in operation.input_shape.required_members:
            if name not in params:
                finding(where, f"the required {name} is missing")
        want = create_serializer(operation.metadata["protocol"], False).serialize_to_request(params, operation)
        if (want["method"], want["url_path"]) != (r["method"], r["path"]):
            finding(where, f"botocore sends {want['method']} {want['url_path']}")
        if {k: str(v) for k, v in want["query_string"].items()} != query:
            finding(where, f"query {query}, botocore's {want['query_string']}")
        if json.loads(want["body"] or "{}") != json.loads(r["body"] or "{}"):
            finding(where, "another body than botocore's")
        for name, one in want["headers"].items():
            if headers.get(name.lower()) != one:
                finding(where, f"header {name}")
        known = {n.lower() for n in want["headers"]} | {"user-agent", "content-length", "content-type"}
        for name in headers:
            if name not in known:
                finding(where, f"header {name}, which botocore does not send")
    return {"operations": names}


def endpoints(regions):
    out = {}
    loader = Loader()
    partitions = loader.load_data("partitions")
    rules = {s: EndpointProvider(loader.load_service_model(s, "endpoint-rule-set-1"), partitions) for s in SERVICES}
    for region in regions:
        out[region] = [rules[s].resolve_endpoint(Region=region, UseFIPS=False, UseDualStack=False).url for s in SERVICES]
    return {"endpoints": out}


def regions(_):
    partitions = Loader().load_data("partitions")["partitions"]
    return {"regions": [r for p in partitions for r in p["regions"] if not r.endswith("-global")]}


JOBS = {f.__name__: f for f in (answers, requests, endpoints, regions)}

if __name__ == "__main__":
    text = sys.stdin.read()
    result = JOBS[sys.argv[1]](json.loads(text) if text.strip() else None)
    print(json.dumps(dict(result, findings=findings)))
