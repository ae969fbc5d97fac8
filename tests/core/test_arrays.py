import numpy as np
import pytest
import torch
from pretended_device import pretended_gpu

from saework.core.arrays import as_array


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
def test_a_tensor_keeps_its_dtype(dtype):
    tensor = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    array = as_array(tensor)
    assert array.dtype == tensor.numpy().dtype
    assert array.tolist() == tensor.tolist()


def test_bfloat16_becomes_float32():
    array = as_array(torch.tensor([0.5, 3.0], dtype=torch.bfloat16))
    assert array.dtype == np.float32
    assert array.tolist() == [0.5, 3.0]


def test_a_weight_that_is_being_trained():
    assert as_array(torch.nn.Parameter(torch.ones(2))).tolist() == [1, 1]


def test_a_tensor_on_a_gpu():
    with pretended_gpu() as gpu:
        assert as_array(torch.tensor([1.5, 2], device=gpu), float).tolist() == [1.5, 2]


def test_plain_numbers_in_another_dtype():
    assert as_array([1, 2], float).dtype == float
    assert as_array(np.arange(3)).tolist() == [0, 1, 2]


def test_what_is_no_table():
    with pytest.raises(
        ValueError, match=r"values are \[\[1, 0\], \[1\]\]; give numbers, in rows of"
    ):
        as_array([[1, 0], [1]])
    with pytest.raises(ValueError, match="values are 'x'; give numbers"):
        as_array("x", dtype=float)
    with pytest.raises(ValueError, match="values are on device meta; give a dense tensor"):
        as_array(torch.ones(2, device="meta"))
