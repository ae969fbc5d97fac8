"""The published notebook's own functions, in plain tensors, against saework's on the same weights.

Source: the gelu-1l notebook of Neel Nanda. The names are its names; each difference from it is said
where it stands.
"""

from __future__ import annotations

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import saework
from saework.core.formulas import log10_rate

POST = "blocks.0.mlp.hook_post"  # utils.get_act_name("post", 0)
TEXT = "def area(width, height):\n\treturn width * height  # two sides\n\nclass Café:\n    pass"


class AutoEncoder:
    def __init__(self, sae):
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec

    def __call__(self, x):
        acts = F.relu((x - self.b_dec) @ self.W_enc + self.b_enc)
        return SimpleNamespace(x_reconstruct=acts @ self.W_dec + self.b_dec, acts=acts)


def replacement_hook(mlp_post, hook, encoder):
    return encoder(mlp_post).x_reconstruct


def mean_ablate_hook(mlp_post, hook):
    mlp_post[:] = mlp_post.mean([0, 1])
    return mlp_post


def zero_ablate_hook(mlp_post, hook):
    mlp_post[:] = 0.0
    return mlp_post


def get_recons_loss(model, tokens, encoder, ablate_hook):
    spliced, ablated = ((POST, partial(replacement_hook, encoder=encoder)), (POST, ablate_hook))
    loss = model(tokens, return_type="loss").item()
    recons_loss = model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[spliced]).item()
    abl_loss = model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[ablated]).item()
    return (abl_loss - recons_loss) / (abl_loss - loss), loss, recons_loss, abl_loss


def mlp_activations(model, text_or_tokens):
    _, cache = model.run_with_cache(text_or_tokens, stop_at_layer=1, names_filter=POST)
    return cache[POST]


def get_counts(model, tokens, encoder):
    hidden = encoder(mlp_activations(model, tokens).reshape(-1, model.cfg.d_mlp)).acts
    return (hidden > 0).sum(0)


def process_token(s):
    return s.replace(" ", "·").replace("\n", "↩\n").replace("\t", "→")


def make_token_df(model, tokens, len_prefix=5, len_suffix=1):
    str_tokens = [[process_token(s) for s in model.to_str_tokens(t)] for t in tokens]
    rows = []
    for b, row in enumerate(str_tokens):
        for p, current in enumerate(row):
            prefix = "".join(row[max(0, p - len_prefix) : p])
            # The notebook ends the suffix at len(row) - 1. The position before last has none.
            suffix = "".join(row[p + 1 : min(len(row), p + 1 + len_suffix)])
            rows.append(
                (current, f"{current}/{p}", f"{prefix}|{current}|{suffix}", b, p, f"{b}/{p}")
            )
    return pd.DataFrame(
        rows, columns=["str_tokens", "unique_token", "context", "batch", "pos", "label"]
    )


@pytest.fixture(scope="module")
def encoder(tiny):
    return AutoEncoder(tiny.sae)


@pytest.fixture(scope="module")
def scan(tiny):
    return saework.scan(tiny.model, tiny.sae, tiny.tokens, top_k=5, batch_size=4)


def test_hidden_activations_and_reconstruction(tiny, encoder):
    x = mlp_activations(tiny.model, tiny.tokens)
    torch.testing.assert_close(tiny.sae.encode(x), encoder(x).acts, rtol=0, atol=0)
    torch.testing.assert_close(tiny.sae(x), encoder(x).x_reconstruct, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("ablation", "hook"), [("zero", zero_ablate_hook), ("mean", mean_ablate_hook)]
)
def test_get_recons_loss(tiny, encoder, ablation, hook):
    # with a louder MLP, on text that it wrote: else ablation hardly costs anything
    model = copy.deepcopy(tiny.model)
    model.blocks[0].mlp.W_in.mul_(4)
    model.blocks[0].mlp.W_out.mul_(4)
    model.unembed.W_U.mul_(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = model.generate(tiny.tokens[:, :2], max_new_tokens=18, verbose=False)
    published_score, *published_losses = get_recons_loss(model, tokens, encoder, hook)
    score = saework.recons_score(model, tiny.sae, tokens, ablation=ablation, batch_size=4)
    losses = [score.loss, score.recons_loss, score.ablated_loss]
    assert losses == pytest.approx(published_losses, abs=5e-6)
    assert score.score == pytest.approx(published_score, abs=5e-5)
    assert min(np.diff(sorted(published_losses))) > 0.1, "losses that are alike would prove nothing"


def test_get_freqs_and_log_freq(tiny, encoder, scan):
    counts = get_counts(tiny.model, tiny.tokens, encoder)
    assert torch.equal(scan.count, counts)
    assert 0 < (counts == 0).sum() < len(counts)
    freqs = counts / tiny.tokens.numel()
    np.testing.assert_allclose(scan.firing_rate, freqs, rtol=1e-6)
    np.testing.assert_allclose(log10_rate(scan.firing_rate), (freqs + 10**-6.5).log10(), atol=1e-5)
    np.testing.assert_allclose(log10_rate(scan.firing_rate)[scan.dead], -6.5, atol=1e-12)


@pytest.mark.parametrize("threshold", [1e-4, 0.4])
def test_rare_mean_and_cosine(encoder, tiny, scan, threshold):
    is_rare = scan.firing_rate < threshold
    rare_mean = encoder.W_enc[:, is_rare].mean(-1)
    cosine = rare_mean @ encoder.W_enc / rare_mean.norm() / encoder.W_enc.norm(dim=0)
    result = saework.rare_features(tiny.sae, scan.firing_rate, threshold=threshold)
    assert torch.equal(result.is_rare, is_rare)
    torch.testing.assert_close(result.direction, rare_mean)
    torch.testing.assert_close(result.cosine, cosine, rtol=0, atol=1e-6)


@pytest.mark.parametrize("feature", [7, 20])
def test_basic_feature_vis(tiny, encoder, feature):
    acts = F.relu(
        (mlp_activations(tiny.model, TEXT)[0] - encoder.b_dec) @ encoder.W_enc[:, feature]
        + encoder.b_enc[feature]
    )
    assert acts.max() > 0
    torch.testing.assert_close(
        saework.feature_activations(tiny.model, tiny.sae, TEXT, feature), acts, rtol=0, atol=1e-5
    )


def test_logit_table(tiny, encoder):
    logits = encoder.W_dec[7] @ tiny.model.W_out[0] @ tiny.model.W_U
    published = pd.DataFrame(
        {"logit": logits, "log_prob": logits.log_softmax(-1), "prob": logits.softmax(-1)}
    )
    published["token"] = [process_token(s) for s in tiny.model.to_str_tokens(torch.arange(4096))]
    published = published.sort_values("logit", ascending=False)

    result = saework.vocab_df(
        saework.logit_effect(tiny.model, tiny.sae, 7), tiny.tokenizer, probs=True
    )
    for column in ("logit", "log_prob", "prob"):
        np.testing.assert_allclose(result[column], published[column], atol=1e-5)
    assert result.index[:20].tolist() == published.index[:20].tolist()
    # saework shows control characters and parts of characters by number, and no break after ↩
    printable = published["token"].map(str.isprintable) & ~published["token"].str.contains("\ufffd")
    assert printable.mean() > 0.9
    assert (result["token"].loc[published.index] == published["token"])[printable].all()


def test_token_df(tiny, encoder):
    tokens = tiny.model.to_tokens(TEXT)
    tokens = tokens[:, : tokens.shape[1] // 2 * 2 - 1].repeat(2, 1)
    hidden = encoder(mlp_activations(tiny.model, tokens).reshape(-1, tiny.model.cfg.d_mlp)).acts
    published = make_token_df(tiny.model, tokens).assign(feature=hidden[:, 7].numpy())
    for column in ("str_tokens", "unique_token", "context"):
        published[column] = published[column].str.replace(
            "↩\n", "↩"
        )  # saework leaves the break out
    result = saework.token_df(
        tokens, tiny.tokenizer, feature=saework.feature_activations(tiny.model, tiny.sae, tokens, 7)
    )
    # saework shows a character of several tokens whole, in each of these columns
    is_part = published["context"].str.contains("\ufffd")
    assert is_part.mean() < 0.5
    columns = ["str_tokens", "unique_token", "context"]
    published.loc[is_part, columns] = result.loc[is_part, columns]
    pd.testing.assert_frame_equal(result, published, atol=1e-5, check_dtype=False)


def test_top_examples_are_the_sorted_token_df(tiny, encoder, scan):
    hidden = encoder(
        mlp_activations(tiny.model, tiny.tokens).reshape(-1, tiny.model.cfg.d_mlp)
    ).acts
    published = saework.token_df(tiny.tokens, tiny.tokenizer, activation=hidden[:, 7])
    published = published.sort_values("activation", ascending=False).head(5).reset_index(drop=True)
    result = scan.top_examples(7, tiny.tokens, tiny.tokenizer, n=5)
    pd.testing.assert_frame_equal(result, published, atol=1e-5, check_dtype=False)
