"""What the minis are trained on: text of this machine, and a tokenizer made from it.

Nothing of the training text is bundled: it is the sources of this machine's Python standard library
and the English text that its packages carry.
"""

from __future__ import annotations

import ast
import json
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

DOCUMENTED_PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "sympy",
    "networkx",
    "nltk",
    "torch",
    "IPython",
    "jinja2",
    "requests",
)
HELD_OUT_ONE_IN = 25
SPECIAL_TOKENS = {
    "gelu": {"eos_token": "<|EOS|>", "bos_token": "<|BOS|>", "pad_token": "<|PAD|>"},
    "gemma2": {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"},
    "llama": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "pad_token": "<|finetune_right_pad_id|>",
    },
}


def training_text() -> tuple[list[str], list[str]]:
    """Documents to train on, and held-out documents that are never trained on.

    A document's name decides which, so that adding documents moves none.
    """
    documents = standard_library() + list(_package_documents())
    held_out = [zlib.crc32(name.encode()) % HELD_OUT_ONE_IN == 0 for name, _ in documents]
    texts = [text for _, text in documents]
    train = [text for text, out in zip(texts, held_out) if not out]
    return train, [text for text, out in zip(texts, held_out) if out]


def _package_documents() -> Iterator[tuple[str, str]]:
    """Docstrings of some packages that are installed here, and every package's description."""
    site = Path(sysconfig.get_path("purelib"))
    for path in sorted(site.glob("*.dist-info/METADATA")):
        description = path.read_text(encoding="utf-8", errors="ignore").partition("\n\n")[2]
        if description.strip():
            yield path.relative_to(site).as_posix(), description
    for package in DOCUMENTED_PACKAGES:
        for path in sorted((site / package).rglob("*.py")):
            if docstrings := "\n\n".join(_docstrings(path)):
                yield path.relative_to(site).as_posix(), docstrings


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners)]
    return [text for text in found if text and len(text) > 80]


def train_tokenizer(texts: list[str], folder: Path, *, d_vocab: int, architecture: str) -> None:
    """A byte-level BPE with single digits, and special tokens as the architecture has them.

    Gemma's and Llama's tokenizers put BOS in front by themselves; gelu-1l's does not.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL_TOKENS[architecture]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    if architecture == "gelu":
        tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
        )
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
        return
    bos = special["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special
    ).save_pretrained(folder)


def standard_library() -> list[tuple[str, str]]:
    """``(name, source)`` of this machine's Python standard library, in order of name.

    What it holds depends on the Python version, so no stored number depends on it: it is for
    large live scans, and for training the minis.

    Raises:
        FileNotFoundError: if the sources were not installed (some distributions leave them out).
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        (path.relative_to(root).as_posix(), path)
        for path in root.rglob("*.py")
        if not {"site-packages", "dist-packages"} & set(path.parts)
    )
    sources = [(name, text) for name, path in files if (text := _read_utf8(path)).strip()]
    if len(sources) < 100:
        raise FileNotFoundError(
            f"{root} holds {len(sources)} Python sources; the standard library was installed "
            "without them. Give text= instead, or use a Python that has its sources"
        )
    return sources


def _read_utf8(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # a few test files are broken on purpose
        return ""
