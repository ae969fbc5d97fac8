"""What every published SAE layout does, and what they share: an SAE from tensors, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from saework.core.errors import HookError
from saework.core.protocols import sae_architecture

if TYPE_CHECKING:
    from jaxtyping import Float
    from sae_lens import SAE
    from torch import Tensor


class SaeLayout(ABC):
    """How one publisher stores an SAE."""

    name: str
    """As ``card.json`` of a mini names it."""
    looks_like: str
    """What a user would see on disk, for the error about an unknown file."""

    @abstractmethod
    def files(self, place: str) -> tuple[str, ...]:
        """The files of one SAE, in the order that ``read`` takes them.

        Args:
            place: where the SAE lies in the repository: a number, a folder or a name.
        """

    @abstractmethod
    def find(self, path: Path) -> Sequence[Path]:
        """The files of the SAE at a local path; none if it is not of this layout."""

    def hook_named_by(self, path: Path) -> str | None:
        """The hook that a file's name or folder says; None if it says none."""
        return None

    @abstractmethod
    def read(
        self, paths: Sequence[Path], *, hook: str | None = None, scale: float | None = None
    ) -> SAE[Any]:
        """The SAE of these files, float32, on the CPU, for inference only.

        Args:
            paths: what ``files`` or ``find`` lists, on this machine.
            hook: where the SAE belongs, for layouts whose files do not say.
            scale: the factor that brings activations to the norm that the SAE was trained at.

        Raises:
            WeightsError: for a damaged file, or keys or shapes other than the layout's.
            HookError: if neither ``hook`` nor the files say where it belongs.
        """

    @abstractmethod
    def write(
        self,
        sae: SAE[Any],
        folder: Path,
        place: str,
        *,
        dtype: torch.dtype = torch.float32,
        record: Mapping[str, Any] | None = None,
        firing_rate: Float[Tensor, " d_sae"] | None = None,
    ) -> tuple[str, ...]:
        """Store an SAE; ``read`` gives back the same one.

        Args:
            sae: an SAE of the architecture that the layout holds.
            folder: the repository on this machine; made if it does not exist.
            place: see ``files``.
            dtype: of the stored weights.
            record: what else its config says, such as how it was trained.
            firing_rate: fraction of tokens, for layouts that store it.

        Returns:
            The files below ``folder``, as ``files`` lists them.

        Raises:
            ValueError: for an SAE of an architecture that the layout cannot hold.
        """

    def __repr__(self) -> str:
        return self.name


def sae_shapes(d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    """The tensors that every SAE has, and their shapes."""
    return {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}


def sae_of(
    architecture: str, state: Mapping[str, Tensor], *, hook: str, subtract_b_dec: bool
) -> SAE[Any]:
    """A sae_lens SAE with these weights, for inference only.

    Args:
        architecture: ``standard`` (ReLU) or ``jumprelu``.
        state: ``W_enc``, ``W_dec``, ``b_enc``, ``b_dec``, and ``threshold`` for JumpReLU.
        hook: where it belongs.
        subtract_b_dec: whether ``b_dec`` is subtracted from the input.
    """
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    classes: dict[str, tuple[Any, Any]] = {
        "standard": (StandardSAE, StandardSAEConfig),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig),
    }
    sae_class, config_class = classes[architecture]
    d_in, d_sae = state["W_enc"].shape
    config = config_class(
        d_in=d_in,
        d_sae=d_sae,
        apply_b_dec_to_input=subtract_b_dec,
        normalize_activations="none",
        metadata=SAEMetadata(hook_name=hook),
    )
    # On the meta device nothing is allocated: the weights come from the file.
    with torch.device("meta"):
        sae = sae_class(config)
    sae.load_state_dict(dict(state), assign=True)
    return sae.eval().requires_grad_(False)


def tensors_of(
    sae: SAE[Any], *, architecture: str, subtract_b_dec: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The weights of an SAE, for a layout that holds one kind only: the reverse of ``sae_of``.

    Raises:
        ValueError: if the SAE is of another kind.
    """
    given = sae_architecture(sae)
    subtracts = bool(sae.cfg.apply_b_dec_to_input)
    scaled = sae.cfg.normalize_activations
    if (given, subtracts, scaled) != (architecture, subtract_b_dec, "none"):
        raise ValueError(
            f"this SAE is {given}, with apply_b_dec_to_input {subtracts} and "
            f"normalize_activations {scaled!r}; the layout holds {architecture} SAEs with "
            f"apply_b_dec_to_input {subtract_b_dec} and normalize_activations 'none'. "
            "Store it with sae.save_model(folder), which keeps any SAE"
        )
    return {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in sae.state_dict().items()
    }


def known_hook(hook: str | None, path: Path) -> str:
    """The hook, where one is known.

    Raises:
        HookError: if none is.
    """
    if hook:
        return hook
    raise HookError(
        f"{path} does not say which hook it belongs to; "
        "read it with saework.loading.local_sae.read_sae(path, hook=...)"
    )
