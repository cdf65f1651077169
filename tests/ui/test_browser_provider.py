"""Signing in at a provider (OpenID Connect), in a browser: a real provider on loopback vouches for who is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

from ingest.samples import mark_samples_done
from rag.settings import Settings
from tests.ui.running_app import ANSWER_MS, ROOT, chromium, free_port, open_page, running_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="no Chromium found: install chromium to run the browser tests"),
]

ANN, BEN, CAT, DAN = "ann@example.org", "ben@example.org", "cat@example.org", "dan@example.org"
USERS: tuple[dict[str, object], ...] = (
    {"sub": "1", "email": ANN, "email_verified": True},
    {"sub": "2", "email": BEN, "email_verified": True},
    {"sub": "3", "email": CAT, "email_verified": False},
    {"sub": "4", "email": DAN},
)
"""Ann, Cat and Dan are on the list of people; the addresses of Cat and Dan may be anybody's."""
START_S = 60.0


@contextmanager
def provider(log: Path) -> Iterator[str]:
    """An OpenID Connect provider that knows the users, in a process of its own; gives its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    users = [word for user in USERS for word in ("--user-claims", json.dumps(user))]
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", "true", *users]
    environment = {**os.environ, "AUTHLIB_INSECURE_TRANSPORT": "1"}  # plain HTTP, on loopback
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as process:
        try:
            end = time.monotonic() + START_S
            while True:
                try:
                    urllib.request.urlopen(f"{url}/.well-known/openid-configuration", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < end, log.read_text()
                    time.sleep(0.1)
            yield url
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app, at which Ann, Cat and Dan may sign in through the provider; gives its address."""
    folder = tmp_path_factory.mktemp("provider")
    settings = Settings(data_dir=folder / "data")
    mark_samples_done(settings.collection_dir)
    for person in (ANN, CAT, DAN):
        command = [sys.executable, "-m", "rag", "people", "add", "--without-password", person]
        subprocess.run([*command, "--data-dir", str(settings.data_dir)], cwd=ROOT, check=True)
    port = free_port()
    with provider(folder / "provider.log") as issuer:
        home = folder / "home"
        (home / ".streamlit").mkdir(parents=True)
        (home / ".streamlit" / "secrets.toml").write_text(
            "[auth]\n"
            f'redirect_uri = "http://127.0.0.1:{port}/oauth2callback"\n'
            'cookie_secret = "of this test alone, and long enough"\n'
            'client_id = "rank37"\n'
            'client_secret = "kept by both"\n'
            f'server_metadata_url = "{issuer}/.well-known/openid-configuration"\n',
            encoding="utf-8",
        )
        with running_app(
            settings.data_dir, port=port, RANK37_AUTH="oidc", RANK37_RERANKER="embedded", HOME=str(home)
        ) as url:
            yield url


def signed_in(chrome: Browser, url: str, subject: str) -> Page:
    """A page after somebody has said at the provider who they are."""
    page = open_page(chrome, url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    page.get_by_role("button", name="Sign in").click()
    page.locator("input[name=sub][type=text]").fill(subject)
    page.locator("button[type=submit]", has_text="Authorize").click()
    page.wait_for_url(f"{url}/**")
    page.get_by_role("heading", level=1).wait_for(timeout=ANSWER_MS)
    return page


def signed_out(page: Page, button: str) -> None:
    """Sign out here and, as the provider asks for, there; that leads back."""
    page.get_by_role("button", name=button).click()
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in", timeout=ANSWER_MS)
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()


def test_a_listed_person_comes_in_and_goes_out(served: str, chrome: Browser) -> None:
    page = signed_in(chrome, served, "1")
    sign_out = page.get_by_role("button", name="Sign out")
    expect(sign_out).to_be_visible(timeout=ANSWER_MS)
    expect(page.get_by_text(ANN, exact=True)).to_be_visible()
    page.reload()
    expect(sign_out).to_be_visible(timeout=ANSWER_MS)
    signed_out(page, "Sign out")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in", timeout=ANSWER_MS)


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        ("2", f"{BEN} is not on the list of people"),
        ("3", "does not say that it has verified your e-mail address"),
        ("4", "does not say that it has verified your e-mail address"),
    ],
    ids=["not listed", "not verified", "nothing said of it"],
)
def test_whom_the_provider_does_not_vouch_for_or_nobody_listed_stays_out(
    served: str, chrome: Browser, subject: str, told: str
) -> None:
    page = signed_in(chrome, served, subject)
    expect(page.get_by_text(told)).to_be_visible(timeout=ANSWER_MS)
    expect(page.get_by_test_id("stSidebarNav")).to_have_count(0)
    expect(page.get_by_test_id("stChatInput")).to_have_count(0)
    signed_out(page, "Sign in as someone else")


def test_a_cookie_that_another_key_signed_opens_nothing(served: str, chrome: Browser) -> None:
    page = signed_in(chrome, served, "1")
    expect(page.get_by_role("button", name="Sign out")).to_be_visible(timeout=ANSWER_MS)
    cookies = [cookie for cookie in page.context.cookies() if "streamlit" in cookie["name"]]
    assert cookies, "the session is in a cookie"
    assert all(cookie["httpOnly"] for cookie in cookies if "user" in cookie["name"])
    forged = [
        {**cookie, "value": cookie["value"][:-4] + ("AAAA" if not cookie["value"].endswith("AAAA") else "BBBB")}
        for cookie in cookies
    ]
    page.context.clear_cookies()
    page.context.add_cookies(forged)  # type: ignore[arg-type]  # as the browser gave them
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in", timeout=ANSWER_MS)
