"""What a model is given: text to tokens, and what would make its numbers wrong without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from saework.core.argument_kinds import check_no_surrogate

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from saework.core.protocols import HookedModel

MAX_ROWS_NAMED = 10


def text_tokens(
    model: HookedModel, text: str, *, prepend_bos: bool | None = None
) -> Int[Tensor, "1 pos"]:
    """Text to tokens, with BOS in front where the model is given one, and never with two.

    Args:
        model: whose tokenizer is used.
        text: the text.
        prepend_bos: whether an SAE was trained on rows that begin with BOS. By default
            TransformerLens's own setting for the model.

    Raises:
        ValueError: a lone surrogate in the text.
    """
    check_no_surrogate(text, "the text")
    # not cut to the context: a text that is too long is an error later
    return model.to_tokens(text, prepend_bos=_needs_bos(model, text, prepend_bos), truncate=False)


def _needs_bos(model: HookedModel, text: str, prepend_bos: bool | None) -> bool:
    """Whether BOS has to be put before a text; Qwen, for example, has none."""
    bos = getattr(model.tokenizer, "bos_token", None)
    if bos is None or text.startswith(bos):
        return False
    if prepend_bos is not None:
        return prepend_bos
    return getattr(model.cfg, "default_prepend_bos", True) is not False


def check_padding(tokens: Int[Tensor, "batch pos"], tokenizer: Any) -> None:
    """Refuse rows in which padding stands before a token of the text.

    The model gets no attention mask, so it reads padding as if it were text, and its positions
    shift. Behind the text, padding changes nothing, because no token reads what follows it.

    Args:
        tokens: the rows.
        tokenizer: the model's, or None. A padding token that is BOS or EOS too may be text.

    Raises:
        ValueError: padding before a token that is none, with the rows' numbers.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return
    for other in ("bos_token_id", "eos_token_id", "unk_token_id"):
        if getattr(tokenizer, other, None) == pad:
            return
    is_pad = tokens == pad
    before_text = is_pad[:, :-1] & ~is_pad[:, 1:]
    if not before_text.any():
        return
    rows = before_text.any(1).nonzero()[:, 0].tolist()
    named = ", ".join(map(str, rows[:MAX_ROWS_NAMED]))
    more = " and more" if len(rows) > MAX_ROWS_NAMED else ""
    raise ValueError(
        f"padding (token {pad}) stands before text in rows {named}{more}. The model would read it, "
        "and a mask only leaves it uncounted. Pad on the right (tokenizer.padding_side = 'right') "
        "and mask the padding, or cut the rows to one length; if this token is text, set "
        "model.tokenizer.pad_token = None"
    )


def check_not_random(model: HookedModel) -> None:
    """Refuse a model in training mode if it has dropout.

    Raises:
        ValueError: each run would give other numbers.
    """
    wrapped = getattr(model, "original_model", model)
    for part in (model, wrapped):
        # evaluation mode is the usual case: then no module is looked at
        if getattr(part, "training", False):
            _refuse_dropout(part)


def _refuse_dropout(model: Any) -> None:
    for module in model.modules():
        if module.training and _drops(module):
            kind = type(module).__name__
            raise ValueError(
                f"the model is in training mode, in which its dropout ({kind}) makes every run "
                "different; call model.eval() first"
            )


def _drops(module: Any) -> bool:
    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return module.p > 0
    # Hugging Face's attention keeps the probability as a number
    for name, value in vars(module).items():
        if "drop" in name and isinstance(value, float) and value > 0:
            return True
    return False
