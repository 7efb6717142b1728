"""What all figures share: colours, the files they are written to, and axes of whole numbers.

The first colours are Okabe and Ito's, which colour-blind people tell apart. Line styles and marks say the same again, for print
in grey.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from gcdl.errors import UsageError
from gcdl.host.installation import pip_install

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

STYLES = (
    ("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#cc79a7", ":"),
    ("#e69f00", (0, (6, 1, 1, 1, 1, 1))), ("#56b4e9", (0, (8, 2))), ("#000000", (0, (1, 3))),
    ("#7f3c8d", (0, (4, 1))), ("#8c6d31", (0, (3, 1, 1, 1))), ("#999999", "-"),
    ("#a50026", (0, (5, 1, 1, 1))), ("#1a9850", (0, (2, 1))),
)  # fmt: skip
"""Colour and dashes of each run, in turn."""
MARKS = ("D", "o", "s", "^", "v", "P", "X")
"""What marks a run's evaluations, in turn."""


def figure_files(out: Path | None, base: Path) -> list[Path]:
    """Return the files to write: ``out``, or ``base`` as PNG and SVG.

    Raises
    ------
    UsageError : ``out`` is neither.
    """
    if out is None:
        return [base.with_suffix(".png"), base.with_suffix(".svg")]
    if out.suffix not in (".png", ".svg"):
        raise UsageError(f"--out {out}: must end in .png or .svg")
    return [out]


def saved(files: Sequence[Path], draw: Callable[[Figure], None]) -> list[Path]:
    """Draw a figure into these files; return them.

    Raises
    ------
    UsageError : matplotlib is not installed, or a file cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from PIL import Image  # matplotlib needs it too
    except ImportError:
        raise UsageError(f"gcdl plot needs matplotlib: {pip_install('plots')}") from None
    # Text stays text in the SVG, and no date or random id goes into it: the same runs give the same file.
    with rc_context({"font.size": 9.0, "svg.fonttype": "none", "svg.hashsalt": "gcdl", "axes.grid": True, "grid.alpha": 0.25}):
        figure = Figure(figsize=(12.0, 7.5), layout="constrained")
        draw(figure)
        for file in files:
            try:
                if file.suffix == ".svg":
                    text = StringIO()
                    figure.savefig(text, format="svg", metadata={"Date": None})
                    file.write_text(_compact(text.getvalue()), encoding="utf-8")
                else:
                    drawn = BytesIO()
                    figure.savefig(drawn, dpi=150)
                    # 256 colours show the same picture in less than half the bytes.
                    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
            except OSError as error:
                raise UsageError(f"--out {file}: cannot be written: {error.strerror or error}") from None
    return list(files)


_COORDINATES = re.compile(r' (?:d|x|y|width|height)="[^"]*"')


def _compact(svg: str) -> str:
    """Return an SVG in two thirds of its bytes: coordinates to a tenth of a point, finer than a screen; less white space."""

    def shorter(attribute: re.Match[str]) -> str:
        rounded = re.sub(r"-?\d+\.\d{2,}", lambda number: f"{round(float(number[0]), 1):g}", attribute[0])
        return re.sub(r"([LMCQ]) (?=-?\d)", r"\1", re.sub(r" \n([LMCQz])", r"\1", rounded))

    return re.sub(r"\n +<", "\n<", _COORDINATES.sub(shorter, svg))


def whole_numbers(*axes: Axis) -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
