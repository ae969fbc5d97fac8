"""One call that loads a release, and what it gives: a workbook."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.sites import find_site
from saework.core.arguments import check_positive, check_tokens
from saework.core.errors import HookError, unknown
from saework.core.files import DATA
from saework.core.formulas import variance_explained
from saework.core.protocols import hook_of, sae_metadata
from saework.engine import forward
from saework.engine.encoder import Encoder
from saework.loading import corpus, layouts, models
from saework.loading.catalogue import (
    ALSO,
    MODEL_FILES,
    TOKENIZER_FILES,
    Release,
    claims_of,
    release_named,
    releases,
    scan_file,
)
from saework.loading.hub import Repository, explained
from saework.loading.requirements import check_resources

__all__ = ["Workbook", "claims_of", "load", "releases"]
L0_FACTOR, LOWEST_VARIANCE = 3.0, 0.5
CHECK_VALUES = 2**26
WRONG = (
    "a wrong hook, SAE, or text? Run saework.find_site(...) to rank the model's hooks for this SAE"
)
DEFAULT_STREAMED_TOKENS = 16_384
GIVEN = Repository("given by the caller", folder=Path())
RANKED_TOKENS = 128  # of each of four rows, where a warning ranks the hooks


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
        tokens = check_tokens(
            self.tokens, d_vocab=self.model.cfg.d_vocab, n_ctx=self.model.cfg.n_ctx
        )
        object.__setattr__(self, "tokens", tokens)
        if self.hook not in self.model.hook_dict:
            raise unknown(
                "hook",
                self.hook,
                self.model.hook_dict,
                see="The model's hooks are listed in model.hook_dict.",
            )

    def with_sae(self, sae_id: str | int) -> Workbook:
        """The same model and text with another SAE of the release."""
        if self.release is None:
            raise ValueError(
                "this workbook was built from your own parts, so it has no release to take an SAE from; build another Workbook(...)"
            )
        sae = _load_sae(self.release, sae_id).to(
            next(self.model.parameters()).device, self.sae.W_dec.dtype
        )
        _check_width(self.model, sae)
        return replace(self, sae=sae, sae_id=str(sae_id), hook=hook_of(sae))

    def labels(self) -> dict[str, torch.Tensor]:
        """True labels of the bundled text: bool ``[batch, pos]`` by name, such as ``comment``.

        Raises: ValueError for any other text.
        """
        tokens, labels = _bundled_labels(self.release.name) if self.release else (None, {})
        if tokens is None or not torch.equal(tokens[: len(self.tokens)], self.tokens.cpu()):
            raise ValueError(
                "labels exist for a mini's bundled text only, from its first row on; load a mini without text= or seed="
            )
        return {name: values[: len(self.tokens)] for name, values in labels.items()}

    def recorded_scan(self) -> FeatureScan:
        """The scan of about 10^6 tokens that the mini's builder made: counts and histograms, no text.

        Raises: ValueError if the release has none; then scan live.
        """
        path = DATA / self.release.name / "scans" / scan_file(self.sae_id) if self.release else None
        if path is None or not path.exists():
            raise ValueError(
                "no scan was recorded for this SAE; make one with scan(model, sae, tokens)"
            )
        return FeatureScan.load(path)

    def __repr__(self) -> str:
        name = f"{self.release.name} {self.sae_id or ''}".strip() if self.release else "own parts"
        cfg, (d_in, d_sae) = self.model.cfg, self.sae.W_enc.shape
        lines = [
            f"Workbook {name}",
            f"  model      {type(self.model).__name__}: {cfg.n_layers} layers, d_model {cfg.d_model}, d_vocab {cfg.d_vocab}",
            f"  sae        {d_in} to {d_sae} features at {self.hook}, {str(self.sae.W_dec.dtype).removeprefix('torch.')}",
            f"  tokens     {len(self.tokens)} rows of {self.tokens.shape[1]} ({self.tokens.numel():,} tokens)",
        ]
        if self.release:
            sources = dict(self.release.repositories)
            if self.sae_id and self.release.find(self.sae_id) is None:
                sources["sae"] = f"{self.sae_id} (on this machine)"
            lines += [f"  {part:10} {source}" for part, source in sources.items()]
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
        name: one of ``releases()``, or any release of sae_lens.
        sae_id: such as ``run1``, or, for gelu-1l, a checkpoint's number; the release's first by default. Or the path of
            an SAE on this machine, for the release's model (see ``layouts.read_sae``).
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
    _check_device_and_dtype(device, dtype)
    texts = None if text is None else _documents(text)
    release = release_named(name)
    local = _is_local(release, sae_id)
    sae_id = str(sae_id) if local else release.sae(sae_id).id
    if not release.offline:
        check_resources(release, sae_id, local=local)
    device, dtype = (
        torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")),
        dtype or torch.float32,
    )
    tokenizer = load_tokenizer(
        release
    )  # the small and the doubtful parts first: a closed gate, or no corpus, costs no download
    sae = _load_sae(release, sae_id).to(device, dtype)
    tokens, release = _rows(release, sae, tokenizer, texts, n_tokens)
    model = _load_model(
        release,
        tokenizer,
        dtype,
        centred=bool(
            (sae_metadata(sae, "model_from_pretrained_kwargs") or {}).get("center_writing_weights")
        ),
    )
    if next(model.parameters()).device != device:
        model.to(device)
    _check_width(model, sae)
    if seed:
        tokens = corpus.shuffled(tokens, seed=seed)
    if n_tokens is not None:
        tokens = tokens[: -(-check_positive(n_tokens, "n_tokens") // tokens.shape[1])]
    workbook = Workbook(model, sae, tokens, tokenizer, hook_of(sae), release, sae_id)
    if check:
        self_check(workbook)
    return workbook


def _check_device_and_dtype(device, dtype) -> None:
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype!r}; give a torch dtype of floats, such as torch.float32")
    try:
        torch.device(device or "cpu")
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device is {device!r}; give 'cpu', 'cuda', 'cuda:1' or 'mps'") from error


def _documents(text) -> list[str]:
    documents = [text] if isinstance(text, str) or not isinstance(text, Iterable) else list(text)
    if not all(isinstance(document, str) for document in documents):
        raise ValueError(f"text is {str(text)[:60]}; give one string, or a list of strings")
    if not any(document.strip() for document in documents):
        raise ValueError("text is empty; give text, or leave text= out for the release's own")
    return documents


def load_tokenizer(release: Release):
    """The release's tokenizer."""
    return models.read_tokenizer(
        release.repositories["tokenizer"].fetch_folder(TOKENIZER_FILES, also=ALSO)
    )


def _load_model(release: Release, tokenizer, dtype: torch.dtype, *, centred: bool):
    folder = release.repositories["model"].fetch_folder(
        MODEL_FILES[release.model_layout], also=ALSO
    )
    return models.read_model(
        folder, tokenizer, layout=release.model_layout, dtype=dtype, centred=centred
    )


def _is_local(release: Release, sae_id: str | int | None) -> bool:
    """Whether an SAE is given by a path; the release's own ids come first."""
    return sae_id is not None and release.find(str(sae_id)) is None and Path(str(sae_id)).exists()


def _load_sae(release: Release, sae_id: str | int):
    if _is_local(release, sae_id):
        own = release.sae()
        return layouts.read_sae(sae_id, hook=own.hook if own.layout == "neel" else None)
    listed, repository = release.sae(sae_id), release.repositories["sae"]
    if listed.layout == "registry":
        return _registered_sae(release.name, listed.id)
    paths = [repository.fetch(file) for file in listed.files]
    return layouts.stored_sae(listed.layout, paths, hook=listed.hook, scale=listed.scale)


def _registered_sae(name: str, sae_id: str):
    """Any SAE of sae_lens's table, by its own loader."""
    from sae_lens import SAE

    try:
        return SAE.from_pretrained(name, sae_id).eval().requires_grad_(False)
    except OSError as error:
        raise explained(error, f"the SAE {sae_id}", name) from None


def _check_width(model, sae) -> None:
    hook, d_in = hook_of(sae), sae.W_enc.shape[0]
    widths = {"resid": model.cfg.d_model, "mlp.hook_post": model.cfg.d_mlp}
    width = next((width for name, width in widths.items() if name in hook), d_in)
    if width != d_in:
        raise HookError(
            f"{hook} is {width} wide, but this SAE reads {d_in}: it belongs to another model"
        )


def _rows(
    release: Release, sae, tokenizer, texts: list[str] | None, n_tokens: int | None
) -> tuple[torch.Tensor, Release]:
    """Rows of tokens, and the release with the repository that they came from."""
    length = release.row_length
    cut = corpus.tokenize_rows if release.text == "published" else corpus.packed_rows
    if texts is not None:
        ids = tokenizer(tokenizer.eos_token.join(texts), add_special_tokens=False)["input_ids"]
        if len(ids) < length:
            return torch.tensor([[tokenizer.bos_token_id, *ids]]), _with_text(release, GIVEN)
        return cut(texts, tokenizer, length=length), _with_text(release, GIVEN)
    if release.text == "conversation":
        return corpus.chat_tokens(corpus.PIRATE_CONVERSATION, tokenizer), release
    if release.text == "streamed":
        name = sae_metadata(sae, "dataset_path") or release.corpus
        if not name:
            raise ValueError(f"this SAE of {release.name} names no corpus; give text=")
        stream, revision = corpus.streamed_texts(name)
        n_rows = -(-(n_tokens or DEFAULT_STREAMED_TOKENS) // length)
        source = Repository(name, revision=revision, kind="dataset")
        return corpus.packed_rows(stream, tokenizer, length=length, n_rows=n_rows), _with_text(
            release, source
        )
    folder = release.repositories["text"].fetch_folder(["data/*.parquet"])
    texts = [
        document
        for file in sorted(folder.glob("data/*.parquet"))
        for document in corpus.read_parquet(file)
    ]
    return corpus.shuffled(cut(texts, tokenizer, length=length)), release


def _with_text(release: Release, source: Repository) -> Release:
    return replace(release, repositories={**release.repositories, "text": source})


def self_check(workbook: Workbook, *, n_rows: int = 16) -> None:
    """One batch against the published L0 and a floor for the variance explained; warns if off.

    Memory: a few times 256 MB of features at most, whatever the SAE's width: a wide one sees fewer tokens.
    """
    n_tokens = max(2, CHECK_VALUES // workbook.sae.W_enc.shape[1])
    rows = workbook.tokens[: min(n_rows, -(-n_tokens // workbook.tokens.shape[1]))]
    x = forward.sae_input(workbook.model, workbook.sae, rows, workbook.hook)
    x = (x[:, 1:] if x.shape[1] > 1 else x).flatten(0, 1)[:n_tokens]
    with torch.no_grad():
        made = Encoder(workbook.sae).reconstruct(x[None])
        explained = (
            variance_explained(x.flatten(1), made.x_hat[0].flatten(1))
            if len(x) > 1
            else float("nan")
        )
    l0 = float(made.l0.double().mean())
    published = _published_l0(workbook)
    if published and not published / L0_FACTOR <= l0 <= published * L0_FACTOR:
        warnings.warn(
            f"mean L0 is {l0:.3g} on {len(x)} tokens where {published:.3g} was published: {WRONG}",
            stacklevel=3,
        )
    if explained < LOWEST_VARIANCE:
        warnings.warn(
            f"the SAE explains {explained:.2f} of the variance on {len(x)} tokens (BOS left out), below {LOWEST_VARIANCE}: {WRONG}. "
            f"On a few of them these leave least unexplained: {_ranking(workbook)}",
            stacklevel=3,
        )


def _ranking(workbook: Workbook, *, n: int = 3) -> str:
    """The hooks that fit best on a few tokens, such as ``blocks.2.hook_resid_pre (15%)``."""
    sites = find_site(workbook.model, workbook.sae, workbook.tokens[:4, :RANKED_TOKENS])
    return ", ".join(
        f"{hook} ({unexplained:.0%})"
        for hook, unexplained in zip(sites.hook[:n], sites.unexplained)
    )


def _published_l0(workbook: Workbook) -> float | None:
    """What the release says of this SAE, if it is one of the release's."""
    found = workbook.release.find(workbook.sae_id) if workbook.release else None
    return found.l0 if found else None


@lru_cache(maxsize=1)
def _bundled_labels(name: str) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    path = DATA / name / "text" / "labels.safetensors"
    if not path.exists():
        return None, {}
    stored = load_file(path)
    return stored.pop("tokens").long(), {key: value.bool() for key, value in stored.items()}
