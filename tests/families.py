"""Tiny Hugging Face models of several families, with random weights."""

from __future__ import annotations

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
# The scales of Granite are those of its 3.1 models; Cohere's and Falcon-H1's differ from 1.
EXTRA = {
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
    "Gemma2": dict(final_logit_softcapping=2.0, attn_implementation="eager"),
    "Gemma3Text": dict(layer_types=["full_attention"] * 2, attn_implementation="eager"),
}


def hugging_face(family: str):
    """The model itself, such as of ``Granite``."""
    name = "Gemma3" if family == "Gemma3Text" else family
    config_class = getattr(transformers, f"{family}Config")
    model_class = getattr(transformers, f"{name}ForCausalLM")
    return loudly_drawn(lambda: model_class(config_class(**SIZES, **EXTRA[family])))


def hugging_face_and_bridge(family: str, tiny, folder):
    """The model, and the TransformerLens bridge to it."""
    hf = hugging_face(family)
    return hf, bridged(hf, tiny, folder)
