"""A run as one HTML file, and as TensorBoard's events."""

from __future__ import annotations

import re
import struct
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from gcdl.analysis.html_report import report
from gcdl.cli.app import app
from gcdl.config import parse
from gcdl.errors import DataError, UsageError
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint

CONFIG = """
workers = 4
steps = 14
[problem]
kind = "linear_regression"
features = 7
[code]
kind = "fractional_repetition"
stragglers = 1
[stragglers]
kind = "fixed"
workers = [2]
seconds = 1.0
events = [{fault = "kill", worker = 1, step = 9}]
[run]
eval_every = 5
tensorboard = true
"""


class Quiet:
    def begin(self, config, folder, done):
        pass

    def step(self, record):
        pass

    def say(self, line):
        pass


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "run <1>"
    simulate(StartingPoint(parse(CONFIG), out), Quiet())
    return out


class Checked(HTMLParser):
    """Tags that are open; links to elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open, self.outside, self.cells = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.outside += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_startendtag(self, tag, attributes):
        self.outside += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_the_report_is_one_file_with_all_that_there_is(run):
    file = report(run, None)
    text = file.read_text()
    page = Checked(text)
    assert not page.open
    assert not [link for link in page.outside if not link.startswith("data:")]
    assert text.count("<svg") == 2
    assert "run &lt;1&gt;" in text
    assert "<script" not in text
    for heading in ("Workers", "Bytes", "Timeline", "Config", "Where it ran"):
        assert f"<h2>{heading}</h2>" in text
    assert "at step 9" in page.cells
    place = page.cells.index("2", page.cells.index("100.0%"))  # the row of worker 2, who is late in each step until 1 is lost
    assert re.fullmatch(r"[\d.]+%", page.cells[place + 1])
    assert float(page.cells[place + 1][:-1]) < 50.0
    assert report(run, None).read_text() == text


def test_what_is_wrong_is_said(run, tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.html"):
        report(run, tmp_path / "a.pdf")
    with pytest.raises(DataError, match="not a run folder"):
        report(tmp_path, None)
    result = CliRunner().invoke(app, ["plot", "--html", str(run), str(run)])
    assert isinstance(result.exception, UsageError)


def events(folder):
    """The tags in a folder's event files, read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return {
        tag: [
            (
                e.step,
                struct.unpack("<f", e.tensor_proto.tensor_content)[0]
                if e.tensor_proto.tensor_content
                else e.tensor_proto.float_val[0],
            )
            for e in found.Tensors(tag)
        ]
        for tag in found.Tags()["tensors"]
    }


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_what_the_run_wrote_and_what_is_written_later(run):
    live = events(run / "tensorboard")
    assert [step for step, _ in live["loss/train"]] == list(range(14))
    assert [step for step, _ in live["loss/test"]] == [4, 9, 13]
    for file in (run / "tensorboard").iterdir():
        file.unlink()
    assert CliRunner().invoke(app, ["plot", "--tensorboard", str(run)]).exit_code == 0
    assert events(run / "tensorboard") == live
