"""Published SAE file layouts to sae_lens SAEs; no network.

Every key and shape is checked here, since the libraries ignore unknown keys and fill missing ones
without a word, and every weights file is read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from saework.core.arguments import check_finite
from saework.core.errors import HookError, WeightsError
from saework.core.files import read_json

_REFUSED = "{} holds more than {}, and loading that would run code from the file; refused. Get the weights from the published repository"


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.pt`` or ``.pth`` file by name; nothing in it is executed.

    Raises: WeightsError if the file is truncated, or holds more than tensors.
    """
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (
            path.open("rb").read(4).startswith((b"PK\x03\x04", b"\x80"))
        ):  # a zip or a pickle as it should be, so not damage
            raise WeightsError(_REFUSED.format(path, "tensors")) from error
        raise WeightsError(_damaged(path, error)) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(_damaged(path, error)) from error
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise WeightsError(
            f"{path} does not hold named tensors; it is not a weights file of this layout"
        )
    return state


def _damaged(path: Path, error: Exception) -> str:
    size = path.stat().st_size if path.exists() else 0
    return f"{path} ({size:,} bytes) is truncated or damaged ({type(error).__name__}); delete it and download it again"


def check_shapes(state: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], path) -> None:
    """Raise WeightsError unless the tensors have just these names and shapes, and are finite."""
    missing, extra = sorted(shapes.keys() - state.keys()), sorted(state.keys() - shapes.keys())
    if missing or extra:
        raise WeightsError(
            f"{path} does not have the keys of its layout (missing: {missing or 'none'}; unknown: {extra or 'none'}); "
            "it belongs to another model, or is not whole: download it again"
        )
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise WeightsError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, its config says {shape}; it belongs to another model"
            )
        check_finite(state[name], f"{path}: {name}")


# ---- SAEs, a function a layout ----


def neel_sae(config_path: str | Path, weights_path: str | Path, *, hook: str):
    """Neel Nanda's (``NeelNanda/sparse_autoencoder``): ``relu((x - b_dec) W_enc + b_enc) W_dec + b_dec``.

    Equal to the published ``AutoEncoder``. Decoder rows are not of unit norm (a known bug of that
    training) and are left as they are.
    Raises: WeightsError for keys or shapes other than the config's.
    """
    config = read_json(config_path)
    missing = [key for key in ("d_mlp", "dict_mult") if key not in config]
    if missing:
        raise WeightsError(
            f"{config_path} lacks {', '.join(missing)}; it is not of the layout of NeelNanda/sparse_autoencoder"
        )
    d_in, d_sae = config["d_mlp"], config["d_mlp"] * config["dict_mult"]
    state = {name: value.float() for name, value in read_tensors(weights_path).items()}
    check_shapes(state, _sae_shapes(d_in, d_sae), weights_path)
    return _sae("standard", state, hook=hook, subtract_b_dec=True)


def gemma_scope_sae(path: str | Path, *, hook: str):
    """Gemma Scope's ``params.npz``: ``a = x W_enc + b_enc``, kept where ``a > threshold``; ``a W_dec + b_dec``.

    The width comes from the file, where sae_lens takes it from the folder's name.
    Raises: WeightsError if a key is missing (``threshold``, for one), or shapes do not fit together.
    Source: Lieberum et al., "Gemma Scope" (2024).
    """
    state = _read_npz(path)
    if "W_enc" not in state or state["W_enc"].ndim != 2:
        raise WeightsError(
            f"{path} has no matrix W_enc (it has {sorted(state)}); it is not of Gemma Scope's layout"
        )
    d_in, d_sae = state["W_enc"].shape
    check_shapes(state, _sae_shapes(d_in, d_sae) | {"threshold": (d_sae,)}, path)
    return _sae("jumprelu", state, hook=hook, subtract_b_dec=False)


def qresearch_sae(path: str | Path, *, hook: str):
    """qresearch's ``.pt``, two linear layers: ``relu(encoder(x))``, ``decoder(...)``; ``b_dec`` is not subtracted.

    Raises: WeightsError for other keys, or shapes that do not fit together.
    """
    state = read_tensors(path)
    if "encoder.weight" not in state or state["encoder.weight"].ndim != 2:
        raise WeightsError(
            f"{path} has no matrix encoder.weight (it has {sorted(state)[:6]}); it is not of qresearch's layout"
        )
    d_sae, d_in = state["encoder.weight"].shape
    shapes = {
        "encoder.weight": (d_sae, d_in),
        "encoder.bias": (d_sae,),
        "decoder.weight": (d_in, d_sae),
        "decoder.bias": (d_in,),
    }
    check_shapes(state, shapes, path)
    renamed = {
        "W_enc": state["encoder.weight"].T,
        "W_dec": state["decoder.weight"].T,
        "b_enc": state["encoder.bias"],
        "b_dec": state["decoder.bias"],
    }
    return _sae(
        "standard",
        {name: value.float().contiguous() for name, value in renamed.items()},
        hook=hook,
        subtract_b_dec=False,
    )


def sae_lens_sae(folder: str | Path, *, scale: float | None = None):
    """sae_lens's own folder, Joseph Bloom's among them: ``cfg.json``, ``sae_weights.safetensors``; the hook is in it.

    Args: ``scale``: the factor that brings activations to the norm that the SAE was trained at, where
        the config asks for one; it is folded into the weights.
    Raises: WeightsError if a file is damaged, or the weights are not those of the config.
    """
    from sae_lens import SAE
    from safetensors import SafetensorError

    read_json(Path(folder) / "cfg.json")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of keys that newer versions renamed
            sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
    except (SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{folder} is not a whole SAE of sae_lens's layout ({type(error).__name__}: {error}); download it again"
        ) from error
    for name, value in sae.state_dict().items():
        check_finite(value, f"{folder}: {name}")
    if sae.cfg.normalize_activations == "expected_average_only_in":  # ``true`` in older files
        if scale is None:
            warnings.warn(
                f"{folder} was trained on activations scaled to norm sqrt(d_in), and the factor is not known: features will be off. "
                "Use its release's name and id, whose table has the factor",
                stacklevel=2,
            )
        else:
            sae.fold_activation_norm_scaling_factor(scale)
    return sae.eval().requires_grad_(False)


def stored_sae(layout: str, paths: Sequence[Path], *, hook: str, scale: float | None = None):
    """An SAE whose layout is known: ``neel``, ``gemma_scope``, ``sae_lens`` or ``qresearch``; ``paths`` are its files, in that layout's order."""
    if layout == "neel":
        return neel_sae(*paths, hook=hook)
    if layout == "sae_lens":
        return sae_lens_sae(paths[0].parent, scale=scale)
    return {"gemma_scope": gemma_scope_sae, "qresearch": qresearch_sae}[layout](paths[0], hook=hook)


def read_sae(path: str | Path, *, hook: str | None = None):
    """An SAE from a local file or folder of any of the four layouts, known by what is in it.

    Args: ``hook``: where it belongs, for layouts that do not say. Gemma Scope's residual SAEs say
        their layer in the folder (``layer_5/width_16k/...``: the layer's output), qresearch's in the
        file name (``...-l9.pt``: the layer's input), sae_lens's in ``cfg.json``.

    Raises: WeightsError if it is of none of the layouts; HookError if nothing says where it belongs.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist; check the path")
    if path.is_dir() and (path / "params.npz").exists():
        path = path / "params.npz"
    if path.is_dir() or path.name in ("cfg.json", "sae_weights.safetensors"):
        return sae_lens_sae(path if path.is_dir() else path.parent)
    if path.suffix == ".npz":
        layer = re.search(r"layer_(\d+)/", path.resolve().as_posix())
        return gemma_scope_sae(
            path, hook=_known_hook(hook or (layer and f"blocks.{layer[1]}.hook_resid_post"), path)
        )
    config = path.with_name(f"{path.stem}_cfg.json")
    if path.suffix == ".pt" and config.exists():
        return neel_sae(config, path, hook=_known_hook(hook, path))
    if path.suffix == ".pt":
        layer = re.search(r"-l(\d+)$", path.stem)
        return qresearch_sae(
            path, hook=_known_hook(hook or (layer and f"blocks.{layer[1]}.hook_resid_pre"), path)
        )
    raise WeightsError(
        f"{path} is of none of the known layouts: params.npz (Gemma Scope), a folder with cfg.json and sae_weights.safetensors "
        "(sae_lens), NAME-lLAYER.pt (qresearch), or NUMBER.pt beside NUMBER_cfg.json (Neel Nanda)"
    )


def _known_hook(hook: str | None, path: Path) -> str:
    if hook:
        return hook
    raise HookError(
        f"{path} does not say which hook it belongs to; read it with saework.loading.layouts.read_sae(path, hook=...)"
    )


def _sae_shapes(d_in: int, d_sae: int) -> dict[str, tuple[int, ...]]:
    return {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}


def _sae(architecture: str, state: dict[str, torch.Tensor], *, hook: str, subtract_b_dec: bool):
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    classes = {
        "standard": (StandardSAE, StandardSAEConfig),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig),
    }
    sae_class, config_class = classes[architecture]
    d_in, d_sae = state["W_enc"].shape
    config = config_class(
        d_in=d_in,
        d_sae=d_sae,
        apply_b_dec_to_input=subtract_b_dec,
        normalize_activations="none",
        metadata=SAEMetadata(hook_name=hook),
    )
    with torch.device("meta"):  # the weights come from the file: no need to draw random ones first
        sae = sae_class(config)
    sae.load_state_dict(state, assign=True)
    return sae.eval().requires_grad_(False)


def _read_npz(path: str | Path) -> dict[str, torch.Tensor]:
    """The arrays of an ``.npz`` as float32 tensors; nothing in it is executed."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays}
    except ValueError as error:
        if "allow_pickle" in str(error) and Path(path).open("rb").read(2).startswith(
            (b"PK", b"\x80")
        ):  # anything else is damage
            raise WeightsError(_REFUSED.format(path, "arrays")) from error
        raise WeightsError(_damaged(Path(path), error)) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(_damaged(Path(path), error)) from error
