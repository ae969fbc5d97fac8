"""How long a change in the explorer takes, from the control's event to the new heatmap.

The model has gelu-1l's real shape and random weights.

    python benchmarks/explorer_latency.py [--features 16384] [--words 75] [--changes 50]

The browser's own time (sending and drawing some tens of kB) comes on top.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from saework import Workbook
    from saework.views.explorer.explorer import Explorer

WORDS = (
    "the sum of two sides and a longer line that returns what was read from each file "
    "in this folder"
).split()
WARM_UP = 3  # changes


def workbook(n_features: int) -> Workbook:
    """A model and an SAE of gelu-1l's shape, with a real tokenizer."""
    from sae_lens import StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    from saework import Workbook
    from saework.core.files import DATA
    from saework.loading import models
    from saework.loading.tokenizer_files import read_tokenizer

    # real typing; the other 44,000 tokens are never typed
    tokenizer = read_tokenizer(DATA / "gelu-1l-mini" / "tokenizer")
    config = dict(
        d_model=512,
        n_layers=1,
        d_mlp=2048,
        d_head=64,
        n_heads=8,
        n_ctx=1024,
        d_vocab=48262,
        act_fn="gelu",
        attn_only=False,
    )
    config |= dict(normalization="LN", shortformer_pos=False)
    torch.manual_seed(0)
    model = models.neel_model_shell(config, tokenizer=tokenizer)
    model.load_and_process_state_dict(
        {name: 0.05 * torch.randn(shape) for name, shape in models.neel_shapes(config).items()}
    )
    hook = "blocks.0.mlp.hook_post"
    sae = StandardSAE(
        StandardSAEConfig(
            d_in=2048,
            d_sae=n_features,
            apply_b_dec_to_input=True,
            metadata=SAEMetadata(hook_name=hook),
        )
    )
    for weight in sae.parameters():
        weight.data.normal_(0, 0.02)
    tokens = torch.randint(3, 4096, (8, 128))
    tokens[:, 0] = tokenizer.bos_token_id
    return Workbook(
        model.eval().requires_grad_(False),
        sae.eval().requires_grad_(False),
        tokens,
        tokenizer,
        hook,
    )


def timed(
    box: Explorer, change: Callable[[int], None], n_changes: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each change, until the new heatmap (or list) was sent, and until all is done.

    The first three changes warm up, and are not among them.
    """
    out, done, sent = [], [], []
    for control, name in ((box.output, "value"), (box.found, "options")):
        control.observe(lambda change: sent.append(time.perf_counter()), names=name)
    for i in range(n_changes + WARM_UP):
        sent.clear()
        start = time.perf_counter()
        change(i)
        done.append(1000 * (time.perf_counter() - start))
        out.append(1000 * (sent[-1] - start) if sent else done[-1])
    box.output.unobserve_all()
    return out[WARM_UP:], done[WARM_UP:]


def main() -> None:
    """Time four kinds of change."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("features", 16384), ("words", 75), ("changes", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    from saework import explore

    text = " ".join(WORDS[i % len(WORDS)] for i in range(args.words))
    box = explore(workbook(args.features), 7, text)
    n_tokens = len(box.heatmap.strings)

    def type_a_letter(i):
        box.text.value = (
            text + " letters that are typed one after the other, each a change"[: i + 1]
        )

    def next_feature(i):
        box.feature.value = (17 * i + 8) % args.features

    def next_token(i):
        box.token.value = i % n_tokens + 1

    def search(i):
        box.search.value = WORDS[i % len(WORDS)]

    kilobytes = len(box.output.value) / 1000
    print(
        f"{n_tokens} tokens, {args.features} features, {torch.get_num_threads()} thread(s), "
        f"HTML of {kilobytes:.0f} kB"
    )
    changes = {
        "a letter typed": type_a_letter,
        "another feature": next_feature,
        "another token": next_token,
        "a search by logit": search,
    }
    for name, change in changes.items():
        for what, taken in zip(("shown", "done"), timed(box, change, args.changes)):
            middle = statistics.median(taken)
            slow = statistics.quantiles(taken, n=20)[18]
            print(f"{name:18} {what:5} median {middle:6.1f} ms, 95th percentile {slow:6.1f} ms")


if __name__ == "__main__":
    main()
