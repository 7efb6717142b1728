"""Traces are replayed row by row; what is not a trace is an error that names the line."""

import math
import re

import numpy as np
import pytest

from gcdl.errors import DataError, ParameterError
from gcdl.stragglers import TraceDelays, delays_at, read_trace, write_trace

SECONDS = np.array([[0.0, 0.125, math.inf], [1.5, 1e-7, 0.1 + 0.2]])


@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_what_was_written_is_read_to_the_bit(tmp_path, name):
    write_trace(tmp_path / name, SECONDS)
    np.testing.assert_array_equal(read_trace(tmp_path / name), SECONDS)
    np.testing.assert_array_equal(read_trace(tmp_path / name, 3), SECONDS)


def test_a_trace_loops_or_ends(tmp_path):
    write_trace(tmp_path / "t.csv", SECONDS)
    looped = TraceDelays(3, file=str(tmp_path / "t.csv"))
    ended = TraceDelays(3, file=str(tmp_path / "t.csv"), loop=False)
    for step in range(6):
        np.testing.assert_array_equal(delays_at(looped, 3, 0, step).seconds, SECONDS[step % 2])
        np.testing.assert_array_equal(delays_at(ended, 3, 0, step).seconds, SECONDS[step] if step < 2 else 0.0)


WRONG = {
    "": r": is empty$",
    "step,0,1,2\n": r", line 2: no steps$",
    "step,0,2\n0,1,1\n": r", line 1: worker 1 is missing; a trace for 3 workers has the header step,0,...,2$",
    "step,0,1,2,3\n": r", line 1: .* is not the header of a trace for 3 workers",
    "0,1,1,1\n": r", line 1: .* is not the header",
    "step,0,1,2\n0,1,1,1\n1,1,1\n": r", line 3: 2 values for 3 workers$",
    "step,0,1,2\n0,1,1,1,1\n": r", line 2: 4 values for 3 workers$",
    "step,0,1,2\n0,1,1,1\n\n": r", line 3: 0 values for 3 workers$",
    "step,0,1,2\n0,1,-0.5,1\n": r", line 2: worker 1: -0.5 s; a delay is 0 or more, or inf$",
    "step,0,1,2\n0,1,1,1\n1,1,1,nan\n": r", line 3: worker 2: nan s; a delay is 0 or more, or inf$",
    "step,0,1,2\n0,1,1,soon\n": r", line 2: worker 2: 'soon' is not a number of seconds$",
    "step,0,1,2\n0,1,,1\n": r", line 2: worker 1: '' is not a number of seconds$",
    "step,0,1,2\n0,1,1,1\n2,1,1,1\n": r", line 3: step '2' where step 1 was expected$",
    "step,0,1,2\n0,1,1,\xff\n": r", line 2: worker 2:",
}


@pytest.mark.parametrize("text", WRONG, ids=repr)
def test_a_csv_that_is_no_trace_is_an_error_that_names_the_line(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="^" + re.escape(str(path)) + WRONG[text]):
        TraceDelays(3, file=str(path))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4)), r": 'seconds' is for 4 workers, not 3$"),
        (np.zeros(3), r": 'seconds' is float64 of shape \(3,\); needs numbers"),
        (np.zeros((0, 3)), r": 'seconds' is float64 of shape \(0, 3\)"),
        (np.array([["a"] * 3]), r": 'seconds' is <U1 of shape \(1, 3\)"),
        (np.array([[0.0, 1, 2], [0, -1, 0]]), r", row 1: worker 1: -1.0 s; a delay is 0 or more, or inf$"),
        (np.array([[0.0, 1, math.nan]]), r", row 0: worker 2: nan s"),
    ],
)
def test_an_npz_that_is_no_trace_is_an_error_that_names_the_row(tmp_path, array, message):
    np.savez(tmp_path / "t.npz", seconds=array)
    with pytest.raises(DataError, match=message):
        TraceDelays(3, file=str(tmp_path / "t.npz"))


def other_kinds(folder):
    """Files under another's name, and what the message says of each."""
    np.save(folder / "array.npy", np.zeros((2, 3)))
    np.savez(folder / "archive.npz", seconds=np.zeros((2, 3)))
    np.savez(folder / "objects.npz", seconds=np.array([[None] * 3]))
    text = "step,0,1,2\n0,0,0,0\n"
    return [
        ("array.npz", (folder / "array.npy").read_bytes(), "is a single numpy array"),
        ("text.npz", text.encode(), "is no archive of arrays"),
        ("empty.npz", b"", "is empty"),
        ("cut.npz", (folder / "archive.npz").read_bytes()[:-30], "cannot be read"),
        ("objects.npz", (folder / "objects.npz").read_bytes(), "Object arrays"),
        ("archive.csv", (folder / "archive.npz").read_bytes(), "is a zip archive"),
        ("array.csv", (folder / "array.npy").read_bytes(), "is a single numpy array"),
        ("excel.csv", text.encode("utf-8-sig"), "byte-order mark"),
        ("wide.csv", text.encode("utf-16"), "UTF-16"),
    ]


@pytest.mark.parametrize("number", range(9))
def test_a_file_under_the_name_of_another_kind_is_called_what_it_is(tmp_path, number):
    name, content, says = other_kinds(tmp_path)[number]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: .*{says}"):
        TraceDelays(3, file=str(tmp_path / name))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        TraceDelays(3, file=str(tmp_path / "none.csv"))
    with pytest.raises(ParameterError, match=r"^file: '.*t\.txt' is neither \.csv nor \.npz$"):
        TraceDelays(3, file=str(tmp_path / "t.txt"))
    (tmp_path / "t.npz").write_text("no zip")
    with pytest.raises(DataError, match=r"t\.npz: "):
        TraceDelays(3, file=str(tmp_path / "t.npz"))
    np.savez(tmp_path / "other.npz", delays=np.zeros((1, 3)))
    with pytest.raises(DataError, match=r"has no array 'seconds'"):
        TraceDelays(3, file=str(tmp_path / "other.npz"))
    (tmp_path / "latin.csv").write_bytes(b"step,0\n0,\xff\n")
    with pytest.raises(DataError, match=r"latin\.csv: cannot be read"):
        TraceDelays(1, file=str(tmp_path / "latin.csv"))
