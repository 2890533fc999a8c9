"""Orders of points in the facts of a store are checked before anything is read."""

from types import SimpleNamespace

import pytest

from romzarr.errors import StoreError
from romzarr.store.layout import JsonObject
from romzarr.store.reading.points import orders_of

VARIABLE = SimpleNamespace(dims=("time", "cell"), shape=(9, 40), time_axis=0)
ARRAYS = {
    "coordinates/x": SimpleNamespace(shape=(40,), dtype="float32"),
    "coordinates/y": SimpleNamespace(shape=(40,), dtype="int16"),
    "coordinates/z": SimpleNamespace(shape=(41,), dtype="float64"),
    "coordinates/name": SimpleNamespace(shape=(40,), dtype="string"),
}
ORDER = {"curve": "plane", "coordinates": ["x", "y"], "pieces": 30, "checksum": "0123abcd"}


def parsed(orders):
    return orders_of(JsonObject({"orders": orders}, "facts"), {"u": VARIABLE}, ARRAYS)


def test_a_valid_order_is_parsed():
    assert parsed({"cell": ORDER})["cell"].pieces == 30
    assert parsed({"cell": {**ORDER, "pieces": [15, 25]}})["cell"].pieces == (15, 25)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"curve": "peano"}, "'curve' must be one of"),
        ({"curve": "space"}, "needs 3 'coordinates'"),
        ({"coordinates": ["x", "x"]}, "must be different"),
        ({"coordinates": ["x", "z"]}, "must be an array of 40 numbers"),
        ({"coordinates": ["x", "w"]}, "must be an array of 40 numbers"),
        ({"coordinates": ["x", "name"]}, "must be numbers"),
        ({"pieces": 0}, "from 1 to 40"),
        ({"pieces": 41}, "from 1 to 40"),
        ({"pieces": [15, 24]}, "must be 40 points together"),
        ({"pieces": [41, -1]}, "positive"),
        ({"pieces": [20.0, 20]}, "positive"),
        ({"pieces": True}, "an integer"),
        ({"checksum": "short"}, "checksum"),
    ],
)
def test_an_invalid_order_is_refused(change, says):
    with pytest.raises(StoreError, match=says):
        parsed({"cell": {**ORDER, **change}})


@pytest.mark.parametrize("dim", ["time", "face"])
def test_only_dims_of_space_have_an_order(dim):
    with pytest.raises(StoreError, match="dim of space"):
        parsed({dim: ORDER})
