"""A model without its last blocks: each public function is right, or names ``depth="full"``."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch

import saework
from saework.core.errors import HookError, UnknownNameError
from saework.engine import forward
from saework.engine.digests import model_digest
from saework.engine.generation import generate
from saework.engine.left_out import HeldRows, check_has_logits, left_out
from saework.engine.unembedding import logits_transform
from saework.views.explorer.feature_search import features_raising

WORDS = 'loaded with depth="(hook|text)": it holds 2 of its 4 blocks, .* load it with depth="full"'
FEATURE = 3


@pytest.fixture(scope="module", params=["hook", "text"])
def part(request):
    return saework.load("gemma-mini", n_tokens=256, check=False, depth=request.param)


@pytest.fixture(scope="module")
def of_text():
    return saework.load("gemma-mini", n_tokens=256, check=False, depth="text")


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


def another_token(book) -> int:
    held = set(book.tokens.flatten().tolist())
    return next(token for token in range(100, book.model.cfg.d_vocab) if token not in held)


def test_a_token_of_another_text_is_named(of_text):
    token = another_token(of_text)
    word = of_text.tokenizer.decode([token])
    row = of_text.tokens[:1].clone()
    row[0, 5] = token
    words = (
        f"token {token} ({word!r}) is not in the text that this model was loaded for "
        '(depth="text": it holds '
    )
    with pytest.raises(HookError, match=re.escape(words)):
        saework.activations(of_text.model, row, of_text.hook)
    with pytest.raises(HookError, match='text=...., or with depth="hook"'):
        saework.scan(replace(of_text, tokens=row), progress=False)


def test_a_token_that_the_vocabulary_lacks_is_refused_as_ever(of_text):
    row = torch.tensor([[2, of_text.model.cfg.d_vocab]])
    with pytest.raises(ValueError, match="4095"):
        saework.activations(of_text.model, row, of_text.hook)


def test_rows_are_not_found_by_their_place(of_text):
    """Row 7 of what is held is not token 7, so the matrix is not given out."""
    for matrix in (lambda: of_text.model.W_E, lambda: of_text.model.embed.weight):
        with pytest.raises(HookError, match="the embedding's matrix is not in the model, but only"):
            matrix()


def test_a_copy_holds_the_same_rows(of_text):
    copied = copy.deepcopy(of_text.model)
    assert torch.equal(
        saework.activations(copied, of_text.tokens, of_text.hook),
        saework.activations(of_text.model, of_text.tokens, of_text.hook),
    )
    with pytest.raises(HookError, match="is not in the text"):
        saework.activations(copied, torch.tensor([[2, another_token(of_text)]]), of_text.hook)


def test_without_a_tokenizer_the_error_has_the_number_alone():
    held = HeldRows(torch.nn.Embedding(2, 3), [4, 9], 12, None)
    assert torch.equal(held(torch.tensor([[9, 4]])), held.table(torch.tensor([[1, 0]])))
    with pytest.raises(HookError, match=r"^token 5 is not in the text .* it holds 2 rows"):
        held(torch.tensor([[4, 5]]))
