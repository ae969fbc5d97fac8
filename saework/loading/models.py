"""Models from files on this machine; no network.

Hugging Face folders go through ``TransformerBridge``. So do Neel Nanda's models in TransformerLens
4; TransformerLens 3 loads them through ``HookedTransformer`` only.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.core.machine_errors import check_not_the_machine
from saework.engine.left_out import hold_rows, leave_out
from saework.loading.cut_models import MODEL_CLASSES, TEXT_PARTS, FirstBlocks
from saework.loading.outside_code import no_programs_started, refuse_own_code
from saework.loading.weights_files import check_shapes, read_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    from saework.core.protocols import Tokenizer

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
OPTIONAL_FILES = ("*.safetensors.index.json", "generation_config.json")
"""Fetched with the model where they exist."""
SHARD_BY_SHARD = ("cuda",)
"""Kinds of device to which weights go tensor by tensor, never whole through host memory."""
CPU = torch.device("cpu")


def huggingface_model(
    folder: str | Path,
    tokenizer: Tokenizer | None,
    *,
    dtype: torch.dtype = torch.float32,
    centred: bool = False,
    blocks: FirstBlocks | None = None,
    device: torch.device = CPU,
) -> TransformerBridge:
    """A ``TransformerBridge`` of a Hugging Face folder: its own weights.

    Of a Gemma 3 that also reads images only the text part is read; it gives the same logits. The
    folder's own Python code is never run, and no program is started (``pip``, for example).

    Memory: the weights once, in ``dtype``, on the device; a GPU gets them tensor by tensor.

    Args:
        folder: with ``config.json`` and the weights.
        tokenizer: the model's.
        dtype: of the weights in memory.
        centred: centre what is written to the residual stream; otherwise nothing is processed.
        blocks: hold only these, without what follows them; None holds all.
        device: where the weights go.

    Raises:
        WeightsError: for damaged files, where weights are missing or of another shape, or for a
            model that is Python code of its own repository.
        NotAvailableError: too little memory, or a GPU that fails.
    """
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge

    config = refuse_own_code(Path(folder) / "config.json", MODEL_CLASSES)
    if "model_type" not in config:
        raise WeightsError(
            f"{folder}/config.json names no model_type; it is not of Hugging Face's layout"
        )
    # TransformerLens gives a tokenizer without a BOS its EOS in place of one. This keeps ours.
    own_tokenizer: Any = copy.deepcopy(tokenizer)
    try:
        with _quiet():
            placed = device if device.type in SHARD_BY_SHARD else CPU
            loaded = _transformers_model(folder, config["model_type"], dtype, blocks, placed)
            with no_programs_started():
                model = TransformerBridge.boot_transformers(
                    str(folder),
                    dtype=dtype,
                    device=str(placed),
                    tokenizer=own_tokenizer,
                    hf_model=loaded,
                    trust_remote_code=False,
                )
    except (SafetensorError, OSError, RuntimeError, MemoryError) as error:
        check_not_the_machine(error)
        raise WeightsError(
            f"the weights in {folder} are damaged or of another model ({error}); "
            "delete them and download them again"
        ) from error
    if tokenizer is not None and tokenizer.bos_token_id is None:
        cast("Any", model.tokenizer).bos_token = None
    if centred:
        model.enable_compatibility_mode(
            fold_ln=False,
            center_writing_weights=True,
            center_unembed=False,
            fold_value_biases=False,
        )
    model.eval().requires_grad_(False)
    if blocks is not None:
        leave_out(
            model,
            n_blocks_held=blocks.n_blocks,
            n_blocks=blocks.n_blocks_of_whole,
            depth=blocks.depth,
        )
        if blocks.rows is not None:
            hold_rows(model, blocks.rows.token_ids, blocks.rows.d_vocab, tokenizer)
    if placed != device:
        model.to(device)
    return model


def _transformers_model(
    folder: str | Path,
    model_type: str,
    dtype: torch.dtype,
    blocks: FirstBlocks | None,
    device: torch.device,
) -> Any:
    """The folder's language model as transformers reads it.

    Raises:
        WeightsError: where weights are missing or of another shape.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {}
    if model_type in TEXT_PARTS:
        whole = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        options = {"config": whole.get_text_config(), "key_mapping": TEXT_PARTS[model_type]}
    if blocks is not None:
        options["config"] = blocks.config
    if device != CPU:
        options["device_map"] = {"": device}
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained  # its types forget the report
    loaded, report = from_pretrained(
        str(folder),
        dtype=dtype,
        attn_implementation="eager",  # as the bridge itself asks for
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    unused = frozenset() if blocks is None else blocks.behind
    if blocks is not None and blocks.rows is not None:
        unused |= {blocks.embedding}
        values = blocks.rows.values.to(device, dtype)
        loaded.get_input_embeddings().weight = torch.nn.Parameter(values)
    _check_loading(report, folder, unused)
    if not loaded.config.architectures:
        loaded.config.architectures = [type(loaded).__name__]  # the bridge goes by this name
    return loaded


def _check_loading(report: Mapping[str, Any], folder: str | Path, unused: Collection[str]) -> None:
    """Refuse what transformers would fill with random numbers, except where it is not used."""
    for name, stored, expected in sorted(report["mismatched_keys"]):
        if name in unused:
            continue
        raise WeightsError(
            f"{folder}: {name} has shape {tuple(stored)}, its config says {tuple(expected)}; "
            "it belongs to another model"
        )
    missing = sorted(set(report["missing_keys"]) - set(unused))
    if missing:
        raise WeightsError(
            f"the weights in {folder} lack {len(missing)} of the model's tensors "
            f"({missing[0]}, for example); download them again"
        )


@contextmanager
def _quiet() -> Iterator[None]:
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
    config: Mapping[str, Any],
    *,
    processed: bool = True,
    tokenizer: Tokenizer | None = None,
    init_weights: bool = False,
) -> HookedTransformer:
    """An empty ``HookedTransformer`` for a ``config.json`` of Neel Nanda's layout.

    Args:
        config: what the file holds.
        processed: make room for TransformerLens's default processing (the final norm folded in).
        tokenizer: the model's.
        init_weights: draw random weights, for training.

    Raises:
        WeightsError: for a config of another layout.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    check_neel_config(config)
    cfg = HookedTransformerConfig(
        **{key: config[key] for key in NEEL_CONFIG_KEYS},
        model_name=config.get("name", "neel"),
        normalization_type="LNPre" if processed else "LN",
        positional_embedding_type="shortformer" if config.get("shortformer_pos") else "standard",
        init_weights=init_weights,
        device="cpu",
    )
    with warnings.catch_warnings():
        # TransformerLens 3 deprecates the class, but loads this layout in no other way.
        warnings.simplefilter("ignore", DeprecationWarning)
        return HookedTransformer(cfg, tokenizer=cast("Any", tokenizer))


def check_neel_config(config: Mapping[str, Any]) -> None:
    """Raises WeightsError for a ``config.json`` that is not of Neel Nanda's layout."""
    missing = [key for key in NEEL_CONFIG_KEYS if key not in config]
    if missing:
        raise WeightsError(
            f"config.json lacks {', '.join(missing)}; it is not of Neel Nanda's model layout"
        )
    normalization = config.get("normalization", config.get("normalization_type"))
    if normalization != "LN":
        raise WeightsError(
            f"config.json says normalization {normalization!r}; this layout has 'LN' "
            "(it belongs to another model)"
        )
    if config.get("shortformer_pos") not in (True, False, None):  # a word would be taken for true
        raise WeightsError(
            f"config.json says shortformer_pos {config['shortformer_pos']!r}; it is true or false"
        )


def neel_bridge(
    config: Mapping[str, Any], state: dict[str, Tensor], tokenizer: Tokenizer | None
) -> TransformerBridge:
    """A bridge with these weights and the default processing; TransformerLens 4.

    Raises:
        WeightsError: for Shortformer's positions, which the bridge does not have.
    """
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    check_neel_config(config)
    if config.get("shortformer_pos"):
        raise WeightsError(
            "config.json says shortformer_pos, which TransformerLens 4 does not have; "
            "run: pip install 'transformer_lens<4'"
        )
    cfg = TransformerBridgeConfig(
        **{key: config[key] for key in NEEL_CONFIG_KEYS},
        normalization_type="LN",
        positional_embedding_type="standard",
        architecture="TransformerLensNative",
    )
    name = config.get("name", "neel")
    bridge = TransformerBridge.boot_native(cfg, tokenizer=tokenizer, device="cpu", model_name=name)
    bridge.load_state_dict(convert_tl_checkpoint(state, cfg), strict=True)
    bridge.enable_compatibility_mode()
    return bridge


def has_hooked_transformer() -> bool:
    """Whether TransformerLens is older than version 4."""
    return int(version("transformer_lens").partition(".")[0]) < 4


def neel_model(
    config_path: str | Path, weights_path: str | Path, tokenizer: Tokenizer | None
) -> HookedTransformer | TransformerBridge:
    """The model with TransformerLens's default processing, as the published notebook loaded it.

    Weights may be stored in float16; they are used in float32.

    Raises:
        WeightsError: for keys or shapes other than the config's.
    """
    config = read_json(config_path)
    check_neel_config(config)
    state = {
        name: value.float()
        for name, value in read_tensors(weights_path).items()
        if not _is_buffer(name)
    }
    check_shapes(state, neel_shapes(config), weights_path)
    if not has_hooked_transformer():
        return neel_bridge(config, state, tokenizer).eval().requires_grad_(False)
    model = neel_model_shell(config, tokenizer=tokenizer)
    model.load_and_process_state_dict(state)
    return model.eval().requires_grad_(False)


def _is_buffer(name: str) -> bool:
    """Whether older files carry it though it is no weight."""
    return name.endswith((".attn.mask", ".attn.IGNORE"))


def neel_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every key of ``model_final.pth`` and its shape."""
    d_model, d_mlp, d_vocab = config["d_model"], config["d_mlp"], config["d_vocab"]
    n_heads, d_head = config["n_heads"], config["d_head"]
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (d_vocab, d_model),
        "pos_embed.W_pos": (config["n_ctx"], d_model),
        "unembed.W_U": (d_model, d_vocab),
        "unembed.b_U": (d_vocab,),
        "ln_final.w": (d_model,),
        "ln_final.b": (d_model,),
    }
    block: dict[str, tuple[int, ...]] = {
        **{f"attn.W_{part}": (n_heads, d_model, d_head) for part in "QKV"},
        **{f"attn.b_{part}": (n_heads, d_head) for part in "QKV"},
        "attn.W_O": (n_heads, d_head, d_model),
        "attn.b_O": (d_model,),
        "ln1.w": (d_model,),
        "ln1.b": (d_model,),
        "ln2.w": (d_model,),
        "ln2.b": (d_model,),
        "mlp.W_in": (d_model, d_mlp),
        "mlp.b_in": (d_mlp,),
        "mlp.W_out": (d_mlp, d_model),
        "mlp.b_out": (d_model,),
    }
    for i in range(config["n_layers"]):
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    return shapes
