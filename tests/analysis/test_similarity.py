"""Which features two SAEs share, against loops."""

import math
from types import SimpleNamespace

import pytest
import torch

from saework.analysis import similarity
from saework.analysis.similarity import compare


def with_rows(rows):
    return SimpleNamespace(W_dec=torch.as_tensor(rows, dtype=torch.float32))


def random_rows(n, seed, d_in=6):
    return torch.randn(n, d_in, generator=torch.Generator().manual_seed(seed))


def slow_nearest(a, b):
    def unit(row):
        return [x / math.sqrt(sum(y * y for y in row)) for x in row]

    a, b = [unit(row) for row in a.tolist()], [unit(row) for row in b.tolist()]
    cosines = [[sum(x * y for x, y in zip(row, other)) for other in b] for row in a]
    return [(row.index(max(row)), max(row)) for row in cosines]


@pytest.mark.parametrize("block", [1024, 4])
def test_compare_against_loops(monkeypatch, block):
    monkeypatch.setattr(similarity, "BLOCK", block)
    a, b = random_rows(11, 0), random_rows(7, 1)
    there, back = slow_nearest(a, b), slow_nearest(b, a)
    table = compare(with_rows(a), with_rows(b))
    assert table.columns.tolist() == ["direction", "feature", "nearest", "cosine", "mutual"]
    assert table["direction"].tolist() == ["a to b"] * 11 + ["b to a"] * 7
    assert table["feature"].tolist() == [*range(11), *range(7)]
    assert table["nearest"].tolist() == [nearest for nearest, _ in there + back]
    assert table["cosine"].tolist() == pytest.approx([value for _, value in there + back], abs=1e-6)
    mutual = [back[j][0] == i for i, (j, _) in enumerate(there)] + [
        there[i][0] == j for j, (i, _) in enumerate(back)
    ]
    assert table["mutual"].tolist() == mutual
    assert True in mutual and False in mutual


def test_a_permuted_and_rescaled_copy_is_found_again():
    a = random_rows(20, 2)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    table = compare(with_rows(a), with_rows(a[order] * torch.arange(1, 21)[:, None]))
    back = table[table["direction"] == "b to a"]
    assert back["nearest"].tolist() == order.tolist()
    assert table["mutual"].all()
    assert table["cosine"].tolist() == pytest.approx([1] * 40, abs=1e-6)


def test_orthogonal_rows_have_nothing_in_common():
    table = compare(
        with_rows([[1, 0, 0, 0], [0, 1, 0, 0]]), with_rows([[0, 0, 2, 0], [0, 0, 0, 3]])
    )
    assert table["cosine"].tolist() == [0] * 4
    assert table["nearest"].tolist() == [0] * 4  # ties: the lowest


def test_by_hand():
    table = compare(with_rows([[3, 4], [1, 0]]), with_rows([[5, 0]]))
    assert table["cosine"].tolist() == pytest.approx([0.6, 1, 1])
    assert table["mutual"].tolist() == [False, True, True]


def test_a_row_of_zeros_is_near_nothing():
    assert compare(with_rows([[0, 0]]), with_rows([[1, 0]]))["cosine"].tolist() == [0, 0]


def test_other_widths():
    message = "d_in is 6 in the first SAE and 5 in the second; compare SAEs of one hook and model"
    with pytest.raises(ValueError, match=message):
        compare(with_rows(random_rows(3, 0)), with_rows(random_rows(3, 0, d_in=5)))


def test_weights_that_are_not_finite():
    with pytest.raises(
        ValueError,
        match="decoder weights hold 1 NaN or infinite values out of 4; load the weights again",
    ):
        compare(with_rows([[1, 0], [0, math.inf]]), with_rows([[1, 0]]))
