"""A mini's model card, as Markdown, from the numbers that its builder measured."""

from __future__ import annotations

_BLOCKS = " ▁▂▃▄▅▆▇█"
_STANDS_FOR = {
    "gelu": "`NeelNanda/GELU_1L512W_C4_Code` and `NeelNanda/sparse_autoencoder`",
    "gemma2": "a Gemma 2 model, Gemma Scope (`params.npz`) and `jbloom/Gemma-2b-Residual-Stream-SAEs`",
    "llama": "a Llama model and `qresearch/Llama-3.2-1B-Instruct-SAE-l9`",
}
_ARCHITECTURE = {
    "gelu": "exact GELU, LayerNorm",
    "gemma2": "Gemma 2 (RMSNorm before and after each part, gated tanh GELU, soft-capped logits, every other layer local)",
    "llama": "Llama (RMSNorm, gated SiLU, rotary positions)",
}


def model_card(name: str, card: dict) -> str:
    """The card's text.

    Args: ``card``: what ``minis.build`` writes as ``card.json``.
    """
    recipe, tokens, saes = card["model"]["recipe"], card["tokens"], card["saes"]
    trained = recipe["steps"] * recipe["rows_per_step"] * recipe["n_ctx"]
    n_saes = f"{len(saes)} sparse autoencoder{'s' if len(saes) > 1 else ''}"
    layers = f"{recipe['n_layers']} layer{'s' if recipe['n_layers'] > 1 else ''}"
    return "\n".join(
        [
            f"# {name}",
            "",
            f"A small language model and {n_saes}, trained from scratch by this project so that its notebooks run offline.",
            f"They stand in the layout of {_STANDS_FOR[recipe['architecture']]}.",
            "",
            f"- **Model:** {layers}, {_ARCHITECTURE[recipe['architecture']]}, d_model {recipe['d_model']}, d_mlp {recipe['d_mlp']},",
            f"  context {recipe['n_ctx']}; byte-level BPE of {recipe['d_vocab']:,} with single digits. AdamW, learning rate {recipe['lr']}, {trained:,} tokens.",
            "- **SAEs:** trained by sae_lens on activations scaled to mean norm sqrt(d_in); decoder rows of unit norm as stored. ReLU with an L1",
            "  penalty, or JumpReLU with sae_lens's quadratic penalty around a target L0 (Gemma Scope 2's; the first Gemma Scope had a linear one).",
            "- **Data:** the sources of one machine's Python standard library, and the descriptions and docstrings of its packages",
            f"  ({tokens['training']:,} tokens; one document in 25 held out: {tokens['held_out']:,} tokens). None of it is bundled. The bundled text",
            f"  ({tokens['bundled']:,} tokens) was written for this project and never trained on.",
            "- **Weights** are stored in float16 and used in float32; everything below was measured on the files as stored.",
            "",
            "## What came out",
            "",
            "| SAE | hook | features | trained on | score, held out | score, bundled | variance explained | mean L0 | dead | rare | over tokens |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
            *(_row(sae_id, sae) for sae_id, sae in saes.items()),
            "",
            "Score: CE loss recovered against zero ablation, BOS included. Variance explained: conventional, held out, without BOS.",
            "Mean L0, dead and rare (a rate below 1e-4, dead ones among them) are over as many tokens of held-out and training text as the",
            "last column says. A feature that did not fire in n tokens may still fire on fewer than 3 / n of them (95%).",
            "",
            "| SAE | text | clean | spliced | zeroed (nats per token) |",
            "|---|---|---|---|---|",
            *(
                _losses(sae_id, text, sae[text])
                for sae_id, sae in saes.items()
                for text in ("held_out", "bundled")
            ),
            "",
            "## The language model's loss (nats per token; held out: the first 256 rows)",
            "",
            "| step | training | held out |",
            "|---|---|---|",
            *(
                f"| {step:,} | {train:.3f} | {held_out:.3f} |"
                for step, train, held_out in card["model"]["curve"]
            ),
            "",
            "## The SAEs in training",
            "",
            "| SAE | tokens | variance explained | L0 | firing rates |",
            "|---|---|---|---|---|",
            *(line for sae_id, sae in saes.items() for line in _curve(sae_id, sae["curve"])),
            "",
            "Each bar is half a decade of log10 firing rate, from -6.5 (did not fire in the window) on the left to 0 on the right, by number of",
            "features; the window is a sixteenth of the training.",
            "",
            "## Good for, and not",
            "",
            "Good for learning the methods, for teaching, and for testing code: the analyses run as they do on the published weights. Not good for",
            "claims about language models: the model is tiny, its text narrow, its training minutes long. Its numbers are regression values and",
            "reproduce nothing.",
            "",
            f"Made by `python -m tools.minis.build build {name}`. Licence: MIT.",
            "",
        ]
    )


def _row(sae_id: str, sae: dict) -> str:
    recipe = sae["recipe"]
    penalty = (
        f"L1 {recipe['l1']:g}" if recipe["l1"] is not None else f"target L0 {recipe['target_l0']:g}"
    )
    cells = [
        f"`{sae_id}`",
        f"`{recipe['hook']}`",
        f"{recipe['d_in']} to {recipe['d_sae']:,}",
        f"{recipe['steps'] * recipe['batch']:,} tokens{'' if recipe['bos'] else ' but BOS'}, seed {recipe['seed']}, {penalty}, learning rate {recipe['lr']:g}",
        f"{sae['held_out']['score']:.2%}",
        f"{sae['bundled']['score']:.2%}",
        f"{sae['variance_explained']:.3f}",
        f"{sae['mean_l0']:.1f}",
        f"{sae['dead_fraction']:.1%}",
        f"{sae['rare_fraction']:.1%}",
        f"{sae['scan_tokens']:,}",
    ]
    return "| " + " | ".join(cells) + " |"


def _losses(sae_id: str, text: str, score: dict) -> str:
    losses = " | ".join(f"{score[key]:.3f}" for key in ("loss", "recons_loss", "ablated_loss"))
    return f"| `{sae_id}` | {text.replace('_', ' ')} | {losses} |"


def _curve(sae_id: str, curve: list[dict]) -> list[str]:
    """Four of the checkpoints, evenly spread, the last among them."""
    shown = curve[len(curve) - 1 :: -max(1, len(curve) // 4)][::-1]
    return [
        f"| `{sae_id}` | {entry['tokens']:,} | {entry['variance_explained']:.3f} | {entry['l0']:.1f} | `{_sparkline(entry['log10_rate_histogram'])}` |"
        for entry in shown
    ]


def _sparkline(counts: list[int]) -> str:
    top = max(counts) or 1
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // top)] for count in counts)
