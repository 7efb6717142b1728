"""The command line, as a user calls it: output, exit codes, and no traceback."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = str(ROOT / "configs" / "quickstart.toml")
DESCENT = str(ROOT / "configs" / "gradient_descent.toml")


def test_help_names_every_command(command_line):
    done = command_line("--help")
    assert done.returncode == 0
    for command in ("run", "train", "simulate", "replay", "trace", "plot", "code"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("verb", ["run", "simulate", "code"])
def test_a_config_that_is_not_there(command_line, verb):
    assert "nowhere.toml" in command_line(verb, "nowhere.toml").message


@pytest.mark.parametrize("verb", ["run", "simulate", "code"])
def test_a_wrong_key_is_found_before_anything_starts(command_line, verb):
    message = command_line(verb, QUICK, "compressor.kind=stochastic_sing").message
    assert "did you mean 'stochastic_sign'" in message


@pytest.mark.parametrize("verb", ["run", "simulate", "code"])
def test_the_number_of_workers_is_needed_where_there_are_no_ranks_to_count(command_line, verb, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[problem]\nkind = "linear_regression"\n')
    assert "workers: missing" in command_line(verb, str(config)).message


@pytest.mark.parametrize("key", ["problem.samples", "problem.test_samples", "problem.features"])
def test_sizes_beyond_memory_are_one_message(command_line, key, tmp_path):
    message = command_line("simulate", DESCENT, f"{key}=2147483648", "--out", str(tmp_path / "run")).message
    assert f"{key}: 2147483648 takes" in message
    assert "this machine has" in message


def test_a_model_beyond_memory_is_one_message(command_line, tmp_path):
    message = command_line("simulate", QUICK, "problem.hidden=[2147483648]", "--out", str(tmp_path / "run")).message
    assert "problem.hidden: [2147483648]" in message


def test_train_without_mpirun_says_how_to_start_it(process):
    assert "mpirun -n 9 gcdl train" in process("train", DESCENT).message


def test_train_under_an_srun_that_does_not_speak_this_mpi_says_so_once(process, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "9")
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert "srun started 9 tasks, but each is an MPI job of its own" in process("train", DESCENT).message
    monkeypatch.setenv("SLURM_PROCID", "4")
    other = process("train", DESCENT)
    assert other.returncode == 2
    assert other.stderr == ""


def test_simulate_prints_its_progress_and_result_and_writes_the_folder(command_line, tmp_path):
    done = command_line("simulate", DESCENT, "steps=20", "run.eval_every=10", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert "step 10/20" in done.stdout
    assert "not waited for: 1" in done.stdout
    assert f"run folder: {tmp_path / 'run'}" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 20
    assert summary["shard_coverage"] == pytest.approx([1.0] * 4)
    assert summary["warnings"] == []
    assert "already" in command_line("simulate", DESCENT, "--out", str(tmp_path / "run")).message


def test_without_out_the_folder_is_named_for_the_config(command_line, tmp_path):
    done = command_line("simulate", DESCENT, "steps=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("gradient_descent-")


def test_a_shard_that_was_never_seen_is_in_the_summary(command_line, tmp_path):
    done = command_line("simulate", DESCENT, "steps=5", "code.kind=uncoded", "wait.count=3", "--out", str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["shard_coverage"] == [1.0, 0.0, 1.0, 1.0]
    assert "shard 1 entered with weight 0.00" in summary["warnings"][0]
    assert "shard 1 entered" in done.stdout


def test_code_shows_who_holds_what_and_what_decoding_costs(command_line):
    done = command_line("code", QUICK)
    assert done.returncode == 0, done.stderr
    assert "n = 8 workers, k = 8 shards, s = 1" in done.stdout
    assert done.stdout.count("■ ■ · · · · · ·") == 2
    assert re.search(r"1 = s +8 +exact", done.stdout)
    assert re.search(r"2 = s \+ 1 +28 +1\.41", done.stdout)  # a group may be gone, and its two shards: sqrt(2)


def test_code_draws_a_figure(command_line, tmp_path):
    pytest.importorskip("matplotlib")
    done = command_line("code", QUICK, "--figure", str(tmp_path / "code.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "code.png").read_bytes().startswith(b"\x89PNG")
    assert "no/such" in command_line("code", QUICK, "--figure", str(tmp_path / "no/such/code.png")).message


def test_code_compares_all_kinds_and_says_why_some_do_not_exist(command_line):
    done = command_line("code", "--compare", "n=7", "stragglers=2")
    assert done.returncode == 0, done.stderr
    assert "cyclic_repetition" in done.stdout
    assert "no fractional_repetition" in done.stdout
    assert "possible values of stragglers: 0, 6" in done.stdout


@pytest.mark.parametrize("words", [("n=12",), ("n=x", "stragglers=1"), ("n=3", "stragglers=3"), ("m=3", "stragglers=1")])
def test_a_comparison_needs_its_sizes(command_line, words):
    assert "--compare" in command_line("code", "--compare", *words).message


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ('problem."a\x1b[2Jb"=1', r"a\x1b[2Jb"),  # would clear the screen
        ("problem.shards=1000000000000", "the code's matrix takes"),
        ("run.threads=2147483648", "run.threads: "),
        (f"simulate.compute={'x' * 5000}", "not a run folder"),
    ],
)
def test_hostile_values_are_refused_in_one_line(command_line, override, says, tmp_path):
    assert says in command_line("simulate", DESCENT, override, "--out", str(tmp_path / "run")).message


def test_the_version_is_that_of_the_package(command_line):
    assert command_line("--version").stdout == f"gcdl {version('gcdl')}\n"


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("gcdl si", ["simulate"]),
        ("gcdl plot --ht", ["--html"]),
        ("gcdl run c.toml wor", ["workers="]),
        ("gcdl simulate c.toml code.decod", ["code.decoder="]),
        ("gcdl run c.toml run.eval", ["run.eval_every=", "run.evaluate="]),
        ("gcdl run c.toml code.kind=frac", ["code.kind=fractional_repetition"]),
        ("gcdl run c.toml optimizer.bet", ["optimizer.beta1=", "optimizer.beta2="]),
    ],
)
def test_a_shell_completes_commands_options_and_keys(command_line, monkeypatch, words, offered):
    monkeypatch.setenv("_GCDL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert command_line().stdout.split() == offered
