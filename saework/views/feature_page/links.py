"""Links between the pages of one folder.

A page is written before it is known which others will stand beside it. So it names other features
by anchors without an address, and those whose page is there get one at the end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from saework.core.files import write_whole
from saework.views.feature_page.html import render
from saework.views.feature_page.index import IndexRow, page_file

# A token of a text can make neither: its signs are escaped.
_ANCHOR = re.compile(r'<a data-feature="(\d+)"(?: href="feature-\d+\.html")?>')
_NAVIGATION = re.compile(r'<nav class="neighbours".*?</nav>', re.DOTALL)


def link_pages(folder: Path, rows: Mapping[int, IndexRow], new: Collection[int]) -> None:
    """Give addresses to the anchors of the new pages, and of those that name a new feature.

    Args:
        folder: where the pages are.
        rows: all pages of the folder, by feature.
        new: the features whose pages were written just now.

    Raises:
        OSError: a page cannot be read or written.
    """
    in_order = sorted(rows)
    for i, feature in enumerate(in_order):
        previous = in_order[i - 1] if i > 0 else None
        following = in_order[i + 1] if i + 1 < len(in_order) else None
        touches = {feature, previous, following, *rows[feature].near}
        path = folder / page_file(feature)
        if touches.isdisjoint(new) or not path.exists():
            continue
        html = path.read_text(encoding="utf-8")
        linked = linked_page(html, rows, previous, following)
        if linked != html:
            write_whole(path, linked)


def linked_page(
    html: str, features: Collection[int], previous: int | None, following: int | None
) -> str:
    """A page whose anchors lead to the pages that are there.

    Args:
        html: the page as it was written.
        features: those with a page.
        previous: the feature before it in the index, if any.
        following: the feature after it, if any.
    """

    def address(anchor: re.Match[str]) -> str:
        feature = int(anchor.group(1))
        if feature not in features:
            return f'<a data-feature="{feature}">'
        return f'<a data-feature="{feature}" href="{page_file(feature)}">'

    navigation = render("navigation.html", previous=previous, following=following)
    html = _NAVIGATION.sub(lambda _: navigation.strip(), html, count=1)
    return _ANCHOR.sub(address, html)
