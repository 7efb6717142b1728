"""Parameter groups by name: torch's own, on slices of a flat vector, the same wherever they are stepped."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gcdl
from gcdl.compressors.parts import cut_layout
from gcdl.downlinks.array_bytes import archive_bytes, most_state_bytes
from gcdl.errors import ParameterError
from gcdl.optimizers import TorchOptimizer, Tuned, for_layout
from gcdl.optimizers.groups import groups_of
from gcdl.optimizers.schedules import Linear
from gcdl.types import Layout, aligned_vector

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


def no_decay(name):
    """Biases and norms are not decayed; the head has a rate of its own."""
    if name == "3.weight":
        return {"lr": 0.03}
    return {"weight_decay": 0.0} if name.endswith("bias") or name.startswith("1.") else {}


NAMED = dict(net().named_parameters())
LAYOUT = Layout(tuple(NAMED), tuple(tuple(p.shape) for p in NAMED.values()))
MAKES = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
}


def start():
    vector = aligned_vector(LAYOUT.size)
    vector[:] = np.random.default_rng(1).standard_normal(LAYOUT.size)
    return vector


def gradient(step):
    return np.random.default_rng(100 + step).standard_normal(LAYOUT.size).astype(np.float32)


@pytest.fixture(params=MAKES)
def make(request):
    return MAKES[request.param]


@pytest.fixture
def recipe(make):
    return for_layout(TorchOptimizer(make, groups=no_decay), LAYOUT)


def test_groups_are_neighbours_of_equal_options():
    groups = groups_of(LAYOUT, no_decay)
    assert [dict(group.options) for group in groups] == [{}, {"weight_decay": 0.0}, {"lr": 0.03}]
    assert [group.slices for group in groups] == [
        (slice(0, 48),), (slice(48, 72), slice(96, 99)), (slice(72, 96),),
    ]  # fmt: skip
    with pytest.raises(ParameterError, match=r"groups: None for parameter '0\.weight'"):
        groups_of(LAYOUT, lambda name: None)


def test_steps_are_those_of_torch_with_groups(make, recipe):
    vector = start()
    ours = recipe.build(vector)
    tensors = {
        name: nn.Parameter(torch.from_numpy(start()[where].copy())) for name, where in zip(NAMED, LAYOUT.slices, strict=True)
    }
    theirs = make([{"params": [tensor], **no_decay(name)} for name, tensor in tensors.items()])
    for step in range(8):
        ours.step(gradient(step))
        for tensor, where in zip(tensors.values(), LAYOUT.slices, strict=True):
            tensor.grad = torch.from_numpy(gradient(step)[where])
        theirs.step()
    np.testing.assert_allclose(vector, torch.cat([t.detach() for t in tensors.values()]).numpy(), rtol=1e-5, atol=1e-6)
    plain = start()
    without = TorchOptimizer(make).build(plain)
    for step in range(8):
        without.step(gradient(step))
    assert not np.allclose(plain, vector, atol=1e-3)


def test_a_state_is_by_coordinate_and_enough_to_go_on(recipe):
    vector = start()
    optimizer = recipe.build(vector)
    for step in range(4):
        optimizer.step(gradient(step))
    state = optimizer.state()
    assert all(array.shape in ((LAYOUT.size,), ()) for array in state.values())
    other = vector.copy()
    again = recipe.build(other)
    again.load(state)
    optimizer.step(gradient(4))
    again.step(gradient(4))
    assert vector.tobytes() == other.tobytes()
    assert archive_bytes(state) <= most_state_bytes(recipe, LAYOUT.size)


@pytest.mark.parametrize("cut", [16, 50, 80])
def test_slices_of_the_vector_step_as_the_whole_to_the_bit(make, recipe, cut):
    whole, sliced = start(), start()
    optimizer = recipe.build(whole)
    slices = [slice(0, cut), slice(cut, LAYOUT.size)]
    parts = [
        for_layout(TorchOptimizer(make, groups=no_decay), cut_layout(LAYOUT, where)).build(sliced[where]) for where in slices
    ]
    for step in range(5):
        optimizer.step(gradient(step))
        for part, where in zip(parts, slices, strict=True):
            part.step(gradient(step)[where])
    assert whole.tobytes() == sliced.tobytes()


def test_a_schedule_moves_every_groups_rate(make):
    scheduled = for_layout(Tuned(TorchOptimizer(make, groups=no_decay), Linear(steps=4, final=0.0), 0.0), LAYOUT).build(start())
    for step in range(4):
        scheduled.step(gradient(step))
    assert [group["lr"] for group in scheduled._torch[0].param_groups] == [0.0, 0.0, 0.0]


def test_groups_need_the_names(make):
    with pytest.raises(ParameterError, match="groups: go by the names"):
        TorchOptimizer(make, groups=no_decay).build(start())


@pytest.mark.parametrize("downlink", ["model", "replies"])
def test_a_run_with_groups_is_the_same_on_replicas_and_goes_on_to_the_bit(downlink, tmp_path):
    def trainer(name):
        return gcdl.Trainer(
            gcdl.TorchProblem(net, cross_entropy, (X, Y), batch_size=4),
            workers=4,
            code={"kind": "fractional_repetition", "stragglers": 1},
            compressor="stochastic_sign",
            optimizer=TorchOptimizer(MAKES["adamw"], groups=no_decay),
            downlink={"kind": downlink} if downlink == "model" else {"kind": downlink, "check_every": 2},
            out=tmp_path / name,
        )

    straight = trainer("straight")
    straight.run(12)
    broken = trainer("broken")
    broken.run(5)
    broken.run(12, resume=True)
    assert broken.summary.model_sha256 == straight.summary.model_sha256
