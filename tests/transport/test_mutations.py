"""Configs with bytes flipped, cut, repeated and swapped: one error that is the user's, or a run that could be made; never more.

Checkpoints and messages are treated alike in test_checkpoint.py, test_messages.py and mpi/test_transport.py.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from gcdl.config import Experiment, load
from gcdl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
TABLES = re.findall(r"```toml\n(.*?)```", (ROOT / "configs" / "README.md").read_text(), flags=re.DOTALL)
(README,) = (text for text in TABLES if "[simulate]" in text)
JUNK = ["=", "[", "]", '"', "\n", "-", "1", ".", "inf", "nan", "{", "kind", "\x00", "é", "true", "[[run]]"]


def mutated(text: str, draws: random.Random) -> bytes:
    for _ in range(draws.choice((1, 1, 2, 5))):
        if not text:
            break
        at = draws.randrange(len(text))
        lines = text.splitlines(keepends=True)
        match draws.randrange(6):
            case 0:
                text = text[:at] + draws.choice(JUNK) + text[at:]
            case 1:
                text = text[:at] + text[at + draws.randrange(1, 9) :]
            case 2:
                text = text[:at] + chr(draws.randrange(1, 256)) + text[at + 1 :]
            case 3:
                lines.insert(draws.randrange(len(lines)), draws.choice(lines))
                text = "".join(lines)
            case 4:
                del lines[draws.randrange(len(lines))]
                text = "".join(lines)
            case 5:
                text = text[: max(1, at)]
    raw = bytearray(text.encode())
    if raw and draws.random() < 0.2:
        raw[draws.randrange(len(raw))] ^= 1 << draws.randrange(8)
    return bytes(raw)


@pytest.mark.parametrize("part", range(5))
def test_a_mutated_config_is_a_config_or_one_error_of_the_user(tmp_path, part):
    draws = random.Random(part)
    refused: list[str] = []
    for trial in range(100):
        path = tmp_path / f"{trial}.toml"
        path.write_bytes(mutated(README, draws))
        try:
            config = load(path)
            Experiment.of(config, min(config.workers or 8, 8)).check()
        except ConfigError as error:
            refused.append(str(error))
    assert 20 < len(refused) < 100
    assert all(message.strip() and "\n" not in message for message in refused)
