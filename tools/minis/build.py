"""How the offline minis were made: ``python -m tools.minis.build build NAME``.

Each step writes its result to a work folder and is skipped when the result is there. The training
loops keep checkpoints, so that a build that was cut off continues where it stopped.
``freeze-text`` makes the bundled parquet from files of this project; a build only reads it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from saework.analysis.reconstruction import ReconsScore, recons_score
from saework.analysis.scanning.feature_scan import FeatureScan
from saework.analysis.scanning.run_scan import scan
from saework.core.errors import unknown
from saework.core.files import DATA
from saework.core.formulas import variance_explained
from saework.engine.forward import sae_input
from saework.loading import corpus, documents
from saework.loading.catalogue import BUNDLED_TEXT
from saework.loading.layouts.sae_layout import sae_of
from saework.loading.model_layouts import HUGGINGFACE, NEEL
from saework.loading.sae_ids import scan_file
from saework.loading.tokenizer_files import read_tokenizer
from tools.minis import language_model, text
from tools.minis.card import model_card
from tools.minis.claims import RARE_RATE, MeasuredSae, feature_claims, probing_claims
from tools.minis.labels import python_labels
from tools.minis.recipes import RECIPES, PlannedSae, Recipe

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from saework.core.protocols import HookedModel, Tokenizer

SCAN_TOKENS = 1_200_000
HELD_OUT_ROWS = 512
VARIANCE_ROWS = 128
SHORT_SCAN_ROWS = 1024
TEXT_FILE = "data/train-00000-of-00001.parquet"
LABELS_FILE = Path("text", "labels.safetensors")


def build(
    name: str, *, work: Path, device: str, recipe: Recipe | None = None, out: Path | None = None
) -> Path:
    """Make a mini from scratch, or continue a build; returns its folder.

    Args:
        name: of the mini.
        work: folder for checkpoints.
        device: where to train.
        recipe: in place of the mini's own.
        out: in place of the mini's folder in the package.

    Raises:
        UnknownNameError: for a name that is not a mini's.
    """
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise unknown("mini", name, RECIPES, see=f"tools.minis.build builds {known}.")
    recipe = recipe or RECIPES[name]
    out = out or DATA / name
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rows, held_out = training_rows(recipe.model, work)
    model, model_curve = trained_model(recipe.model, rows, held_out, work, out, device=device)
    bundled = _bundled_rows(recipe.model, read_tokenizer(out / "tokenizer"), out)
    card: dict[str, Any] = {
        "model": {"recipe": asdict(recipe.model), "curve": model_curve},
        "saes": {},
    }
    claims: list[dict[str, Any]] = []
    for planned in recipe.saes:
        made = _make_sae(planned, model, rows, held_out, bundled, work, out, device=device)
        card["saes"][made.id] = made.card
        claims += made.claims
        if recipe.story and recipe.story[0] == made.id:
            claims += feature_claims(made.measured, recipe.story[1])
            claims += probing_claims(made.measured, load_file(out / LABELS_FILE))
    card["tokens"] = {
        "training": rows.numel(),
        "held_out": held_out.numel(),
        "bundled": bundled.numel(),
    }
    _write_records(name, card, claims, out)
    minutes = (time.monotonic() - started) / 60
    print(f"built {name} in {out}, {minutes:.0f} minutes of this process")
    return out


def add(name: str, sae_id: str, *, work: Path, out: Path | None = None) -> Path:
    """Train one SAE of a mini's recipe on the packaged model, and add it to the mini.

    The text is that of this machine, so a later machine has a few documents more or fewer than the
    model was trained on. A training row that is also a held-out one (copied text) is dropped.

    Args:
        name: of the mini (gelu-1l-mini: other layouts of models and rows are not read here).
        sae_id: as in the recipe.
        work: folder for checkpoints.
        out: in place of the mini's folder in the package.

    Raises:
        UnknownNameError: for an SAE that the recipe does not have.
    """
    recipe = RECIPES[name]
    planned = {sae.id: sae for sae in recipe.saes}.get(sae_id)
    if planned is None:
        ids = [sae.id for sae in recipe.saes]
        raise unknown("SAE id", sae_id, ids, see=f"The recipe has {', '.join(ids)}.")
    out = out or DATA / name
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = read_tokenizer(out / "tokenizer")
    model = NEEL.read(out / "model", tokenizer)
    rows, held_out = packaged_rows(tokenizer, work)
    bundled = _bundled_rows(recipe.model, tokenizer, out)
    made = _make_sae(planned, model, rows, held_out, bundled, work, out, device="cpu")
    card = json.loads((out / "card.json").read_text(encoding="utf-8"))
    card["saes"][made.id] = made.card
    claims = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    others = [claim for claim in claims if f"/{made.id}/" not in claim["id"]]
    _write_records(name, card, others + made.claims, out)
    return out


def _write_records(name: str, card: dict[str, Any], claims: list[Any], out: Path) -> None:
    _write_json(out / "card.json", card)
    _write_json(out / "claims.json", claims)
    (out / "README.md").write_text(model_card(name, card), encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def freeze_text(paths: list[Path], target: Path) -> int:
    """Write files as the documents of a parquet with one ``text`` column; returns their number."""
    import pyarrow
    import pyarrow.parquet as parquet

    texts = [path.read_text(encoding="utf-8") for path in paths]
    target.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": texts}), target, compression="zstd")
    return len(texts)


def training_rows(
    recipe: language_model.ModelRecipe, work: Path
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Shuffled rows of the training and the held-out documents, int16; tokenized once."""
    cached = work / "rows.pt"
    if not cached.exists():
        train, held_out = text.training_text()
        text.train_tokenizer(
            train, work / "tokenizer", d_vocab=recipe.d_vocab, architecture=recipe.architecture
        )
        tokenizer = read_tokenizer(work / "tokenizer")
        parts = []
        for texts in (train, held_out):
            rows = _cut(recipe)(texts, tokenizer, length=recipe.n_ctx)
            parts.append(corpus.shuffled(rows).to(torch.int16))
        language_model.save_whole(tuple(parts), cached)
    return torch.load(cached, weights_only=True)


def packaged_rows(
    tokenizer: Tokenizer, work: Path
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """As ``training_rows``, cut by a packaged tokenizer; no training row is a held-out one."""
    cached = work / "rows.pt"
    if not cached.exists():
        cut = [corpus.tokenize_rows(texts, tokenizer) for texts in text.training_text()]
        rows, held_out = (corpus.shuffled(part).to(torch.int16) for part in cut)
        seen = set(map(tuple, held_out.tolist()))
        is_new = [tuple(row) not in seen for row in rows.tolist()]
        language_model.save_whole((rows[torch.tensor(is_new)], held_out), cached)
    return torch.load(cached, weights_only=True)


def _cut(recipe: language_model.ModelRecipe) -> Callable[..., Tensor]:
    """How the notebooks of this architecture cut their text."""
    return corpus.tokenize_rows if recipe.architecture == "gelu" else corpus.packed_rows


def trained_model(
    recipe: language_model.ModelRecipe,
    rows: Int[Tensor, "batch pos"],
    held_out: Int[Tensor, "batch pos"],
    work: Path,
    out: Path,
    *,
    device: str,
) -> tuple[HookedModel, list]:
    """Train the model, store it, and read it as stored (float16), with its loss curve."""
    tokenizer = read_tokenizer(work / "tokenizer")
    model, curve = language_model.train_model(
        rows, held_out, recipe, tokenizer, work, device=device
    )
    (out / "tokenizer").mkdir(parents=True, exist_ok=True)
    for file in (work / "tokenizer").iterdir():
        content = file.read_bytes()
        (out / "tokenizer" / file.name).write_bytes(content)
    if recipe.architecture == "gelu":
        record = language_model.neel_config(recipe)
        NEEL.write(model, out / "model", dtype=torch.float16, record=record)
        stored: Any = NEEL.read(out / "model", tokenizer)
    else:
        HUGGINGFACE.write(model, out / "model", dtype=torch.float16)
        stored = HUGGINGFACE.read(out / "model", tokenizer)
    return stored.to(device), curve


def _bundled_rows(
    recipe: language_model.ModelRecipe, tokenizer: Tokenizer, out: Path
) -> Int[Tensor, "batch pos"]:
    """Rows of the bundled text; where they are the published cut, stores their true labels too."""
    texts = documents.read_parquet(BUNDLED_TEXT / TEXT_FILE)
    if recipe.architecture == "gelu":
        _write_labels(texts, tokenizer, recipe, out / LABELS_FILE)
    rows = _cut(recipe)(texts, tokenizer, length=recipe.n_ctx)
    return corpus.shuffled(rows)


def _write_labels(
    texts: list[str], tokenizer: Tokenizer, recipe: language_model.ModelRecipe, path: Path
) -> None:
    """Store the rows and their labels, in the order in which ``load`` gives the rows."""
    from safetensors.torch import save_file

    rows, offsets = corpus.tokenize_rows_with_offsets(texts, tokenizer, length=recipe.n_ctx)
    stored = python_labels(texts, tokenizer, offsets)
    stored["tokens"] = rows.to(torch.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: corpus.shuffled(values) for name, values in stored.items()}, path)


def _slug(planned: PlannedSae) -> str:
    """The name of an SAE's work folder."""
    recipe = planned.recipe
    penalty = recipe.l1 or recipe.target_l0
    return f"sae_{recipe.hook}_{recipe.d_sae}_{penalty}_{recipe.seed}"


@dataclass(frozen=True)
class MadeSae:
    """An SAE that was trained, stored and measured."""

    id: str
    measured: MeasuredSae
    card: dict[str, Any]
    """What the card says of it."""
    claims: list[dict[str, Any]]


def _make_sae(
    planned: PlannedSae,
    model: HookedModel,
    rows: Int[Tensor, "batch pos"],
    held_out: Int[Tensor, "batch pos"],
    bundled: Int[Tensor, "batch pos"],
    work: Path,
    out: Path,
    *,
    device: str,
) -> MadeSae:
    weights, curve = planned.train(
        model, rows, planned.recipe, work / _slug(planned), device=device
    )
    sae_id, files = write_sae(weights, planned, model, held_out, out / "sae")
    measured = measure(planned, sae_id, files, model, rows, held_out, bundled, out)
    card = {
        "layout": planned.layout.name,
        "files": list(files),
        "recipe": asdict(planned.recipe),
        "curve": curve,
        **_measurements(measured, held_out),
    }
    if planned.trainer:
        card["trainer"] = planned.trainer
    return MadeSae(sae_id, measured, card, planned.claims(measured))


def write_sae(
    weights: dict[str, Tensor],
    planned: PlannedSae,
    model: HookedModel,
    held_out: Int[Tensor, "batch pos"],
    folder: Path,
) -> tuple[str, tuple[str, ...]]:
    """Store an SAE in float16; returns its id, and its files below ``folder``.

    Mean L0 (without BOS) and firing rates are measured on held-out rows, with the weights as
    stored.
    """
    recipe = planned.recipe
    rounded = {name: value.half().float() for name, value in weights.items()}
    sae = sae_of(
        "jumprelu" if "threshold" in weights else "standard",
        rounded,
        hook=recipe.hook,
        subtract_b_dec=recipe.subtract_b_dec,
    )
    rows = held_out[:HELD_OUT_ROWS].long()
    mean_l0 = scan(model, sae, rows, top_k=0, mask=rows != rows[0, 0]).mean_l0
    l0 = round(mean_l0)
    files = planned.layout.write(
        sae,
        folder,
        planned.place.format(l0=l0),
        dtype=torch.float16,
        record=planned.record,
        firing_rate=scan(model, sae, rows, top_k=0).firing_rate,
    )
    return planned.id.format(l0=l0), files


def measure(
    planned: PlannedSae,
    sae_id: str,
    files: tuple[str, ...],
    model: HookedModel,
    rows: Int[Tensor, "batch pos"],
    held_out: Int[Tensor, "batch pos"],
    bundled: Int[Tensor, "batch pos"],
    out: Path,
) -> MeasuredSae:
    """Read a stored SAE, score it on the bundled text, and scan held-out and training text.

    The scan itself is stored where the recipe says so.
    """
    paths = [out / "sae" / file for file in files]
    hook = planned.recipe.hook
    sae = planned.layout.read(paths, hook=hook)
    n_rows = SCAN_TOKENS // rows.shape[1]
    if not planned.scan:
        n_rows = min(n_rows, SHORT_SCAN_ROWS)
    scanned = torch.cat([held_out, rows])[:n_rows].long()
    recorded = scan(model, sae, scanned, top_k=0).without_positions()
    if planned.scan:
        (out / "scans").mkdir(exist_ok=True)
        recorded.save(out / "scans" / scan_file(sae_id))
    return MeasuredSae(
        id=sae_id,
        model=model,
        sae=sae,
        bundled=bundled,
        score=recons_score(model, sae, bundled),
        scan=recorded,
    )


def _measurements(measured: MeasuredSae, held_out: Int[Tensor, "batch pos"]) -> dict[str, Any]:
    """What the card says of an SAE, besides its recipe."""
    recorded: FeatureScan = measured.scan
    model, sae = measured.model, measured.sae
    rows = held_out[:HELD_OUT_ROWS].long()
    is_rare = recorded.firing_rate < RARE_RATE
    return {
        "scan_tokens": recorded.n_tokens,
        "mean_l0": recorded.mean_l0,
        "dead_fraction": float(recorded.dead.double().mean()),
        "rare_fraction": float(is_rare.double().mean()),
        "variance_explained": _variance_explained(model, sae, rows[:VARIANCE_ROWS]),
        "held_out": _score(recons_score(model, sae, rows)),
        "bundled": _score(measured.score),
    }


def _variance_explained(model: HookedModel, sae: Any, tokens: Int[Tensor, "batch pos"]) -> float:
    """Conventional, without BOS."""
    is_bos = tokens == tokens[0, 0]
    x = sae_input(model, sae, tokens)[~is_bos]
    x_hat = sae.decode(sae.encode(x))
    return variance_explained(x, x_hat)


def _score(score: ReconsScore) -> dict[str, float]:
    return {
        "loss": score.loss,
        "recons_loss": score.recons_loss,
        "ablated_loss": score.ablated_loss,
        "score": score.score,
    }


def main(argv: list[str] | None = None) -> int:
    """``build NAME``, ``add NAME SAE`` or ``freeze-text FILE...``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.minis.build", description="Build the offline minis."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="train a mini from scratch, or continue a build")
    command.add_argument("name")
    command.add_argument("--work", type=Path, help="folder for checkpoints (by default build/NAME)")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command = commands.add_parser("add", help="train one SAE more on a packaged mini")
    command.add_argument("name")
    command.add_argument("sae")
    command.add_argument("--work", type=Path, help="folder for checkpoints (by default build/NAME)")
    command = commands.add_parser(
        "freeze-text", help="make the bundled text from files of this project"
    )
    command.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args(argv)
    if arguments.command == "build":
        work = arguments.work or Path("build") / arguments.name
        build(arguments.name, work=work, device=arguments.device)
    elif arguments.command == "add":
        work = arguments.work or Path("build") / arguments.name
        add(arguments.name, arguments.sae, work=work)
    else:
        n = freeze_text(arguments.files, BUNDLED_TEXT / TEXT_FILE)
        print(f"{n} documents")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
