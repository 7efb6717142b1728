"""Optimizers that look at a parameter's shape: torch's own, on views of the flat vector; refused where somebody steps less."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gcdl
from gcdl.errors import ConfigError, ParameterError
from gcdl.optimizers import TorchOptimizer, for_layout
from gcdl.types import Layout, aligned_vector

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3))


NAMED = dict(net().named_parameters())
LAYOUT = Layout(tuple(NAMED), tuple(tuple(p.shape) for p in NAMED.values()))


def muon(parameters):
    """Muon for the matrices, AdamW for the rest."""
    matrices = [p for p in parameters if p.ndim == 2]
    others = [p for p in parameters if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01), torch.optim.AdamW(others, lr=0.01)]


MAKES = {"muon": muon, "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05)}


@pytest.fixture(params=MAKES)
def make(request):
    return MAKES[request.param]


def start():
    vector = aligned_vector(LAYOUT.size)
    vector[:] = np.random.default_rng(1).standard_normal(LAYOUT.size)
    return vector


def gradient(step):
    return np.random.default_rng(100 + step).standard_normal(LAYOUT.size).astype(np.float32)


def halve(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)


def test_steps_are_those_of_torch_on_the_tensors(make):
    vector = start()
    ours = for_layout(TorchOptimizer(make, halve, shaped=True), LAYOUT).build(vector)
    pairs = list(zip(LAYOUT.slices, LAYOUT.shapes, strict=True))
    tensors = [nn.Parameter(torch.from_numpy(start()[where].copy()).view(shape)) for where, shape in pairs]
    made = make(tensors)
    theirs = made if isinstance(made, list) else [made]
    schedules = [halve(one) for one in theirs]
    for step in range(8):
        ours.step(gradient(step))
        for tensor, (where, shape) in zip(tensors, pairs, strict=True):
            tensor.grad = torch.from_numpy(gradient(step)[where]).view(shape)
        for one, schedule in zip(theirs, schedules, strict=True):
            one.step()
            schedule.step()
    assert vector.tobytes() == torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy().tobytes()
    assert ours.lr == theirs[0].param_groups[0]["lr"]


def test_a_state_goes_on_to_the_bit(make):
    recipe = for_layout(TorchOptimizer(make, halve, shaped=True), LAYOUT)
    whole, half = recipe.build(start()), recipe.build(start())
    for step in range(4):
        whole.step(gradient(step))
        half.step(gradient(step))
    resumed = recipe.build(half.parameters.copy())
    resumed.load(half.state())
    for step in range(4, 8):
        whole.step(gradient(step))
        resumed.step(gradient(step))
    assert resumed.parameters.tobytes() == whole.parameters.tobytes()


def trainer(out, optimizer, **more):
    problem = gcdl.TorchProblem(net, cross_entropy, (X, Y), batch_size=8)
    code = {"kind": "fractional_repetition", "stragglers": 1}
    given = {"code": code, "compressor": "stochastic_sign", "run": {"checkpoint_every": 3}, "out": out, **more}
    return gcdl.Trainer(problem, workers=4, optimizer=optimizer, **given)


def test_a_run_learns_by_it_and_is_resumed_to_the_bit(make, tmp_path):
    optimizer = TorchOptimizer(make, shaped=True)
    whole = trainer(tmp_path / "whole", optimizer)
    losses = [record.train_loss for record in whole.fit(12)]
    assert losses[-1] < losses[0]
    trainer(tmp_path / "half", optimizer).run(5)
    assert trainer(tmp_path / "half", optimizer).run(12, resume=True).model_sha256 == whole.summary.model_sha256


@pytest.mark.parametrize("more", [{"downlink": "votes"}, {"downlink": "sign"}, {"run": {"masters": 2}}])
def test_it_is_refused_where_a_slice_or_a_replica_is_stepped(more, make, tmp_path):
    says = "optimizer: shaped: takes one master and downlink.kind = 'model'; here are"
    with pytest.raises(ConfigError, match=says):
        trainer(tmp_path / "run", TorchOptimizer(make, shaped=True), **more).run(2)


def test_what_does_not_go_together_is_named():
    with pytest.raises(ParameterError, match="groups, shaped: take one"):
        for_layout(TorchOptimizer(muon, groups=lambda name: {}, shaped=True), LAYOUT)
    with pytest.raises(ParameterError, match="shaped: goes by the shapes"):
        TorchOptimizer(muon, shaped=True).build(start())
    with pytest.raises(ParameterError, match="shaped: needs the parameters in their shapes"):
        TorchOptimizer(muon, shaped=True).torch_optimizer([])
    with pytest.raises(ParameterError, match="each of them once"):
        for_layout(TorchOptimizer(lambda p: [torch.optim.SGD(p[:1], lr=0.1)], shaped=True), LAYOUT).build(start())
    with pytest.raises(ParameterError, match="a list does not step on a gradient alone"):
        TorchOptimizer(lambda p: [torch.optim.SGD(p, lr=0.1)]).build(start())
