"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gcdl.codes import CODES, GradientCode
from gcdl.config import Experiment, parse

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_config_is_a_config_that_states_every_key_of_its_kinds():
    (text,) = snippets("toml")
    config = parse(text)
    Experiment.of(config, 8).check()
    for name, choice in config.choices.items():
        table = text.split(f"[{name}]")[1].split("\n\n")[0]
        for key in choice.table():
            if (name, key) in {
                ("compressor", "clip"),
                ("problem", "data"),
                ("optimizer", "weight_decay"),
            }:
                continue  # named in a comment, or with the only value they have
            assert re.search(rf"^{key} = ", table, flags=re.MULTILINE), f"{name}.{key} is not explained"
    for key in type(config.run).model_fields:
        assert f"\n{key} = " in text.split("[run]")[1]


def test_the_new_code_is_a_file_and_a_line(monkeypatch):
    (text,) = snippets("python")
    scope: dict[str, object] = {}
    exec(compile(text, "README.md", "exec"), scope)
    code = scope["neighbours"](6, 6)
    assert isinstance(code, GradientCode)
    everyone = np.ones(6, dtype=bool)
    assert code.decoding_error(code.decoding_vector(everyone)) < 1e-12
    monkeypatch.setitem(CODES, "neighbours", scope["neighbours"])
    config = parse('[problem]\nkind = "linear_regression"\n[code]\nkind = "neighbours"')
    assert Experiment.of(config, 6).code.n == 6


@pytest.mark.parametrize("path", ["launch/quickstart", "launch/test"])
def test_the_commands_exist(path):
    assert f"./{path}" in README
    assert (ROOT / path).stat().st_mode & 0o111


def test_the_files_and_kinds_it_names_exist():
    for path in re.findall(r"configs/\w+\.toml", README):
        assert (ROOT / path).is_file(), path
    for kind in CODES:
        assert kind in README
