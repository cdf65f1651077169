"""Two people who sign in, and every path on which one could reach what is the other's: pages, addresses, API, MCP.

`tests/api/test_access.py` tries each route of the API for crossing; here are the pages, and what people share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from streamlit.testing.v1 import AppTest

from ingest.library import Library, Workspace
from ingest.samples import mark_samples_done
from rag.errors import BadInput
from rag.ports import KeyStore, PeopleStore
from rag.settings import Settings
from rag.types import Result
from rag.wiring import open_key_store, open_people_store
from tests.api.conftest import add, serving
from tests.api.test_access import call_tool
from tests.ui.test_app_states import errors, html, run_until
from ui import sign_in
from ui.sign_in import check_address
from ui.workspace import open_library

APP = Path(__file__).resolve().parents[2] / "app.py"
WAIT_S = 300.0
ANNS = "Ann pays nine hundred crowns of rent each month. The landlord is the harbour company."
TOWN = "Parking permits cost forty crowns a month. They are sold at the town hall on the market square."
ANNS_QUESTION = "What rent does Ann pay each month?"
TOWN_QUESTION = "What does a parking permit cost for Ann's yellow van?"
SECRETS = ("nine hundred", "harbour", "Ann's papers", "Ann’s papers", "What rent", "yellow van")
PASSWORD = "correct horse battery"
PAGES = ("ask", "documents", "quality", "collections", "settings_page")
PAGE = """
from ui import sign_in, {page}
from ui.problems import problems_shown
from ui.sidebar import show_sidebar
import streamlit as st
from ui.workspace import open_workspace
with problems_shown():
    if sign_in.find_visitor() is None:
        sign_in.show()
    else:
        with st.sidebar:
            show_sidebar(open_workspace(), None)
        {page}.show()
"""


@dataclass(frozen=True)
class House:
    """An app in which Ann, an administrator, and Bob sign in."""

    library: Library
    people: PeopleStore
    keys: KeyStore
    anns: str
    """Key of Ann's collection."""
    documents: dict[str, str]
    """Ids of the documents by collection."""
    chats: dict[str, str]
    """Ids of Ann's chats by collection."""
    traces: dict[str, str]
    """Ids of the questions in them."""

    def token(self, name: str) -> str:
        return self.people.sign_in(name, PASSWORD)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("house")
        patch.chdir(folder)
        for name, value in (("DATA_DIR", folder / "data"), ("RERANKER", "embedded"), ("AUTH", "password")):
            patch.setenv(f"RANK37_{name}", str(value))
        settings = Settings()
        mark_samples_done(settings.collection_dir)
        open_library.clear()
        sign_in._people.clear()
        people, keys = open_people_store(settings), open_key_store(settings)
        for name in ("ann", "bob"):
            people.add(name, PASSWORD)
        library = open_library()
        anns = library.create("Ann's papers", person="ann").key
        documents = {
            anns: add(library.open(anns, "ann"), folder, "ann.pdf", ANNS),
            "documents": add(library.open(), folder, "town.pdf", TOWN),
        }
        chats, traces = {}, {}
        for key, question in ((anns, ANNS_QUESTION), ("documents", TOWN_QUESTION)):
            result = asked(library.open(key, "ann"), question, "ann")
            chats[key] = library.chats.begin(question, collection=key, owner="ann").id
            library.chats.set_trace(library.chats.add_question(chats[key], question).id, result.trace.id)
            traces[key] = result.trace.id
        yield House(library, people, keys, anns, documents, chats, traces)
        library.close()
        people.close()
        keys.close()
        open_library.clear()
        sign_in._people.clear()


def asked(workspace: Workspace, question: str, person: str) -> Result:
    return workspace.recorder.answered(workspace.ask(question, person=person))


def session(house: House, name: str | None, page: str | None = None, **address: str) -> AppTest:
    """A browser's session: of the app itself, or of one of its pages."""
    if page is None:
        app = AppTest.from_file(str(APP), default_timeout=WAIT_S)
    else:
        app = AppTest.from_string(PAGE.format(page=page), default_timeout=WAIT_S)
    if name is not None:
        app.session_state["session token"] = house.token(name)
    for key, value in address.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


def everything(app: AppTest) -> str:
    """All that the browser was sent."""
    return "\n".join(str(getattr(element, "proto", "")) for element in app).replace("\\\\", "").replace("\\'", "'")


def seen(app: AppTest) -> list[str]:
    return [secret for secret in SECRETS if secret in everything(app)]


def addresses(house: House) -> dict[str, dict[str, str]]:
    """What Ann's browser shows in its address, which Bob types."""
    return {
        "collection": {"collection": house.anns},
        "chat": {"chat": house.chats[house.anns]},
        "chat in a collection of both": {"chat": house.chats["documents"]},
        "trace": {"trace": house.traces[house.anns]},
        "trace in its collection": {"trace": house.traces[house.anns], "collection": house.anns},
        "trace in a collection of both": {"trace": house.traces["documents"]},
        "all of them": {
            "collection": house.anns,
            "chat": house.chats[house.anns],
            "trace": house.traces[house.anns],
        },
    }


ADDRESSES = (
    "collection",
    "chat",
    "chat in a collection of both",
    "trace",
    "trace in its collection",
    "trace in a collection of both",
    "all of them",
)


# ---- signing in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDRESSES)
def test_before_signing_in_nothing_of_the_app_is_drawn(house: House, name: str) -> None:
    app = session(house, None, **addresses(house)[name])
    assert [title.value for title in app.title] == ["Sign in"]
    assert len(app.sidebar) == 0
    assert not app.chat_input
    assert seen(app) == []


def test_the_right_password_opens_the_app_and_signing_out_closes_it(house: House) -> None:
    app = session(house, None)
    app.text_input(key="sign_in_name").set_value("Bob")
    app.text_input(key="sign_in_password").set_value("not the password")
    app.button[0].click().run()
    assert "Name and password don’t fit together" in errors(app)
    assert [title.value for title in app.title] == ["Sign in"]
    app.text_input(key="sign_in_password").set_value(PASSWORD)
    app.button[0].click().run()
    assert [title.value for title in app.title] == ["Ask your documents"]
    assert PASSWORD not in everything(app)
    token = app.session_state["session token"]
    assert house.people.signed_in(token) is not None
    app.button(key="sign_out").click().run()
    assert [title.value for title in app.title] == ["Sign in"]
    assert house.people.signed_in(token) is None, "a copy of the cookie opens nothing"
    assert "visitor" not in app.session_state


def test_a_session_that_was_ended_elsewhere_shows_nothing_more(house: House) -> None:
    app = session(house, "ann", collection=house.anns)
    assert "Ann's papers" in seen(app)
    house.people.sign_out(app.session_state["session token"])
    app.run()
    assert [title.value for title in app.title] == ["Sign in"]
    assert "visitor" not in app.session_state
    assert "chat" not in app.session_state


def test_a_token_of_nobody_opens_nothing(house: House) -> None:
    app = AppTest.from_file(str(APP), default_timeout=WAIT_S)
    app.session_state["session token"] = "A" * 43
    assert [title.value for title in app.run().title] == ["Sign in"]


# ---- the pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDRESSES)
def test_no_address_brings_bob_to_what_is_anns(house: House, name: str) -> None:
    app = session(house, "bob", **addresses(house)[name])
    assert seen(app) == []
    assert not app.get("download_button"), "nothing to export"
    assert open_library().open("documents").key == app.session_state["collection"]


@pytest.mark.parametrize("name", ADDRESSES)
def test_the_same_address_brings_ann_there(house: House, name: str) -> None:
    app = session(house, "ann", **addresses(house)[name])
    assert seen(app) != []


@pytest.mark.parametrize("page", PAGES)
def test_no_page_tells_bob_of_ann(house: House, page: str) -> None:
    app = session(house, "bob", page, collection=house.anns, chat=house.chats[house.anns])
    assert not errors(app)
    assert seen(app) == []


@pytest.mark.parametrize("page", ["quality", "collections", "documents"])
def test_the_same_pages_tell_ann(house: House, page: str) -> None:
    app = session(house, "ann", page, collection=house.anns)
    assert seen(app) != []


def test_what_others_asked_of_a_common_collection_is_the_administrators(house: House) -> None:
    replay = 'data-testid="floor-in-use"'
    assert replay in html(session(house, "ann", "quality", collection="documents"))
    assert replay not in html(session(house, "bob", "quality", collection="documents"))


def test_bob_changes_nothing_that_holds_for_all(house: House) -> None:
    page = session(house, "bob", "settings_page")
    assert not [button for button in page.button if button.label.startswith("Save")]
    assert not [button for button in page.button if button.key in ("set_floor", "reset_floor")]
    anns = session(house, "ann", "settings_page")
    assert [button for button in anns.button if button.label.startswith("Save")]
    script = PAGE.format(page="settings_page") + (
        "with problems_shown():\n"
        "    settings_page.apply({'recall_limit': 7}, open_workspace())\n"
        "with problems_shown():\n"
        "    settings_page._set_floor(0.9, settings_page.floor_in_use(*[getattr(open_workspace(), 'settings'), "
        "open_workspace().engines.reranker, open_workspace().engines.embedder]), open_workspace())\n"
    )
    app = AppTest.from_string(script, default_timeout=WAIT_S)
    app.session_state["session token"] = house.token("bob")
    app.run()
    assert "only an administrator can change it" in errors(app)
    assert "is no one's: only an administrator can do this" in errors(app)
    assert house.library.settings.recall_limit == 100
    assert house.library.open().policy.floor == 0.4


def test_a_member_uses_a_collection_and_changes_nothing_of_it(house: House) -> None:
    house.library.share(house.anns, ["bob"], "ann")
    try:
        assert seen(session(house, "bob", collection=house.anns)) == ["Ann's papers"], "its title, and no question"
        collections = session(house, "bob", "collections")
        keys = {button.key for button in collections.button}
        assert f"open {house.anns}" in keys
        assert not keys & {f"{what} {house.anns}" for what in ("share", "rename", "delete")}
        documents = session(house, "bob", "documents", collection=house.anns)
        assert "Only the owner deletes documents" in "\n".join(one.value for one in documents.caption)
        for name in ("chat", "trace in its collection"):
            assert "What rent" not in seen(session(house, "bob", **addresses(house)[name])), "a chat is its owner's"
        assert "What rent" not in seen(session(house, "bob", "quality", collection=house.anns))
    finally:
        house.library.share(house.anns, [], "ann")
    assert seen(session(house, "bob", collection=house.anns)) == []


def test_ann_can_share_and_bob_can_not(house: House) -> None:
    assert f"share {house.anns}" in {button.key for button in session(house, "ann", "collections").button}
    assert house.library.share(house.anns, ["bob"], "ann").members == ("bob",)
    bobs_page = session(house, "bob", "collections")
    assert "shared with you" in "".join(element.value for element in [*bobs_page.caption, *bobs_page.markdown])
    assert f"share {house.anns}" not in {button.key for button in bobs_page.button}
    with pytest.raises(BadInput, match="only its owner"):
        house.library.share(house.anns, [], "bob")
    house.library.share(house.anns, [], "ann")
    with pytest.raises(BadInput, match="is no one's and open to everyone"):
        house.library.share("documents", [], "bob")


def test_a_new_collection_does_not_tell_that_another_has_its_title(house: House) -> None:
    bobs = house.library.create("Ann's papers", person="bob")
    try:
        base = house.anns.rsplit("-", 1)[0]
        assert bobs.key.rsplit("-", 1)[0] == base
        assert len(bobs.key) == len(house.anns), "no number that counts up"
    finally:
        house.library.delete(bobs.key, "bob")


def test_nothing_tells_bob_that_ann_asked_the_same(house: House) -> None:
    """A remembered score comes at once and is marked in exports: neither may tell of another person's question."""
    app = session(house, "bob")
    app.chat_input[0].set_value(TOWN_QUESTION).run()
    run_until(app, lambda: 'data-testid="answer"' in html(app) or 'data-testid="refusal"' in html(app))
    [card] = house.library.chats.chats(owner="bob")
    chat = house.library.chats.chat(card.id)
    store = house.library.open().recorder.store()
    assert chat is not None
    assert store is not None
    stored = store.trace(chat.questions[0].trace_id)
    assert stored is not None
    assert stored.trace.n_cached == 0
    again = asked(house.library.open(), TOWN_QUESTION, "bob")
    assert again.trace.n_cached == 1, "one passage, remembered for Bob himself"
    house.library.chats.delete(card.id)


# ---- API and MCP -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clients(house: House) -> Iterator[dict[str | None, httpx.Client]]:
    with serving(house.library, house.keys) as running:
        url = f"http://127.0.0.1:{running.port}"
        with httpx.Client(base_url=url) as nobody:
            before = nobody.get("/v1/collections").status_code
        made: dict[str | None, httpx.Client] = {None: httpx.Client(base_url=url, timeout=WAIT_S)}
        assert before == 401, "where people sign in, no key at all is no way in, on this machine neither"
        for name in ("ann", "bob"):
            text = house.keys.create(name, person=name)[1]
            made[name] = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {text}"}, timeout=WAIT_S)
        yield made
        for client in made.values():
            client.close()


def test_the_api_keeps_them_apart(house: House, clients: dict[str | None, httpx.Client]) -> None:
    paths = (
        f"/v1/documents?collection={house.anns}",
        f"/v1/documents/{house.documents[house.anns]}/pages/1?collection={house.anns}",
        f"/v1/documents/{house.documents[house.anns]}/pages/1",
        f"/v1/models/{house.anns}",
        f"/v1/traces?collection={house.anns}",
        f"/v1/traces/{house.traces[house.anns]}",
        f"/v1/traces/{house.traces['documents']}",
    )
    for path in paths:
        reply = clients["bob"].get(path)
        assert reply.status_code == 404, path
        assert not [secret for secret in SECRETS if secret in reply.text]
        assert clients[None].get(path).status_code == 401
        if "pages/1" not in path or "collection" in path:
            assert clients["ann"].get(path).is_success, path
    label = {"verdict": "good_answer"}
    assert clients["bob"].post(f"/v1/traces/{house.traces['documents']}/labels", json=label).status_code == 404


def test_mcp_keeps_them_apart(house: House, clients: dict[str | None, httpx.Client]) -> None:
    calls: dict[str, dict[str, Any]] = {
        "search": {"query": "What rent?", "collection": house.anns},
        "ask": {"question": "What rent?", "collection": house.anns},
        "fetch_page": {"document_id": house.documents[house.anns], "page": 1, "collection": house.anns},
    }
    for tool, arguments in calls.items():
        reply = call_tool(clients["bob"], tool, **arguments)
        assert reply.status_code == 404, tool
        assert "nine hundred" not in reply.text
        assert "nine hundred" in call_tool(clients["ann"], tool, **arguments).text
    assert "Ann's papers" not in call_tool(clients["bob"], "list_collections").text
    assert "Ann's papers" in call_tool(clients["ann"], "list_collections").text


def test_the_api_tells_nobody_what_another_asked(house: House, clients: dict[str | None, httpx.Client]) -> None:
    body = {"question": "Where are parking permits sold?", "collection": "documents"}
    cached = [clients[name].post("/v1/ask", json=body).json()["n_cached"] for name in ("ann", "bob", "ann", "bob")]
    assert cached == [0, 0, 1, 1], "the one passage is remembered for each apart"
    body = {"query": "Where are they sold?", "documents": ["Stamps are sold at the post office."]}
    for name in ("ann", "bob"):
        assert clients[name].post("/v1/rerank", json=body).is_success


# ---- quotas, and where the app listens -------------------------------------------------------------------------------


def test_an_upload_beyond_the_quota_is_refused_with_the_limit(
    house: House, clients: dict[str | None, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_mb = 0.05
    monkeypatch.setattr(house.library, "settings", house.library.settings.model_copy(update={"quota_mb": limit_mb}))
    mine = house.library.create("Bob's shed", person="bob").key
    too_much = b"%PDF-1.7" + b"x" * int(limit_mb * 1e6)
    reply = clients["bob"].post("/v1/documents", params={"collection": mine}, files={"file": ("x.pdf", too_much)})
    assert reply.status_code == 400
    assert "the file has 0.1 MB and bob's collections hold 0.0 MB of files already" in reply.text
    assert "the limit is 0.05 MB (RANK37_QUOTA_MB)" in reply.text
    workspace = house.library.open(mine, "bob")
    with pytest.raises(BadInput, match="RANK37_QUOTA_MB"):
        workspace.submit("x.pdf", too_much, "bob")
    assert workspace.queue.jobs() == []
    with pytest.raises(BadInput, match="is no one's, so no one's quota has room"):
        house.library.open("documents", "bob").submit("x.pdf", b"%PDF-1.7", "bob")
    workspace.submit("small.txt", b"Three goats are in the shed.", "bob")
    assert workspace.queue.wait(WAIT_S)
    house.library.delete(mine, "bob")


@pytest.mark.parametrize(
    ("address", "settings", "listens"),
    [
        ("127.0.0.1", {}, True),
        ("localhost", {}, True),
        ("0.0.0.0", {}, False),
        ("", {}, False),
        ("192.168.1.7", {}, False),
        ("0.0.0.0", {"auth": "password"}, True),
        ("0.0.0.0", {"auth": "oidc"}, True),
        ("0.0.0.0", {"allow_open": True}, True),
    ],
)
def test_beyond_this_machine_the_app_wants_people_to_sign_in(
    monkeypatch: pytest.MonkeyPatch, address: str, settings: dict[str, Any], listens: bool
) -> None:
    monkeypatch.setattr("ui.sign_in.st.get_option", {"server.address": address}.get)
    wanted = Settings(**{"auth": "none", **settings})
    if listens:
        check_address(wanted)
        return
    with pytest.raises(BadInput, match="RANK37_AUTH=password.*RANK37_ALLOW_OPEN=1"):
        check_address(wanted)
