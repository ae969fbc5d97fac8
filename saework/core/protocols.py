"""What the package needs of an SAE, a model, a tokenizer and a workbook, whatever their class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from saework.core.errors import HookError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor
    from torch.nn import Parameter

# A hook's name and the function to call there: TransformerLens's own type.
Hook: TypeAlias = "tuple[str | Callable[..., Any], Callable[..., Any]]"


class SparseAutoencoder(Protocol):
    """A ``sae_lens.SAE``, or your own object with these four."""

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        """Encoder weights."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:
        """Decoder weights."""

    def encode(self, x: Float[Tensor, "*batch d_in"], /) -> Float[Tensor, "*batch d_sae"]:
        """Activations to features."""

    def decode(self, features: Float[Tensor, "*batch d_sae"], /) -> Float[Tensor, "*batch d_in"]:
        """Features to activations."""


class Tokenizer(Protocol):
    """A tokenizer of Hugging Face transformers, whose own types are wide (``str | list[str]``)."""

    @property
    def bos_token_id(self) -> Any:
        """Id of the token that begins a row; None if there is none."""

    @property
    def eos_token_id(self) -> Any:
        """Id of the token that ends a text; None if there is none."""

    @property
    def pad_token_id(self) -> Any:
        """Id of the token that fills a row; None if there is none."""

    @property
    def eos_token(self) -> Any:
        """Text of the token that ends a text."""

    def __len__(self) -> int:
        """Number of token ids."""

    def __call__(self, text: Any, **options: Any) -> Any:
        """Text to ids, by name: ``input_ids``."""

    def decode(self, token_ids: Any, **options: Any) -> Any:
        """Ids to text."""

    def batch_decode(self, sequences: Any, **options: Any) -> Any:
        """Several rows of ids to texts."""

    def convert_ids_to_tokens(self, ids: Any, /) -> Any:
        """Ids to the vocabulary's own spelling."""

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Messages to the ids of a conversation."""


class HookedModel(Protocol):
    """A TransformerLens model: ``HookedTransformer`` or ``TransformerBridge``."""

    # The two classes have configs, tokenizers and blocks of different types.
    cfg: Any
    tokenizer: Any
    blocks: Any

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """The hook points by name."""

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding's weights."""

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """The unembedding's bias."""

    def __call__(self, tokens: Int[Tensor, "batch pos"], /, **options: Any) -> Any:
        """Tokens to logits."""

    def hooks(self, *, fwd_hooks: list[Hook]) -> AbstractContextManager[Any]:
        """Run with functions at hooks."""

    def to_tokens(
        self, text: str, /, *, prepend_bos: bool, truncate: bool
    ) -> Int[Tensor, "batch pos"]:
        """Text to tokens."""

    def generate(self, tokens: Any, /, *args: Any, **options: Any) -> Any:
        """Tokens to a continuation."""

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
    """What the SAE's config records of its training, such as ``dataset_path``.

    Returns:
        None if the SAE has no config, or the config does not record it.
    """
    config = getattr(sae, "cfg", None)
    metadata = getattr(config, "metadata", None)
    return getattr(metadata, name, None)


def sae_architecture(sae: SparseAutoencoder) -> str | None:
    """The name that sae_lens gives the SAE's architecture, such as ``jumprelu``.

    Returns:
        None for an SAE that is not sae_lens's.
    """
    config: Any = getattr(sae, "cfg", None)
    return config.architecture() if hasattr(config, "architecture") else None


def hook_of(sae: SparseAutoencoder, hook: str | None = None) -> str:
    """The hook to use: the given one, or else the SAE's own.

    Raises:
        HookError: none is given, and the SAE does not name one.
    """
    chosen = hook or sae_metadata(sae, "hook_name")
    if chosen:
        return chosen
    raise HookError(
        "this SAE does not say which hook it belongs to; "
        "give hook=, such as 'blocks.0.mlp.hook_post'"
    )
