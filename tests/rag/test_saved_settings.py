"""What is changed in the app is kept across restarts, for its owner's eyes alone; the environment wins over it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from rag.errors import BadInput
from rag.saved_settings import CHANGEABLE, SAVED_FILE, read_saved, save
from rag.settings import Settings, load_settings, set_in_environment

KEY = "sk-a-secret-key"


def test_what_is_saved_is_in_use_after_a_restart(tmp_path: Path) -> None:
    assert read_saved(tmp_path / "new") == {}
    save(tmp_path / "new", {"recall_limit": 50, "reranker": "none", "openai_api_key": KEY, "rerank_depth": None})
    assert read_saved(tmp_path / "new") == {"recall_limit": 50, "reranker": "none", "openai_api_key": KEY}
    settings = load_settings(data_dir=tmp_path / "new")
    assert (settings.recall_limit, settings.reranker, settings.answer_limit) == (50, "none", 5)
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == KEY
    assert KEY not in repr(settings)


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, {"recall_limit": 50, "openai_model": "saved"})
    monkeypatch.setenv("OPENAI_MODEL", "of-the-environment")
    monkeypatch.setenv("RANK37_DATA_DIR", str(tmp_path))
    settings = load_settings()
    assert (settings.recall_limit, settings.openai_model) == (50, "of-the-environment")
    assert {"openai_model", "data_dir"} <= set_in_environment()
    assert "recall_limit" not in set_in_environment()
    assert load_settings(recall_limit=7).recall_limit == 7, "an option of a command wins over both"


def test_only_its_owner_can_read_the_file(tmp_path: Path) -> None:
    save(tmp_path, {"openai_api_key": KEY})
    (tmp_path / SAVED_FILE).chmod(0o644)
    save(tmp_path, {"openai_api_key": KEY})
    assert stat.S_IMODE((tmp_path / SAVED_FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [SAVED_FILE], "nothing unfinished is left"


def test_a_file_that_can_not_be_used_is_named_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / SAVED_FILE
    path.write_text('{"openai_api_key": "' + KEY)
    with pytest.raises(BadInput, match=r"settings\.json can't be read") as damaged:
        load_settings(data_dir=tmp_path)
    assert KEY not in str(damaged.value)
    path.write_text(json.dumps({"floor": 0.1}))
    with pytest.raises(BadInput, match="names floor"):
        load_settings(data_dir=tmp_path)
    path.write_text(json.dumps({"recall_limit": 0}))
    with pytest.raises(BadInput, match="recall_limit"):
        load_settings(data_dir=tmp_path)


def test_only_what_the_app_can_change_is_saved(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="data_dir can't be changed"):
        save(tmp_path, {"data_dir": "elsewhere"})
    assert set(CHANGEABLE) <= set(Settings.model_fields)
