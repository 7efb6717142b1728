"""``error_feedback``: true, false, or a table with its decay."""

import pytest

from gcdl.compressors import ErrorFeedback, ScaledSign
from gcdl.config import Experiment, parse
from gcdl.errors import ConfigError

RESIDUAL = """
workers = 2
[problem]
kind = "linear_regression"
[compressor]
kind = "scaled_sign"
error_feedback = """


@pytest.mark.parametrize(("value", "decay"), [("true", 1.0), ("{decay = 0.9}", 0.9), ("{decay = 1.0}", 1.0)])
def test_error_feedback_is_a_switch_or_a_table_and_is_written_as_it_was_read(value, decay):
    config = parse(RESIDUAL + value, [])
    assert Experiment.of(config, 2).compressor == ErrorFeedback(ScaledSign(agreed=False), decay)
    again = parse(config.toml(), [])
    assert Experiment.of(again, 2).compressor == ErrorFeedback(ScaledSign(agreed=False), decay)
    assert not isinstance(Experiment.of(parse(RESIDUAL + "false", []), 2).compressor, ErrorFeedback)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{decay = 1.5}", r"^compressor\.error_feedback\.decay: 1\.5: .*less than or equal to 1"),
        ("{decay = 0.0}", r"^compressor\.error_feedback\.decay: 0\.0: .*greater than 0"),
        ("{}", r"^compressor\.error_feedback\.decay: missing"),
        ("{decay = 0.9, step = 3}", r"^compressor\.error_feedback\.step: 3: "),
        ("0.9", r"^compressor\.error_feedback: 0\.9: "),
    ],
)
def test_a_wrong_residual_is_one_message_with_its_key(value, said):
    with pytest.raises(ConfigError, match=said):
        parse(RESIDUAL + value, [])
