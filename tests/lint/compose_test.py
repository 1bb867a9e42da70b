"""What docker-compose.yml, the Dockerfile and nginx.conf name exists: they must not rot where Docker is not at hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

_root = Path(__file__).resolve().parents[2]
_compose: dict[str, Any] = yaml.safe_load((_root / "docker-compose.yml").read_text())
_services: dict[str, dict[str, Any]] = _compose["services"]
_dockerfile = (_root / "infra" / "docker" / "Dockerfile").read_text()
_nginx = (_root / "infra" / "docker" / "nginx.conf").read_text()

_programs = ("tidemark-api", "tidemark-consumer", "tidemark-producer")
_health_paths = ("/livez", "/readyz", "/startupz", "/health")


def _ours() -> dict[str, dict[str, Any]]:
    """The services that run one of our programs."""
    return {name: service for name, service in _services.items() if "build" in service}


def _known_settings(program: str) -> set[str]:
    """The variables a program takes, by its example settings file (which another test holds against its --help)."""
    example = _root / "infra" / "dev" / "settings" / f"{program.removeprefix('tidemark-')}.toml.example"
    names = re.findall(r"^#? ?([a-z][a-z0-9-]*) = ", example.read_text(), re.MULTILINE)
    return {f"TIDEMARK_{name.upper().replace('-', '_')}" for name in names}


@pytest.mark.parametrize("service", _services)
def test_every_image_is_pinned_or_built_here(service: str) -> None:
    image = _services[service]["image"]
    if service in _ours():
        build = _services[service]["build"]
        assert (_root / build["dockerfile"]).is_file()
        assert build["target"] in re.findall(r"^FROM \S+ AS (\S+)$", _dockerfile, re.MULTILINE)
        assert set(build["args"]) <= set(re.findall(r"^ARG (\w+)", _dockerfile, re.MULTILINE))
        assert "${VERSION" in image and "${COMMIT" in image
    else:
        assert re.search(r":\d+\.\d+(\.\d+)?(-[a-z]+)?$", image), f"{image} is not pinned to a version"


def test_the_image_is_built_from_pinned_bases_and_runs_as_nobody_special() -> None:
    for base in re.findall(r"^FROM (\S+)", _dockerfile, re.MULTILINE):
        assert re.search(r":\d+\.\d+", base), f"{base} is not pinned to a version"
    users = re.findall(r"^USER (\d+)$", _dockerfile, re.MULTILINE)
    assert users and int(users[-1]) >= 1000
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", _dockerfile, re.MULTILINE):
        assert all((_root / path).exists() for path in source.split()), f"COPY {source}"
    ignored = (_root / ".dockerignore").read_text().split()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", _dockerfile, re.MULTILINE):
        assert all(f"!{path.split('/')[0]}" in ignored for path in source.split()), (
            f"{source} is not let into the build"
        )


@pytest.mark.parametrize("service", _ours())
def test_every_service_of_ours_runs_a_program_with_settings_that_it_has(service: str) -> None:
    command, environment = _services[service]["command"], _services[service]["environment"]
    assert command[0] in _programs
    known = _known_settings(command[0])
    assert set(environment) <= known, f"unknown to {command[0]}: {set(environment) - known}"


@pytest.mark.parametrize("service", [name for name in _services if name != "migrate"])
def test_every_service_that_stays_has_a_health_check_and_comes_back(service: str) -> None:
    assert _services[service]["restart"] == "unless-stopped"
    assert _services[service]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("service", [name for name in _services if "curl" in str(_services[name].get("healthcheck"))])
def test_every_health_path_exists_where_it_is_asked_for(service: str) -> None:
    url = _services[service]["healthcheck"]["test"][-1]
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.*)", url)
    assert found and found[2] in _health_paths
    port = {
        "nginx": re.findall(r"listen (\d+);", _nginx)[0],
        "tidemark-api": str(_services[service].get("environment", {}).get("TIDEMARK_LISTEN", ":3333")).split(":")[-1],
        "tidemark-consumer": "3334",
    }[service if service == "nginx" else _services[service]["command"][0]]
    assert found[1] == port


def test_nginx_knows_the_apis_by_name_and_nothing_else_is_published() -> None:
    upstreams = re.findall(r"^\s*server ([\w-]+):(\d+)", _nginx, re.MULTILINE)
    assert {name for name, _ in upstreams} == {
        name for name in _ours() if _services[name]["command"][0] == "tidemark-api"
    }
    assert {port for _, port in upstreams} == {"3333"}
    published = {name: service["ports"] for name, service in _services.items() if "ports" in service}
    assert list(published) == ["nginx"]
    assert all(port.startswith("127.0.0.1:") for port in published["nginx"])


def test_consumers_have_distinct_names_in_the_group() -> None:
    consumers = [service for service in _ours().values() if service["command"] == ["tidemark-consumer", "run"]]
    names = {(service["hostname"], service["environment"]["TIDEMARK_SLOT"]) for service in consumers}
    assert len(names) == len(consumers) == 2


def test_every_mounted_file_and_named_dependency_exists() -> None:
    for name, service in _services.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (_root / source).is_file() if source.startswith(".") else source in _compose["volumes"], name
        for other, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in _services[other], f"{name} waits for {other} to be healthy"


def test_every_variable_is_explained_in_the_example_and_no_secret_has_a_default() -> None:
    text = (_root / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    explained = set(re.findall(r"^(\w+)=", (_root / ".env.example").read_text(), re.MULTILINE))
    assert used == explained
    for name, rest in re.findall(r"\$\{(\w+)([^}]*)\}", text):
        assert rest.startswith(":?") == name.endswith("PASSWORD"), f"${{{name}{rest}}}"
