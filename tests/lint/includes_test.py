"""Who may include whom, as ARCHITECTURE.md draws it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_root = Path(__file__).resolve().parents[2]

# The folders that a folder's files may include, besides itself. infra's subfolders know `base` and not each other.
_may_include = {
    "schemas": (),
    "infra/base": (),
    "infra/kafka": ("infra/base",),
    "infra/postgres": ("infra/base",),
    "infra/http": ("infra/base",),
    "producer": ("schemas", "infra"),
    "consumers": ("schemas", "infra"),
    "api": ("schemas", "infra", "producer"),
}

# Each library has one folder, or one file, that knows it; everybody else goes through that.
_owner = {
    "librdkafka/": "infra/kafka/",
    "pqxx/": "infra/postgres/",
    "libpq-fe.h": "infra/postgres/",
    "boost/": "infra/http/",
    "rapidjson/": "schemas/json.cpp",
    "spdlog/": "infra/base/",
    "CLI/": "infra/base/",
    "prometheus/": "infra/base/",
    "sodium.h": "",
}

_include = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)


def violations(sources: dict[str, str]) -> list[str]:
    """What is wrong with files given by path and text; tests may include anything."""
    includes = {path: _include.findall(text) for path, text in sources.items()}
    # Headers that show a library to whoever includes them.
    revealing = {
        path
        for path, found in includes.items()
        if path.endswith(".h") and any(angled and _library(angled) for _, angled in found)
    }
    wrong = []
    for path, found in sorted(includes.items()):
        here = _folder(path)
        for quoted, angled in found:
            if quoted:
                if quoted not in sources:
                    wrong.append(f'{path}: "{quoted}" is no file of the repository; paths start at its root')
                elif not _folder(quoted).startswith((here, *_may_include[here])):
                    wrong.append(f"{path}: {here} must not include {_folder(quoted)} ({quoted})")
                elif quoted in revealing and _folder(quoted) != here:
                    wrong.append(f"{path}: {quoted} is private to {_folder(quoted)}: it shows a library's types")
            elif library := _library(angled):
                if not path.startswith(_owner[library]):
                    wrong.append(f"{path}: only {_owner[library]} may include <{angled}>")
            elif not _is_system(angled):
                wrong.append(f"{path}: <{angled}> belongs to nobody; name its owner in this test")
    return wrong


def _folder(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "infra" else parts[0]


def _library(header: str) -> str:
    return next((library for library in _owner if header.startswith(library)), "")


def _is_system(header: str) -> bool:
    """Of the C++ library, of C, of POSIX or of Linux."""
    posix = "arpa/ bits/ linux/ net/ netinet/ sys/ dirent.h fcntl.h netdb.h poll.h pthread.h sched.h signal.h unistd.h"
    c11 = "threads.h"
    return "." not in header or header.startswith((c11, *posix.split()))


def _sources() -> dict[str, str]:
    found = [
        path for folder in ("schemas", "infra", "producer", "consumers", "api") for path in (_root / folder).rglob("*")
    ]
    return {str(path.relative_to(_root)): path.read_text() for path in found if path.suffix in (".h", ".cpp")}


def test_every_file_includes_only_what_its_folder_may() -> None:
    sources = _sources()
    assert len(sources) > 20, "the sources are not where this test looks for them"
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("path", "include", "complaint"),
    [
        ("schemas/event.cpp", '"infra/base/clock.h"', "must not include infra/base"),
        ("infra/kafka/producer.cpp", '"schemas/event.h"', "must not include schemas"),
        ("infra/kafka/producer.cpp", '"infra/http/server.h"', "must not include infra/http"),
        ("producer/main.cpp", '"consumers/fold.h"', "must not include consumers"),
        ("consumers/main.cpp", '"producer/publisher.h"', "must not include producer"),
        ("api/main.cpp", '"consumers/fold.h"', "must not include consumers"),
        ("api/main.cpp", '"event.h"', "is no file of the repository"),
        ("api/main.cpp", "<boost/asio.hpp>", "only infra/http/ may include"),
        ("consumers/main.cpp", "<pqxx/pqxx>", "only infra/postgres/ may include"),
        ("schemas/event.cpp", "<rapidjson/reader.h>", "only schemas/json.cpp may include"),
        ("consumers/main.cpp", "<librdkafka/rdkafka.h>", "only infra/kafka/ may include"),
        ("consumers/main.cpp", '"infra/kafka/handle.h"', "is private to infra/kafka"),
        ("api/main.cpp", "<curl/curl.h>", "belongs to nobody"),
    ],
)
def test_a_forbidden_include_is_found(path: str, include: str, complaint: str) -> None:
    sources = dict.fromkeys(
        ["schemas/event.h", "infra/base/clock.h", "infra/http/server.h", "consumers/fold.h", "producer/publisher.h"], ""
    )
    sources["infra/kafka/handle.h"] = "#include <librdkafka/rdkafka.h>\n"
    sources[path] = f"#include <vector>\n#include {include}\n"

    found = violations(sources)

    assert len(found) == 1 and complaint in found[0]
