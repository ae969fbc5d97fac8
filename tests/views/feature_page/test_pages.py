"""Each number of a page against a slow computation of its own, and the page as a browser and a screen reader get it."""

import math
import re
from dataclasses import replace
from html import unescape
from types import SimpleNamespace

import html5lib
import numpy as np
import pytest
import torch
from conftest import random_sae, slow_features

from saework import Workbook, cli, feature_page, feature_pages, load, scan
from saework.core.tokens import visible
from saework.views.feature_page.examples import _fair, contribution
from saework.views.feature_page.parts import decimals, percent, signed
from saework.views.feature_page.write import write_pages

FEATURES = [7, 20, 31]
RESIDUAL = "blocks.0.hook_resid_pre"


@pytest.fixture(scope="module")
def other(tiny):
    return random_sae(24, 40, tiny.hook, torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def pages(book, other):
    """Pages as they come, BOS left out."""
    return {page.feature: page for page in feature_pages(book, FEATURES, other=other)}


@pytest.fixture(scope="module")
def activations(book):
    """[batch, pos, d_sae]; the slow way, and BOS with it."""
    return slow_activations(book)


def slow_activations(book):
    return slow_features(book.model, book.sae, book.tokens, book.hook)


def slow_loss_changes(book, feature, row, *, edit_bos=False):
    """Of each next token of a row, when the feature is taken out of all its tokens (but BOS)."""
    tokens = book.tokens[row : row + 1]
    f = slow_activations(book)[row : row + 1, :, feature].clone()
    if not edit_bos:
        f[:, 0] = 0

    def edit(x, hook):
        return x - f[..., None] * book.sae.W_dec[feature]

    losses = []
    for hooks in ([], [(book.hook, edit)]):
        logits = book.model.run_with_hooks(tokens, fwd_hooks=hooks, return_type="logits")[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none"))
    return (losses[1] - losses[0]).tolist() + [math.nan]


def tree(html):
    """The page's elements, after a parser that takes no mistake."""
    return html5lib.HTMLParser(
        html5lib.getTreeBuilder("etree"), strict=True, namespaceHTMLElements=False
    ).parse(html)


def html_of(page, tmp_path):
    return page.save(tmp_path / "page.html").read_text(encoding="utf-8")


def words_of(element):
    return " ".join("".join(element.itertext()).split())


def cells(element, caption):
    """The table with that caption as rows of words, its head first."""
    for table in element.iter("table"):
        if words_of(table.find("caption")).startswith(caption):
            return [
                [words_of(cell) for cell in row if cell.tag in ("th", "td")]
                for row in table.iter("tr")
            ]
    raise AssertionError(f"no table {caption!r}")


# ---- the numbers ----


@pytest.mark.parametrize("feature", FEATURES)
def test_how_often_and_how_strongly(pages, activations, feature):
    page, seen = pages[feature], activations[:, 1:]
    fires = seen[..., feature] > 0
    assert (page.n_tokens, page.count) == (6 * 19, int(fires.sum()))
    assert page.firing_rate == pytest.approx(fires.double().mean().item())
    assert page.max_activation == pytest.approx(seen[..., feature].max().item(), abs=1e-5)
    assert page.mean_l0 == pytest.approx((seen > 0).sum(-1).double().mean().item())
    assert page.l0_share == pytest.approx(int(fires.sum()) / int((seen > 0).sum()))
    assert page.headline == (
        f"Fires on {percent(page.firing_rate)} of 114 tokens ({page.count} times), at most at {decimals(page.max_activation, 2)}; "
        f"{page.firing_rate:.3g} of a mean L0 of {page.mean_l0:.3g} ({percent(page.l0_share)})."
    )
    assert (
        page.counted
        == "Counted on 114 tokens of 6 rows; the token that begins a row of text (BOS) is left out."
    )


@pytest.mark.parametrize("feature", FEATURES)
def test_histogram_and_intervals_hold_each_firing_once(pages, activations, feature):
    page, values = pages[feature], activations[:, 1:, feature]
    between = lambda low, high: int(((values > 0) & (values >= low) & (values < high)).sum())  # noqa: E731
    assert list(page.histogram["firings"]) == [
        between(low, high) for low, high in zip(page.histogram["low"], page.histogram["high"])
    ]
    assert page.histogram["firings"].sum() == page.count
    assert [interval.firings for interval in page.intervals] == [
        between(i.low, i.high) for i in page.intervals
    ]
    assert sum(interval.firings for interval in page.intervals) == page.count
    for above, below in zip(page.intervals, page.intervals[1:]):
        assert above.low >= below.high and between(below.high, above.low) == 0


@pytest.mark.parametrize("feature", FEATURES)
def test_examples_are_the_strongest_and_a_few_of_each_interval(book, pages, activations, feature):
    page, values = pages[feature], activations[:, 1:, feature]
    strongest = values.flatten().sort(descending=True).values[:10]
    assert [example.activation for example in page.top] == pytest.approx(
        strongest[strongest > 0].tolist(), abs=1e-5
    )
    for interval in page.intervals:
        assert len(interval.examples) == min(3, interval.firings)
        assert all(
            interval.low <= example.activation < interval.high for example in interval.examples
        )
        assert len({(example.row, example.pos) for example in interval.examples}) == len(
            interval.examples
        )
    for example in [
        *page.top,
        *(example for interval in page.intervals for example in interval.examples),
    ]:
        assert example.activation == pytest.approx(
            activations[example.row, example.pos, feature].item(), abs=1e-5
        )
        first, past = max(0, example.pos - 20), min(20, example.pos + 9)
        assert example.values == pytest.approx(
            activations[example.row, first:past, feature].tolist(), abs=1e-5
        )
        assert list(example.strings) == [
            book.tokenizer.decode([i]) for i in book.tokens[example.row, first:past].tolist()
        ]
        assert example.at == example.pos - first
        before, token, after = (
            example.strings[: example.at],
            example.strings[example.at],
            example.strings[example.at + 1 :],
        )
        assert (
            example.context
            == f"{visible(''.join(before))}|{visible(token)}|{visible(''.join(after))}"
        )


def check_ablation(book, page, **how):
    shown = {"top": page.top} | {
        (interval.low, interval.high): interval.examples for interval in page.intervals
    }
    firings = {(interval.low, interval.high): interval.firings for interval in page.intervals}
    assert list(shown) == list(page.ablation["interval"])
    total, variance, weights = 0.0, 0.0, 0.0
    for row in page.ablation.itertuples():
        expected = [
            slow_loss_changes(book, page.feature, e.row, **how)[e.pos] for e in shown[row.interval]
        ]
        assert [e.loss_change for e in shown[row.interval]] == pytest.approx(
            expected, abs=2e-5, nan_ok=True
        )
        measured = [change for change in expected if not math.isnan(change)]
        assert row.tokens == len(measured)
        if not measured:
            continue
        assert row.loss_change == pytest.approx(np.mean(measured), abs=2e-5)
        assert row.raised == np.mean([change > 0 for change in measured])
        if row.interval != "top":
            n, of = len(measured), firings[row.interval]
            assert row.weight == of / page.count
            total, weights = total + row.weight * np.mean(measured), weights + row.weight
            one = (
                0.0
                if n == of
                else np.nan
                if n == 1
                else np.var(measured, ddof=1) / n * (1 - n / of)
            )
            variance += row.weight**2 * one
    assert page.mean_loss_change == pytest.approx(total / weights, abs=2e-5)
    assert page.loss_change_error == pytest.approx(
        math.sqrt(variance) / weights, abs=2e-5, nan_ok=True
    )


@pytest.mark.parametrize("feature", FEATURES)
def test_ablation(book, pages, feature):
    check_ablation(book, pages[feature])
    assert any(
        abs(example.loss_change) > 0.01 for example in pages[feature].top
    )  # or the comparison says nothing


def test_ablation_where_tokens_reach_later_ones_through_attention(book):
    sae = random_sae(16, 32, RESIDUAL, torch.Generator().manual_seed(2), "jumprelu")
    early = replace(book, sae=sae, hook=RESIDUAL)
    page = feature_page(early, 10)
    assert (
        page.count > 10 and (slow_activations(early)[:, 0, 10] > 0).all()
    )  # at BOS too, where it is left in
    check_ablation(early, page)


def test_an_sae_that_scales_its_input_loses_its_feature_in_that_scale(tiny):
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(
        StandardSAEConfig(
            d_in=24, d_sae=48, normalize_activations="layer_norm", apply_b_dec_to_input=True
        )
    )
    sae.load_state_dict(tiny.sae.state_dict())
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)) * 3 + 1
    features = torch.tensor([20, 7])
    without = sae.encode(x)
    without[0, :, 20], without[1, :, 7] = 0, 0
    lesser = sae.decode(without)
    expected = sae.decode(sae.encode(x)) - lesser
    assert (
        torch.allclose(contribution(sae, x, features), expected, atol=1e-5)
        and expected.abs().max() > 1
    )


def test_samples_of_a_wide_interval_are_spread_as_its_firings_are():
    histogram = np.array([0, 100, 0, 50, 0, 1])
    bin_of_sample = np.array([1, 1, 1, 1, 3, 3, 3, 3, 5])
    assert _fair(bin_of_sample, np.array([5, 3, 1]), histogram).tolist() == [4, 0, 1]
    assert _fair(bin_of_sample, np.array([5]), histogram).tolist() == [8]


def test_logit_effect_and_the_shape_of_its_distribution(book, pages):
    for feature, page in pages.items():
        effect = book.sae.W_dec[feature] @ book.model.W_out[0] @ book.model.W_U
        order = effect.sort(descending=True, stable=True)
        assert list(page.logits.raised.index) == order.indices[:10].tolist()
        assert page.logits.raised["logit"].tolist() == pytest.approx(
            order.values[:10].tolist(), abs=1e-5
        )
        assert list(page.logits.lowered.index) == order.indices.flip(0)[:10].tolist()
        assert list(page.logits.raised["token"]) == [
            visible(book.tokenizer.decode([i])) for i in order.indices[:10].tolist()
        ]
        z = (effect.double() - effect.double().mean()) / effect.double().std(correction=0)
        assert page.logits.skew == pytest.approx(z.pow(3).mean().item(), abs=1e-4)
        assert page.logits.kurtosis == pytest.approx(z.pow(4).mean().item() - 3, abs=1e-4)
        assert (
            f"a skew of {decimals(page.logits.skew, 2)} and an excess kurtosis of {decimals(page.logits.kurtosis, 2)}"
            in repr(page)
        )


def slow_nearest(book, to, feature, n, own):
    similar = torch.nn.functional.cosine_similarity
    by = {
        "decoder": similar(to.W_dec, book.sae.W_dec[feature][None]),
        "encoder": similar(to.W_enc.T, book.sae.W_enc[:, feature][None]),
    }
    picked = set()
    for cosine in by.values():
        order = [i for i in cosine.argsort(descending=True).tolist() if not (own and i == feature)]
        picked |= set(order[:n])
    order = sorted(picked, key=lambda i: -by["decoder"][i].item())
    return order, [by["decoder"][i].item() for i in order], [by["encoder"][i].item() for i in order]


def test_nearest_features_here_and_in_another_run(book, other, pages, activations):
    for feature, page in pages.items():
        for frame, to, n in ((page.nearest, book.sae, 5), (page.other, other, 3)):
            order, decoder, encoder = slow_nearest(book, to, feature, n, own=to is book.sae)
            assert frame["feature"].tolist() == order
            assert frame["decoder_cosine"].tolist() == pytest.approx(decoder, abs=1e-5)
            assert frame["encoder_cosine"].tolist() == pytest.approx(encoder, abs=1e-5)
        rates = (activations[:, 1:] > 0).double().mean((0, 1))
        assert page.nearest["firing_rate"].tolist() == pytest.approx(
            rates[page.nearest["feature"].tolist()].tolist()
        )
        back = [
            torch.nn.functional.cosine_similarity(book.sae.W_dec, other.W_dec[i][None])
            .argmax()
            .item()
            == feature
            for i in page.other["feature"]
        ]
        assert page.other["mutual"].tolist() == back
    assert (
        len({mutual for page in pages.values() for mutual in page.other["mutual"]}) == 2
    )  # both kinds were seen


def test_what_chance_would_give_for_the_nearest(pages):
    drawn = torch.randn(4000, 48, 24, generator=torch.Generator().manual_seed(0))
    best = torch.nn.functional.normalize(drawn, dim=-1)[..., 0].max(1).values.median().item()
    assert pages[7].chance_cosine == pytest.approx(best, abs=0.01)
    assert pages[7].other_chance < pages[7].chance_cosine  # of 40 rows, not of 48


def test_what_fires_with_it(pages, activations):
    fires = activations[:, 1:] > 0
    for feature, page in pages.items():
        both = (fires & fires[..., feature, None]).sum((0, 1))
        given, base = both / fires[..., feature].sum(), fires.double().mean((0, 1))
        frame = page.cofiring
        assert 0 < len(frame) <= 8 and feature not in set(frame["feature"])
        assert frame["both"].tolist() == both[frame["feature"].tolist()].tolist()
        assert frame["given_this"].tolist() == pytest.approx(
            given[frame["feature"].tolist()].tolist()
        )
        assert frame["base_rate"].tolist() == pytest.approx(
            base[frame["feature"].tolist()].tolist()
        )
        rises = (given - base).double()
        rises[feature] = -1
        assert (frame["given_this"] - frame["base_rate"]).tolist() == pytest.approx(
            rises.sort(descending=True).values[: len(frame)].tolist(), abs=1e-6
        )


def test_agreement_with_labels(book, activations, monkeypatch):
    number = torch.arange(120).reshape(6, 20)
    labels = {"third": number % 3 == 0, "fires": activations[..., 20] > 0.3, "never": number < 0}
    monkeypatch.setattr(Workbook, "labels", lambda self: labels)
    page = feature_page(book, 20)
    assert (activations[:, 0, 20] > 0.3).all()  # at BOS too, which does not count
    fires = activations[:, 1:, 20] > 0
    assert set(page.labels.index) == set(labels) and page.labels.index[0] == "fires"
    for name, row in page.labels.iterrows():
        label = labels[name][:, 1:]
        hits, holds = int((fires & label).sum()), int(label.sum())
        precision, recall = hits / int(fires.sum()), hits / holds if holds else math.nan
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        assert [row.precision, row.recall, row.f1, row.base_rate, row.tokens] == pytest.approx(
            [precision, recall, f1, holds / 114, holds], nan_ok=True
        )
    assert page.labels.loc["fires", "precision"] < 1 == page.labels.loc["fires", "recall"]
    assert "The best label is “fires”: F1" in repr(page) and "There are no true labels" not in repr(
        page
    )
    many = {page.feature: page for page in feature_pages(book, [31, 20, 0])}
    assert repr(many[20]) == repr(page)
    dead = many[0].labels
    assert dead["recall"]["third"] == 0 and dead["precision"].isna().all()


def test_the_minis_labels_are_the_same_as_by_rule():
    from saework import feature_activations, rule_agreement

    mini = load("gelu-1l-mini", "run1", n_tokens=4096, check=False)
    page = feature_page(mini, 3018)
    fires = feature_activations(mini.model, mini.sae, mini.tokens, 3018)[:, 1:] > 0
    expected = rule_agreement(fires, mini.labels()["defined_name"][:, 1:])
    assert page.labels.index[0] == "defined_name"
    best = page.labels.iloc[0]
    assert [best.precision, best.recall, best.base_rate] == pytest.approx(
        [expected["precision"], expected["recall"], expected["base_rate"]]
    )
    assert (
        page.source == "gelu-1l-mini run1, at blocks.0.mlp.hook_post" and page.neuronpedia is None
    )


# ---- a scan that is given ----


def test_a_given_scan_is_used_and_may_count_bos(book, activations):
    given = scan(book.model, book.sae, book.tokens, cofiring=[7])
    page = feature_page(book, 7, scan=given)
    assert (
        page.counted
        == "Counted on 120 tokens of 6 rows, the token that begins a row of text (BOS) among them."
    )
    assert (page.n_tokens, page.count) == (120, int((activations[..., 7] > 0).sum()))
    assert (
        page.cofiring["both"].tolist()
        == ((activations > 0) & (activations[..., 7, None] > 0))
        .sum((0, 1))[page.cofiring["feature"].tolist()]
        .tolist()
    )
    check_ablation(book, page, edit_bos=True)
    early = replace(
        book,
        sae=random_sae(16, 32, RESIDUAL, torch.Generator().manual_seed(2), "jumprelu"),
        hook=RESIDUAL,
    )
    at_bos = feature_page(early, 10, scan=scan(early.model, early.sae, early.tokens, hook=RESIDUAL))
    check_ablation(early, at_bos, edit_bos=True)


def test_a_scan_of_some_rows_and_of_a_mask_of_its_own(book, monkeypatch):
    part = scan(
        book.model,
        book.sae,
        book.tokens[2:5],
        first_row=2,
        mask=book.tokens[2:5] != book.tokenizer.bos_token_id,
    )
    page = feature_page(book, 7, scan=part)
    assert (
        page.counted
        == "Counted on 57 tokens of 3 rows; the token that begins a row of text (BOS) is left out."
    )
    assert {example.row for example in page.top} <= {2, 3, 4}
    monkeypatch.setattr(
        Workbook, "labels", lambda self: {"any": torch.ones_like(self.tokens, dtype=torch.bool)}
    )
    assert feature_page(book, 7, scan=part).labels.loc["any", "tokens"] == 57
    odd = torch.arange(120).reshape(6, 20) % 2 == 1
    masked = feature_page(book, 7, scan=scan(book.model, book.sae, book.tokens, mask=odd))
    assert (
        masked.counted
        == "Counted on 60 tokens of 6 rows, chosen by a mask that the scan does not say."
    )
    assert masked.labels is None


def test_a_scan_that_did_not_count_what_fires_together_says_how(book):
    page = feature_page(book, 7, scan=scan(book.model, book.sae, book.tokens, cofiring=[20]))
    assert page.cofiring is None
    assert "Not counted in this scan; make it with cofiring=[7], or leave scan= out." in repr(page)


def test_a_scan_that_does_not_fit(book, other):
    run = lambda sae=book.sae, tokens=book.tokens, **how: scan(book.model, sae, tokens, **how)  # noqa: E731
    with pytest.raises(
        ValueError,
        match="this scan is of another SAE or hook than the workbook's; make it with scan.*, or leave scan= out",
    ):
        feature_page(book, 7, scan=run(sae=other))
    for counts_only in (run(top_k=0), run().without_positions()):
        with pytest.raises(
            ValueError,
            match="this scan kept no positions .*; scan workbook.tokens with top_k=10 or more, or leave scan= out",
        ):
            feature_page(book, 7, scan=counts_only)
    with pytest.raises(
        ValueError,
        match="this scan reaches to row 8, but workbook.tokens has 6 rows; give a workbook with the rows that were scanned",
    ):
        feature_page(book, 7, scan=run(first_row=3))
    with pytest.raises(
        ValueError,
        match=r"feature 7 is at [\d.]+ in row \d, position \d+, but there it is at [\d.e-]+: other tokens were scanned",
    ):
        feature_page(book, 7, scan=run(tokens=book.tokens.roll(1, 0)))


def test_bad_features_and_another_run_of_another_width(book):
    with pytest.raises(ValueError, match="feature 48 does not exist; this SAE has features 0..47"):
        feature_page(book, 48)
    with pytest.raises(ValueError, match="feature is 'x'; give a whole number"):
        feature_pages(book, [7, "x"])
    with pytest.raises(
        ValueError,
        match="d_in is 24 in this SAE and 16 in the other; give other= an SAE of one hook and model",
    ):
        feature_page(book, 7, other=random_sae(16, 8, RESIDUAL, torch.Generator()))
    assert list(feature_pages(book, [])) == []


# ---- the page ----


def test_the_page_shows_the_numbers_that_it_holds(pages, tmp_path):
    page = pages[7]
    root = tree(html_of(page, tmp_path))
    assert (
        words_of(root.find(".//h1")) == "Feature 7"
        and words_of(root.find(".//p[@class='lead']")) == page.headline
    )
    assert cells(root, "Histogram")[1:] == [
        [f"{e:.3g}" for e in (r.low, r.high)] + [str(r.firings)]
        for r in page.histogram.itertuples()
    ]
    top = cells(root, "The strongest firings")[1:]
    assert [row[:3] for row in top] == [
        [e.token, f"{e.activation:.2f}", signed(e.loss_change)] for e in page.top
    ]
    contexts = [cell for cell in root.iter("td") if cell.get("class") == "context"][: len(top)]
    assert [
        words_of(cell.find(".//b")).startswith(e.token) for cell, e in zip(contexts, page.top)
    ] == [True] * len(top)
    for value in root.iter("sub"):
        value.text = ""  # the values behind the tokens
    assert [words_of(cell) for cell in contexts] == [
        "".join(map(visible, e.strings)) for e in page.top
    ]
    by_interval = cells(root, "A few firings of each strength")[1:]
    assert len(by_interval) == sum(1 + len(interval.examples) for interval in page.intervals)
    assert cells(root, "Most raised")[1:] == [
        [r.token, signed(r.logit)] for r in page.logits.raised.itertuples()
    ]
    assert cells(root, "Most lowered")[1:] == [
        [r.token, signed(r.logit)] for r in page.logits.lowered.itertuples()
    ]
    assert [row[2:4] for row in cells(root, "Mean change")[1:]] == [
        [str(r.tokens), signed(r.loss_change)] for r in page.ablation.itertuples()
    ]
    assert (
        f"by {signed(page.mean_loss_change)} nats on average (standard error {decimals(page.loss_change_error)}), as"
        in words_of(root)
    )
    assert "x − f·W_dec[feature] takes the place of x" in words_of(
        root
    ) and "the SAE's error stays" in words_of(root)
    near = [
        [
            str(r.feature),
            decimals(r.decoder_cosine),
            decimals(r.encoder_cosine),
            percent(r.firing_rate),
        ]
        for r in page.nearest.itertuples()
    ]
    assert cells(root, "In this SAE")[1:] == near
    twins = [
        [
            str(r.feature),
            decimals(r.decoder_cosine),
            decimals(r.encoder_cosine),
            "yes" if r.mutual else "no",
        ]
        for r in page.other.itertuples()
    ]
    assert cells(root, "In the other SAE")[1:] == twins
    together = [
        [str(r.feature), str(r.both), percent(r.given_this), percent(r.base_rate)]
        for r in page.cofiring.itertuples()
    ]
    assert cells(root, "Those whose rate rises most")[1:] == together


def test_the_page_is_valid_whole_and_readable_without_seeing_it(pages, book, tmp_path):
    for page in (*pages.values(), feature_page(book, 0)):
        html = html_of(page, tmp_path)
        root = tree(html)
        assert (
            html.startswith("<!DOCTYPE html>")
            and root.get("lang") == "en"
            and words_of(root.find(".//title")).startswith("Feature ")
        )
        assert (
            re.findall(
                r"<(script|link|img|iframe|object)|https?:|src=|href=|url\(|@import| id=| on\w+=",
                html,
            )
            == []
        )
        headings = [
            element.tag for element in root.iter() if re.fullmatch("h[1-6]", str(element.tag))
        ]
        assert headings == ["h1"] + ["h2"] * (3 if page.dead else 8)
        assert root.find("body/main") is not None
        for table in root.iter("table"):
            assert words_of(table.find("caption"))
            assert {th.get("scope") for th in table.iter("th")} <= {"col", "row", "rowgroup"}
            assert all(row[0].tag == "th" for row in table.iter("tr"))
        for svg in root.iter("{http://www.w3.org/2000/svg}svg"):
            assert svg.get("role") == "img" and svg.get("aria-label").startswith(
                "Histogram of activations: "
            )
    assert "<svg" not in html  # the dead one


def test_the_histogram_is_drawn_to_scale(pages, tmp_path):
    svg = next(tree(html_of(pages[7], tmp_path)).iter("{http://www.w3.org/2000/svg}svg"))
    heights = [float(bar.get("height")) for bar in svg.iter("{http://www.w3.org/2000/svg}rect")]
    counts = [n for n in pages[7].histogram["firings"] if n]
    assert heights == pytest.approx([max(heights) * n / max(counts) for n in counts], abs=0.06)
    assert f"holds {max(counts)}." in svg.get("aria-label")


def test_in_a_notebook_the_page_brings_its_style_and_no_document(pages):
    html = pages[7]._repr_html_()
    assert (
        html.startswith("<style>")
        and "<html" not in html
        and "<body" not in html
        and "<h1>Feature 7</h1>" in html
    )
    rules = re.findall(
        r"(?:^|})\s*([^{}@]+){", html[: html.index("</style>")].removeprefix("<style>")
    )
    assert rules and all(
        part.strip().startswith((".saework-page", ".saework-heat"))
        for rule in rules
        for part in rule.split(",")
    )  # nothing else is styled


def test_the_page_as_text(pages):
    text = repr(pages[7])
    assert text.startswith(f"Feature 7\nan SAE, at blocks.0.mlp.hook_post\n{pages[7].headline}\n")
    titles = [
        "ACTIVATIONS",
        "TOP EXAMPLES",
        "EXAMPLES BY ACTIVATION",
        "DIRECT EFFECT ON THE LOGITS",
        "EFFECT OF ABLATING IT",
        "NEAREST FEATURES",
    ]
    titles += ["FEATURES THAT FIRE WITH IT", "AGREEMENT WITH TRUE LABELS"]
    assert re.findall(r"^[A-Z ]{8,}$", text, re.M) == titles
    assert pages[7].top[0].context in text
    assert "There are no true labels for this text." in text


def test_a_feature_that_never_fired(book, activations, tmp_path):
    assert not (activations[..., 0] > 0).any()
    page = feature_page(book, 0)
    assert page.dead and (
        page.count,
        page.max_activation,
        page.l0_share,
        page.top,
        page.intervals,
    ) == (0, 0.0, 0.0, (), ())
    assert page.rate_bound == pytest.approx(1 - 0.05 ** (1 / 114))
    assert (
        page.headline
        == "Dead here: it never fired on 114 tokens, so its rate is below 0.0259 (95%)."
    )
    assert math.isnan(page.mean_loss_change) and math.isnan(page.loss_change_error)
    text = repr(page)
    assert re.findall(r"^[A-Z ]{8,}$", text, re.M) == [
        "ACTIVATIONS",
        "DIRECT EFFECT ON THE LOGITS",
        "NEAREST FEATURES",
    ]
    assert "It never fired in these tokens, so there is nothing to show." in text
    assert (
        page.logits.raised["logit"].iloc[0] > 0 and len(page.nearest) >= 5
    )  # what the weights say is there
    tree(html_of(page, tmp_path))


def test_a_rare_feature_is_measured_whole(book):
    rare = replace(book, sae=random_sae(24, 48, book.hook, torch.Generator().manual_seed(0)))
    values = slow_activations(rare)[:, 1:, 9]
    rare.sae.b_enc.data[9] -= values.flatten().sort().values[-3:].mean()
    page = feature_page(rare, 9)
    assert 1 <= page.count <= 4 and all(
        len(interval.examples) == interval.firings for interval in page.intervals
    )
    check_ablation(rare, page)
    measured = int(page.ablation["tokens"].iloc[1:].sum())
    assert page.loss_change_error == 0 or measured < page.count
    assert ("nats on average, as measured on each of them." in repr(page)) == (
        measured == page.count
    )


def test_a_hook_with_no_path_to_the_logits(book):
    hook = "blocks.0.ln2.hook_normalized"
    sae = random_sae(16, 20, hook, torch.Generator().manual_seed(1))
    page = feature_page(replace(book, sae=sae, hook=hook), 6)
    assert page.logits is None and page.count > 0
    assert f"There is none to show: {hook} does not write to the residual stream" in repr(page)
    check_ablation(replace(book, sae=sae, hook=hook), page)


HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table>",
    '" onmouseover="x',
    "&lt;",
    "<!--",
    "\u202e",
    "\n\n",
    "\0",
    "{x}",
    "]]>",
]


class HostileTokenizer:
    bos_token_id = 1

    def __len__(self):
        return 4096

    def batch_decode(self, rows, **how):
        return [HOSTILE[row[0] % len(HOSTILE)] if row else "" for row in rows]


def test_hostile_tokens_come_out_inert(book, tmp_path):
    page = feature_page(replace(book, tokenizer=HostileTokenizer()), 7)
    html = html_of(page, tmp_path)
    root = tree(html)
    assert list(root.iter("script")) == [] and not any(
        name.startswith("on") for element in root.iter() for name in element.attrib
    )
    tokens = [row[0] for row in cells(root, "The strongest firings")[1:]]
    assert tokens == [
        " ".join(visible(HOSTILE[book.tokens[e.row, e.pos] % 10]).split()) for e in page.top
    ]
    assert {unescape(token) for token in tokens} & {
        "<script>alert(1)</script>",
        "</td></table>",
        '"·onmouseover="x',
        "&lt;",
    }
    assert "\u202e" not in html and "\0" not in html
    write_pages([page], tmp_path / "out")
    assert (
        list(tree((tmp_path / "out" / "index.html").read_text(encoding="utf-8")).iter("script"))
        == []
    )


def test_two_builds_are_byte_for_byte_the_same_and_many_pages_are_each_as_one(
    book, other, pages, tmp_path
):
    for i, (feature, page) in enumerate(pages.items()):
        again = feature_page(book, feature, other=other)
        paths = [page.save(tmp_path / f"a{i}.html"), again.save(tmp_path / f"b{i}.html")]
        assert paths[0].read_bytes() == paths[1].read_bytes()
        assert (repr(page), page._repr_html_()) == (repr(again), again._repr_html_())
    assert [page.feature for page in feature_pages(book, [31, 7, 31, 20])] == [31, 7, 31, 20]


def test_neuronpedia_is_a_link_that_nobody_opens(book, tmp_path):
    metadata = SimpleNamespace(hook_name=book.hook, neuronpedia_id='gpt2-small/8-res"jb')
    sae = SimpleNamespace(
        **{name: getattr(book.sae, name) for name in ("W_enc", "W_dec", "encode", "decode")},
        cfg=SimpleNamespace(metadata=metadata),
    )
    page = feature_page(replace(book, sae=sae), 7)
    assert page.neuronpedia == "https://www.neuronpedia.org/gpt2-small/8-res%22jb/7"
    links = [a.get("href") for a in tree(html_of(page, tmp_path)).iter("a")]
    assert links == [page.neuronpedia]
    assert repr(page).endswith(f"Neuronpedia: {page.neuronpedia}")


def test_neuronpedia_is_found_in_sae_lens_table_where_the_config_does_not_say():
    from saework.loading.catalogue import neuronpedia_id

    assert (
        neuronpedia_id(None, "gpt2-small-res-jb", "blocks.8.hook_resid_pre")
        == "gpt2-small/8-res-jb"
    )
    assert neuronpedia_id(None, "gelu-1l-mini", "run1") is None
    assert neuronpedia_id(None, "gpt2-small-res-jb", "a/file.safetensors") is None


# ---- the command ----


def test_the_command_writes_pages_and_an_index(tmp_path, capsys):
    out = tmp_path / "pages"
    assert (
        cli.main(
            [
                "page",
                "gelu-1l-mini",
                "3018",
                "10-11",
                "10",
                "--id",
                "run2",
                "--tokens",
                "2048",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert f"3 pages written; start with {out / 'index.html'}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "feature-3018.html",
        "feature-10.html",
        "feature-11.html",
    }
    index = tree((out / "index.html").read_text(encoding="utf-8"))
    assert words_of(index.find(".//h1")) == "3 features"
    assert [a.get("href") for a in index.iter("a")] == [
        "feature-3018.html",
        "feature-10.html",
        "feature-11.html",
    ]
    page = tree((out / "feature-3018.html").read_text(encoding="utf-8"))
    assert (
        words_of(page.find(".//p[@class='source']"))
        == "gelu-1l-mini run2, at blocks.0.mlp.hook_post"
    )
    assert cells(page, "In gelu-1l-mini run1")[1:]
    mini = load("gelu-1l-mini", "run2", n_tokens=2048, check=False)
    expected = feature_page(mini, 3018, other=mini.with_sae("run1"))
    assert (out / "feature-3018.html").read_text(encoding="utf-8") == html_of(expected, tmp_path)
    (row,) = [row for row in cells(index, "Counted on")[1:] if row[0] == "3018"]
    assert row[1] == ("never" if expected.dead else percent(expected.firing_rate)) and row[
        3
    ] == signed(expected.mean_loss_change)
    assert row[4].split() == [
        word for token in expected.logits.raised["token"].head(4) for word in token.split()
    ]


@pytest.mark.parametrize("word", ["x", "9-3", "-", "3-", "1.5", "٣"])
def test_a_feature_that_is_typed_wrongly(word, capsys):
    assert cli.main(["page", "gelu-1l-mini", "--", word]) == 2
    assert (
        f"{word!r} is no feature; give a number such as 7, or a range such as 0-999"
        in capsys.readouterr().err
    )


def test_which_other_run_the_command_looks_in():
    from saework.loading.catalogue import another_run, release_named

    gelu, gemma = release_named("gelu-1l-mini"), release_named("gemma-mini")
    assert [another_run(gelu, sae_id) for sae_id in ("run1", "run2", "a/file", None)] == [
        "run2",
        "run1",
        None,
        None,
    ]
    for sae_id in gemma.ids():
        near = another_run(gemma, sae_id)
        assert near != sae_id
        if near is not None:
            assert (gemma.sae(near).hook, gemma.sae(near).d_sae) == (
                gemma.sae(sae_id).hook,
                gemma.sae(sae_id).d_sae,
            )
    assert another_run(release_named("gelu-1l"), "run1") == "run2"


def test_an_index_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="there are no pages to write; give at least one feature"):
        write_pages([], tmp_path / "out")


def test_numbers_as_words():
    assert [signed(v) for v in (0.0004, -0.0004, 0.0126, -1.0, math.nan)] == [
        "0.000",
        "0.000",
        "+0.013",
        "-1.000",
        "–",
    ]
    assert [percent(v) for v in (0.5, 0.0136, 1.0, math.nan)] == ["50%", "1.36%", "100%", "–"]
