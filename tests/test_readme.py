"""What the README shows works as shown: every snippet is run, or, where it starts a job, read as the command would."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from gcdl import cli
from gcdl.codes import CODES, GradientCode
from gcdl.compressors import COMPRESSORS
from gcdl.config import Experiment, load, parse
from gcdl.stragglers import STRAGGLERS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def snippet(language: str, word: str) -> str:
    """The one snippet of a language that has a word in it."""
    (found,) = [text for text in snippets(language) if word in text]
    return found


def commands() -> list[list[str]]:
    """The gcdl commands of all shell snippets and of the text, as words."""
    shell = [line for text in snippets("sh") for line in text.replace("\\\n", " ").splitlines()]
    inline = [" ".join(text.split()) for text in re.findall(r"`(gcdl (?:run|simulate|code) [^`]*)`", README)]
    words = [shlex.split(line, comments=True) for line in [*shell, *inline]]
    return [line[line.index("gcdl") :] for line in words if "gcdl" in line]


def test_the_config_is_a_config_that_states_every_key_of_its_kinds():
    text = snippet("toml", "[simulate]")
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
    for key in type(config.simulate).model_fields:
        assert f"\n{key} = " in text.split("[simulate]")[1]


def test_the_new_code_is_a_file_and_a_line(monkeypatch):
    scope: dict[str, object] = {}
    exec(compile(snippet("python", "neighbours.py"), "README.md", "exec"), scope)
    code = scope["neighbours"](6, 6)
    assert isinstance(code, GradientCode)
    everyone = np.ones(6, dtype=bool)
    assert code.decoding_error(code.decoding_vector(everyone)) < 1e-12
    monkeypatch.setitem(CODES, "neighbours", scope["neighbours"])
    config = parse('[problem]\nkind = "linear_regression"\n[code]\nkind = "custom"\nfactory = "gcdl.codes:CODES.get"')
    assert config.choices["code"].kind == "custom"


@pytest.mark.parametrize("text", snippets("python"), ids=lambda text: text.splitlines()[0])
def test_every_script_runs(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile(text, "README.md", "exec"), scope)
    if "# train.py" in text:
        assert len([line for line in text.splitlines() if line and not line.startswith("#")]) == 10
        assert len(capsys.readouterr().out.splitlines()) == 100
    if "# stop.py" in text:
        lines = [json.loads(line) for line in (tmp_path / "runs/stop/steps.jsonl").read_text().splitlines()]
        assert lines[-1]["test_loss"] < 1e-3
        assert {"worst", "bits"} == set(lines[-1]["metrics"])
    if "recipe" in scope:
        scope["recipe"].build(np.zeros(3, dtype=np.float32)).step(np.ones(3, dtype=np.float32))


def test_the_custom_problem_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    text = snippet("toml", "mine:problem")
    signature = re.search(r"def problem\(.*?\):", text).group()
    (tmp_path / "mine.py").write_text(
        f"import gcdl, torch\n{signature}\n    assert k == 4 and seed == 0\n    x = torch.zeros(8, width)\n"
        "    return gcdl.TorchProblem(lambda: torch.nn.Linear(width, 1), torch.nn.functional.mse_loss, (x, x[:, :1]))\n"
    )
    assert Experiment.of(parse(text), 4).problem.layout().size == 129


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_can_be_read(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    help = CliRunner().invoke(cli.app, [words[1], "--help"])
    assert help.exit_code == 0, words
    for option in (word for word in words if word.startswith("--")):
        assert option in help.output, words
    if words[1] in ("run", "simulate", "train", "code") and len(words) > 2 and words[2].endswith(".toml"):
        overrides = [word for word in words[3:] if "=" in word]
        checked = load(ROOT / words[2], overrides)
        assert checked.steps > 0


@pytest.mark.parametrize("path", ["launch/quickstart", "launch/test"])
def test_the_commands_exist(path):
    assert f"./{path}" in README
    assert (ROOT / path).stat().st_mode & 0o111


def test_the_files_and_kinds_it_names_exist():
    for path in re.findall(r"configs/\w+\.toml", README):
        assert (ROOT / path).is_file(), path
    for kind in (*CODES, *STRAGGLERS, *COMPRESSORS):
        assert f"`{kind}`" in README


def test_its_links_lead_somewhere():
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", README, flags=re.DOTALL), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_the_citation_is_of_this_version():
    cited = (ROOT / ".github" / "CITATION.cff").read_text()
    assert f"\nversion: {version('gcdl')}\n" in cited
