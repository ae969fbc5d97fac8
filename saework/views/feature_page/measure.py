"""One scan, one bounded second look, and what the weights say: the numbers of many pages at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from urllib.parse import quote

import numpy as np
import pandas as pd
import torch
from scipy.stats import kurtosis, skew

from saework.analysis.features import logit_effects
from saework.analysis.scanning.checkpoint import sae_fingerprint
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.run_scan import scan as scan_tokens
from saework.analysis.similarity import nearest_rows, unit_rows
from saework.core.arguments import check_finite
from saework.core.errors import HookError
from saework.core.formulas import chance_cosine
from saework.core.tokens import decode_each, not_bos, visible
from saework.loading.catalogue import neuronpedia_id
from saework.views.feature_page import examples as closeups
from saework.views.feature_page.page import FeaturePage, Interval, LogitEffect
from saework.views.feature_page.parts import Example

N_LOGITS, N_NEAREST, N_OTHER, N_COFIRING = 10, 5, 3, 8
FEATURES_AT_ONCE = 64


class PageMaker:
    """What the pages of one SAE share, and each of them."""

    def __init__(
        self,
        workbook,
        source: str,
        features: list[int],
        *,
        scan: FeatureScan | None,
        other,
        other_source: str,
        progress: bool,
    ):
        self.book, self.source, self.features, self.known = (
            workbook,
            source,
            features,
            sorted(set(features)),
        )
        self.other, self.other_source = other, other_source
        self.not_bos = not_bos(workbook.tokens, workbook.tokenizer)
        self.scan = self._scanned(progress) if scan is None else self._checked(scan)
        self.counted, self.counted_words = self._counted()
        self.places = closeups.choose(self.scan, self.known)
        self.labels = self._labels()
        self.look = closeups.look(
            workbook.model,
            workbook.sae,
            workbook.tokens,
            workbook.hook,
            self.places,
            features=self.known,
            counted=self.counted,
            labels=self.labels,
            progress=progress,
        )
        self._check_examples()
        self.texts = self._texts()
        self.rows, self.other_rows = (
            _directions(workbook.sae),
            {} if other is None else _directions(other),
        )

    # ---- the scan ----

    def _scanned(self, progress: bool) -> FeatureScan:
        book, mask = self.book, self.not_bos
        top_k = min(closeups.N_TOP, int(mask.sum()))
        return scan_tokens(
            book.model,
            book.sae,
            book.tokens,
            hook=book.hook,
            top_k=top_k,
            mask=mask,
            cofiring=self.known,
            progress=progress,
        )

    def _checked(self, scan: FeatureScan) -> FeatureScan:
        if scan.fingerprint != sae_fingerprint(self.book.sae, self.book.hook):
            raise ValueError(
                "this scan is of another SAE or hook than the workbook's; "
                "make it with scan(workbook.model, workbook.sae, workbook.tokens, hook=workbook.hook), or leave scan= out"
            )
        if scan.top_values.shape[1] == 0:
            raise ValueError(
                "this scan kept no positions (top_k=0, or a file that holds counts only), so a page would have no examples; "
                "scan workbook.tokens with top_k=10 or more, or leave scan= out"
            )
        if scan.rows[-1][1] > len(self.book.tokens):
            raise ValueError(
                f"this scan reaches to row {scan.rows[-1][1] - 1}, but workbook.tokens has {len(self.book.tokens)} rows; "
                "give a workbook with the rows that were scanned, row 0 first, or leave scan= out"
            )
        return scan

    def _counted(self) -> tuple[torch.Tensor, str]:
        """Which tokens the scan counted, as far as their number tells, and the same in words."""
        in_rows = torch.zeros_like(self.not_bos)
        for start, end in self.scan.rows:
            in_rows[start:end] = True
        words = f"Counted on {self.scan.n_tokens:,} tokens of {int(in_rows.any(1).sum()):,} rows"
        if self.scan.n_tokens == int((in_rows & self.not_bos).sum()):
            return (
                in_rows & self.not_bos,
                f"{words}; the token that begins a row of text (BOS) is left out.",
            )
        if self.scan.n_tokens == int(in_rows.sum()):
            return in_rows, f"{words}, the token that begins a row of text (BOS) among them."
        return in_rows & self.not_bos, f"{words}, chosen by a mask that the scan does not say."

    def _labels(self) -> dict[str, torch.Tensor]:
        try:
            return self.book.labels() if self.scan.n_tokens == int(self.counted.sum()) else {}
        except ValueError:
            return {}

    def _check_examples(self) -> None:
        seen = self.look.values[:, closeups.BEFORE]
        off = np.abs(seen - self.places.value) > 0.01 + 0.1 * self.places.value
        if off.any():
            i = int(np.flatnonzero(off)[0])
            raise ValueError(
                f"the scan says that feature {self.places.feature[i]} is at {self.places.value[i]:.3g} in row {self.places.row[i]}, "
                f"position {self.places.pos[i]}, but there it is at {seen[i]:.3g}: other tokens were scanned. "
                "Scan workbook.tokens, row 0 first, or leave scan= out"
            )

    def _texts(self) -> dict[int, str]:
        rows = np.unique(self.places.row)
        known = self.book.tokens[rows].unique().tolist()
        return dict(zip(known, decode_each(known, self.book.tokenizer)))

    # ---- the pages ----

    def pages(self) -> Iterator[FeaturePage]:
        """Each feature's page, in the order asked for."""
        for start in range(0, len(self.features), FEATURES_AT_ONCE):
            features = self.features[start : start + FEATURES_AT_ONCE]
            logits, why_not = self._logits(features)
            near, other = self._near(features), self._in_other(features)
            for i, feature in enumerate(features):
                yield self._page(feature, logits[i], why_not, near[i], other[i])

    def _page(self, feature: int, logits, why_not: str, near: pd.DataFrame, other) -> FeaturePage:
        scan, own = self.scan, np.flatnonzero(self.places.feature == feature)
        top, intervals, ablation = self._examples(feature, own)
        cofiring, no_cofiring = self._cofiring(feature)
        missing = {
            "logits": why_not,
            "cofiring": no_cofiring,
            "labels": "" if self.labels else "There are no true labels for this text.",
        }
        id_there = neuronpedia_id(
            self.book.sae, self.book.release.name if self.book.release else None, self.book.sae_id
        )
        return FeaturePage(
            feature=feature,
            source=f"{self.source}, at {self.book.hook}",
            counted=self.counted_words,
            n_tokens=scan.n_tokens,
            count=int(scan.count[feature]),
            max_activation=float(scan.max_activation[feature]),
            mean_l0=scan.mean_l0,
            rate_bound=scan.rate_bound,
            histogram=_histogram(scan, feature),
            top=top,
            intervals=intervals,
            ablation=ablation,
            nearest=near,
            chance_cosine=chance_cosine(*self.book.sae.W_dec.shape[::-1]),
            logits=logits,
            other=other,
            other_source=self.other_source if other is not None else "",
            other_chance=chance_cosine(*self.other.W_dec.shape[::-1])
            if other is not None
            else math.nan,
            cofiring=cofiring,
            labels=self._agreement(feature),
            neuronpedia=f"https://www.neuronpedia.org/{quote(id_there)}/{feature}"
            if id_there
            else None,
            missing={section: why for section, why in missing.items() if why},
        )

    def _examples(
        self, feature: int, own: np.ndarray
    ) -> tuple[tuple[Example, ...], tuple[Interval, ...], pd.DataFrame]:
        group, change = self.places.group[own], self.look.loss_change[own]
        edges, histogram = self.scan.bin_edges.tolist(), self.scan.histogram[feature].numpy()
        bins = closeups.intervals_of(histogram)
        bounds = [(0.0 if len(each) > 1 else edges[each[-1]], edges[each[0] + 1]) for each in bins]
        firings = [int(histogram[each].sum()) for each in bins]
        rows, examples = [], []
        for g, interval in enumerate(["top", *bounds], start=closeups.TOP):
            examples.append(tuple(self._example(i) for i in own[group == g]))
            measured = change[(group == g) & ~np.isnan(change)]
            weight, n_all = (
                (math.nan, 0) if g == closeups.TOP else (firings[g] / sum(firings), firings[g])
            )
            rows.append({"interval": interval, **_summary(measured, n_all), "weight": weight})
        intervals = tuple(
            Interval(*bound, n, shown) for bound, n, shown in zip(bounds, firings, examples[1:])
        )
        return examples[0], intervals, pd.DataFrame(rows)

    def _example(self, i: int) -> Example:
        values, (row, pos) = self.look.values[i], (int(self.places.row[i]), int(self.places.pos[i]))
        inside = ~np.isnan(values)
        first = pos - int(inside[: closeups.BEFORE].sum())
        ids = self.book.tokens[row, first : first + int(inside.sum())].tolist()
        strings, values = tuple(self.texts[id_] for id_ in ids), tuple(values[inside].tolist())
        return Example(
            strings,
            values,
            pos - first,
            float(self.places.value[i]),
            float(self.look.loss_change[i]),
            row,
            pos,
        )

    def _logits(self, features: list[int]) -> tuple[list[LogitEffect | None], str]:
        try:
            effects = (
                logit_effects(self.book.model, self.book.sae, features, hook=self.book.hook)
                .float()
                .cpu()
            )
        except HookError as error:
            return [None] * len(features), f"There is none to show: {error}."
        return [
            self._logit_effect(check_finite(effect, "logit effects").numpy()) for effect in effects
        ], ""

    def _logit_effect(self, effect: np.ndarray) -> LogitEffect:
        order = np.argsort(-effect, kind="stable")
        frames = []
        for ids in (order[:N_LOGITS], np.argsort(effect, kind="stable")[:N_LOGITS]):
            texts = [visible(text) for text in decode_each(ids.tolist(), self.book.tokenizer)]
            frames.append(
                pd.DataFrame(
                    {"token": texts, "logit": effect[ids]}, index=pd.Index(ids, name="token_id")
                )
            )
        exact = effect.astype(np.float64)
        return LogitEffect(*frames, float(skew(exact)), float(kurtosis(exact)))

    def _near(self, features: list[int]) -> list[pd.DataFrame]:
        n_of = {
            name: nearest_rows(rows[features], rows, N_NEAREST, own=features)[0]
            for name, rows in self.rows.items()
        }
        rate = self.scan.firing_rate
        frames = []
        for i, feature in enumerate(features):
            frame = self._cosines(
                feature, torch.cat([index[i] for index in n_of.values()]).unique(), self.rows
            )
            frames.append(frame.assign(firing_rate=rate.numpy()[frame["feature"]]))
        return frames

    def _in_other(self, features: list[int]) -> list[pd.DataFrame | None]:
        if self.other is None:
            return [None] * len(features)
        n_of = {
            name: nearest_rows(self.rows[name][features], rows, N_OTHER)[0]
            for name, rows in self.other_rows.items()
        }
        frames = []
        for i, feature in enumerate(features):
            frame = self._cosines(
                feature, torch.cat([index[i] for index in n_of.values()]).unique(), self.other_rows
            )
            back, _ = nearest_rows(
                self.other_rows["decoder"][frame["feature"].tolist()], self.rows["decoder"], 1
            )
            frames.append(frame.assign(mutual=(back[:, 0] == feature).numpy()))
        return frames

    def _cosines(
        self, feature: int, candidates: torch.Tensor, rows: dict[str, torch.Tensor]
    ) -> pd.DataFrame:
        cosines = {
            f"{name}_cosine": (rows[name][candidates] @ self.rows[name][feature]).numpy()
            for name in rows
        }
        frame = pd.DataFrame({"feature": candidates.numpy(), **cosines})
        return frame.sort_values("decoder_cosine", ascending=False, kind="stable").reset_index(
            drop=True
        )

    def _cofiring(self, feature: int) -> tuple[pd.DataFrame | None, str]:
        both = _cofiring_row(self.scan, feature)
        if both is None:
            return (
                None,
                f"Not counted in this scan; make it with cofiring=[{feature}], or leave scan= out.",
            )
        given = both / max(int(self.scan.count[feature]), 1)
        base = self.scan.firing_rate.numpy()
        frame = pd.DataFrame(
            {"feature": np.arange(len(both)), "both": both, "given_this": given, "base_rate": base}
        )
        rises = given - base
        frame = frame.assign(rises=rises)[(rises > 0) & (frame["feature"] != feature)]
        return frame.sort_values("rises", ascending=False, kind="stable").drop(
            columns="rises"
        ).head(N_COFIRING).reset_index(drop=True), ""

    def _agreement(self, feature: int) -> pd.DataFrame | None:
        if not self.labels:
            return None
        i = int(np.searchsorted(self.known, feature))
        n = int(self.counted.sum())
        rows = {}
        for name, label in self.labels.items():
            hits, fires, holds = (
                int(self.look.label_hits[name][i]),
                int(self.look.fires[i]),
                int((label & self.counted).sum()),
            )
            share = lambda part, whole: part / whole if whole else math.nan  # noqa: E731
            rows[name] = {
                "precision": share(hits, fires),
                "recall": share(hits, holds),
                "f1": share(2 * hits, fires + holds),
                "base_rate": holds / n,
                "tokens": holds,
            }
        return pd.DataFrame.from_dict(rows, orient="index").sort_values(
            "f1", ascending=False, kind="stable"
        )


def _directions(sae) -> dict[str, torch.Tensor]:
    return {"decoder": unit_rows(sae.W_dec), "encoder": unit_rows(sae.W_enc.T, "encoder weights")}


def _summary(changes: np.ndarray, n_all: int) -> dict[str, float]:
    """Mean and its variance (0 where all of ``n_all`` were measured), and the share above zero."""
    n = len(changes)
    variance = (
        0.0
        if n == n_all
        else changes.var(ddof=1) / n * (1 - n / n_all if n_all else 1)
        if n > 1
        else math.nan
    )
    return {
        "tokens": n,
        "loss_change": changes.mean() if n else math.nan,
        "variance": variance,
        "raised": (changes > 0).mean() if n else math.nan,
    }


def _histogram(scan: FeatureScan, feature: int) -> pd.DataFrame:
    counts, edges = scan.histogram[feature].numpy(), scan.bin_edges.numpy()
    filled = np.flatnonzero(counts)
    part = slice(filled[0], filled[-1] + 1) if len(filled) else slice(0, 0)
    return pd.DataFrame({"low": edges[:-1][part], "high": edges[1:][part], "firings": counts[part]})


def _cofiring_row(scan: FeatureScan, feature: int) -> np.ndarray | None:
    """Tokens on which each feature fires together with this one; None if the scan did not count it."""
    rows = (scan.cofiring_features == feature).nonzero()
    return scan.cofiring[int(rows[0])].numpy() if len(rows) else None
