"""Config files and overrides: what is right is resolved, what is wrong is one ConfigError that starts with the path."""

import itertools
import math
import tomllib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcdl.compressors import ErrorFeedback, Momentum, ScaledSign, Sign
from gcdl.config import SECTIONS, Config, Experiment, load, parse
from gcdl.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
LAW = settings(deadline=None, derandomize=True)
N = 4
PROBLEM = '[problem]\nkind = "linear_regression"\nfeatures = 5\nsamples = 4\n'

# What each kind cannot do without, beside its defaults.
NEEDS = {
    ("problem", "custom"): {"factory": "gcdl.problems:LinearRegression", "options": {"features": 5, "samples": 4}},
    ("code", "custom"): {"factory": "gcdl.codes.uncoded:uncoded"},
    ("compressor", "custom"): {"factory": "gcdl.compressors.sign:Sign"},
    ("wait", "custom"): {"factory": "gcdl.protocol.wait_rules:FirstReplies"},
    ("stragglers", "custom"): {"factory": "gcdl.stragglers.none:NoDelays"},
    ("optimizer", "custom"): {"factory": "gcdl.optimizers:Sgd", "options": {"lr": 0.5}},
    ("stragglers", "fixed"): {"workers": [1]},
    ("stragglers", "bernoulli"): {"p": 0.25},
    ("stragglers", "exactly"): {"count": 1},
    ("stragglers", "shifted_exponential"): {"shift": 0.5},
    ("stragglers", "bursts"): {"p": 0.25},
    ("stragglers", "speeds"): {"factors": [1.0, 1.0, 2.5, 1.0]},
    ("stragglers", "trace"): {"file": str(Path(__file__).parents[1] / "stragglers" / "four_workers.csv")},
    ("stragglers", "sum"): {"models": [{"kind": "speeds", "factors": 2.0, "workers": [0]}, {"kind": "bernoulli", "p": 0.5}]},
}


def same(one: Config, other: Config) -> bool:
    return (
        (one.seed, one.workers, one.steps, one.run, one.simulate)
        == (other.seed, other.workers, other.steps, other.run, other.simulate)
        and {name: (c.kind, c.values) for name, c in one.choices.items()}
        == {name: (c.kind, c.values) for name, c in other.choices.items()}
    )  # fmt: skip


def with_kind(section, kind, **more):
    """Overrides that choose a kind, with what it needs."""
    values = {"kind": kind, **NEEDS.get((section, kind), {}), **more}
    return [f"{section}.{key}={_toml(value)}" for key, value in values.items()]


def _toml(value):
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(item)}' for key, item in value.items())}}}"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)


EVERY_KIND = [(section.name, kind) for section in SECTIONS.values() for kind in section.kinds]


# --- what is right --------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_design():
    config = parse(PROBLEM)
    assert (config.seed, config.workers, config.steps) == (0, None, 300)
    assert (config.run.eval_every, config.run.checkpoint_every) == (50, 100)
    assert {name: choice.kind for name, choice in config.choices.items()} == {
        "problem": "linear_regression", "code": "uncoded", "compressor": "identity", "wait": "first_replies",
        "stragglers": "none", "optimizer": "sgd", "downlink": "model",
    }  # fmt: skip


def test_every_table_of_the_design_is_there():
    assert set(SECTIONS) == {"problem", "code", "compressor", "wait", "stragglers", "optimizer", "downlink"}


@pytest.mark.parametrize(("section", "kind"), EVERY_KIND)
def test_the_resolved_toml_of_every_kind_is_the_same_config_again(section, kind):
    config = parse(PROBLEM, with_kind(section, kind))
    assert config.choices[section].kind == kind
    again = parse(config.toml())
    assert same(again, config)
    assert again.toml() == config.toml()
    fixed = config.for_workers(N)
    assert same(parse(fixed.toml()), fixed)
    assert parse(fixed.toml()).toml() == fixed.toml()


@pytest.mark.parametrize(("section", "kind"), EVERY_KIND)
def test_every_kind_can_be_built_with_its_defaults(section, kind):
    experiment = Experiment.of(parse(PROBLEM, with_kind(section, kind)), N).check()
    assert experiment.code.n == N
    assert experiment.config.workers == N


@pytest.mark.parametrize(("section", "kind"), EVERY_KIND)
def test_the_resolved_toml_states_every_key_that_has_a_value(section, kind):
    config = parse(PROBLEM, with_kind(section, kind))
    table = tomllib.loads(config.toml())[section]
    expected = {key for key, value in config.choices[section].values.items() if value is not None} | {"kind"}
    assert set(table) == expected
    assert set(SECTIONS[section].keys(kind)) | {"kind"} >= expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configs_that_come_with_gcdl_load_and_build(path):
    config = load(path)
    for n in [config.workers] if config.workers else [4, 8]:
        experiment = Experiment.of(config, n).check()
        assert same(parse(experiment.config.toml()), experiment.config)


def test_there_are_configs():
    assert CONFIGS


def test_the_number_of_shards_is_the_number_of_workers_when_left_out():
    assert parse(PROBLEM).for_workers(6).choices["problem"].values["shards"] == 6
    assert parse(PROBLEM, ["problem.shards=9"]).for_workers(6).choices["problem"].values["shards"] == 9


def test_the_number_of_workers_may_be_left_out_but_not_contradicted():
    assert parse(PROBLEM, ["workers=5"]).for_workers(5).workers == 5
    assert parse(PROBLEM).for_workers(3).workers == 3
    with pytest.raises(ConfigError, match=r"^workers: the config says 5, but there are 4 .* start 6 ranks"):
        parse(PROBLEM, ["workers=5"]).for_workers(4)
    with pytest.raises(ConfigError, match=r"^workers: the config says 5"):
        Experiment.of(parse(PROBLEM, ["workers=5"]), 4)


def test_the_same_seed_builds_the_same_code_and_another_one_another():
    overrides = with_kind("code", "sgc", replication=2)
    B = [Experiment.of(parse(PROBLEM, [*overrides, f"seed={seed}"]), 8).code.B.tobytes() for seed in (1, 1, 2)]
    assert B[0] == B[1] != B[2]


def test_a_decoder_that_is_named_takes_the_place_of_the_codes_own():
    rows = np.array([[1.0, 1.0], [1.0, 1.0]])
    own = Experiment.of(parse(PROBLEM, with_kind("code", "fractional_repetition")), N).code
    named = Experiment.of(parse(PROBLEM, with_kind("code", "fractional_repetition", decoder="sum")), N).code
    assert own.decoder(rows).tolist() == pytest.approx([0.5, 0.5])
    assert named.decoder(rows).tolist() == [1.0, 1.0]
    assert named.stragglers == own.stragglers == 1
    assert (named.B == own.B).all()


def test_error_feedback_wraps_the_compressor_of_any_kind():
    plain = Experiment.of(parse(PROBLEM, ["compressor.kind=scaled_sign"]), N)
    wrapped = Experiment.of(parse(PROBLEM, ["compressor.kind=scaled_sign", "compressor.error_feedback=true"]), N)
    assert plain.compressor == ScaledSign(agreed=False)
    assert wrapped.compressor == ErrorFeedback(ScaledSign(agreed=False))
    votes = Experiment.of(parse(PROBLEM, ["compressor.kind=scaled_sign", "downlink.kind=votes"]), N)
    assert votes.compressor == ScaledSign(agreed=True)


def test_momentum_goes_around_error_feedback():
    experiment = Experiment.of(parse(PROBLEM, ["compressor.kind=sign", "compressor.momentum=lion", "compressor.beta2=0.95"]), N)
    assert experiment.compressor == Momentum(Sign(), 0.9, 0.95)
    both = ["compressor.kind=scaled_sign", "compressor.momentum=signum", "compressor.error_feedback=true"]
    assert Experiment.of(parse(PROBLEM, both), N).compressor == Momentum(ErrorFeedback(ScaledSign(agreed=False)), 0.9, 0.9)


def test_the_wait_rule_knows_the_code():
    experiment = Experiment.of(parse(PROBLEM, with_kind("code", "cyclic_repetition", stragglers=2)), 5).check()
    assert experiment.wait.count == 3


# --- overrides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("steps=7", lambda c: c.steps == 7),
        ("seed = 9", lambda c: c.seed == 9),
        (" steps =  8 ", lambda c: c.steps == 8),
        ("steps=1_000", lambda c: c.steps == 1000),
        ("optimizer.lr=0.5", lambda c: c.choices["optimizer"].values["lr"] == 0.5),
        ("optimizer.lr=1", lambda c: c.choices["optimizer"].values["lr"] == 1.0),
        ("optimizer.lr=1e-3", lambda c: c.choices["optimizer"].values["lr"] == 0.001),
        ("optimizer.kind=adam", lambda c: c.choices["optimizer"].kind == "adam"),
        ('optimizer.kind="adam"', lambda c: c.choices["optimizer"].kind == "adam"),
        ("optimizer.kind='adam'", lambda c: c.choices["optimizer"].kind == "adam"),
        ("optimizer = {kind = 'adam'}", lambda c: c.choices["optimizer"].kind == "adam"),
        ("compressor.error_feedback=true", lambda c: c.choices["compressor"].values["error_feedback"] is True),
        ("run.eval_every=0", lambda c: c.run.eval_every == 0),
        ("run.seconds_per_shard=inf", lambda c: c.run.seconds_per_shard == math.inf),
        ("wait.count=2", lambda c: c.choices["wait"].values["count"] == 2),
        ("problem.noise=0", lambda c: c.choices["problem"].values["noise"] == 0.0),
    ],
)
def test_an_override_is_a_toml_value_or_else_a_string(override, read):
    config = parse(PROBLEM, [override])
    assert read(config)
    assert same(parse(config.toml()), config)


def test_overrides_may_be_infinite_lists_and_strings():
    config = parse(PROBLEM, ["stragglers.kind=fixed", "stragglers.workers=[3, 1]", "stragglers.seconds=inf"])
    expected = {"workers": (3, 1), "seconds": math.inf, "at": "compute", "events": ()}
    assert config.choices["stragglers"].values == expected
    assert same(parse(config.toml()), config)
    config = parse(PROBLEM, ["problem.kind=classifier", "problem.hidden=[]", "problem.data=/some/where else/x=y#z"])
    assert config.choices["problem"].values["hidden"] == ()
    assert config.choices["problem"].values["data"] == "/some/where else/x=y#z"
    assert same(parse(config.toml()), config)
    assert parse(PROBLEM, ["problem.kind=classifier", "problem.data="]).choices["problem"].values["data"] == ""


def test_the_last_override_of_a_key_counts():
    assert parse(PROBLEM, ["steps=1", "steps=2"]).steps == 2
    assert parse(PROBLEM, ["optimizer.lr=1.0", "optimizer.lr=2.0"]).choices["optimizer"].values["lr"] == 2.0


def test_an_override_keeps_the_files_other_keys():
    text = PROBLEM + '[optimizer]\nkind = "sgd"\nlr = 0.25\nmomentum = 0.5\n'
    values = parse(text, ["optimizer.lr=0.75"]).choices["optimizer"].values
    assert (values["lr"], values["momentum"]) == (0.75, 0.5)


def test_another_kind_drops_the_files_keys_that_it_does_not_have_and_keeps_those_it_has():
    text = PROBLEM + '[optimizer]\nkind = "sgd"\nlr = 0.25\nmomentum = 0.5\n'
    choice = parse(text, ["optimizer.kind=adam"]).choices["optimizer"]
    assert choice.kind == "adam"
    assert choice.values["lr"] == 0.25
    assert "momentum" not in choice.values


def test_another_kind_keeps_what_every_kind_has():
    text = PROBLEM + '[compressor]\nkind = "stochastic_sign"\nscale = "l2"\nerror_feedback = true\n'
    choice = parse(text, ["compressor.kind=sign"]).choices["compressor"]
    assert choice.values == {"error_feedback": True, "momentum": None, "beta1": None, "beta2": None}


def test_an_explicit_key_that_the_new_kind_does_not_have_is_an_error_in_whatever_order():
    text = PROBLEM + '[optimizer]\nkind = "sgd"\nmomentum = 0.5\n'
    for overrides in itertools.permutations(["optimizer.kind=adam", "optimizer.momentum=0.9"]):
        with pytest.raises(ConfigError, match=r"^optimizer\.momentum: unknown key of optimizer\.kind = 'adam'"):
            parse(text, overrides)


def test_the_file_is_read_and_named(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(PROBLEM + "# Grüße\n[wait]\ntimeout = 5\n", encoding="utf-8")
    assert load(path, ["steps=3"]).choices["wait"].values["timeout"] == 5.0
    assert load(path, ["steps=3"]).steps == 3


# --- what is wrong --------------------------------------------------------------------------------------------------

FINDINGS = [
    # unknown keys
    (["step=1"], r"^step: unknown key; did you mean 'steps'\? \(valid: seed, workers, steps, "),
    (["zzzzz=1"], r"^zzzzz: unknown key \(valid: "),
    (["optimiser.lr=1"], r"^optimiser: unknown key; did you mean 'optimizer'\?"),
    (
        ["optimizer.learning_rate=1"],
        r"^optimizer\.learning_rate: unknown key of optimizer\.kind = 'sgd'.*\(valid: lr, momentum",
    ),
    (["optimizer.momentun=0.1"], r"^optimizer\.momentun: .*did you mean 'momentum'\?"),
    (
        ["code.straglers=1", "code.kind=sgc"],
        r"^code\.straglers: unknown key of code\.kind = 'sgc'; did you mean 'stragglers'\?",
    ),
    (["code.stragglers=1"], r"^code\.stragglers: unknown key of code\.kind = 'uncoded'"),
    (["compressor.scale=max"], r"^compressor\.scale: unknown key of compressor\.kind = 'identity'"),
    (["wait.seconds=1.0"], r"^wait\.seconds: unknown key of wait\.kind = 'first_replies'"),
    (["run.eval_evry=1"], r"^run\.eval_evry: unknown key; did you mean 'eval_every'\?"),
    (["problem.batchsize=1"], r"^problem\.batchsize: .*did you mean 'batch_size'\?"),
    (["downlink.bits=1"], r"^downlink\.bits: unknown key of downlink\.kind = 'model' \(valid: dtype\)$"),
    (["code.n=3"], r"^code\.n: unknown key"),
    (["problem.k=3"], r"^problem\.k: unknown key"),
    (["problem.seed=3"], r"^problem\.seed: unknown key"),
    # unknown kinds
    (["code.kind=cyclic_rep"], r"^code\.kind: unknown kind 'cyclic_rep'; did you mean 'cyclic_repetition'\?"),
    (["compressor.kind=signs"], r"^compressor\.kind: unknown kind 'signs'; did you mean 'sign'\?"),
    (["optimizer.kind=Adam"], r"^optimizer\.kind: unknown kind 'Adam'; did you mean 'adam'\?"),
    (["wait.kind=7"], r"^wait\.kind: unknown kind 7 \(valid: first_replies, decodable, deadline"),
    # wrong types and values
    (["seed=-1"], r"^seed: -1: input should be greater than or equal to 0$"),
    (["seed=1.0"], r"^seed: 1\.0: input should be a valid integer$"),
    (["seed=true"], r"^seed: True: input should be a valid integer$"),
    (["seed=x"], r"^seed: 'x': input should be a valid integer$"),
    (["seed=1979-05-27"], r"^seed: .*: input should be a valid integer$"),
    (["steps=0"], r"^steps: 0: input should be greater than or equal to 1$"),
    (["workers=0"], r"^workers: 0: input should be greater than or equal to 1$"),
    (["workers=inf"], r"^workers: inf: input should be a valid integer$"),
    (["optimizer.lr=0"], r"^optimizer\.lr: 0: input should be greater than 0$"),
    (["optimizer.lr=inf"], r"^optimizer\.lr: inf: input should be less than inf"),
    (["optimizer.lr=nan"], r"^optimizer\.lr: nan: "),
    (["optimizer.lr=fast"], r"^optimizer\.lr: 'fast': input should be a valid number$"),
    (["optimizer.momentum=1.0"], r"^optimizer\.momentum: 1\.0: input should be less than 1"),
    (["problem.shards=0"], r"^problem\.shards: 0: input should be greater than or equal to 1$"),
    (["problem.features=1.5"], r"^problem\.features: 1\.5: input should be a valid integer"),
    (["compressor.error_feedback=1"], r"^compressor\.error_feedback: 1: input should be a valid boolean$"),
    (["compressor.momentum=adam"], r"^compressor\.momentum: 'adam': input should be 'lion' or 'signum'$"),
    (["compressor.momentum=lion", "compressor.beta2=1.0"], r"^compressor\.beta2: 1\.0: input should be less than 1$"),
    (["code.kind=sgc", "code.p=[0.1, 1.5]"], r"^code\.p\.1: 1\.5: input should be less than 1$"),
    (["code.kind=sgc", "code.p=1.0"], r"^code\.p: 1\.0: input should be less than 1$"),
    (["code.decoder=magic"], r"^code\.decoder: 'magic': input should be 'sum', .*'least_squares'"),
    (
        ["compressor.kind=stochastic_sign", "compressor.scale=mean"],
        r"^compressor\.scale: 'mean': input should be 'max', 'l2' or",
    ),
    (["stragglers.kind=bernoulli"], r"^stragglers\.p: missing$"),
    (["stragglers.kind=bernoulli", "stragglers.p=1.5"], r"^stragglers\.p: 1\.5: input should be less than or equal to 1$"),
    (["stragglers.kind=bernoulli", "stragglers.p=0.5", "stragglers.seconds=-1"], r"^stragglers\.seconds: -1: "),
    (["stragglers.kind=bernoulli", "stragglers.p=0.5", "stragglers.seconds=nan"], r"^stragglers\.seconds: nan: "),
    (["stragglers.kind=fixed", "stragglers.workers=3"], r"^stragglers\.workers: 3: input should be a valid tuple$"),
    (["stragglers.kind=fixed", "stragglers.workers=[0, -3]"], r"^stragglers\.workers\.1: -3: "),
    (["stragglers.kind=sum", "stragglers.models=[{kind='burst'}]"], r"^stragglers\.models\.0\.kind: .*did you mean 'bursts'\?"),
    (
        ["stragglers.kind=sum", "stragglers.models=[{kind='none'}, {kind='pareto', shap=2.0}]"],
        r"^stragglers\.models\.1\.shap: unknown key of stragglers\.models\.1\.kind = 'pareto'; did you mean 'shape'\?",
    ),
    (
        ["stragglers.kind=sum", "stragglers.models=[{kind='sum', models=[]}]"],
        r"^stragglers\.models\.0\.kind: unknown kind 'sum'",
    ),
    (["stragglers.kind=sum", "stragglers.models=3"], r"^stragglers\.models: 3: input should be a valid tuple$"),
    (["stragglers.kind=pareto", "stragglers.shape=1"], r"^stragglers\.shape: 1: input should be greater than 1$"),
    (["stragglers.at=sending"], r"^stragglers\.at: 'sending': input should be 'compute' or 'send'$"),
    (["problem.kind=classifier", "problem.hidden=[8, 0]"], r"^problem\.hidden\.1: 0: "),
    (
        ["problem.kind=classifier", "problem.model=resnet"],
        r"^problem\.model: 'resnet': input should be 'linear', 'mlp' or 'cnn'",
    ),
    (["problem.kind=classifier", "problem.data=7"], r"^problem\.data: 7: input should be a valid string$"),
    (["wait.timeout=inf"], r"^wait\.timeout: inf: "),
    (["run.threads=-1"], r"^run\.threads: -1: "),
    (["run.start_timeout=soon"], r"^run\.start_timeout: 'soon': "),
    # tables that are none
    (["run=3"], r"^run: 3: must be a table$"),
    (["code=sgc"], r"^code: 'sgc': input should be a valid dictionary$"),
    (["code=[{kind = 'sgc'}]"], r"^code: \[.*\]: input should be a valid dictionary$"),
    # no overrides at all
    (["steps"], r"^'steps': an override looks like key=value or table\.key=value$"),
    (["=3"], r"^'=3': an override looks like"),
    ([""], r"^'': an override looks like"),
    (["a.b.c=3"], r"^'a\.b\.c=3': an override looks like"),
    ([".lr=3"], r"^'\.lr=3': an override looks like"),
    (["optimizer.=3"], r"^'optimizer\.=3': an override looks like"),
    (["code=3", "code.kind=sgc"], r"^'code\.kind=sgc': code was given a value before$"),
]


@pytest.mark.parametrize(("overrides", "message"), FINDINGS, ids=[" ".join(overrides) for overrides, _ in FINDINGS])
def test_a_wrong_value_is_one_config_error_that_starts_with_its_path(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(PROBLEM, overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


UNBUILDABLE = [
    (["compressor.beta1=0.8"], r"^compressor\.beta1: 0\.8: belongs to a momentum; set compressor\.momentum"),
    (["compressor.momentum=signum", "compressor.beta2=0.8"], r"^compressor\.beta2: 0\.8: signum has beta1 alone"),
    (with_kind("code", "fractional_repetition", stragglers=2), r"^code: fractional_repetition: .* possible values"),
    (with_kind("code", "cyclic_repetition", stragglers=4), r"^code: cyclic_repetition: stragglers = 4 must be at most"),
    (["problem.shards=5", *with_kind("code", "cyclic_repetition")], r"^code: cyclic_repetition: needs as many shards"),
    (["problem.shards=3"], r"^code: uncoded: 3 shards leave some of the 4 workers"),
    (with_kind("code", "sgc", replication=5), r"^code: sgc: replication = 5 must be at most"),
    (["wait.count=5"], r"^wait\.count: cannot wait for 5 of 4 workers$"),
    (with_kind("wait", "deadline", seconds=9.0, timeout=3.0), r"^wait\.seconds: the deadline"),
    (with_kind("stragglers", "fixed", workers=[4]), r"^stragglers\.workers: there is no worker 4; worker ids are 0 to 3$"),
    (with_kind("stragglers", "fixed", workers=[1, 1]), r"^stragglers\.workers: .* names a worker twice$"),
    (with_kind("stragglers", "exactly", count=5), r"^stragglers\.count: cannot delay 5 of 4 workers$"),
    (with_kind("stragglers", "shifted_exponential", seconds=0.1), r"^stragglers\.seconds: the mean, 0.1 s, cannot be below"),
    (with_kind("stragglers", "bursts", p=0.9, length=2.0), r"^stragglers\.length: bursts of 2 steps .* at least 9 steps$"),
    (with_kind("stragglers", "speeds", factors=[2.0]), r"^stragglers\.factors: 1 for 4 workers"),
    (with_kind("stragglers", "speeds", at="send"), r"^stragglers\.at: 'speeds' has no delay of its own"),
    (with_kind("stragglers", "trace", file="there/is.none"), r"^stragglers\.file: 'there/is.none' is neither .csv nor .npz$"),
    (with_kind("stragglers", "sum", models=[]), r"^stragglers\.models: a sum needs at least one model"),
    (
        with_kind("stragglers", "sum", models=[{"kind": "none"}, {"kind": "fixed", "workers": [7]}]),
        r"^stragglers\.models\.1\.workers: there is no worker 7",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), UNBUILDABLE, ids=[" ".join(overrides) for overrides, _ in UNBUILDABLE])
def test_what_no_object_can_be_built_from_is_found_by_check(overrides, message):
    config = parse(PROBLEM, overrides)
    with pytest.raises(ConfigError, match=message):
        Experiment.of(config, N).check()


def test_no_problem_is_no_config():
    with pytest.raises(ConfigError, match=r"^problem\.kind: missing; choose one of linear_regression, logistic_regression"):
        parse("")


def test_what_is_no_toml_names_the_file(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("steps = = 3")
    with pytest.raises(ConfigError, match=r"broken\.toml: not TOML: .*line 1"):
        load(path)
    with pytest.raises(ConfigError, match=r"^config: not TOML: "):
        parse("steps = 3\nsteps = 4")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: cannot be read: .*utf-8"):
        load(tmp_path / "latin.toml")


# --- anything at all ------------------------------------------------------------------------------------------------

KEYS = sorted(
    {"seed", "workers", "steps", "run", *SECTIONS, *(f"run.{key}" for key in ("eval_every", "threads"))}
    | {f"{name}.{key}" for name, kind in EVERY_KIND for key in ["kind", *SECTIONS[name].keys(kind)]}
)
KINDS = sorted({kind for _, kind in EVERY_KIND})
ODD = ["0", "1", "2", "3", "-1", "0.5", "1e400", "inf", "-inf", "nan", "true", "[]", "[0, 1]", "{}", '""', "[[]]", "{a=1}"]
SCALARS = st.one_of(
    st.sampled_from(ODD), st.sampled_from(KINDS), st.text(max_size=12), st.integers(-5, 9).map(str), st.floats().map(repr)
)
WORDS = st.sampled_from(KEYS) | st.text(max_size=10)


def config_or_none(text, overrides=()):
    """The config, None for a ConfigError; whatever else is raised fails the test. A config resolves to itself."""
    try:
        config = parse(text, overrides)
    except ConfigError:
        return None
    assert same(parse(config.toml()), config)
    return config


@given(st.lists(st.tuples(WORDS, SCALARS).map("=".join) | st.text(max_size=20), max_size=6))
@settings(LAW, max_examples=400)
def test_overrides_give_a_config_or_a_config_error(overrides):
    config_or_none(PROBLEM, overrides)


@given(st.lists(st.tuples(st.sampled_from(KEYS), SCALARS).map("=".join), max_size=4))
@settings(LAW, max_examples=400)
def test_what_parses_can_be_built_or_is_a_config_error(overrides):
    config = config_or_none(PROBLEM, overrides)
    if config is not None:
        with suppress(ConfigError):
            Experiment.of(config, N).check()


GOOD = (
    PROBLEM
    + """
[code]
kind = "sgc"
replication = 2
[compressor]
kind = "stochastic_sign"
scale = "l2"
error_feedback = true
[stragglers]
kind = "fixed"
workers = [1, 2]
seconds = inf
[run]
eval_every = 5
"""
)


@given(st.data())
@settings(LAW, max_examples=400)
def test_a_mutated_file_gives_a_config_or_a_config_error(data):
    text = GOOD
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(start + 12, len(text))))
        text = text[:start] + data.draw(st.text(max_size=6) | SCALARS | st.sampled_from(KEYS)) + text[stop:]
    config_or_none(text)


@given(st.binary(max_size=60))
@LAW
def test_a_file_of_any_bytes_gives_a_config_or_a_config_error(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("any") / "any.toml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError):  # none of them has a problem
        load(path)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000 + "]" * 3000], ids=["a number of 5000 digits", "3000 brackets"])
@pytest.mark.parametrize("where", ["file", "override"])
def test_values_that_are_too_much_for_the_toml_reader_are_config_errors(value, where):
    with pytest.raises(ConfigError):
        parse(f"seed = {value}\n" + PROBLEM) if where == "file" else parse(PROBLEM, [f"seed={value}"])


def test_an_override_that_names_the_files_own_kind_does_not_hide_a_misspelt_key():
    text = PROBLEM + '[optimizer]\nkind = "sgd"\nlrr = 0.1\n'
    with pytest.raises(ConfigError, match=r"^optimizer\.lrr: unknown key"):
        parse(text, ["optimizer.kind=sgd"])


def test_an_override_is_one_value_and_not_a_line_more():
    with pytest.raises(ConfigError, match="one line of text"):
        parse(PROBLEM, ["steps=1\nseed=2"])


def test_spares_are_ranks_that_are_no_workers():
    with pytest.raises(ConfigError, match=r"says 4, but there are 2 \(ranks - 1 - spares\); start 7 ranks"):
        parse("workers = 4\n[problem]\nkind = 'linear_regression'", ["run.spares=2"]).for_workers(2)


def test_masters_are_ranks_that_are_no_workers():
    problem = "workers = 4\n[problem]\nkind = 'linear_regression'"
    with pytest.raises(ConfigError, match=r"says 4, but there are 2 \(ranks - masters - spares\); start 9 ranks"):
        parse(problem, ["run.spares=2", "run.masters=3"]).for_workers(2)
    with pytest.raises(ConfigError, match=r"says 4, but there are 2 \(ranks - masters\); start 6 ranks"):
        parse(problem, ["run.masters=2"]).for_workers(2)
    assert parse(problem, ["run.masters=0"]).run.ranks(4) == 5  # one master at least


@pytest.mark.parametrize("masters", [0, 2])
def test_new_processes_reach_one_master_only(masters):
    assert parse(PROBLEM, ["run.replace=1"]).run.masters == 1
    with pytest.raises(ConfigError, match=r"^run\.replace: new processes reach one master only; use run\.spares"):
        parse(PROBLEM, ["run.replace=1", f"run.masters={masters}"])


def test_a_worker_is_named_by_16_bits():
    assert parse(PROBLEM, ["workers=65535"]).workers == 65535
    for config in (lambda: parse(PROBLEM, ["workers=65536"]), lambda: parse(PROBLEM).for_workers(65536)):
        with pytest.raises(ConfigError, match=r"^workers: 65,536: 65,535 at most"):
            config()


MAKERS = """
import types

class Rule:
    timeout = 60.0
    patience = "long"
    enough = lacking = feasible = losses_left = lambda self, arrived: True

def nothing(): return None
def number(): return 7
def table(): return {"kind": "sign"}
def rule(): return Rule()
def rules(): return Rule
def code(n, k):
    import gcdl.codes
    return gcdl.codes.CODES["uncoded"](n + 1, k + 1)
def decoder(n, k):
    import dataclasses, gcdl.codes
    return dataclasses.replace(gcdl.codes.CODES["uncoded"](n, k), decoder=lambda B, arrived: arrived)
def half(): return types.SimpleNamespace(k=4, layout=nothing, load=nothing)
def optimizer():
    import torch
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
"""


@pytest.mark.parametrize("table", ["problem", "code", "compressor", "wait", "stragglers", "optimizer"])
@pytest.mark.parametrize(
    ("maker", "says"), [("nothing", "is None"), ("number", "is 7"), ("table", "is a dict"), ("rules", "is the class Rule")]
)
def test_a_factory_that_returns_something_else_is_named_with_what_came_and_what_is_wanted(
    tmp_path, monkeypatch, table, maker, says
):
    (tmp_path / "makers_of_others.py").write_text(MAKERS)
    monkeypatch.syspath_prepend(tmp_path)
    custom = f'[{table}]\nkind = "custom"\nfactory = "makers_of_others:{maker}"\n'
    config = parse(f"workers = 4\n{custom}" + ("" if table == "problem" else '[problem]\nkind = "linear_regression"\n'))
    with pytest.raises(ConfigError) as caught:
        Experiment.of(config, 4).check()
    assert str(caught.value).startswith(f"{table}.factory: makers_of_others:{maker} {says}")
    assert "; wanted: a" in str(caught.value)


@pytest.mark.parametrize(
    ("table", "maker", "says"),
    [
        ("wait", "rule", "is a Rule without patience"),
        ("code", "code", "has a B of 5 x 5; there are 4 workers and 4 shards"),
        ("code", "decoder", "has a decoder that is none of gcdl.codes.DECODERS (sum, "),
        ("problem", "half", "is a SimpleNamespace without initial_parameters, gradient, evaluator, save"),
        ("optimizer", "optimizer", "is a SGD without build; wanted: a gcdl.TorchOptimizer"),
    ],
)
def test_an_object_that_is_nearly_what_is_wanted_is_told_what_it_lacks(tmp_path, monkeypatch, table, maker, says):
    (tmp_path / "makers_of_others.py").write_text(MAKERS)
    monkeypatch.syspath_prepend(tmp_path)
    custom = f'[{table}]\nkind = "custom"\nfactory = "makers_of_others:{maker}"\n'
    config = parse(f"workers = 4\n{custom}" + ("" if table == "problem" else '[problem]\nkind = "linear_regression"\n'))
    with pytest.raises(ConfigError) as caught:
        Experiment.of(config, 4).check()
    assert f"{table}.factory: makers_of_others:{maker} {says}" in str(caught.value)
