"""A person's sign-in with GitLab in a browser, played by a plain HTTP client.

For: tests that need a grant or a cookie rather than a GitLab token. Promises: the whole way is gone: our page,
GitLab's sign-in, its consent, and back.
Must not know: any insides.
"""

import html
import re

import requests

_SECONDS = 20.0


def sign_in(spawner_url: str, gitlab_url: str, *, username: str, password: str) -> requests.Session:
    """Return a browser that is signed in; its cookies are the person's login."""
    browser = requests.Session()
    page = browser.get(f"{spawner_url}/login/gitlab", timeout=_SECONDS)
    form = {"user[login]": username, "user[password]": password, **_hidden(page.text)}
    page = browser.post(f"{gitlab_url}/users/sign_in", data=form, timeout=_SECONDS)
    if "/oauth/authorize" in page.url:
        form = {**_hidden(page.text), "decision": "allow"}
        page = browser.post(f"{gitlab_url}/oauth/authorize", data=form, timeout=_SECONDS)
    assert (page.status_code, page.url.startswith(spawner_url)) == (200, True), f"{page.url}: {page.text[:400]}"
    return browser


def _hidden(page: str) -> dict[str, str]:
    found = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', page)
    return {name: html.unescape(value) for name, value in found}
