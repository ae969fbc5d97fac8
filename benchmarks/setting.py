"""The models, SAEs and tokens of the benchmarks: random weights of real shapes, from one seed.

They are drawn once and handed to every process as safetensors files, because TransformerLens's
versions differ in how they initialise. Scores mean nothing on such weights; losses, counts and
times do.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file

LENGTH, L0 = 128, 25
VOCABULARY = 48_262
SHAPES = {
    "gelu-1l": {
        "model": {
            "n_layers": 1,
            "d_model": 512,
            "d_head": 64,
            "n_heads": 8,
            "d_mlp": 2048,
            "d_vocab": VOCABULARY,
        },
        "hooks": ["blocks.0.mlp.hook_post"],
        "d_sae": 16_384,
    },
    "12 layers": {  # its vocabulary is chosen to give the peer's 7.7 s and 2.25 GB of the target
        "model": {
            "n_layers": 12,
            "d_model": 256,
            "d_head": 64,
            "n_heads": 4,
            "d_mlp": 1024,
            "d_vocab": 24_000,
        },
        "hooks": ["blocks.2.hook_resid_post", "blocks.8.hook_resid_post"],
        "d_sae": 4096,
    },
    "small": {
        "model": {
            "n_layers": 1,
            "d_model": 128,
            "d_head": 32,
            "n_heads": 4,
            "d_mlp": 512,
            "d_vocab": 4096,
        },
        "hooks": ["blocks.0.mlp.hook_post"],
        "d_sae": 4096,
    },
    "tiny": {
        "model": {
            "n_layers": 3,
            "d_model": 32,
            "d_head": 8,
            "n_heads": 4,
            "d_mlp": 64,
            "d_vocab": 512,
        },
        "hooks": ["blocks.0.mlp.hook_post", "blocks.1.hook_resid_post"],
        "d_sae": 128,
    },
}
ROWS = 1600  # of tokens; a job takes the first of them


def make(shape: str, folder: Path) -> None:
    """Write the model, the SAE of each hook, and the tokens, unless they are there already."""
    folder = Path(folder) / shape
    if (folder / "tokens").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    spec = SHAPES[shape]
    model = _model(spec, init_weights=True)
    tokens = torch.randint(spec["model"]["d_vocab"], (ROWS, LENGTH))
    save_file(
        {name: value.contiguous() for name, value in model.named_parameters()}, folder / "model"
    )
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens[:8], names_filter=spec["hooks"])
        for hook in spec["hooks"]:
            x = cache[hook].flatten(0, 1)
            weights = _sae_weights(x, spec["d_sae"])
            save_file(
                weights | {"often": (x @ weights["W_enc"] + weights["b_enc"] > 0).sum(0).argmax()},
                folder / hook,
            )
    save_file({"tokens": tokens}, folder / "tokens")


def _sae_weights(x: torch.Tensor, d_sae: int) -> dict[str, torch.Tensor]:
    """Initialised as the published autoencoder.

    Then comes a bias with which ``L0`` features fire on a token of ``x``.
    """
    w_enc = torch.nn.init.kaiming_uniform_(torch.empty(x.shape[1], d_sae))
    w_dec = torch.nn.init.kaiming_uniform_(torch.empty(d_sae, x.shape[1]))
    before = (x @ w_enc).flatten()
    bias = before.kthvalue(int(before.numel() * (1 - L0 / d_sae))).values
    w_dec /= w_dec.norm(dim=-1, keepdim=True)
    return {
        "W_enc": w_enc,
        "W_dec": w_dec,
        "b_enc": -bias.expand(d_sae).clone(),
        "b_dec": torch.zeros(x.shape[1]),
    }


def load(shape: str, folder: Path, hook: int = 0, rows: int = 64) -> SimpleNamespace:
    """What a way works on; it is read in each of the environments.

    Returns:
        ``model``, ``sae`` (of sae_lens), ``tokens`` ``[rows, 128]``, ``hook``, and ``feature``, one
        that fires often.
    """
    from sae_lens import StandardSAE, StandardSAEConfig

    folder, name = Path(folder) / shape, SHAPES[shape]["hooks"][hook]
    model = _model(SHAPES[shape], init_weights=False)
    _fill(model, load_file(folder / "model"))
    weights = load_file(folder / name)
    feature = int(weights.pop("often"))
    d_in, d_sae = weights["W_enc"].shape
    sae = StandardSAE(StandardSAEConfig(d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=True))
    _fill(sae, weights)
    sae.cfg.metadata.hook_name = name
    sae.cfg.metadata.context_size = LENGTH
    sae.cfg.metadata.prepend_bos = False
    tokens = load_file(folder / "tokens")["tokens"][:rows].clone()
    return SimpleNamespace(model=model, sae=sae, tokens=tokens, hook=name, feature=feature)


def _model(spec: dict, init_weights: bool):
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    fixed = {
        "n_ctx": 1024,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "device": "cpu",
        "seed": 0,
    }
    return HookedTransformer(
        HookedTransformerConfig(**spec["model"], **fixed, init_weights=init_weights)
    ).requires_grad_(False)


def _fill(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    own = dict(module.named_parameters())
    if own.keys() != weights.keys():
        others = sorted(own.keys() ^ weights.keys())
        raise ValueError(f"this environment's {type(module).__name__} has other weights: {others}")
    with torch.no_grad():
        for name, value in weights.items():
            own[name].copy_(value)
    module.requires_grad_(False)


def tokenizer(d_vocab: int = VOCABULARY):
    """A word for each token, so that contexts can be shown."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f" w{i}": i for i in range(d_vocab)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token=" w0")))
