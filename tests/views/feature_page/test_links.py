"""Links between pages: to those that are there, and to no others."""

from __future__ import annotations

from page_checks import tree

from saework.views.feature_page.links import linked_page
from saework.views.feature_page.write import write_pages


def links_of(path):
    root = tree(path.read_text(encoding="utf-8"))
    return [a.get("href") for a in root.iter("a") if a.get("href")]


def named_by(page):
    """The features that a page names, as often as it names them."""
    together = [] if page.cofiring is None else page.cofiring["feature"].tolist()
    return [*page.nearest["feature"].tolist(), *together]


def expected_links(page, features):
    in_order = sorted(features)
    i = in_order.index(page.feature)
    around = [*in_order[:i][-1:], "index", *in_order[i + 1 :][:1]]
    files = ["index.html" if each == "index" else f"feature-{each}.html" for each in around]
    return [*files, *(f"feature-{n}.html" for n in named_by(page) if n in features)]


def test_a_page_links_to_its_neighbours_and_to_those_that_it_names(pages, tmp_path):
    write_pages(pages.values(), tmp_path)
    assert set().union(*map(named_by, pages.values())) & set(pages)
    for feature, page in pages.items():
        assert links_of(tmp_path / f"feature-{feature}.html") == expected_links(page, set(pages))


def test_earlier_pages_get_links_to_later_ones(pages, tmp_path):
    write_pages([pages[7], pages[31]], tmp_path)
    assert links_of(tmp_path / "feature-7.html") == expected_links(pages[7], {7, 31})
    write_pages([pages[20]], tmp_path)
    for feature, page in pages.items():
        assert links_of(tmp_path / f"feature-{feature}.html") == expected_links(page, set(pages))


def test_a_page_that_was_removed_by_hand_stays_away(pages, tmp_path):
    write_pages([pages[7], pages[31]], tmp_path)
    (tmp_path / "feature-7.html").unlink()
    write_pages([pages[20]], tmp_path)
    assert not (tmp_path / "feature-7.html").exists()


def test_only_anchors_change():
    html = (
        '<nav class="neighbours"></nav><p>&lt;a data-feature="7"&gt;</p><a data-feature="8">8</a>'
    )
    linked = linked_page(html, {7, 8}, None, 9)
    assert '<p>&lt;a data-feature="7"&gt;</p>' in linked
    assert linked.endswith('<a data-feature="8" href="feature-8.html">8</a>')
    assert 'rel="next" href="feature-9.html"' in linked and 'rel="prev"' not in linked
    assert linked_page(linked, {7, 8}, None, 9) == linked
    assert linked_page(linked, {7}, None, 9).endswith('<a data-feature="8">8</a>')


def test_one_page_alone_links_nowhere(pages, tmp_path):
    assert links_of(pages[7].save(tmp_path / "page.html")) == []
