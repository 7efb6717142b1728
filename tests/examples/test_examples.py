"""The examples run, small; about 15 s of one core together."""

import runpy
import sys
import warnings
from pathlib import Path

import pytest

from gcdl.examples import char_gpt, fashion_cnn, mapped_file, topics

ROOT = Path(__file__).resolve().parents[2]


def test_the_first_model_is_that_of_the_readme_and_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["digits"])
    runpy.run_module("gcdl.examples.digits", run_name="__main__")
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 100
    assert losses[-1] < 0.2 * losses[0]
    readme = (ROOT / "README.md").read_text().split("# train.py\n")[1].split("```")[0]
    lines = (ROOT / "gcdl/examples/digits.py").read_text().splitlines()
    without = [line for line in lines if line and not line.startswith('"""') and "argparse" not in line]
    assert without == [line for line in readme.splitlines() if line]


@pytest.mark.parametrize("name", ["char_gpt", "digits", "fashion_cnn", "mapped_file", "notebook", "topics"])
def test_help_is_printed_and_nothing_is_trained(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the module is imported already
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(f"gcdl.examples.{name}", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")
    assert not list(tmp_path.iterdir())


def test_char_gpt_with_one_bit_is_close_to_float32(tmp_path):
    words = "--compare --steps 30 --characters 15000 --width 16 --layers 1 --length 16 --dropout 0.1 --lr 0.02"
    found = char_gpt.main([*words.split(), "--out", str(tmp_path)])
    assert found["float32"] < 3.5
    assert found["one bit"] < 1.05 * found["float32"]


def test_a_mapped_file_is_learnt_from(tmp_path):
    file, out = tmp_path / "file.npy", tmp_path / "run"
    summary = mapped_file.main(["--rows", "4000", "--steps", "40", "--file", str(file), "--out", str(out)])
    assert summary.final_test_accuracy > 0.8


def test_topics_are_told_apart_and_a_run_that_stopped_early_goes_on(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    topics.main(["--steps", "40", "--target", "0.4", *out])
    reached = capsys.readouterr().out.splitlines()[-1]
    done = int(reached.split()[1].rstrip(":"))
    assert done < 40
    assert float(reached.split()[-1].rstrip("%")) >= 40.0
    summary = topics.main(["--steps", "40", "--target", "1.0", "--resume", *out])
    assert summary.steps == 40
    assert f"step {done}:" not in capsys.readouterr().out


def test_the_notebook_compares_codes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["notebook", "--steps", "20"])
    runpy.run_module("gcdl.examples.notebook", run_name="__main__")
    seconds = {line.split("  ")[0].strip(): float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[:3]}
    assert seconds["fractional repetition"] < 0.5 * seconds["uncoded"]


@pytest.mark.skipif(not fashion_cnn.DATA.is_dir(), reason="no Fashion-MNIST (apt-get install dataset-fashion-mnist)")
def test_fashion_mnist_from_a_script_stops_early(tmp_path, capsys):
    words = "--steps 40 --samples 1500 --target 0.6"
    summary = fashion_cnn.main([*words.split(), "--out", str(tmp_path / "run")])
    assert summary.stopped == "by the loop"
    assert summary.steps < 40
    assert "105962 parameters" in capsys.readouterr().out
