"""Rows of tokens, against the published notebook's tokenization and the library's own shuffle."""

import copy
import random

import numpy as np
import pytest
import torch

from saework.loading import corpus

WORDS = [
    "def",
    "area",
    "=",
    "width",
    "\n",
    "    ",
    "return",
    "# a note",
    "café",
    "≤",
    "x1",
    "\n\n",
    "(y):",
    "🙂",
]


@pytest.fixture(scope="module")
def texts():
    """1,100 documents, so that they fall into two batches; some are empty."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randrange(12))) for _ in range(1100)]


def published_rows(texts, tokenizer, length):
    """``tokenize_and_concatenate`` of TransformerLens 2, on each 1,000 documents."""
    rows = []
    for start in range(0, len(texts), 1000):
        full_text = tokenizer.eos_token.join(texts[start : start + 1000])
        num_chunks = 20
        chunk_length = (len(full_text) - 1) // num_chunks + 1
        chunks = [full_text[i * chunk_length : (i + 1) * chunk_length] for i in range(num_chunks)]
        tokens = tokenizer(chunks, return_tensors="np", padding=True, add_special_tokens=False)[
            "input_ids"
        ].flatten()
        tokens = tokens[tokens != tokenizer.pad_token_id]
        seq_len = length - 1
        num_batches = len(tokens) // seq_len
        tokens = tokens[: seq_len * num_batches].reshape(num_batches, seq_len)
        prefix = np.full((num_batches, 1), tokenizer.bos_token_id)
        rows += np.concatenate([prefix, tokens], axis=1).tolist()
    return rows


@pytest.mark.parametrize("length", [128, 17, 2])
def test_rows_are_the_published_ones(texts, tiny, length):
    rows = corpus.tokenize_rows(texts, tiny.tokenizer, length=length)
    assert rows.dtype == torch.long
    assert rows.tolist() == published_rows(texts, tiny.tokenizer, length)


def test_documents_are_joined_in_batches_of_a_thousand(texts, tiny):
    together = corpus.tokenize_rows(texts, tiny.tokenizer)
    apart = [corpus.tokenize_rows(part, tiny.tokenizer) for part in (texts[:1000], texts[1000:])]
    assert torch.equal(together, torch.cat(apart))
    assert [len(batch) for batch in corpus.batches(texts)] == [1000, 100]


def test_offsets_say_where_each_token_starts(texts, tiny):
    rows, offsets = corpus.tokenize_rows_with_offsets(texts, tiny.tokenizer, length=33)
    assert torch.equal(rows, corpus.tokenize_rows(texts, tiny.tokenizer, length=33))
    assert offsets[:, 0].tolist() == [-1] * len(rows)
    whole = corpus.joined_text(texts, tiny.tokenizer)
    checked = 0
    for ids, starts in zip(rows[:, 1:].tolist(), offsets[:, 1:].tolist()):
        for i, start in zip(ids, starts):
            text = tiny.tokenizer.decode([i])
            if (
                "\ufffd" not in text
            ):  # a part of a character of several bytes has no text of its own
                assert whole.startswith(text, start), (text, start)
                checked += 1
    assert checked > 0.7 * rows[:, 1:].numel()


def test_the_order_is_that_of_datasets_shuffle():
    import datasets

    rows = torch.arange(1000).reshape(500, 2)
    published = datasets.Dataset.from_dict({"tokens": rows.tolist()}).shuffle(42)
    assert corpus.shuffled(rows).tolist() == published["tokens"][:]
    assert corpus.shuffled(rows, seed=1).tolist() != published["tokens"][:]


def test_the_published_batches_are_drawn_after_the_autoencoders_weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(52)
        (
            torch.nn.init.kaiming_uniform_(torch.empty(6, 9)),
            torch.nn.init.kaiming_uniform_(torch.empty(9, 6)),
        )
        drawn = [torch.randperm(300)[:64].tolist() for _ in range(3)]
    assert corpus.published_rows(300, 3, shape=(6, 9)).tolist() == sum(drawn, [])
    assert corpus.published_rows(300, 1, skip=2, shape=(6, 9)).tolist() == drawn[2]


def rows_of_sae_lens(texts, tokenizer, length):
    """Token by token: BOS in front of each row, and between documents (an empty one is none)."""
    rows, row = [], []
    for ids in filter(
        None, (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    ):
        for token in [tokenizer.bos_token_id] * bool(row) + ids:
            row = [*(row or [tokenizer.bos_token_id]), token]
            if len(row) == length:
                rows, row = [*rows, row], []
    return rows


@pytest.mark.parametrize("length", [128, 17, 3, 2])
def test_packed_rows_are_those_of_sae_lens(texts, tiny, length):
    """Of documents that end within a row, at its end, and one token before it."""
    rows = corpus.packed_rows(texts, tiny.tokenizer, length=length)
    assert rows.dtype == torch.long and rows.tolist() == rows_of_sae_lens(
        texts, tiny.tokenizer, length
    )
    assert (rows[:, 0] == tiny.tokenizer.bos_token_id).all() and (
        rows[:, 1:] == tiny.tokenizer.bos_token_id
    ).any() == (length > 2)


def test_packed_rows_read_no_further_than_needed(texts, tiny):
    taken = []
    rows = corpus.packed_rows(
        (taken.append(text) or text for text in texts), tiny.tokenizer, length=20, n_rows=3
    )
    assert torch.equal(rows, corpus.packed_rows(texts, tiny.tokenizer, length=20)[:3])
    assert len(taken) < len(texts) / 2
    assert len(corpus.packed_rows(texts[:50], tiny.tokenizer, length=20, n_rows=10**6)) == len(
        rows_of_sae_lens(texts[:50], tiny.tokenizer, 20)
    )


@pytest.mark.parametrize("texts", [[], [""], ["too short"]])
def test_text_too_short_for_a_packed_row(texts, tiny):
    with pytest.raises(
        ValueError,
        match="not one row of 128 tokens came out of it; give more text or a smaller length",
    ):
        corpus.packed_rows(texts, tiny.tokenizer, length=128)


@pytest.mark.parametrize("texts", [[], [""], ["too short"], ["", ""]])
def test_text_too_short_for_a_row(texts, tiny):
    message = (
        f"not one row of 127 tokens came out of {len(texts)} documents; "
        "give more text or a smaller length"
    )
    with pytest.raises(ValueError, match=message):
        corpus.tokenize_rows(texts, tiny.tokenizer)


@pytest.mark.parametrize("length", [1, 0, -3])
def test_a_row_is_bos_and_at_least_one_token(texts, tiny, length):
    with pytest.raises(
        ValueError,
        match=f"length is {length}; a row is BOS and at least one token, so give 2 or more",
    ):
        corpus.tokenize_rows(texts, tiny.tokenizer, length=length)


# ---- conversations ----

TEMPLATE = (
    "{{ bos_token }}{% if not date_string is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today Date: {{ date_string }}\n"
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
TALK = [{"role": "system", "content": "a pirate"}, {"role": "user", "content": "def area"}]


@pytest.fixture
def chatty(tiny):
    """The tests' tokenizer with a template that writes the date, as Llama's does."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize("generation", [False, True])
def test_chat_tokens_are_those_of_the_template(chatty, generation):
    tokens = corpus.chat_tokens(TALK, chatty, add_generation_prompt=generation)
    assert tokens.dtype == torch.long and tokens.shape[0] == 1
    written = (
        "Today Date: 22 Jan 2025\n[system] a pirate<|EOS|>[user] def area<|EOS|>"
        + "[assistant] " * generation
    )
    expected = [chatty.bos_token_id, *chatty(written, add_special_tokens=False)["input_ids"]]
    assert tokens[0].tolist() == expected
    assert expected.count(chatty.bos_token_id) == 1 and expected.count(chatty.eos_token_id) == 2


def test_chat_tokens_carry_the_date_that_is_given(chatty):
    text = chatty.decode(corpus.chat_tokens(TALK, chatty, date="1 May 1999")[0])
    assert "Today Date: 1 May 1999\n" in text
    today = chatty.decode(chatty.apply_chat_template(TALK, return_dict=False))
    assert "22 Jan 2025" not in today and "Today Date: " in today, (
        "the template does not hang on the day, so nothing is tested"
    )


def test_a_tokenizer_without_a_chat_template(tiny):
    with pytest.raises(
        ValueError,
        match="tokenizer of .*gelu-1l-mini.* has no chat template; "
        "use that of an -Instruct model, or give plain text",
    ):
        corpus.chat_tokens(TALK, tiny.tokenizer)


@pytest.mark.parametrize(
    "messages",
    [
        "Who are you?",
        [],
        None,
        {"role": "user", "content": "x"},
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        ["x"],
        [TALK],
    ],
)
def test_messages_of_another_form(chatty, messages):
    with pytest.raises(
        ValueError,
        match=r"messages are .*; give a list such as "
        r'\[\{"role": "user", "content": "Who are you\?"\}\]',
    ):
        corpus.chat_tokens(messages, chatty)


def without_bos(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.bos_token = None
    return tokenizer


def test_rows_of_a_tokenizer_without_bos(texts, tiny):
    """The same text, and nothing in front: neither BOS nor EOS."""
    tokenizer = without_bos(tiny.tokenizer)
    rows, offsets = corpus.tokenize_rows_with_offsets(texts, tokenizer, length=16)
    with_bos = corpus.tokenize_rows(texts, tiny.tokenizer, length=17)[:, 1:]
    assert torch.equal(rows, with_bos) and (offsets >= 0).all()
    packed = corpus.packed_rows(texts, tokenizer, length=16)
    ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert packed.flatten().tolist() == ids[: packed.numel()] and packed.shape[1] == 16


def test_rows_packed_without_a_bos_in_front(texts, tiny):
    """BOS between documents, as in sae_lens's own store."""
    packed = corpus.packed_rows(texts, tiny.tokenizer, length=16, prepend_bos=False)
    encoded = [tiny.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert (packed[:, 0] != 1).float().mean() > 0.5
    assert (packed == 1).any()
    with_bos = corpus.packed_rows(texts, tiny.tokenizer, length=16)
    assert (with_bos[:, 0] == 1).all()
    text = packed[packed != 1].tolist()
    assert text == [i for ids in encoded for i in ids][: len(text)]


def test_a_template_that_refuses_a_role(chatty):
    chatty.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(ValueError, match="System role not supported.*roles are .'system', 'user'"):
        corpus.chat_tokens(TALK, chatty)


def test_a_broken_template(chatty):
    chatty.chat_template = "{% for %}"
    with pytest.raises(ValueError, match="chat template cannot write these messages"):
        corpus.chat_tokens(TALK, chatty)


@pytest.mark.parametrize("cut", [corpus.tokenize_rows, corpus.packed_rows])
def test_documents_that_bring_their_bos_get_no_second_one(tiny, cut):
    texts = ["def area width " * 4, "return x1 " * 5, "café " * 9]
    bos = tiny.tokenizer.bos_token
    plain = cut(texts, tiny.tokenizer, length=9)
    with_bos = cut([bos + text for text in texts], tiny.tokenizer, length=9)
    is_bos = with_bos == tiny.tokenizer.bos_token_id
    assert not (is_bos[:, 1:] & is_bos[:, :-1]).any()
    if cut is corpus.packed_rows:  # the other cuts by characters, among which BOS is
        assert torch.equal(with_bos, plain)
