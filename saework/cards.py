"""A mini's model card, as Markdown, from the numbers that its builder measured."""

from __future__ import annotations

_BLOCKS = " ▁▂▃▄▅▆▇█"


def model_card(name: str, card: dict) -> str:
    """The card's text.

    Args: ``card``: what ``minis.build`` writes as ``card.json``.
    """
    recipe, runs = card["recipe"], card["runs"]
    trained, corpus = card["training_tokens"], card["corpus_tokens"]
    return "\n".join(
        [
            f"# {name}",
            "",
            "A small language model and two sparse autoencoders, trained from scratch by this project so that its notebooks run",
            "offline. They stand in the layout of `NeelNanda/GELU_1L512W_C4_Code` and `NeelNanda/sparse_autoencoder`.",
            "",
            f"- **Model:** 1 layer, exact GELU, LayerNorm, d_model {recipe['d_model']}, d_mlp {recipe['d_mlp']}, context {recipe['n_ctx']};",
            f"  byte-level BPE of {recipe['d_vocab']:,} with single digits. AdamW, learning rate {recipe['model_lr']}, {trained['model']:,} tokens.",
            f"- **SAEs:** {recipe['d_mlp']} to {recipe['d_sae']:,} ReLU features on `blocks.0.mlp.hook_post`, runs 25 (`run1`) and 47 (`run2`) from",
            f"  different seeds, by sae_lens: L1 {recipe['sae_l1']}, learning rate {recipe['sae_lr']}, {trained['sae']:,} tokens each, decoder rows of unit norm.",
            "- **Data:** the sources of one machine's Python standard library, and the descriptions and docstrings of its packages",
            f"  ({corpus['training']:,} tokens; one document in 25 held out: {corpus['held_out']:,} tokens). None of it is bundled. The bundled text",
            f"  ({card['bundled_tokens']:,} tokens) was written for this project and never trained on.",
            "- **Weights** are stored in float16 and used in float32; everything below was measured on the files as stored.",
            "",
            "## What came out",
            "",
            "| | " + " | ".join(f"run {number}" for number in runs) + " |",
            "|---|" + "---|" * len(runs),
            *(_row(label, [read(run) for run in runs.values()]) for label, read in _MEASURES),
            "",
            f"L0, dead and rare are over {card['scan_tokens']:,} tokens of held-out and training text: a feature that did not fire there may still",
            f"fire on fewer than one token in {card['scan_tokens'] // 3:,} (95%). The targets were a score of 0.9112 held out and 0.88 on the bundled",
            "text, mean L0 at most 40, and fewer than 20% dead.",
            "",
            "## The language model's loss (nats per token; held out: the first 256 rows, where the table above has 512)",
            "",
            "| step | training | held out |",
            "|---|---|---|",
            *(f"| {step:,} | {train:.3f} | {held_out:.3f} |" for step, train, held_out in card["model_curve"]),
            "",
            *(line for number, curve in card["sae_curves"].items() for line in _curve(number, curve)),
            "Each bar is half a decade of log10 firing rate, from -6.5 (did not fire in the window) on the left to 0 on the right, by number of",
            "features; the window is the stretch of training since the line before.",
            "",
            "## Good for, and not",
            "",
            "Good for learning the methods, for teaching, and for testing code: the analyses run as they do on the published weights. Not good for",
            "claims about language models: the model is tiny, its text narrow, its training minutes long. Its numbers are regression values and",
            "reproduce nothing.",
            "",
            f"Made by `python -m saework.minis build {name}`. Licence: MIT.",
            "",
        ]
    )


_MEASURES = (
    ("score, held out", lambda run: f"{run['held_out']['score']:.2%}"),
    ("score, bundled text", lambda run: f"{run['bundled']['score']:.2%}"),
    ("clean / spliced / zeroed loss, held out", lambda run: " / ".join(f"{run['held_out'][k]:.3f}" for k in ("loss", "recons_loss", "ablated_loss"))),
    ("clean / spliced / zeroed loss, bundled", lambda run: " / ".join(f"{run['bundled'][k]:.3f}" for k in ("loss", "recons_loss", "ablated_loss"))),
    ("mean L0", lambda run: f"{run['mean_l0']:.1f}"),
    ("dead", lambda run: f"{run['dead_fraction']:.1%}"),
    ("rare (rate below 1e-4, dead ones among them)", lambda run: f"{run['rare_fraction']:.1%}"),
)


def _row(label: str, cells: list[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"


def _curve(number: str, curve: list[dict]) -> list[str]:
    lines = [f"## SAE run {number}, in training", "", "| tokens | variance explained | L0 | firing rates |", "|---|---|---|---|"]
    for entry in curve:
        bars = _sparkline(entry["log10_rate_histogram"])
        lines.append(f"| {entry['tokens']:,} | {entry['variance_explained']:.3f} | {entry['l0']:.1f} | `{bars}` |")
    return [*lines, ""]


def _sparkline(counts: list[int]) -> str:
    top = max(counts) or 1
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // top)] for count in counts)
