"""A run as one HTML file, and as TensorBoard's events."""

from __future__ import annotations

import json
import re
import struct
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from gcdl.analysis.html_report import report
from gcdl.analysis.report_timeline import timeline_data
from gcdl.cli.app import app
from gcdl.config import parse
from gcdl.errors import DataError, UsageError
from gcdl.training.roles import simulate
from gcdl.training.starting_point import StartingPoint
from gcdl.training.watcher import Watcher

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


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "run <1>"
    simulate(StartingPoint(parse(CONFIG), out), Watcher())
    return out


class Checked(HTMLParser):
    """Tags that are open; links to elsewhere; the JSON data."""

    def __init__(self, text):
        super().__init__()
        self.open, self.outside, self.data = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br", "input", "link"):
            self.open.append((tag, dict(attributes)))
        self.outside += [
            value for name, value in attributes if name in ("src", "href") and not value.startswith(("#", "data:"))
        ]

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][1].get("id") == "data":
            self.data += data


def data_of(file):
    page = Checked(file.read_text())
    assert not page.open
    assert not page.outside
    return json.loads(page.data)


def lines(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_the_report_is_one_file_with_all_that_there_is(run):
    file = report([run], None)
    assert file == run / "report.html"
    text = file.read_text()
    assert "run &lt;1&gt;" in text
    assert "run <1>" not in text
    for heading in ("Curves", "Result", "Who was used", "Timeline", "Workers", "Config"):
        assert f"<h2>{heading}</h2>" in text
    assert "The MIT License" in text  # of what is inside
    (shown,) = data_of(file)["runs"]
    recorded = lines(run)
    assert shown["curves"]["training loss"] == pytest.approx([line["train_loss"] for line in recorded], rel=1e-6)
    assert [place for place, value in enumerate(shown["curves"]["test loss"]) if value is not None] == [4, 9, 13]
    assert shown["x"]["bits"][-1] == 8 * sum(line["uplink_bytes"] + line["downlink_bytes"] for line in recorded)
    used = [sum(worker in line["replies"] for line in recorded) for worker in range(4)]
    assert [row[1] for row in shown["workers"]] == pytest.approx([count / 14 for count in used], abs=1e-4)
    assert [row[6] for row in shown["workers"]] == [None, 9, None, None]
    assert [row[-5:] for row in shown["who"]["cells"]] == ["00000", "xxxxx", shown["who"]["cells"][2][-5:], "00000"]
    assert report([run], None).read_text() == text


def test_the_timeline_is_that_of_the_file_whole_or_cut(run, tmp_path, monkeypatch):
    events = json.loads((run / "timeline.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    (shown,) = data_of(report([run], tmp_path / "a.html"))["runs"]
    timeline = shown["timeline"]
    assert timeline["rows"] == ["master", *(f"worker {worker}" for worker in range(4))]
    assert timeline["whole"]
    found = []
    for row, flat in enumerate(timeline["slices"]):
        end = 0
        for gap, length, kind, step in zip(*(flat[place::4] for place in range(4)), strict=True):
            found.append((row, end + gap, length, timeline["kinds"][kind], step))
            end += gap + length
    assert sorted(found) == sorted((one["tid"], one["ts"], one["dur"], one["name"], one["args"]["step"]) for one in slices)
    killed = tmp_path / "killed"
    killed.mkdir()
    whole = (run / "timeline.json").read_text()
    (killed / "timeline.json").write_text(whole[: len(whole) * 2 // 3])
    assert 0 < sum(map(len, timeline_data(killed)["slices"])) < sum(map(len, timeline["slices"]))
    monkeypatch.setattr("gcdl.analysis.report_timeline._SLICES", 40)
    first = timeline_data(run)
    assert not first["whole"]
    assert 0 < first["steps"] < 14
    (killed / "timeline.json").write_text("{")
    assert timeline_data(killed) is None


@pytest.mark.parametrize(
    "damage", ["[]", "3", '[{"ph": "X"}]', '[{"name": "thread_name", "tid": 0, "args": {"name": "a"}}, {"ph": "X", "tid": 0}]']
)
def test_a_timeline_that_no_run_writes_is_left_out(tmp_path, damage):
    (tmp_path / "timeline.json").write_text(f'{{"traceEvents": {damage}}}')
    assert timeline_data(tmp_path) is None


def test_a_long_run_is_averaged_and_it_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr("gcdl.analysis.report_data._POINTS", 7)
    (shown,) = data_of(report([run], tmp_path / "a.html"))["runs"]
    loss = [line["train_loss"] for line in lines(run)]
    assert shown["every"] == 2
    assert shown["curves"]["training loss"] == pytest.approx([(a + b) / 2 for a, b in zip(loss[::2], loss[1::2], strict=True)])
    assert shown["x"]["step"] == [2, 4, 6, 8, 10, 12, 14]


def test_what_is_wrong_is_said(run, tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.html"):
        report([run], tmp_path / "a.pdf")
    with pytest.raises(UsageError, match="cannot be written"):
        report([run], tmp_path / "no" / "a.html")
    with pytest.raises(DataError, match="not a run folder"):
        report([tmp_path], None)


@pytest.fixture(scope="module")
def several(run, tmp_path_factory):
    """The run, and one that differs from it in its rate and has a metric of its own."""
    other = tmp_path_factory.mktemp("report") / "other"
    simulate(StartingPoint(parse(CONFIG, ["optimizer.lr=0.02", "steps=20"]), other), Watcher())
    written = lines(other)
    for line in written:
        line["metrics"] = {"<b>bias</b>": line["step"] / 7}
    (other / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    return report([run, other], other.parent / "several.html")


def test_several_runs_are_overlaid_and_what_differs_is_said(several):
    text = several.read_text()
    data = data_of(several)
    assert [one["name"] for one in data["runs"]] == ["run <1>", "other"]
    assert [panel["title"] for panel in data["panels"]] == [
        "loss",
        "<b>bias</b>",
        "learning rate",
        "gradient norm",
        "seconds a step",
    ]
    differs = text.split("<h2>What differs</h2>")[1].split("</table>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', differs) == ["optimizer.lr", "steps"]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False)])
def test_in_a_browser_a_click_zooms_and_nothing_goes_wrong(several, browser, width, dark):
    page = browser(several, width, dark=dark)
    zoom = "document.documentElement.dataset.zoom || ''"
    view = "document.querySelector('#timeline canvas').dataset.view"
    assert page.value("document.querySelectorAll('.uplot').length") == 5
    assert page.value("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("[...document.querySelectorAll('.panel')].every(one => one.clientWidth > 300)")

    page.click("#zoom-in")
    first, last = map(float, page.value(zoom).split())
    assert last - first == pytest.approx(19 / 2)
    page.click("#zoom-reset")
    assert page.value(zoom) == ""
    page.drag(".u-over", 0.25, 0.5)
    first, last = map(float, page.value(zoom).split())
    assert (first, last) == pytest.approx((1 + 19 / 4, 1 + 19 / 2), abs=0.5)
    page.click("#zoom-out")
    page.value("document.querySelector('#x').value = 'bits', document.querySelector('#x').onchange()")
    assert page.value(zoom) == ""
    page.click("#log-x")
    page.click(".panel h3 button")
    assert page.value("document.querySelector('.panel h3 button').getAttribute('aria-pressed')") == "false"
    page.move(".u-over", 0.5, 0.5)
    assert re.search(r"\d", page.value("document.querySelector('.u-legend .u-value').textContent"))  # what the mouse is on

    before = page.value(view)
    page.click("#closer")
    assert page.value(view) != before
    page.click("#later")
    assert page.value("document.querySelector('#from').value") == "12"  # the next twelve steps
    page.move("#timeline canvas", 0.5, 0.1)
    assert page.value("document.querySelector('#tip').textContent").startswith("master, step ")

    worker = "document.querySelector('#workers tr:nth-child(2) th').textContent"
    assert page.value(worker) == "0"
    page.click("#workers th:nth-child(2) button")
    page.click("#workers th:nth-child(2) button")
    assert page.value("document.querySelector('#workers th:nth-child(2)').getAttribute('aria-sort')") == "descending"
    page.click("#theme")
    assert page.value("document.documentElement.dataset.theme") == ("light" if dark else "dark")
    assert page.complaints == []


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two runs with the same delays, one of them coded, and one that is too short to say where its time went."""
    folder = tmp_path_factory.mktemp("compared")
    exponential = ["steps=60", "stragglers.kind=exponential", "stragglers.seconds=0.1", "stragglers.events=[]"]
    waiting = ["code.kind=uncoded", "wait.count=4"]
    for name, overrides in {"coded": exponential, "uncoded": [*exponential, *waiting], "short": ["steps=5"]}.items():
        simulate(StartingPoint(parse(CONFIG, overrides), folder / name), Watcher())
    return report([folder / name for name in ("coded", "uncoded", "short")], folder / "report.html")


def test_the_parts_of_a_step_add_up_and_a_run_is_predicted_from_another_ones_delays(compared):
    data = data_of(compared)
    for one in data["runs"][:2]:
        assert sum(seconds for _, seconds in one["time"]["parts"]) == pytest.approx(one["time"]["measured"], rel=1e-3)
    assert data["runs"][2]["time"] is None
    assert [one.get("from") for one in data["predictions"]] == [1, 1, None]  # the one that waited for all tells the delays
    for one in data["predictions"][:2]:
        assert one["predicted"] == pytest.approx(one["measured"], rel=0.05)


@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser_the_seconds_of_a_step_are_drawn(compared, browser, width):
    page = browser(compared, width)
    assert page.value("document.querySelectorAll('#slow li').length") > 0
    assert page.value("document.querySelectorAll('#predicted tr').length") == 3
    assert "waiting for stragglers" in page.value("document.querySelector('#waterfall canvas').getAttribute('aria-label')")
    assert page.value("document.documentElement.scrollWidth") <= width
    choose = "document.querySelector('#run').value = '2', document.querySelector('#run').onchange()"
    page.value(choose)
    assert page.value("document.querySelector('#time-part').hidden")
    assert page.complaints == []


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
