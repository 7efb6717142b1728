"""On which host each rank lies: several masters on different ones, in the hosts' order, the others where slots are left."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from gcdl.launch.mpirun import BY_SLOT, read_hostfile

_BY_LINE = "seq:OVERSUBSCRIBE"
_BY_NODE = "node:OVERSUBSCRIBE"


def spread(hostfile: Path | None, masters: int, ranks: int, folder: Path) -> tuple[Path | None, str]:
    """Return the hostfile and the mapping that put the masters on different hosts.

    Parameters
    ----------
    hostfile : the user's, if there is one.
    masters, ranks : how many; the masters are the first ranks.
    folder : for a hostfile with a line for each rank.
    """
    if masters == 1 or (hostfile is None and int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) == 1):
        return hostfile, BY_SLOT
    if hostfile is None:
        return None, _BY_NODE
    path = folder / "hosts"
    path.write_text("".join(f"{host}\n" for host in hosts_by_rank(read_hostfile(hostfile), masters, ranks)))
    return path, _BY_LINE


def hosts_by_rank(slots: Sequence[tuple[str, int]], masters: int, ranks: int) -> list[str]:
    """Return the host of each rank. Where there are more masters than hosts, or more ranks than slots, hosts take turns."""
    names = list(dict.fromkeys(host for host, count in slots if count))
    first = list(itertools.islice(itertools.cycle(names), masters))
    left = [host for host, count in slots for _ in range(count)]
    for host in first:
        if host in left:
            left.remove(host)
    others = itertools.chain(left, itertools.cycle(names))
    return [*first, *itertools.islice(others, ranks - masters)]
