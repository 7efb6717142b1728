"""A problem from any module: the coded gradient is the weighted sum of its shards' gradients, whoever holds them."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from gcdl.errors import ParameterError
from gcdl.problems import TorchProblem
from gcdl.problems.minibatches import minibatch

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((61, 6)), RNG.integers(0, 3, 61)
T = RNG.standard_normal((40, 6)).astype(np.float32), RNG.integers(0, 3, 40)


class Tied(nn.Module):
    """Two layers share a weight; one bias is frozen; an embedding mostly rests."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight
        self.a.bias.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Dropping(nn.Module):
    """Dropout that no list of layers shows."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(nn.functional.dropout(torch.tanh(self.a(x)), 0.5, self.training))


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def layered_dropout():
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))


MODELS = {"mlp": mlp, "tied": Tied, "functional dropout": Dropping, "dropout": layered_dropout}


def bind(model=mlp, k=5, seed=3, loss=cross_entropy, data=(X, Y), **more):
    return TorchProblem(model, loss, data, **more).bind(k, seed)


def coded(problem, shards, weights):
    shards = np.array(shards)
    return problem.gradient(problem.load(shards), shards, np.array(weights, dtype=float))


@pytest.mark.parametrize("model", [mlp, Tied], ids=["mlp", "tied"])
@pytest.mark.parametrize(("batch_size", "chunk"), [(0, 256), (4, 6), (0, 5)])
def test_the_coded_gradient_is_the_weighted_sum_of_shard_gradients(model, batch_size, chunk, finish):
    problem = bind(model, batch_size=batch_size, chunk=chunk)
    parameters = problem.initial_parameters()
    shards, weights = [0, 2, 3], [1.25, 0.75, -0.1]
    gradient, loss, yielded = finish(coded(problem, shards, weights), parameters, 4)
    module = copy.deepcopy(problem.module.module).double()
    expected, expected_loss = 0.0, 0.0
    for j, weight in zip(shards, weights, strict=True):
        rows = problem.partition[j][minibatch(len(problem.partition[j]), batch_size, 3, j, 4)]
        value = (
            weight
            * len(problem.partition[j])
            / 61
            * cross_entropy(module(torch.from_numpy(X[rows])), torch.from_numpy(Y[rows]))
        )
        grads = torch.autograd.grad(value, [p for p in module.parameters() if p.requires_grad])
        expected = expected + torch.cat([g.ravel() for g in grads]).numpy()
        expected_loss += value.item()
    np.testing.assert_allclose(gradient, expected, atol=2e-6)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert sum(yielded) == pytest.approx(3.0)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_two_holders_of_a_shard_agree(model, finish):
    one, other = bind(model), bind(model)
    parameters = one.initial_parameters()
    assert parameters.tobytes() == other.initial_parameters().tobytes()
    alone = finish(coded(one, [2], [1.0]), parameters, 1)
    torch.rand(3)  # whatever else was drawn here
    several = coded(other, [1, 2], [0.0, 1.0])
    among = finish(several, parameters.copy(), 1)
    np.testing.assert_allclose(alone[0], among[0], atol=1e-7)
    again = finish(coded(other, [1, 2], [0.0, 1.0]), parameters.copy(), 1)
    assert again[0].tobytes() == among[0].tobytes()
    if "ropout" in str(model) or model is Dropping:
        assert several.apart
        assert not np.allclose(alone[0], finish(coded(one, [2], [1.0]), parameters, 2)[0], atol=1e-3)
        assert alone[0].tobytes() == among[0].tobytes()


def test_parameters_are_read_where_they_cannot_be_written(finish):
    problem = bind()
    parameters = problem.initial_parameters()
    expected = finish(coded(problem, [0, 1], [1.0, 1.0]), parameters, 0)[0]
    parameters.setflags(write=False)
    assert finish(coded(problem, [0, 1], [1.0, 1.0]), parameters, 0)[0].tobytes() == expected.tobytes()


def test_global_generators_are_left_as_they_were(finish):
    problem = bind(Dropping)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    finish(coded(problem, [0, 1], [1.0, 1.0]), problem.initial_parameters(), 0)
    assert torch.equal(before, torch.get_rng_state())


class Noisy(torch.utils.data.Dataset):
    """A map-style data set with a random transform, that notes who was asked for."""

    def __init__(self):
        self.asked = set()

    def __len__(self):
        return 61

    def __getitem__(self, i):
        self.asked.add(i)
        return torch.from_numpy(X[i]).float() + 0.1 * torch.randn(6), int(Y[i])


def test_a_data_set_is_asked_for_a_workers_samples_only_and_its_transforms_agree(finish):
    one, other = Noisy(), Noisy()
    first, second = bind(data=one), bind(data=other)
    parameters = first.initial_parameters()
    a = finish(coded(first, [1, 4], [0.0, 1.0]), parameters, 0)[0]
    b = finish(coded(second, [4], [1.0]), parameters, 0)[0]
    np.testing.assert_allclose(a, b, atol=1e-7)
    assert one.asked == set(first.partition[1]) | set(first.partition[4])
    assert other.asked == set(first.partition[4])


def test_of_a_mapped_file_only_a_minibatch_is_read_and_arrays_are_copied(tmp_path, finish):
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (61, 6))
    file[:] = X
    file.flush()
    mapped = bind(data=(np.load(tmp_path / "x.npy", mmap_mode="r"), Y))
    plain = bind(data=(X.astype(np.float32), Y))
    shard = mapped.load(np.array([1]))[1]
    assert shard.columns[0].column.shape == (61, 6)
    assert isinstance(shard.columns[0].column, np.memmap)
    copied = plain.load(np.array([1]))[1].columns[0]
    assert copied.base is None
    assert len(copied) == len(plain.partition[1])
    results = [finish(coded(p, [1, 3], [1.0, 2.0]), plain.initial_parameters(), 2)[0].tobytes() for p in (mapped, plain)]
    assert results[0] == results[1]


def test_parameters_of_other_types_are_rounded_copies(finish):
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.bfloat16, 0.05)):
        torch.manual_seed(0)
        model = mlp()
        plain = bind(copy.deepcopy(model), batch_size=0)
        problem = bind(model.to(dtype), batch_size=0)
        start = problem.initial_parameters()
        assert start.dtype == np.float32
        g, _, _ = finish(coded(problem, [0], [1.0]), start, 0)
        expected, _, _ = finish(coded(plain, [0], [1.0]), start, 0)
        np.testing.assert_allclose(g, expected, atol=tolerance)
        assert model[0].weight.dtype == dtype


def test_a_sparse_embedding_and_one_number_a_sample(finish):
    tokens = RNG.integers(0, 50, (61, 4))

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(50, 5, sparse=True), nn.Linear(5, 1)

        def forward(self, tokens):
            return self.head(self.table(tokens).mean(1)).squeeze(1)

    problem = bind(Bag, loss=lambda o, t: mse_loss(o, t, reduction="none"), data=(tokens, X[:, 0]), test=(tokens, X[:, 0]))
    start = problem.initial_parameters()
    g, _, _ = finish(coded(problem, [0], [1.0]), start, 0)
    rows = g[:250].reshape(50, 5)
    assert 0 < (rows == 0.0).all(axis=1).sum() < 50
    found = problem.evaluator().evaluate(start, train=True)
    assert found.test_loss == pytest.approx(found.train_loss)
    assert found.test_accuracy is None


def test_evaluation_is_the_mean_over_the_test_set_in_eval_mode():
    problem = bind(
        Dropping, test=T, chunk=7, metrics={"accuracy": lambda o, t: (o.argmax(1) == t).float(), "one": lambda o, t: 1}
    )
    start = problem.initial_parameters()
    found = problem.evaluator().evaluate(start, train=False)
    module = problem.module.module.eval()
    output = module(torch.from_numpy(T[0]))
    assert found.test_loss == pytest.approx(cross_entropy(output, torch.from_numpy(T[1])).item(), rel=1e-6)
    assert found.test_accuracy == pytest.approx((output.argmax(1).numpy() == T[1]).mean())
    assert found.metrics == {"one": 1.0}
    assert found.train_loss is None
    assert bind(test=T).evaluator().evaluate(start[: bind().layout().size], train=False).test_accuracy is not None


def test_a_saved_model_is_the_users_own(tmp_path):
    problem = bind(Tied)
    moved = problem.initial_parameters() + np.float32(0.5)
    problem.save(moved, tmp_path / "model.pt")
    fresh = Tied()
    fresh.load_state_dict(torch.load(tmp_path / "model.pt"))
    assert fresh.a.weight is fresh.b.weight
    assert torch.equal(fresh.head.bias, problem.module.module.head.bias)
    assert np.array_equal(fresh.head.bias.detach().numpy(), moved[-3:])
    assert not torch.equal(fresh.a.bias, problem.module.module.a.bias + 0.5)  # frozen: as it was


def test_a_fingerprint_tells_models_and_samples_apart():
    torch.manual_seed(0)
    prints = {bind().fingerprint(), bind(mlp()).fingerprint(), bind(data=(X + 1e-3, Y)).fingerprint(), bind(Tied).fingerprint()}
    assert len(prints) == 4
    assert bind().fingerprint() == bind().fingerprint()


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(reduction="sum"), lambda o, t: mse_loss(o[:, 0], t.float(), reduction="sum")]
)
def test_a_loss_that_is_a_sum_is_warned_of(loss):
    (warning,) = bind(loss=loss).warnings()
    assert "it is a sum over the samples" in warning
    assert "reduction='mean'" in warning


@pytest.mark.parametrize(
    "loss", [cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1), lambda o, t: cross_entropy(o, t, reduction="none")]
)
def test_a_mean_is_not_warned_of(loss):
    assert bind(loss=loss).warnings() == []


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += len(x)
        return self.head(x)


class Normalised(nn.Module):
    """Scales its own weight in place, each time: from the third pass on, or by way of ``.data``, which torch does not count."""

    def __init__(self, how, since=0):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.how, self.since, self.passes = how, since, 0

    def forward(self, x):
        self.passes += 1
        if self.passes > self.since:
            self.how(self.head.weight)
        return self.head(x)


@torch.no_grad()
def in_place(weight):
    weight /= weight.norm()


def by_data(weight):
    weight.data /= weight.norm()


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 4, max_norm=1.0), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.words(x.long().abs()).mean(1))


def test_a_model_that_writes_its_parameters_only_later_is_refused_too(finish):
    problem = bind(lambda: Normalised(in_place, since=3))
    gradient, parameters = coded(problem, [0, 1], [1.0, 1.0]), problem.initial_parameters()
    for step in range(3):
        finish(gradient, parameters, step)
    with pytest.raises(ParameterError, match=r"layer 'head' \(Linear\) writes its parameter 'weight'"):
        finish(gradient, parameters, 3)
    with pytest.raises(ParameterError, match="only the optimizer may change parameters"):
        bind(lambda: Normalised(in_place), test=T).evaluator().evaluate(parameters, train=False)


def frozen():
    model = mlp()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "more", "says"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), {}, r"layer '1' \(BatchNorm1d\).*GroupNorm or LayerNorm"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.InstanceNorm1d(3, track_running_stats=True)), {}, "track_running_stats"),
        (Counting, {}, "buffer 'seen'"),
        (lambda: Normalised(in_place), {}, r"layer 'head' \(Linear\) writes its parameter 'weight'"),
        (lambda: Normalised(by_data), {}, r"layer 'head' \(Linear\) writes its parameter 'weight'"),
        (Embedded, {}, r"layer 'words' \(Embedding\).*leave max_norm out"),
        (frozen, {}, "nothing to train"),
        (lambda: nn.LazyLinear(3), {}, "has no shape yet"),
        (lambda: nn.Linear(6, 3, dtype=torch.complex64), {}, "complex64; supported"),
        (lambda: 3, {}, "returns a int"),
        (mlp, {"data": (X, Y[:5])}, "columns of 61, 5 samples"),
        (mlp, {"data": (X,)}, "needs an input and a target"),
        (mlp, {"data": (X[:3], Y[:3])}, "3 samples are too few for 5 shards"),
        (mlp, {"data": 7}, "data: a int"),
        (mlp, {"data": [1, 2, 3] * 5}, "must be \\(inputs, ..., target\\)"),
        (mlp, {"loss": lambda o, t: o}, r"loss: returned a tensor of shape"),
        (mlp, {"loss": 3}, "loss: 3 cannot be called"),
        (mlp, {"loss": nn.CrossEntropyLoss}, r"loss: CrossEntropyLoss is a class; take an instance, CrossEntropyLoss\(\)"),
        (mlp, {"loss": lambda o, t: None}, "loss: returned a NoneType; it must be the mean"),
        (mlp, {"metrics": {"it": nn.MSELoss}}, r"metrics\.it: MSELoss is a class"),
        (3, {}, "model: 3; take a torch.nn.Module"),
        (mlp, {"data": {"x": X, "y": Y}}, r"data: a dict of 'x', 'y'; take a tuple of arrays \(inputs, targets\)"),
        (mlp, {"data": (X.tolist(), Y.tolist())}, "data: a tuple of list, list; take a tuple of arrays"),
        (mlp, {"data": (X, Y.tolist())}, "data: a tuple of ndarray, list; take a tuple of arrays"),
        (mlp, {"data": "digits"}, "data: a str; take"),
        (mlp, {"data": Stream()}, r"data: a Stream has no sample numbers.*take list\(data\)"),
        (mlp, {"data": iter([1])}, "has no sample numbers"),
        (
            mlp,
            {"data": [{"pixels": x, "label": int(y)} for x, y in zip(X, Y, strict=True)]},
            "a dict of pixels, label; .* input",
        ),
        (mlp, {"collate_fn": 3}, "collate_fn: 3 cannot be called"),
        (mlp, {"sampling": "epochs"}, "sampling: 'epochs'; there are: independent, epoch"),
        (mlp, {"autocast": "half"}, "autocast: 'half'; there are: bfloat16"),
        (mlp, {"batch_size": -1}, "batch_size"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(model, more, says, finish):
    def train():
        problem = bind(model, **more)
        finish(coded(problem, [0, 1], [1.0, 1.0]), problem.initial_parameters(), 0)

    with pytest.raises(ParameterError, match=says):
        train()
