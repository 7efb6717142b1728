"""Mutations: each is drawn from ``--fuzz-seed``, the test's name and its number, so that one that failed can be run alone."""

from __future__ import annotations

import copy
import random
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MEMORY_BYTES = 3 << 30
"""More than a test may ask for beyond what its process has: a size of 2^40 must be refused, not try its luck."""

HOSTILE: list[Any] = [
    -1, 0, 1, 2, 3, 7, -(2**31), 2**31, 2**32 + 1, 2**53 + 1, 2**63 - 1, 10**30, -0.0, 0.1, -0.5, 1.0, 1.5, 1e-300, 1e300,
    float("inf"), float("-inf"), float("nan"), True, False, "", " ", "none", "0", "é", "a\tb", "x" * 2000, "../..", "/dev/null",
    "json:dumps", "math:sqrt", "no_such_module:f", "json:nothing", ":", [], [0], [0, 0], [-1], [1.5], [2**40], ["a"], [[]],
    {}, {"kind": "none"}, {"kind": 3}, {"a": 1}, [{}],
]  # fmt: skip
"""Values of every type, small enough to be worked with, or so large that they can't be."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of ``trial`` runs ``--fuzz-count`` times; where its module says SHARE, so many of a thousand of that."""
    if "trial" in metafunc.fixturenames:
        count = metafunc.config.getoption("--fuzz-count") * getattr(metafunc.module, "SHARE", 1000) // 1000
        metafunc.parametrize("trial", range(max(1, count)))


@pytest.fixture
def draws(request: pytest.FixtureRequest, trial: int) -> random.Random:
    """The random numbers of this trial."""
    return random.Random(f"{request.config.getoption('--fuzz-seed')} {request.function.__name__} {trial}")


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Let no test take the machine's memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def damaged(raw: bytes, draws: random.Random) -> bytes:
    """Return a file's bytes as a full disk, a bad cable or an editor may leave them."""
    at = draws.randrange(len(raw) + 1)
    match draws.randrange(7):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + bytes([draws.randrange(256)]) + raw[at + 1 :]
        case 2:
            return raw[:at] + draws.randbytes(draws.choice((1, 8, 100))) + raw[at:]
        case 3:
            return raw[:at] + bytes(min(64, len(raw) - at)) + raw[at + 64 :]
        case 4:
            lines = raw.splitlines(keepends=True) or [b""]
            lines.insert(draws.randrange(len(lines) + 1), draws.choice(lines))
            return b"".join(lines)
        case 5:
            lines = raw.splitlines(keepends=True) or [b""]
            del lines[draws.randrange(len(lines))]
            return b"".join(lines)
        case _:
            return draws.choice((b"", b"\0" * 100, b"\xef\xbb\xbf" + raw, raw.decode("latin-1").encode("utf-16"), raw + raw))


def altered(tree: Any, draws: random.Random) -> Any:
    """Return a copy of a tree of tables and lists in which one thing is another: a value, a name, or it is gone."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                visit(node[key])

    tree = copy.deepcopy(tree)
    visit(tree)
    node, key = draws.choice(places)
    match draws.randrange(6):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            value = node.pop(key)
            node[draws.choice([key + "s", key[:-1], key.upper(), key[::-1], "kind", ""])] = value
        case 2:
            other, name = draws.choice(places)
            node[key] = copy.deepcopy(other[name])
        case _:
            node[key] = draws.choice(HOSTILE)
    return tree


@pytest.fixture(scope="session")
def mutations() -> Callable[[str], Any]:
    """The helpers above, by name: importlib mode has no package to import them from."""
    return {"damaged": damaged, "altered": altered}.__getitem__


def told(done: Any) -> str:
    """Check that a command ended as a command may: done, or with one plain message and the exit code that goes with it."""
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    assert done.returncode in (0, 2, 3, 4), output
    messages = [line for line in done.stderr.splitlines() if line.startswith("gcdl: ")]
    if done.returncode == 0:
        return ""
    assert messages, output
    assert re.fullmatch(r"[^\x00-\x08\x0e-\x1f]*", messages[-1]), repr(messages[-1])
    if done.returncode == 2:
        assert len(done.stderr.splitlines()) == 1, done.stderr
    return messages[-1]


@pytest.fixture(scope="session")
def verdict() -> Callable[[Any], str]:
    """See :func:`told`."""
    return told
