"""Settings: the environment wins over defaults, arguments over the environment; bad values are named with a remedy."""

from pathlib import Path

import pytest

from rag.errors import BadInput
from rag.settings import Settings, load_settings


def test_every_default_works_without_any_configuration() -> None:
    settings = load_settings()
    assert settings.qdrant_url is None
    assert settings.openai_api_key is None
    assert settings.reranker is None
    assert (settings.recall_limit, settings.floor, settings.answer_limit) == (100, 0.4, 5)
    assert settings.policy.floor == settings.floor


def test_the_environment_wins_over_defaults_and_arguments_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK37_FLOOR", "0.25")
    monkeypatch.setenv("RANK37_COLLECTION", "manuals")
    monkeypatch.setenv("QDRANT_URL", "http://localhost:6333")
    settings = load_settings(collection="papers", data_dir=None)
    assert (settings.floor, settings.collection, settings.qdrant_url) == (0.25, "papers", "http://localhost:6333")


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    monkeypatch.setenv("RANK37_FLOOR", "")
    assert load_settings().openai_api_key is None
    assert load_settings().floor == 0.4


@pytest.mark.parametrize(
    ("name", "value", "limit"),
    [
        ("RANK37_FLOOR", "1.5", "less than or equal to 1"),
        ("RANK37_RECALL_LIMIT", "0", "greater than or equal to 1"),
        ("RANK37_RECALL_LIMIT", "many", "valid integer"),
        ("RANK37_COLLECTION", "../secrets", "letters, digits"),
        ("RANK37_COLLECTION", "a" * 64, "1 to 63"),
    ],
)
def test_a_bad_value_is_named_with_its_limit(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, limit: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput) as raised:
        load_settings()
    assert value in str(raised.value)
    assert limit in str(raised.value)


def test_keys_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("QDRANT_API_KEY", "also-secret")
    settings = load_settings()
    assert "secret" not in repr(settings)
    assert "secret" not in str(settings.model_dump())


def test_the_readme_names_every_setting() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variables = [str(choice) for choice in alias.choices] if alias is not None else []  # type: ignore[union-attr]  # AliasChoices
        assert any(f"`{variable}`" in readme for variable in [*variables, f"RANK37_{name.upper()}"]), name
