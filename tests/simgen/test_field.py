"""Field: shapes, layouts, supports."""

import numpy as np
import pytest
from torch.distributions import constraints

from simgen import Field
from simgen.field import infer_field


def test_round_trip():
    field = Field((3,), support=(0, [1, 2, 3]), names=["a", "b", "c"], units="m s kg".split())
    assert Field.from_dict(field.to_dict()) == field
    assert field.support == (0.0, (1.0, 2.0, 3.0))


def test_support_from_torch_constraints():
    assert Field((1,), support=constraints.positive).support == (0.0, None)
    assert Field((1,), support=constraints.unit_interval).support == (0.0, 1.0)
    assert Field((1,), support=constraints.real).support is None


@pytest.mark.parametrize(
    ("shape", "layout", "columns"),
    [((), "vector", 1), ((4,), "vector", 4), ((9, 4), "series", 4), ((2, 8, 8), "image", 2)],
)
def test_inference(shape, layout, columns):
    field = infer_field(np.zeros((5, *shape), dtype=np.float32))
    assert (field.layout, field.columns, field.dtype) == (layout, columns, "float32")


def test_inference_of_lengths_and_whole_numbers():
    assert infer_field(np.zeros((5, 9, 4)), length=True).layout == "set"
    assert infer_field(np.zeros((5, 9), dtype=np.int64)).discrete


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Field((3,), "vektor"), "layout must be one of"),
        (lambda: Field((3, 3, 3), "vector"), "axes a row"),
        (lambda: Field((3,), support=(1, 0)), "low < high"),
        (lambda: Field((3,), names=["a"]), "names must be 3"),
        (lambda: Field((3,), iid=True), "iid=True"),
        (lambda: infer_field(np.zeros((2, 3)), Field((4,))), "declared with shape"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
