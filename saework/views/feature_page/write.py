"""A page about a feature, or about a thousand: in a notebook, as text, or as files with an index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.arguments import check_feature
from saework.loading.workbook import Workbook
from saework.views.feature_page.measure import PageMaker
from saework.views.feature_page.page import FeaturePage
from saework.views.feature_page.parts import percent, signed
from saework.views.feature_page.style import document
from saework.views.tables import significant

_LEFT = ' class="left"'


def feature_page(
    workbook: Workbook, feature: int, *, scan: FeatureScan | None = None, other=None
) -> FeaturePage:
    """One feature on one page: how often and how strongly it fires, where, what it writes, what it costs to lose it.

    Losses are in nats. Ablating puts ``x - f * W_dec[feature]`` in x's place, so that the SAE's error stays; it is measured
    on the top examples and on a few firings of each interval, which the mean weighs by the interval's share of the firings.

    Args:
        scan: of the workbook's SAE over ``workbook.tokens``, row 0 first. By default these are scanned here, BOS
            left out. A scan made with ``cofiring=[feature]`` says what fires with it; one without leaves that section empty.
        other: another SAE to look for the same feature in (or a workbook, such as ``workbook.with_sae("run2")``).

    Raises: ValueError for a feature that does not exist, or a scan of another SAE, of other tokens, or without positions.
    """
    return next(feature_pages(workbook, [feature], scan=scan, other=other))


def feature_pages(
    workbook: Workbook,
    features: Iterable[int],
    *,
    scan: FeatureScan | None = None,
    other=None,
    progress: bool = True,
) -> Iterator[FeaturePage]:
    """The pages of many features, in their order, each as ``feature_page`` gives it.

    All share one scan. After it, each row that holds an example is read once for all features (each row, where
    there are labels), and once for each feature that is taken out of it: 31 times a feature at most.

    Memory: 30 kB a feature, and 9 bytes times ``d_sae`` a feature for what fires together.
    """
    d_sae = workbook.sae.W_dec.shape[0]
    features = [check_feature(feature, d_sae) for feature in features]
    other, name = (
        (other.sae, _source(other)) if isinstance(other, Workbook) else (other, "the other SAE")
    )
    if other is not None and other.W_dec.shape[1] != workbook.sae.W_dec.shape[1]:
        raise ValueError(
            f"d_in is {workbook.sae.W_dec.shape[1]} in this SAE and {other.W_dec.shape[1]} in the other; "
            "give other= an SAE of one hook and model"
        )
    if not features:
        return iter(())
    return PageMaker(
        workbook,
        _source(workbook),
        features,
        scan=scan,
        other=other,
        other_source=name,
        progress=progress,
    ).pages()


def _source(workbook: Workbook) -> str:
    return (
        f"{workbook.release.name} {workbook.sae_id or ''}".strip() if workbook.release else "an SAE"
    )


def write_pages(pages: Iterable[FeaturePage], folder: str | Path) -> Path:
    """Write one HTML file a page, ``feature-7.html``, and ``index.html``, which lists them; returns the index's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows, source, counted = [], "", ""
    for page in pages:
        page.save(folder / _file_of(page.feature))
        rows.append(_index_row(page))
        source, counted = page.source, page.counted
    if not rows:
        raise ValueError("there are no pages to write; give at least one feature")
    columns = (
        "feature",
        "fires on",
        "at most",
        "change of loss, nats",
        "raises most",
        "best label (F1)",
    )
    head = "".join(
        f'<th scope="col"{_LEFT if i > 3 else ""}>{name}</th>' for i, name in enumerate(columns)
    )
    listed = "\n".join(rows)
    table = f"<table>\n<caption>{escape(counted)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{listed}\n</tbody>\n</table>"
    body = f'<h1>{len(rows):,} feature{"s" if len(rows) > 1 else ""}</h1>\n<p class="source">{escape(source)}</p>\n{table}'
    index = folder / "index.html"
    index.write_text(document(f"Features of {source}", body), encoding="utf-8", errors="replace")
    return index


def _file_of(feature: int) -> str:
    return f"feature-{feature}.html"


def _index_row(page: FeaturePage) -> str:
    raised = "  ".join(page.logits.raised["token"].head(4)) if page.logits is not None else "–"
    label = "–"
    if page.labels is not None and not page.dead:
        label = f"{page.labels.index[0].replace('_', ' ')} ({percent(page.labels['f1'].iloc[0])})"
    rate = "never" if page.dead else percent(page.firing_rate)
    numbers = "".join(
        f"<td>{cell}</td>"
        for cell in (rate, significant(page.max_activation), signed(page.mean_loss_change))
    )
    link = f'<a href="{_file_of(page.feature)}">{page.feature}</a>'
    return f'<tr><th scope="row">{link}</th>{numbers}<td class="token">{escape(raised)}</td><td{_LEFT}>{escape(label)}</td></tr>'
