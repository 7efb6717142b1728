"""The advice as JSON, for scripts: plain keys that stay."""

from __future__ import annotations

from math import isfinite
from typing import Any

from gcdl.analysis.advise.advice import Advice
from gcdl.analysis.advise.choice_of_rows import name_of, rows
from gcdl.analysis.advise.laboratory import Tried
from gcdl.analysis.advise.prediction import Prediction


def as_json(advice: Advice) -> dict[str, Any]:
    """Return the advice, JSON-ready. Seconds are virtual where ``clock`` says so; bytes are those of a step."""
    observed, found, slow, shares = advice.observed, advice.recommendation, advice.slowness, advice.shares
    return {
        "run": str(observed.history.path),
        "clock": "virtual" if observed.simulated else "real",
        "steps": shares.steps,
        "workers": observed.n,
        "hosts": sorted(set(observed.hosts)),
        "links": {
            "source": advice.links.source,
            "latency_seconds": advice.links.latency,
            "bytes_per_second": None if advice.links.bandwidth > 1e15 else advice.links.bandwidth,
        },
        "step_seconds": shares.step_seconds,
        "outside_seconds": shares.outside_seconds,
        "startup_seconds": shares.startup_seconds,
        "time": {part.key: part.seconds for part in shares.parts},
        "slow": {
            "kind": slow.kind, "workers": slow.workers, "hosts": slow.hosts, "share": slow.share, "factor": slow.factor,
            "evidence": slow.evidence,
        },
        "predicted": {"config": name_of(advice.run), **_predicted(advice.run.prediction)},
        "own": {"config": name_of(advice.own), **_predicted(advice.own.prediction)},
        "without_stragglers": _predicted(advice.ideal),
        "candidates": [_tried(row.tried) for row in rows(advice) if row.key == "candidate" and row.tried is not None],
        "sizes": [_tried(one) for one in advice.sizes],
        "tried": len(advice.tried),
        "recommended": {
            **_tried(found.best), "keep": found.keep, "nothing_wrong": found.nothing_wrong, "reason": found.reason,
            "one_bit": found.one_bit, "one_bit_gain": found.one_bit_gain, "toml": found.best.candidate.snippet,
        },
        "target_loss": advice.target_loss,
        "to_loss": [
            {"config": name_of(one.tried), "steps": one.steps, "seconds": one.seconds if isfinite(one.seconds) else None}
            for one in advice.to_loss
        ],
        "unsure": advice.unsure,
    }  # fmt: skip


def _tried(one: Tried) -> dict[str, Any]:
    candidate = one.candidate
    return {
        "config": name_of(one),
        "code": candidate.kind("code"),
        "stragglers": candidate.stragglers,
        "wait": candidate.kind("wait"),
        "compressor": candidate.kind("compressor"),
        "downlink": candidate.kind("downlink"),
        "masters": one.masters,
        "workers": candidate.config.workers,
        "exact": one.exact,
        **_predicted(one.prediction),
    }


def _predicted(prediction: Prediction) -> dict[str, float]:
    return {
        "seconds": prediction.seconds,
        "plus_minus": prediction.plus_minus,
        "uplink_bytes": prediction.up,
        "downlink_bytes": prediction.down,
        "replies": prediction.replies,
        "decoding_error": prediction.decoding_error,
        "amplification": prediction.amplification,
    }
