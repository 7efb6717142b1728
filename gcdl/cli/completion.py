"""What a shell completes ``KEY=VALUE`` with; ``gcdl --install-completion`` sets completion up."""

from __future__ import annotations

_TOP = ("seed", "workers", "steps")


def complete_override(incomplete: str) -> list[str]:
    """Return the config's keys, each with "=", that begin so; after ``TABLE.kind=`` the kinds there are.

    A key that only some kinds have is offered too: the shell does not know which kind the config has.
    """
    from gcdl.config.values import SECTIONS, RunOptions, SimulateOptions

    table, _, rest = incomplete.partition(".")
    section = SECTIONS.get(table)
    if section is not None and rest.startswith("kind="):
        found = [f"{table}.kind={kind}" for kind in section.kinds]
    else:
        keys = {name: ["kind", *(key for kind in one.kinds for key in one.keys(kind))] for name, one in SECTIONS.items()}
        keys |= {"run": list(RunOptions.model_fields), "simulate": list(SimulateOptions.model_fields)}
        found = [f"{name}=" for name in _TOP] + [f"{name}.{key}=" for name, some in keys.items() for key in dict.fromkeys(some)]
    return [one for one in found if one.startswith(incomplete)]
