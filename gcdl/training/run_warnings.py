"""Warnings about a run that will be, or was, worse than it need be: noise that a code amplifies, shards that are left out."""

from __future__ import annotations

import inspect

import numpy as np

from gcdl.codes import CODES, GradientCode
from gcdl.codes.health import survey
from gcdl.compressors import Draw, Identity, Message
from gcdl.compressors.votes import multiples
from gcdl.config import SECTIONS, Experiment
from gcdl.errors import ConfigError
from gcdl.problems import LooksAtItself
from gcdl.protocol.wait_rules import WAIT_RULES
from gcdl.types import Layout, Stream, Weights, rng_for

AMPLIFICATION_BOUND = 4.0
"""Compression noise, in units of the uncoded scheme's, beyond which a code is warned of: 16 times the variance."""
COVERAGE_BOUND = 0.1
"""How far a shard's mean weight may be from the typical one, relatively."""
LIMIT_BOUND = 0.5
"""Share of the steps' seconds beyond which the master's link, or its work, is called the limit."""


def noise_warning(experiment: Experiment) -> str | None:
    """Warn if the code would amplify compression noise past the bound in the worst pattern it plans for; name a better one."""
    if isinstance(experiment.compressor, Identity):
        return None
    code = experiment.code
    worst = survey(
        code, code.stragglers, rng_for(experiment.config.seed, Stream.CODE, 1), _patterns(code.n)
    ).worst_amplification
    if worst <= AMPLIFICATION_BOUND:
        return None
    kind = experiment.config.choices["code"].kind
    better = [(name, found) for name, found in _others(code, kind, experiment.config.seed) if found < worst]
    use = (
        f"; use code.kind = {better[0][0]!r} ({better[0][1]:.1f} times)"
        if better
        else "; use compressor.kind = 'identity', or fewer stragglers"
    )
    return (
        f"{kind} with s = {code.stragglers} multiplies compression noise by up to {worst:.1f} "
        f"(bound: {AMPLIFICATION_BOUND:g}){use}"
    )


def votes_warning(experiment: Experiment) -> str | None:
    """Warn if replies are to go down as votes, and are none: of this compressor never, or of this code as a rule."""
    if not experiment.downlink.votes:
        return None
    codec = experiment.compressor.codec(Layout(("x",), ((8,),)))
    agreed = np.ones(codec.agreed_count, dtype=np.float32) if codec.agreed_count else None
    reply = Message(np.zeros(codec.payload_bytes, dtype=np.uint8), 1.0, Draw(0, 0, 0, 0, agreed))
    if codec.votes([reply]) is None:
        kind = experiment.config.choices["compressor"].kind
        return f"downlink.kind = 'votes': replies of compressor.kind = {kind!r} have no common scale; they go down as they are"
    code = experiment.code
    arrived = np.arange(code.n) >= code.stragglers
    if code.decoder.needs_noise or multiples([weight for weight in code.decoding_vector(arrived).tolist() if weight]) is None:
        return (
            "downlink.kind = 'votes': the weights of this code's replies are no small multiples of one another; "
            "they go down as they are, as with downlink.kind = 'replies'"
        )
    return None


def problem_warnings(experiment: Experiment) -> list[str]:
    """Return what the problem finds suspicious about itself."""
    problem = experiment.problem
    return problem.warnings() if isinstance(problem, LooksAtItself) else []


def coverage_warning(coverage: Weights, code: GradientCode) -> str | None:
    """Warn if a shard entered with a mean weight, (k,), far from the typical one: the model is biased.

    The typical weight is the median: a decoder that shrinks all shards alike (MMSE) changes the step, not the direction.
    """
    typical = float(np.median(coverage)) or 1.0
    off = np.abs(coverage / typical - 1.0)
    worst = int(off.argmax())
    if off[worst] <= COVERAGE_BOUND:
        return None
    holders = ", ".join(str(worker) for worker in np.flatnonzero(code.B[:, worst]))
    left_out = coverage[worst] < typical
    return (
        f"shard {worst} entered with weight {coverage[worst]:.2f} on average, a typical one with {typical:.2f} "
        f"({'its holders, workers ' + holders + ', were left out too often' if left_out else 'held by workers ' + holders}); "
        f"the model is biased ({int((off > COVERAGE_BOUND).sum())} of {len(coverage)} shards are off by more than "
        f"{COVERAGE_BOUND:.0%})"
    )


def limit_warning(link_share: float, master_share: float, *, divisible: bool) -> str | None:
    """Warn if the master is what a simulated run waited for, most of the time; shares are of the steps' seconds.

    ``divisible``: more masters could share the model.
    """
    share, what = max((link_share, "the master's link"), (master_share, "the master's decoding and stepping"))
    if share <= LIMIT_BOUND:
        return None
    advice = "; run.masters = 0 takes as many masters as pay" if divisible else ""
    return f"{what} is the limit: {share:.0%} of the steps' seconds{advice}"


def timeout_warning(experiment: Experiment, step: int, replies: int) -> str | None:
    """Warn if a step ended at a [wait] timeout that nobody chose: then the default decides how long a simulation takes."""
    choice = experiment.config.choices["wait"]
    default = WAIT_RULES.get(choice.kind)
    timeout = experiment.wait.timeout
    if default is None or timeout != inspect.signature(default).parameters["timeout"].default:
        return None
    return (
        f"step {step} ended with {replies} of {experiment.n} replies at [wait] timeout = {timeout:g} s, the default: set "
        "wait.timeout to what a step may take"
    )


def code_of(kind: str, n: int, k: int, stragglers: int, seed: int) -> GradientCode:
    """Return the code of a kind for these sizes: with s stragglers, and s + 1 holders a shard, where it has such keys.

    Raises
    ------
    ConfigError : there is none.
    """
    section = SECTIONS["code"]
    wanted = {"stragglers": stragglers, "replication": stragglers + 1}
    keys = section.keys(kind)
    choice = section.check({"kind": kind, **{key: value for key, value in wanted.items() if key in keys}})
    code: GradientCode = choice.build(n=n, k=k, rng=rng_for(seed, Stream.CODE))
    return code


def _patterns(n: int) -> int:
    """Return how many straggler patterns to look at: a second's worth, whatever n."""
    return max(10, min(500, 450_000 // n**2))


def _others(code: GradientCode, kind: str, seed: int) -> list[tuple[str, float]]:
    """Return the other kinds that are exact for these n, k and s, with their worst amplification, best first."""
    found = []
    for other in CODES:
        try:
            built = code_of(other, code.n, code.k, code.stragglers, seed)
        except ConfigError:
            continue
        health = survey(built, code.stragglers, rng_for(seed, Stream.CODE, 1), _patterns(code.n))
        if other != kind and health.worst_error < 1e-6:
            found.append((other, health.worst_amplification))
    return sorted(found, key=lambda item: item[1])
