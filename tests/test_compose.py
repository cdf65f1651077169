"""docker-compose.yml in all its profiles: the file is valid, and the program takes the settings that it passes on."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag.settings import load_settings

ROOT = Path(__file__).resolve().parent.parent


def compose_command() -> list[str]:
    """The compose that is installed; it needs no engine to read a file."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") and not subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return ["docker", "compose"]
    pytest.skip("docker compose is not installed (.ci/run installs it)")


def resolved(*options: str) -> dict[str, Any]:
    """The file as compose understands it, every variable filled in."""
    done = subprocess.run(
        [*compose_command(), *options, "config"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = yaml.safe_load(done.stdout)
    return value


def app_settings(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in config["services"]["app"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(ROOT / "tests")  # away from a developer's .env
    return load_settings()


def test_the_default_is_the_app_and_one_qdrant(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved()
    services = [name for name, service in config["services"].items() if not service.get("profiles")]
    assert sorted(services) == ["app", "qdrant"]
    assert (ROOT / config["services"]["app"]["build"]["dockerfile"]).is_file()
    settings = app_settings(config, monkeypatch)
    assert settings.qdrant_url == "http://qdrant:6333"
    assert settings.qdrant_replicas is None
    assert settings.reranker is None
    for name in ("app", "qdrant"):
        assert all("127.0.0.1" in str(port) for port in config["services"][name]["ports"]), "only this machine gets in"


def test_a_cluster_survives_the_loss_of_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved("--env-file", ".docker/cluster.env", "--profile", "cluster")
    nodes = {name: service for name, service in config["services"].items() if name.startswith("qdrant")}
    assert len(nodes) == 3
    for node in nodes.values():
        assert node["environment"]["QDRANT__CLUSTER__ENABLED"] == "true"
        assert len(node["volumes"]) == 1
    volumes = {str(volume) for node in nodes.values() for volume in node["volumes"]}
    assert len(volumes) == len(nodes), "each node has a disk of its own"
    settings = app_settings(config, monkeypatch)
    assert 1 < settings.qdrant_replicas < len(nodes)
    assert settings.qdrant_write_consistency <= settings.qdrant_replicas
    assert settings.qdrant_shards % len(nodes) == 0, "every node has as much to do"
    for url in (settings.database_url, settings.traces_url):
        assert url.get_secret_value().startswith("postgresql://rank37:")
        assert config["services"]["postgres"]["environment"]["POSTGRES_PASSWORD"] in url.get_secret_value()


def test_a_gpu_serves_the_reranker(monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolved("--env-file", ".docker/gpu.env", "--profile", "gpu")
    settings = app_settings(config, monkeypatch)
    assert settings.reranker == "service"
    command = config["services"]["reranker"]["command"]
    assert settings.rerank_model in command
    assert settings.rerank_url == f"http://reranker:{command[command.index('--port') + 1]}"
    [device] = config["services"]["reranker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
