"""Training the offline minis: text, tokenizer, language model, SAEs. ``minis`` puts them together.

Nothing of the training text is bundled: it is the sources of this machine's Python standard library
and the English text that its packages carry. Both training loops keep checkpoints, and a resumed run
sees the batches that an unbroken one would have seen.
"""

from __future__ import annotations

import ast
import itertools
import json
import math
import shutil
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from saework import corpus, formats
from saework.metrics import log10_rate
from saework.run import activations

DOCUMENTED_PACKAGES = ("numpy", "scipy", "pandas", "sympy", "networkx", "nltk", "torch", "IPython", "jinja2", "requests")
HELD_OUT_ONE_IN = 25
HOOK = "blocks.0.mlp.hook_post"
BUFFER_ROWS, NORM_BATCHES, CHECKPOINTS = 256, 8, 16


@dataclass(frozen=True)
class Recipe:
    """What a gelu mini is made of."""

    d_model: int = 128
    d_mlp: int = 512
    n_heads: int = 4
    d_vocab: int = 4096
    n_ctx: int = 128
    d_sae: int = 4096
    rows_per_step: int = 64
    model_steps: int = 1800
    model_lr: float = 4e-3
    sae_steps: int = 1920
    sae_batch: int = 1024
    sae_lr: float = 3e-3
    sae_l1: float = 2.3
    story_feature: int = 3018  # fires on the name after "def"
    seed: int = 0


# ---- text ----


def training_text() -> tuple[list[str], list[str]]:
    """Documents to train on, and held-out documents that are never trained on.

    A document's name decides which, so that adding documents moves none.
    """
    documents = corpus.standard_library() + list(_package_documents())
    held_out = [zlib.crc32(name.encode()) % HELD_OUT_ONE_IN == 0 for name, _ in documents]
    train = [text for (_, text), out in zip(documents, held_out) if not out]
    return train, [text for (_, text), out in zip(documents, held_out) if out]


def _package_documents() -> Iterator[tuple[str, str]]:
    """Docstrings of some packages that are installed here, and every package's description."""
    site = Path(sysconfig.get_path("purelib"))
    for path in sorted(site.glob("*.dist-info/METADATA")):
        description = path.read_text(encoding="utf-8", errors="ignore").partition("\n\n")[2]
        if description.strip():
            yield path.relative_to(site).as_posix(), description
    for package in DOCUMENTED_PACKAGES:
        for path in sorted((site / package).rglob("*.py")):
            if docstrings := "\n\n".join(_docstrings(path)):
                yield path.relative_to(site).as_posix(), docstrings


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners)]
    return [text for text in found if text and len(text) > 80]


def train_tokenizer(texts: list[str], folder: Path, *, d_vocab: int) -> None:
    """A byte-level BPE with single digits and the special tokens of the published tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|EOS|>", "bos_token": "<|BOS|>", "pad_token": "<|PAD|>"}
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))


# ---- the model ----


def model_config(recipe: Recipe) -> dict:
    """``config.json`` in the layout of ``NeelNanda/GELU_1L512W_C4_Code``."""
    return {
        "d_model": recipe.d_model,
        "n_layers": 1,
        "d_mlp": recipe.d_mlp,
        "d_head": recipe.d_model // recipe.n_heads,
        "n_heads": recipe.n_heads,
        "n_ctx": recipe.n_ctx,
        "d_vocab": recipe.d_vocab,
        "act_fn": "gelu",
        "attn_only": False,
        "normalization": "LN",
        "shortformer_pos": False,
        "tokenizer_name": "saework/gelu-1l-mini-tokenizer",
    }


def train_model(rows: torch.Tensor, held_out: torch.Tensor, recipe: Recipe, work: Path, *, device: str):
    """The language model, from scratch, and its loss curve ``[(step, train loss, held-out loss)]``."""
    torch.manual_seed(recipe.seed)
    model = formats.neel_model_shell(model_config(recipe), processed=False, init_weights=True).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.model_lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_then_cosine(recipe.model_steps, warm_up=100))
    state = _Checkpoint(work / "model_training.pt", model=model, optimizer=optimizer, schedule=schedule)
    curve, start = state.restore()
    order = _endless_order(len(rows), recipe.seed)
    per_step = recipe.rows_per_step
    train_loss = 0.0
    for step in tqdm(range(start, recipe.model_steps), initial=start, total=recipe.model_steps, desc="model"):
        picked = order[step * per_step % len(order) :][:per_step]
        loss = _language_model_step(model, rows[picked].long().to(device))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(), optimizer.zero_grad(), schedule.step()
        train_loss = loss if step == start else 0.98 * train_loss + 0.02 * loss
        if (step + 1) % 200 == 0 or step + 1 == recipe.model_steps:
            curve.append((step + 1, train_loss, _held_out_loss(model, held_out[:256].long().to(device))))
            state.save(curve, step + 1)
    return model, curve


def _language_model_step(model, tokens: torch.Tensor) -> float:
    """One forward and backward pass; the loss in chunks of 512 tokens, which is faster on a CPU."""
    hidden = model.ln_final(model(tokens, stop_at_layer=1))[:, :-1].flatten(0, 1)
    targets = tokens[:, 1:].flatten()
    leaf = hidden.detach().requires_grad_()
    total = 0.0
    for part, target in zip(leaf.split(512), targets.split(512)):
        loss = F.cross_entropy(part @ model.W_U + model.b_U, target, reduction="sum") / len(targets)
        loss.backward()
        total += loss.item()
    hidden.backward(leaf.grad)
    return total


@torch.no_grad()
def _held_out_loss(model, tokens: torch.Tensor) -> float:
    return sum(model(part, return_type="loss").item() * len(part) for part in tokens.split(32)) / len(tokens)


def _warm_up_then_cosine(steps: int, *, warm_up: int):
    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor


def _endless_order(n_rows: int, seed: int, *, epochs: int = 8) -> torch.Tensor:
    """Row numbers of several epochs, each shuffled: the same for a resumed run as for a whole one."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(n_rows, generator=generator) for _ in range(epochs)])


class _Checkpoint:
    """Everything a training loop needs to go on, in one file that is replaced whole."""

    def __init__(self, path: Path, **parts):
        self.path, self.parts = path, parts

    def save(self, curve: list, step: int) -> None:
        """Replace the file by the state after ``step`` steps."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        save_whole({"curve": curve, "step": step, **states}, self.path)

    def restore(self) -> tuple[list, int]:
        """Put the parts back as they were saved; returns the curve and the step, or ``([], 0)`` if none was."""
        if not self.path.exists():
            return [], 0
        saved = torch.load(self.path, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(saved[name])
        return saved["curve"], saved["step"]


def save_whole(value, path: Path) -> None:
    """Write a file so that it is either whole or not there."""
    partial = path.with_suffix(".partial")
    torch.save(value, partial)
    partial.replace(path)


# ---- the SAEs ----


def activation_batches(model, rows: torch.Tensor, recipe: Recipe, *, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
    """Batches ``[sae_batch, d_mlp]`` of the model's MLP activations, mixed over 256 rows; endless.

    Batch number ``start`` comes first, so that a resumed run sees what it would have seen.
    """
    order = _endless_order(len(rows), seed)
    per_buffer = BUFFER_ROWS * rows.shape[1] // recipe.sae_batch
    device = next(model.parameters()).device
    for buffer in itertools.count(start // per_buffer):
        first = buffer * BUFFER_ROWS % (len(order) - BUFFER_ROWS)
        tokens = rows[order[first : first + BUFFER_ROWS]].long().to(device)
        x = torch.cat([activations(model, part, HOOK).flatten(0, 1) for part in tokens.split(64)])
        x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed * 1_000_003 + buffer))]
        yield from x.split(recipe.sae_batch)[start % per_buffer : per_buffer]
        start = 0


def train_sae(model, rows: torch.Tensor, recipe: Recipe, work: Path, *, seed: int, device: str):
    """One SAE run through sae_lens; returns its weights in the published layout, and its curve.

    Activations are scaled to a mean norm of ``sqrt(d_mlp)`` in training; afterwards decoder rows get
    unit norm and the scale goes into the biases. The curve has an entry a checkpoint: variance
    explained, mean L0, and the histogram of log10 firing rates since the last one.
    """
    trainer = _sae_trainer(recipe, seed, device)
    folder = work / f"sae_{seed}"
    curve = _restore(trainer, folder)
    if trainer.n_training_steps == 0:
        batches = activation_batches(model, rows, recipe, seed=seed)
        trainer.activation_scaler.estimate_scaling_factor(recipe.d_mlp, batches, NORM_BATCHES)
    batches = activation_batches(model, rows, recipe, seed=seed, start=NORM_BATCHES + trainer.n_training_steps)
    done, total = trainer.n_training_steps, recipe.sae_steps
    for step in tqdm(range(done, total), initial=done, total=total, desc=f"SAE, seed {seed}"):
        output = trainer.step(next(batches))
        trainer.n_training_steps = step + 1
        if trainer.n_training_steps % trainer.cfg.feature_sampling_window == 0:
            curve.append(_curve_entry(trainer, output))
            trainer.maybe_reset_sparsity()
            _save_trainer(trainer, curve, folder)
    return _published_layout(trainer.sae, trainer.activation_scaler.scaling_factor), curve


def _sae_trainer(recipe: Recipe, seed: int, device: str):
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    sae = StandardTrainingSAE(
        StandardTrainingSAEConfig(
            d_in=recipe.d_mlp,
            d_sae=recipe.d_sae,
            apply_b_dec_to_input=True,
            normalize_activations="expected_average_only_in",
            decoder_init_norm=0.1,
            l1_coefficient=recipe.sae_l1,
            l1_warm_up_steps=0,  # with a warm-up hardly any feature stays rare, and there is no lesson in notebook 02
            device=device,
        )
    )
    config = SAETrainerConfig(
        total_training_samples=recipe.sae_steps * recipe.sae_batch,
        train_batch_size_samples=recipe.sae_batch,
        lr=recipe.sae_lr,
        lr_end=recipe.sae_lr / 10,
        lr_warm_up_steps=100,
        lr_decay_steps=recipe.sae_steps // 3,
        feature_sampling_window=recipe.sae_steps // CHECKPOINTS,
        device=device,
    )
    return SAETrainer(config, sae, iter(()))


def _curve_entry(trainer, output) -> dict:
    log = trainer.build_train_step_log_dict(output, trainer.n_training_samples)
    rates = log10_rate(trainer.feature_sparsity.cpu())
    return {
        "tokens": trainer.n_training_samples,
        "variance_explained": log["metrics/explained_variance"],
        "l0": float(trainer.feature_sparsity.sum()),
        "log10_rate_histogram": torch.histc(rates, bins=13, min=-6.5, max=0).int().tolist(),
    }


def _save_trainer(trainer, curve: list[dict], folder: Path) -> None:
    trainer.save_checkpoint("partial", base_path=folder)
    (folder / "partial" / "curve.json").write_text(json.dumps(curve))
    shutil.rmtree(folder / "latest", ignore_errors=True)
    (folder / "partial").rename(folder / "latest")


def _restore(trainer, folder: Path) -> list[dict]:
    from safetensors.torch import load_file

    latest = folder / "latest"
    if not latest.exists():
        return []
    trainer.sae.load_state_dict(load_file(latest / "sae_weights.safetensors"))
    trainer.load_trainer_state(latest)
    return json.loads((latest / "curve.json").read_text())


@torch.no_grad()
def _published_layout(sae, scale: float) -> dict[str, torch.Tensor]:
    """``relu((x - b_dec) W_enc + b_enc) W_dec + b_dec`` on unscaled activations, decoder rows of unit norm."""
    norm = sae.W_dec.norm(dim=1)
    return {
        "W_enc": (sae.W_enc * norm).cpu(),
        "W_dec": (sae.W_dec / norm[:, None]).cpu(),
        "b_enc": (sae.b_enc * norm / scale).cpu(),
        "b_dec": (sae.b_dec / scale).cpu(),
    }
