"""Steering: add a feature's direction while the model writes, and say how much that changed.

What has to be proved of a steering result is what the edit was, where it was made and on which
positions; so the edit is one short function, each hook counts the positions that it saw, and the
setting is printed with the texts.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from saework.core.arguments import accepts_workbook, check_feature, check_finite, check_positive
from saework.core.errors import HookError
from saework.core.formulas import kl_divergence, repetition
from saework.core.protocols import hook_of
from saework.core.tokens import SPACE, visible
from saework.engine.encoder import Encoder, encode_columns
from saework.engine.forward import UNEMBED_INPUT, activations, as_tokens, sae_input
from saework.engine.losses import next_token_logits

MODES = ("add", "clamp")
SITES = ("corrected", "published")
KL_CHUNK = 32  # positions whose logits exist at one time

Hooks = list[tuple[str, Callable]]


@dataclass(frozen=True, eq=False)
class Steering:
    """One prompt continued twice, untouched and with an edit at an SAE's hook."""

    prompt: str
    """The prompt as it was run, decoded, special tokens (BOS) included."""
    unsteered: str
    """The untouched model's continuation, without the prompt; special tokens are visible."""
    steered: str
    """The edited model's continuation, likewise."""
    tokens: torch.Tensor
    """Prompt and steered continuation, long ``[pos]``, on the CPU; the last one is the end-of-text token if it was reached."""
    unsteered_tokens: torch.Tensor
    """Prompt and unsteered continuation, likewise; of another length if one of them ended early."""
    kl: float
    """KL(unsteered || steered), nats per token: the mean of ``kl_by_position``. Another feature at the same KL is the fair comparison."""
    kl_by_position: torch.Tensor
    """float32, one value for each token of the unsteered continuation: how far the edit moves the distribution that
    predicted it. Both models read the unsteered text, so no value rests on a text that only one of them wrote."""
    repetition: float
    """Of the steered continuation: the share of its token trigrams that had occurred in it before; NaN below three tokens."""
    unsteered_repetition: float
    """Of the unsteered continuation."""
    feature: int
    """The feature's number."""
    strength: float
    """What the direction was multiplied with (``add``), or the activation that the feature was set to (``clamp``)."""
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
        text = lambda value: visible(value).replace(SPACE, " ")  # noqa: E731 - one line each, no control characters
        return (
            f"Steering(feature {self.feature}, {self.mode} {self.strength:g}, {self.direction} direction, "
            f"error term {'kept' if self.error_term else 'dropped'}, {self.site} site, {self.hook})\n"
            f"prompt:     {text(self.prompt)}\n"
            f"unsteered:  {text(self.unsteered)}\n"
            f"steered:    {text(self.steered)}\n"
            f"KL(unsteered || steered): {self.kl:.3g} nats per token over {len(self.kl_by_position)} tokens; "
            f"repeated trigrams: {self.unsteered_repetition:.0%} unsteered, {self.repetition:.0%} steered"
        )


@accepts_workbook
@torch.no_grad()
def steer(
    model,
    sae,
    prompt,
    feature: int,
    *,
    strength: float,
    mode: str = "add",
    error_term: bool = True,
    site: str = "corrected",
    direction=None,
    max_new_tokens: int = 50,
    hook: str | None = None,
    seed: int = 0,
) -> Steering:
    """Continue a prompt greedily, untouched and with one feature pushed, and measure the difference.

    Args:
        prompt: text (BOS is put in front), or tokens ``[pos]`` or ``[1, pos]``, taken as they are (``chat_tokens``).
        strength, mode, error_term, site, direction, hook, seed: the edit, made on every position (BOS, prompt
            and continuation): see ``steering_hooks``.
        max_new_tokens: the continuation's length at most; it ends early at the tokenizer's end-of-text token.

    Raises: ValueError for an argument that does not fit, more than one prompt, or a text that would pass the
    model's context; HookError if the hook does not fit the model or the SAE, or misses a position.
    Time: two generations with the key-value cache, and two forward passes over the unsteered text.
    Memory: the cache, twice 32 positions of float64 logits (130 MB for Llama's vocabulary), and the SAE's features of the
    prompt where the edit needs them.
    """
    if isinstance(prompt, str) and not prompt:
        raise ValueError("the prompt is empty; give text, or the BOS token as tokens")
    feature, hook = check_feature(feature, sae.W_dec.shape[0]), hook_of(sae, hook)
    edit = dict(
        strength=strength,
        mode=mode,
        error_term=error_term,
        site=site,
        direction=direction,
        hook=hook,
        seed=seed,
    )
    hooks = steering_hooks(model, sae, feature, **edit)
    tokens = _one_prompt(model, prompt, max_new_tokens)
    sae_input(model, sae, tokens, hook)  # width and finiteness, before the long run
    plain = generate(model, tokens, [], max_new_tokens=max_new_tokens)
    pushed = generate(model, tokens, hooks, max_new_tokens=max_new_tokens)
    n_prompt = tokens.shape[1]
    kl = _kl_on(model, plain, hooks, n_prompt)
    return Steering(
        prompt=_decode(model, tokens[0]),
        unsteered=_decode(model, plain[n_prompt:]),
        steered=_decode(model, pushed[n_prompt:]),
        tokens=pushed,
        unsteered_tokens=plain,
        kl=kl.mean().item(),
        kl_by_position=kl.float(),
        repetition=repetition(pushed[n_prompt:]),
        unsteered_repetition=repetition(plain[n_prompt:]),
        feature=feature,
        strength=float(strength),
        mode=mode,
        error_term=error_term,
        site=site,
        direction="given"
        if isinstance(direction, torch.Tensor)
        else f"random (seed {seed})"
        if direction
        else "feature",
        hook=hook,
    )


# ---- the edit ----


def steering_hooks(
    model,
    sae,
    feature: int,
    *,
    strength: float,
    mode: str = "add",
    error_term: bool = True,
    site: str = "corrected",
    direction=None,
    hook: str | None = None,
    seed: int = 0,
) -> Hooks:
    """The edit as hooks for ``model.hooks(fwd_hooks=...)``: ``out = base + delta * direction`` at every position.

    Args:
        strength: ``delta`` in mode ``"add"``; in mode ``"clamp"`` ``delta = strength - activation of the feature``, so that
            the feature is set to ``strength`` (exact for SAEs that do not rescale their input).
        error_term: base is the activations themselves; if False, the SAE's reconstruction of them. With it, strength 0
            in mode add at the corrected site changes nothing, bit for bit.
        site: ``"corrected"`` edits the activations at the hook. ``"published"`` is qresearch's: what was read at a
            layer's input is returned, edited, as that layer's *output*, so that the layer is skipped, even at strength 0.
        direction: None for the feature's own ``W_dec[feature]``; ``"random"`` for a Gaussian one of the same norm, drawn
            on the CPU with ``seed``; or a tensor ``[d_in]``, taken as it is.

    Raises: ValueError for a value that is not allowed; HookError if the published site is asked of a hook that is not a
    layer's input.
    Source: the steering cells of qresearch's notebook for Llama-3.2-1B-Instruct-SAE-l9, 22 Jan 2025.
    """
    feature, hook = check_feature(feature, sae.W_dec.shape[0]), hook_of(sae, hook)
    _check_settings(strength, mode, error_term, site)
    push = _direction(sae, feature, direction, seed).detach()

    def edit(x: torch.Tensor) -> torch.Tensor:
        base, delta = x, torch.full(x.shape[:2], float(strength), device=x.device, dtype=push.dtype)
        if mode == "clamp" or not error_term:
            base = x if error_term else Encoder(sae).reconstruct(x).x_hat
            delta = delta - encode_columns(sae, x, feature).to(delta) if mode == "clamp" else delta
        step = delta[..., None] * push.to(x.device)
        return (base + step.reshape(x.shape)).to(x.dtype)

    if site == "corrected":
        return [(hook, lambda value, hook: edit(value))]
    return _skipping_hooks(model, hook, edit)


def _check_settings(strength, mode, error_term, site) -> None:
    if (
        isinstance(strength, bool)
        or not isinstance(strength, numbers.Real)
        or not math.isfinite(strength)
    ):
        raise ValueError(
            f"strength is {strength!r}; give a finite number, such as 3.0 (in units of the SAE's activations)"
        )
    for name, value, allowed in (
        ("mode", mode, MODES),
        ("site", site, SITES),
        ("error_term", error_term, (True, False)),
    ):
        if not isinstance(value, type(allowed[0])) or value not in allowed:
            raise ValueError(f"{name} is {value!r}; give one of {', '.join(map(repr, allowed))}")


def _direction(sae, feature: int, direction, seed: int) -> torch.Tensor:
    """What one unit of the edit adds, ``[d_in]``, in the SAE's dtype."""
    own = check_finite(sae.W_dec[feature], f"the decoder direction of feature {feature}")
    if direction is None:
        return own
    if isinstance(direction, str) and direction == "random":
        drawn = torch.randn(
            len(own),
            generator=torch.Generator().manual_seed(check_positive(seed, "seed", minimum=0)),
        )
        return (drawn * (own.float().norm().cpu() / drawn.norm())).to(own)
    if not isinstance(direction, torch.Tensor):
        raise ValueError(
            f"direction is {direction!r}; give None (the feature's own), 'random', or a tensor [{len(own)}]"
        )
    if direction.shape != own.shape or not direction.dtype.is_floating_point:
        raise ValueError(
            f"direction is {direction.dtype} of shape {tuple(direction.shape)}; this SAE needs floats of shape ({len(own)},)"
        )
    if not (torch.isfinite(direction).all() and direction.any()):
        raise ValueError(
            "direction is zero everywhere, or not finite, which steers nowhere; give one such as sae.W_dec[feature]"
        )
    return direction.to(own)


def _skipping_hooks(model, hook: str, edit: Callable) -> Hooks:
    """Read at a layer's input, and write the edited input as that layer's output."""
    layer = _layer_after(hook)
    if layer is None or layer >= model.cfg.n_layers:
        raise HookError(
            f"{hook} is not the input of one of this model's {model.cfg.n_layers} layers, so site='published' has no layer to skip; "
            "give site='corrected', or hook='blocks.L.hook_resid_pre'"
        )
    out = next(
        name
        for name in (f"blocks.{layer}.hook_out", f"blocks.{layer}.hook_resid_post")
        if name in model.hook_dict
    )
    held = []

    def read(value, hook):
        held.append(edit(value))

    def write(value, hook):
        return (
            held.pop() if held else None
        )  # a reading hook that never fired is reported by generate()

    return [(hook, read), (out, write)]


def _layer_after(hook: str) -> int | None:
    match = re.fullmatch(r"blocks\.(\d+)\.(hook_resid_pre|hook_in|hook_resid_post|hook_out)", hook)
    if match is None:
        return None
    return int(match[1]) + (match[2] in ("hook_resid_post", "hook_out"))


# ---- running it ----


@torch.no_grad()
def generate(
    model, tokens: torch.Tensor, fwd_hooks: Hooks, *, max_new_tokens: int, cache: bool = True
) -> torch.Tensor:
    """The prompt and its greedy continuation under hooks, long ``[pos]`` on the CPU.

    Args:
        tokens: the prompt, ``[1, pos]``.
        cache: with the key-value cache each step runs (and edits) the new token only; without it, all tokens again.

    Raises: HookError if a hook did not see each position as often as the model ran it.
    """
    seen = [0] * len(fwd_hooks)

    def counting(i: int, function: Callable) -> Callable:
        def call(value, hook):
            seen[i] += value.shape[1]
            return function(value, hook=hook)

        return call

    eos = model.tokenizer.eos_token_id
    counted = [(name, counting(i, function)) for i, (name, function) in enumerate(fwd_hooks)]
    with model.hooks(fwd_hooks=counted):
        out = model.generate(
            tokens,
            max_new_tokens=max_new_tokens,
            stop_at_eos=eos is not None,
            eos_token_id=eos,  # a bridge would otherwise take the model config's
            do_sample=False,
            use_past_kv_cache=cache,
            return_type="tokens",
            verbose=False,
        )
    n_prompt, n_new = tokens.shape[1], out.shape[1] - tokens.shape[1]
    run = (
        n_prompt + n_new - 1 if cache else sum(range(n_prompt, n_prompt + n_new))
    )  # the last token is not read again
    for (name, _), count in zip(fwd_hooks, seen):
        if count != run:
            raise HookError(
                f"hook {name!r} saw {count} positions where generation ran {run}, so the edit is not on all of them; "
                "use a residual-stream or MLP hook such as blocks.0.hook_resid_pre"
            )
    return out[0].cpu().clone()  # HookedTransformer returns an inference tensor


def _one_prompt(model, prompt, max_new_tokens: int) -> torch.Tensor:
    """The prompt as long ``[1, pos]``, if it and the continuation fit in the model's context."""
    check_positive(max_new_tokens, "max_new_tokens")
    if getattr(model, "tokenizer", None) is None:
        raise ValueError(
            "this model has no tokenizer, so its text cannot be read; set model.tokenizer"
        )
    tokens = as_tokens(model, prompt)
    if len(tokens) != 1:
        raise ValueError(
            f"{len(tokens)} rows were given; give one prompt: text, or tokens [pos] or [1, pos]"
        )
    pad = model.tokenizer.pad_token_id
    if pad not in (None, model.tokenizer.bos_token_id, model.tokenizer.eos_token_id) and pad in (
        tokens[0, 0],
        tokens[0, -1],
    ):
        raise ValueError(
            f"the prompt starts or ends with padding (token {pad}), which some models' generate() hides; leave it out"
        )
    fits = model.cfg.n_ctx - tokens.shape[1]
    if max_new_tokens > fits:
        advice = (
            f"give max_new_tokens={fits} or less, or a shorter prompt"
            if fits > 0
            else "shorten the prompt"
        )
        raise ValueError(
            f"the prompt has {tokens.shape[1]} tokens and the model's context is {model.cfg.n_ctx}, "
            f"so {max_new_tokens} new tokens do not fit, only {fits}; {advice}"
        )
    return tokens


def _kl_on(model, text: torch.Tensor, hooks: Hooks, n_prompt: int) -> torch.Tensor:
    """KL(untouched || edited) at the positions of ``text`` that predicted its continuation, float64 ``[pos]``."""
    read = text[None, :-1]
    plain = activations(model, read, UNEMBED_INPUT)[0, n_prompt - 1 :]
    with model.hooks(fwd_hooks=hooks):
        pushed = activations(model, read, UNEMBED_INPUT)[0, n_prompt - 1 :]
    pairs = zip(plain.split(KL_CHUNK), pushed.split(KL_CHUNK))
    return torch.cat(
        [kl_divergence(next_token_logits(model, p), next_token_logits(model, q)) for p, q in pairs]
    )


def _decode(model, tokens: torch.Tensor) -> str:
    return model.tokenizer.decode(
        tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
