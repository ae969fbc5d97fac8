"""Three jobs of the gelu-1l notebook, its way and ours: time, peak memory, and whether the results are equal.

    python benchmarks/speed.py                 # all jobs, five rounds
    python benchmarks/speed.py rates --rounds 3

Each measurement is a process of its own, which makes the same random weights of gelu-1l's shape (one layer,
d_model 512, d_mlp 2048, vocabulary 48,262; 16,384 features, L0 about 20) and then does one job once. The two ways
take turns, with a matrix product in between that shows what the machine gave at that moment. The published way is
written anew from the notebook's description: batches of 32 rows, the whole autoencoder run for each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

HOOK, D_MLP, D_SAE, L0 = "blocks.0.mlp.hook_post", 2048, 16_384, 25
ROWS, LENGTH, FEATURE = 64, 128, 2628  # a feature that fires on a tenth of the tokens
JOBS = {
    "rates": f"firing rates, {ROWS * LENGTH:,} tokens",
    "recons": f"recons score, {ROWS * LENGTH:,} tokens",
    "feature": f"one feature, {2 * ROWS * LENGTH:,} tokens",
}


def setting(job: str) -> SimpleNamespace:
    """Model, SAE and tokens, the same in each process."""
    import torch
    from sae_lens import StandardSAE, StandardSAEConfig
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    torch.manual_seed(0)
    sizes = {"n_layers": 1, "d_model": 512, "d_head": 64, "n_heads": 8, "d_mlp": D_MLP, "d_vocab": 48_262, "n_ctx": 1024, "act_fn": "gelu"}
    model = HookedTransformer(HookedTransformerConfig(**sizes, normalization_type="LN", seed=0)).requires_grad_(False)
    tokens = torch.randint(sizes["d_vocab"], ((2 if job == "feature" else 1) * ROWS, LENGTH))
    sae = StandardSAE(StandardSAEConfig(d_in=D_MLP, d_sae=D_SAE, apply_b_dec_to_input=True)).requires_grad_(False)
    for name in ("W_enc", "W_dec"):
        torch.nn.init.kaiming_uniform_(getattr(sae, name))
    sae.W_dec /= sae.W_dec.norm(dim=-1, keepdim=True)
    _, cache = model.run_with_cache(tokens[:2], names_filter=HOOK)
    before = cache[HOOK].flatten(0, 1) @ sae.W_enc
    sae.b_enc -= before.flatten()[:1_000_000].quantile(1 - L0 / D_SAE)
    return SimpleNamespace(model=model, sae=sae, tokens=tokens)


# ---- the published notebook's way ----


def autoencoder(sae, x):
    """Reconstruction, features and both losses, all of them each time."""
    features = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    reconstruction = features @ sae.W_dec + sae.b_dec
    error, sparsity = (reconstruction - x).pow(2).sum(-1).mean(0), features.abs().sum()
    return error + sparsity, reconstruction, features


def cached(s, rows):
    _, cache = s.model.run_with_cache(rows, stop_at_layer=1, names_filter=HOOK)
    return cache[HOOK]


def published_rates(s):
    import torch

    counts = torch.zeros(D_SAE)
    for rows in s.tokens.split(32):
        counts += (autoencoder(s.sae, cached(s, rows).reshape(-1, D_MLP))[2] > 0).sum(0)
    return counts


def published_recons(s):
    import torch

    edits = {"spliced": lambda x, hook: autoencoder(s.sae, x)[1], "zeroed": lambda x, hook: torch.zeros_like(x)}
    losses = []
    for rows in s.tokens.split(32):
        run = [s.model(rows, return_type="loss")]
        run += [s.model.run_with_hooks(rows, return_type="loss", fwd_hooks=[(HOOK, edit)]) for edit in edits.values()]
        losses.append(torch.stack(run))
    return torch.stack(losses).mean(0)


def published_feature(s):
    import torch

    return torch.cat([autoencoder(s.sae, cached(s, rows).reshape(-1, D_MLP))[2][:, FEATURE] for rows in s.tokens.split(32)])


# ---- ours ----


def our_rates(s):
    import saework

    return saework.scan(s.model, s.sae, s.tokens, hook=HOOK, top_k=0, progress=False).count.float()


def our_recons(s):
    import saework
    import torch

    score = saework.recons_score(s.model, s.sae, s.tokens, hook=HOOK, progress=False)
    return torch.tensor([score.loss, score.recons_loss, score.ablated_loss])


def our_feature(s):
    import saework

    return saework.feature_activations(s.model, s.sae, s.tokens, FEATURE, hook=HOOK).flatten()


WAYS = {"published": {"rates": published_rates, "recons": published_recons, "feature": published_feature}}
WAYS["saework"] = {"rates": our_rates, "recons": our_recons, "feature": our_feature}


# ---- measuring ----


def measure(job: str, way: str, out: str) -> None:
    """One job, once, in this process."""
    import torch

    s = setting(job)
    gigaflops = matrix_product_rate()
    open("/proc/self/clear_refs", "w").write("5")  # a new peak
    with torch.no_grad():
        start = time.perf_counter()
        result = WAYS[way][job](s)
        seconds = time.perf_counter() - start
    peak = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) / 1e6
    torch.save(result, out)
    print(json.dumps({"seconds": seconds, "peak_gb": peak, "gigaflops": gigaflops}))


def matrix_product_rate() -> float:
    """Billions of float32 operations a second, encoding 1,024 tokens into buffers that were touched before; the best of five."""
    import torch

    x, w, out = torch.randn(1024, D_MLP), torch.randn(D_MLP, D_SAE), torch.zeros(1024, D_SAE)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(x, w, out=out)
        times.append(time.perf_counter() - start)
    return 2 * 1024 * D_MLP * D_SAE / min(times) / 1e9


def equal(job: str, folder: str) -> str:
    """How far the two results are apart, in words; an error if that is more than rounding."""
    import torch

    published, ours = (torch.load(f"{folder}/{job}-{way}", weights_only=True) for way in WAYS)
    if job == "rates":
        flips, firings = int((published - ours).abs().sum()), int(published.sum())
        assert flips <= 1e-5 * firings + 2, f"{flips} of {firings} firings differ"
        return f"{firings:,} firings, {flips} differ"
    assert published.abs().max() > 0, "nothing fired, so nothing was compared"
    assert torch.allclose(published, ours, rtol=1e-4, atol=1e-4 * float(published.abs().max())), (published, ours)
    return f"equal to {float((published - ours).abs().max() / published.abs().max()):.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", help=f"of {', '.join(JOBS)}; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=3, metavar=("JOB", "WAY", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return measure(*arguments.one)
    import tempfile

    median, told = statistics.median, {}
    with tempfile.TemporaryDirectory() as folder:
        for job in arguments.jobs or JOBS:
            runs = {way: [] for way in WAYS}
            for _ in range(arguments.rounds):
                for way in WAYS:
                    command = [sys.executable, __file__, "--one", job, way, f"{folder}/{job}-{way}"]
                    done = subprocess.run(command, capture_output=True, text=True)
                    if done.returncode:
                        raise SystemExit(done.stderr)
                    runs[way].append(json.loads(done.stdout.strip().split("\n")[-1]))
            told[job] = equal(job, folder)
            row = {way: [[run[key] for run in runs[way]] for key in ("seconds", "peak_gb")] for way in WAYS}
            print(f"\n{JOBS[job]} ({told[job]})")
            for way, (seconds, peaks) in row.items():
                print(f"  {way:10} {median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), peak {median(peaks):.2f} GB ({min(peaks):.2f} to {max(peaks):.2f})")
            (a, peak_a), (b, peak_b) = row["published"], row["saework"]
            pairs = sorted(x / y for x, y in zip(a, b))
            print(f"  time ratio {median(a) / median(b):.2f} (pairs {pairs[0]:.2f} to {pairs[-1]:.2f}), memory ratio {median(peak_b) / median(peak_a):.2f}")
            rates = [run["gigaflops"] for way in WAYS for run in runs[way]]
            print(f"  matrix product {min(rates):.0f} to {max(rates):.0f} GFLOP/s", end="")
            if job == "rates":
                needed = 2 * ROWS * LENGTH * D_MLP * D_SAE / 1e9 / median(rates)
                print(f"; encoding at the median rate would take {needed:.2f} s, {needed / median(b):.0%} of ours", end="")
            print(flush=True)


if __name__ == "__main__":
    main()
