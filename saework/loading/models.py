"""Published model layouts to TransformerLens models, and their tokenizers; no network.

One function chooses: Neel Nanda's layout goes through ``HookedTransformer``, since TransformerLens 3
loads it no other way, and a Hugging Face folder through ``TransformerBridge``.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.loading.layouts import check_shapes, read_tensors

NEEL_CONFIG_KEYS = (
    "d_model",
    "n_layers",
    "d_mlp",
    "d_head",
    "n_heads",
    "n_ctx",
    "d_vocab",
    "act_fn",
    "attn_only",
)


def read_model(
    folder: str | Path,
    tokenizer,
    *,
    layout: str,
    dtype: torch.dtype = torch.float32,
    centred: bool = False,
):
    """The model of a folder, on the CPU, ready to run.

    Args:
        layout: ``neel`` (``config.json``, ``model_final.pth``) or ``huggingface``.
        centred: centre what is written to the residual stream, as ``HookedTransformer`` does by default,
            for SAEs that were trained on that (their config says so). ``neel`` models always are.

    Raises: WeightsError for damaged files, or those of another layout.
    """
    folder = Path(folder)
    if layout == "neel":
        model = neel_model(folder / "config.json", folder / "model_final.pth", tokenizer)
        model.to(dtype, print_details=False)
        return model
    model = huggingface_model(folder, tokenizer, dtype=dtype)
    if centred:
        model.enable_compatibility_mode(
            fold_ln=False,
            center_writing_weights=True,
            center_unembed=False,
            fold_value_biases=False,
        )
    return model


def huggingface_model(folder: str | Path, tokenizer, *, dtype: torch.dtype = torch.float32):
    """A ``TransformerBridge`` of a Hugging Face folder: its own weights, unprocessed.

    Memory: the weights once, in ``dtype``.
    Raises: WeightsError for damaged files, or where weights are missing or of another shape.
    """
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    config = read_json(Path(folder) / "config.json")
    if "model_type" not in config:
        raise WeightsError(
            f"{folder}/config.json names no model_type; it is not of Hugging Face's layout"
        )
    try:
        with _quiet():  # eager attention, as the bridge itself asks for
            loaded, report = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                attn_implementation="eager",
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
            for name, stored, expected in sorted(report["mismatched_keys"]):
                raise WeightsError(
                    f"{folder}: {name} has shape {tuple(stored)}, its config says {tuple(expected)}; it belongs to another model"
                )
            missing = sorted(report["missing_keys"])
            if missing:  # they would be random numbers
                raise WeightsError(
                    f"the weights in {folder} lack {len(missing)} of the model's tensors ({missing[0]}, for one); download them again"
                )
            model = TransformerBridge.boot_transformers(
                str(folder), dtype=dtype, device="cpu", tokenizer=tokenizer, hf_model=loaded
            )
    except (SafetensorError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"the weights in {folder} are damaged or of another model ({error}); delete them and download them again"
        ) from error
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet():
    """No bars and tables of transformers: what matters of them is raised."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def neel_model_shell(
    config: dict, *, processed: bool = True, tokenizer=None, init_weights: bool = False
):
    """An empty ``HookedTransformer`` for a ``config.json`` of Neel Nanda's layout.

    ``processed`` makes room for TransformerLens's default processing (the final norm folded in).
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    missing = [key for key in NEEL_CONFIG_KEYS if key not in config]
    if missing:
        raise WeightsError(
            f"config.json lacks {', '.join(missing)}; it is not of Neel Nanda's model layout"
        )
    normalization = config.get("normalization", config.get("normalization_type"))
    if normalization != "LN":
        raise WeightsError(
            f"config.json says normalization {normalization!r}; this layout has 'LN' (it belongs to another model)"
        )
    cfg = HookedTransformerConfig(
        **{key: config[key] for key in NEEL_CONFIG_KEYS},
        model_name=config.get("name", "neel"),
        normalization_type="LNPre" if processed else "LN",
        positional_embedding_type="shortformer" if config.get("shortformer_pos") else "standard",
        init_weights=init_weights,
        device="cpu",
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # TransformerLens 3 has no other way to load this layout
        return HookedTransformer(cfg, tokenizer=tokenizer)


def neel_model(config_path: str | Path, weights_path: str | Path, tokenizer):
    """The model with TransformerLens's default processing, as the published notebook loaded it.

    Weights may be stored in float16; they are used in float32.
    Raises: WeightsError for keys or shapes other than the config's.
    """
    config = read_json(config_path)
    model = neel_model_shell(config, tokenizer=tokenizer)
    state = {
        name: value.float()
        for name, value in read_tensors(weights_path).items()
        if not _is_buffer(name)
    }
    check_shapes(state, neel_shapes(config), weights_path)
    model.load_and_process_state_dict(state)
    return model.eval().requires_grad_(False)


def _is_buffer(name: str) -> bool:
    return name.endswith((".attn.mask", ".attn.IGNORE"))


def neel_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every key of ``model_final.pth`` and its shape."""
    d, m, v = config["d_model"], config["d_mlp"], config["d_vocab"]
    h, k = config["n_heads"], config["d_head"]
    shapes = {
        "embed.W_E": (v, d),
        "pos_embed.W_pos": (config["n_ctx"], d),
        "unembed.W_U": (d, v),
        "unembed.b_U": (v,),
    }
    shapes |= {"ln_final.w": (d,), "ln_final.b": (d,)}
    for i in range(config["n_layers"]):
        block = {f"attn.W_{x}": (h, d, k) for x in "QKV"} | {f"attn.b_{x}": (h, k) for x in "QKV"}
        block |= {
            "attn.W_O": (h, k, d),
            "attn.b_O": (d,),
            "ln1.w": (d,),
            "ln1.b": (d,),
            "ln2.w": (d,),
            "ln2.b": (d,),
        }
        block |= {"mlp.W_in": (d, m), "mlp.b_in": (m,), "mlp.W_out": (m, d), "mlp.b_out": (d,)}
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes


def read_tokenizer(folder: str | Path):
    """The fast tokenizer of a folder with ``tokenizer.json``, and its special tokens.

    Raises: WeightsError if a file is damaged, or a special token that the layout needs is missing.
    """
    from transformers import PreTrainedTokenizerFast

    special_file = Path(folder) / "special_tokens_map.json"
    listed = (
        read_json(special_file) if special_file.exists() else {}
    )  # newer layouts name them in tokenizer_config.json
    try:
        named = {
            key: listed[key]
            for key in ("bos_token", "eos_token", "pad_token", "unk_token")
            if listed.get(key)
        }
        special = {
            key: value["content"] if isinstance(value, dict) else value
            for key, value in named.items()
        }
        loaded = PreTrainedTokenizerFast.from_pretrained(
            str(folder), clean_up_tokenization_spaces=False, **special
        )
    except (
        Exception
    ) as error:  # the tokenizers library raises nothing more precise for a damaged file
        raise WeightsError(
            f"the tokenizer in {folder} is damaged ({type(error).__name__}: {error}); delete it and download it again"
        ) from error
    if loaded.bos_token_id is None or loaded.eos_token_id is None:
        raise WeightsError(
            f"the tokenizer in {folder} names no BOS or EOS token; its special_tokens_map.json is not of this layout"
        )
    return loaded
