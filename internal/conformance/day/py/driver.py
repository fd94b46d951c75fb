"""An AWS SDK for Python whose credentials are asked for once a simulated minute.

It prints {} when it is ready. Then each line of the input is how far the clock
is ahead, in seconds; each line of the output is what the SDK then said, as JSON:

    {"now": UNIX_SECONDS, "key": "ACCESS_KEY_ID", "requests": N, "error": ""}

now is the SDK's own clock, requests is how many HTTP requests it made since
the line before.
"""

import datetime
import json
import sys

# The clock first: botocore keeps hold of it.
ahead = datetime.timedelta()
real = datetime.datetime


class Moved(real):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + ahead

    @classmethod
    def utcnow(cls):
        return super().utcnow() + ahead


datetime.datetime = Moved

import botocore.credentials  # noqa: E402
import botocore.httpsession  # noqa: E402
import botocore.session  # noqa: E402

requests = 0
send = botocore.httpsession.URLLib3Session.send


def counted(self, request):
    global requests
    requests += 1
    return send(self, request)


botocore.httpsession.URLLib3Session.send = counted

session = botocore.session.get_session()
print("{}", flush=True)
for line in sys.stdin:
    ahead = datetime.timedelta(seconds=int(line))
    out = {"key": "", "error": ""}
    try:
        out["key"] = session.get_credentials().get_frozen_credentials().access_key
    except Exception as e:  # what it is, is for the test to judge
        out["error"] = repr(e)
    out["now"] = int(botocore.credentials._local_now().timestamp())
    out["requests"], requests = requests, 0
    print(json.dumps(out), flush=True)
