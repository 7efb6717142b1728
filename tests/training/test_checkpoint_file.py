"""A checkpoint is there whole or not at all, the last ones are kept, and a damaged one is refused."""

import os
import random

import numpy as np
import pytest

from gcdl.errors import DataError
from gcdl.training import checkpoint_file as checkpoint


def made(step, d=5):
    return checkpoint.Checkpoint(
        step=step,
        parameters=np.full(d, step, dtype=np.float32),
        accepted=np.arange(3, dtype=np.int64) - 1,
        optimizer={"momentum_buffer": np.full(d, -step, dtype=np.float32), "step": np.array(float(step))},
        states={1: np.arange(8, dtype=np.uint8)},
        B=np.eye(3),
        decoder="least_squares",
        progress={"totals": {"steps": step}},
    )


def save(folder, step, d=5, keep=2):
    return checkpoint.save(folder, made(step, d), keep)


def read(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def names(folder):
    return sorted(path.name for path in (folder / "checkpoint").iterdir())


def test_a_checkpoint_holds_what_was_saved(tmp_path):
    path = save(tmp_path, 100)
    assert path == tmp_path / "checkpoint" / "step-00000100.npz"
    found = read(path)
    assert set(found) == {
        "step", "parameters", "accepted", "optimizer.momentum_buffer", "optimizer.step", "state.1", "B", "decoder", "progress",
        "sha256",
    }  # fmt: skip
    assert int(found["step"]) == 100
    assert found["parameters"].tolist() == [100.0] * 5
    assert found["parameters"].dtype == np.float32
    assert found["accepted"].tolist() == [-1, 0, 1]
    assert found["accepted"].dtype == np.int64
    assert found["optimizer.momentum_buffer"].tolist() == [-100.0] * 5


def test_what_was_saved_is_what_is_loaded(tmp_path):
    saved, found = made(100), checkpoint.load(save(tmp_path, 100))
    assert (found.step, found.decoder, found.progress) == (100, "least_squares", {"totals": {"steps": 100}})
    for name in ("parameters", "accepted", "B"):
        np.testing.assert_array_equal(getattr(found, name), getattr(saved, name))
        assert getattr(found, name).dtype == getattr(saved, name).dtype
    assert set(found.optimizer) == {"momentum_buffer", "step"}
    assert found.optimizer["step"].shape == ()
    assert found.states[1].tolist() == list(range(8))


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest(tmp_path) == (None, [])


def test_a_truncated_or_altered_checkpoint_is_refused_by_name_and_the_one_before_it_is_used(tmp_path):
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    good = path.read_bytes()
    draws = random.Random(0)
    refused = 0
    for trial in range(200):
        bad = bytearray(good)
        if trial % 2:
            del bad[draws.randrange(len(bad)) :]
        else:
            for _ in range(draws.choice((1, 1, 30))):
                bad[draws.randrange(len(bad))] ^= 1 << draws.randrange(8)
        path.write_bytes(bad)
        found, errors = checkpoint.newest(tmp_path)
        assert found is not None
        if found.step == 2:  # what was altered is not part of what the checkpoint says: dates, padding
            assert errors == []
            np.testing.assert_array_equal(found.parameters, made(2).parameters)
            np.testing.assert_array_equal(found.states[1], made(2).states[1])
        else:
            refused += 1
            assert found.step == 1
            assert [name for name, _ in errors] == [path]
            assert str(path) in str(errors[0][1])
    assert refused > 120


def test_a_checkpoint_whose_parts_are_whole_but_not_its_own_is_refused(tmp_path):
    path = save(tmp_path, 1)
    arrays = read(path)
    arrays["parameters"][0] += 1.0
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(DataError, match="SHA-256"):
        checkpoint.load(path)


def test_a_draft_of_a_run_that_was_killed_is_no_checkpoint_and_is_removed(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoint" / "step-00000002.draft").write_bytes(b"half a check")
    assert checkpoint.newest(tmp_path)[0].step == 1
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000001.npz", "step-00000003.npz"]


def test_a_checkpoint_needs_no_pickle(tmp_path):
    with np.load(save(tmp_path, 1), allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_the_last_two_are_kept(tmp_path):
    kept = []
    for step in (1, 2, 10, 99, 100, 1000):
        save(tmp_path, step)
        kept.append(names(tmp_path))
    assert kept[0] == ["step-00000001.npz"]
    assert kept[1] == ["step-00000001.npz", "step-00000002.npz"]
    assert kept[-1] == ["step-00000100.npz", "step-00001000.npz"]
    assert all(len(each) == 2 for each in kept[1:])


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_are_kept_as_are_asked_for(tmp_path, keep):
    for step in range(5):
        save(tmp_path, step, keep=keep)
    assert names(tmp_path) == [f"step-{step:08d}.npz" for step in range(5 - keep, 5)]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    save(tmp_path, 4)
    path = save(tmp_path, 4, d=2)
    assert names(tmp_path) == ["step-00000003.npz", "step-00000004.npz"]
    assert read(path)["parameters"].tolist() == [4.0, 4.0]


def break_write(monkeypatch):
    def write(file, arrays):
        file.write(b"half a check")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_arrays", write)


def break_sync(monkeypatch):
    def fsync(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)


def break_rename(monkeypatch):
    def replace(self, target):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.replace", replace)


@pytest.mark.parametrize("fail", [break_write, break_sync, break_rename])
@pytest.mark.parametrize("step", [2, 3])  # a step that is there already; a new one
def test_a_failed_write_leaves_the_earlier_ones_and_nothing_else(tmp_path, monkeypatch, fail, step):
    before = {path: path.read_bytes() for path in (save(tmp_path, 1), save(tmp_path, 2))}
    with monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(OSError, match=r"No space|Input/output|Permission"):
            save(tmp_path, step)
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoint").iterdir()} == before
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000002.npz", "step-00000003.npz"]


def test_the_data_are_on_disk_before_they_have_their_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, checkpoint.Path.replace

    def spying_fsync(descriptor):
        events.append(("sync", names(tmp_path)))
        return fsync(descriptor)

    def spying_replace(self, target):
        events.append(("rename", names(tmp_path)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spying_fsync)
    monkeypatch.setattr(checkpoint.Path, "replace", spying_replace)
    path = save(tmp_path, 7)
    assert [event for event, _ in events][:2] == ["sync", "rename"]
    assert all(path.name not in there for _, there in events[:2])


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "notes.txt").write_text("mine")
    for step in range(4):
        save(tmp_path, step)
    assert names(tmp_path) == ["notes.txt", "step-00000002.npz", "step-00000003.npz"]


def test_checkpoints_are_ordered_by_their_step_also_beyond_eight_digits(tmp_path):
    for step in (99_999_990, 99_999_999, 100_000_008):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-100000008.npz", "step-99999999.npz"]
    assert checkpoint.newest(tmp_path)[0].step == checkpoint.newest_step(tmp_path) == 100_000_008


def test_a_checkpoint_beyond_the_steps_that_are_recorded_is_refused_and_the_one_before_it_is_used(tmp_path):
    save(tmp_path, 20)
    save(tmp_path, 40)
    found, refused = checkpoint.newest(tmp_path, recorded=39)
    assert found.step == 20
    assert "step-00000040.npz" in str(refused[0][1])
    assert "steps.jsonl, which has 39 good lines" in str(refused[0][1])
