"""A plug-in's signature is its schema; whatever is wrong is one ConfigError that starts with the key's path."""

from typing import Literal

import pytest

from gcdl.config.schema import CONTEXT, Section, Table, validate
from gcdl.errors import ConfigError, ParameterError
from gcdl.types import Count, Natural, Positive, Seconds


class Spring:
    def __init__(
        self,
        n: int,
        *,
        stiffness: Positive,
        length: Seconds = 1.0,
        coils: Count = 3,
        ends: tuple[Natural, ...] = (0, 1),
        shape: Literal["round", "square"] = "round",
        label: str = "",
        bent: bool = False,
        limit: Count | None = None,
    ) -> None:
        if coils > n:
            raise ParameterError(f"coils: {coils} coils on {n} pins")
        if label == "broken":
            raise ParameterError("a broken spring cannot be built")
        self.given = (n, stiffness, length, coils, ends, shape, label, bent, limit)


def damper(n, rng, *, c: Positive = 1.0, label: str = "") -> tuple:
    return (n, rng, c, label)


def nothing() -> str:
    return "nothing"


SECTION = Section(
    "part", {"spring": Spring, "damper": damper, "nothing": nothing}, default="nothing", extra={"painted": (bool, False)}
)
REQUIRED = Section("part", {"spring": Spring, "damper": damper})


# --- what is right --------------------------------------------------------------------------------------------------


def test_the_keys_of_a_kind_are_its_own_parameters_and_the_extra_ones():
    assert SECTION.keys("spring") == [
        "stiffness", "length", "coils", "ends", "shape", "label", "bent", "limit", "painted",
    ]  # fmt: skip
    assert SECTION.keys("damper") == ["c", "label", "painted"]
    assert SECTION.keys("nothing") == ["painted"]
    assert SECTION.keys("no such kind") == ["painted"]


def test_what_the_run_supplies_is_no_key():
    assert {"n", "k", "seed", "rng", "code", "self"} == CONTEXT
    for key in ("n", "rng"):
        with pytest.raises(ConfigError, match=rf"^part\.{key}: unknown key"):
            SECTION.check({"kind": "damper", key: 1})


def test_a_table_is_checked_and_completed_with_defaults():
    choice = SECTION.check({"kind": "spring", "stiffness": 2.5})
    assert choice.kind == "spring"
    assert choice.values == {
        "stiffness": 2.5, "length": 1.0, "coils": 3, "ends": (0, 1), "shape": "round", "label": "", "bent": False,
        "limit": None, "painted": False,
    }  # fmt: skip


def test_the_kind_has_a_default_or_must_be_said():
    assert SECTION.check({}).kind == "nothing"
    with pytest.raises(ConfigError, match=r"^part\.kind: missing; choose one of spring, damper$"):
        REQUIRED.check({})


def test_checking_does_not_change_what_was_given():
    given = {"kind": "spring", "stiffness": 1.0, "ends": [4, 5]}
    SECTION.check(given)
    assert given == {"kind": "spring", "stiffness": 1.0, "ends": [4, 5]}


def test_a_whole_number_is_good_for_a_float_and_lists_become_tuples():
    values = SECTION.check({"kind": "spring", "stiffness": 2, "ends": [7]}).values
    assert type(values["stiffness"]) is float
    assert values["ends"] == (7,)


def test_the_table_that_toml_gets_has_the_kind_first_and_no_none():
    table = SECTION.check({"kind": "spring", "stiffness": 2.5}).table()
    assert next(iter(table)) == "kind"
    assert None not in table.values()
    assert SECTION.check(table).values == SECTION.check({"kind": "spring", "stiffness": 2.5}).values


def test_building_passes_the_values_and_what_is_asked_for_of_the_context():
    spring = SECTION.check({"kind": "spring", "stiffness": 2.5, "painted": True}).build(n=5, rng="unused", k=1)
    assert spring.given == (5, 2.5, 1.0, 3, (0, 1), "round", "", False, None)
    assert SECTION.check({"kind": "damper", "c": 2.0}).build(n=5, rng="rng", code=None) == (5, "rng", 2.0, "")
    assert SECTION.check({}).build(n=5) == "nothing"


# --- what is wrong --------------------------------------------------------------------------------------------------

WRONG = [
    ({"stiffness": 0.0}, r"^part\.stiffness: 0\.0: input should be greater than 0$"),
    ({"stiffness": -1}, r"^part\.stiffness: -1: input should be greater than 0$"),
    ({"stiffness": float("inf")}, r"^part\.stiffness: inf: input should be less than inf"),
    ({"stiffness": float("nan")}, r"^part\.stiffness: nan: "),
    ({"stiffness": "2.5"}, r"^part\.stiffness: '2\.5': input should be a valid number$"),
    ({"stiffness": True}, r"^part\.stiffness: True: input should be a valid number$"),
    ({"stiffness": [1.0]}, r"^part\.stiffness: \[1\.0\]: input should be a valid number$"),
    ({"stiffness": {"a": 1}}, r"^part\.stiffness: \{'a': 1\}: input should be a valid number$"),
    ({}, r"^part\.stiffness: missing$"),
    ({"stiffness": 1.0, "length": -0.5}, r"^part\.length: -0\.5: input should be greater than or equal to 0$"),
    ({"stiffness": 1.0, "length": float("nan")}, r"^part\.length: nan: "),
    ({"stiffness": 1.0, "coils": 0}, r"^part\.coils: 0: input should be greater than or equal to 1$"),
    ({"stiffness": 1.0, "coils": 2.0}, r"^part\.coils: 2\.0: input should be a valid integer$"),
    ({"stiffness": 1.0, "coils": True}, r"^part\.coils: True: input should be a valid integer$"),
    ({"stiffness": 1.0, "coils": "3"}, r"^part\.coils: '3': input should be a valid integer$"),
    ({"stiffness": 1.0, "ends": 3}, r"^part\.ends: 3: input should be a valid tuple$"),
    ({"stiffness": 1.0, "ends": [1, -2]}, r"^part\.ends\.1: -2: input should be greater than or equal to 0$"),
    ({"stiffness": 1.0, "ends": [[1]]}, r"^part\.ends\.0: \[1\]: input should be a valid integer$"),
    ({"stiffness": 1.0, "shape": "oval"}, r"^part\.shape: 'oval': input should be 'round' or 'square'$"),
    ({"stiffness": 1.0, "label": 3}, r"^part\.label: 3: input should be a valid string$"),
    ({"stiffness": 1.0, "bent": 1}, r"^part\.bent: 1: input should be a valid boolean$"),
    ({"stiffness": 1.0, "bent": "true"}, r"^part\.bent: 'true': input should be a valid boolean$"),
    ({"stiffness": 1.0, "limit": 0}, r"^part\.limit: 0: input should be greater than or equal to 1$"),
    ({"stiffness": 1.0, "painted": "yes"}, r"^part\.painted: 'yes': input should be a valid boolean$"),
    (
        {"stifness": 1.0},
        r"^part\.stifness: unknown key of part\.kind = 'spring'; did you mean 'stiffness'\? \(valid: stiffness, ",
    ),
    ({"stiffness": 1.0, "c": 1.0}, r"^part\.c: unknown key of part\.kind = 'spring'"),
    ({"stiffness": 1.0, "zzz": 1.0}, r"^part\.zzz: unknown key of part\.kind = 'spring' \(valid: stiffness, "),
]


@pytest.mark.parametrize(("table", "message"), WRONG, ids=[str(table) for table, _ in WRONG])
def test_a_wrong_table_is_one_config_error_that_starts_with_the_path(table, message):
    with pytest.raises(ConfigError, match=message) as caught:
        SECTION.check({"kind": "spring", **table})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sprnig", r"^part\.kind: unknown kind 'sprnig'; did you mean 'spring'\? \(valid: spring, damper, nothing\)$"),
        ("Spring", r"did you mean 'spring'\?"),
        ("zzz", r"^part\.kind: unknown kind 'zzz' \(valid: spring, damper, nothing\)$"),
        (3, r"^part\.kind: unknown kind 3 \(valid: "),
        ([], r"^part\.kind: unknown kind \[\] \(valid: "),
        ({}, r"^part\.kind: unknown kind \{\} \(valid: "),
        ("", r"^part\.kind: unknown kind ''"),
    ],
)
def test_an_unknown_kind_is_told_the_nearest(kind, message):
    with pytest.raises(ConfigError, match=message):
        SECTION.check({"kind": kind})


def test_an_unknown_key_where_there_are_none_says_so():
    bare = Section("part", {"nothing": nothing})
    with pytest.raises(ConfigError, match=r"^part\.x: unknown key of part\.kind = 'nothing' \(valid: none\)$"):
        bare.check({"kind": "nothing", "x": 1})


def test_a_plug_ins_refusal_gets_the_tables_path():
    with pytest.raises(ConfigError, match=r"^part\.coils: 9 coils on 5 pins$"):
        SECTION.check({"kind": "spring", "stiffness": 1.0, "coils": 9}).build(n=5)
    with pytest.raises(ConfigError, match=r"^part: a broken spring cannot be built$"):
        SECTION.check({"kind": "spring", "stiffness": 1.0, "label": "broken"}).build(n=5)


class Small(Table):
    depth: Natural = 0


def test_validate_without_a_path_starts_with_the_key():
    with pytest.raises(ConfigError, match=r"^deth: unknown key; did you mean 'depth'\? \(valid: depth\)$"):
        validate(Small, {"deth": 1}, "")
    with pytest.raises(ConfigError, match=r"^depth: -1: "):
        validate(Small, {"depth": -1}, "")
    assert validate(Small, {"depth": 2}, "").depth == 2
