"""A person in front of the stand-in's pages."""

import re
import urllib.error
import urllib.parse
import urllib.request


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


pages = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)


def visit(url, decision, **fields):
    """A person who opens a page and clicks. Returns where the browser is sent."""
    html = pages.open(url).read().decode()
    form = dict(re.findall(r'name="(ticket|user_code)" value="([^"]*)"', html))
    action = re.search(r'action="([^"]*)"', html).group(1)
    form.update(fields, decision=decision)
    try:
        pages.open(urllib.parse.urljoin(url, action), urllib.parse.urlencode(form).encode())
    except urllib.error.HTTPError as e:
        return e.headers.get("Location")
