"""Steering: add a feature's direction while the model writes, and measure how much that changed.

A steering result must show what the edit was, where it was made, and on which positions. So the
edit is one short function (``steering_edit``), generation counts the positions that each hook saw,
and the settings are printed with the texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from saework.analysis.steering_edit import MODES, SITES, steering_hooks
from saework.core.arguments import accepts_workbook, check_feature, check_positive
from saework.core.formulas import kl_divergence, repetition
from saework.core.protocols import HookedModel, SparseAutoencoder, hook_of
from saework.core.tokens import SPACE, visible
from saework.engine.forward import UNEMBED_INPUT, activations, as_tokens, sae_input
from saework.engine.generation import generate
from saework.engine.left_out import check_has_logits
from saework.engine.losses import next_token_logits
from saework.engine.one_thread import hooked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from saework.core.protocols import Hook

__all__ = ["MODES", "SITES", "Steering", "generate", "steer", "steering_hooks"]

KL_CHUNK = 32  # positions whose logits exist at one time


@dataclass(frozen=True, eq=False)
class Steering:
    """One prompt continued twice: untouched, and with an edit at an SAE's hook."""

    prompt: str
    """The prompt as it was run, decoded, special tokens (BOS) included."""
    unsteered: str
    """The untouched model's continuation, without the prompt; special tokens are visible."""
    steered: str
    """The edited model's continuation, likewise."""
    tokens: Int[Tensor, " pos"]
    """Prompt and steered continuation, on the CPU. The last token is the end-of-text token if it
    was reached."""
    unsteered_tokens: Int[Tensor, " pos"]
    """Prompt and unsteered continuation; of another length if one of the two ended early."""
    kl: float
    """KL(unsteered || steered), nats per token: the mean of ``kl_by_position``. Compare features
    at the same KL."""
    kl_by_position: Float[Tensor, " new"]
    """One value for each token of the unsteered continuation: how far the edit moves the
    distribution that predicted it. Both models read the unsteered text."""
    repetition: float
    """Of the steered continuation: the share of its token trigrams that had occurred in it before;
    NaN below three tokens."""
    unsteered_repetition: float
    """Of the unsteered continuation."""
    feature: int
    """The feature's number."""
    strength: float
    """What the direction was multiplied with (``add``), or the activation that the feature was set
    to (``clamp``)."""
    mode: str
    """``add`` or ``clamp``."""
    error_term: bool
    """Whether what the SAE does not reconstruct was kept."""
    site: str
    """``corrected``, or ``published`` (which skips a layer)."""
    direction: str
    """``feature``, ``random (seed 0)`` or ``given``."""
    hook: str
    """Where the activations were read."""

    def __repr__(self) -> str:
        error_term = "kept" if self.error_term else "dropped"
        return (
            f"Steering(feature {self.feature}, {self.mode} {self.strength:g}, "
            f"{self.direction} direction, error term {error_term}, "
            f"{self.site} site, {self.hook})\n"
            f"prompt:     {_one_line(self.prompt)}\n"
            f"unsteered:  {_one_line(self.unsteered)}\n"
            f"steered:    {_one_line(self.steered)}\n"
            f"KL(unsteered || steered): {self.kl:.3g} nats per token "
            f"over {len(self.kl_by_position)} tokens; "
            f"repeated trigrams: {self.unsteered_repetition:.0%} unsteered, "
            f"{self.repetition:.0%} steered"
        )


def _one_line(text: str) -> str:
    """Text without control characters or line breaks, its spaces as they are."""
    return visible(text).replace(SPACE, " ")


@accepts_workbook
@torch.no_grad()
def steer(
    model: HookedModel,
    sae: SparseAutoencoder,
    prompt: str | Sequence[int] | Int[Tensor, "*one pos"],
    feature: int,
    *,
    strength: float,
    mode: str = "add",
    error_term: bool = True,
    site: str = "corrected",
    direction: str | Float[Tensor, " d_in"] | None = None,
    max_new_tokens: int = 50,
    hook: str | None = None,
    seed: int = 0,
) -> Steering:
    """Continue a prompt, untouched and with one feature pushed, and measure the difference.

    Both continuations are greedy. The edit is made on every position: BOS, prompt and
    continuation.

    Memory: the key-value cache, and twice 32 positions of float64 logits (130 MB for Llama's
    vocabulary); the SAE's features of the prompt where the edit needs them.
    Time: two generations with the cache, and two forward passes over the unsteered text.

    Args:
        model: the model, or a Workbook alone in place of model and sae.
        sae: the SAE.
        prompt: text (BOS is put in front), or tokens ``[pos]`` or ``[1, pos]``, taken as they are
            (``chat_tokens``).
        feature: the feature's number.
        strength: how much of the direction, in units of the SAE's activations; like ``mode``,
            ``error_term``, ``site``, ``direction``, ``hook`` and ``seed`` explained in
            ``steering_hooks``.
        mode: ``"add"`` or ``"clamp"``.
        error_term: whether to keep what the SAE does not reconstruct.
        site: ``"corrected"`` or ``"published"``.
        direction: None (the feature's own), ``"random"`` or a tensor.
        max_new_tokens: the continuation's length at most. It ends early at the tokenizer's
            end-of-text token.
        hook: the SAE's own by default.
        seed: of the random direction.

    Raises:
        ValueError: for an argument that does not fit, more than one prompt, or a text longer than
            the model's context.
        HookError: if the hook does not fit the model or the SAE, or misses a position.

    >>> from saework import load
    >>> book = load("gelu-1l-mini", n_tokens=2048, check=False)
    >>> steer(book, "def f(x):", 985, strength=10, max_new_tokens=4)
    Steering(feature 985, add 10, feature direction, error term kept, corrected site, ...)
    prompt:     <|BOS|>def f(x):
    unsteered:  ...
    steered:    ...
    KL(unsteered || steered): ... nats per token over 4 tokens; ...
    """
    if isinstance(prompt, str) and not prompt:
        raise ValueError("the prompt is empty; give text, or the BOS token as tokens")
    check_has_logits(model)
    feature = check_feature(feature, sae.W_dec.shape[0])
    hook = hook_of(sae, hook)
    hooks = steering_hooks(
        model,
        sae,
        feature,
        strength=strength,
        mode=mode,
        error_term=error_term,
        site=site,
        direction=direction,
        hook=hook,
        seed=seed,
    )
    tokens = _one_prompt(model, sae, prompt, max_new_tokens)
    sae_input(model, sae, tokens, hook)  # width and finiteness, before the long run
    unsteered = generate(model, tokens, [], max_new_tokens=max_new_tokens)
    steered = generate(model, tokens, hooks, max_new_tokens=max_new_tokens)
    n_prompt = tokens.shape[1]
    kl = _kl_on(model, unsteered, hooks, n_prompt)
    return Steering(
        prompt=_decode(model, tokens[0]),
        unsteered=_decode(model, unsteered[n_prompt:]),
        steered=_decode(model, steered[n_prompt:]),
        tokens=steered,
        unsteered_tokens=unsteered,
        kl=kl.mean().item(),
        kl_by_position=kl.float(),
        repetition=repetition(steered[n_prompt:]),
        unsteered_repetition=repetition(unsteered[n_prompt:]),
        feature=feature,
        strength=float(strength),
        mode=mode,
        error_term=error_term,
        site=site,
        direction=_direction_name(direction, seed),
        hook=hook,
    )


def _direction_name(direction: Any, seed: int) -> str:
    if direction is None:
        return "feature"
    return f"random (seed {seed})" if isinstance(direction, str) else "given"


def _one_prompt(
    model: HookedModel, sae: SparseAutoencoder, prompt: Any, max_new_tokens: int
) -> Tensor:
    """The prompt as long ``[1, pos]``, if it and the continuation fit in the model's context."""
    check_positive(max_new_tokens, "max_new_tokens")
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            "this model has no tokenizer, so its text cannot be read; set model.tokenizer"
        )
    tokens = as_tokens(model, prompt, sae)
    n_rows, n_pos = tokens.shape
    if n_rows != 1:
        raise ValueError(
            f"{n_rows} rows were given; give one prompt: text, or tokens [pos] or [1, pos]"
        )
    _check_padding(model.tokenizer, tokens[0].tolist())
    n_left = model.cfg.n_ctx - n_pos
    if max_new_tokens > n_left:
        advice = "shorten the prompt"
        if n_left > 0:
            advice = f"give max_new_tokens={n_left} or less, or a shorter prompt"
        raise ValueError(
            f"the prompt has {n_pos} tokens and the model's context is {model.cfg.n_ctx}, "
            f"so {max_new_tokens} new tokens do not fit, only {n_left}; {advice}"
        )
    return tokens


def _check_padding(tokenizer: Any, prompt: list[int]) -> None:
    """Raises ValueError for a prompt that starts or ends with a padding token of its own kind."""
    pad = tokenizer.pad_token_id
    if pad is None or pad in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return
    if pad in (prompt[0], prompt[-1]):
        raise ValueError(
            f"the prompt starts or ends with padding (token {pad}), which some models' generate() "
            "hides; leave it out"
        )


def _kl_on(model: HookedModel, text: Tensor, hooks: list[Hook], n_prompt: int) -> Tensor:
    """KL(untouched || edited) where ``text`` predicted its continuation, float64 ``[new]``."""
    read = text[None, :-1]
    first = n_prompt - 1  # the prompt's last token predicts the first new one
    plain = activations(model, read, UNEMBED_INPUT)[0, first:]
    with hooked(model, hooks):
        edited = activations(model, read, UNEMBED_INPUT)[0, first:]
    parts = []
    for plain_part, edited_part in zip(plain.split(KL_CHUNK), edited.split(KL_CHUNK)):
        plain_logits = next_token_logits(model, plain_part)
        edited_logits = next_token_logits(model, edited_part)
        parts.append(kl_divergence(plain_logits, edited_logits))
    return torch.cat(parts)


def _decode(model: HookedModel, tokens: Tensor) -> str:
    return model.tokenizer.decode(
        tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
