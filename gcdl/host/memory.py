"""How much memory this machine has."""

from __future__ import annotations

import os


def physical_bytes() -> float:
    """Return the bytes of memory of this machine; inf where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return float("inf")
