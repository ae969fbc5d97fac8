"""What the package needs of an SAE, a model, a tokenizer and a workbook, whatever their class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from saework.core.errors import HookError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from torch.nn import Parameter


class SparseAutoencoder(Protocol):
    """A ``sae_lens.SAE``, or your own object with these four."""

    W_enc: Float[Tensor, "d_in d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]

    def encode(self, x: Float[Tensor, "*batch d_in"], /) -> Float[Tensor, "*batch d_sae"]:
        """Activations to features."""

    def decode(self, features: Float[Tensor, "*batch d_sae"], /) -> Float[Tensor, "*batch d_in"]:
        """Features to activations."""


class Tokenizer(Protocol):
    """A tokenizer of Hugging Face's transformers."""

    bos_token_id: int | None
    eos_token: str | None

    def __call__(self, text: Any, **options: Any) -> Mapping[str, Any]:
        """Text to ids."""

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Ids to text."""


class HookedModel(Protocol):
    """A TransformerLens model: ``HookedTransformer`` or ``TransformerBridge``."""

    cfg: Any
    tokenizer: Any
    blocks: Any
    hook_dict: Mapping[str, Any]
    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"]
    W_out: Float[Tensor, "layer d_mlp d_model"]

    def __call__(self, tokens: Int[Tensor, "batch pos"], **options: Any) -> Any:
        """Tokens to logits."""

    def hooks(self, *, fwd_hooks: list[tuple[str, Callable]]) -> AbstractContextManager:
        """Run with functions at hooks."""

    def to_tokens(self, text: str, **options: Any) -> Int[Tensor, "batch pos"]:
        """Text to tokens."""

    def parameters(self) -> Iterator[Parameter]:
        """All weights."""


@runtime_checkable
class WorkbookParts(Protocol):
    """What a ``Workbook`` brings to an analysis."""

    @property
    def model(self) -> HookedModel:
        """The model."""

    @property
    def sae(self) -> SparseAutoencoder:
        """The SAE."""

    @property
    def tokens(self) -> Int[Tensor, "batch pos"]:
        """The rows of text."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    @property
    def hook(self) -> str:
        """The hook of the SAE."""


def sae_metadata(sae: SparseAutoencoder, name: str) -> Any:
    """What the SAE's config says of its training, such as ``dataset_path``; None if it says nothing."""
    metadata = getattr(getattr(sae, "cfg", None), "metadata", None)
    return getattr(metadata, name, None)


def sae_architecture(sae: SparseAutoencoder) -> str | None:
    """The name that sae_lens gives the SAE's architecture, such as ``jumprelu``, or None."""
    config = getattr(sae, "cfg", None)
    return config.architecture() if hasattr(config, "architecture") else None


def hook_of(sae: SparseAutoencoder, hook: str | None = None) -> str:
    """The hook to use: the one given, or else the SAE's own.

    Raises: HookError if none is given and the SAE names none.
    """
    own = sae_metadata(sae, "hook_name")
    if hook or own:
        return hook or own
    raise HookError(
        "this SAE does not say which hook it belongs to; give hook=, such as 'blocks.0.mlp.hook_post'"
    )
