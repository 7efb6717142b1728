"""The advice on one screen: 80 columns of plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from math import isfinite

from gcdl.analysis.advise.advice import Advice
from gcdl.analysis.advise.choice_of_rows import Row, name_of, rows

WIDTH = 80
_NAME = 48


def screen(advice: Advice) -> str:
    """Return the advice as text, no line of which is longer than 80 columns."""
    parts = [_title(advice), _time(advice), _slow(advice), _what_if(advice)]
    parts += [_to_loss(advice)] if advice.to_loss else []
    parts += [_recommendation(advice)]
    return "\n\n".join("\n".join(part) for part in parts)


def _title(advice: Advice) -> Iterator[str]:
    observed = advice.observed
    clock = "virtual seconds" if observed.simulated else "seconds"
    hosts = len(set(observed.hosts))
    where = "simulated" if observed.simulated else "one host" if hosts == 1 else f"{hosts} hosts"
    yield from _wrapped(
        f"{observed.history.path}: {advice.shares.steps} steps, {observed.n} workers, {where}; "
        f"{advice.measured_seconds:.3g} {clock} a step",
        "",
    )
    links = advice.links
    if links.bandwidth < 1e12:
        said = {"measured": "measured at its start", "assumed": "assumed, not measured", "one host": "memory, assumed"}
        rate = f"{8e-6 * links.bandwidth:,.0f} Mbit/s, {1e3 * links.latency:.2g} ms one way"
        yield f"links: {rate} ({said.get(links.source, 'as [simulate] states them')})"


def _time(advice: Advice) -> Iterator[str]:
    shares = advice.shares
    outside = shares.outside_seconds
    steps = shares.steps * shares.step_seconds
    whole = steps + (outside or 0.0)
    yield f"{'WHERE THE TIME WENT':<41}{'s a step':>10}{'s in all':>12}{'share':>8}"
    for part in shares.parts:
        total = part.seconds * shares.steps
        yield f"  {part.name:<39}{part.seconds:>10.3g}{total:>12.3g}{total / whole:>8.0%}"
    if outside is not None:
        started = "" if shares.startup_seconds is None else f" ({shares.startup_seconds:.3g} s)"
        yield f"  {f'start-up{started}, evaluation, end':<39}{'':>10}{outside:>12.3g}{outside / whole:>8.0%}"


def _slow(advice: Advice) -> Iterator[str]:
    who = {
        "persistent": "one worker, nearly always" if len(advice.slowness.workers) == 1 else "some workers, nearly always",
        "host": "a host",
        "bursts": "workers in bursts",
        "everyone": "everyone now and then",
        "nobody": "nobody",
    }
    yield f"WHO IS SLOW: {who[advice.slowness.kind]}"
    for line in advice.slowness.evidence:
        yield from _wrapped(line, "  ")


def _what_if(advice: Advice) -> Iterator[str]:
    yield f"{'WHAT IF (predicted)':<{_NAME}}{'s/step':>7}{'+-':>7}{'MB':>6}{'error':>6}{'noise':>6}"
    for row in rows(advice):
        yield _line(row)
    yield from _wrapped(
        "MB: in a step, both ways. error: of decoding; 0: the gradient is whole. noise: of one bit, amplified by decoding. "
        f"1 bit: {advice.one_bit_kind}.",
        "  ",
    )


def _line(row: Row) -> str:
    mark = "> " if row.recommended else "  "
    name = mark + row.name
    shown = name if len(name) < _NAME else f"{name[: _NAME - 2]}~"
    if row.prediction is None:
        return f"{shown:<{_NAME}}{row.seconds:>7.3g}"
    p = row.prediction
    megabytes, error = (p.up + p.down) / 1e6, p.decoding_error if p.decoding_error > 1e-4 else 0.0
    noise = f"{p.amplification:.2g}" if row.tried is not None and row.tried.one_bit else "-"
    spread = p.plus_minus if p.plus_minus > 1e-3 * p.seconds else 0.0
    return f"{shown:<{_NAME}}{p.seconds:>7.3g}{spread:>7.1g}{_short(megabytes):>6}{error:>6.2g}{noise:>6}"


def _to_loss(advice: Advice) -> Iterator[str]:
    yield f"{f'TO TRAINING LOSS {advice.target_loss:g} (simulated)':<{_NAME}}{'s/step':>7}{'steps':>12}{'s':>12}"
    for one in advice.to_loss:
        name = f"  {name_of(one.tried)}"
        shown = name if len(name) < _NAME else f"{name[: _NAME - 2]}~"
        steps = f"{sum(one.steps) / len(one.steps):.0f}" if isfinite(one.seconds) else f"> {one.limit}"
        seconds = f"{one.seconds:.3g}" if isfinite(one.seconds) else f"> {one.limit * one.tried.prediction.seconds:.3g}"
        yield f"{shown:<{_NAME}}{one.tried.prediction.seconds:>7.3g}{steps:>12}{seconds:>12}"


def _short(megabytes: float) -> str:
    return f"{megabytes:.2g}" if megabytes >= 0.01 else "<0.01"


def _recommendation(advice: Advice) -> Iterator[str]:
    found = advice.recommendation
    yield from _wrapped(f"RECOMMENDED: {found.reason}", "")
    for line in (found.one_bit, advice.without_the_slow):
        if line is not None:
            yield from _wrapped(line, "  ")
    snippet = found.best.candidate.snippet.strip()
    if not found.keep and snippet:
        yield ""
        yield from (f"    {line}" if line else "" for line in snippet.splitlines())
        yield ""
    for line in advice.unsure:
        yield from _wrapped(f"unsure: {line}", "  ")


def _wrapped(text: str, indent: str) -> Iterable[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)
