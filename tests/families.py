"""Tiny Hugging Face models of several families, with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from conftest import bridged, loudly_drawn

SIZES = dict(
    num_hidden_layers=2,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    vocab_size=4096,
    max_position_embeddings=32,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
EAGER = dict(attn_implementation="eager")
MIXED = dict(
    layer_types=["linear_attention", "full_attention"],
    linear_num_key_heads=2,
    linear_num_value_heads=2,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
# The scales of Granite are those of its 3.1 models; Cohere's and Falcon-H1's differ from 1.
EXTRA: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Olmo2": {},
    "Qwen3": {},
    "Granite": dict(
        logits_scaling=8.0,
        residual_multiplier=0.22,
        embedding_multiplier=12.0,
        attention_multiplier=0.35,
    ),
    "Cohere": dict(logit_scale=0.3),
    "Gemma2": dict(final_logit_softcapping=2.0, **EAGER),
    "Gemma3Text": dict(layer_types=["full_attention"] * 2, **EAGER),
}
MORE: dict[str, dict[str, Any]] = {
    "GPT2": dict(n_inner=24, n_head=2, num_key_value_heads=None, head_dim=None),
    "GPTNeoX": dict(num_key_value_heads=2),
    "Mistral": {},
    "Gemma": {},
    "Qwen2": {},
    "Qwen3Moe": dict(decoder_sparse_step=1, **EXPERTS),
    "Qwen3_5Text": MIXED,
    "Qwen3_5MoeText": dict(shared_expert_intermediate_size=24, **MIXED, **EXPERTS),
    "GptOss": dict(
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=8,
        **EAGER,
    ),
}
"""Families of sae_lens's table that only the matrix runs."""


@dataclass(frozen=True)
class Parts:
    """Names of a family's modules: of the model, then of a block."""

    base: str = "model"
    layers: str = "layers"
    embed: str = "embed_tokens"
    final_norm: str = "norm"
    attention: str = "self_attn"
    heads: str = "self_attn.o_proj"
    """Reads the heads, put together."""
    attention_norm: str | None = None
    """Between attention and the stream."""
    second_norm: str = "post_attention_layernorm"
    mlp: str = "mlp"
    hidden: str | None = "mlp.down_proj"
    """Reads the hidden layer of the MLP; None where experts have one each."""
    mlp_norm: str | None = None
    factor: float = 1.0
    """What the branches are multiplied with."""
    weight_less_one: bool = False
    """Norms store their weight less one."""
    middle: bool = True
    """Whether attention is added before the MLP reads (blocks are not parallel)."""


GEMMA = dict(
    attention_norm="post_attention_layernorm",
    second_norm="pre_feedforward_layernorm",
    mlp_norm="post_feedforward_layernorm",
    weight_less_one=True,
)
PARTS = {
    "GPT2": Parts(
        base="transformer",
        layers="h",
        embed="wte",
        final_norm="ln_f",
        attention="attn",
        heads="attn.c_proj",
        second_norm="ln_2",
        hidden="mlp.c_proj",
    ),
    "GPTNeoX": Parts(
        base="gpt_neox",
        embed="embed_in",
        final_norm="final_layer_norm",
        attention="attention",
        heads="attention.dense",
        hidden="mlp.dense_4h_to_h",
        middle=False,
    ),
    "Llama": Parts(),
    "Mistral": Parts(),
    "Gemma": Parts(weight_less_one=True),
    "Gemma2": Parts(**GEMMA),
    "Gemma3Text": Parts(**GEMMA),
    "Qwen2": Parts(),
    "Qwen3": Parts(),
    "Qwen3Moe": Parts(hidden=None),
    "Qwen3_5Text": Parts(weight_less_one=True),
    "Qwen3_5MoeText": Parts(weight_less_one=True, hidden=None),
    "GptOss": Parts(hidden=None),
    "Granite": Parts(factor=0.22),
    "Olmo2": Parts(
        attention_norm="post_attention_layernorm",
        second_norm="post_feedforward_layernorm",
        mlp_norm="post_feedforward_layernorm",
    ),
}


def hugging_face(family: str):
    """The model itself, such as of ``Granite``."""
    config_class = getattr(transformers, f"{family}Config")
    name = family.removesuffix("Text")
    ending = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model_class = getattr(transformers, name + ending)
    extra = {**EXTRA, **MORE}[family]
    return loudly_drawn(lambda: model_class(config_class(**{**SIZES, **extra})))


def hugging_face_and_bridge(family: str, tiny, folder):
    """The model, and the TransformerLens bridge to it."""
    hf = hugging_face(family)
    return hf, bridged(hf, tiny, folder)
