"""The field's known mistakes in loading an SAE, made on purpose: would published numbers show them?

Each one changes a copy. Where it changes nothing by its nature, it says why.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from saework.core.protocols import SparseAutoencoder, hook_of
from saework.engine.architectures import is_transcoder, unchanged
from saework.engine.forward import sae_input

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

RUN_TIME_SCALING = ("layer_norm", "constant_norm_rescale", "constant_scalar_rescale")
"""sae_lens's settings that rescale each input when the SAE runs."""
WEIGHTS = (
    "W_enc",
    "W_dec",
    "W_skip",
    "b_enc",
    "b_dec",
    "b_gate",
    "b_mag",
    "r_mag",
    "threshold",
)
"""sae_lens's names of an SAE's weights."""
ROWS_LOOKED_AT = 4
"""On which it is seen whether a mistake changes anything."""
_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|mid|post)")
_NORMALIZED = re.compile(r"(blocks\.\d+\.ln\d(?:_post)?|ln_final)\.hook_normalized")


@dataclass(frozen=True)
class Loaded:
    """What a loader hands over."""

    model: HookedModel
    sae: Any
    tokens: Int[Tensor, "batch pos"]
    hook: str

    def with_sae(self, change: Callable[[Any], None]) -> Loaded:
        """The same with a changed copy of the SAE."""
        sae = copy.deepcopy(self.sae)
        with torch.no_grad():
            change(sae)
        return dataclasses.replace(self, sae=sae)


@dataclass(frozen=True)
class Mistake:
    """One mistake."""

    name: str
    source: str
    """Who made it, or where its cause is."""
    make: Callable[[Loaded], Loaded | str]
    """The mutated load; or why the mistake cannot be made here."""

    def of(self, loaded: Loaded) -> Loaded | str:
        """The mutated load; or why the mistake cannot be made here, or changes nothing."""
        mutated = self.make(loaded)
        if isinstance(mutated, str) or mutated.hook != loaded.hook:
            return mutated
        if mutated.tokens is loaded.tokens and _same(loaded, mutated):
            return "it changes nothing here"
        return mutated


@torch.no_grad()
def _same(loaded: Loaded, mutated: Loaded) -> bool:
    """Whether features and reconstructions of the first rows are equal to the last bit."""
    tokens = loaded.tokens[:ROWS_LOOKED_AT]
    x = sae_input(loaded.model, loaded.sae, tokens, loaded.hook).flatten(2)
    before, after = (_results(sae, x) for sae in (loaded.sae, mutated.sae))
    return all(torch.equal(a, b) for a, b in zip(before, after))


def _results(sae: Any, x: Tensor) -> list[Tensor]:
    with unchanged(sae):
        features = sae.encode(x)
        results = [features, sae.decode(features)]
    skip = getattr(sae, "W_skip", None)
    return results if skip is None else [*results, skip]


def _toggle_b_dec(loaded: Loaded) -> Loaded | str:
    sae = loaded.sae
    if not sae.b_dec.any():
        return "b_dec is zero"
    if not is_transcoder(sae) and hasattr(getattr(sae, "cfg", None), "apply_b_dec_to_input"):

        def toggle(sae: Any) -> None:
            sae.cfg.apply_b_dec_to_input = not sae.cfg.apply_b_dec_to_input

        return loaded.with_sae(toggle)
    # without a setting, which a transcoder does not obey, it is subtracted in the encoder's bias
    if len(sae.b_dec) != len(sae.W_enc) or not hasattr(sae, "b_enc"):
        return "b_dec has another width than the input, so its shape would show it"

    def subtract(sae: Any) -> None:
        sae.b_enc.sub_(sae.b_dec @ sae.W_enc)

    return loaded.with_sae(subtract)


def _scale_threshold(loaded: Loaded) -> Loaded | str:
    if getattr(loaded.sae, "threshold", None) is None:
        return "the SAE has no threshold"
    scale = _input_scale(loaded)

    def change(sae: Any) -> None:
        sae.threshold.mul_(scale)

    return loaded.with_sae(change)


def _leave_out_selection(loaded: Loaded) -> Loaded | str:
    """Plain ReLU in place of a threshold, or of TopK."""
    has_threshold = getattr(loaded.sae, "threshold", None) is not None
    selects = hasattr(getattr(loaded.sae, "activation_fn", None), "k")
    if not has_threshold and not selects:
        return "the SAE is a ReLU already, or selects otherwise"

    def change(sae: Any) -> None:
        if has_threshold:
            sae.threshold.zero_()
        else:
            sae.activation_fn = torch.nn.ReLU()

    return loaded.with_sae(change)


def _transpose_skip(loaded: Loaded) -> Loaded | str:
    skip = getattr(loaded.sae, "W_skip", None)
    if skip is None:
        return "the SAE has no skip connection"
    if skip.shape[0] != skip.shape[1]:
        return f"W_skip is {skip.shape[0]} x {skip.shape[1]}, so its shape would show it"

    def change(sae: Any) -> None:
        sae.W_skip.copy_(sae.W_skip.T.clone())

    return loaded.with_sae(change)


def _unfold_scale(loaded: Loaded) -> Loaded | str:
    """The input's scale left out: in the setting if it is there, otherwise in the weights."""
    config = getattr(loaded.sae, "cfg", None)
    if getattr(config, "normalize_activations", "none") in RUN_TIME_SCALING:

        def change(sae: Any) -> None:
            sae.cfg.normalize_activations = "none"
            for name in ("run_time_activation_norm_fn_in", "run_time_activation_norm_fn_out"):
                if hasattr(sae, name):
                    setattr(sae, name, _unscaled)

        return loaded.with_sae(change)
    if getattr(loaded.sae, "W_skip", None) is not None:
        return "the SAE has a skip connection, which the scale leaves alone"
    scale = _input_scale(loaded)

    def unfold(sae: Any) -> None:
        sae.W_enc.div_(scale)
        sae.W_dec.mul_(scale)
        sae.b_dec.mul_(scale)

    return loaded.with_sae(unfold)


def _unscaled(x: Tensor) -> Tensor:
    return x


def _unfold_scale_of_decoder_bias(loaded: Loaded) -> Loaded | str:
    if not loaded.sae.b_dec.any():
        return "b_dec is zero"
    scale = _input_scale(loaded)

    def change(sae: Any) -> None:
        sae.b_dec.mul_(scale)

    return loaded.with_sae(change)


def _input_scale(loaded: Loaded) -> float:
    """What brings the mean norm of the input to ``sqrt(d_in)``, as many trainers do."""
    x = sae_input(loaded.model, loaded.sae, loaded.tokens, loaded.hook).flatten(2)
    return float(x.shape[-1] ** 0.5 / x.norm(dim=-1).mean())


def _other_hook(loaded: Loaded, step: int, place: str) -> Loaded | str:
    match = _RESIDUAL.fullmatch(loaded.hook)
    if match is None:
        return f"{loaded.hook} is no hook of the residual stream"
    block = int(match[1]) + step
    hook = f"blocks.{block}.hook_resid_{place or match[2]}"
    if hook not in loaded.model.hook_dict or hook == loaded.hook:
        return f"there is no other hook {hook}"
    return dataclasses.replace(loaded, hook=hook)


def _leave_out_gain(loaded: Loaded) -> Loaded | str:
    match = _NORMALIZED.fullmatch(loaded.hook)
    if match is None:
        return "the hook is not behind a norm"
    model: Any = loaded.model
    gain = dict(model.named_parameters()).get(f"{match[1]}.w")
    if gain is None or bool((gain == 1).all()):
        return "the norm has no gain of its own, or it is folded into what follows"

    def change(sae: Any) -> None:
        sae.W_enc.mul_(gain[:, None])

    return loaded.with_sae(change)


def _transpose_decoder(loaded: Loaded) -> Loaded | str:
    def change(sae: Any) -> None:
        sae.W_dec.copy_(sae.W_dec.T.reshape(sae.W_dec.shape).clone())

    return loaded.with_sae(change)


def _round_weights(loaded: Loaded) -> Loaded | str:
    def change(sae: Any) -> None:
        for name in WEIGHTS:
            weight = getattr(sae, name, None)
            if isinstance(weight, torch.Tensor):
                weight.copy_(weight.bfloat16().to(weight.dtype))

    return loaded.with_sae(change)


def _drop_bos(loaded: Loaded) -> Loaded | str:
    bos = getattr(getattr(loaded.model, "tokenizer", None), "bos_token_id", None)
    first = loaded.tokens[:, 0]
    if bos is None or not bool((first == bos).all()):
        return "the rows do not begin with BOS"
    if loaded.tokens.shape[1] < 3:
        return "the rows are too short without it"

    def change(sae: Any) -> None:
        metadata = getattr(getattr(sae, "cfg", None), "metadata", None)
        if metadata is not None:
            metadata.prepend_bos = False  # for measures that begin with text

    return dataclasses.replace(loaded.with_sae(change), tokens=loaded.tokens[:, 1:])


MISTAKES = (
    Mistake(
        "b_dec subtracted, or not",
        "sae_lens, of Gemma Scope's transcoders (SAELens#516); dictionary_learning's (SAELens#645)",
        _toggle_b_dec,
    ),
    Mistake(
        "threshold off by the activation scale",
        "sae_lens, of BatchTopK (SAELens#608)",
        _scale_threshold,
    ),
    Mistake(
        "threshold or TopK left out",
        "sae_lens, of gpt2-small-resid-post-v5-32k (SAELens#553) and SAEBench's (SAELens#308)",
        _leave_out_selection,
    ),
    Mistake(
        "skip connection transposed", "sae_lens, of Gemma Scope 2 (SAELens#763)", _transpose_skip
    ),
    Mistake(
        "input scale not folded", "sae_lens, of unfinished checkpoints (SAELens#381)", _unfold_scale
    ),
    Mistake(
        "input scale not folded into b_dec", "sae_lens (SAELens#354)", _unfold_scale_of_decoder_bias
    ),
    Mistake(
        "the next block's hook",
        "Hugging Face's hidden_states[k + 1] is block k",
        lambda loaded: _other_hook(loaded, 1, ""),
    ),
    Mistake(
        "the block's input",
        "resid_pre for resid_post",
        lambda loaded: _other_hook(loaded, 0, "pre"),
    ),
    Mistake(
        "the norm's gain missing (or extra)",
        "TransformerLens's hook_normalized is before the gain, Hugging Face's output behind it",
        _leave_out_gain,
    ),
    Mistake(
        "decoder stored the other way round",
        "torch.nn.Linear stores [d_in, d_sae], and a reshape in place of a transposition fits",
        _transpose_decoder,
    ),
    Mistake("weights in bfloat16", "many scripts; Neuronpedia's inference", _round_weights),
    Mistake("BOS left out", "Gemma and GPT-2 need one before every row", _drop_bos),
)
"""In the order of the table."""


def loaded_from(
    model: HookedModel, sae: SparseAutoencoder, tokens: Any, hook: str | None
) -> Loaded:
    """What is mutated, with the SAE's own hook by default."""
    return Loaded(model, sae, tokens, hook_of(sae, hook))
