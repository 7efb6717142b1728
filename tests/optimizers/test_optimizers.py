"""One flat vector steps as an ordinary torch model would."""

import dataclasses

import numpy as np
import pytest
import torch

from gcdl.errors import ParameterError
from gcdl.optimizers import OPTIMIZERS, Adam, AdamW, Sgd, SignSteps, TorchOptimizer, Tuned
from gcdl.optimizers.schedules import SCHEDULES, Constant, Cosine, Linear, Step
from gcdl.types import aligned_vector

SHAPES = [(3, 4), (5,), (1,), (2, 2, 2)]
D = 26
SCHEDULE = Cosine(steps=12, warmup=3, final=0.1)


class PlainSignSgd(torch.optim.Optimizer):
    """torch has none."""

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data -= group["lr"] * parameter.grad.sign()


TABLE = [
    (Sgd(), lambda p: torch.optim.SGD(p, lr=0.1)),
    (Sgd(lr=0.03, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9)),
    (
        Sgd(lr=0.05, momentum=0.5, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, weight_decay=0.01),
    ),
    (Sgd(lr=0.05, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    (Adam(), lambda p: torch.optim.Adam(p)),
    (
        Adam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    (AdamW(lr=0.02, weight_decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.3)),
    (SignSteps(lr=0.01), lambda p: PlainSignSgd(p, {"lr": 0.01})),
    (TorchOptimizer(lambda p: torch.optim.RMSprop(p, lr=0.01)), lambda p: torch.optim.RMSprop(p, lr=0.01)),
]


@pytest.fixture(params=TABLE, ids=lambda row: str(row[0]).split(" at 0x")[0])  # an address would differ between processes
def recipe_and_torch(request):
    return request.param


@pytest.fixture
def recipe(recipe_and_torch):
    return recipe_and_torch[0]


def start():
    parameters = aligned_vector(D)
    parameters[:] = np.random.default_rng(0).standard_normal(D)
    return parameters


def gradient(step):
    return np.random.default_rng(100 + step).standard_normal(D).astype(np.float32)


def test_the_table_names_every_optimizer():
    assert {type(recipe) for recipe, _ in TABLE} == {*OPTIMIZERS.values(), TorchOptimizer}


def test_steps_are_those_of_torch_on_a_model_of_several_tensors(recipe_and_torch):
    recipe, make = recipe_and_torch
    parameters = start()
    edges = np.cumsum([0, *(int(np.prod(shape)) for shape in SHAPES)])
    model = [
        torch.nn.Parameter(torch.from_numpy(parameters[a:b].copy()).view(shape))
        for a, b, shape in zip(edges[:-1], edges[1:], SHAPES, strict=True)
    ]
    theirs, ours = make(model), recipe.build(parameters)
    for step in range(15):
        ours.step(gradient(step))
        for a, b, parameter in zip(edges[:-1], edges[1:], model, strict=True):
            parameter.grad = torch.from_numpy(gradient(step)[a:b]).view(parameter.shape)
        theirs.step()
        flat = torch.cat([parameter.detach().ravel() for parameter in model]).numpy()
        np.testing.assert_allclose(parameters, flat, rtol=2e-6, atol=2e-6)


def test_plain_sgd_is_w_minus_lr_times_g():
    parameters = start()
    expected = parameters - np.float32(0.1) * gradient(0)
    Sgd(lr=0.1).build(parameters).step(gradient(0))
    np.testing.assert_allclose(parameters, expected, rtol=1e-6)


def test_momentum_is_v_from_momentum_v_plus_g():
    parameters = start()
    w, v = parameters.astype(np.float64), np.zeros(D)
    optimizer = Sgd(lr=0.1, momentum=0.9).build(parameters)
    for step in range(10):
        optimizer.step(gradient(step))
        v = 0.9 * v + gradient(step)
        w = w - 0.1 * v
    np.testing.assert_allclose(parameters, w, atol=1e-5)


def test_the_vector_is_stepped_in_place(recipe):
    parameters = start()
    address, before = parameters.ctypes.data, parameters.copy()
    optimizer = recipe.build(parameters)
    assert optimizer.parameters is parameters
    for step in range(3):
        optimizer.step(gradient(step))
        assert not np.array_equal(parameters, before)
        before = parameters.copy()
    assert optimizer.parameters.ctypes.data == address


def test_the_gradient_is_left_alone_and_not_kept(recipe):
    one, other = start(), start()
    buffer, first, second = np.empty(D, dtype=np.float32), recipe.build(one), recipe.build(other)
    for step in range(5):
        buffer[:] = gradient(step)  # the master reuses its buffer
        first.step(buffer)
        assert buffer.tobytes() == gradient(step).tobytes()
        buffer.fill(np.nan)
        second.step(gradient(step))
    assert one.tobytes() == other.tobytes()


def test_equal_gradients_make_equal_parameters_to_the_bit(recipe):
    results = set()
    for _ in range(2):
        parameters = start()
        optimizer = recipe.build(parameters)
        for step in range(5):
            optimizer.step(gradient(step))
        results.add(parameters.tobytes())
    assert len(results) == 1


def test_state_is_nothing_before_the_first_step(recipe):
    assert recipe.build(start()).state() == {}


def test_plain_sgd_has_no_state():
    optimizer = Sgd().build(start())
    optimizer.step(gradient(0))
    assert optimizer.state() == {}


def test_sign_steps_are_of_one_size_with_decoupled_weight_decay():
    parameters = start()
    optimizer = Tuned(SignSteps(lr=0.1, weight_decay=0.5), Linear(steps=4), 0.0).build(parameters)
    expected = start().astype(np.float64)
    for step in range(3):
        optimizer.step(gradient(step) * np.float32(10.0 ** (step - 1)))
        lr = 0.1 * (1.0 - step / 4)
        expected = (1.0 - 0.5 * lr) * expected - lr * np.sign(gradient(step))
        np.testing.assert_allclose(parameters, expected, rtol=1e-5, atol=1e-6)


def test_what_is_always_tied_goes_up_and_down_also_after_a_resume():
    parameters = start()
    optimizer, resumed = SignSteps(lr=0.25).build(parameters), SignSteps(lr=0.25).build(other := start())
    moves = []
    for step in range(4):
        before = parameters.copy()
        if step == 3:
            other[:] = parameters
            resumed.load(optimizer.state())
            resumed.step(np.zeros(D, dtype=np.float32))
        optimizer.step(np.zeros(D, dtype=np.float32))
        moves.append(parameters - before)
    for move, expected in zip(moves, (-0.25, 0.25, -0.25, 0.25), strict=True):
        np.testing.assert_allclose(move, expected, atol=1e-6)
    assert other.tobytes() == parameters.tobytes()


def test_the_state_of_momentum_is_v():
    optimizer = Sgd(momentum=0.5).build(start())
    optimizer.step(gradient(0))
    optimizer.step(gradient(1))
    assert set(optimizer.state()) == {"momentum_buffer"}
    np.testing.assert_allclose(optimizer.state()["momentum_buffer"], 0.5 * gradient(0) + gradient(1), rtol=1e-5, atol=1e-6)


def test_the_state_of_adam_is_its_moments_and_its_steps():
    optimizer = Adam(beta1=0.9, beta2=0.99).build(start())
    optimizer.step(gradient(0))
    state = optimizer.state()
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
    assert float(state["step"]) == 1.0
    np.testing.assert_allclose(state["exp_avg"], 0.1 * gradient(0), rtol=1e-5)
    np.testing.assert_allclose(state["exp_avg_sq"], 0.01 * gradient(0) ** 2, rtol=1e-4)


def test_the_state_is_a_copy(recipe):
    parameters = start()
    optimizer = recipe.build(parameters)
    optimizer.step(gradient(0))
    before = {name: value.copy() for name, value in optimizer.state().items()}
    for value in optimizer.state().values():
        value[...] = 7
    held = optimizer.state()
    optimizer.step(gradient(1))
    for name, value in before.items():
        np.testing.assert_array_equal(held[name], value)


def test_a_recipe_is_frozen(recipe):
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0


# --- schedules and clipping -----------------------------------------------------------------------------------------


TUNED = [
    Tuned(Sgd(lr=0.1, momentum=0.9), SCHEDULE, 2.0),
    Tuned(AdamW(), Step(every=3), 0.0),
    TorchOptimizer(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=20),
        clip_norm=1.0,
    ),
    TorchOptimizer(
        lambda p: torch.optim.NAdam(p, lr=0.01),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=4), torch.optim.lr_scheduler.MultiStepLR(o, [3, 5])],
            [4],
        ),
    ),
]


@pytest.mark.parametrize("recipe", TUNED, ids=["cosine", "step", "one cycle", "sequential"])
def test_a_state_is_all_that_is_needed_to_go_on_to_the_bit(recipe):
    parameters = start()
    optimizer = recipe.build(parameters)
    for step in range(7):
        optimizer.step(gradient(step))
    saved, at = {name: value.copy() for name, value in optimizer.state().items()}, parameters.copy()
    other = start()
    other[:] = at
    again = recipe.build(other)
    for step in range(3):  # it need not be fresh
        again.step(gradient(step))
    other[:] = at
    again.load(saved)
    assert again.lr == optimizer.lr
    for step in range(7, 12):
        optimizer.step(gradient(step))
        again.step(gradient(step))
        assert again.lr == optimizer.lr
    assert parameters.tobytes() == other.tobytes()
    assert all(np.array_equal(optimizer.state()[name], value) for name, value in again.state().items())


def test_schedules_are_their_formulas():
    assert [Constant(warmup=2)(t) for t in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert [Linear(steps=4, final=0.5)(t) for t in range(6)] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5]
    assert [Step(every=2, decay=0.5)(t) for t in range(5)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    cosine = Cosine(steps=12, warmup=2, final=0.1)
    assert cosine(0) == 0.5
    assert cosine(1) == cosine(2) == 1.0
    assert cosine(7) == pytest.approx(0.55)
    assert cosine(12) == cosine(99) == pytest.approx(0.1)
    with pytest.raises(ParameterError, match="warmup"):
        Cosine(steps=3, warmup=3)
    assert set(SCHEDULES) == {"constant", "linear", "cosine", "step"}


def test_the_rate_of_a_step_is_lr_times_its_factor():
    parameters = start()
    optimizer = Tuned(Sgd(lr=0.2), SCHEDULE, 0.0).build(parameters)
    for step in range(14):
        before = parameters.copy()
        assert optimizer.lr == pytest.approx(0.2 * SCHEDULE(step))
        optimizer.step(gradient(step))
        np.testing.assert_allclose(before - parameters, 0.2 * SCHEDULE(step) * gradient(step), rtol=1e-3, atol=1e-6)


def test_clipping_is_torchs():
    ours, theirs = start(), torch.nn.Parameter(torch.from_numpy(start()))
    optimizer, reference = Tuned(Sgd(lr=0.1), Constant(), 3.0).build(ours), torch.optim.SGD([theirs], lr=0.1)
    norms = []
    for step in range(6):
        g = gradient(step) * np.float32(0.3 + 0.3 * step)  # some above the bound, some below
        norms.append(np.linalg.norm(g))
        kept = g.copy()
        optimizer.step(g)
        assert g.tobytes() == kept.tobytes()
        theirs.grad = torch.from_numpy(kept)
        torch.nn.utils.clip_grad_norm_([theirs], 3.0)
        reference.step()
    assert min(norms) < 3.0 < max(norms)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (TorchOptimizer(lambda p: torch.optim.LBFGS(p)), "LBFGS"),
        (TorchOptimizer(lambda p: None), "NoneType"),
        (TorchOptimizer(lambda p: torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)), "the parameters it is given"),
        (TorchOptimizer(lambda p: torch.optim.SGD(p), torch.optim.lr_scheduler.ReduceLROnPlateau), "needs the loss"),
    ],
)
def test_what_cannot_step_on_a_gradient_alone_is_refused(recipe, says):
    with pytest.raises(ParameterError, match=says):
        recipe.build(start())


def test_nesterov_needs_momentum():
    with pytest.raises(ParameterError, match="nesterov: needs momentum"):
        Sgd(nesterov=True)
