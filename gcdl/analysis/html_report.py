"""``gcdl plot --html``: one run, or several overlaid, as one HTML file that needs no network.

The data are JSON inside the page. uPlot draws the curves (plotly's smallest bundle is twenty times its size); the timeline and
the picture of who was used are drawn by the page's own scripts, on a canvas each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gcdl.analysis.advise.report_section import laboratory_of, predictions, time_section
from gcdl.analysis.report_data import DENSE, SPARSE, TEST, TRAINING, run_data
from gcdl.analysis.run_names import config_differences, run_names
from gcdl.errors import UsageError

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("uplot/uPlot.iife.min.js", "look.js", "curves.js", "waterfall.js", "who.js", "timeline.js", "workers.js", "main.js")
_STYLES = ("uplot/uPlot.min.css", "page.css")


def report(paths: Sequence[Path], out: Path | None) -> Path:
    """Write the report of run folders; return the file.

    ``out``: left out, ``report.html``, in the run's folder, or here for several runs.

    Raises
    ------
    UsageError : the file's name does not end in .html, or it can't be written.
    DataError : not a run folder, a damaged one, or one without steps.
    """
    file = out or (paths[0] if len(paths) == 1 else Path()) / "report.html"
    if file.suffix != ".html":
        raise UsageError(f"--out {file}: must end in .html")
    runs = [{**run_data(path), "name": name} for path, name in zip(paths, run_names(paths), strict=True)]
    laboratories = [laboratory_of(path) for path in paths]
    for run, lab in zip(runs, laboratories, strict=True):
        run["time"] = time_section(lab)
    text = page(runs, predictions(laboratories))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {file}: cannot be written: {error.strerror or error}") from None
    return file


def page(runs: Sequence[dict[str, Any]], predicted: Sequence[dict[str, Any]]) -> str:
    """Return the page of some runs. The same runs give the same page.

    ``runs``: of each, :func:`gcdl.analysis.report_data.run_data` and ``time``. ``predicted``: of each,
    :func:`gcdl.analysis.advise.report_section.predictions`.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((_PAGE / "page.html").read_text(encoding="utf-8"))
    labels = list(dict.fromkeys(label for run in runs for label, _ in run["facts"]))
    facts = [(label, [dict(run["facts"]).get(label, "") for run in runs]) for label in labels]
    drawn = [{key: value for key, value in run.items() if key not in _IN_THE_HTML} for run in runs]
    data = {"runs": drawn, "panels": _panels(runs), "predictions": list(predicted)}
    return template.render(
        runs=runs,
        facts=facts,
        differences=config_differences([run["config"] for run in runs]),
        data=_inside_script(json.dumps(data, separators=(",", ":"))),
        scripts=[Markup(_read(name)) for name in _SCRIPTS],
        styles=[Markup(_read(name)) for name in _STYLES],
        licence=_read("uplot/LICENSE"),
    )


_IN_THE_HTML = ("facts", "warnings", "config", "manifest")


def _panels(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the panels: which curves each has, and whether its axis is logarithmic at first."""
    own = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    rest = [label for label in (*SPARSE.values(), *own, *DENSE.values()) if label not in (TRAINING, TEST)]
    panels = [("loss", [TRAINING, TEST]), *((label, [label]) for label in rest)]
    known = {label for run in runs for label in run["curves"]}
    found = [(title, [label for label in labels if label in known]) for title, labels in panels]
    dense = set(DENSE.values())
    return [
        {"title": title, "curves": [{"label": label, "dense": label in dense} for label in labels], "log": title == "loss"}
        for title, labels in found if labels
    ]  # fmt: skip


def _read(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _inside_script(text: str) -> Markup:
    """Mark JSON as what may stand in a script element: nothing in it can end the element."""
    return Markup(text.replace("<", "\\u003c"))
