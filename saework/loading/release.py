"""A release and its SAEs: where their files are, and what was published about them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from saework.core.claims import Claim
from saework.core.errors import unknown
from saework.core.files import DATA
from saework.loading.hub import Repository
from saework.loading.layouts.sae_layout import SaeLayout
from saework.loading.layouts.sae_lens import CONFIG, SPARSITY, Registered
from saework.loading.model_layouts import ModelLayout
from saework.loading.subject import Subject
from saework.loading.text_sources import TextSource
from saework.loading.tokenizer_files import TOKENIZER_FILES

SMALL_FILES = (CONFIG, SPARSITY)  # endings of what is not counted as a download


@dataclass(frozen=True)
class SaeFile:
    """Where one SAE of a release is, and what was published about it."""

    id: str
    layout: SaeLayout | Registered
    """How it is stored."""
    files: tuple[str, ...] = ()
    """In the release's repository, in the order that the layout reads them."""
    hook: str = ""
    d_in: int = 0
    d_sae: int = 0
    l0: float | None = None
    """Mean L0 as published (or recorded, for a mini); None where none was."""
    scale: float | None = None
    """The activation norm factor that sae_lens lists."""

    @property
    def n_values(self) -> int:
        """Numbers of its two matrices."""
        return 2 * self.d_in * self.d_sae

    @property
    def size_mb(self) -> float:
        """Of the weights, float32."""
        return self.n_values * 4 / 1e6

    @property
    def shape(self) -> tuple[str, int, int]:
        """``(hook, d_in, d_sae)``: SAEs of one shape can be compared feature by feature."""
        return self.hook, self.d_in, self.d_sae


FindSae = Callable[[str], "SaeFile | None"]
ListIds = Callable[[], list[str]]


@dataclass(frozen=True)
class Release:
    """One published set of SAEs, with the model and the text they were made for."""

    name: str
    model_layout: ModelLayout
    """How the model is stored."""
    text: TextSource = field(repr=False)
    """The function that gets its rows (see ``text_sources``)."""
    row_length: int
    """Tokens of a row, BOS included."""
    licence: str
    gated: bool | None
    """Whether its licence has to be accepted on the Hub; None if not known beforehand."""
    repositories: dict[str, Repository] = field(repr=False)
    """``model``, ``tokenizer``, ``sae``, ``text``."""
    family: tuple[str, ...]
    """The mini and the full releases whose claims stand side by side."""
    find: FindSae = field(repr=False)
    """An SAE by its id, or None."""
    ids: ListIds = field(repr=False)
    """All ids; without a ``default``, the first one is the default."""
    more_ids: str = ""
    """What else ``find`` takes, in words."""
    default: SaeFile | None = field(default=None, repr=False)
    """The SAE to load when none is named."""
    corpus: str | None = None
    """The data set to stream where the SAE names none."""
    text_files: tuple[str, ...] = ()
    """What is downloaded of the text's repository, as patterns."""
    shown: tuple[str | None, ...] = (None,)
    """The ids that its notebooks read; None is the default."""
    notebooks: tuple[str, ...] = ()
    """The notebooks that ``saework reproduce`` runs for it, in order."""
    feature: int | None = None
    """The feature of its default SAE that its notebooks read; None where they choose one."""
    subject: Subject | None = None
    """What that feature is about; None where no notebook needs it."""

    @property
    def offline(self) -> bool:
        """Whether all of it is in this package."""
        folders = [repository.folder for repository in self.repositories.values()]
        return None not in folders

    def for_notebook(self, name: str) -> Release:
        """The release itself, if a notebook can read it.

        Args:
            name: such as ``02_gelu_1l_reading_a_feature``.

        Raises:
            ValueError: if not; it names the notebooks that can.
        """
        if name in self.notebooks:
            return self
        others = ", ".join(self.notebooks) or "no notebook (load it in your own)"
        raise ValueError(f"notebook {name} does not read {self.name}, which is read by {others}")

    def sae(self, sae_id: str | int | None = None) -> SaeFile:
        """The SAE with an id; the release's first by default.

        Raises:
            UnknownNameError: for an id that does not exist; the message lists what there is.
        """
        if sae_id is None and self.default:
            return self.default
        ids = self.ids()
        wanted = ids[0] if sae_id is None else str(sae_id)
        sae = self.find(wanted)
        if sae is not None:
            return sae
        there_is = _choices(wanted, ids, self.more_ids)
        raise unknown(
            "SAE id",
            sae_id,
            ids,
            see=f"{self.name} has {there_is}.",
        )

    def files(self, sae_id: str | int | None = None) -> list[tuple[str, str, float]]:
        """``(repository, file or pattern, MB)`` of all that a load reads."""
        sae = self.sae(sae_id)
        parts = {
            "model": self.model_layout.files,
            "tokenizer": TOKENIZER_FILES,
            "text": self.text_files,
        }
        listed: list[tuple[str, str, float]] = []
        for part, files in parts.items():
            repository = self.repositories[part]
            for file in files:
                size_mb = repository.size_mb(file)
                listed.append((part, file, size_mb))
        in_package = self.repositories["sae"].folder is not None
        for file in sae.files:
            size_mb = sae.size_mb
            if in_package or file.endswith(SMALL_FILES):
                size_mb = 0
            listed.append(("sae", file, size_mb))
        return listed

    def another_run(self, sae_id: str | None) -> str | None:
        """The next of its SAEs at the same hook and of the same shape, or None.

        Where loading downloads, only those count that the release's notebooks read.
        """
        sae = self.find(sae_id) if sae_id else None
        if sae is None or not sae.hook:
            return None
        ids = self.ids()
        if not self.offline:
            ids = [known for known in self.shown if known]
        if sae.id in ids:
            # The ids after this one, and then those before it.
            position = ids.index(sae.id)
            before = ids[:position]
            after = ids[position + 1 :]
            ids = after + before
        for known in ids:
            other = self.sae(known)
            if other.shape == sae.shape:
                return known
        return None

    def claims(self, topic: str = "") -> list[Claim]:
        """The published claims of its family whose ids begin with ``topic``."""
        return claims_of_family(self.family, topic)


@dataclass(frozen=True)
class Study:
    """What has claims and a notebook of its own, though it is no release."""

    name: str
    release: str
    """Whose model it uses."""
    family: tuple[str, ...]
    """The study's small and real setting, whose claims stand side by side."""
    notebooks: tuple[str, ...]
    """As of a release."""


def claims_of_family(names: Iterable[str], topic: str = "") -> list[Claim]:
    """The claims of these releases or studies whose ids begin with ``topic``."""
    claims: list[Claim] = []
    for name in names:
        path = DATA / name / "claims.json"
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        for row in json.loads(text):
            claim = Claim(**row, tier=name)
            if claim.id.startswith(topic):
                claims.append(claim)
    return claims


def _choices(given: str, ids: Sequence[str], more: str) -> str:
    """What ids there are, as far down the path as the given one agrees.

    Args:
        given: an id that does not exist.
        ids: all that do.
        more: what other ids exist, in words; empty if none.

    >>> _choices("a/x", ["a/b", "a/c", "d/e"], "")
    'under a/: b, c'
    >>> _choices("x", ["a/b", "a/c", "d/e"], "a number")
    'a number, a, d'
    """
    parts = given.split("/")
    while parts:
        prefix = "/".join(parts) + "/"
        below = [known.removeprefix(prefix) for known in ids if known.startswith(prefix)]
        if below:
            names = ", ".join(_first_parts(below))
            return f"under {prefix}: {names}"
        parts.pop()
    tops = _first_parts(ids)
    if more:
        tops.insert(0, more)
    return ", ".join(tops)


def _first_parts(ids: Sequence[str]) -> list[str]:
    """What stands before the first slash, each once, ``l0_9`` before ``l0_10``."""
    first_parts = set()
    for known in ids:
        first_part, _, _ = known.partition("/")
        first_parts.add(first_part)
    return sorted(first_parts, key=_numbers_in)


def _numbers_in(text: str) -> list[int | str]:
    """Text cut into words and numbers, so that numbers sort by size."""
    parts: list[int | str] = []
    for word in re.split(r"(\d+)", text):
        if word.isdigit():
            parts.append(int(word))
        else:
            parts.append(word)
    return parts
