"""Models and SAEs by definition: modules' own hooks, ``encode``, ``decode``, cross-entropy.

Nothing here uses ``saework.engine``: it is what the matrix compares saework with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import torch
from families import PARTS
from torch import Tensor

Edit = Callable[[Tensor], Tensor | None]
LAYER = 1
HOOKS = {
    "embed": "hook_embed",
    "resid_pre": f"blocks.{LAYER}.hook_resid_pre",
    "resid_mid": f"blocks.{LAYER}.hook_resid_mid",
    "resid_post": f"blocks.{LAYER}.hook_resid_post",
    "attn_out": f"blocks.{LAYER}.hook_attn_out",
    "mlp_out": f"blocks.{LAYER}.hook_mlp_out",
    "mlp_in": f"blocks.{LAYER}.mlp.hook_in",
    "normed": f"blocks.{LAYER}.ln2.hook_normalized",
    "hook_z": f"blocks.{LAYER}.attn.hook_z",
    "mlp_post": f"blocks.{LAYER}.mlp.hook_post",
}
"""TransformerLens's names of the places, in block 1."""


class PlainHuggingFace:
    """A Hugging Face model, whose modules' inputs and outputs are read and replaced."""

    def __init__(self, hf: Any, family: str):
        self.hf, self.parts = hf, PARTS[family]
        self.base = getattr(hf, self.parts.base)
        self.block = getattr(self.base, self.parts.layers)[LAYER]
        self.kinds = [kind for kind in HOOKS if self._exists(kind)]

    def _exists(self, kind: str) -> bool:
        has_hidden = self.parts.hidden is not None
        return {"resid_mid": self.parts.middle, "mlp_post": has_hidden}.get(kind, True)

    def _module(self, name: str) -> Any:
        return self.block.get_submodule(name)

    @torch.no_grad()
    def logits(self, tokens: Tensor, edits: dict[str, Edit]) -> Tensor:
        """Logits in float64, with an edit at each of some places."""
        with ExitStack() as stack:
            for kind, edit in edits.items():
                stack.enter_context(self._edited(kind, edit))
            return self.hf(tokens).logits.double()

    def _edited(self, kind: str, edit: Edit) -> Any:
        parts = self.parts
        attention = self._module(parts.attention_norm or parts.attention)
        if kind == "resid_mid":
            return self._stream_edited(attention, edit)
        if kind == "normed":
            norm = self._module(parts.second_norm)
            weight = norm.weight + parts.weight_less_one
            bias = getattr(norm, "bias", None)
            return _output_edited(norm, edit, weight, 0.0 if bias is None else bias)
        outputs = {
            "embed": getattr(self.base, parts.embed),
            "resid_post": self.block,
            "attn_out": attention,
            "mlp_out": self._module(parts.mlp_norm or parts.mlp),
        }
        if kind in outputs:
            is_branch = kind in ("attn_out", "mlp_out")
            factor = parts.factor if is_branch else 1.0  # a bridge's hook is behind it
            return _output_edited(outputs[kind], edit, 1 / factor, 0.0)
        inputs = {"mlp_in": parts.mlp, "hook_z": parts.heads, "mlp_post": parts.hidden}
        module = self.block if kind == "resid_pre" else self._module(inputs[kind])
        return _input_edited(module, edit)

    @contextmanager
    def _stream_edited(self, attention: Any, edit: Edit) -> Iterator[None]:
        """The middle of a block: attention's output is changed so that its sum with the stream is
        what it shall be."""
        kept: dict[str, Tensor] = {}
        factor = self.parts.factor

        def keep(value: Tensor) -> None:
            kept["stream"] = value

        def change(output: Tensor) -> Tensor | None:
            new = edit(kept["stream"] + factor * output)
            return None if new is None else (new - kept["stream"]) / factor

        with _input_edited(self.block, keep), _output_edited(attention, change, 1.0, 0.0):
            yield

    def direct_effect(self, kind: str, row: Tensor) -> Tensor | None:
        """What a direction adds to the logits, norms' scales apart; None where nothing is added."""
        parts = self.parts
        if kind in ("mlp_in", "normed"):
            return None
        if kind in ("hook_z", "mlp_post"):
            is_attention = kind == "hook_z"
            through = self._module(parts.heads if is_attention else parts.hidden)
            row = (through(row[None]) - through(-row[None]))[0] / 2
            norm = parts.attention_norm if is_attention else parts.mlp_norm
            row = parts.factor * (_through_norm(self._module(norm), row) if norm else row)
        row = _through_norm(getattr(self.base, parts.final_norm), row)
        return self.hf.get_output_embeddings()(row)


class PlainHooked:
    """A HookedTransformer of one layer, by TransformerLens's own ``run_with_hooks``."""

    kinds = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "normed", "hook_z")
    kinds += ("mlp_post", "embed")

    def __init__(self, model: Any):
        self.model = model

    def logits(self, tokens: Tensor, edits: dict[str, Edit]) -> Tensor:
        """Logits in float64, with an edit at each of some places."""
        hooks = []
        for kind, edit in edits.items():
            hooks.append((HOOKS[kind].replace(f"s.{LAYER}", "s.0"), lambda x, hook, e=edit: e(x)))
        return self.model.run_with_hooks(tokens, fwd_hooks=hooks).double()

    def direct_effect(self, kind: str, row: Tensor) -> Tensor | None:
        """What a direction adds to the logits; the final norm is folded into ``W_U``."""
        if kind == "normed":
            return None
        if kind == "hook_z":
            row = row @ self.model.W_O[0].flatten(0, 1)
        if kind == "mlp_post":
            row = row @ self.model.W_out[0]
        return (row - row.mean()) @ self.model.W_U


def _through_norm(norm: Any, row: Tensor) -> Tensor:
    """A direction behind a norm that is large along it, times its size before."""
    large = 1e4 * row
    centred = row - row.mean() if isinstance(norm, torch.nn.LayerNorm) else row
    return (norm(large) - norm(-large)) / 2 * centred.pow(2).mean().sqrt()


@contextmanager
def _output_edited(module: Any, edit: Edit, weight: Any, bias: Any) -> Iterator[None]:
    """The edit sees the output less ``bias``, over ``weight``."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        new = edit((first - bias) / weight)
        if new is None:
            return None
        new = new.reshape(first.shape) * weight + bias
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _input_edited(module: Any, edit: Edit) -> Iterator[None]:
    def hook(module: Any, args: Any, kwargs: Any) -> Any:
        value = args[0] if args else kwargs["hidden_states"]
        new = edit(value)
        if new is None:
            return None
        new = new.reshape(value.shape)
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def rebuilt(sae: Any) -> Any:
    """A copy that shares nothing: functions that sae_lens keeps on an SAE refer to that one."""
    if not isinstance(sae, torch.nn.Module):
        return copy.copy(sae)
    other = type(sae).from_dict(sae.cfg.to_dict())
    other.load_state_dict(sae.state_dict())
    return other.eval().requires_grad_(False)


class PlainSae:
    """One SAE at one place of a plain model, on some tokens."""

    def __init__(self, model: Any, sae: Any, tokens: Tensor, reads: str, writes: str):
        self.model, self.tokens, self.reads, self.writes = model, tokens, reads, writes
        self.sae = rebuilt(sae)
        if getattr(self.sae, "hook_z_reshaping_mode", False):
            self.sae.turn_off_forward_pass_hook_z_reshaping()
        self.kept: dict[str, Tensor] = {}
        self.clean = self._logits(None)
        self.x, self.y = self.kept["x"], self.kept["y"]

    def _logits(self, new: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        """With ``new(x, y)`` in the place of what the SAE writes; heads are one axis."""

        def read(value: Tensor) -> None:
            self.kept["x"] = value.flatten(2)

        def write(value: Tensor) -> Tensor | None:
            self.kept["y"] = value.flatten(2)
            if self.reads == self.writes:
                read(value)
            if new is None:
                return None
            return new(self.kept["x"], self.kept["y"]).reshape(value.shape)

        edits = {self.reads: read, self.writes: write}
        return self.model.logits(self.tokens, edits)

    def losses(self, new: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Nats of each next token, ``[batch, pos-1]``."""
        logits = self.clean if new is None else self._logits(new)
        log_probs = logits.log_softmax(-1)[:, :-1]
        return -log_probs.gather(-1, self.tokens[:, 1:, None])[..., 0]

    def steered(self, new: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Logits with ``new(x, y)`` in the place of what the SAE writes."""
        return self._logits(new)

    def decoded(self, x: Tensor, features: Tensor) -> Tensor:
        """What the SAE makes of features; some need the scale that encoding left on them."""
        self.sae.encode(x)
        skip = getattr(self.sae, "W_skip", None)
        added = 0.0 if skip is None else x @ skip.T
        return self.sae.decode(features) + added

    @cached_property
    def features(self) -> Tensor:
        """``[batch, pos, d_sae]``."""
        return self.sae.encode(self.x)

    def reconstructed(self, x: Tensor, y: Tensor) -> Tensor:
        """``forward`` by its parts."""
        return self.decoded(x, self.sae.encode(x))

    def with_feature(self, feature: int, value: float) -> Callable[[Tensor, Tensor], Tensor]:
        """An edit: the feature is set to a value, and the SAE's error stays."""

        def new(x: Tensor, y: Tensor) -> Tensor:
            features = self.sae.encode(x)
            changed = features.clone()
            changed[..., feature] = value
            return y + self.decoded(x, changed) - self.decoded(x, features)

        return new

    def row(self, feature: int) -> Tensor:
        """What one unit of a feature adds, for an SAE that does not rescale each token."""
        scaling = getattr(getattr(self.sae, "cfg", None), "normalize_activations", "none")
        if scaling in ("layer_norm", "constant_norm_rescale"):
            return self.sae.W_dec[feature]
        none_and_one = torch.zeros(1, 2, len(self.sae.W_dec))
        none_and_one[0, 1, feature] = 1
        none, one = self.sae.decode(none_and_one)[0]
        return one - none
