"""The configs that configs/README.md sends a newcomer to do what it says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.mpi, pytest.mark.slow]

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_the_quickstart_reaches_95_percent_with_one_bit_and_a_straggler(start):
    job = start("run", config=(CONFIGS / "quickstart.toml").read_text()).end(120.0)
    assert job.code == 0, job.output
    assert job.summary["final_test_accuracy"] >= 0.95
    assert job.summary["float32_uplink_bytes"] > 30 * job.summary["uplink_bytes"]
    assert str(job.folder) in job.output
    assert "test accuracy" in job.output


@pytest.mark.exhaustive
def test_fashion_mnist_reaches_85_percent_with_one_bit_in_400_steps(start):
    config = (CONFIGS / "fashion_mnist.toml").read_text()
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    job = start("run", config=config).end(180.0)
    assert job.code == 0, job.output
    assert job.summary["steps"] == 400
    assert job.summary["final_test_accuracy"] >= 0.85


def test_gradient_descent_is_the_same_whoever_is_late(start, simulated):
    config = (CONFIGS / "gradient_descent.toml").read_text()
    measured, other = start("run", config=config).end(), simulated("stragglers.workers=[3]", config=config)
    assert all(1 not in line["replies"] for line in measured.steps)
    assert all(3 not in line["replies"] for line in other.steps)
    assert measured.summary["final_train_loss"] == pytest.approx(other.summary["final_train_loss"], rel=1e-4)
