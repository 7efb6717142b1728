"""``gcdl plot --html``: a run as one HTML file that needs nothing else: figures, stragglers, bytes, config."""

from __future__ import annotations

import html
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gcdl.analysis.plots import plot
from gcdl.errors import UsageError
from gcdl.training.run_files import CONFIG, MANIFEST, TIMELINE
from gcdl.training.run_reader import History, read_run

_STEPS_DRAWN = 12
_WORKERS_DRAWN = 32
_COLOURS = {
    "send": "#56b4e9", "receive": "#56b4e9", "wait": "#dddddd", "decode": "#d55e00", "step": "#cc79a7",
    "sleep": "#e69f00", "held": "#e69f00", "compute": "#0072b2", "encode": "#009e73",
}  # fmt: skip
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #ccc}svg{width:100%;height:auto}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:right;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f6f6f6}
pre{background:#f6f6f6;padding:1rem;overflow:auto}.warning{color:#b34700}"""


def report(path: Path, out: Path | None) -> Path:
    """Write the report of a run folder, to ``report.html`` in it when ``out`` is left out; return the file.

    Raises
    ------
    UsageError : matplotlib is not installed, or the file can't be written.
    DataError : not a run folder, or one without steps.
    """
    file = out or path / "report.html"
    if file.suffix != ".html":
        raise UsageError(f"--out {file}: must end in .html")
    with tempfile.TemporaryDirectory(prefix="gcdl-") as folder:
        (drawn,) = plot([path], Path(folder) / "plot.svg")
        curves = drawn.read_text(encoding="utf-8")
    run = read_run(path)
    parts = [
        f"<h1>{_text(path.resolve().name)}</h1>{_facts(run)}",
        f"<h2>Stragglers and loss</h2>{_inline(curves)}",
        f"<h2>Workers</h2>{_workers(run)}",
        f"<h2>Bytes</h2>{_bytes(run)}",
        _timeline(path),
        f"<h2>Config</h2><pre>{_text((path / CONFIG).read_text(encoding='utf-8'))}</pre>",
        _manifest(path),
    ]
    title = f"gcdl: {_text(path.resolve().name)}"
    page = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>'
    try:
        file.write_text(f"{page}<body>\n{''.join(parts)}\n</body></html>\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {file}: cannot be written: {error.strerror or error}") from None
    return file


def _facts(run: History) -> str:
    """What the run came to."""
    summary = run.summary
    if summary is None:
        return f"<p class=warning>The run did not end well: {len(run.steps)} steps are recorded.</p>"
    wanted = {
        "steps": "steps", "workers": "workers", "parameters": "parameters", "final_train_loss": "training loss",
        "final_test_loss": "test loss", "final_test_accuracy": "test accuracy", "wall_seconds": "seconds, the whole job",
        "seconds": "seconds of steps", "wait_for_all_seconds": "seconds, had it waited for all (estimate)",
        "lost_workers": "lost workers", "resumed": "times resumed",
    }  # fmt: skip
    rows = [(name, _number(summary.get(key))) for key, name in wanted.items() if summary.get(key) not in (None, [], 0)]
    rows += [(name, _number(value)) for name, value in (summary.get("final_metrics") or {}).items()]
    warnings = "".join(f"<p class=warning>{_text(warning)}</p>" for warning in summary.get("warnings", []))
    return _table(None, rows) + warnings


def _workers(run: History) -> str:
    """A row for each worker: how often its reply was used, and when it came."""
    came, computed = run.by_worker("reply_seconds"), run.by_worker("compute_seconds")
    steps = len(run.steps)
    rows = []
    for worker in range(run.workers):
        used = np.isfinite(came[:, worker])
        lost = next((line["step"] for line in run.steps if worker in line["lost"]), None)
        seconds = came[used, worker]
        rows.append(
            (
                worker,
                f"{used.mean():.1%}",
                steps - int(used.sum()),
                _seconds(np.median(seconds)) if seconds.size else "",
                _seconds(np.quantile(seconds, 0.95)) if seconds.size else "",
                _seconds(np.median(computed[used, worker])) if seconds.size else "",
                "" if lost is None else f"at step {lost}",
            )
        )
    head = ("worker", "steps used", "not used", "reply, median", "95 %", "computing, median", "lost")
    return _table(head, rows)


def _bytes(run: History) -> str:
    """What was sent, in both directions."""
    up = sum(line["uplink_bytes"] for line in run.steps)
    down = sum(line["downlink_bytes"] for line in run.steps)
    float32 = (run.summary or {}).get("float32_uplink_bytes")
    rows = [("up", f"{up:,}", f"{up / len(run.steps):,.0f}"), ("down", f"{down:,}", f"{down / len(run.steps):,.0f}")]
    if float32:
        rows.append(("up, as float32", f"{float32:,}", f"{float32 / len(run.steps):,.0f}"))
    return _table(("", "bytes", "a step"), rows)


def _timeline(path: Path) -> str:
    """The first steps, a row for the master and for each worker."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    try:
        text = (path / TIMELINE).read_text(encoding="utf-8").rstrip().rstrip(",")
        events = json.loads(text if text.endswith("}") and text.count("[") == text.count("]") else f"{text}]}}")["traceEvents"]
    except (OSError, ValueError, KeyError):
        return ""
    spans = [
        event for event in events
        if event.get("ph") == "X" and event["args"].get("step", 0) < _STEPS_DRAWN and event["tid"] <= _WORKERS_DRAWN
    ]  # fmt: skip
    if not spans:
        return ""
    rows = sorted({event["tid"] for event in spans})
    with rc_context({"font.size": 9.0, "svg.fonttype": "none", "svg.hashsalt": "gcdl"}):
        figure = Figure(figsize=(12.0, 0.8 + 0.28 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for event in spans:
            place = (event["ts"] / 1e6, event["dur"] / 1e6)
            axes.broken_barh([place], (rows.index(event["tid"]) - 0.4, 0.8), color=_COLOURS.get(event["name"], "#999999"))
        axes.set_yticks(range(len(rows)), ["master" if row == 0 else f"worker {row - 1}" for row in rows])
        axes.invert_yaxis()
        axes.set(xlabel=f"seconds; the first {_STEPS_DRAWN} steps at most, of workers whose replies were used")
        names = dict.fromkeys(event["name"] for event in spans)
        handles = [Patch(color=_COLOURS.get(name, "#999999"), label=name) for name in names]
        figure.legend(handles=handles, loc="outside upper left", ncols=8, frameon=False)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return f"<h2>Timeline</h2><p>All of it: {TIMELINE}, in ui.perfetto.dev.</p>{_inline(drawn.getvalue())}"


def _manifest(path: Path) -> str:
    try:
        found = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return f"<h2>Where it ran</h2><pre>{_text(json.dumps(found, indent=2))}</pre>"


def _inline(svg: str) -> str:
    """Return the ``<svg>`` element of an SVG file; its XML declaration may not stand in HTML."""
    return svg[svg.index("<svg") :]


def _table(head: Sequence[str] | None, rows: Iterable[Sequence[Any]]) -> str:
    top = "" if head is None else "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def _text(value: Any) -> str:
    return html.escape(str(value))


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _seconds(value: Any) -> str:
    return f"{float(value):.4g} s"
