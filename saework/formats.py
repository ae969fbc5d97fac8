"""Published file layouts to TransformerLens models and sae_lens SAEs; no network.

Every key and shape is checked here, since the libraries ignore unknown keys and fill missing ones
without a word, and every weights file is read with ``weights_only=True``.
"""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import torch

from saework._checks import WeightsError, check_finite

NEEL_CONFIG_KEYS = ("d_model", "n_layers", "d_mlp", "d_head", "n_heads", "n_ctx", "d_vocab", "act_fn", "attn_only")


def read_json(path: str | Path) -> dict:
    """A JSON object. Raises: WeightsError if the file is damaged."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is not JSON ({error}); delete it and download it again") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds a {type(value).__name__}, not an object; delete it and download it again")
    return value


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.pt`` or ``.pth`` file by name; nothing in it is executed.

    Raises: WeightsError if the file is truncated, or holds more than tensors.
    """
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if path.open("rb").read(4).startswith((b"PK\x03\x04", b"\x80")):  # a zip or a pickle as it should be, so not damage
            raise WeightsError(
                f"{path} holds more than tensors, and loading that would run code from the file; refused. "
                "Get the weights from the published repository"
            ) from error
        raise WeightsError(_damaged(path, error)) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(_damaged(path, error)) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path} does not hold named tensors; it is not a weights file of this layout")
    return state


def _damaged(path: Path, error: Exception) -> str:
    size = path.stat().st_size if path.exists() else 0
    return f"{path} ({size:,} bytes) is truncated or damaged ({type(error).__name__}); delete it and download it again"


def _check_shapes(state: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], path) -> None:
    missing, extra = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    if missing or extra:
        raise WeightsError(
            f"{path} does not have the keys of its layout (missing: {missing or 'none'}; unknown: {extra or 'none'}); "
            "it belongs to another model"
        )
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise WeightsError(f"{path}: {name} has shape {tuple(state[name].shape)}, its config says {shape}; it belongs to another model")
        check_finite(state[name], f"{path}: {name}")


# ---- Neel Nanda's models: NeelNanda/GELU_1L512W_C4_Code ----


def neel_model_shell(config: dict, *, processed: bool = True, tokenizer=None, init_weights: bool = False):
    """An empty ``HookedTransformer`` for a ``config.json`` of Neel Nanda's layout.

    ``processed`` makes room for TransformerLens's default processing (the final norm folded in).
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    missing = [key for key in NEEL_CONFIG_KEYS if key not in config]
    if missing:
        raise WeightsError(f"config.json lacks {', '.join(missing)}; it is not of Neel Nanda's model layout")
    normalization = config.get("normalization", config.get("normalization_type"))
    if normalization != "LN":
        raise WeightsError(f"config.json says normalization {normalization!r}; this layout has 'LN' (it belongs to another model)")
    cfg = HookedTransformerConfig(
        **{key: config[key] for key in NEEL_CONFIG_KEYS},
        model_name=config.get("name", "neel"),
        normalization_type="LNPre" if processed else "LN",
        positional_embedding_type="shortformer" if config.get("shortformer_pos") else "standard",
        init_weights=init_weights,
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TransformerLens 3 has no other way to load this layout
        return HookedTransformer(cfg, tokenizer=tokenizer)


def neel_model(config_path: str | Path, weights_path: str | Path, tokenizer):
    """The model with TransformerLens's default processing, as the published notebook loaded it.

    Weights may be stored in float16; they are used in float32.
    Raises: WeightsError for keys or shapes other than the config's.
    """
    config = read_json(config_path)
    model = neel_model_shell(config, tokenizer=tokenizer)
    state = {name: value.float() for name, value in read_tensors(weights_path).items() if not _is_buffer(name)}
    _check_shapes(state, neel_shapes(config), weights_path)
    model.load_and_process_state_dict(state)
    return model.eval().requires_grad_(False)


def _is_buffer(name: str) -> bool:
    return name.endswith((".attn.mask", ".attn.IGNORE"))


def neel_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every key of ``model_final.pth`` and its shape."""
    d, m, v = config["d_model"], config["d_mlp"], config["d_vocab"]
    h, k = config["n_heads"], config["d_head"]
    shapes = {"embed.W_E": (v, d), "pos_embed.W_pos": (config["n_ctx"], d), "unembed.W_U": (d, v), "unembed.b_U": (v,)}
    shapes |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    for i in range(config["n_layers"]):
        block = {f"attn.W_{x}": (h, d, k) for x in "QKV"} | {f"attn.b_{x}": (h, k) for x in "QKV"}
        block |= {"attn.W_O": (h, k, d), "attn.b_O": (d,), "ln1.w": (d,), "ln1.b": (d,), "ln2.w": (d,), "ln2.b": (d,)}
        block |= {"mlp.W_in": (d, m), "mlp.b_in": (m,), "mlp.W_out": (m, d), "mlp.b_out": (d,)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes


# ---- Neel Nanda's SAEs: NeelNanda/sparse_autoencoder ----


def neel_sae(config_path: str | Path, weights_path: str | Path, *, hook: str):
    """A ``StandardSAE`` equal to the published ``AutoEncoder``: ``relu((x - b_dec) W_enc + b_enc) W_dec + b_dec``.

    Decoder rows are not of unit norm (a known bug of that training) and are left as they are.
    Raises: WeightsError for keys or shapes other than the config's.
    """
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    config = read_json(config_path)
    missing = [key for key in ("d_mlp", "dict_mult") if key not in config]
    if missing:
        raise WeightsError(f"{config_path} lacks {', '.join(missing)}; it is not of the layout of NeelNanda/sparse_autoencoder")
    d_in, d_sae = config["d_mlp"], config["d_mlp"] * config["dict_mult"]
    state = {name: value.float() for name, value in read_tensors(weights_path).items()}
    _check_shapes(state, {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}, weights_path)
    with torch.device("meta"):  # the weights come from the file: no need to draw random ones first
        sae = StandardSAE(
            StandardSAEConfig(
                d_in=d_in,
                d_sae=d_sae,
                apply_b_dec_to_input=True,
                normalize_activations="none",
                metadata=SAEMetadata(hook_name=hook),
            )
        )
    sae.load_state_dict(state, assign=True)
    return sae.eval().requires_grad_(False)


def tokenizer(folder: str | Path):
    """The fast tokenizer of a folder with ``tokenizer.json`` and ``special_tokens_map.json``.

    Raises: WeightsError if a file is damaged, or a special token that the layout needs is missing.
    """
    from transformers import PreTrainedTokenizerFast

    special = read_json(Path(folder) / "special_tokens_map.json")
    try:
        loaded = PreTrainedTokenizerFast.from_pretrained(str(folder), clean_up_tokenization_spaces=False, **special)
    except Exception as error:  # the tokenizers library raises nothing more precise for a damaged file
        raise WeightsError(f"the tokenizer in {folder} is damaged ({type(error).__name__}: {error}); delete it and download it again") from error
    if loaded.bos_token_id is None or loaded.eos_token_id is None:
        raise WeightsError(f"the tokenizer in {folder} names no BOS or EOS token; its special_tokens_map.json is not of this layout")
    return loaded
