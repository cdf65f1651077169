"""Signing in and out: who looks at the page is found out before anything else of the app is drawn.

What a person may see is not decided here. A browser stays signed in by a random token of limited life in a cookie, of
which only a hash is kept.
"""

from __future__ import annotations

import json

import streamlit as st
from streamlit.errors import Error as StreamlitError

from rag.errors import BadInput, Rank37Error
from rag.ports import PeopleStore
from rag.settings import Settings, load_settings
from rag.types import Person
from rag.wiring import open_people_store
from ui.api.access import is_loopback
from ui.problems import show_problem
from ui.visitor import VISITOR, Visitor
from ui.words import as_markdown

COOKIE = "rank37_session"
COOKIE_S = 12 * 3600
"""How long the browser keeps it; the database says how long it holds."""
NAME_CHARACTERS = 320
PASSWORD_CHARACTERS = 1000

_TOKEN = "session token"
"""Where the session keeps its token: it is lost on a reload, which finds the cookie."""


@st.cache_resource(show_spinner=False)
def _people() -> PeopleStore:
    return open_people_store(load_settings())


def find_visitor() -> Visitor | None:
    """Who looks at the page; None: they must sign in first. Draws nothing but the cookie.

    Raises: BadInput where the app is reached from beyond this machine and nobody signs in; LibraryUnavailable.
    """
    settings = load_settings()
    check_address(settings)
    found = _found(settings)
    before: Visitor | None = st.session_state.get(VISITOR)
    if before is not None and (found is None or found.person != before.person):
        token = st.session_state.get(_TOKEN)
        st.session_state.clear()  # nothing of one person's session is left for the next
        st.session_state[_TOKEN] = token
    if found is not None:
        st.session_state[VISITOR] = found
    return found


def check_address(settings: Settings) -> None:
    """Raises BadInput where strangers could read everything: beyond this machine without sign-in."""
    address = str(st.get_option("server.address") or "")
    if settings.auth != "none" or settings.allow_open or (address and is_loopback(address)):
        return
    raise BadInput(
        f"the app listens at {address or 'every address'}, which other machines reach, and nobody signs in: set "
        "RANK37_AUTH=password (`python -m rag people add NAME`) or RANK37_AUTH=oidc, start it with --server.address "
        "127.0.0.1, or set RANK37_ALLOW_OPEN=1 if everyone who reaches it may read and change everything"
    )


def _found(settings: Settings) -> Visitor | None:
    match settings.auth:
        case "none":
            return Visitor()
        case "password":
            return _by_token()
        case "oidc":
            email = _verified_email()
            person = _people().person(email) if email else None
            return None if person is None else _visitor(person)


def _visitor(person: Person) -> Visitor:
    return Visitor(person.name, person.is_admin)


def _by_token() -> Visitor | None:
    token = st.session_state.get(_TOKEN) or _cookie()
    person = _people().signed_in(token) if token else None
    if person is None:
        st.session_state.pop(_TOKEN, None)
        return None
    st.session_state[_TOKEN] = token
    if _cookie() != token:
        _set_cookie(token, COOKIE_S)
    return _visitor(person)


def _cookie() -> str:
    """The token that the browser sent when it opened the page; empty: none, or no browser did."""
    value: object = st.context.cookies.get(COOKIE)
    return value if isinstance(value, str) else ""


def _set_cookie(token: str, seconds: int) -> None:
    """Keep the token over a reload. Streamlit lets only a script of the page set a cookie, which can read it too."""
    parts = f"{COOKIE}={token}; Path=/; Max-Age={seconds}; SameSite=Strict"
    st.html(
        f"<script>document.cookie = {json.dumps(parts)} + (location.protocol === 'https:' ? '; Secure' : '')</script>",
        unsafe_allow_javascript=True,
    )


def _verified_email() -> str:
    """The address that the provider vouches for; empty: there is none."""
    if not st.user.get("is_logged_in") or st.user.get("email_verified") is not True:
        return ""
    return str(st.user.get("email") or "")


# ---- the page ------------------------------------------------------------------------------------------------------


def show() -> None:
    """Draw the page on which people sign in."""
    settings = load_settings()
    _, middle, _ = st.columns([1, 2, 1])
    with middle:
        st.title("Sign in", anchor=False)
        if settings.auth == "oidc":
            _provider_page()
        else:
            _password_page()


def _password_page() -> None:
    if _cookie():
        _set_cookie("", 0)  # it opens nothing any more
    if not _people().listed():
        st.info(
            "Nobody can sign in yet. At a terminal of the machine that serves this: `python -m rag people add NAME`.",
            icon=":material/person_add:",
        )
        return
    with st.form("sign_in"):
        name = st.text_input("Name", max_chars=NAME_CHARACTERS, autocomplete="username", key="sign_in_name")
        password = st.text_input(
            "Password",
            type="password",
            max_chars=PASSWORD_CHARACTERS,
            autocomplete="current-password",
            key="sign_in_password",
        )
        submitted = st.form_submit_button("Sign in", type="primary", icon=":material/login:")
    if not submitted:
        return
    try:
        token = _people().sign_in(name, password)
    except Rank37Error as error:
        show_problem(error)
        return
    st.session_state.clear()
    st.session_state[_TOKEN] = token
    st.rerun()


def _provider_page() -> None:
    if st.user.get("is_logged_in"):
        email = str(st.user.get("email") or "")
        if not _verified_email():
            st.error(
                "The provider does not say that it has verified your e-mail address (`email_verified`), so you are not "
                "let in.",
                icon=":material/error:",
            )
        else:
            st.error(
                f"{as_markdown(email)} is not on the list of people: an administrator adds you at a terminal, with "
                f"`python -m rag people add --without-password ADDRESS`.",
                icon=":material/error:",
            )
        st.button("Sign in as someone else", key="provider_sign_out", on_click=st.logout)
        return
    if st.button("Sign in", type="primary", icon=":material/login:", key="provider_sign_in"):
        try:
            st.login()
        except StreamlitError as error:
            raise BadInput(
                f"signing in at the provider is not set up ({type(error).__name__}): write the section [auth] of "
                '.streamlit/secrets.toml and install the extra: `pip install "rank37[oidc]"`'
            ) from None


def show_sign_out() -> None:
    """Who is signed in, and the way out; nothing where no one signs in."""
    known: Visitor | None = st.session_state.get(VISITOR)
    if known is None or known.person is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", key="r37-signed-in"):
        st.caption(as_markdown(known.person), width="stretch")
        st.button("Sign out", key="sign_out", type="tertiary", icon=":material/logout:", on_click=_sign_out)


def _sign_out() -> None:
    token = st.session_state.get(_TOKEN)
    if token:
        _people().sign_out(token)
    st.session_state.clear()
    st.query_params.clear()
    if load_settings().auth == "oidc":
        st.logout()
