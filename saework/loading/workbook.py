"""One call that loads a release, and what it gives: a workbook."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.analysis.scanning.feature_scan import FeatureScan
from saework.core.argument_kinds import (
    check_hook_name,
    check_tokenizer,
    checked,
    is_whole,
)
from saework.core.arguments import check_positive, check_tokens
from saework.core.errors import HookError, in_words
from saework.core.files import DATA
from saework.core.parts import check_model, check_sae
from saework.core.protocols import HookedModel, SparseAutoencoder, Tokenizer, hook_of, sae_metadata
from saework.engine.architectures import input_width
from saework.engine.left_out import left_out, unknown_hook
from saework.engine.site import site_of
from saework.loading import corpus
from saework.loading.catalogue import release_named
from saework.loading.cut_models import blocks_needed
from saework.loading.depth import check_depth, load_model
from saework.loading.devices import as_device, as_dtype, check_is_here
from saework.loading.layouts.neel import NEEL
from saework.loading.local_sae import read_sae
from saework.loading.outside_code import no_programs_started
from saework.loading.release import Release
from saework.loading.requirements import plan_of_load
from saework.loading.sae_ids import scan_file
from saework.loading.self_check import self_check
from saework.loading.subject import feature_of
from saework.loading.text_sources import TextRequest, own_documents
from saework.loading.tokenizer_files import (
    OPTIONAL_TOKENIZER_FILES,
    TOKENIZER_FILES,
    read_tokenizer,
)
from saework.loading.trained_on import (
    rows_of_training,
    warn_of_other_hook,
    warn_of_other_training,
    with_own_model,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor


@dataclass(frozen=True)
class Workbook:
    """A model, one of its SAEs, and text: what every analysis takes.

    ``load`` gives one; or build your own from your own parts.
    """

    model: HookedModel
    """A TransformerLens model."""
    sae: SparseAutoencoder
    """A ``sae_lens.SAE``, or anything with ``encode``, ``decode``, ``W_enc``, ``W_dec``."""
    tokens: Int[Tensor, "batch pos"]
    """Integers ``[batch, pos]``, BOS first unless tokenizer or SAE go without."""
    tokenizer: Tokenizer
    """The model's."""
    hook: str
    """Where the SAE belongs."""
    release: Release | None = None
    """Where the parts come from; None for your own."""
    sae_id: str | None = None
    """The SAE's id in the release, or its path on this machine."""

    def __post_init__(self) -> None:
        check_model(self.model)
        check_sae(self.sae)
        check_tokenizer("tokenizer", self.tokenizer)
        check_hook_name("hook", self.hook)
        cfg = self.model.cfg
        tokens = check_tokens(self.tokens, d_vocab=cfg.d_vocab, n_ctx=cfg.n_ctx)
        # A copy, since the caller's tensor may be changed, and a scan is of these tokens. This is
        # the way to set a field of a frozen dataclass.
        object.__setattr__(self, "tokens", tokens.clone())
        if self.hook not in self.model.hook_dict:
            raise unknown_hook(self.model, self.hook)

    @checked
    def with_sae(self, sae_id: str | int) -> Workbook:
        """The same model and text with another SAE of the release.

        Warns:
            UserWarning: for an SAE whose config says that it was trained on other rows.

        Raises:
            UnknownNameError: for an id that the release does not have.
            HookError: for an SAE of another width, or one behind the blocks that are here
                (``depth="hook"``).
            ValueError: for a workbook of your own parts.
        """
        if self.release is None:
            raise ValueError(
                "this workbook was built from your own parts, so it has no release to take an SAE "
                "from; build another Workbook(...)"
            )
        if sae_id is None:
            raise ValueError("with_sae takes the id of an SAE, such as 'run2', and got None")
        _check_sae_id(sae_id)
        device = next(self.model.parameters()).device
        sae = _load_sae(self.release, sae_id).to(device, self.sae.W_dec.dtype)
        part = left_out(self.model)
        if part is not None and blocks_needed(sae) > part.n_blocks_held:
            part.refuse()
        _check_width(self.model, sae)
        warn_of_other_hook(self.release, str(sae_id), sae)
        warn_of_other_training(self.sae, sae)
        return replace(self, sae=sae, sae_id=str(sae_id), hook=hook_of(sae))

    def labels(self) -> dict[str, Bool[Tensor, "batch pos"]]:
        """True labels of the bundled text by name, such as ``comment``.

        Raises:
            ValueError: for any other text.
        """
        n_rows = len(self.tokens)
        if self.release is not None:
            bundled, labels = _bundled_labels(self.release.name)
            if labels and torch.equal(bundled[:n_rows], self.tokens.cpu()):
                return {name: values[:n_rows] for name, values in labels.items()}
        raise ValueError(
            "labels exist for a mini's bundled text only, from its first row on; "
            "load a mini without text= or seed="
        )

    def recorded_scan(self) -> FeatureScan:
        """The scan of about 10^6 tokens that the mini's builder made: counts and histograms.

        Raises:
            ValueError: if none was recorded for this SAE, or if it was changed since it was
                loaded, or has another dtype; then scan it yourself.
        """
        if self.release is not None and self.sae_id is not None:
            path = DATA / self.release.name / "scans" / scan_file(self.sae_id)
            if path.exists():
                recorded = FeatureScan.load(path)
                if recorded.is_of(self.sae, self.hook):
                    return recorded
                raise ValueError(
                    "the recorded scan is of the SAE as it is stored, in float32, and this one's "
                    "weights, dtype or settings differ; make one with scan(model, sae, tokens)"
                )
        raise ValueError(
            "no scan was recorded for this SAE; make one with scan(model, sae, tokens)"
        )

    def subject_feature(self) -> int:
        """The feature that is about the release's subject: a published one, or one found here.

        Where none was published for this SAE, the words of the subject choose it, by their one
        passage: a guess that is still to be tested.

        Raises:
            ValueError: if the release has no subject, or no feature tells its words apart.
        """
        release = self.release
        if release is None or release.subject is None:
            raise ValueError(
                "this workbook has no subject, such as cats; choose a feature yourself"
            )
        if release.feature is not None and self.sae_id == release.sae().id:
            return release.feature
        return feature_of(self.model, self.sae, release.subject)

    def _layers(self) -> str:
        part = left_out(self.model)
        if part is None:
            return f"{self.model.cfg.n_layers} layers"
        return f'{part.n_blocks_held} of {part.n_blocks} layers (depth="{part.depth}")'

    def __repr__(self) -> str:
        title = "own parts"
        if self.release:
            title = f"{self.release.name} {self.sae_id or ''}".strip()
        cfg = self.model.cfg
        d_in, d_sae = input_width(self.sae), self.sae.W_dec.shape[0]
        dtype = str(self.sae.W_dec.dtype).removeprefix("torch.")
        model_class = type(self.model).__name__
        n_rows, row_length = self.tokens.shape
        n_tokens = self.tokens.numel()
        lines = [
            f"Workbook {title}",
            f"  model      {model_class}: {self._layers()}, "
            f"d_model {cfg.d_model}, d_vocab {cfg.d_vocab}",
            f"  sae        {d_in} to {d_sae} features at {self.hook}, {dtype}",
            f"  tokens     {n_rows} rows of {row_length} ({n_tokens:,} tokens)",
        ]
        if self.release:
            sources: dict[str, object] = dict(self.release.repositories)
            if self.sae_id and self.release.find(self.sae_id) is None:
                sources["sae"] = f"{self.sae_id} (on this machine)"
            for part, source in sources.items():
                lines.append(f"  {part:10} {source}")
        return "\n".join(lines)


@checked
def load(
    name: str,
    sae_id: str | int | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    n_tokens: int | None = None,
    text: str | Sequence[str] | None = None,
    seed: int = 0,
    check: bool = True,
    depth: str = "full",
    force: bool = False,
) -> Workbook:
    """Load a release: model, SAE, tokenizer and text.

    Args:
        name: one of ``releases()``, or any release of sae_lens.
        sae_id: such as ``run1``, or, for gelu-1l, a checkpoint's number; the release's first by
            default. Or the path of an SAE on this machine, for the release's model.
        device: where to run; by default a GPU if there is one that is large enough.
        dtype: of model and SAE, such as ``"bfloat16"``; float32 by default.
        n_tokens: take only the first rows that hold so many tokens; all by default.
        text: your own text instead of the release's: one string, or a list of documents.
        seed: 0 keeps the corpus's own order of rows; another draws the rows in another order.
        check: run one batch, and warn if mean L0 is off threefold from the published one, or the
            variance explained (conventional, without BOS) is below 0.5.
        depth: ``"hook"`` downloads and holds the embedding and the blocks up to the SAE's hook
            only. Activations and features are those of the whole model, bit by bit; what needs
            logits says that they are not there. They are kept beside the Hub's cache, in a folder
            ``saework``. ``"text"`` downloads and holds of the embedding only the rows of this
            text's tokens; any other token raises a ``HookError``. ``"full"`` loads all.
        force: where disk or memory is too small, warn, and go ahead anyway.

    Raises:
        UnknownNameError: for a name or id that does not exist.
        WeightsError: for damaged files, or those of another model.
        HookError: for an SAE of another model.
        NotAvailableError: without network, disk, memory or access; or with ``depth="hook"`` for a
            model that cannot be loaded in part.
        ValueError: for arguments that cannot be used.

    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> book.tokens.shape, book.sae.W_dec.shape, book.hook
    (torch.Size([16, 128]), torch.Size([4096, 512]), 'blocks.0.mlp.hook_post')
    """
    asked = None if device is None else as_device(device)
    if asked is not None:
        check_is_here(asked)
    dtype = as_dtype(dtype)
    if n_tokens is not None:
        n_tokens = check_positive(n_tokens, "n_tokens")
    _check_sae_id(sae_id)
    own_texts = None if text is None else own_documents(text)
    with no_programs_started():
        import sae_lens  # noqa: F401, its first import would start git for a version
    release = release_named(name)
    check_depth(depth, release)
    local = _is_local(release, sae_id)
    if not local:
        sae_id = release.sae(sae_id).id
    sae_id = str(sae_id)
    device = asked or as_device(None)
    if not release.offline:
        plan = plan_of_load(
            release, sae_id, local=local, device=asked, dtype=dtype, depth=depth, force=force
        )
        device = torch.device(plan.device)
    # The small and the doubtful parts come first: a closed gate, or no corpus, costs no download.
    tokenizer = load_tokenizer(release)
    sae = _load_sae(release, sae_id).to(device, dtype)
    warn_of_other_hook(release, sae_id, sae)
    table = release
    release = with_own_model(release, sae_id, sae)
    if release is not table:
        tokenizer = load_tokenizer(release)
    tokens, release = _load_text(release, sae, tokenizer, own_texts, n_tokens)
    if seed:
        tokens = corpus.shuffled(tokens, seed=seed)
    if n_tokens is not None:
        n_rows = math.ceil(n_tokens / tokens.shape[1])
        tokens = tokens[:n_rows]
    model = load_model(
        release, sae, tokenizer, tokens, device=device, dtype=dtype, depth=depth, force=force
    )
    _check_width(model, sae)
    workbook = Workbook(model, sae, tokens, tokenizer, hook_of(sae), release, sae_id)
    if check:
        published = release.find(sae_id)
        published_l0 = published.l0 if published else None
        self_check(workbook, published_l0=published_l0)
    return workbook


def load_tokenizer(release: Release) -> Any:
    """The release's tokenizer."""
    repository = release.repositories["tokenizer"]
    folder = repository.fetch_folder(TOKENIZER_FILES, also=OPTIONAL_TOKENIZER_FILES)
    return read_tokenizer(folder)


def _check_sae_id(sae_id: Any) -> None:
    """Raises: ValueError for what is neither a name, nor a checkpoint's number, nor a path."""
    is_name = isinstance(sae_id, (str, Path)) and "\0" not in str(sae_id)
    if not (sae_id is None or is_name or is_whole(sae_id)):
        raise ValueError(
            f"sae_id is {in_words(sae_id)}; give the id of an SAE, such as 'run2', or a path"
        )


def _is_local(release: Release, sae_id: str | int | None) -> bool:
    """Whether an SAE is given by a path; the release's own ids come first."""
    if sae_id is None:
        return False
    path = str(sae_id)
    # an empty path would be the current folder
    return bool(path.strip()) and release.find(path) is None and Path(path).exists()


def _load_sae(release: Release, sae_id: str | int) -> Any:
    """An SAE of the release, or of this machine, on the CPU."""
    if _is_local(release, sae_id):
        default = release.sae()
        # A file of Neel Nanda's layout does not say its hook, so it gets the release's.
        hook = default.hook if default.layout is NEEL else None
        return read_sae(str(sae_id), hook=hook)
    listed = release.sae(sae_id)
    repository = release.repositories["sae"]
    paths = repository.fetch_all(listed.files)
    return listed.layout.read(paths, hook=listed.hook, scale=listed.scale)


def _load_text(
    release: Release,
    sae: SparseAutoencoder,
    tokenizer: Tokenizer,
    own_texts: list[str] | None,
    n_tokens: int | None,
) -> tuple[Int[Tensor, "batch pos"], Release]:
    """Rows of tokens, and the release with the repository that they came from."""
    row_length, prepend_bos = rows_of_training(sae, release)
    request = TextRequest(
        release=release.name,
        tokenizer=tokenizer,
        repository=release.repositories["text"],
        row_length=row_length,
        corpus=sae_metadata(sae, "dataset_path") or release.corpus,
        n_tokens=n_tokens,
        own_texts=own_texts,
        prepend_bos=prepend_bos,
    )
    tokens, source = release.text(request)
    repositories = {**release.repositories, "text": source}
    return tokens, replace(release, repositories=repositories)


def _check_width(model: HookedModel, sae: SparseAutoencoder) -> None:
    """Refuse an SAE whose width is not that of its hook, where the hook's width is known."""
    hook = site_of(model, sae).reads
    d_in = width = input_width(sae)
    if "resid" in hook:
        width = model.cfg.d_model
    elif "mlp.hook_post" in hook:
        width = model.cfg.d_mlp
    if width != d_in:
        raise HookError(
            f"{hook} is {width} wide, but this SAE reads {d_in}: it belongs to another model"
        )


@lru_cache(maxsize=1)
def _bundled_labels(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The rows of a mini's text that labels exist for, and the labels; empty if there are none."""
    from safetensors.torch import load_file

    path = DATA / name / "text" / "labels.safetensors"
    if not path.exists():
        return torch.empty(0), {}
    stored = load_file(path)
    tokens = stored.pop("tokens").long()
    labels = {name: values.bool() for name, values in stored.items()}
    return tokens, labels
