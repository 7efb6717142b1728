"""Samples of every shape a DataLoader takes: tuples, dicts, nested ones, with a collate function of one's own."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import gcdl
from gcdl.errors import ParameterError
from gcdl.problems import TorchProblem

RNG = np.random.default_rng(0)
N, CLASSES = 61, 3
X, Y = RNG.standard_normal((N, 6)).astype(np.float32), RNG.integers(0, CLASSES, N)
WORDS = [RNG.integers(1, 20, size=length) for length in RNG.integers(2, 9, N)]
PARAMETERS = 6 * CLASSES + CLASSES


def coded(problem, shards, weights, finish, step=0):
    shards = np.array(shards)
    gradient = problem.gradient(problem.load(shards), shards, np.array(weights, dtype=float))
    return finish(gradient, problem.initial_parameters(), step)


def bind(model, loss, data, **more):
    return TorchProblem(model, loss, data, **{"batch_size": 5, **more}).bind(4, 1)


class Rows(torch.utils.data.Dataset):
    """Dicts, as a Hugging Face data set with its format set to torch returns them; some entries are no model's business."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"x": torch.from_numpy(X[i]), "labels": int(Y[i]), "id": i, "text": f"sample {i}"}


class ByNumbers(Rows):
    """Also asked for several samples at once."""

    def __getitem__(self, i):
        raise AssertionError

    def __getitems__(self, numbers):
        return [Rows.__getitem__(self, i) for i in numbers]


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(x)


class Output(OrderedDict):
    """What Hugging Face's models return: a dict whose entries are attributes too."""

    __getattr__ = OrderedDict.__getitem__


class WithLoss(Linear):
    """Computes its own loss, where it is given labels."""

    def forward(self, x, labels=None):
        logits = self.head(x)
        return Output(loss=cross_entropy(logits, labels), logits=logits)


def own_loss(output, batch):
    return output.loss


def loss_of_dict(output, batch):
    assert set(batch) == {"x", "labels", "id", "text"}
    return cross_entropy(output, batch["labels"])


@pytest.fixture
def expected(finish):
    """The gradient and the loss of plain tuples."""
    return coded(bind(Linear, cross_entropy, (X, Y)), [0, 1, 3], [1.0, -0.5, 2.0], finish)


@pytest.mark.parametrize(
    ("model", "loss", "data"),
    [
        (Linear, loss_of_dict, Rows()),
        (Linear, loss_of_dict, ByNumbers()),
        (WithLoss, own_loss, Rows()),
        (Linear, cross_entropy, [({"x": x}, int(y)) for x, y in zip(X, Y, strict=True)]),
    ],
    ids=["dicts", "several at once", "the model's own loss", "a dict of inputs"],
)
def test_samples_of_every_shape_have_the_gradient_of_tuples(model, loss, data, expected, finish):
    gradient, value, _ = coded(bind(model, loss, data), [0, 1, 3], [1.0, -0.5, 2.0], finish)
    np.testing.assert_allclose(gradient, expected[0], atol=1e-6)
    assert value == pytest.approx(expected[1], rel=1e-5)


class Words(nn.Module):
    """The mean embedding of words that are not padding."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 4), nn.Linear(4, CLASSES)

    def forward(self, words, mask):
        mean = (self.table(words) * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        return self.head(mean)


def padded(samples):
    """Pad to the longest of the batch, as a tokenizer's collator does."""
    words = nn.utils.rnn.pad_sequence([torch.from_numpy(words) for words, _ in samples], batch_first=True)
    return {"words": words, "mask": (words > 0).float(), "labels": torch.tensor([int(label) for _, label in samples])}


def test_batches_of_different_lengths_go_shard_by_shard(finish):
    data = list(zip(WORDS, Y, strict=True))

    def loss(output, batch):
        return cross_entropy(output, batch["labels"])

    problem = bind(Words, loss, data, test=data, collate_fn=padded, metrics={"share": lambda o, b: b["mask"].mean()})
    together = coded(problem, [0, 1, 2], [1.0, 1.0, -2.0], finish)[0]
    alone = [weight * coded(problem, [j], [1.0], finish)[0] for j, weight in enumerate([1.0, 1.0, -2.0])]
    np.testing.assert_allclose(together, sum(alone), atol=1e-6)
    assert 0.0 < problem.evaluator().evaluate(problem.initial_parameters(), train=False).metrics["share"] < 1.0


def test_collate_fn_is_given_samples_of_arrays_too(expected, finish):
    def pairs(samples):
        assert all(len(sample) == 2 for sample in samples)
        return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])

    gradient, _, _ = coded(bind(Linear, cross_entropy, (X, Y), collate_fn=pairs), [0, 1, 3], [1.0, -0.5, 2.0], finish)
    assert gradient.tobytes() == expected[0].tobytes()


def test_a_batch_that_is_neither_is_refused(finish):
    with pytest.raises(ParameterError, match=r"a batch a Tensor; it must be \(inputs, ..., target\), or a dict"):
        coded(bind(Linear, cross_entropy, (X, Y), collate_fn=lambda samples: torch.zeros(5)), [0], [1.0], finish)


def test_ranks_compare_samples_that_are_dicts():
    one, other = bind(Linear, loss_of_dict, Rows()), bind(Linear, loss_of_dict, ByNumbers())
    assert one.fingerprint() == other.fingerprint()
    assert one.fingerprint() != bind(Linear, loss_of_dict, [Rows()[i] for i in range(60)]).fingerprint()


def test_a_model_of_dicts_is_trained_and_judged(tmp_path):
    problem = gcdl.TorchProblem(
        Linear,
        loss_of_dict,
        Rows(),
        Rows(),
        batch_size=0,
        metrics={"accuracy": lambda output, batch: (output.argmax(1) == batch["labels"]).float()},
    )
    code = {"kind": "fractional_repetition", "stragglers": 1}
    trainer = gcdl.Trainer(problem, workers=4, code=code, optimizer={"lr": 0.5}, out=tmp_path / "run")
    losses = [record.train_loss for record in trainer.fit(20)]
    assert losses[-1] < losses[0]
    assert trainer.summary.final_test_accuracy > 0.3
