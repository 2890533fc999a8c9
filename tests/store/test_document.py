"""Facts come back as they were written, whichever form is shorter."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from romzarr.errors import StoreError
from romzarr.store import document, layout

FIELDS = st.fixed_dictionaries(
    {"dims": st.just(["time"]), "shape": st.lists(st.integers(0, 9), max_size=2)},
    optional={
        "offset": st.floats(allow_nan=False, allow_infinity=False),
        "column": st.integers(0, 99),
    },
)
NAMES = st.lists(st.text(st.characters(codec="ascii"), max_size=4), unique=True, max_size=60)


@st.composite
def facts(draw):
    names = draw(NAMES)
    variables = {name: draw(FIELDS) for name in names}
    if names and draw(st.booleans()):
        start, step = draw(st.integers(0, 9)), draw(st.integers(-3, 3))
        variables = {
            name: {**each, "column": start + k * step}
            for k, (name, each) in enumerate(variables.items())
        }
    errors = draw(st.sampled_from([names, names[:1], names[::-1]]))
    return {
        "variables": variables,
        "order": draw(st.sampled_from([names, names[::-1]])),
        "relative_l2_error": dict.fromkeys(errors, 0.001),
        "fluctuation": dict.fromkeys(names, 1 / 3),
        "tolerance": 0.01,
        "coords": names[:2],
    }


@given(facts())
def test_facts_are_restored(written):
    found, _ = document.parse_generation(document.generation_document(written, {}, "s"), "s")
    assert found.document == written
    for key in ("variables", "relative_l2_error"):
        assert list(found.document[key]) == list(written[key])


def test_alike_variables_take_a_few_bytes_each():
    names = [f"sensor_{k}" for k in range(400)]
    same = {"dims": ["time"], "shape": [100], "dtype": "<f8", "time_axis": 0, "coding": "pod"}
    written = {"variables": {name: {**same, "column": k} for k, name in enumerate(names)}}
    written["order"] = names
    assert len(document.generation_document(written, {}, "s")) < 5 * len(names)


def forged(**columns):
    group = layout.consolidated_group({}, {"facts": document.packed(columns)})
    return json.dumps(group).encode()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"table": []}, "must be a JSON object"),
        ({"table": {}}, "'names' is missing"),
        ({"table": {"names": ["u", "u"]}}, "different strings"),
        ({"table": {"names": ["u"], "dims": [1, 2]}}, "a list of 1 values"),
        ({"table": {"names": ["u"], "dims": "x"}}, "a list of 1 values"),
        ({"table": {"names": ["u"], "column": {"start": 0}}}, "'step' is missing"),
        ({"table": {"names": ["u"]}, "fluctuation": []}, "a list of 1 values"),
    ],
)
def test_columns_that_nobody_writes_are_refused(columns, message):
    with pytest.raises(StoreError, match=message):
        document.parse_generation(forged(**columns), "s")
