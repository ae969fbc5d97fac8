"""One call that loads a release, and one that says beforehand what that will need."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from saework import corpus, formats, run
from saework._checks import HookError, check_positive, check_tokens, unknown
from saework.catalogue import DATA, Release, claims_of, release_named, releases
from saework.metrics import variance_explained
from saework.scanning import FeatureScan

__all__ = ["Preflight", "Workbook", "claims_of", "load", "preflight", "releases"]
L0_FACTOR, LOWEST_VARIANCE = 3.0, 0.5


@dataclass(frozen=True)
class Workbook:
    """A model, one of its SAEs, and text: what every analysis takes. Build your own from your own parts."""

    model: object
    """A TransformerLens model."""
    sae: object
    """A ``sae_lens.SAE``, or anything with ``encode``, ``decode``, ``W_enc``, ``W_dec``."""
    tokens: torch.Tensor
    """long ``[batch, pos]``, BOS first."""
    tokenizer: object
    hook: str
    release: Release | None = None
    sae_id: str | None = None

    def __post_init__(self):
        tokens = check_tokens(self.tokens, d_vocab=self.model.cfg.d_vocab, n_ctx=self.model.cfg.n_ctx)
        object.__setattr__(self, "tokens", tokens)
        if self.hook not in self.model.hook_dict:
            raise unknown("hook", self.hook, self.model.hook_dict, see="The model's hooks are listed in model.hook_dict.")

    def with_sae(self, sae_id: str | int) -> Workbook:
        """The same model and text with another SAE of the release."""
        if self.release is None:
            raise ValueError("this workbook was built from your own parts, so it has no release to take an SAE from; build another Workbook(...)")
        sae = _load_sae(self.release, sae_id).to(next(self.model.parameters()).device, self.sae.W_dec.dtype)
        _check_width(self.release, self.model.cfg.d_mlp, sae)
        return replace(self, sae=sae, sae_id=str(sae_id))

    def labels(self) -> dict[str, torch.Tensor]:
        """True labels of the bundled text: bool ``[batch, pos]`` by name, such as ``comment``.

        Raises: ValueError for any other text.
        """
        tokens, labels = _bundled_labels(self.release.name) if self.release else (None, {})
        if tokens is None or not torch.equal(tokens[: len(self.tokens)], self.tokens.cpu()):
            raise ValueError("labels exist for a mini's bundled text only, from its first row on; load a mini without text= or seed=")
        return {name: values[: len(self.tokens)] for name, values in labels.items()}

    def recorded_scan(self) -> FeatureScan:
        """The scan of about 10^6 tokens that the mini's builder made: counts and histograms, no text.

        Raises: ValueError if the release has none; then scan live.
        """
        path = DATA / self.release.name / "scans" / f"{self.release.checkpoint(self.sae_id)}.safetensors" if self.release else None
        if path is None or not path.exists():
            raise ValueError("no scan was recorded for this SAE; make one with scan(model, sae, tokens)")
        return FeatureScan.load(path)

    def __repr__(self) -> str:
        name = f"{self.release.name} {self.sae_id or ''}".strip() if self.release else "own parts"
        d_in, d_sae = self.sae.W_enc.shape
        lines = [
            f"Workbook {name}",
            f"  model      {type(self.model).__name__}: {self.model.cfg.n_layers} layers, d_model {self.model.cfg.d_model}, d_vocab {self.model.cfg.d_vocab}",
            f"  sae        {d_in} to {d_sae} features at {self.hook}, {str(self.sae.W_dec.dtype).removeprefix('torch.')}",
            f"  tokens     {len(self.tokens)} rows of {self.tokens.shape[1]} ({self.tokens.numel():,} tokens)",
        ]
        if self.release:
            lines += [f"  {part:10} {repository}" for part, repository in self.release.repositories.items()]
        return "\n".join(lines)


def load(
    name: str,
    sae_id: str | int | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    n_tokens: int | None = None,
    text: str | Sequence[str] | None = None,
    seed: int = 0,
    check: bool = True,
) -> Workbook:
    """Load a release: model, SAE, tokenizer and text.

    Args:
        name: one of ``releases()``.
        sae_id: such as ``run1``, or a checkpoint's number; the release's first by default.
        device: where to run; by default a GPU if there is one.
        dtype: of model and SAE; float32 by default.
        n_tokens: take only the first rows that hold so many tokens; all by default.
        text: your own text instead of the release's: one string, or a list of documents.
        seed: 0 keeps the corpus's own order of rows; another draws the rows in another order.
        check: run one batch, and warn if mean L0 is off threefold from the published one, or the
            variance explained (conventional, without BOS) is below 0.5.

    Raises: UnknownNameError for a name or id that does not exist; WeightsError for damaged files or
    those of another model; NotAvailableError without network, disk or access.
    """
    release = release_named(name)
    sae_id = next(iter(release.checkpoints)) if sae_id is None else str(sae_id)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model_files = release.repositories["model"]
    sae = _load_sae(release, sae_id).to(device, dtype or torch.float32)
    tokenizer = load_tokenizer(release)
    model = formats.neel_model(model_files.fetch("config.json"), model_files.fetch("model_final.pth"), tokenizer)
    model.to(dtype or torch.float32, print_details=False)
    model.to(device, print_details=False)
    _check_width(release, model.cfg.d_mlp, sae)
    tokens = _rows(release, tokenizer, text)
    if seed:
        tokens = corpus.shuffled(tokens, seed=seed)
    if n_tokens is not None:
        tokens = tokens[: -(-check_positive(n_tokens, "n_tokens") // tokens.shape[1])]
    workbook = Workbook(model, sae, tokens, tokenizer, release.hook, release, sae_id)
    if check:
        self_check(workbook)
    return workbook


def load_tokenizer(release: Release):
    """The release's tokenizer."""
    folder = release.repositories["tokenizer"].fetch("tokenizer.json").parent
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        release.repositories["tokenizer"].fetch(file)
    return formats.tokenizer(folder)


def _load_sae(release: Release, sae_id: str | int):
    number, files = release.checkpoint(sae_id), release.repositories["sae"]
    return formats.neel_sae(files.fetch(f"{number}_cfg.json"), files.fetch(f"{number}.pt"), hook=release.hook)


def _check_width(release: Release, width: int, sae) -> None:
    if not release.d_in == width == sae.W_enc.shape[0]:
        raise HookError(f"{release.hook} is {width} wide, but this SAE reads {sae.W_enc.shape[0]}: it belongs to another model")


def _rows(release: Release, tokenizer, text: str | Sequence[str] | None) -> torch.Tensor:
    if text is None:
        files = release.repositories["text"].fetch_all("data/*.parquet")
        texts = [document for file in files for document in corpus.read_parquet(file)]
        return corpus.shuffled(corpus.tokenize_rows(texts, tokenizer, length=release.row_length))
    texts = [text] if isinstance(text, str) else list(text)
    if not any(document.strip() for document in texts):
        raise ValueError("text is empty; give text, or leave text= out for the release's own")
    ids = tokenizer(tokenizer.eos_token.join(texts), add_special_tokens=False)["input_ids"]
    if len(ids) < release.row_length:
        return torch.tensor([[tokenizer.bos_token_id, *ids]])
    return corpus.tokenize_rows(texts, tokenizer, length=release.row_length)


def self_check(workbook: Workbook, *, n_rows: int = 16) -> None:
    """One batch against the published L0 and a floor for the variance explained; warns if off."""
    x = run.sae_input(workbook.model, workbook.sae, workbook.tokens[:n_rows], workbook.hook)
    x = (x[:, 1:] if x.shape[1] > 1 else x).flatten(0, 1)
    with torch.no_grad():
        features = workbook.sae.encode(x)
        explained = variance_explained(x, workbook.sae.decode(features)) if len(x) > 1 else float("nan")
    l0 = float((features > 0).sum(-1).double().mean())
    published = workbook.release.published_l0 if workbook.release else None
    if published and not published / L0_FACTOR <= l0 <= published * L0_FACTOR:
        warnings.warn(f"mean L0 is {l0:.3g} on {len(x)} tokens where {published:.3g} was published: a wrong hook, SAE, or text?", stacklevel=3)
    if explained < LOWEST_VARIANCE:
        warnings.warn(
            f"the SAE explains {explained:.2f} of the variance on {len(x)} tokens (BOS left out), below {LOWEST_VARIANCE}: "
            "a wrong hook, SAE, or text?",
            stacklevel=3,
        )


@lru_cache(maxsize=1)
def _bundled_labels(name: str) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    path = DATA / name / "text" / "labels.safetensors"
    if not path.exists():
        return None, {}
    stored = load_file(path)
    return stored.pop("tokens").long(), {key: value.bool() for key, value in stored.items()}


@dataclass(frozen=True)
class Preflight:
    """What a load will need, and whether this machine and account have it."""

    release: str
    download_mb: float
    """Still to be downloaded."""
    cached_mb: float
    """On this machine already."""
    disk_free_gb: float
    memory_gb: float
    """Needed, float32."""
    memory_free_gb: float
    """Available on this machine now."""
    licence: str
    gated: bool
    token: bool
    """Whether a Hub token is set on this machine (it is never shown)."""
    problems: tuple[str, ...]
    """What would stop the load, each with its remedy; empty if nothing would."""

    @property
    def ok(self) -> bool:
        """Whether the load can go ahead."""
        return not self.problems

    def __repr__(self) -> str:
        lines = [
            f"{self.release}: {'ready' if self.ok else 'not ready'}",
            f"  download  {self.download_mb:.0f} MB ({self.cached_mb:.0f} MB are here already)",
            f"  disk      {self.disk_free_gb:.1f} GB free",
            f"  memory    {self.memory_gb:.1f} GB needed, {self.memory_free_gb:.1f} GB available",
            f"  licence   {self.licence}",
            f"  gate      {'licence to accept on the Hub' if self.gated else 'none'}; token {'present' if self.token else 'absent'}",
        ]
        return "\n".join([*lines, *(f"  ! {problem}" for problem in self.problems)])


def preflight(name: str, sae_id: str | int | None = None) -> Preflight:
    """What ``load(name, sae_id)`` will need, and whether it can be had. Downloads no weights.

    Asks the Hub only about what is not in the cache.
    Raises: UnknownNameError for a name or id that does not exist.
    """
    import psutil
    from huggingface_hub import get_token
    from huggingface_hub.constants import HF_HUB_CACHE

    release = release_named(name)
    cached_mb = missing_mb = 0.0
    problems, asked = [], set()
    for part, file in release.files(sae_id):
        repository = release.repositories[part]
        if repository.cached(file):
            cached_mb += repository.size_mb(file)
            continue
        missing_mb += repository.size_mb(file)
        if part not in asked and (problem := repository.access_problem(file)):
            problems.append(problem)
        asked.add(part)
    cache = HF_HUB_CACHE if os.path.isdir(HF_HUB_CACHE) else os.path.expanduser("~")
    disk_free, memory_free = shutil.disk_usage(cache).free / 1e9, psutil.virtual_memory().available / 1e9
    if missing_mb / 1e3 > disk_free:
        problems.append(f"{missing_mb / 1e3:.1f} GB to download but {disk_free:.1f} GB free in {cache}; make room, or set HF_HOME to another disk")
    if release.memory_gb > memory_free:
        problems.append(f"about {release.memory_gb:.1f} GB of memory needed but {memory_free:.1f} GB available; close programs, or use the mini")
    return Preflight(
        release=name,
        download_mb=missing_mb,
        cached_mb=cached_mb,
        disk_free_gb=disk_free,
        memory_gb=release.memory_gb,
        memory_free_gb=memory_free,
        licence=release.licence,
        gated=release.gated,
        token=bool(get_token()),
        problems=tuple(problems),
    )
