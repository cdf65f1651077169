"""From RANK37_RERANKER to an open reranker, and the list of all of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from rag.__main__ import main
from rag.engines.cross_encoder import EMBEDDED_RERANKER_FOLDER, CrossEncoderReranker
from rag.errors import BadInput
from rag.settings import Settings, load_settings
from rag.types import Passage
from rag.wiring import list_rerankers, open_named_reranker, open_rerankers
from tests.contracts.tiny_models import CORPUS, save_cross_encoder
from tests.rag.faulty_llm_server import FaultyLLMServer
from tests.rag.ranking_llm import true_order
from tests.rag.rerank_servers import KEY, MODEL, RerankServer

QUERY = "How long is the waiting period for critical illness?"
PASSAGES = [Passage(str(number), text) for number, text in enumerate(CORPUS)]


def settings_of(tmp_path: Path, reranker: str | None, **more: object) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path, reranker=reranker, **more)  # type: ignore[arg-type]


@pytest.fixture
def services(embedded_reranker: CrossEncoderReranker) -> Iterator[dict[str, RerankServer]]:
    with (
        RerankServer("cohere", embedded_reranker) as cohere,
        RerankServer("jina", embedded_reranker) as jina,
        RerankServer("tei", embedded_reranker) as tei,
    ):
        yield {"cohere": cohere, "jina": jina, "tei": tei}


@pytest.mark.parametrize(
    ("reranker", "name"),
    [
        (None, EMBEDDED_RERANKER_FOLDER.name),
        ("embedded", EMBEDDED_RERANKER_FOLDER.name),
        ("none", "none"),
        (f"cohere:{MODEL}", f"Cohere {MODEL}"),
        (f"jina:{MODEL}", f"Jina {MODEL}"),
        ("service", MODEL),
        ("colbert", "sentence-transformers/all-MiniLM-L6-v2 tokens"),
        ("rank-gpt", "RankGPT with gpt-4o-mini"),
        ("cascade:none,embedded", f"{EMBEDDED_RERANKER_FOLDER.name} after none"),
        (f"cascade:embedded,cohere:{MODEL}", f"Cohere {MODEL} after {EMBEDDED_RERANKER_FOLDER.name}"),
        ("cascade:colbert, service", f"{MODEL} after sentence-transformers/all-MiniLM-L6-v2 tokens"),
    ],
)
def test_every_kind_is_opened_by_its_setting_and_scores(
    tmp_path: Path,
    services: dict[str, RerankServer],
    embedded_reranker: CrossEncoderReranker,
    reranker: str | None,
    name: str,
) -> None:
    with FaultyLLMServer(true_order(embedded_reranker)) as llm:
        settings = settings_of(
            tmp_path,
            reranker,
            cohere_api_key=SecretStr(KEY),
            cohere_url=services["cohere"].url,
            jina_api_key=SecretStr(KEY),
            jina_url=services["jina"].url,
            rerank_url=services["tei"].url,
            openai_base_url=llm.base_url,
        )
        opened, sentence_scorer = open_rerankers(settings)
        relevances = opened.score(QUERY, PASSAGES)
        assert opened.info.name == name
        assert opened.info.sends_data_to == ""
        assert max(range(6), key=lambda number: relevances[number].order) == 0
        assert (relevances[0].score or 0) > 0.4
        assert sentence_scorer.score(QUERY, PASSAGES[:1])[0].score is not None


def test_a_service_s_scores_are_remembered_from_one_start_to_the_next(
    tmp_path: Path, services: dict[str, RerankServer]
) -> None:
    settings = settings_of(tmp_path, "service", rerank_url=services["tei"].url)
    open_rerankers(settings)[0].score(QUERY, PASSAGES)
    again, _ = open_rerankers(settings)
    assert again.info.name == MODEL
    services["tei"].mode = "server_error"
    assert all(one.cached for one in again.score(QUERY, PASSAGES))


def test_a_service_that_is_down_at_the_start_is_asked_at_the_question(
    tmp_path: Path, services: dict[str, RerankServer]
) -> None:
    services["tei"].mode = "bad_request"
    opened, _ = open_rerankers(settings_of(tmp_path, "service", rerank_url=services["tei"].url))
    services["tei"].mode = "serves"
    assert len(opened.score(QUERY, PASSAGES)) == len(PASSAGES)
    assert opened.info.name == MODEL


def test_any_folder_is_a_cross_encoder(tmp_path: Path) -> None:
    folder = save_cross_encoder(tmp_path / "tiny", "bert")
    opened, sentence_scorer = open_rerankers(settings_of(tmp_path, str(folder)))
    assert opened.info.name == "tiny"
    assert len({one.score for one in opened.score(QUERY, PASSAGES)}) > 1
    assert opened.score(QUERY, PASSAGES)[0].cached
    assert sentence_scorer.info.name == EMBEDDED_RERANKER_FOLDER.name


@pytest.mark.parametrize(
    ("reranker", "message"),
    [
        ("none:please", "'none' stands alone"),
        ("service:http://127.0.0.1", "'service' stands alone"),
        ("cascade:embedded", "names no two rerankers"),
        ("cascade:embedded,", "names no two rerankers"),
        ("cascade:embedded,cascade:none,embedded", "names no two rerankers"),
        ("cascade:embedded,none", "none only orders.*put it first"),
        ("cascade:embedded,colbert", "colbert only orders"),
        ("./no such folder", "no folder on this machine"),
    ],
)
def test_a_setting_that_can_t_be_meant_is_refused(tmp_path: Path, reranker: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        open_rerankers(settings_of(tmp_path, reranker))


def test_a_cascade_reads_as_deep_as_the_settings_say(tmp_path: Path) -> None:
    opened = open_named_reranker("cascade:none,embedded", settings_of(tmp_path, None, rerank_depth=2))
    assert [one.score is None for one in opened.score(QUERY, PASSAGES)] == [False] * 2 + [True] * 4


def test_the_gate_reads_as_many_as_an_answer_can_rest_on(tmp_path: Path) -> None:
    opened, _ = open_rerankers(settings_of(tmp_path, "none", answer_limit=6))
    assert all(one.score is not None for one in opened.score(QUERY, PASSAGES))


def test_keys_are_read_from_the_environment_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CO_API_KEY", "cohere-secret")
    monkeypatch.setenv("JINA_API_KEY", "jina-secret")
    monkeypatch.setenv("RANK37_RERANK_KEY", "service-secret")
    settings = load_settings()
    assert settings.cohere_api_key is not None
    assert settings.cohere_api_key.get_secret_value() == "cohere-secret"
    assert "secret" not in repr(settings).replace("SecretStr", "")


def test_the_cache_can_be_turned_off(tmp_path: Path) -> None:
    opened, _ = open_rerankers(settings_of(tmp_path, "embedded", rerank_cache_mb=0))
    opened.score(QUERY, PASSAGES)
    assert not any(one.cached for one in opened.score(QUERY, PASSAGES))
    assert not (tmp_path / "cache").exists()


def states(tmp_path: Path, **more: object) -> dict[str, tuple[str, str]]:
    rows = list_rerankers(settings_of(tmp_path, more.pop("reranker", None), **more))  # type: ignore[arg-type]
    return {row.setting: (row.state, row.remedy or row.data) for row in rows}


def test_the_list_says_of_each_what_it_needs(tmp_path: Path) -> None:
    listed = states(tmp_path)
    assert listed["embedded"] == ("ready", "stays on this machine")
    assert listed["none"][0] == listed["colbert"][0] == "ready"
    assert listed["BAAI/bge-reranker-large"] == ("needs hub", "python -m rag models fetch BAAI/bge-reranker-large")
    assert listed["cohere[:model]"] == ("needs key", "set COHERE_API_KEY")
    assert listed["jina[:model]"] == ("needs key", "set JINA_API_KEY")
    assert listed["service"] == ("needs service", "set RANK37_RERANK_URL")
    assert listed["rank-gpt"][0] == "needs LLM"


def test_the_list_asks_a_configured_service(tmp_path: Path, services: dict[str, RerankServer]) -> None:
    assert states(tmp_path, rerank_url=services["tei"].url)["service"] == ("ready", "stays on this machine")
    services["tei"].stop()
    state, remedy = states(tmp_path, rerank_url=services["tei"].url)["service"]
    assert state == "needs service"
    assert "can't be reached" in remedy
    assert states(tmp_path, rerank_url="gpu")["service"][0] == "needs service"


def test_with_keys_it_says_where_passages_go(tmp_path: Path) -> None:
    listed = states(tmp_path, cohere_api_key=SecretStr(KEY), openai_api_key=SecretStr(KEY))
    assert listed["cohere[:model]"] == ("ready", "goes to api.cohere.com")
    assert listed["rank-gpt"] == ("ready", "goes to api.openai.com")


def test_the_command_prints_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK37_RERANKER", "jina:jina-reranker-m0")
    monkeypatch.setenv("JINA_API_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["rerankers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["setting"] for row in rows if row["named"]] == ["jina[:model]"]
    assert main(["rerankers"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "▶ │ jina[:model]",
        "goes to api.jina.ai",
        "needs key: set COHERE_API_KEY",
        "cascade:<first>,<second>",
    ):
        assert text in printed
    assert KEY not in printed + json.dumps(rows)
