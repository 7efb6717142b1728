"""What gcdl run and rank 0 tell each other, and what a job prints."""

from __future__ import annotations

import os
import time

from gcdl.host.processes import birth
from gcdl.launch.control_folder import ControlFolder
from gcdl.launch.job_output import worth_showing


def test_each_side_reads_what_the_other_wrote_and_none_before(tmp_path):
    control = ControlFolder(tmp_path / "control")
    control.path.mkdir()
    assert (control.master, control.show_from, control.exit_code) == (None, None, None)
    assert control.launcher == (0, 0)
    control.announce_launcher()
    assert abs(control.began - time.time()) < 5.0
    assert control.launcher == (os.getpid(), birth(os.getpid()))
    control.announce_master()
    control.announce_steps(1234)
    control.decide(3)
    assert (control.master, control.show_from, control.exit_code) == (os.getpid(), 1234, 3)


def test_where_the_launcher_is_gone_the_master_removes_the_folder(tmp_path):
    control = ControlFolder(tmp_path / "control")
    control.path.mkdir()
    (control.path / "launcher").write_text(f"{os.getpid()} {birth(os.getpid()) - 1}")
    control.decide(130)
    assert not control.path.exists()


RULE = "-" * 76
DEATH = [RULE, "prterun noticed that process rank 3 with PID 1 on node a exited on", "signal 9 (Killed).", RULE]
NOTICE = [RULE, "There are not enough slots available in the system.", RULE]


def test_a_death_in_mpiruns_words_is_left_out_and_nothing_else():
    assert list(worth_showing(["a\n", *DEATH, "b", *NOTICE, "-----", "c"])) == ["a", "b", *NOTICE, "-----", "c"]
    assert list(worth_showing([RULE, "no end"])) == [RULE, "no end"]
    assert len(list(worth_showing([RULE, *["line"] * 100]))) == 101
