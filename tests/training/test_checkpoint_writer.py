"""A checkpoint with the workers' states waits for them, but the run does not wait for it."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np

from gcdl.protocol.compressor_states import CompressorStates
from gcdl.protocol.tasks import WorkerState
from gcdl.training import checkpoint_file as checkpoint
from gcdl.training import checkpoint_writer as writer_module
from gcdl.training.checkpoint_writer import CheckpointWriter

N, D = 3, 4


class Master:
    """What a keeper sees of one."""

    def __init__(self) -> None:
        self.reader = None
        self.steps_done = 0
        self.accepted = np.full(N, -1)
        self.states = CompressorStates(N, 4 * D)
        self.slices = SimpleNamespace(
            parameters=np.zeros(D, dtype=np.float32), collect=lambda: None, optimizer_state=dict, downlink_state=dict
        )
        self.code = SimpleNamespace(B=np.eye(N))
        self.alive = set(range(N))
        self.asked: list[tuple[int, int]] = []

    def silent(self, accepted):
        return [worker for worker in self.states.missing(accepted) if worker in self.alive]

    def ask_for_states(self):
        self.asked += [(worker, int(self.accepted[worker])) for worker in self.silent(self.accepted)]

    def advance(self, *workers):
        """A step is decoded with these workers' replies."""
        self.accepted[list(workers)] = self.steps_done
        self.steps_done += 1
        if self.reader is not None:
            self.reader()
        self.slices.parameters += 1.0

    def state(self, worker, accepted):
        self.states.take(WorkerState(worker, accepted, np.full(4 * D, 10 * worker + accepted, dtype=np.uint8)))


def keeper_of(master, folder, said):
    return CheckpointWriter(folder, keep=2, master=master, progress=dict, decoder="sum", say=said.append)


def steps(folder):
    return sorted(int(path.stem[5:]) for path in folder.glob("checkpoint/step-*.npz"))


def test_a_checkpoint_is_of_the_step_it_was_begun_at_however_late_the_states_come(tmp_path):
    master, said = Master(), []
    keeper = keeper_of(master, tmp_path, said)
    master.advance(0, 1)
    keeper.ask()
    keeper.begin()
    keeper.settle()
    assert master.asked == [(0, 0), (1, 0)]  # nothing of worker 2 was ever used: its state is that of the beginning
    master.state(0, 0)
    keeper.look()
    keeper.settle()
    master.advance(0, 2)  # the run goes on
    keeper.look()
    keeper.settle()
    assert steps(tmp_path) == []
    master.state(1, 0)
    keeper.look()
    keeper.settle()
    (found,) = [checkpoint.load(path) for path in tmp_path.glob("checkpoint/*.npz")]
    assert found.step == 1
    assert found.parameters.tolist() == [1.0] * D
    assert found.accepted.tolist() == [0, 0, -1]
    assert {worker: int(state[0]) for worker, state in found.states.items()} == {0: 0, 1: 10}
    assert said == []


def test_a_worker_that_was_not_used_since_is_not_asked_again(tmp_path):
    master, said = Master(), []
    keeper = keeper_of(master, tmp_path, said)
    master.advance(0, 1)
    keeper.ask()
    keeper.begin()
    keeper.settle()
    master.state(0, 0)
    master.state(1, 0)
    keeper.look()
    keeper.settle()
    master.advance(1)
    master.asked.clear()
    keeper.ask()
    keeper.begin()
    keeper.settle()
    assert master.asked == [(1, 1)]
    master.state(1, 1)
    keeper.look()
    keeper.settle()
    assert steps(tmp_path) == [1, 2]
    assert {w: int(s[0]) for w, s in checkpoint.newest(tmp_path)[0].states.items()} == {0: 0, 1: 11}


def test_a_state_that_has_not_come_when_the_next_checkpoint_is_due_is_left_out_and_named(tmp_path):
    master, said = Master(), []
    keeper = keeper_of(master, tmp_path, said)
    master.advance(0, 1)
    keeper.ask()
    keeper.begin()
    keeper.settle()
    master.state(0, 0)
    master.advance(0)
    keeper.ask()
    keeper.begin()
    keeper.settle()
    assert steps(tmp_path) == [1]
    found = checkpoint.newest(tmp_path)[0]
    assert set(found.states) == {0}
    assert found.accepted.tolist() == [0, 0, -1]
    assert len(said) == 1
    assert "step 1: the compressor's state of worker 1 has not come" in said[0]


def test_nobody_waits_for_the_state_of_a_lost_worker(tmp_path):
    master, said = Master(), []
    keeper = keeper_of(master, tmp_path, said)
    master.advance(0, 1)
    keeper.ask()
    keeper.begin()
    keeper.settle()
    master.state(0, 0)
    master.alive.discard(1)
    keeper.look()
    keeper.settle()
    assert steps(tmp_path) == [1]
    assert "worker 1" in said[0]


def test_without_states_a_checkpoint_is_written_at_once(tmp_path):
    master = Master()
    master.states = CompressorStates(N, 0)
    master.advance(0, 1, 2)
    keeper = keeper_of(master, tmp_path, [])
    keeper.begin()
    keeper.settle()
    assert steps(tmp_path) == [1]


def test_stopped_together_with_a_worker_a_run_goes_on_from_the_last_checkpoint_that_has_its_state(tmp_path):
    master, said = Master(), []
    keeper = keeper_of(master, tmp_path, said)
    master.advance(0, 1)
    for worker in (0, 1):
        master.state(worker, 0)
    keeper.ask()
    keeper.begin()
    keeper.settle()
    master.advance(0, 1)
    master.state(0, 1)  # worker 1 is killed by whoever stops the run
    keeper.finish(interrupted=True)
    assert steps(tmp_path) == [1]
    assert said == ["no checkpoint of step 2: the compressor's state of worker 1 has not come; that of step 1 has it"]
    keeper.finish()  # a run that ends otherwise keeps its newest model
    assert steps(tmp_path) == [1, 2]
    master.advance(0)
    master.state(0, 2)
    keeper.finish(interrupted=True)  # the one before lacks that state as well
    assert steps(tmp_path) == [2, 3]


def test_the_run_goes_on_while_a_checkpoint_is_written_and_it_is_of_the_step_it_was_begun_at(tmp_path, monkeypatch):
    master, said, told = Master(), [], []
    master.states = CompressorStates(N, 0)
    may_write = threading.Event()
    saved = writer_module.save

    def slow(*arguments):
        assert may_write.wait(10.0)
        return saved(*arguments)

    monkeypatch.setattr(writer_module, "save", slow)
    keeper = keeper_of(master, tmp_path, said)
    keeper._written_to = lambda step, path: told.append(step)
    master.advance(0, 1)
    keeper.begin()
    master.advance(0, 2)  # changes the model while that is written
    keeper.look()
    assert (keeper.written, told, steps(tmp_path)) == (0, [], [])
    may_write.set()
    keeper.settle()
    assert (keeper.written, told, steps(tmp_path)) == (1, [1], [1])
    assert checkpoint.newest(tmp_path)[0].parameters.tolist() == [1.0] * D


def test_what_keeps_a_checkpoint_from_being_written_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    master, said = Master(), []
    master.states = CompressorStates(N, 0)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_module, "save", full)
    keeper = keeper_of(master, tmp_path, said)
    master.advance(0)
    keeper.begin()
    keeper.settle()
    assert keeper.written == 0
    assert len(said) == 1
    assert "checkpoint of step 1 not written: [Errno 28] No space left on device" in said[0]


def test_states_that_come_while_a_checkpoint_is_written_wait_for_it(tmp_path, monkeypatch):
    master, said = Master(), []
    may_write = threading.Event()
    saved = writer_module.save

    def slow(*arguments):
        assert may_write.wait(10.0)
        return saved(*arguments)

    monkeypatch.setattr(writer_module, "save", slow)
    keeper = keeper_of(master, tmp_path, said)
    master.advance(0, 1, 2)
    keeper.ask()
    keeper.begin()
    for worker in range(N):
        master.state(worker, 0)
    keeper.look()  # begins to write it
    master.advance(0)
    threading.Timer(0.2, may_write.set).start()
    master.state(0, 1)
    assert may_write.is_set()
    keeper.settle()
    assert {w: int(s[0]) for w, s in checkpoint.newest(tmp_path)[0].states.items()} == {0: 0, 1: 10, 2: 20}


def test_where_somebody_looks_at_the_run_after_each_step_a_checkpoint_is_there_at_once(tmp_path):
    master, told = Master(), []
    master.states = CompressorStates(N, 0)
    keeper = CheckpointWriter(
        tmp_path,
        keep=2,
        master=master,
        progress=dict,
        decoder="sum",
        say=print,
        written_to=lambda step, path: told.append(step),
        meanwhile=False,
    )
    master.advance(0)
    keeper.begin()
    assert (keeper.written, told, steps(tmp_path)) == (1, [1], [1])
