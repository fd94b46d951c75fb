"""cli.py URL HOME START_URL REGION [SESSION]

Signs in to the stand-in at URL with the AWS CLI's own code, for a device, and leaves
what the CLI keeps of it in HOME. Needs the Python that has the AWS CLI v2.
"""

import os
import sys

from awscli.botocore.credentials import JSONFileCache
from awscli.botocore.session import Session
from awscli.botocore.utils import SSOTokenFetcher
from awscli.customizations.sso.utils import _sso_json_dumps
from person import visit


def main(url, home, start_url, region, name=None):
    session = Session()
    fetcher = SSOTokenFetcher(
        sso_region=region,
        client_creator=lambda service, **more: session.create_client(service, endpoint_url=url, **more),
        cache=JSONFileCache(os.path.join(home, ".aws", "sso", "cache"), dumps_func=_sso_json_dumps),
        on_pending_authorization=lambda verificationUriComplete, **_: visit(verificationUriComplete, "allow"),
    )
    scopes = ["sso:account:access"] if name else None
    fetcher.fetch_token(start_url=start_url, session_name=name, registration_scopes=scopes)


main(*sys.argv[1:])
