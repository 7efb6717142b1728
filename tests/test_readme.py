"""What the READMEs show works: snippets run, commands can be read, links and the names of files and sections lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import gcdl
from gcdl.analysis.sweeps.suite import parse_suite
from gcdl.cli.app import app
from gcdl.codes import CODES, GradientCode
from gcdl.compressors import COMPRESSORS
from gcdl.config import Experiment, load, parse
from gcdl.downlinks import DOWNLINKS
from gcdl.stragglers import STRAGGLERS

ROOT = Path(__file__).resolve().parent.parent
MAIN, CONFIGS, SOURCE = "README.md", "configs/README.md", "gcdl/README.md"
PATHS = [MAIN, CONFIGS, SOURCE, *(f"{folder}/README.md" for folder in ("launch", "benchmarks", "tests", "gcdl/examples"))]
TEXTS = {path: (ROOT / path).read_text() for path in PATHS}

MOST_LINES, MOST_BYTES, MOST_PICTURE_BYTES = 260, 20_480, 80_000
"""Of the README: it can be read in ten minutes, and loads at once."""
MOST_CELL = 200
"""Characters of a table's cell: what is longer is prose."""
SCREEN = 45
"""Lines of a section without an example."""


def snippets(language: str) -> list[tuple[str, str]]:
    """Each snippet of a language, with the README it stands in."""
    fence = re.compile(rf"^ *```{language}\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
    return [(path, text) for path, readme in TEXTS.items() for text in fence.findall(readme)]


def snippet(language: str, word: str) -> str:
    """The one snippet of a language that has a word in it."""
    (found,) = [text for _, text in snippets(language) if word in text]
    return found


def prose(readme: str) -> str:
    """A README without its snippets."""
    return re.sub(r"^ *```.*?^ *```", "", readme, flags=re.DOTALL | re.MULTILINE)


def headings(readme: str) -> list[str]:
    return re.findall(r"^#+ (.*)$", prose(readme), flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """Where a link to a heading leads, by GitHub's rule."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands() -> list[list[str]]:
    """The gcdl commands of all shell snippets and of the text, as words."""
    shell = [line for _, text in snippets("sh") for line in text.replace("\\\n", " ").splitlines()]
    known = "|".join(one.callback.__name__ for one in app.registered_commands if not one.hidden)
    inline = [" ".join(text.split()) for readme in TEXTS.values() for text in re.findall(rf"`(gcdl (?:{known})[^`]*)`", readme)]
    words = [shlex.split(line, comments=True) for line in [*shell, *inline]]
    return [list(one) for one in sorted({tuple(line[line.index("gcdl") :]) for line in words if "gcdl" in line})]


def test_every_readme_is_checked():
    found = {
        str(path.relative_to(ROOT)) for path in ROOT.rglob("README.md") if not {".venv", ".pytest_cache"} & set(path.parts)
    }
    assert found == set(PATHS)


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


@pytest.mark.parametrize(("path", "text"), snippets("toml"), ids=lambda one: one.splitlines()[0])
def test_every_table_is_a_config_or_a_suite(path, text):
    if text.startswith("transport"):
        assert [combination.place for combination in parse_suite(text).combinations] == [("2", "1 bit")]
        return
    config = parse(text if "[problem]" in text else f'{text}\n[problem]\nkind = "linear_regression"\n')
    if config.choices["problem"].kind != "custom":
        Experiment.of(config, 8).check()


def test_the_new_code_is_a_file_and_a_line(monkeypatch):
    scope: dict[str, object] = {}
    exec(compile(snippet("python", "neighbours.py"), SOURCE, "exec"), scope)
    code = scope["neighbours"](6, 6)
    assert isinstance(code, GradientCode)
    everyone = np.ones(6, dtype=bool)
    assert code.decoding_error(code.decoding_vector(everyone)) < 1e-12
    monkeypatch.setitem(CODES, "neighbours", scope["neighbours"])
    config = parse('[problem]\nkind = "linear_regression"\n[code]\nkind = "custom"\nfactory = "gcdl.codes:CODES.get"')
    assert config.choices["code"].kind == "custom"


@pytest.mark.parametrize(("path", "text"), snippets("python"), ids=lambda one: one.splitlines()[0])
def test_every_script_runs(path, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(compile(text, path, "exec"), scope)
    if "# train.py" in text:
        assert len([line for line in text.splitlines() if line and not line.startswith("#")]) == 11
        losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
        assert len(losses) == 100
        assert losses[-1] < 0.1
    if "# stop.py" in text:
        lines = [json.loads(line) for line in (tmp_path / "runs/stop/steps.jsonl").read_text().splitlines()]
        assert lines[-1]["test_loss"] < 1e-3
        assert {"worst", "bits"} == set(lines[-1]["metrics"])
    if "# mapped.py" in text:
        assert float(capsys.readouterr().out) < 0.1
    if "recipe" in scope:
        x = np.linspace(-1.0, 1.0, 24).reshape(8, 3)
        problem = gcdl.TorchProblem(lambda: torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (x, x[:, :1]))
        for name in {"by_table", "recipe"} & scope.keys():
            assert gcdl.Trainer(problem, optimizer=scope[name], out=tmp_path / name).run(2).steps == 2


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
    help = CliRunner().invoke(app, [words[1], "--help"])
    assert help.exit_code == 0, words
    for option in (word for word in words if word.startswith("--")):
        assert option in help.output, words
    if words[1] in ("run", "simulate", "train", "code") and len(words) > 2 and words[2].endswith(".toml"):
        overrides = [
            word for word in words[3:] if "=" in word and word not in ("stragglers.kind=trace", "stragglers.file=delays.csv")
        ]
        checked = load(ROOT / words[2], overrides)
        assert checked.steps > 0
        if "fashion_mnist" not in words[2]:
            Experiment.of(checked, checked.workers or 8).check()


def test_the_table_of_commands_is_whole():
    table = re.findall(r"^\| `gcdl (\w+)", TEXTS[MAIN].split("## Commands")[1], flags=re.MULTILINE)
    assert sorted(table) == sorted(one.callback.__name__ for one in app.registered_commands if not one.hidden)


def test_the_trainer_has_what_its_table_says(tmp_path):
    trainer = gcdl.Trainer("linear_regression", out=tmp_path)
    for readme in TEXTS.values():
        for name in re.findall(r"\btrainer\.(\w+)", readme):
            assert name == "py" or name == "model" or hasattr(trainer, name), name
    assert "model" in vars(gcdl.Trainer)


def test_every_file_and_every_field_of_a_run_folder_is_explained(tmp_path):
    folder = tmp_path / "run"
    gcdl.Trainer("logistic_regression", compressor="stochastic_sign", downlink="votes", out=folder).run(2)
    section = TEXTS[SOURCE].split("## The run folder")[1].split("\n## ")[0]
    rows = "".join(re.findall(r"^\| (`.*?`) \|", section, flags=re.MULTILINE))
    for file in folder.iterdir():
        assert file.name in rows, file.name
    for line in (folder / "steps.jsonl").read_text().splitlines():
        for field in json.loads(line):
            assert re.search(rf"\b{field}\b", rows), field
    for field in json.loads((folder / "summary.json").read_text()):
        assert re.search(rf"\b{field}\b", gcdl.Summary.__doc__), field


@pytest.mark.parametrize("path", ["launch/quickstart", "launch/test"])
def test_the_commands_exist(path):
    assert f"./{path}" in TEXTS[MAIN]
    assert (ROOT / path).stat().st_mode & 0o111


def test_every_kind_is_listed():
    for kind in (*CODES, *STRAGGLERS, *COMPRESSORS, *DOWNLINKS):
        assert f"\n| `{kind}` |" in TEXTS[CONFIGS], kind


def test_the_files_it_names_exist():
    for path, readme in TEXTS.items():
        for name in re.findall(r"[\w./-]+/[\w-]+\.(?:py|toml|csv|sbatch|md)\b", prose(readme)):
            near = [ROOT / name, (ROOT / path).parent / name, ROOT / "gcdl" / name]
            assert any(one.is_file() for one in near), f"{path}: {name}"
    for name in re.findall(r"^\| `([\w.]+)` \|", TEXTS["benchmarks/README.md"].split("## What")[0], flags=re.MULTILINE):
        assert (ROOT / "benchmarks" / name).is_file(), name


def test_the_map_has_every_folder_and_no_file_that_is_not_there():
    rows = re.findall(r"^\| `gcdl/(.*?)` \| .* \| (.*) \|$", TEXTS[SOURCE].split("| to change")[0], flags=re.MULTILINE)
    folders = {path.parent.relative_to(ROOT / "gcdl").as_posix() for path in (ROOT / "gcdl").rglob("__init__.py")}
    listed = {folder.rstrip("/") or "." for folder, _ in rows}
    assert listed <= folders
    assert {one for one in folders if "/" not in one} <= listed
    for folder, files in rows:
        for name in re.findall(r"`(.*?)`", files):
            assert (ROOT / "gcdl" / folder / name).is_file(), f"{folder}{name}"


def test_its_links_lead_somewhere():
    anchors = {(ROOT / path).resolve(): {anchor(one) for one in headings(readme)} for path, readme in TEXTS.items()}
    for path, readme in TEXTS.items():
        for target in re.findall(r"\]\(([^)]+)\)", prose(readme)):
            if target.startswith("http"):
                continue
            name, _, section = target.partition("#")
            file = ((ROOT / path).parent / name if name else ROOT / path).resolve()
            assert file.exists(), f"{path}: {target}"
            assert not section or section in anchors[file], f"{path}: {target}"


def sources() -> list[Path]:
    """Files whose text sends a reader on: the package, launch/, configs/, benchmarks/."""
    found = [path for folder in ("gcdl", "launch", "configs", "benchmarks") for path in (ROOT / folder).rglob("*")]
    return [
        path
        for path in found
        if path.is_file() and path.suffix in (".py", ".toml", ".sbatch", "") and "__pycache__" not in path.parts
    ]


def test_the_sections_that_are_named_exist():
    known = {heading for readme in TEXTS.values() for heading in headings(readme)}
    for path in [*sources(), *(ROOT / path for path in PATHS)]:
        for name in re.findall(r'see "([^"]+)"', path.read_text()):
            assert name in known, f"{path}: {name}"


def test_the_source_names_a_readme_that_exists():
    for path in sources():
        for name in re.findall(r"[\w./]*README(?:\.\w+)?", path.read_text()):
            assert name in PATHS, f"{path.relative_to(ROOT)}: {name}: name the file from the root, as in {CONFIGS}"


def test_every_mark_of_the_tests_is_explained(pytestconfig):
    project = (ROOT / "pyproject.toml").read_text()
    for mark in pytestconfig.getini("markers"):
        if f'"{mark}",' in project:  # not a plug-in's
            assert f"| `{mark.partition(':')[0]}` |" in TEXTS["tests/README.md"], mark


def test_the_readme_is_short():
    assert TEXTS[MAIN].count("\n") <= MOST_LINES
    assert len(TEXTS[MAIN].encode()) <= MOST_BYTES
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", TEXTS[MAIN]):
        assert (ROOT / picture).stat().st_size <= MOST_PICTURE_BYTES, picture


@pytest.mark.parametrize("path", PATHS)
def test_no_cell_is_prose_and_no_section_is_without_an_example(path):
    for line in prose(TEXTS[path]).splitlines():
        if line.startswith("|"):
            for cell in re.split(r"(?<!\\)\|", line):
                assert len(cell.strip()) <= MOST_CELL, cell
    without = re.sub(r"^( *)```.*?^ *```", r"\1    example", TEXTS[path], flags=re.DOTALL | re.MULTILINE)
    for section in re.split(r"^#+ ", without, flags=re.MULTILINE):
        if section.count("\n") > SCREEN:
            assert re.search(r"^    \S|^!\[", section, flags=re.MULTILINE), section.splitlines()[0]


def test_the_changelog_says_each_thing_once():
    text = (ROOT / "CHANGELOG.md").read_text()
    said = [" ".join(entry.split())[:60] for entry in re.split(r"^- |^#.*$", text, flags=re.MULTILINE) if entry.strip()]
    assert len(said) == len(set(said)), sorted(one for one in said if said.count(one) > 1)
    newest = text.split("\n## ")[1]
    assert set(re.findall(r"^### (.*)$", newest, flags=re.MULTILINE)) <= {"Added", "Changed", "Fixed"}


def test_the_citation_is_of_this_version():
    cited = (ROOT / ".github" / "CITATION.cff").read_text()
    assert f"\nversion: {version('gcdl')}\n" in cited
