"""One small SAE for each of sae_lens's loaders, in its publisher's files, and the plain formula.

Each formula is the publisher's own definition, in plain torch on the tensors of the files. Nothing
here asks sae_lens how a file is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from local_hub import legacy_sae_lens_config, random_tensors, sae_tensors
from safetensors.torch import save_file

D_MODEL, D_SAE = 32, 64
Weights = dict[str, torch.Tensor]
Formula = Callable[[Weights, torch.Tensor], torch.Tensor]
Output = Callable[[Weights, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Published:
    """An SAE of sae_lens's table, with the files of its publisher."""

    loader: str
    release: str
    sae_id: str
    family: str
    """Of its model: a folder that the tests write."""
    repository: str
    write: Callable[[Path, Weights], None]
    features: Formula
    """Inputs to features."""
    output: Output
    """Features and inputs to the output, in the units of the model."""
    reads: str
    """The module of the Hugging Face model whose ``:in`` or ``:out`` the SAE reads."""
    hook: str
    """TransformerLens's name of it, where the activations are read."""
    writes: str = ""
    """Likewise of what the output replaces; as ``reads`` by default."""
    view: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    """From what is at ``reads`` to what the SAE was trained on."""
    mistakes: dict[str, Formula] = field(default_factory=dict)
    """Other readings of the files, each of which a loader has had; the features must differ."""
    weights: Callable[[], Weights] = lambda: sae_tensors(D_MODEL, D_SAE)
    overrides: dict[str, int | str] = field(default_factory=dict)
    """What sae_lens has by heart: sizes, for files as small as these."""
    refused: tuple[str, ...] = ()
    """Words of the refusal to score it; empty where it has a score."""

    @property
    def name(self) -> str:
        return f"{self.loader}: {self.release}"


def relu(w: Weights, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ w["W_enc"] + w["b_enc"])


def centred_relu(w: Weights, x: torch.Tensor) -> torch.Tensor:
    return relu(w, x - w["b_dec"])


def jumprelu(w: Weights, x: torch.Tensor) -> torch.Tensor:
    before = x @ w["W_enc"] + w["b_enc"]
    return torch.relu(before) * (before > w["threshold"])


def centred_jumprelu(w: Weights, x: torch.Tensor) -> torch.Tensor:
    return jumprelu(w, x - w["b_dec"])


def topk(features: torch.Tensor, k: int) -> torch.Tensor:
    kept = features.topk(k, dim=-1)
    return torch.zeros_like(features).scatter(-1, kept.indices, kept.values)


def linear(w: Weights, features: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
    return features @ w["W_dec"] + w["b_dec"]


def with_threshold(seed: int = 0) -> Weights:
    return sae_tensors(D_MODEL, D_SAE, seed, threshold=True)


def transposed(w: Weights) -> Weights:
    """As two ``nn.Linear``."""
    return {
        "encoder.weight": w["W_enc"].T.contiguous(),
        "encoder.bias": w["b_enc"],
        "decoder.weight": w["W_dec"].T.contiguous(),
    }


def write_json(path: Path, values: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def save(path: Path, tensors: Weights) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in tensors.items()})
    else:
        torch.save(tensors, path)


# ---- sae_lens's own layout ----


def sae_lens_folder(place: str, hook: str, **config) -> Callable[[Path, Weights], None]:
    def write(root: Path, w: Weights) -> None:
        legacy = legacy_sae_lens_config(hook, D_MODEL, D_SAE, model_name="gpt2-small")
        write_json(root / place / "cfg.json", legacy | config)
        save(root / place / "sae_weights.safetensors", w)

    return write


JB = "blocks.8.hook_resid_pre"
TM_SCALE = 2.3693984005104283
OPENAI_K = 8


def openai_features(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """OpenAI's sparse_autoencoder: the token's mean and standard deviation are taken out first."""
    return topk(centred_relu(w, openai_normed(x)), OPENAI_K)


def openai_output(w: Weights, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    mean = x.mean(-1, keepdim=True)
    return linear(w, features) * (x - mean).std(-1, keepdim=True) + mean


def openai_normed(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.std(-1, keepdim=True) + 1e-5)


# ---- Llama Scope ----


def llama_scope_scale(sae_id: str) -> float:
    """What a published hyperparams.json says, by the table's factor."""
    return {"l0r_8x": 58.935251798561154, "l0m_8x": 80.31372549019608}[sae_id]


R1_SCALE = 53.52995401997436
THRESHOLD = 0.03


def write_llama_scope(sae_id: str, folder: str, hook: str) -> Callable[[Path, Weights], None]:
    def write(root: Path, w: Weights) -> None:
        norm = D_MODEL**0.5 / llama_scope_scale(sae_id)
        config = {
            "d_model": D_MODEL,
            "d_sae": D_SAE,
            "hook_point_in": hook,
            "hook_point_out": hook,
            "act_fn": "jumprelu",
            "jump_relu_threshold": THRESHOLD,
            "norm_activation": "dataset-wise",
            "dataset_average_activation_norm": {"in": norm, "out": norm},
            "sparsity_include_decoder_norm": True,
            "use_decoder_bias": True,
            "apply_decoder_bias_to_pre_encoder": False,
            "use_glu_encoder": False,
            "top_k": 50,
        }
        write_json(root / folder / "hyperparams.json", config)
        tensors = transposed(w) | {"decoder.bias": w["b_dec"]}
        tensors = {key: value.bfloat16() for key, value in tensors.items()}
        save(root / folder / "checkpoints" / "final.safetensors", tensors)

    return write


def bfloat16_weights() -> Weights:
    return {key: value.bfloat16().float() for key, value in sae_tensors(D_MODEL, D_SAE).items()}


def llama_scope_features(scale: float) -> Formula:
    """``SparseAutoEncoder.from_config`` of lm-saes, with its units undone.

    Parameters are made ready for inputs that are not scaled (the bias over the scale), and for
    decoder rows of norm one; then features are compared with the threshold.
    """

    def features(w: Weights, x: torch.Tensor) -> torch.Tensor:
        norm = w["W_dec"].norm(dim=1)
        inference = (x @ w["W_enc"] + w["b_enc"] / scale) * norm
        fires = inference > THRESHOLD
        return torch.relu(inference) * fires / norm * scale

    return features


def r1_features(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """lm-saes of early 2025: the threshold is on activations times the norm of their row."""
    before = (x * R1_SCALE) @ w["W_enc"] + w["b_enc"]
    fires = before * w["W_dec"].norm(dim=1) > w["threshold"]
    return torch.relu(before) * fires


def scaled_output(scale: float) -> Output:
    return lambda w, features, x: linear(w, features) / scale


def write_r1(root: Path, w: Weights) -> None:
    folder = root / "800M-Slimpajama-0-OpenR1-Math-220k" / "L0R"
    config = {
        "d_model": D_MODEL,
        "expansion_factor": D_SAE // D_MODEL,
        "hook_point_in": "blocks.0.hook_resid_post",
        "hook_point_out": "blocks.0.hook_resid_post",
        "act_fn": "jumprelu",
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
    }
    write_json(folder / "config.json", config)
    more = {"decoder.bias": w["b_dec"], "log_jumprelu_threshold": w["threshold"].log()}
    save(folder / "sae_weights.safetensors", transposed(w) | more)


# ---- dictionary_learning ----

DICTIONARY_K = 6
BATCH_THRESHOLD = torch.tensor(0.7)
LAYER_12 = "blocks.12.hook_resid_post"


def dictionary(
    dict_class: str,
    release: str,
    repository: str,
    place: str,
    features: Formula,
    keys: Callable[[Weights], Weights],
    weights: Callable[[], Weights] = lambda: sae_tensors(D_MODEL, D_SAE),
    **mistakes: Formula,
) -> Published:
    """An SAE of layer 12 of Gemma 2."""

    def write(root: Path, w: Weights) -> None:
        trainer = {
            "dict_class": dict_class,
            "activation_dim": D_MODEL,
            "dict_size": D_SAE,
            "layer": 12,
            "lm_name": "google/gemma-2-2b",
            "k": DICTIONARY_K,
        }
        folder = root / place / "resid_post_layer_12" / "trainer_0"
        write_json(folder / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 128}})
        save(folder / "ae.pt", keys(w))

    return Published(
        "dictionary_learning_1",
        release,
        f"{LAYER_12}__trainer_0",
        "gemma2",
        repository,
        write,
        features,
        linear,
        reads="model.layers.12:out",
        hook=LAYER_12,
        weights=weights,
        mistakes=mistakes,
    )


def gated_weights() -> Weights:
    w = sae_tensors(D_MODEL, D_SAE)
    more = {"gate_bias": (D_SAE,), "mag_bias": (D_SAE,), "r_mag": (D_SAE,)}
    return w | random_tensors(more, 5, scale=0.5)


def gated(w: Weights, x: torch.Tensor) -> torch.Tensor:
    encoded = (x - w["b_dec"]) @ w["W_enc"]
    magnitude = torch.relu(w["r_mag"].exp() * encoded + w["mag_bias"])
    return (encoded + w["gate_bias"] > 0) * magnitude


def gated_keys(w: Weights) -> Weights:
    shared = {key: value for key, value in transposed(w).items() if key != "encoder.bias"}
    own = {key: w[key] for key in ("gate_bias", "mag_bias", "r_mag")}
    return shared | own | {"decoder_bias": w["b_dec"]}


def topk_keys(w: Weights) -> Weights:
    k = torch.tensor(DICTIONARY_K)
    return transposed(w) | {"b_dec": w["b_dec"], "k": k, "threshold": BATCH_THRESHOLD}


def matryoshka_keys(w: Weights) -> Weights:
    sizes = {"k": torch.tensor(DICTIONARY_K), "group_sizes": torch.tensor([16, 48])}
    return w | sizes | {"threshold": BATCH_THRESHOLD}


# ---- temporal ----

TEMPORAL_SCALE, TEMPORAL_K = 0.00666666667, 8


def temporal_weights() -> Weights:
    heads = {
        f"attn_layers.0.{part}.{kind}": shape
        for part, width in (("k_ctx", 16), ("q_target", 16), ("v_ctx", D_SAE), ("c_proj", D_SAE))
        for kind, shape in (("weight", (width, D_SAE)), ("bias", (width,)))
    }
    shapes = {"D": (D_SAE, D_MODEL), "E": (D_MODEL, D_SAE), "b": (D_MODEL,)} | heads
    return random_tensors(shapes, 9, scale=0.3)


def temporal_features(w: Weights, x: torch.Tensor) -> torch.Tensor:
    """Equation by equation of Lubana et al. 2025 (arXiv 2511.01836), one token after another."""
    x = x * TEMPORAL_SCALE - w["b"]
    lam = 1 / (4 * D_MODEL)
    n_heads, d_key, d_value = 2, 8, D_SAE // 2

    def mapped(part: str, z: torch.Tensor) -> torch.Tensor:
        return z @ w[f"attn_layers.0.{part}.weight"].T + w[f"attn_layers.0.{part}.bias"]

    rows = []
    for row in x:
        codes = torch.relu(row * lam @ w["E"])
        context = torch.cat([torch.zeros_like(codes[:1]), codes[:-1]])
        key, query, value = (
            mapped("k_ctx", context),
            mapped("q_target", codes),
            mapped("v_ctx", context),
        )
        predicted = []
        for t in range(len(row)):
            parts = []
            for head in range(n_heads):
                k = key[: t + 1, head * d_key : (head + 1) * d_key]
                q = query[t, head * d_key : (head + 1) * d_key]
                v = value[: t + 1, head * d_value : (head + 1) * d_value]
                parts.append(torch.softmax(k @ q / d_key**0.5, 0) @ v)
            predicted.append(torch.relu(mapped("c_proj", torch.cat(parts))))
        direction = torch.stack(predicted) @ w["D"]
        size = direction.norm(dim=-1, keepdim=True) + 1e-6
        share = (direction * row).sum(-1, keepdim=True) / size**2
        rest = row - share * direction
        rows.append(topk(torch.relu(rest * lam @ w["E"]), TEMPORAL_K))
    return torch.stack(rows)


def write_temporal(root: Path, w: Weights) -> None:
    folder = root / "gemma-2-2B" / "layer_12" / "temporal"
    sae = {
        "exp_factor": D_SAE / D_MODEL,
        "n_heads": 2,
        "n_attn_layers": 1,
        "bottleneck_factor": 4,
        "sae_diff_type": "topk",
        "kval_topk": TEMPORAL_K,
        "tied_weights": False,
        "scaling_factor": TEMPORAL_SCALE,
    }
    config = {"llm": {"dimin": D_MODEL}, "sae": sae, "data": {"dtype": "float32"}}
    folder.mkdir(parents=True)
    (folder / "conf.yaml").write_text(yaml.safe_dump(config))
    save(folder / "latest_ckpt.safetensors", w)


# ---- transcoders ----


def rms_normed(x: torch.Tensor) -> torch.Tensor:
    """Gemma 2's norm before its weight, which Gemma Scope folded into the MLP."""
    return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-6)


def write_mwhanna(root: Path, w: Weights) -> None:
    save(root / "layer_1.safetensors", w | {"W_enc": w["W_enc"].T})
    (root / "config.yaml").write_text(yaml.safe_dump({"model_name": "Qwen/Qwen3-0.6B"}))
    sizes = {"d_model": D_MODEL, "d_feature": D_SAE, "batch_size": 64}
    wandb = {key: {"value": value} for key, value in sizes.items()}
    (root / "wanb-config.yaml").write_text(yaml.safe_dump(wandb))


N_WRITTEN = 3


def clt_weights() -> Weights:
    w = sae_tensors(D_MODEL, D_SAE)
    decoders = {"W_dec": (D_SAE, N_WRITTEN, D_MODEL)}
    return w | random_tensors(decoders, 4)


def write_clt(root: Path, w: Weights) -> None:
    config = {
        "model_name": "google/gemma-2-2b",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    encoder = {"W_enc_10": w["W_enc"].T, "b_enc_10": w["b_enc"], "b_dec_10": w["b_dec"]}
    save(root / "W_enc_10.safetensors", encoder)
    save(root / "W_dec_10.safetensors", {"W_dec_10": w["W_dec"]})


def write_gemma_3(place: str, layer: int, hook_in: str, **more) -> Callable[[Path, Weights], None]:
    def write(root: Path, w: Weights) -> None:
        config = {
            "architecture": "jump_relu",
            "model_name": "gemma-v3-270m-pt",
            "hf_hook_point_in": f"model.layers.{layer}.{hook_in}",
            **more,
        }
        write_json(root / place / "config.json", config)
        names = {"W_enc": "w_enc", "W_dec": "w_dec"}
        tensors = {names.get(key, key): value for key, value in w.items()}
        save(root / place / "params.safetensors", tensors)

    return write


def affine_weights() -> Weights:
    skip = {"affine_skip_connection": (D_MODEL, D_MODEL)}
    return with_threshold() | random_tensors(skip, 6, scale=0.3)


def write_npz(place: str) -> Callable[[Path, Weights], None]:
    return lambda root, w: save(root / place / "params.npz", w)


def write_pt(name: str, keys: Callable[[Weights], Weights]) -> Callable[[Path, Weights], None]:
    return lambda root, w: save(root / name, keys(w))


def hook_z_config(root: Path, w: Weights) -> None:
    name = KISSANE.removesuffix(".pt")
    act = {"act_name": "blocks.0.attn.hook_z", "act_size": D_MODEL, "dict_size": D_SAE}
    write_json(root / f"{name}_cfg.json", act)
    save(root / KISSANE, w)


KISSANE = (
    "gpt2-small_L0_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06_rsanthropic_"
    "rie25000_nr4_v9.pt"
)
SIZES = {"d_in": D_MODEL, "d_sae": D_SAE}
QWEN_K, SPARSIFY_K = 50, 5


def write_sparsify(root: Path, w: Weights) -> None:
    folder = root / "layers.1"
    config = {"d_in": D_MODEL, "num_latents": D_SAE, "k": SPARSIFY_K, "normalize_decoder": True}
    config |= {"expansion_factor": 2, "signed": False, "transcode": False}
    write_json(folder / "cfg.json", config)
    # sparsify itself stores W_dec, which sae_lens transposes and then refuses (no SAE of the table
    # is of this layout); with this key it reads it
    save(folder / "sae.safetensors", transposed(w) | {"b_dec": w["b_dec"]})


PUBLISHED = [
    Published(
        "sae_lens",
        "gpt2-small-res-jb",
        JB,
        "gpt2",
        "jbloom/GPT2-Small-SAEs-Reformatted",
        sae_lens_folder(JB, JB),
        centred_relu,
        linear,
        reads="transformer.h.8:in",
        hook=JB,
        view=lambda x: x - x.mean(-1, keepdim=True),  # trained with center_writing_weights
        mistakes={"b_dec not subtracted": relu},
    ),
    Published(
        "sae_lens",
        "gpt2-small-mlp-tm",
        "blocks.1.hook_mlp_out",
        "gpt2",
        "tommmcgrath/gpt2-small-mlp-out-saes",
        sae_lens_folder(
            "sae_group_gpt2_blocks.1.hook_mlp_out_24576:v0",
            "blocks.1.hook_mlp_out",
            normalize_activations=True,
        ),
        lambda w, x: centred_relu(w, x * TM_SCALE),
        lambda w, features, x: linear(w, features) / TM_SCALE,
        reads="transformer.h.1.mlp:out",
        hook="blocks.1.hook_mlp_out",
        view=lambda x: x - x.mean(-1, keepdim=True),
        mistakes={"the scale is not folded": centred_relu},
    ),
    Published(
        "sae_lens",
        "gpt2-small-resid-post-v5-32k",
        "blocks.1.hook_resid_post",
        "gpt2",
        "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs",
        sae_lens_folder(
            "v5_32k_layer_1.pt",
            "blocks.1.hook_resid_post",
            normalize_activations="layer_norm",
            activation_fn_str="topk",
            activation_fn_kwargs={"k": OPENAI_K},
        ),
        openai_features,
        openai_output,
        reads="transformer.h.1:out",
        hook="blocks.1.hook_resid_post",
        mistakes={"not normalised": lambda w, x: topk(centred_relu(w, x), OPENAI_K)},
    ),
    Published(
        "connor_rob_hook_z",
        "gpt2-small-hook-z-kk",
        "blocks.0.hook_z",
        "gpt2",
        "ckkissane/attn-saes-gpt2-small-all-layers",
        hook_z_config,
        centred_relu,
        linear,
        reads="transformer.h.0.attn.c_proj:in",
        hook="blocks.0.attn.hook_z",
    ),
    Published(
        "gemma_2",
        "gemma-scope-2b-pt-mlp",
        "layer_0/width_16k/average_l0_119",
        "gemma2",
        "google/gemma-scope-2b-pt-mlp",
        write_npz("layer_0/width_16k/average_l0_119"),
        jumprelu,
        linear,
        reads="model.layers.0.post_feedforward_layernorm:out",
        hook="blocks.0.hook_mlp_out",
        weights=with_threshold,
        overrides=SIZES,
        mistakes={"read as ReLU": relu, "b_dec subtracted": centred_jumprelu},
    ),
    Published(
        "gemma_2",
        "gemma-scope-2b-pt-att",
        "layer_0/width_16k/average_l0_104",
        "gemma2",
        "google/gemma-scope-2b-pt-att",
        write_npz("layer_0/width_16k/average_l0_104"),
        jumprelu,
        linear,
        reads="model.layers.0.self_attn.o_proj:in",
        hook="blocks.0.attn.hook_z",
        weights=with_threshold,
        overrides=SIZES,
    ),
    Published(
        "gemma_2",
        "gemma-scope-2b-pt-res",
        "embedding/width_4k/average_l0_6",
        "gemma2",
        "google/gemma-scope-2b-pt-res",
        write_npz("embedding/width_4k/average_l0_6"),
        lambda w, x: jumprelu(w, x / D_MODEL**0.5),  # trained on rows of the table
        lambda w, features, x: (features @ w["W_dec"]) * D_MODEL**0.5 + w["b_dec"],
        reads="model.embed_tokens:out",
        hook="hook_embed",
        weights=with_threshold,
        overrides=SIZES,
        mistakes={"the embedding's scale left out": jumprelu},
    ),
    Published(
        "gemma_3",
        "gemma-scope-2-270m-pt-mlp-all",
        "layer_1_width_16k_l0_big",
        "gemma3",
        "google/gemma-scope-2-270m-pt",
        write_gemma_3(
            "mlp_out_all/layer_1_width_16k_l0_big", 1, "post_feedforward_layernorm.output"
        ),
        jumprelu,
        linear,
        reads="model.layers.1.post_feedforward_layernorm:out",
        hook="blocks.1.hook_mlp_out",
        weights=with_threshold,
    ),
    Published(
        "gemma_3",
        "gemma-scope-2-270m-pt-att-all",
        "layer_1_width_16k_l0_big",
        "gemma3",
        "google/gemma-scope-2-270m-pt",
        write_gemma_3("attn_out_all/layer_1_width_16k_l0_big", 1, "self_attn.o_proj.input"),
        jumprelu,
        linear,
        reads="model.layers.1.self_attn.o_proj:in",
        hook="blocks.1.attn.hook_z",
        weights=with_threshold,
    ),
    Published(
        "gemma_3",
        "gemma-scope-2-270m-pt-transcoders-all",
        "layer_1_width_16k_l0_small_affine",
        "gemma3",
        "google/gemma-scope-2-270m-pt",
        write_gemma_3(
            "transcoder_all/layer_1_width_16k_l0_small_affine",
            1,
            "pre_feedforward_layernorm.output",
            hf_hook_point_out="model.layers.1.post_feedforward_layernorm.output",
            affine_connection=True,
        ),
        jumprelu,
        lambda w, features, x: linear(w, features) + x @ w["affine_skip_connection"],
        reads="model.layers.1.pre_feedforward_layernorm:out",
        writes="model.layers.1.post_feedforward_layernorm:out",
        hook="blocks.1.mlp.hook_in",
        weights=affine_weights,
    ),
    Published(
        "llama_scope",
        "llama_scope_lxr_8x",
        "l0r_8x",
        "llama",
        "fnlp/Llama3_1-8B-Base-LXR-8x",
        write_llama_scope("l0r_8x", "Llama3_1-8B-Base-L0R-8x", "blocks.0.hook_resid_post"),
        llama_scope_features(llama_scope_scale("l0r_8x")),
        scaled_output(llama_scope_scale("l0r_8x")),
        reads="model.layers.0:out",
        hook="blocks.0.hook_resid_post",
        weights=bfloat16_weights,
        mistakes={"the scale is not folded": relu},
    ),
    Published(
        "llama_scope",
        "llama_scope_lxm_8x",
        "l0m_8x",
        "llama",
        "fnlp/Llama3_1-8B-Base-LXM-8x",
        write_llama_scope("l0m_8x", "Llama3_1-8B-Base-L0M-8x", "blocks.0.hook_mlp_out"),
        llama_scope_features(llama_scope_scale("l0m_8x")),
        scaled_output(llama_scope_scale("l0m_8x")),
        reads="model.layers.0.mlp:out",
        hook="blocks.0.hook_mlp_out",
        weights=bfloat16_weights,
    ),
    Published(
        "llama_scope_r1_distill",
        "llama_scope_r1_distill",
        "l0r_800m_slimpajama",
        "llama",
        "fnlp/Llama-Scope-R1-Distill",
        write_r1,
        r1_features,
        scaled_output(R1_SCALE),
        reads="model.layers.0:out",
        hook="blocks.0.hook_resid_post",
        weights=with_threshold,
        mistakes={"threshold without the rows' norms": lambda w, x: jumprelu(w, x * R1_SCALE)},
    ),
    dictionary(
        "AutoEncoder",
        "sae_bench_gemma-2-2b_vanilla_width-2pow12_date-1109",
        "canrager/saebench_gemma-2-2b_width-2pow12_date-1109",
        "gemma-2-2b_vanilla_width-2pow12_date-1109",
        centred_relu,
        lambda w: transposed(w) | {"bias": w["b_dec"]},
        not_subtracted=relu,
    ),
    dictionary(
        "AutoEncoderTopK",
        "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109",
        "canrager/saebench_gemma-2-2b_width-2pow12_date-1109",
        "gemma-2-2b_topk_width-2pow12_date-1109",
        lambda w, x: topk(centred_relu(w, x), DICTIONARY_K),
        topk_keys,
        by_its_threshold=lambda w, x: centred_jumprelu(w | {"threshold": BATCH_THRESHOLD}, x),
    ),
    dictionary(
        "BatchTopKSAE",
        "sae_bench_gemma-2-2b_topk_width-2pow14_date-1109",
        "canrager/saebench_gemma-2-2b_width-2pow14_date-1109",
        "gemma-2-2b_topk_width-2pow14_date-1109",
        lambda w, x: centred_jumprelu(w | {"threshold": BATCH_THRESHOLD}, x),
        topk_keys,
        read_as_relu=centred_relu,
    ),
    dictionary(
        "GatedAutoEncoder",
        "sae_bench_gemma-2-2b_vanilla_width-2pow14_date-1109",
        "canrager/saebench_gemma-2-2b_width-2pow14_date-1109",
        "gemma-2-2b_vanilla_width-2pow14_date-1109",
        gated,
        gated_keys,
        gated_weights,
    ),
    dictionary(
        "JumpReluAutoEncoder",
        "sae_bench_gemma-2-2b_topk_width-2pow16_date-1109",
        "canrager/saebench_gemma-2-2b_width-2pow16_date-1109",
        "gemma-2-2b_topk_width-2pow16_date-1109",
        jumprelu,
        dict,
        with_threshold,
        subtracted=centred_jumprelu,
    ),
    dictionary(
        "MatryoshkaBatchTopKSAE",
        "saebench_gemma-2-2b_width-2pow12_date-0108",
        "adamkarvonen/saebench_gemma-2-2b_width-2pow12_date-0108",
        "MatryoshkaBatchTopK_gemma-2-2b__0108",
        lambda w, x: centred_jumprelu(w | {"threshold": BATCH_THRESHOLD}, x),
        matryoshka_keys,
        read_as_relu=centred_relu,
    ),
    Published(
        "deepseek_r1",
        "deepseek-r1-distill-llama-8b-qresearch",
        "blocks.19.hook_resid_post",
        "llama",
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
        write_pt(
            "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
            lambda w: transposed(w) | {"decoder.bias": w["b_dec"]},
        ),
        relu,
        linear,
        reads="model.layers.19:out",
        hook="blocks.19.hook_resid_post",
        overrides=SIZES,
        mistakes={"b_dec subtracted": centred_relu},
    ),
    Published(
        "qwen_scope",
        "qwen-scope-3-1.7b-base-w32k-l50",
        "layer1",
        "qwen3",
        "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50",
        write_pt(
            "layer1.sae.pt",
            lambda w: w | {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T},
        ),
        lambda w, x: topk(relu(w, x), QWEN_K),
        linear,
        reads="model.layers.1:out",
        hook="blocks.1.hook_resid_post",
        weights=lambda: sae_tensors(D_MODEL, 2 * D_SAE),
        overrides={"d_in": D_MODEL, "d_sae": 2 * D_SAE},
        mistakes={"read as ReLU": relu},
    ),
    Published(
        "sparsify",
        "sparsify-of-the-tests",
        "layers.1",
        "gpt2",
        "EleutherAI/sae-of-the-tests",
        write_sparsify,
        lambda w, x: topk(centred_relu(w, x), SPARSIFY_K),
        linear,
        reads="transformer.h.1:out",
        hook="blocks.1.hook_resid_post",
        overrides={"context_size": 64, "model_name": "gpt2"},
        mistakes={"b_dec not subtracted": lambda w, x: topk(relu(w, x), SPARSIFY_K)},
    ),
    Published(
        "gemma_2_transcoder",
        "gemma-scope-2b-pt-transcoders",
        "layer_0/width_16k/average_l0_76",
        "gemma2",
        "google/gemma-scope-2b-pt-transcoders",
        write_npz("layer_0/width_16k/average_l0_76"),
        jumprelu,
        linear,
        reads="model.layers.0.pre_feedforward_layernorm:in",
        view=rms_normed,
        writes="model.layers.0.post_feedforward_layernorm:out",
        hook="blocks.0.ln2.hook_normalized",
        weights=with_threshold,
        overrides=SIZES | {"d_out": D_MODEL},
    ),
    Published(
        "mwhanna_transcoder",
        "mwhanna-qwen3-0.6b-transcoders-lowl0",
        "layer_1",
        "qwen3",
        "mwhanna/qwen3-0.6b-transcoders-lowl0",
        write_mwhanna,
        relu,
        linear,
        reads="model.layers.1.mlp:in",
        writes="model.layers.1.mlp:out",
        hook="blocks.1.mlp.hook_in",
        mistakes={"b_dec subtracted": centred_relu},
    ),
    Published(
        "mntss_clt_layer_transcoder",
        "mntss-gemma-2-2b-2.5m-clt-as-per-layer",
        "layer_10",
        "gemma2",
        "mntss/clt-gemma-2-2b-2.5M",
        write_clt,
        relu,
        lambda w, features, x: features @ w["W_dec"].sum(1) + w["b_dec"],
        reads="model.layers.10.pre_feedforward_layernorm:in",
        writes="model.layers.10.post_feedforward_layernorm:out",
        hook="blocks.10.hook_resid_mid",
        weights=clt_weights,
        refused=("one layer of a cross-layer transcoder", "logit_effect"),
    ),
    Published(
        "temporal",
        "temporal-sae-gemma-2-2b",
        LAYER_12,
        "gemma2",
        "canrager/temporalSAEs",
        write_temporal,
        temporal_features,
        lambda w, features, x: x,  # it decodes more than its features
        reads="model.layers.12:out",
        hook=LAYER_12,
        weights=temporal_weights,
        refused=("temporal", "feature_activations"),
    ),
    Published(
        "goodfire",
        "goodfire-llama-3.1-8b-instruct",
        "layer_19",
        "llama",
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l19",
        write_pt(
            "Llama-3.1-8B-Instruct-SAE-l19.pth",
            lambda w: {
                "encoder_linear.weight": w["W_enc"].T,
                "encoder_linear.bias": w["b_enc"],
                "decoder_linear.weight": w["W_dec"].T,
                "decoder_linear.bias": w["b_dec"],
            },
        ),
        relu,
        linear,
        reads="model.layers.19:out",
        hook="blocks.19.hook_resid_post",
        overrides=SIZES,
        mistakes={"b_dec subtracted": centred_relu},
    ),
]
