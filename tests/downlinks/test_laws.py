"""What every downlink promises: a worker that takes in what it is sent has, to the bit, the model the master publishes."""

from __future__ import annotations

import numpy as np
import pytest

from gcdl.codes import majority
from gcdl.compressors import Draw, Identity, Message, NoisySign, ScaledSign, Sign, StochasticSign, TwoMean
from gcdl.downlinks import UNKNOWN, Ends, Replies, SignUpdates, Votes, WholeModel
from gcdl.errors import MessageError
from gcdl.optimizers import Adam, Sgd, SignSteps
from gcdl.types import Layout, aligned_buffer, aligned_vector

N = 4
LAYOUT = Layout(("a", "b", "c"), ((37, 5), (3,), (11,)))
D = LAYOUT.size
BITS = -(-D // 8)
SHIFTS = np.arange(N) << 14
# A worker's place in FR: replicas averaged, one group with one replica left.
WEIGHTS = {0: 0.5, 1: 0.5, 2: 1.0}
BEST = StochasticSign("max", "correlated+subtractive", agreed=True)

DOWNLINKS = {
    "model": WholeModel(),
    "bfloat16": WholeModel("bfloat16"),
    "votes": Votes(check_every=3),
    "replies": Replies(check_every=3),
    "sign": SignUpdates(block=0, check_every=3),
    "sign-block": SignUpdates(block=16, check_every=3),
}
REPLICAS = [name for name, downlink in DOWNLINKS.items() if downlink.replicas]
LOSSLESS = ["votes", "replies"]
COMPRESSORS = {
    "best": BEST,
    "independent": StochasticSign("rms", "independent", clip=2.0, agreed=True),
    "own scales": StochasticSign("max", "independent"),
    "sign": Sign(),
    "scaled_sign": ScaledSign(agreed=True),
    "noisy_sign": NoisySign(dither="subtractive", agreed=True),
    "two_mean": TwoMean(),
    "identity": Identity(),
}
OPTIMIZERS = {"sgd": Sgd(0.1), "momentum": Sgd(0.1, 0.9, 0.01), "adam": Adam(0.01), "sign": SignSteps(0.01, 0.1)}


def start():
    parameters = aligned_vector(D)
    parameters[:] = np.random.default_rng(0).standard_normal(D)
    return parameters


class Run:
    """A master's end of a downlink, and what its codec says of every step: replies that the workers might have sent."""

    def __init__(self, downlink, compressor=BEST, optimizer=OPTIMIZERS["momentum"], weights=WEIGHTS, finish=None):
        self.codec = compressor.codec(LAYOUT)
        self.ends = self.make_ends(compressor, optimizer, finish)
        self.optimizer = optimizer.build(start())
        self.downlink = downlink
        self.publisher = downlink.publisher(self.ends, self.optimizer)
        self.compressor, self.recipe, self.finish = compressor, optimizer, finish
        self.weights = weights
        self.agreed = None
        self.gradient = aligned_vector(D)

    def make_ends(self, compressor, optimizer, finish):
        codec = compressor.codec(LAYOUT)
        ends = Ends(LAYOUT, optimizer, start, codec, 7, SHIFTS)
        return ends if finish is None else Ends(LAYOUT, optimizer, start, codec, 7, SHIFTS, finish)

    def follower(self, *, fresh=True):
        return self.downlink.follower(self.make_ends(self.compressor, self.recipe, self.finish), fresh=fresh)

    def step(self, times=1):
        for _ in range(times):
            self._step()

    def _step(self):
        step = self.publisher.version
        messages = []
        for worker, weight in self.weights.items():
            x = np.random.default_rng((step, worker)).standard_normal(D).astype(np.float32)
            draw = Draw(7, step, worker, int(SHIFTS[worker]), self.agreed)
            payload = aligned_buffer(self.codec.payload_bytes)
            self.codec.compress(x, self.codec.init(), draw, payload)
            messages.append(Message(payload, weight, draw))
        self.codec.decode(messages, self.gradient)
        if self.finish is not None:
            self.finish(self.gradient)
        a = np.zeros(N)
        a[list(self.weights)] = list(self.weights.values())
        self.publisher.step(self.gradient, messages, a, float(np.linalg.norm(self.gradient)))
        if messages:
            self.agreed = self.codec.agree([message.payload for message in messages])

    def content(self, base):
        content = aligned_buffer(self.publisher.content.nbytes(base))
        self.publisher.content.write(base, content)
        return content

    def bring(self, follower):
        """Send a follower what it needs; return how many bytes that took."""
        content = self.content(follower.version)
        assert content.size <= follower.body_bytes
        model = follower.follow(content)
        assert model is not None
        assert model.tobytes() == self.publisher.model.tobytes()
        return content.size


@pytest.mark.parametrize("name", DOWNLINKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_follower_has_the_published_model_whatever_it_missed(name, optimizer):
    run = Run(DOWNLINKS[name], optimizer=OPTIMIZERS[optimizer])
    always, sometimes, late = run.follower(), run.follower(), run.follower(fresh=False)
    run.bring(always)
    for missed in (1, 5, 1, 50, 2):
        for _ in range(missed):
            run.step()
            run.bring(always)
        run.bring(sometimes)
    run.bring(late)
    run.step()
    for follower in (always, sometimes, late):
        run.bring(follower)


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("weights", [WEIGHTS, {1: 0.7, 2: 0.3, 3: 1.1}, {3: -0.5, 0: 1.5}, {}], ids=str)
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_downlinks_train_as_the_whole_model_does(name, weights, compressor):
    runs = [Run(downlink, COMPRESSORS[compressor], weights=weights) for downlink in (DOWNLINKS[name], WholeModel())]
    follower = runs[0].follower()
    for _ in range(4):
        for run in runs:
            run.step()
        runs[0].bring(follower)
        assert runs[0].publisher.model.tobytes() == runs[1].publisher.model.tobytes()


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_a_decoder_does_to_the_sum_is_done_by_followers_too(name):
    run = Run(DOWNLINKS[name], Sign(), Sgd(0.1), dict.fromkeys(range(4), 1.0), majority.finish)
    follower = run.follower()
    for _ in range(3):
        run.step()
        run.bring(follower)


@pytest.mark.parametrize("weights", [dict.fromkeys(range(4), 1.0), {1: 0.7, 2: 0.3, 3: 1.1}], ids=["with ties", "without"])
@pytest.mark.parametrize("compressor", ["sign", "identity", "best"])
@pytest.mark.parametrize("name", LOSSLESS)
def test_sign_steps_take_one_bit_down_and_lose_nothing(name, compressor, weights):
    optimizer = OPTIMIZERS["sign"]
    runs = [Run(downlink, COMPRESSORS[compressor], optimizer, weights) for downlink in (DOWNLINKS[name], WholeModel())]
    follower = runs[0].follower()
    tied = 0
    for version in range(5):
        for run in runs:
            run.step()
        tied += int((runs[0].gradient == 0.0).sum())
        assert runs[0].publisher.content.nbytes(version) == 64 + 64 + -(-BITS // 64) * 64
        runs[0].bring(follower)
        assert runs[0].publisher.model.tobytes() == runs[1].publisher.model.tobytes()
    assert tied > D or compressor != "sign" or len(weights) == 3


def test_sizes_are_what_the_documentation_says():
    head, update = 64, 64
    senders, scales = 64, 64  # 3 x 16 bytes, 3 x 4 bytes, each padded
    run = Run(DOWNLINKS["votes"])
    run.step()
    assert run.publisher.content.nbytes(0) == head + update + senders + -(-3 * (BITS + 12) // 64) * 64  # no agreement yet
    run.step()
    votes = head + update + senders + scales + -(-3 * BITS // 64) * 64  # W = 4: three planes
    assert run.publisher.content.nbytes(1) == votes
    sign = Run(DOWNLINKS["sign"])
    sign.step(3)
    one = update + -(-(BITS + 12) // 64) * 64
    assert [sign.publisher.content.nbytes(base) for base in (2, 1, 0)] == [head + one, head + 2 * one, head + 3 * one]
    assert Run(WholeModel()).publisher.content.nbytes(UNKNOWN) == 4 * D
    assert Run(WholeModel("bfloat16")).publisher.content.nbytes(UNKNOWN) == 2 * D
    gradient = Run(DOWNLINKS["replies"], Identity())
    gradient.step()
    assert gradient.publisher.content.nbytes(0) == head + update + -(-4 * D // 64) * 64


@pytest.mark.parametrize("name", REPLICAS)
def test_a_recipe_knows_its_sizes_without_data(name):
    run = Run(DOWNLINKS[name])
    run.step(2)
    size = DOWNLINKS[name].size(D, run.codec.payload_bytes, run.codec.agreed_count, list(WEIGHTS.values()))
    found = run.publisher.content.nbytes(1) - 64
    assert found == size or (name.startswith("sign") and abs(found - size) <= 64)


@pytest.mark.parametrize("name", REPLICAS)
def test_a_worker_far_behind_gets_the_whole_model_as_soon_as_that_is_smaller(name):
    run = Run(DOWNLINKS[name])
    run.step()
    whole = run.publisher.content.nbytes(UNKNOWN)
    follower = run.follower()
    run.step(100)
    assert run.bring(follower) == run.publisher.content.nbytes(UNKNOWN) <= whole + 64
    sizes = [run.publisher.content.nbytes(101 - missed) for missed in range(1, 101)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[-1] == sizes[-2]


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_that_differs_finds_out_by_the_hash_and_is_well_again_with_a_snapshot(name):
    run = Run(DOWNLINKS[name])
    follower = run.follower()
    run.bring(follower)
    run.step()
    follower.damage()
    for version in (1, 2, 3):
        model = follower.follow(run.content(follower.version))
        assert (model is None) == (version == 3)  # where version % check_every = 0
        if version < 3:
            assert model.tobytes() != run.publisher.model.tobytes()
        run.step()
    assert follower.version == UNKNOWN
    assert follower.follow(run.content(3)) is None  # an update that was on its way
    run.bring(follower)
    run.step(4)
    run.bring(follower)


@pytest.mark.parametrize("name", REPLICAS)
def test_a_run_that_goes_on_from_a_checkpoint_publishes_the_same_models(name):
    run = Run(DOWNLINKS[name])
    run.step(5)
    saved = run.optimizer.parameters.copy(), run.optimizer.state(), run.publisher.state(), run.agreed
    run.step(3)
    again = Run(DOWNLINKS[name])
    again.optimizer.parameters[:], again.agreed = saved[0], saved[3]
    again.optimizer.load(saved[1])
    again.publisher.load(saved[2])
    again.publisher.restart(5)
    follower = again.follower(fresh=False)
    again.bring(follower)
    again.step(3)
    again.bring(follower)
    assert again.publisher.model.tobytes() == run.publisher.model.tobytes()


def test_sign_updates_lag_behind_by_the_residual_and_no_more():
    run, exact = (Run(downlink, optimizer=Sgd(0.1, 0.9)) for downlink in (SignUpdates(), WholeModel()))
    for _ in range(20):
        run.step()
        exact.step()
        residual = run.publisher.state()["residual"]
        np.testing.assert_allclose(run.publisher.model + residual, exact.publisher.model, rtol=0, atol=1e-5)


def test_a_step_that_is_not_finite_goes_down_as_it_is():
    run = Run(DOWNLINKS["sign"], optimizer=Sgd(1e30))
    follower = run.follower()
    run.step()
    run.gradient[:] = 3e38
    run.publisher.step(run.gradient, [], np.ones(N), 0.0)
    with np.errstate(all="ignore"):
        run.bring(follower)
    assert not np.isfinite(run.publisher.model).any()


def test_a_whole_model_of_another_size_is_refused():
    follower = Run(WholeModel()).follower()
    with pytest.raises(MessageError, match=f"a model of 8 bytes where {4 * D} were expected"):
        follower.follow(aligned_buffer(8))
