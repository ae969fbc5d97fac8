"""One page, many pages, and files with an index."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
import torch
from conftest import random_sae
from page_checks import RESIDUAL, cells, html_of, tree, words_of

from saework import cli, feature_page, feature_pages, load
from saework.views.feature_page.parts import decimals, percent, signed
from saework.views.feature_page.write import write_pages


def test_bad_features(book):
    with pytest.raises(ValueError, match="feature 48 does not exist; this SAE has features 0..47"):
        feature_page(book, 48)
    # At once, not when the first page is asked for.
    with pytest.raises(ValueError, match="feature is 'x'; give a whole number"):
        feature_pages(book, [7, "x"])
    assert list(feature_pages(book, [])) == []


def test_another_sae_of_another_width(book):
    narrow = random_sae(16, 8, RESIDUAL, torch.Generator())
    match = "d_in is 24 in this SAE and 16 in the other; give other= an SAE of one hook and model"
    with pytest.raises(ValueError, match=match):
        feature_page(book, 7, other=narrow)


def test_files_and_an_index(pages, tmp_path):
    index = write_pages(pages.values(), tmp_path / "new" / "folder")
    assert index == tmp_path / "new" / "folder" / "index.html"
    names = {path.name for path in index.parent.iterdir()}
    orders = {"index.html", "index-by-rate.html", "index-by-maximum.html", "index-by-effect.html"}
    files = {"feature-7.html", "feature-20.html", "feature-31.html"}
    assert names == {*orders, "pages.json", *files}
    root = tree(index.read_text(encoding="utf-8"))
    assert words_of(root.find(".//h1")) == "3 features"
    for page, row in zip(pages.values(), cells(root, "Counted on")[1:]):
        assert row[:2] == [str(page.feature), percent(page.firing_rate)]
        error = decimals(page.loss_change_error)
        assert row[3] == f"{signed(page.mean_loss_change)} ± {error} (n = {page.n_ablated})"
        assert row[4].split() == " ".join(page.fires_on["token"].head(4)).split()
        assert row[6] == "–"
        saved = tree((index.parent / f"feature-{page.feature}.html").read_text(encoding="utf-8"))
        alone = tree(html_of(page, tmp_path))
        saved_words, words = words_of(saved.find(".//main")), words_of(alone.find(".//main"))
        assert words.split("Made by")[0] in saved_words


def test_the_same_pages_make_the_same_files(pages, tmp_path):
    when = datetime(2026, 11, 28)
    for name in ("a", "b"):
        write_pages(pages.values(), tmp_path / name, command="saework page x", when=when)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert "on 2026-11-28 00:00 with" in (tmp_path / "a" / "index.html").read_text()


def test_one_feature_is_not_features(pages, tmp_path):
    root = tree(write_pages([pages[7]], tmp_path).read_text(encoding="utf-8"))
    assert words_of(root.find(".//h1")) == "1 feature"


def test_an_index_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="there are no pages to write; give at least one feature"):
        write_pages([], tmp_path / "out")


def test_the_command_writes_pages_and_an_index(tmp_path, capsys):
    out = tmp_path / "pages"
    features = ["3018", "10-11", "10"]
    options = ["--id", "run2", "--tokens", "2048", "--out", str(out), "--note", "two\nwörds"]
    assert cli.main(["page", "gelu-1l-mini", *features, *options]) == 0
    assert f"3 pages written; start with {out / 'index.html'}" in capsys.readouterr().out
    files = ["feature-3018.html", "feature-10.html", "feature-11.html"]
    assert {path.name for path in out.glob("feature-*")} == set(files)
    index = tree((out / "index.html").read_text(encoding="utf-8"))
    links = [a.get("href") for a in index.iter("a") if a.get("href").startswith("feature-")]
    assert links == ["feature-10.html", "feature-11.html", "feature-3018.html"]
    command = "with saework page gelu-1l-mini 3018 10-11 10 --id run2 --tokens 2048."
    assert command in words_of(index.find(".//footer"))

    html = (out / "feature-3018.html").read_text(encoding="utf-8")
    page = tree(html)
    source = words_of(page.find(".//p[@class='source']"))
    assert source == "gelu-1l-mini run2, at blocks.0.mlp.hook_post"
    assert cells(page, "In gelu-1l-mini run3")[1:]
    mini = load("gelu-1l-mini", "run2", n_tokens=2048, check=False)
    expected = feature_page(mini, 3018, other=mini.with_sae("run3"))
    lead = words_of(page.find(".//p[@class='lead']"))
    assert lead == expected.headline and words_of(page).count(expected.fingerprint) == 1
    (row,) = [row for row in cells(index, "Counted on")[1:] if row[0] == "3018"]
    assert row[1] == ("never" if expected.dead else percent(expected.firing_rate))
    assert row[3].startswith(signed(expected.mean_loss_change))
    raised = expected.logits.raised["token"].head(4)
    assert row[5].split() == " ".join(raised).split()
    assert row[-1] == "two" and "wörds" in words_of(page)


def test_what_is_no_workbook_is_told(book):
    match = "workbook is the name 'gelu-1l-mini'; load it first: workbook = load"
    with pytest.raises(ValueError, match=match):
        feature_page("gelu-1l-mini", 7)
    with pytest.raises(ValueError, match="workbook is a HookedTransformer; give what load"):
        feature_pages(book.model, [7])


@pytest.mark.parametrize("word", ["x", "9-3", "-", "3-", "1.5", "٣"])
def test_a_feature_that_is_typed_wrongly(word, capsys):
    assert cli.main(["page", "gelu-1l-mini", "--", word]) == 2
    message = f"{word!r} is no feature; give a number such as 7, or a range such as 0-999"
    assert message in capsys.readouterr().err


def test_a_second_call_keeps_the_pages_before_it(pages, tmp_path):
    write_pages([pages[7], pages[20]], tmp_path)
    index = write_pages([pages[31], pages[7]], tmp_path)
    root = tree(index.read_text(encoding="utf-8"))
    assert [row[0] for row in cells(root, "Counted on")[1:]] == ["7", "20", "31"]


def test_pages_of_another_sae_go_elsewhere(pages, tmp_path):
    write_pages([pages[7]], tmp_path)
    before = (tmp_path / "feature-7.html").read_bytes()
    with pytest.raises(ValueError, match="the pages in .* are of .*and these of another.*folder"):
        write_pages([replace(pages[7], source="another")], tmp_path)
    assert (tmp_path / "feature-7.html").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["index.html", "index-by-rate.html", "feature-7.html", "pages.json"]
)
def test_other_peoples_files_stay(pages, name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} (was not written by|is not what) saework"):
        write_pages([pages[7]], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
