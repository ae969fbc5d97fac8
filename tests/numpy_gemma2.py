"""Gemma 2 up to the output of a block, and JumpReLU SAEs, in plain numpy.

It is written from the papers and the published weights' layout, with no torch, transformers or
saework. So it can only agree with them by being right. It writes references of the form that
``saework.read_reference`` reads:

    python tests/numpy_gemma2.py MODEL_FOLDER PARAMS_NPZ LAYER PROMPT OUT.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

N_SHOWN = 10


class Gemma2:
    """A Hugging Face folder's ``config.json`` and ``model.safetensors`` (float32 or float16).

    Everything is computed in ``dtype``.
    """

    def __init__(self, folder, dtype=np.float64):
        from safetensors.numpy import load_file

        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.dtype = dtype
        self.state = {
            name: value.astype(dtype)
            for name, value in load_file(folder / "model.safetensors").items()
        }
        self.eps = config["rms_norm_eps"]
        self.n_layers = config["num_hidden_layers"]
        self.n_heads = config["num_attention_heads"]
        self.n_groups = config["num_key_value_heads"]
        self.d_head = config["head_dim"]
        self.scale = config["query_pre_attn_scalar"] ** -0.5
        self.cap = config["attn_logit_softcapping"]
        self.window = config["sliding_window"]
        # transformers 4 wrote neither rope_parameters nor layer_types
        self.theta = config.get("rope_parameters", config)["rope_theta"]
        types = config.get("layer_types") or [
            "full_attention" if i % 2 else "sliding_attention" for i in range(self.n_layers)
        ]
        self.slides = [kind == "sliding_attention" for kind in types]

    def resid_post(self, token_ids, layer: int) -> np.ndarray:
        """The output of block ``layer``, ``[pos, d_model]``."""
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"layer is {layer}; this model has layers 0..{self.n_layers - 1}")
        embedding = self.state["model.embed_tokens.weight"]
        x = embedding[np.asarray(token_ids)] * np.asarray(embedding.shape[1] ** 0.5, self.dtype)
        for i in range(layer + 1):
            x = x + self._norm(self._attention(self._norm(x, i, "input"), i), i, "post_attention")
            x = x + self._norm(
                self._mlp(self._norm(x, i, "pre_feedforward"), i), i, "post_feedforward"
            )
        return x

    def _weight(self, i: int, name: str) -> np.ndarray:
        return self.state[f"model.layers.{i}.{name}.weight"]

    def _norm(self, x, i: int, name: str) -> np.ndarray:
        return (
            x
            / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
            * (1 + self._weight(i, f"{name}_layernorm"))
        )

    def _mlp(self, x, i: int) -> np.ndarray:
        gate = x @ self._weight(i, "mlp.gate_proj").T
        gelu = 0.5 * gate * (1 + np.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
        return (gelu * (x @ self._weight(i, "mlp.up_proj").T)) @ self._weight(i, "mlp.down_proj").T

    def _attention(self, x, i: int) -> np.ndarray:
        def heads(name: str, n: int) -> np.ndarray:
            projected = x @ self._weight(i, f"self_attn.{name}_proj").T
            return projected.reshape(len(x), n, self.d_head)

        q = self._rotate(heads("q", self.n_heads))
        k = self._rotate(heads("k", self.n_groups))
        v = heads("v", self.n_groups)
        position = np.arange(len(x))
        query, key = position[:, None], position[None]
        seen = (key <= query) & (key > query - self.window) if self.slides[i] else key <= query
        out = []
        for head in range(self.n_heads):
            group = head // (self.n_heads // self.n_groups)
            logits = q[:, head] @ k[:, group].T * self.scale
            if self.cap is not None:
                logits = self.cap * np.tanh(logits / self.cap)
            logits = np.where(seen, logits, -np.inf)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            out.append(weights / weights.sum(-1, keepdims=True) @ v[:, group])
        return np.concatenate(out, -1) @ self._weight(i, "self_attn.o_proj").T

    def _rotate(self, x) -> np.ndarray:
        """Rotary positions: dimension j turns with dimension j + d_head / 2."""
        half = self.d_head // 2
        angle = np.arange(len(x))[:, None] * self.theta ** (-np.arange(half) / half)
        cos, sin = (wave[:, None].astype(self.dtype) for wave in (np.cos(angle), np.sin(angle)))
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def encode(x, params) -> np.ndarray:
    """JumpReLU: what is strictly above its threshold passes as it is.

    ``b_dec`` is not subtracted first.
    """
    before = x @ params["W_enc"] + params["b_enc"]
    return np.where(before > params["threshold"], np.maximum(before, 0), 0)


def decode(features, params) -> np.ndarray:
    """Features to activations."""
    return features @ params["W_dec"] + params["b_dec"]


def reference(
    folder, npz_path, token_ids, layer: int, *, tokens=(), prompt="", dtype=np.float64, **about
) -> dict:
    """The reference of a row of token ids: the last position's values, and the error over all."""
    with np.load(npz_path) as file:
        params = {name: file[name].astype(dtype) for name in file.files}
    x = Gemma2(folder, dtype).resid_post(token_ids, layer)
    features = encode(x, params)
    decoded = decode(features, params)
    last = features[-1]
    top = sorted(np.flatnonzero(last > 0).tolist(), key=lambda i: (-last[i], i))
    names = {"model_id": "", "sae_repo": "", "sae_npz_path": "", "source": "numpy"} | about
    return {
        "model_id": names["model_id"],
        "prompt": prompt,
        "hook_layer": layer,
        "hook_name": f"blocks.{layer}.hook_resid_post",
        "sae_repo": names["sae_repo"],
        "sae_npz_path": names["sae_npz_path"],
        "d_in": params["W_enc"].shape[0],
        "d_sae": params["W_enc"].shape[1],
        "architecture": "JumpReLU",
        "tokens": list(tokens),
        "n_tokens": len(token_ids),
        "reconstruction_mse": float(((x - decoded) ** 2).mean()),
        "n_active_last_pos": len(top),
        "top_features_last_pos": [{"index": i, "value": float(last[i])} for i in top[:N_SHOWN]],
        "resid_last_first10": x[-1, :N_SHOWN].tolist(),
        "encoded_last_first10": last[:N_SHOWN].tolist(),
        "decoded_last_first10": decoded[-1, :N_SHOWN].tolist(),
        "resid_last_norm": float(np.linalg.norm(x[-1])),
        "encoded_last_norm": float(np.linalg.norm(last)),
        "decoded_last_norm": float(np.linalg.norm(decoded[-1])),
        "source": names["source"],
    }


def tokenize(tokenizer_folder, prompt: str, bos_id: int) -> tuple[list[int], list[str]]:
    """Ids and strings of a prompt, BOS in front."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(tokenizer_folder) / "tokenizer.json"))
    ids = [bos_id, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    return ids, [tokenizer.id_to_token(i) for i in ids]


def main(arguments=None) -> None:
    """Write a reference."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="config.json and model.safetensors")
    parser.add_argument("npz", type=Path, help="the SAE's params.npz")
    parser.add_argument("layer", type=int)
    parser.add_argument("prompt")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--tokenizer", type=Path, help="the folder of tokenizer.json, if not the model's"
    )
    parser.add_argument("--model-id", default="")
    parser.add_argument("--sae-repo", default="")
    parser.add_argument("--sae-npz-path", default="")
    parser.add_argument("--source", default="tests/numpy_gemma2.py, in float64")
    args = parser.parse_args(arguments)
    bos_id = json.loads((args.folder / "config.json").read_text(encoding="utf-8"))["bos_token_id"]
    ids, tokens = tokenize(args.tokenizer or args.folder, args.prompt, bos_id)
    about = {
        name: getattr(args, name) for name in ("model_id", "sae_repo", "sae_npz_path", "source")
    }
    written = reference(
        args.folder, args.npz, ids, args.layer, tokens=tokens, prompt=args.prompt, **about
    )
    args.out.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
