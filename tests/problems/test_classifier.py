"""The classifier's coded gradient is the weighted sum of its shards' gradients, and nothing else."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from gcdl.errors import ParameterError
from gcdl.problems import Classifier
from gcdl.problems.datasets import Part
from gcdl.problems.minibatches import minibatch, shard_indices
from gcdl.problems.models import CHUNK

MODELS = ["linear", "mlp", "cnn"]


def parameters_of(problem, seed=0):
    """The initial parameters, a little moved: no symmetry left."""
    start = problem.initial_parameters()
    start += 0.1 * np.random.default_rng(seed).standard_normal(start.size).astype(np.float32)
    return start


def reference(problem, parameters):
    """A float64 copy of the model with these parameters, by torch's own means."""
    module = copy.deepcopy(problem.module.module).double()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(parameters.copy()).double(), module.parameters())
    return module


def inputs(images):
    return torch.from_numpy(images.astype(np.float64) / 8.0 - 1.0).unsqueeze(1)


def mean_loss(module, images, labels):
    return cross_entropy(module(inputs(images)), torch.from_numpy(labels))


def shard_gradient(problem, parameters, shard, step):
    """G_j and f_j, one shard at a time: (N_j / N) grad of the mean loss over the minibatch."""
    train, indices = problem.source.load_train(), problem.partition[shard]
    batch = indices[minibatch(len(indices), problem.batch_size, problem.seed, shard, step)]
    module = reference(problem, parameters)
    loss = mean_loss(module, train.images[batch], train.labels[batch])
    loss.backward()
    flat = torch.cat([parameter.grad.ravel() for parameter in module.parameters()]).numpy()
    share = len(indices) / problem.source.train_size
    return share * flat, share * loss.item()


def coded(problem, shards, weights):
    shards = np.array(shards)
    return problem.gradient(problem.load(shards), shards, np.array(weights))


def assert_near(found, expected, tolerance=2e-6):
    assert np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch_size", [0, 1, 32, 10_000])
@pytest.mark.parametrize(("shards", "weights"), [([0], [1.0]), ([1, 4], [0.5, -2.0]), ([0, 2, 3], [1.25, 0.75, -0.1])])
def test_the_coded_gradient_is_the_weighted_sum_of_shard_gradients(model, batch_size, shards, weights, classifier, finish):
    problem = classifier(k=5, model=model, batch_size=batch_size)
    assert len({len(indices) for indices in problem.partition}) == 2  # 601 = 5 * 120 + 1: unequal shards
    parameters = parameters_of(problem)
    gradient, loss, _ = finish(coded(problem, shards, weights), parameters, step=4)
    parts = [shard_gradient(problem, parameters, shard, 4) for shard in shards]
    assert_near(gradient, sum(weight * part[0] for weight, part in zip(weights, parts, strict=True)))
    assert loss == pytest.approx(sum(w * part[1] for w, part in zip(weights, parts, strict=True)), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "batch_size", "passes"),
    [
        ("cnn", 0, [1.0 * 128 / 201, 73 / 201, 128 / 200, 72 / 200, 128 / 200, 72 / 200]),
        ("cnn", 100, [1.0, 1.0, 1.0]),
        ("cnn", 50, [2.0, 1.0]),
        ("mlp", 0, [3.0]),
    ],
)
def test_a_batch_beyond_the_chunk_goes_in_several_passes(model, batch_size, passes, classifier, finish):
    assert CHUNK["cnn"] == 128
    problem = classifier(k=3, model=model, batch_size=batch_size)
    parameters, weights = parameters_of(problem), [1.0, -0.5, 2.0]
    gradient, loss, yielded = finish(coded(problem, [0, 1, 2], weights), parameters, step=0)
    np.testing.assert_allclose(yielded, passes)
    parts = [shard_gradient(problem, parameters, shard, 0) for shard in range(3)]
    assert_near(gradient, sum(weight * part[0] for weight, part in zip(weights, parts, strict=True)))
    assert loss == pytest.approx(sum(w * part[1] for w, part in zip(weights, parts, strict=True)), rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("k", [1, 4, 7])
def test_all_shards_together_are_the_full_batch_gradient(model, k, classifier, finish):
    problem = classifier(k=k, model=model, batch_size=0)
    parameters = parameters_of(problem)
    train, module = problem.source.load_train(), reference(problem, parameters)
    loss = mean_loss(module, train.images, train.labels)
    loss.backward()
    gradient, coded_loss, _ = finish(coded(problem, range(k), [1.0] * k), parameters, step=0)
    assert_near(gradient, torch.cat([parameter.grad.ravel() for parameter in module.parameters()]).numpy())
    assert coded_loss == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_two_holders_of_a_shard_agree_to_the_bit(model, classifier, finish):
    one, other = classifier(model=model), classifier(model=model)
    parameters = parameters_of(one)
    alone = one.gradient(one.load(np.array([2])), np.array([2]), np.array([1.0]))
    among = other.gradient(other.load(np.array([0, 2, 4])), np.array([2]), np.array([1.0]))
    for step in range(3):
        first, second = finish(alone, parameters, step), finish(among, parameters.copy(), step)
        assert first[0].tobytes() == second[0].tobytes()
        assert first[1] == second[1]


@pytest.mark.parametrize("model", MODELS)
def test_replicas_with_the_same_row_agree_to_the_bit(model, classifier, finish):
    gradients = []
    for _ in range(2):
        problem = classifier(model=model, batch_size=0)
        gradients.append(finish(coded(problem, [1, 3], [0.5, 0.5]), parameters_of(problem), 0)[0].tobytes())
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batch_size", [0, 1, 77, 128, 129])
def test_what_is_yielded_adds_up_to_the_number_of_shards(model, batch_size, classifier, finish):
    problem = classifier(k=3, model=model, batch_size=batch_size)
    _, _, yielded = finish(coded(problem, [0, 2], [1.0, 1.0]), parameters_of(problem), 0)
    assert sum(yielded) == pytest.approx(2.0)
    assert min(yielded) > 0.0


def test_a_computation_given_up_in_between_leaves_no_trace(classifier, finish):
    problem = classifier(k=3, model="cnn", batch_size=0)
    gradient, parameters = coded(problem, [0, 1, 2], [1.0, 1.0, 1.0]), parameters_of(problem)
    expected, loss, yielded = finish(gradient, parameters, 5)
    for given_up in range(1, len(yielded)):
        stretches = gradient.compute(parameters_of(problem, seed=1), 4, np.empty_like(parameters))
        for _ in range(given_up):
            next(stretches)
        stretches.close()
        again = finish(gradient, parameters, 5)
        assert again[0].tobytes() == expected.tobytes()
        assert again[1] == loss


def test_computing_does_not_change_the_parameters(classifier, finish):
    problem = classifier()
    parameters = parameters_of(problem)
    before = parameters.tobytes()
    finish(coded(problem, [0, 1], [1.0, 1.0]), parameters, 0)
    problem.evaluator().evaluate(parameters, train=True)
    assert parameters.tobytes() == before


def test_another_step_takes_another_minibatch(classifier, finish):
    problem = classifier(batch_size=8)
    gradient, parameters = coded(problem, [0], [1.0]), parameters_of(problem)
    assert finish(gradient, parameters, 0)[0].tobytes() != finish(gradient, parameters, 1)[0].tobytes()


# --- loading --------------------------------------------------------------------------------------------------------


def owner(array):
    """The array that holds the memory an array looks into."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert array.base is None
    return array


def test_a_loaded_worker_holds_the_samples_of_its_shards_and_no_others(classifier):
    problem = classifier(k=5)
    samples = problem.load(np.array([1, 3]))
    assert set(samples) == {1, 3}
    train = problem.source.load_train()
    for shard, part in samples.items():
        np.testing.assert_array_equal(part.images, train.images[problem.partition[shard]])
        np.testing.assert_array_equal(part.labels, train.labels[problem.partition[shard]])
        assert owner(part.images).nbytes == len(problem.partition[shard]) * 64
        assert owner(part.labels).nbytes == len(problem.partition[shard]) * 8


def test_loading_lets_go_of_the_rest_of_the_training_set(classifier):
    problem = classifier(k=5)
    loaded = []

    def load_train(load=problem.source.load_train):
        whole = load()
        loaded.extend([weakref.ref(whole), weakref.ref(whole.images), weakref.ref(whole.labels)])
        return whole

    problem.__dict__["source"] = type(problem.source)(**{**vars(problem.source), "load_train": load_train})
    samples = problem.load(np.array([0, 4]))
    gradient = problem.gradient(samples, np.array([0, 4]), np.ones(2))
    gc.collect()
    assert len(loaded) == 3
    assert [reference() for reference in loaded] == [None, None, None]
    assert gradient is not None


def test_taking_samples_copies_them():
    whole = Part(np.zeros((4, 2, 2), dtype=np.uint8), np.arange(4))
    taken = whole.take(np.array([2, 3]))
    assert not np.shares_memory(taken.images, whole.images)
    assert not np.shares_memory(taken.labels, whole.labels)
    assert taken.labels.tolist() == [2, 3]


# --- shards and minibatches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("samples", "k"), [(10, 1), (10, 3), (10, 10), (601, 7), (1437, 30)])
def test_shards_partition_the_training_set_evenly(samples, k):
    shards = shard_indices(samples, k, seed=0)
    assert len(shards) == k
    assert sorted(np.concatenate(shards).tolist()) == list(range(samples))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert all((np.diff(shard) > 0).all() for shard in shards)


def test_shards_depend_on_the_seed_and_are_dealt_at_random():
    first, again, other = shard_indices(100, 4, 0), shard_indices(100, 4, 0), shard_indices(100, 4, 1)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    assert any((np.diff(shard) > 1).any() for shard in first)


def test_the_problem_deals_the_whole_training_set(classifier):
    problem = classifier(k=7)
    assert sorted(np.concatenate(problem.partition).tolist()) == list(range(problem.source.train_size))


def test_more_shards_than_samples_are_refused(classifier):
    with pytest.raises(ParameterError, match=r"^problem\.shards: 602 shards, but small has only 601 training samples"):
        classifier(k=602).load(np.array([0]))
    with pytest.raises(ParameterError, match=r"^problem\.shards"):
        classifier(k=602).evaluator()


def test_a_minibatch_is_drawn_without_replacement_from_its_shard():
    for step in range(50):
        batch = minibatch(40, 13, seed=0, shard=2, step=step)
        assert len(set(batch.tolist())) == 13
        assert set(batch.tolist()) <= set(range(40))


def test_a_minibatch_depends_on_seed_shard_and_step():
    keys = [(seed, shard, step) for seed in range(3) for shard in range(3) for step in range(3)]
    drawn = {key: tuple(minibatch(200, 20, *key)) for key in keys}
    assert len(set(drawn.values())) == len(keys)
    assert all(tuple(minibatch(200, 20, *key)) == drawn[key] for key in reversed(keys))


@pytest.mark.parametrize("batch_size", [0, 40, 41, 1000])
def test_a_minibatch_of_zero_or_too_many_samples_is_the_whole_shard(batch_size):
    assert np.arange(40)[minibatch(40, batch_size, 0, 0, 0)].tolist() == list(range(40))


def test_minibatches_reach_every_sample_equally_often():
    steps, samples, b = 4000, 10, 3
    counts = np.zeros(samples)
    for step in range(steps):
        counts[minibatch(samples, b, 0, 0, step)] += 1
    chance = b / samples
    assert (np.abs(counts / steps - chance) <= 4.0 * np.sqrt(chance * (1 - chance) / steps)).all()


# --- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_initial_parameters_are_a_function_of_the_seed_alone(model, classifier):
    torch.manual_seed(1)
    first = classifier(seed=5, model=model).initial_parameters()
    torch.manual_seed(2)
    torch.rand(7)
    again = classifier(seed=5, model=model, k=2, batch_size=1).initial_parameters()
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != classifier(seed=6, model=model).initial_parameters().tobytes()


def test_torchs_and_numpys_global_generators_are_left_alone(classifier, finish):
    before = torch.random.get_rng_state().clone()
    numpys = np.random.get_state()[1].copy()  # noqa: NPY002
    problem = classifier(model="cnn")
    finish(coded(problem, [0, 1], [1.0, 1.0]), problem.initial_parameters(), 0)
    problem.evaluator().evaluate(problem.initial_parameters(), train=True)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("model", "hidden", "shapes"),
    [
        ("linear", (9,), [(10, 64), (10,)]),
        ("mlp", (), [(10, 64), (10,)]),
        ("mlp", (7, 3), [(7, 64), (7,), (3, 7), (3,), (10, 3), (10,)]),
        ("cnn", (5,), [(16, 1, 3, 3), (16,), (32, 16, 3, 3), (32,), (5, 128), (5,), (10, 5), (10,)]),
    ],
)
def test_the_layout_is_the_models_tensors_in_order(model, hidden, shapes, classifier):
    problem = classifier(model=model, hidden=hidden)
    layout = problem.layout()
    assert list(layout.shapes) == shapes
    assert layout.names == tuple(name for name, _ in problem.module.module.named_parameters())
    parameters = problem.initial_parameters()
    assert parameters.shape == (layout.size,)
    assert parameters.dtype == np.float32
    assert parameters.ctypes.data % 64 == 0


def test_initial_parameters_can_be_changed_without_changing_the_next_ones(classifier):
    problem = classifier()
    first = problem.initial_parameters()
    copied = first.copy()
    first += 1.0
    assert problem.initial_parameters().tobytes() == copied.tobytes()


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_evaluation_is_mean_loss_and_accuracy(model, classifier):
    problem = classifier(model=model)
    parameters = parameters_of(problem)
    found = problem.evaluator().evaluate(parameters, train=True)
    module, test, train = reference(problem, parameters), problem.source.load_test(), problem.source.load_train()
    with torch.no_grad():
        scores = module(inputs(test.images))
        right = float((scores.argmax(dim=1).numpy() == test.labels).mean())
        assert found.test_loss == pytest.approx(mean_loss(module, test.images, test.labels).item(), rel=1e-5)
        assert found.train_loss == pytest.approx(mean_loss(module, train.images, train.labels).item(), rel=1e-5)
    assert found.test_accuracy == pytest.approx(right, abs=1.5 / len(test.labels))


def test_the_training_loss_is_evaluated_only_when_asked_for(classifier):
    problem = classifier()
    found = problem.evaluator().evaluate(problem.initial_parameters(), train=False)
    assert found.train_loss is None
    assert found.test_loss is not None


def test_descending_the_coded_gradient_lowers_the_loss(classifier, finish):
    problem = classifier(k=4, batch_size=0)
    gradient, parameters = coded(problem, range(4), [1.0] * 4), problem.initial_parameters()
    losses = []
    for step in range(30):
        slope, loss, _ = finish(gradient, parameters, step)
        losses.append(loss)
        parameters -= np.float32(0.3) * slope
    assert losses[-1] < losses[0]


def test_digits_train_out_of_the_box(finish):
    problem = Classifier(4, 0, hidden=(16,), batch_size=0)
    gradient, parameters = coded(problem, range(4), [1.0] * 4), problem.initial_parameters()
    for step in range(60):
        parameters -= np.float32(0.5) * finish(gradient, parameters, step)[0]
    assert problem.evaluator().evaluate(parameters, train=False).test_accuracy > 0.8
