"""What ``gcdl doctor`` finds, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

_MARKS = {"good": ("ok", "green"), "note": ("note", "yellow"), "bad": ("wrong", "red")}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what : was looked at.
    level : "good"; "note": it works, but look; "bad": a run won't start, or not end.
    says : what was found.
    do : what to do about it; empty where nothing need be done.
    """

    what: str
    level: Literal["good", "note", "bad"]
    says: str
    do: str = ""


def table(findings: Sequence[Finding]) -> Table:
    """Return the findings as a table for people."""
    shown = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        mark, colour = _MARKS[finding.level]
        says = Text(finding.says)
        if finding.do:
            says.append(f"\n-> {finding.do}", style="bold")
        shown.add_row(Text(mark, style=colour), finding.what, says)
    return shown


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings for scripts: {"ok": nothing is bad, "findings": [{"what", "level", "says", "do"}]}."""
    return json.dumps({"ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def healthy(findings: Sequence[Finding]) -> bool:
    """Say whether nothing is bad."""
    return all(finding.level != "bad" for finding in findings)
