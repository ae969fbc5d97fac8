"""Tables of tokens and of the vocabulary, against the published notebook's own functions."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from saework.core.token_tables import token_df, vocab_df
from saework.core.tokens import token_names, visible


def test_a_part_of_a_character_has_a_name(tiny):
    ids = tiny.tokenizer(" the 日\n", add_special_tokens=False)["input_ids"]
    assert token_names(ids, tiny.tokenizer) == ["·the", "·", "⟨0xE6⟩", "⟨0x97⟩", "⟨0xA5⟩", "↩"]
    names = token_names(range(len(tiny.tokenizer)), tiny.tokenizer)
    assert not any("\ufffd" in name for name in names)
    assert len([name for name in names if "⟨0x" in name]) > 100
    assert vocab_df(torch.zeros(4096), tiny.tokenizer).loc[ids, "token"].tolist() == (
        token_names(ids, tiny.tokenizer)
    )


def test_a_tokens_context_has_characters_whole(tiny):
    ids = tiny.tokenizer(["a日b", "b日a"], add_special_tokens=False)["input_ids"]
    frame = token_df(ids, tiny.tokenizer)
    assert frame["str_tokens"].tolist() == [
        *["a", "日", "←", "←", "b"],
        *["b", "日", "←", "←", "a"],
    ]
    assert frame["context"].tolist()[2:4] == ["a日|←|←", "a日←|←|b"]


def published_token_df(rows, len_prefix=5, len_suffix=1):
    """``make_token_df`` of the gelu-1l notebook, given each token's text; returns its columns."""
    texts = [
        [s.replace(" ", "·").replace("\n", "↩\n").replace("\t", "→") for s in row] for row in rows
    ]
    unique = [[f"{s}/{i}" for i, s in enumerate(row)] for row in texts]
    context, batch, pos, label = [], [], [], []
    for b in range(len(texts)):
        n = len(texts[b])
        for p in range(n):
            prefix = "".join(texts[b][max(0, p - len_prefix) : p])
            if p == n - 1:
                suffix = ""
            else:
                suffix = "".join(texts[b][p + 1 : min(n - 1, p + 1 + len_suffix)])
            context.append(f"{prefix}|{texts[b][p]}|{suffix}")
            batch.append(b)
            pos.append(p)
            label.append(f"{b}/{p}")

    def flat(nested):
        return [x for part in nested for x in part]

    return pd.DataFrame(
        dict(
            str_tokens=flat(texts),
            unique_token=flat(unique),
            context=context,
            batch=batch,
            pos=pos,
            label=label,
        )
    )


@pytest.fixture(scope="module")
def rows(tiny):
    """Two rows of real text with spaces, tabs and newlines, ``[2, 12]``."""
    ids = tiny.tokenizer(
        "def f(x):\n\treturn x + 1\n\n\nclass A:\n    pass\n# a comment\n", add_special_tokens=False
    )["input_ids"]
    assert len(ids) >= 24
    return torch.tensor(ids[:24]).reshape(2, 12)


@pytest.mark.parametrize("len_prefix, len_suffix", [(5, 1), (3, 2), (0, 0), (50, 50)])
def test_token_df_is_the_published_one_but_for_its_slip(rows, tiny, len_prefix, len_suffix):
    texts = [[tiny.tokenizer.decode([i]) for i in row] for row in rows.tolist()]
    published = published_token_df(texts, len_prefix, len_suffix)
    published = published.map(
        lambda cell: cell.replace("↩\n", "↩") if isinstance(cell, str) else cell
    )
    ours = token_df(rows, tiny.tokenizer, len_prefix=len_prefix, len_suffix=len_suffix)
    assert ours.columns.tolist() == published.columns.tolist()

    n = rows.shape[1]
    cut_short = (ours["pos"] + len_suffix >= n - 1) & (ours["pos"] < n - 1) & (len_suffix > 0)
    whole = ~cut_short
    assert ours[whole].to_dict("list") == published[whole].to_dict("list")
    others = ["str_tokens", "unique_token", "batch", "pos", "label"]
    assert ours[others].to_dict("list") == published[others].to_dict("list")
    for index in ours[cut_short].index:  # the published suffix never has the row's last token
        last = ours["str_tokens"][(index // n) * n + n - 1]
        assert ours["context"][index] == published["context"][index] + last
    if len_suffix == 1:
        assert ours["pos"][cut_short].tolist() == [n - 2] * 2


def test_token_df_shows_a_newline_as_one_sign(tiny):
    ids = tiny.tokenizer("a\nb", add_special_tokens=False)["input_ids"]
    frame = token_df(ids, tiny.tokenizer)
    assert "".join(frame["str_tokens"]) == "a↩b"
    assert not frame["context"].str.contains("\n").any()


def test_token_df_by_hand(tiny):
    texts = ["def", " f", "(", "x"]
    ids = [tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert all(len(i) == 1 for i in ids)
    frame = token_df([i for (i,) in ids], tiny.tokenizer, len_prefix=2)
    assert frame["context"].tolist() == ["|def|·f", "def|·f|(", "def·f|(|x", "·f(|x|"]
    assert frame["unique_token"].tolist() == ["def/0", "·f/1", "(/2", "x/3"]
    assert frame["label"].tolist() == ["0/0", "0/1", "0/2", "0/3"]


def test_token_df_takes_columns_flat_or_as_rows(tiny):
    values = torch.arange(tiny.tokens.numel(), requires_grad=False).reshape(tiny.tokens.shape)
    frame = token_df(
        tiny.tokens,
        tiny.tokenizer,
        rows=values,
        flat=values.flatten().numpy(),
        listed=values.tolist(),
    )
    assert (
        frame["rows"].tolist()
        == frame["flat"].tolist()
        == frame["listed"].tolist()
        == list(range(120))
    )
    assert frame["rows"][frame["label"] == "2/3"].item() == values[2, 3].item()


def test_token_df_refuses_a_column_of_another_size(tiny):
    message = r"column 'act' has 3 values for 120 tokens \(6 rows of 20\); give one value per token"
    with pytest.raises(ValueError, match=message):
        token_df(tiny.tokens, tiny.tokenizer, act=[1, 2, 3])


@pytest.mark.parametrize("argument", ["len_prefix", "len_suffix"])
def test_token_df_refuses_a_negative_context(tiny, argument):
    with pytest.raises(ValueError, match=f"{argument} is -1; give a whole number of at least 0"):
        token_df(tiny.tokens, tiny.tokenizer, **{argument: -1})


def test_vocab_df_is_highest_first_with_ties_by_token(tiny):
    logits = torch.randint(0, 9, (4096,), generator=torch.Generator().manual_seed(0)).float()
    frame = vocab_df(logits, tiny.tokenizer)
    expected = sorted(range(4096), key=lambda i: (-logits[i].item(), i))
    assert frame.index.tolist() == expected and frame.index.name == "token_id"
    assert frame.columns.tolist() == ["token", "logit"]
    assert frame["logit"].tolist() == [logits[i].item() for i in expected]
    texts = [visible(tiny.tokenizer.decode([i])) for i in expected[:500]]
    pairs = list(zip(frame["token"].head(500), texts))
    whole = [token for token, text in pairs if token == text]
    assert len(whole) > 400
    assert all(token == text or "\ufffd" in text for token, text in pairs)


def test_vocab_df_gives_probabilities(tiny):
    logits = torch.zeros(4096)
    logits[7] = math.log(4095)  # as likely as all others together
    frame = vocab_df(logits, tiny.tokenizer, probs=True)
    assert frame.columns.tolist() == ["token", "logit", "log_prob", "prob"]
    assert frame["prob"][7] == pytest.approx(0.5)
    assert frame["log_prob"][7] == pytest.approx(math.log(0.5))
    assert frame["prob"].sum() == pytest.approx(1)
    np.testing.assert_allclose(np.exp(frame["log_prob"]), frame["prob"])


def test_vocab_df_covers_a_padded_vocabulary(tiny):
    n = len(tiny.tokenizer)
    frame = vocab_df(torch.arange(n + 2.0), tiny.tokenizer)
    assert frame.index[:2].tolist() == [n + 1, n]
    assert frame["token"].iloc[:2].tolist() == ["", ""]


@pytest.mark.parametrize("shape", [(2, 3), (0,), ()])
def test_vocab_df_needs_one_value_per_token(tiny, shape):
    with pytest.raises(
        ValueError, match=r"logits have shape \(.*\); give one value per token, \[d_vocab\]"
    ):
        vocab_df(torch.zeros(shape), tiny.tokenizer)


def test_a_column_in_bfloat16(tiny):
    rows = tiny.tokens[:1, :3]
    values = torch.tensor([[0.5, 1.25, -2.0]])
    frame = token_df(rows, tiny.tokenizer, value=values.bfloat16())
    assert frame["value"].tolist() == [0.5, 1.25, -2.0]


def test_token_df_keeps_its_own_columns(tiny):
    with pytest.raises(ValueError, match="column 'batch' is there already .*another name"):
        token_df([[1, 2]], tiny.tokenizer, batch=[0.5, 0.5])


@pytest.mark.parametrize("logits", [[math.nan, 1.0], [1j, 1.0], [True, False]])
def test_vocab_df_needs_real_numbers(tiny, logits):
    with pytest.raises(ValueError, match="logits are torch.*; give real numbers"):
        vocab_df(torch.tensor(logits), tiny.tokenizer)


@pytest.mark.parametrize("given", ["gelu-1l", object(), None])
def test_vocab_df_of_something_else(tiny, given):
    with pytest.raises(ValueError, match="logits is .*; give a tensor, an array, or lists"):
        vocab_df(given, tiny.tokenizer)


def test_a_column_of_another_shape_is_not_read_flat(tiny):
    tokens = tiny.tokens[:2, :3]
    values = torch.arange(6).reshape(2, 3)
    frame = token_df(tokens, tiny.tokenizer, own=values, flat=values.flatten())
    assert frame["own"].tolist() == frame["flat"].tolist() == list(range(6))
    with pytest.raises(
        ValueError, match=r"column 'own' has shape \(3, 2\), and the tokens \(2, 3\)"
    ):
        token_df(tokens, tiny.tokenizer, own=values.T)


def test_no_probabilities_of_an_infinite_logit(tiny):
    with pytest.raises(ValueError, match="the largest logit is inf, of which no probability can"):
        vocab_df([math.inf, 1.0], tiny.tokenizer, probs=True)
    assert vocab_df([-math.inf, 1.0], tiny.tokenizer, probs=True)["prob"].tolist() == [1.0, 0.0]
