"""Lines of the index, their orders, and the file that keeps them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from page_checks import cells, tree, words_of

from saework.views.feature_page.index import ORDERS, IndexRow, read_rows, write_rows
from saework.views.feature_page.write import write_pages


def row(feature, **values):
    known = {
        "firing_rate": 0.1,
        "max_activation": 2.0,
        "loss_change": 0.5,
        "loss_change_error": 0.1,
        "n_ablated": 12,
        "fires_on": "a",
        "raised": "b",
        "best_label": "–",
        "note": "",
        "near": (4, 9),
    }
    return IndexRow(feature, **{**known, **values})


def test_numbers_in_words():
    assert row(1).effect_text == "+0.500 ± 0.100 (n = 12)" and row(1).is_clear
    assert row(1, loss_change_error=None).effect_text == "+0.500 ± – (n = 12)"
    assert not row(1, loss_change_error=None).is_clear
    dead = row(1, firing_rate=0.0, loss_change=None, loss_change_error=None)
    assert (dead.effect_text, dead.is_clear, dead.rate_text) == ("–", False, "never")
    assert (row(1).rate_text, row(1).max_text, row(1).file) == ("10%", "2", "feature-1.html")


def test_orders():
    rows = [
        row(3, firing_rate=0.2, max_activation=1.0, loss_change=0.3),
        row(1, firing_rate=0.1, max_activation=9.0, loss_change=0.9, loss_change_error=0.5),
        row(2, firing_rate=0.1, max_activation=5.0, loss_change=-0.4),
        row(4, firing_rate=0.0, max_activation=0.0, loss_change=None, loss_change_error=None),
    ]
    found = {order.file: [row.feature for row in order.sorted(rows)] for order in ORDERS}
    assert found == {
        "index.html": [1, 2, 3, 4],
        "index-by-rate.html": [3, 1, 2, 4],
        "index-by-maximum.html": [1, 2, 3, 4],
        "index-by-effect.html": [3, 2, 1, 4],
    }


def test_each_order_is_a_page_and_the_heads_lead_to_the_others(pages, tmp_path):
    write_pages([pages[20], pages[7], pages[31]], tmp_path)
    for order in ORDERS:
        root = tree((tmp_path / order.file).read_text(encoding="utf-8"))
        features = [int(line[0]) for line in cells(root, "Counted on")[1:]]
        rows = [IndexRow.of(page) for page in pages.values()]
        assert features == [row.feature for row in order.sorted(rows)]
        heads = list(root.find(".//thead").iter("th"))
        (sorted_by,) = [head for head in heads if head.get("aria-sort")]
        assert (words_of(sorted_by), sorted_by.get("aria-sort")) == (order.column, order.direction)
        links = [link.get("href") for head in heads for link in head.iter("a")]
        assert links == [other.file for other in ORDERS if other != order]


def test_unclear_effects_are_grey(pages, tmp_path):
    unclear = pages[20].ablation.assign(standard_error=9.0)
    clear = pages[7].ablation.assign(standard_error=1e-4)
    both = [replace(pages[20], ablation=unclear), replace(pages[7], ablation=clear)]
    root = tree(write_pages(both, tmp_path).read_text(encoding="utf-8"))
    grey = [cell.get("class") for cell in root.iter("td") if "±" in words_of(cell)]
    assert grey == ["effect", "effect unclear"]  # by number: 7, then 20


def test_notes_have_a_column_if_there_are_any(pages, tmp_path):
    long = "word " * 30
    noted = replace(pages[7], note=f"{long}\nsecond line")
    root = tree(write_pages([noted, pages[20]], tmp_path).read_text(encoding="utf-8"))
    head, first, second = cells(root, "Counted on")
    assert head[-1] == "note" and second[-1] == ""
    assert first[-1] == f"{long[:80].strip()}…".replace(" …", "…") or first[-1].endswith("…")
    plain = tree(write_pages([pages[7]], tmp_path / "plain").read_text(encoding="utf-8"))
    assert cells(plain, "Counted on")[0][-1] == "best label, of its firings"


def test_what_is_kept_is_read_again(tmp_path):
    rows = {1: row(1, loss_change=None), 7: row(7, note="ünï")}
    write_rows(tmp_path, "an SAE", "all", rows)
    for number in rows:
        (tmp_path / f"feature-{number}.html").write_text("")
    assert read_rows(tmp_path) == ("an SAE", "all", rows)
    (tmp_path / "feature-7.html").unlink()
    assert read_rows(tmp_path)[2].keys() == {1}, "a page that was removed is no longer listed"
    assert read_rows(tmp_path / "nothing") == ("", "", {})


@pytest.mark.parametrize(
    "change",
    [
        {"feature": "<b>"},
        {"feature": True},
        {"feature": 10**400},
        {"near": ["x"]},
        {"near": 3},
        {"firing_rate": "0"},
        {"firing_rate": None},
        {"firing_rate": float("nan")},
        {"max_activation": float("inf")},
        {"note": 3},
    ],
)
def test_a_file_of_somebody_else(change, tmp_path):
    write_rows(tmp_path, "an SAE", "all", {1: row(1)})
    kept = json.loads((tmp_path / "pages.json").read_text())
    kept["lines"][0] |= change
    (tmp_path / "pages.json").write_text(json.dumps(kept))
    match = r"pages.json is not what saework writes \(.*\); give another folder, or move it away"
    with pytest.raises(ValueError, match=match):
        read_rows(tmp_path)


def test_lines_of_another_version_are_taken_over(tmp_path):
    write_rows(tmp_path, "an SAE", "all", {1: row(1)})
    kept = json.loads((tmp_path / "pages.json").read_text())
    kept["lines"][0] |= {"a later version's": [1]}
    for part in ("note", "near", "best_label", "loss_change_error"):
        del kept["lines"][0][part]
    (tmp_path / "pages.json").write_text(json.dumps(kept))
    (tmp_path / "feature-1.html").write_text("")
    expected = row(1, note="", near=(), best_label="–", loss_change_error=None)
    assert read_rows(tmp_path)[2] == {1: expected}
