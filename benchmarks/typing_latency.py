"""From a key press in the explorer to the change of its heatmap, measured inside the browser.

    python benchmarks/typing_latency.py                # gelu-1l-mini, and gelu-1l's real shape
    python benchmarks/typing_latency.py --keys 60

The real shape has random weights. JupyterLab, its kernel and a headless Chromium run on this
machine. A key's time is the browser's own (``event.timeStamp``); the change is the first that a
MutationObserver on the heatmap sees. So the way to the kernel and back is in it, and painting is
not. Keys are pressed one after another, each when the heatmap of the last one is there. Then a
burst, as fast as the page takes it, is timed from its last key to its last change.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tests")]

import lab as labs  # noqa: E402, after the path to it

MINI = "from saework import explore, load\nbook = load('gelu-1l-mini', check=False)"
REAL = """
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from transformer_lens import HookedTransformer, HookedTransformerConfig
from saework import Workbook, explore
from saework.loading.tokenizer_files import read_tokenizer
from saework.core.files import DATA

torch.manual_seed(0)
# the real tokenizer is not here; ids are ids
tokenizer = read_tokenizer(DATA / "gelu-1l-mini" / "tokenizer")
config = HookedTransformerConfig(
    n_layers=1,
    d_model=512,
    d_head=64,
    n_heads=8,
    d_mlp=2048,
    d_vocab=48_262,
    n_ctx=1024,
    act_fn="gelu",
    normalization_type="LN",
    seed=0,
)
model = HookedTransformer(config, tokenizer=tokenizer).requires_grad_(False)
sae_config = StandardSAEConfig(d_in=2048, d_sae=16_384, apply_b_dec_to_input=True)
sae = StandardSAE(sae_config).requires_grad_(False)
for name in ("W_enc", "W_dec"):
    torch.nn.init.kaiming_uniform_(getattr(sae, name))
tokens = torch.randint(3, 4096, (8, 128))
book = Workbook(model, sae, tokens, tokenizer, "blocks.0.mlp.hook_post")"""
TEXT = """\
def area(width, height):
    # Multiply the two sides, and return the result.
    return width * height
"""
KEYS = "for name in sorted(names): print(name, len(name)) # and so on\n"
BURST = "# as fast as it goes: 1 2 3 4 5 6 7 8 9"
WATCH = """([text, heatmap]) => {
    window.times = [];
    let pressed = null;
    text.addEventListener('keydown', event => {
        pressed = event.timeStamp;
        window.last = event.timeStamp;
    }, true);
    new MutationObserver(() => {
        window.changed = performance.now();
        if (pressed !== null) {
            window.times.push(window.changed - pressed);
            pressed = null;
        }
    }).observe(heatmap, {childList: true, subtree: true, characterData: true});
}"""


def main() -> None:
    """Measure both models in one JupyterLab."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keys", type=int, default=40, help="so many key presses a shape")
    keys = (KEYS * 9)[: parser.parse_args().keys]
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        labs.jupyterlab(Path(folder), threads=None) as lab,
        labs.chromium() as browser,
    ):
        print(
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the beginning; "
            "milliseconds from key to heatmap"
        )
        for name, cell in {"gelu-1l-mini": MINI, "gelu-1l's shape": REAL}.items():
            labs.write_notebook(lab.folder / "explore.ipynb", cell, f"explore(book, 985, {TEXT!r})")
            with labs.watched_page(browser, home=lab.home) as watched:
                lab.open(watched.page, "explore.ipynb")
                lab.run_all(watched.page)
                times, burst = measured(watched.page, keys)
            cuts = statistics.quantiles(times, n=20, method="inclusive")
            print(
                f"{name:16} median {statistics.median(times):.0f}, "
                f"95th percentile {cuts[18]:.0f}, longest {max(times):.0f} ({len(times)} keys); "
                f"a burst of {len(BURST)} keys: {burst:.0f} after its last"
            )


def measured(page, keys: str) -> tuple[list[float], float]:
    """Times of single keys, and the time from a burst's last key to the heatmap's last change."""
    text = page.get_by_label("Text", exact=True)
    heatmap = page.locator(labs.HEATMAP).first
    text.focus()
    text.press("ControlOrMeta+End")
    page.wait_for_function(
        "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    )
    page.evaluate(WATCH, [text.element_handle(), heatmap.element_handle()])
    for i, key in enumerate(keys, 1):
        page.keyboard.press("Enter" if key == "\n" else key)
        page.wait_for_function("i => times.length >= i", arg=i, polling=5)
    times = page.evaluate("times")
    page.keyboard.type(BURST)
    there = f"([heatmap, end]) => ({labs.WORDS})(heatmap).includes(end)"
    page.wait_for_function(there, arg=[heatmap.element_handle(), BURST[-8:].replace(" ", "·")])
    return times, page.evaluate("changed - last")


if __name__ == "__main__":
    main()
