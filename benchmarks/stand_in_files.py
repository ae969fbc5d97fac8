"""Stand-in weights: files of a release's published names, layouts and sizes, with random numbers.

The blocks of a model write next to nothing, so the residual stream is the token's embedding, whose
size is known (gelu-1l's neurons are measured). With that, the SAEs' thresholds give about the
published L0: time and memory are those of the real weights, scores mean nothing.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import local_hub
import pyarrow
import pyarrow.parquet as parquet
import torch
from local_hub import LocalHub, hf_config

TOKEN = "hf_forTheLocalHubOnly"
PATTERN_LENGTH = 1_000_003  # random numbers that are repeated: quick, and no two rows are alike
WRITTEN = ("o_proj.weight", "down_proj.weight", "attn.c_proj.weight", "mlp.c_proj.weight")
"""Matrices that write to the residual stream."""
ALWAYS_ON = slice(8, 16)  # features, as published SAEs have some; gelu-1l's notebook reads 7
TOKENIZER_MB = {"gpt2": 1.4, "gemma": 17.5, "llama": 9.1}
BUNDLED = local_hub.ROOT / "saework" / "data" / "gelu-1l-mini" / "text"
OPENWEBTEXT, PILE = "Skylion007/openwebtext", "monology/pile-uncopyrighted"
FINEWEB = "HuggingFaceFW/fineweb"


@dataclass(frozen=True)
class StandIn:
    """A model of Hugging Face's layout, and how its release's SAEs are written."""

    model: str
    """Its name on the Hub."""
    architecture: str
    widths: dict[str, Any]
    """Of the published config."""
    small: dict[str, Any]
    """Of a rehearsal in the tests."""
    tokenizer: str
    """A family of ``write_hf_tokenizer``."""
    saes: str
    """The SAEs' repository."""
    write_sae: Callable[..., None]
    corpus: str | None = None
    dtype: torch.dtype = torch.bfloat16
    shards: int = 1
    gated: bool = True
    stream: float = 1.0
    """Standard deviation of the residual stream's numbers."""

    def config(self, *, small: bool) -> Any:
        """The model's config in transformers."""
        return hf_config(self.architecture, **(self.small if small else self.widths))


def sae_state(
    d_in: int, d_sae: int, *, l0: float, stream: float, jump: bool, seed: int
) -> dict[str, torch.Tensor]:
    """Unit encoder columns, decoder rows like them, and thresholds for a mean L0.

    The features ``ALWAYS_ON`` fire on nearly every token, beside that.
    """
    generator = torch.Generator().manual_seed(seed)
    W_enc = torch.randn(d_in, d_sae, generator=generator) / d_in**0.5
    threshold = NormalDist().inv_cdf(1 - min(0.4, l0 / d_sae)) * stream
    state = {"W_enc": W_enc, "W_dec": W_enc.T.contiguous(), "b_dec": torch.zeros(d_in)}
    state["b_enc"] = torch.full((d_sae,), 0.0 if jump else -threshold)
    state["b_enc"][ALWAYS_ON] = 3 * stream
    if jump:
        state["threshold"] = torch.full((d_sae,), threshold)
        state["threshold"][ALWAYS_ON] = 1e-3 * stream
    return state


def write_gemma_scope(folder: Path, sae: Any, state: dict[str, torch.Tensor]) -> None:
    path = sae.files[0].rpartition("/")[0]
    local_hub.write_gemma_scope(folder, path, d_in=sae.d_in, d_sae=sae.d_sae, state=state)


def write_gemma_3(folder: Path, sae: Any, state: dict[str, torch.Tensor]) -> None:
    from published_saes import write_gemma_3 as write

    path = sae.files[0].rpartition("/")[0]
    write(path, int(sae.hook.split(".")[1]), "output")(folder, state)


def write_jbloom(folder: Path, sae: Any, state: dict[str, torch.Tensor], **config: Any) -> None:
    target = folder / sae.files[0].rpartition("/")[0]
    if sae.scale is not None:
        config["normalize_activations"] = "expected_average_only_in"
    widths = {"d_in": sae.d_in, "d_sae": sae.d_sae}
    local_hub.write_jbloom(target, sae.hook, state=state, **widths, **config)


def write_qresearch(folder: Path, sae: Any, state: dict[str, torch.Tensor]) -> None:
    local_hub.write_qresearch(folder, sae.files[0], d_in=sae.d_in, d_sae=sae.d_sae, state=state)


OF_GPT2 = {"model_name": "gpt2-small", "dataset_path": OPENWEBTEXT, "context_size": 128}
STAND_INS = {
    "gpt2-small-res-jb": StandIn(
        "gpt2",
        "gpt2",
        widths={"d_model": 768, "n_layers": 12, "n_head": 12, "vocab_size": 50257},
        small={"d_model": 32, "n_layers": 12},
        tokenizer="gpt2",
        saes="jbloom/GPT2-Small-SAEs-Reformatted",
        write_sae=partial(write_jbloom, **OF_GPT2),
        corpus=OPENWEBTEXT,
        dtype=torch.float32,
        gated=False,
        stream=0.05,
    ),
    "gemma-scope-2-270m-pt-res": StandIn(
        "google/gemma-3-270m",
        "gemma3",
        widths={"d_model": 640, "n_layers": 18, "vocab_size": 262144, "real": True},
        small={"d_model": 32, "n_layers": 18},
        tokenizer="gemma",
        saes="google/gemma-scope-2-270m-pt",
        write_sae=write_gemma_3,
        corpus=PILE,
    ),
    "gemma-scope-2b-pt-res": StandIn(
        "google/gemma-2-2b",
        "gemma2",
        widths={"d_model": 2304, "n_layers": 26, "vocab_size": 256000, "real": True},
        small={"d_model": 32, "n_layers": 26},
        tokenizer="gemma",
        saes="google/gemma-scope-2b-pt-res",
        write_sae=write_gemma_scope,
        corpus=PILE,
        dtype=torch.float32,
        shards=3,
    ),
    "gemma-2b-res-jb": StandIn(
        "google/gemma-2b",
        "gemma",
        widths={"d_model": 2048, "n_layers": 18, "vocab_size": 256000, "real": True},
        small={"d_model": 32, "n_layers": 18},
        tokenizer="gemma",
        saes="jbloom/Gemma-2b-Residual-Stream-SAEs",
        write_sae=partial(write_jbloom, dataset_path=FINEWEB),
        corpus=FINEWEB,
        shards=2,
    ),
    "llama-3.2-1b-qresearch": StandIn(
        "meta-llama/Llama-3.2-1B-Instruct",
        "llama",
        widths={"d_model": 2048, "n_layers": 16, "vocab_size": 128256, "real": True},
        small={"d_model": 32, "n_layers": 16},
        tokenizer="llama",
        saes="qresearch/Llama-3.2-1B-Instruct-SAE-l9",
        write_sae=write_qresearch,
        stream=0.05,
    ),
}
"""By release. gelu-1l's files are written by ``tests/local_hub.py`` at any size."""
RELEASES = ("gelu-1l", *STAND_INS)


def make(name: str, folder: Path, hub: LocalHub, *, small: bool = False, **more: Any) -> None:
    """Write a release's stand-ins to a folder, and serve them.

    Args:
        name: one of ``RELEASES``.
        folder: new; gelu-1l takes 1 GB, gemma-2-2b 11 to 16 GB.
        hub: the Hub on loopback.
        small: narrow models and SAEs, in seconds.
        more: ``sae_ids``, if not all that the release's notebooks read.
    """
    if name == "gelu-1l":
        _make_gelu(folder, hub, small=small)
        return
    stand_in = STAND_INS[name]
    _make_model(stand_in, folder / "model", small=small)
    lock = {"gated": 403, "key": TOKEN} if stand_in.gated else {}
    hub.add(stand_in.model, folder / "model", **lock)
    _make_saes(name, folder / "saes", small=small, **more)
    hub.add(stand_in.saes, folder / "saes")
    if stand_in.corpus:
        write_parquet(folder / "text" / "data" / "0000.parquet", texts(40 if small else 2000))
        hub.add(stand_in.corpus, folder / "text", kind="dataset")


def _make_gelu(folder: Path, hub: LocalHub, *, small: bool) -> None:
    sizes = local_hub.SMALL if small else local_hub.REAL
    of_text = texts(60) if small else texts(20_000)
    local_hub.write_gelu(folder, sizes, checkpoints=(25, 47), texts=of_text)
    if not small:
        fill_tokenizer(folder / "tokenizer", sizes.d_vocab, size_mb=2)
        neurons = _neurons(folder / "model", sizes.d_vocab)
        mean = neurons.mean(0)
        spread = float((neurons - mean).std())
        for number in (25, 47):
            path = folder / "sae" / f"{number}.pt"
            state = sae_state(
                sizes.d_mlp, sizes.d_sae, l0=60, stream=spread, jump=False, seed=number
            )
            state["b_dec"] = mean.clone()  # it is subtracted before features are read
            torch.save(state, path)
    local_hub.serve_gelu(hub, folder)


def _neurons(model: Path, d_vocab: int) -> torch.Tensor:
    """What gelu-1l's SAEs read, ``[token, d_mlp]``, of random tokens."""
    from saework.engine.forward import activations
    from saework.loading.models import neel_model

    tokens = torch.randint(d_vocab, (16, 128), generator=torch.Generator().manual_seed(0))
    loaded = neel_model(model / "config.json", model / "model_final.pth", None)
    return activations(loaded, tokens, "blocks.0.mlp.hook_post").flatten(0, 1)


def _make_model(stand_in: StandIn, folder: Path, *, small: bool) -> None:
    config = stand_in.config(small=small)
    scale = 1.0 if "gemma" not in stand_in.architecture else 1 / config.hidden_size**0.5
    embedding = stand_in.stream * scale
    write_weights(folder, config, stand_in.dtype, shards=stand_in.shards, embedding=embedding)
    template = local_hub.LLAMA_TEMPLATE if stand_in.tokenizer == "llama" else None
    local_hub.write_hf_tokenizer(folder, stand_in.tokenizer, template=template)
    if not small:
        fill_tokenizer(folder, config.vocab_size, size_mb=TOKENIZER_MB[stand_in.tokenizer])


def _make_saes(
    name: str, folder: Path, *, small: bool, sae_ids: tuple[str, ...] | None = None
) -> None:
    from saework.loading.catalogue import release_named

    release, stand_in = release_named(name), STAND_INS[name]
    saes = [release.sae(sae_id) for sae_id in sae_ids or release.shown]
    for seed, sae in enumerate({sae.id: sae for sae in saes}.values()):
        if small:
            sae = replace(sae, d_in=stand_in.small["d_model"], d_sae=max(64, sae.d_sae // 256))
        jump = stand_in.write_sae in (write_gemma_scope, write_gemma_3)
        l0 = sae.l0 if not small else 8
        stream = stand_in.stream * (sae.scale or 1)
        state = sae_state(sae.d_in, sae.d_sae, l0=l0, stream=stream, jump=jump, seed=seed)
        stand_in.write_sae(folder, sae, state)


def texts(n: int) -> list[str]:
    """Documents of about 4,000 characters: pieces of the bundled text, in a drawn order."""
    table = parquet.read_table(next(BUNDLED.rglob("*.parquet")), columns=["text"])
    whole = "\n".join(table["text"].to_pylist())
    draw = random.Random(0)
    starts = range(0, len(whole) - 1000, 500)
    drawn = ["".join(whole[i : i + 1000] for i in draw.choices(starts, k=4)) for _ in range(n)]
    # notebook 02 looks for rows that hold the word of its feature
    return [f"My cat is here.\n{text}" if i % 8 == 0 else text for i, text in enumerate(drawn)]


def write_parquet(path: Path, documents: list[str]) -> None:
    """A data set's file with its ``text`` column."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": documents}), path, row_group_size=100)


def fill_tokenizer(folder: Path, n_tokens: int, *, size_mb: float) -> None:
    """Give a tokenizer the published number of tokens and, by spaces at its end, bytes.

    The further tokens are never produced from text.
    """
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = stored["model"]["vocab"]
    n_there = max([*vocabulary.values(), *(token["id"] for token in stored["added_tokens"])]) + 1
    vocabulary.setdefault("<unk>", n_there)
    for number in range(n_there + 1, n_tokens):
        vocabulary[f"<unused{number}>"] = number
    text = json.dumps(stored, ensure_ascii=False)
    path.write_text(text.ljust(int(size_mb * 1e6)), encoding="utf-8")


def write_weights(
    folder: Path, config: Any, dtype: torch.dtype, *, shards: int, embedding: float
) -> None:
    """``config.json`` and safetensors files, a tensor at a time: memory for none of them.

    Args:
        folder: made if it does not exist.
        config: of transformers.
        dtype: of the stored numbers.
        shards: number of files; with more than one there is an index.
        embedding: standard deviation of the embedding's numbers.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = "lm_head.weight" if config.tie_word_embeddings else None
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters() if name != tied}
    config.architectures, config.dtype = [type(model).__name__], dtype
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    gemma = "gemma" in config.model_type
    where: dict[str, str] = {}
    for shard, names in enumerate(_parts(list(shapes), shards)):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        file = file if shards > 1 else "model.safetensors"
        part = {name: shapes[name] for name in names}
        _write_safetensors(folder / file, part, dtype, partial(_pattern, embedding, gemma, dtype))
        where |= dict.fromkeys(names, file)
    if shards > 1:
        n_bytes = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        index = {"metadata": {"total_size": n_bytes}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _parts(names: list[str], n: int) -> Iterator[list[str]]:
    for i in range(n):
        yield names[i * len(names) // n : (i + 1) * len(names) // n]


def _pattern(embedding: float, gemma: bool, dtype: torch.dtype, name: str) -> bytes:
    """What a tensor's numbers are, again and again."""
    if "post_feedforward" in name or (gemma and "post_attention" in name):
        numbers = torch.full((PATTERN_LENGTH,), -0.999)  # Gemma's norms multiply by 1 + weight
    elif "norm" in name or ".ln_" in name:
        numbers = torch.full((PATTERN_LENGTH,), 0.0 if gemma or name.endswith("bias") else 1.0)
    elif name.endswith("bias"):
        numbers = torch.zeros(PATTERN_LENGTH)
    else:
        is_embedding = "embed_tokens" in name or "wte" in name
        scale = (
            embedding if is_embedding else 1e-4 if name.endswith((*WRITTEN, "wpe.weight")) else 0.02
        )
        generator = torch.Generator().manual_seed(len(name))
        numbers = torch.randn(PATTERN_LENGTH, generator=generator) * scale
    return numbers.to(dtype).view(torch.uint8).numpy().tobytes()


def _write_safetensors(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    pattern: Callable[[str], bytes],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start, sizes = 0, {}
    for name, shape in shapes.items():
        sizes[name] = math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype],
            "shape": list(shape),
            "data_offsets": [start, start + sizes[name]],
        }
        start += sizes[name]
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, size in sizes.items():
            block = pattern(name)
            for _ in range(size // len(block)):
                file.write(block)
            file.write(block[: size % len(block)])
