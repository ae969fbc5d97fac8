"""Digests of all that an SAE's features depend on, and of all that a model's activations do.

Two digests are equal only if every weight, every buffer and every setting that changes numbers is
equal. They are the same on every machine and device. What does not count is listed here by name.

Cost: the SHA-256 of all bytes, about 1 GB/s for each thread of torch. Nothing is kept from one call
to the next, since weights may be edited in place. Tensors on a GPU are copied one at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch

from saework.core.content import FUNCTIONS, PLAIN, Content, attributes
from saework.core.protocols import HookedModel, SparseAutoencoder, sae_architecture
from saework.engine.architectures import RESHAPING_STATE, SCALING_STATE
from saework.engine.site import site_of

COUNTED_DEFAULTS = (
    "apply_b_dec_to_input",
    "k",
    "d_out",
    "residual_threshold",
    "n_heads",
    "n_attn_layers",
    "bottleneck_factor",
    "sae_diff_type",
    "activation_normalization_factor",
)
"""Fields of an SAE's config that count at their default too.

Other fields count if they are changed: so a field that a later sae_lens adds changes no digest.
"""
DESCRIPTION = ("metadata", "device", "dtype")
"""Of an SAE's config. The hooks of its metadata are added apart, and tensors say their dtype."""
RUN_STATE = (
    *RESHAPING_STATE,
    *SCALING_STATE,
    "run_time_activation_norm_fn_in",
    "run_time_activation_norm_fn_out",
    "mod_dict",
    "hook_dict",
    "is_caching",
    "context_level",
    "_use_error_term",
    "training",
    "device",
    "cfg",
)
"""Attributes of a known SAE that follow from its config, or that a run changes."""
MODEL_DESCRIPTION = (
    "training",
    "is_caching",
    "context_level",
    "name",
    "device",
    "n_devices",
    "max_seq_len_cached",
    "model_name",
    "name_or_path",
    "tokenizer_name",
    "transformers_version",
    "trust_remote_code",
    "seed",
    "init_mode",
    "init_weights",
    "initializer_range",
    "n_params",
    "checkpoint_index",
    "checkpoint_label_type",
    "checkpoint_value",
    "from_checkpoint",
)
"""Attributes of a model, its modules and its configs that change no activation."""
CONFIGS = ("cfg", "config")


def sae_digest(sae: SparseAutoencoder, hook: str | None = None) -> str:
    """64 hexadecimal digits of the SAE's hooks, tensors and settings.

    The settings of a sae_lens SAE are its architecture, its config without ``DESCRIPTION``, and
    what was changed on the object. Those of your own object are its class's name, its attributes,
    and those of the objects in them. Its code counts if you wrote it in a notebook.

    Args:
        sae: a ``sae_lens.SAE``, or your own object.
        hook: where it reads; its own by default.

    Raises:
        HookError, ValueError: as ``site_of``.
    """
    site = site_of(None, sae, hook)
    content = _SaeContent()
    content.line("reads", site.reads)
    content.line("writes", site.writes)
    for name in ("W_enc", "W_dec"):  # an object may compute them
        content.add(name, getattr(sae, name, None))
    content.add("sae", sae)
    content.line("functions at hooks", hooks_on(sae))
    return content.digest()


def model_digest(model: HookedModel) -> str:
    """64 hexadecimal digits of the model's weights, buffers and settings.

    The settings are plain attributes and functions (by name) of each module, and its configs, all
    without ``MODEL_DESCRIPTION``. The code of classes, and functions at hooks, are not seen.
    """
    content = Content()
    for name, module in _modules(model):
        if not _is_hook_point(module):
            _add_library_module(content, name, module)
    return content.digest()


def hooks_on(part: Any) -> list[str]:
    """Names of the points of a model or SAE where a user's function is on.

    Functions of torch, and of the libraries that the modules are of, do not count.
    """
    classes = {type(module) for _, module in _modules(part)}
    libraries = {cls.__module__.partition(".")[0] for cls in classes} - {"__main__"}
    names = []
    for name, module in _modules(part):
        functions = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        packages = {_package(function) for function in functions}
        if getattr(module, "fwd_hooks", None) or packages - {"torch", *libraries}:
            names.append(name)
    return names


def check_no_hooks(model: HookedModel, sae: SparseAutoencoder) -> None:
    """Raises: ValueError if a user's function is on at a hook of the model or of the SAE."""
    for what, part in (("model", model), ("SAE", sae)):
        names = hooks_on(part)
        if names:
            raise ValueError(
                f"the {what} has a function on at {', '.join(names[:3])}, and what it does cannot "
                "be told from a checkpoint or in a worker; take it off, for example with "
                "reset_hooks(including_permanent=True), or scan without checkpoint= and executor="
            )


class _SaeContent(Content):
    """What an SAE holds; of sae_lens's classes, what its numbers depend on."""

    def __init__(self) -> None:
        super().__init__()
        self._in_known = False  # whether what is added is a part of a known SAE

    def add_object(self, name: str, value: Any, *, without: Any = ()) -> None:
        if _is_hook_point(value):
            return
        was_in_known = self._in_known
        architecture = sae_architecture(value)
        if architecture is not None:
            self.line(f"{name}.architecture", architecture)
            self._add_config(f"{name}.cfg", value.cfg)
            without = RUN_STATE
            self._in_known = True
        elif name.endswith(".cfg"):
            without = DESCRIPTION
        elif self._in_known:
            without = ("training",)
        super().add_object(name, value, without=without)
        self._in_known = was_in_known

    def _add_config(self, name: str, config: Any) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        for key, held in attributes(config):
            default = defaults.get(key, dataclasses.MISSING)
            # off is as if the field were not there
            is_off = held is None or held is False or (isinstance(held, str) and held == "none")
            at_default = type(held) is type(default) and held == default
            counts = key in COUNTED_DEFAULTS or not at_default
            if key not in DESCRIPTION and not is_off and counts:
                self.add(f"{name}.{key}", held)


def _add_library_module(content: Content, name: str, module: torch.nn.Module) -> None:
    """A module of a model: its tensors, and the attributes that are plain, functions or configs."""
    content.line(name, type(module).__qualname__)
    for part in (module._parameters, module._buffers):
        for key in sorted(part):
            content.add(f"{name}.{key}", part[key])
    for key, held in _public_attributes(module):
        where = f"{name}.{key}"
        if key in CONFIGS:
            _add_model_config(content, where, held)
        elif isinstance(held, FUNCTIONS):
            content.add_function(where, held, deep=False)
        elif isinstance(held, (*PLAIN, torch.Tensor)):
            content.add(where, held)


def _add_model_config(content: Content, name: str, config: Any) -> None:
    if config is None or content.was_met(name, config):
        return
    content.line(f"{name}.attention", getattr(config, "_attn_implementation", None))
    for key, held in _public_attributes(config):
        if isinstance(held, (*PLAIN, list, tuple, dict)):
            content.add(f"{name}.{key}", held)


def _public_attributes(value: Any) -> Iterator[tuple[str, Any]]:
    held = vars(value)
    for key in sorted(held):
        if not key.startswith("_") and key not in MODEL_DESCRIPTION:
            yield key, held[key]


def _modules(part: Any) -> Iterator[tuple[str, Any]]:
    """The modules of a model, or of an SAE if it is made of modules, by name."""
    if isinstance(part, torch.nn.Module):
        yield from part.named_modules()


def _is_hook_point(value: Any) -> bool:
    return hasattr(type(value), "add_hook") and hasattr(value, "fwd_hooks")


def _package(function: Any) -> str:
    if isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__module__", None)).partition(".")[0]
