"""The Settings page without a browser: what is in use, what can be changed, and keys that are never shown again."""

from __future__ import annotations

import logging
import stat

import pytest
from streamlit.testing.v1 import AppTest

from rag.errors import BadInput
from rag.saved_settings import SAVED_FILE, read_saved
from rag.settings import Settings
from rag.wiring import floor_in_use
from tests.ui.test_app_states import WAIT_S, errors, html, settings
from ui.settings_page import apply
from ui.workspace import open_library

__all__ = ["settings"]

KEY = "sk-a-secret-key"
SCRIPT = """
import streamlit as st
from ui import settings_page
from ui.problems import problems_shown
with problems_shown():
    settings_page.show()
"""


@pytest.fixture
def page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.delenv("RANK37_RERANKER")
    return AppTest.from_string(SCRIPT, default_timeout=WAIT_S).run()


def everything(page: AppTest) -> str:
    """All that the page was sent."""
    return "\n".join(str(getattr(element, "proto", "")) for element in page)


def field(page: AppTest, label: str) -> object:
    return next(one for one in [*page.text_input, *page.number_input, *page.selectbox] if one.label == label)


def save(page: AppTest) -> None:
    next(button for button in page.button if button.label.startswith("Save")).click().run()
    assert not page.exception


def test_it_shows_what_is_in_use_and_every_service_answers(page: AppTest) -> None:
    shown = html(page)
    for name in ("all-MiniLM-L6-v2", "minilm-reranker-v1", "Qdrant Edge", "0.40", "no LLM is configured"):
        assert name.lower() in shown.lower()
    page.button(key="try_connections").click().run()
    assert not page.error
    said = "\n".join(one.value for one in page.success).replace("\\", "")
    assert "puts the passage that answers before the one that does not" in said
    assert "embeds a question as 384 numbers" in said
    assert len(page.success) == 6


def test_a_change_is_used_at_once_and_kept(page: AppTest, settings: Settings) -> None:
    field(page, "Passages recalled").set_value(40)
    field(page, "Reranker").set_value("none")
    field(page, "Address").set_value("http://localhost:9/v1")
    field(page, "Model").set_value("llama")
    field(page, "Key").set_value(KEY)
    save(page)
    assert not page.error, errors(page)
    assert "Saved" in page.success[0].value
    library = open_library()
    assert library.settings.recall_limit == 40
    workspace = library.open()
    assert workspace.engines.reranker.info.name != "minilm-reranker-v1"
    assert workspace.engines.llm is not None
    assert workspace.engines.llm.info.name == "llama"
    path = settings.data_dir / SAVED_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_saved(settings.data_dir)["openai_api_key"] == KEY


def test_a_key_is_never_drawn_again_nor_logged(page: AppTest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    field(page, "Address").set_value("http://localhost:9/v1")
    field(page, "Key").set_value(KEY)
    save(page)
    page.run()
    assert KEY not in everything(page)
    assert KEY not in caplog.text
    assert "a key is in use" in field(page, "Key").placeholder


def test_a_key_follows_no_new_address_and_can_be_forgotten(page: AppTest, settings: Settings) -> None:
    workspace = open_library().open()
    apply({"openai_base_url": "http://localhost:9/v1", "openai_api_key": KEY}, workspace)
    apply({"openai_base_url": "http://localhost:9/v1", "openai_api_key": None, "recall_limit": 30}, workspace)
    assert read_saved(settings.data_dir)["openai_api_key"] == KEY, "one that is not typed again stays"
    said = apply({"openai_base_url": "http://elsewhere.example/v1", "openai_api_key": None}, workspace)
    assert "key was forgotten" in said
    assert "openai_api_key" not in read_saved(settings.data_dir)
    assert workspace.library.settings.openai_api_key is None


def test_what_can_not_be_used_changes_nothing(page: AppTest, settings: Settings) -> None:
    workspace = open_library().open()
    before = workspace.library.settings
    with pytest.raises(BadInput, match="recall_limit can't be used"):
        apply({"recall_limit": 0}, workspace)
    with pytest.raises(BadInput, match="begins with http"):
        apply({"openai_base_url": "file:///etc/passwd"}, workspace)
    with pytest.raises(BadInput):
        apply({"reranker": "promoted"}, workspace)
    assert workspace.library.settings == before
    assert not (settings.data_dir / SAVED_FILE).exists()


def test_the_environment_is_shown_as_such_and_not_editable(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RANK37_FLOOR", "0.3")
    page = AppTest.from_string(SCRIPT, default_timeout=WAIT_S).run()
    locked = "\n".join(one.value for one in page.info)
    for variable in ("OPENAI_API_KEY", "RANK37_RERANKER", "RANK37_FLOOR"):
        assert variable in locked
    assert field(page, "Reranker").disabled
    assert field(page, "Key").disabled
    assert field(page, "Address").disabled, "a key of the environment goes to no address typed here"
    assert field(page, "Lowest score").disabled
    assert KEY not in everything(page)
    workspace = open_library().open()
    apply({"openai_base_url": "http://elsewhere.example/v1", "reranker": "none"}, workspace)
    assert workspace.library.settings.reranker == "embedded", "what the environment sets stays"


def test_the_floor_is_set_for_this_collection_and_reset(page: AppTest) -> None:
    field(page, "Lowest score").set_value(0.55).run()
    page.button(key="set_floor").click().run()
    workspace = open_library().open()
    now = floor_in_use(workspace.settings, workspace.engines.reranker, workspace.engines.embedder)
    assert (now.value, now.source) == (0.55, "stored")
    assert "Set by hand" in html(page)
    page.button(key="reset_floor").click().run()
    assert workspace.policy.floor == 0.4
