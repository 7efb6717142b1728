"""A checkpoint is there whole or not at all, and the last two are kept."""

import os

import numpy as np
import pytest

from gcdl import checkpoint


def save(folder, step, d=5):
    return checkpoint.save(
        folder,
        step,
        np.full(d, step, dtype=np.float32),
        np.arange(3, dtype=np.int64) - 1,
        {"momentum_buffer": np.full(d, -step, dtype=np.float32), "step": np.array(float(step))},
    )


def read(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def names(folder):
    return sorted(path.name for path in (folder / "checkpoint").iterdir())


def test_a_checkpoint_holds_what_was_saved(tmp_path):
    path = save(tmp_path, 100)
    assert path == tmp_path / "checkpoint" / "step-00000100.npz"
    found = read(path)
    assert set(found) == {"step", "parameters", "accepted", "optimizer.momentum_buffer", "optimizer.step"}
    assert int(found["step"]) == 100
    assert found["parameters"].tolist() == [100.0] * 5
    assert found["parameters"].dtype == np.float32
    assert found["accepted"].tolist() == [-1, 0, 1]
    assert found["accepted"].dtype == np.int64
    assert found["optimizer.momentum_buffer"].tolist() == [-100.0] * 5


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


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 3)
    save(tmp_path, 4)
    path = save(tmp_path, 4, d=2)
    assert names(tmp_path) == ["step-00000003.npz", "step-00000004.npz"]
    assert read(path)["parameters"].tolist() == [4.0, 4.0]


def break_write(monkeypatch):
    def savez(file, **arrays):
        file.write(b"half a check")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)


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
