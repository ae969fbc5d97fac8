"""How the offline minis were made: ``python -m tools.minis.build build NAME``.

Each step writes its result to a work folder and is skipped when the result is there, and the
training loops keep checkpoints, so that a build that was cut off goes on where it stopped.
``freeze-text`` makes the bundled parquet from files of this project; a build only reads it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from saework.analysis.features import logit_effect
from saework.analysis.rare import rare_features
from saework.analysis.reconstruction import recons_score, reconstruction_metrics
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.run_scan import scan
from saework.core.errors import unknown
from saework.core.files import DATA
from saework.core.formulas import variance_explained
from saework.core.tokens import vocab_df
from saework.engine.forward import sae_input
from saework.loading import corpus, layouts, models
from saework.loading.catalogue import BUNDLED_TEXT, scan_file
from tools.minis import language_model, text
from tools.minis.card import model_card
from tools.minis.labels import python_labels
from tools.minis.sae import SaeRecipe, train_sae

SCAN_TOKENS = 1_200_000
HELD_OUT_ROWS = 512
SHORT_SCAN_ROWS = 1024
TEXT_FILE = "data/train-00000-of-00001.parquet"


@dataclass(frozen=True)
class PlannedSae:
    """One SAE to be trained, and the layout that it is stored in."""

    id: str
    """``{l0}`` in it becomes the measured mean L0, as in Gemma Scope's ids."""
    layout: str
    recipe: SaeRecipe
    scan: bool = True
    """Whether the scan of 1.2 million tokens is stored."""


@dataclass(frozen=True)
class Recipe:
    """All that a mini is made of."""

    model: language_model.ModelRecipe
    saes: tuple[PlannedSae, ...]
    story: tuple[str, int] | None = None
    """The SAE and the feature that a notebook reads."""


def _gelu_run(name: str, seed: int) -> PlannedSae:
    return PlannedSae(
        name, "neel", SaeRecipe("blocks.0.mlp.hook_post", 512, 4096, l1=2.3, seed=seed)
    )


def _gemma_scope(layer: int, width: int, target_l0: float) -> PlannedSae:
    hook = f"blocks.{layer}.hook_resid_post"
    recipe = SaeRecipe(
        hook, 128, width, target_l0=target_l0, subtract_b_dec=False, bos=False, steps=2000
    )
    return PlannedSae(
        f"layer_{layer}/width_{width // 1024}k/average_l0_{{l0}}", "gemma_scope", recipe, scan=False
    )


def _bloom(layer: int, l1: float) -> PlannedSae:
    hook = f"blocks.{layer}.hook_resid_post"
    return PlannedSae(hook, "sae_lens", SaeRecipe(hook, 128, 1024, l1=l1, lr=2e-3, steps=2000))


_DEEP = {"n_layers": 4, "d_mlp": 384, "lr": 3e-3}
RECIPES = {
    "gelu-1l-mini": Recipe(
        model=language_model.ModelRecipe(),
        saes=(_gelu_run("run1", seed=1), _gelu_run("run2", seed=2)),
        story=("run1", 3018),  # fires on the name after "def"
    ),
    "gemma-mini": Recipe(
        model=language_model.ModelRecipe(architecture="gemma2", steps=1100, **_DEEP),
        saes=(
            *(_gemma_scope(layer, 1024, l0) for layer in (1, 2) for l0 in (8, 20, 50)),
            *(_gemma_scope(2, 4096, l0) for l0 in (20, 50)),
            *(_bloom(layer, l1) for layer, l1 in ((0, 2.5), (2, 2.5))),
        ),
    ),
    "llama-mini": Recipe(
        model=language_model.ModelRecipe(architecture="llama", steps=1300, **_DEEP),
        saes=(
            PlannedSae(
                "l2",
                "qresearch",
                SaeRecipe(
                    "blocks.2.hook_resid_pre",
                    128,
                    2048,
                    l1=2.5,
                    subtract_b_dec=False,
                    lr=2e-3,
                    steps=3200,
                ),
            ),
        ),
    ),
}


def build(
    name: str, *, work: Path, device: str, recipe: Recipe | None = None, out: Path | None = None
) -> Path:
    """Make a mini from scratch, or go on with a build; returns its folder.

    Raises: UnknownNameError for a name that is not a mini's.
    """
    if name not in RECIPES:
        raise unknown("mini", name, RECIPES, see=f"tools.minis.build builds {', '.join(RECIPES)}.")
    recipe, out = recipe or RECIPES[name], out or DATA / name
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rows, held_out = training_rows(recipe.model, work)
    model, model_curve = trained_model(recipe.model, rows, held_out, work, out, device=device)
    card = {"model": {"recipe": asdict(recipe.model), "curve": model_curve}, "saes": {}}
    scanned = torch.cat([held_out, rows])[: SCAN_TOKENS // rows.shape[1]].long()
    bundled = _bundled_rows(recipe.model, models.read_tokenizer(out / "tokenizer"), out)
    claims = []
    for planned in recipe.saes:
        weights, curve = train_sae(
            model, rows, planned.recipe, work / _slug(planned), device=device
        )
        sae_id, files = write_sae(weights, planned, model, held_out, out / "sae")
        sae = layouts.stored_sae(
            planned.layout, [out / "sae" / file for file in files], hook=planned.recipe.hook
        )
        recorded = scan(
            model, sae, scanned if planned.scan else scanned[:SHORT_SCAN_ROWS], top_k=0
        ).without_positions()
        if planned.scan:
            (out / "scans").mkdir(exist_ok=True)
            recorded.save(out / "scans" / scan_file(sae_id))
        on_bundled = recons_score(model, sae, bundled)
        card["saes"][sae_id] = {
            "layout": planned.layout,
            "files": files,
            "recipe": asdict(planned.recipe),
            "curve": curve,
            "scan_tokens": recorded.n_tokens,
            "mean_l0": recorded.mean_l0,
            "dead_fraction": float(recorded.dead.double().mean()),
            "rare_fraction": float((recorded.firing_rate < 1e-4).double().mean()),
            "variance_explained": _variance_explained(model, sae, held_out[:HELD_OUT_ROWS].long()),
            "held_out": _score(recons_score(model, sae, held_out[:HELD_OUT_ROWS].long())),
            "bundled": _score(on_bundled),
        }
        if planned.layout == "neel":
            claims += _score_claims(sae_id, on_bundled, recorded, sae)
        else:
            claims += {
                "gemma_scope": _frontier_claims,
                "sae_lens": _card_claims,
                "qresearch": _steering_claims,
            }[planned.layout](sae_id, model, sae, bundled, recorded)
        if recipe.story and recipe.story[0] == sae_id:
            claims += _feature_claims(recipe.story[1], recorded, model, sae, model.tokenizer)
    card["tokens"] = {
        "training": rows.numel(),
        "held_out": held_out.numel(),
        "bundled": bundled.numel(),
    }
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (out / "claims.json").write_text(json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    (out / "README.md").write_text(model_card(name, card), encoding="utf-8")
    print(f"built {name} in {out}, {(time.monotonic() - started) / 60:.0f} minutes of this process")
    return out


def freeze_text(paths: list[Path], target: Path) -> int:
    """Write files as the documents of a parquet with one ``text`` column; returns their number."""
    import pyarrow
    import pyarrow.parquet as parquet

    texts = [path.read_text(encoding="utf-8") for path in paths]
    target.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": texts}), target, compression="zstd")
    return len(texts)


# ---- text and model ----


def training_rows(
    recipe: language_model.ModelRecipe, work: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shuffled rows of the training and the held-out documents, int16; tokenized once."""
    cached = work / "rows.pt"
    if not cached.exists():
        train, held_out = text.training_text()
        text.train_tokenizer(
            train, work / "tokenizer", d_vocab=recipe.d_vocab, architecture=recipe.architecture
        )
        tokenizer = models.read_tokenizer(work / "tokenizer")
        parts = (
            corpus.shuffled(_cut(recipe)(texts, tokenizer, length=recipe.n_ctx))
            for texts in (train, held_out)
        )
        language_model.save_whole(tuple(part.to(torch.int16) for part in parts), cached)
    return torch.load(cached, weights_only=True)


def _cut(recipe: language_model.ModelRecipe):
    return corpus.tokenize_rows if recipe.architecture == "gelu" else corpus.packed_rows


def trained_model(
    recipe: language_model.ModelRecipe,
    rows: torch.Tensor,
    held_out: torch.Tensor,
    work: Path,
    out: Path,
    *,
    device: str,
):
    """Train the model, store it, and read it as stored (float16), with its loss curve."""
    tokenizer = models.read_tokenizer(work / "tokenizer")
    model, curve = language_model.train_model(
        rows, held_out, recipe, tokenizer, work, device=device
    )
    for part in ("model", "tokenizer"):
        (out / part).mkdir(parents=True, exist_ok=True)
    for file in (work / "tokenizer").iterdir():
        (out / "tokenizer" / file.name).write_bytes(file.read_bytes())
    if recipe.architecture == "gelu":
        config = language_model.neel_config(recipe)
        (out / "model" / "config.json").write_text(json.dumps(config, indent=1))
        torch.save(
            {name: model.state_dict()[name].half().cpu() for name in models.neel_shapes(config)},
            out / "model" / "model_final.pth",
        )
    else:
        model.half().save_pretrained(out / "model")
    layout = "neel" if recipe.architecture == "gelu" else "huggingface"
    return models.read_model(out / "model", tokenizer, layout=layout).to(device), curve


def _bundled_rows(recipe: language_model.ModelRecipe, tokenizer, out: Path) -> torch.Tensor:
    """Rows of the bundled text; where they are the published cut, their true labels are stored as well."""
    texts = corpus.read_parquet(BUNDLED_TEXT / TEXT_FILE)
    if recipe.architecture == "gelu":
        _write_labels(texts, tokenizer, recipe, out / "text" / "labels.safetensors")
    return corpus.shuffled(_cut(recipe)(texts, tokenizer, length=recipe.n_ctx))


def _write_labels(
    texts: list[str], tokenizer, recipe: language_model.ModelRecipe, path: Path
) -> None:
    from safetensors.torch import save_file

    rows, offsets = corpus.tokenize_rows_with_offsets(texts, tokenizer, length=recipe.n_ctx)
    labels = python_labels(texts, tokenizer, offsets)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            name: corpus.shuffled(value)
            for name, value in {**labels, "tokens": rows.to(torch.int16)}.items()
        },
        path,
    )


# ---- SAEs in the published layouts, float16 ----


def _slug(planned: PlannedSae) -> str:
    recipe = planned.recipe
    return f"sae_{recipe.hook}_{recipe.d_sae}_{recipe.l1 or recipe.target_l0}_{recipe.seed}"


def write_sae(
    weights: dict[str, torch.Tensor], planned: PlannedSae, model, rows: torch.Tensor, folder: Path
) -> tuple[str, list[str]]:
    """Store an SAE; returns its id, and its files below ``folder``, those that ``SaeFile.files`` lists."""
    halves = {name: value.half().contiguous() for name, value in weights.items()}
    return {
        "neel": _write_neel,
        "gemma_scope": _write_gemma_scope,
        "sae_lens": _write_sae_lens,
        "qresearch": _write_qresearch,
    }[planned.layout](halves, planned, model, rows, folder)


def _write_neel(weights, planned: PlannedSae, model, rows, folder: Path) -> tuple[str, list[str]]:
    recipe, number = planned.recipe, {"run1": 25, "run2": 47}[planned.id]
    config = {
        "seed": recipe.seed,
        "batch_size": recipe.batch,
        "lr": recipe.lr,
        "num_tokens": recipe.steps * recipe.batch,
        "l1_coeff": recipe.l1,
        "dict_mult": recipe.d_sae // recipe.d_in,
        "seq_len": rows.shape[1],
        "d_mlp": recipe.d_in,
        "enc_dtype": "fp32",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}_cfg.json").write_text(json.dumps(config, indent=1))
    torch.save(weights, folder / f"{number}.pt")
    return planned.id, [f"{number}_cfg.json", f"{number}.pt"]


def _write_gemma_scope(
    weights, planned: PlannedSae, model, rows, folder: Path
) -> tuple[str, list[str]]:
    import numpy as np

    trial = folder / "trial.npz"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(trial, **{name: value.numpy() for name, value in weights.items()})
    sae = layouts.gemma_scope_sae(trial, hook=planned.recipe.hook)
    sae_id = planned.id.format(l0=round(_mean_l0(model, sae, rows[:HELD_OUT_ROWS].long())))
    (folder / sae_id).mkdir(parents=True, exist_ok=True)
    trial.replace(folder / sae_id / "params.npz")
    return sae_id, [f"{sae_id}/params.npz"]


def _write_sae_lens(
    weights, planned: PlannedSae, model, rows, folder: Path
) -> tuple[str, list[str]]:
    """As Joseph Bloom's: firing rates (of held-out rows), and a ``scaling_factor`` of ones, beside the weights."""
    from importlib.metadata import version

    from safetensors.torch import save_file

    recipe, target = planned.recipe, folder / planned.id
    target.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": "standard",
        "d_in": recipe.d_in,
        "d_sae": recipe.d_sae,
        "dtype": "float32",
        "model_name": "gemma-mini",
        "hook_name": recipe.hook,
        "hook_layer": int(recipe.hook.split(".")[1]),
        "hook_head_index": None,
        "activation_fn_str": "relu",
        "apply_b_dec_to_input": recipe.subtract_b_dec,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        "context_size": rows.shape[1],
        "dataset_path": "saework/gelu-1l-mini/text",
        "prepend_bos": True,
        "sae_lens_training_version": version("sae_lens"),
    }
    (target / "cfg.json").write_text(json.dumps(config, indent=1))
    save_file(
        weights | {"scaling_factor": torch.ones(recipe.d_sae, dtype=torch.float16)},
        target / "sae_weights.safetensors",
    )
    rates = scan(
        model, layouts.sae_lens_sae(target), rows[:HELD_OUT_ROWS].long(), top_k=0
    ).firing_rate
    save_file({"sparsity": (rates + 1e-10).log10().float()}, target / "sparsity.safetensors")
    return planned.id, [
        f"{planned.id}/{file}"
        for file in ("sae_weights.safetensors", "cfg.json", "sparsity.safetensors")
    ]


def _write_qresearch(
    weights, planned: PlannedSae, model, rows, folder: Path
) -> tuple[str, list[str]]:
    file = f"llama-mini-SAE-{planned.id}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    names = {"encoder.weight": weights["W_enc"].T, "decoder.weight": weights["W_dec"].T}
    names |= {"encoder.bias": weights["b_enc"], "decoder.bias": weights["b_dec"]}
    torch.save({name: value.contiguous() for name, value in names.items()}, folder / file)
    return planned.id, [file]


# ---- what the mini is worth ----


def _mean_l0(model, sae, tokens: torch.Tensor) -> float:
    return scan(model, sae, tokens, top_k=0, mask=tokens != tokens[0, 0]).mean_l0


def _variance_explained(model, sae, tokens: torch.Tensor) -> float:
    x = sae_input(model, sae, tokens[:128])[tokens[:128] != tokens[0, 0]]
    return variance_explained(x, sae.decode(sae.encode(x)))


def _score(score) -> dict:
    return {
        "loss": score.loss,
        "recons_loss": score.recons_loss,
        "ablated_loss": score.ablated_loss,
        "score": score.score,
    }


def _score_claims(sae_id: str, score, recorded: FeatureScan, sae) -> list[dict]:
    """Regression values under the ids of the published claims of the system that this stands for."""
    nats, is_rare = "nats per token", recorded.firing_rate < 1e-4
    values = [
        (f"reconstruction/{sae_id}/loss", score.loss, nats, 2e-3),
        (f"reconstruction/{sae_id}/recons_loss", score.recons_loss, nats, 2e-3),
        (f"reconstruction/{sae_id}/zero_abl_loss", score.ablated_loss, nats, 2e-3),
        (f"reconstruction/{sae_id}/score", score.score, "fraction", 1e-3),
        (f"rare/{sae_id}/mean_l0", recorded.mean_l0, "features per token", 1e-3),
        (f"rare/{sae_id}/dead", int(recorded.dead.sum()), "features", 0),
        (f"rare/{sae_id}/rare", int(is_rare.sum()), "features", 0),
    ]
    if is_rare.any():
        rare = rare_features(sae, recorded.firing_rate)
        values.append(
            (f"rare/{sae_id}/rare_cosine", float(rare.cosine[is_rare].median()), "cosine", 1e-3)
        )
    return [_regression(*value) for value in values]


def _card_claims(
    sae_id: str, model, sae, bundled: torch.Tensor, recorded: FeatureScan
) -> list[dict]:
    """On the first 8,192 tokens, with BOS, as notebook 06 measures."""
    metrics = reconstruction_metrics(model, sae, bundled[:64], progress=False)["with_bos"]
    values = [
        ("ce_loss", metrics["ce_loss_clean"], "nats per token", 2e-3),
        ("ce_loss_with_sae", metrics["ce_loss_spliced"], "nats per token", 2e-3),
        ("ce_loss_score", metrics["ce_loss_score"], "fraction", 1e-3),
        ("l0", metrics["l0"], "features per token", 1e-2),
        ("dead", int(recorded.dead.sum()), "features", 0),
    ]
    return [
        _regression(f"card/{sae_id}/{name}", value, unit, tolerance)
        for name, value, unit, tolerance in values
    ]


def _frontier_claims(
    sae_id: str, model, sae, bundled: torch.Tensor, recorded: FeatureScan
) -> list[dict]:
    """On the first 4,096 tokens, without BOS, as notebook 05 measures."""
    metrics = reconstruction_metrics(model, sae, bundled[:32], progress=False)["without_bos"]
    values = [
        ("l0", metrics["l0"], "features per token", 1e-2),
        ("ce_loss_score", metrics["ce_loss_score"], "fraction", 1e-3),
    ]
    return [
        _regression(f"frontier/{sae_id}/{name}", float(value), unit, tolerance)
        for name, value, unit, tolerance in values
    ]


def _steering_claims(
    sae_id: str, model, sae, bundled: torch.Tensor, recorded: FeatureScan
) -> list[dict]:
    """Of the passage that notebook 07 reads: variance explained as qresearch has it, and the strongest features."""
    passage = model.to_tokens(corpus.STEERING_PASSAGE)
    metrics = reconstruction_metrics(model, sae, passage, progress=False)["with_bos"]
    top = sae.encode(sae_input(model, sae, passage))[0, 1:].mean(0).topk(4)
    return [
        _regression(
            "steering/variance_explained",
            float(metrics["variance_explained_global"]),
            "fraction, BOS included, one mean",
            1e-3,
        ),
        _regression("steering/top_feature", int(top.indices[0]), "feature", 0),
        _regression(
            "steering/top_features", sorted(top.indices.tolist()), "features, in order of number", 0
        ),
        _regression(
            "steering/top_values", top.values.tolist(), "mean activation over the passage", 1e-3
        ),
    ]


def _feature_claims(feature: int, recorded: FeatureScan, model, sae, tokenizer) -> list[dict]:
    """Of the feature that notebook 03 reads."""
    table = vocab_df(logit_effect(model, sae, feature), tokenizer).head(3)
    return [
        _regression(
            "feature/rate", float(recorded.firing_rate[feature]), "fraction of tokens", 1e-6
        ),
        _regression("feature/top_logit_tokens", table["token"].tolist(), "", 0),
        _regression(
            "feature/top_logits", table["logit"].tolist(), "logits per unit of activation", 1e-3
        ),
    ]


def _regression(id: str, value, unit: str, tolerance: float) -> dict:
    """What this mini gave when it was made, to be found again wherever it runs."""
    source = "regression value: recorded when this mini was made"
    return {"id": id, "value": value, "unit": unit, "source": source, "tolerance": tolerance}


def main(argv: list[str] | None = None) -> int:
    """``build NAME`` or ``freeze-text FILE...``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.minis.build", description="Build the offline minis."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="train a mini from scratch, or go on with a build")
    command.add_argument("name")
    command.add_argument("--work", type=Path, help="folder for checkpoints (by default build/NAME)")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command = commands.add_parser(
        "freeze-text", help="make the bundled text from files of this project"
    )
    command.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args(argv)
    if arguments.command == "build":
        build(
            arguments.name,
            work=arguments.work or Path("build") / arguments.name,
            device=arguments.device,
        )
    else:
        n = freeze_text(arguments.files, BUNDLED_TEXT / TEXT_FILE)
        print(f"{n} documents")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
