"""How the offline minis were made: ``python -m saework.minis build NAME``.

Each step writes its result to a work folder and is skipped when the result is there, and the
training loops keep checkpoints, so that a build that was cut off goes on where it stopped.
``freeze-text`` makes the bundled parquet from files of this project; a build only reads it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from saework import corpus, formats, training
from saework._checks import unknown
from saework.cards import model_card
from saework.catalogue import DATA, release_named
from saework.labels import python_labels
from saework.rare import rare_features
from saework.run import logit_effect, recons_score
from saework.scanning import FeatureScan, scan
from saework.shelf import load_tokenizer
from saework.tokens import vocab_df

RUNS = {"25": 1, "47": 2}  # checkpoint of the published layout: seed
RUN_NAMES = {"25": "run1", "47": "run2"}
STORY_RUN = "25"  # the run that notebook 03 reads
SCAN_TOKENS = 1_200_000
HELD_OUT_ROWS = 512
TEXT_FILE = "data/train-00000-of-00001.parquet"


def build(name: str, *, work: Path, device: str, recipe: training.Recipe | None = None, out: Path | None = None) -> Path:
    """Make a mini from scratch, or go on with a build; returns its folder.

    Raises: UnknownNameError for a name that is not a mini's.
    """
    if name != "gelu-1l-mini":
        raise unknown("mini", name, ["gelu-1l-mini"], see="saework.minis builds gelu-1l-mini.")
    recipe, out = recipe or training.Recipe(), out or DATA / name
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rows, held_out = _training_rows(recipe, work)
    model, model_curve = training.train_model(rows, held_out, recipe, work, device=device)
    model = model.eval().requires_grad_(False)
    curves = {}
    for number, seed in RUNS.items():
        weights, curves[number] = training.train_sae(model, rows, recipe, work, seed=seed, device=device)
        _write_sae(weights, number, seed, recipe, out / "sae")
    _write_model(model, recipe, work, out)
    card = _measure(name, recipe, rows, held_out, out)
    card |= {"recipe": asdict(recipe), "model_curve": model_curve, "sae_curves": curves}
    card["training_tokens"] = {"model": recipe.model_steps * recipe.rows_per_step * recipe.n_ctx, "sae": recipe.sae_steps * recipe.sae_batch}
    card["corpus_tokens"] = {"training": rows.numel(), "held_out": held_out.numel()}
    (out / "card.json").write_text(json.dumps(card, indent=1) + "\n")
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


def _training_rows(recipe: training.Recipe, work: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Shuffled rows of the training and the held-out documents, int16; tokenized once."""
    cached = work / "rows.pt"
    if not cached.exists():
        train, held_out = training.training_text()
        training.train_tokenizer(train, work / "tokenizer", d_vocab=recipe.d_vocab)
        tokenizer = formats.tokenizer(work / "tokenizer")
        parts = (corpus.shuffled(corpus.tokenize_rows(texts, tokenizer, length=recipe.n_ctx)) for texts in (train, held_out))
        training.save_whole(tuple(part.to(torch.int16) for part in parts), cached)
    return torch.load(cached, weights_only=True)


def _write_model(model, recipe: training.Recipe, work: Path, out: Path) -> None:
    for part in ("model", "tokenizer"):
        (out / part).mkdir(parents=True, exist_ok=True)
    config = training.model_config(recipe)
    (out / "model" / "config.json").write_text(json.dumps(config, indent=1))
    state = {name: model.state_dict()[name].half().cpu() for name in formats.neel_shapes(config)}
    torch.save(state, out / "model" / "model_final.pth")
    for file in (work / "tokenizer").iterdir():
        (out / "tokenizer" / file.name).write_bytes(file.read_bytes())


def _write_sae(weights: dict[str, torch.Tensor], number: str, seed: int, recipe: training.Recipe, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.half() for name, value in weights.items()}, folder / f"{number}.pt")
    config = {
        "seed": seed,
        "batch_size": recipe.sae_batch,
        "lr": recipe.sae_lr,
        "num_tokens": recipe.sae_steps * recipe.sae_batch,
        "l1_coeff": recipe.sae_l1,
        "dict_mult": recipe.d_sae // recipe.d_mlp,
        "seq_len": recipe.n_ctx,
        "d_mlp": recipe.d_mlp,
        "enc_dtype": "fp32",
    }
    (folder / f"{number}_cfg.json").write_text(json.dumps(config, indent=1))


# ---- what the mini is worth ----


def _measure(name: str, recipe: training.Recipe, rows: torch.Tensor, held_out: torch.Tensor, out: Path) -> dict:
    """Scores, scans, labels and claims of the files as they lie there (float16), for the card."""
    tokenizer = load_tokenizer(release_named(name)) if out == DATA / name else formats.tokenizer(out / "tokenizer")
    model = formats.neel_model(out / "model" / "config.json", out / "model" / "model_final.pth", tokenizer)
    texts = corpus.read_parquet(DATA / name / "text" / TEXT_FILE)
    bundled = corpus.shuffled(corpus.tokenize_rows(texts, tokenizer, length=recipe.n_ctx))
    _write_labels(texts, tokenizer, recipe, out / "text" / "labels.safetensors")
    n_rows = SCAN_TOKENS // recipe.n_ctx
    scanned = torch.cat([held_out, rows[: max(0, n_rows - len(held_out))]])[:n_rows].long()
    (out / "scans").mkdir(exist_ok=True)
    card, claims = {"bundled_tokens": bundled.numel(), "scan_tokens": scanned.numel(), "runs": {}}, []
    for number in RUNS:
        sae = formats.neel_sae(out / "sae" / f"{number}_cfg.json", out / "sae" / f"{number}.pt", hook=training.HOOK)
        recorded = scan(model, sae, scanned, top_k=0).without_positions()
        recorded.save(out / "scans" / f"{number}.safetensors")
        on_held_out = recons_score(model, sae, held_out[:HELD_OUT_ROWS].long())
        on_bundled = recons_score(model, sae, bundled)
        card["runs"][number] = {
            "mean_l0": recorded.mean_l0,
            "dead_fraction": float(recorded.dead.double().mean()),
            "rare_fraction": float((recorded.firing_rate < 1e-4).double().mean()),
            "held_out": _score(on_held_out),
            "bundled": _score(on_bundled),
        }
        claims += _score_claims(number, on_bundled, recorded, sae)
        if number == STORY_RUN:
            claims += _feature_claims(recipe.story_feature, recorded, model, sae, tokenizer)
    (out / "claims.json").write_text(json.dumps(claims, indent=1, ensure_ascii=False) + "\n")
    return card


def _score(score) -> dict:
    return {"loss": score.loss, "recons_loss": score.recons_loss, "ablated_loss": score.ablated_loss, "score": score.score}


def _write_labels(texts: list[str], tokenizer, recipe: training.Recipe, path: Path) -> None:
    from safetensors.torch import save_file

    rows, offsets = corpus.tokenize_rows_with_offsets(texts, tokenizer, length=recipe.n_ctx)
    labels = python_labels(texts, tokenizer, offsets)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: corpus.shuffled(value) for name, value in {**labels, "tokens": rows.to(torch.int16)}.items()}, path)


def _score_claims(number: str, score, recorded: FeatureScan, sae) -> list[dict]:
    run, nats = RUN_NAMES[number], "nats per token"
    is_rare = recorded.firing_rate < 1e-4
    values = [
        (f"reconstruction/{run}/loss", score.loss, nats, 2e-3),
        (f"reconstruction/{run}/recons_loss", score.recons_loss, nats, 2e-3),
        (f"reconstruction/{run}/zero_abl_loss", score.ablated_loss, nats, 2e-3),
        (f"reconstruction/{run}/score", score.score, "fraction", 1e-3),
        (f"rare/{run}/mean_l0", recorded.mean_l0, "features per token", 1e-3),
        (f"rare/{run}/dead", int(recorded.dead.sum()), "features", 0),
        (f"rare/{run}/rare", int(is_rare.sum()), "features", 0),
    ]
    if is_rare.any():
        rare = rare_features(sae, recorded.firing_rate)
        values.append((f"rare/{run}/rare_cosine", float(rare.cosine[is_rare].median()), "cosine", 1e-3))
    return [_regression(*value) for value in values]


def _feature_claims(feature: int, recorded: FeatureScan, model, sae, tokenizer) -> list[dict]:
    """Of the feature that notebook 03 reads."""
    table = vocab_df(logit_effect(model, sae, feature), tokenizer).head(3)
    return [
        _regression("feature/rate", float(recorded.firing_rate[feature]), "fraction of tokens", 1e-6),
        _regression("feature/top_logit_tokens", table["token"].tolist(), "", 0),
        _regression("feature/top_logits", table["logit"].tolist(), "logits per unit of activation", 1e-3),
    ]


def _regression(id: str, value, unit: str, tolerance: float) -> dict:
    """What this mini gave when it was made, to be found again wherever it runs."""
    source = "regression value: recorded when this mini was made"
    return {"id": id, "value": value, "unit": unit, "source": source, "tolerance": tolerance}


def main(argv: list[str] | None = None) -> int:
    """``build NAME`` or ``freeze-text NAME FILE...``."""
    parser = argparse.ArgumentParser(prog="python -m saework.minis", description="Build the offline minis.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="train a mini from scratch, or go on with a build")
    command.add_argument("name")
    command.add_argument("--work", type=Path, help="folder for checkpoints (by default build/NAME)")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command = commands.add_parser("freeze-text", help="make the bundled text from files of this project")
    command.add_argument("name")
    command.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args(argv)
    if arguments.command == "build":
        build(arguments.name, work=arguments.work or Path("build") / arguments.name, device=arguments.device)
    else:
        n = freeze_text(arguments.files, DATA / arguments.name / "text" / TEXT_FILE)
        print(f"{n} documents")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
