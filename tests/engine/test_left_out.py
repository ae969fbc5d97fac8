"""A model without its last blocks: each public function is right, or names ``depth="full"``."""

from __future__ import annotations

import copy

import pytest
import torch

import saework
from saework.core.errors import HookError, UnknownNameError
from saework.engine import forward
from saework.engine.digests import model_digest
from saework.engine.generation import generate
from saework.engine.left_out import check_has_logits, left_out
from saework.engine.unembedding import logits_transform
from saework.views.explorer.feature_search import features_raising

WORDS = 'loaded with depth="hook": it holds 2 of its 4 blocks, .* load it with depth="full"'
FEATURE = 3


@pytest.fixture(scope="module")
def part():
    return saework.load("gemma-mini", n_tokens=256, check=False, depth="hook")


@pytest.fixture(scope="module")
def whole():
    return saework.load("gemma-mini", n_tokens=256, check=False)


NEED_LOGITS = {
    "model": lambda book: book.model(book.tokens),
    "W_U": lambda book: book.model.W_U,
    "b_U": lambda book: book.model.b_U,
    "generate": lambda book: book.model.generate(book.tokens[:1], max_new_tokens=1),
    "cache": lambda book: book.model.run_with_cache(book.tokens),
    "our generate": lambda book: generate(book.model, book.tokens[:1], [], max_new_tokens=1),
    "transform": lambda book: logits_transform(book.model),
    "token_losses": lambda book: saework.token_losses(book.model, book.tokens),
    "final_states": lambda book: forward.final_states(book.model, book.tokens),
    "recons_score": saework.recons_score,
    "recons_score, mean": lambda book: saework.recons_score(book, ablation="mean"),
    "reconstruction_metrics": saework.reconstruction_metrics,
    "find_site": saework.find_site,
    "logit_effect": lambda book: saework.logit_effect(book, FEATURE),
    "search by token": lambda book: features_raising(book, [5]),
    "steer": lambda book: saework.steer(book, "import", FEATURE, strength=1.0),
    "feature_page": lambda book: saework.feature_page(book, FEATURE),
    "feature_pages": lambda book: list(saework.feature_pages(book, [FEATURE])),
    "unembed.hook_in": lambda book: saework.activations(book.model, book.tokens, "unembed.hook_in"),
    "ln_final": lambda book: saework.activations(book.model, book.tokens, "ln_final.hook_in"),
    "normalized": lambda book: saework.activations(
        book.model, book.tokens, "ln_final.hook_normalized"
    ),
}


@pytest.mark.parametrize("name", NEED_LOGITS)
def test_what_needs_logits_is_refused(part, name):
    with pytest.raises(HookError, match=WORDS):
        NEED_LOGITS[name](part)


AT_ONCE = (
    "W_U",
    "our generate",
    "transform",
    "token_losses",
    "recons_score",
    "reconstruction_metrics",
    "find_site",
    "logit_effect",
    "search by token",
    "steer",
    "feature_page",
    "feature_pages",
)


@pytest.mark.parametrize("name", AT_ONCE)
def test_it_is_refused_before_anything_runs(part, monkeypatch, name):
    def run(*args, **options):
        raise AssertionError("the model ran")

    monkeypatch.setattr(type(part.model), "forward", run)
    with pytest.raises(HookError, match=WORDS):
        NEED_LOGITS[name](part)


GIVEN = {
    "activations": lambda book: saework.activations(book.model, book.tokens, book.hook),
    "every hook": lambda book: [
        saework.activations(book.model, book.tokens, f"blocks.{layer}.{name}")
        for layer in (0, 1)
        for name in ("attn.hook_z", "mlp.hook_post", "hook_resid_post", "ln2.hook_normalized")
    ],
    "features": lambda book: saework.feature_activations(
        book.model, book.sae, book.tokens, FEATURE
    ),
    "active": lambda book: saework.active_features(book.model, book.sae, book.tokens[0]).to_numpy(),
    "scan": lambda book: saework.scan(book, progress=False).total_activation,
    "rare": lambda book: (
        saework.rare_features(
            book.sae, saework.scan(book, progress=False).firing_rate, threshold=0.01
        ).is_rare
    ),
}


def same(ours, theirs) -> bool:
    if isinstance(ours, list):
        return all(map(same, ours, theirs))
    return torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


@pytest.mark.parametrize("name", GIVEN)
def test_what_needs_none_is_the_whole_models(part, whole, name):
    assert same(GIVEN[name](part), GIVEN[name](whole))


def test_a_hook_of_a_later_block(part):
    hook = "blocks.3.hook_resid_post"
    words = rf'no hook {hook!r}.* holds 2 of its 4 blocks; load it with depth="full"'
    with pytest.raises(UnknownNameError, match=words):
        saework.activations(part.model, part.tokens, hook)
    with pytest.raises(UnknownNameError, match=words):
        saework.Workbook(part.model, part.sae, part.tokens, part.tokenizer, hook)


def test_a_copy_is_refused_too(part):
    with pytest.raises(HookError, match=WORDS):
        copy.deepcopy(part.model)(part.tokens)


def test_a_whole_model_is_let_through(whole, part):
    assert left_out(whole.model) is None
    check_has_logits(whole.model)
    assert (left_out(part.model).n_blocks_held, left_out(part.model).n_blocks) == (2, 4)


def test_digests_tell_them_apart(part, whole):
    assert model_digest(part.model) != model_digest(whole.model)


def test_an_object_without_unembedding_is_let_through():
    check_has_logits(object())
