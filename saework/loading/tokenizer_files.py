"""A tokenizer from a repository's files, with the special tokens that it was published with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saework.core.errors import WeightsError
from saework.core.files import read_json
from saework.loading.outside_code import refuse_own_code

SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
TOKENIZER_CLASSES = ("AutoTokenizer", "AutoConfig")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
OPTIONAL_TOKENIZER_FILES = (
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
)
"""Fetched with the tokenizer where they exist. GPT-2's special tokens follow from the last four."""


def read_tokenizer(folder: str | Path) -> Any:
    """The fast tokenizer of a folder with ``tokenizer.json``, and its special tokens.

    BOS and EOS are those of ``special_tokens_map.json`` or ``tokenizer_config.json``. What neither
    file mentions is that of the tokenizer's class (GPT-2's, for example), or the id in the model's
    config. A tokenizer without a BOS, such as Qwen's, keeps None: EOS never takes its place.

    Raises:
        WeightsError: if a file is damaged, asks for Python code, or no EOS token is known.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(folder)
    config = refuse_own_code(folder / "tokenizer_config.json", TOKENIZER_CLASSES)
    # TransformerLens reads the tokenizer once more by AutoTokenizer, which looks at this one too.
    refuse_own_code(folder / "config.json", TOKENIZER_CLASSES)
    # Newer layouts name the special tokens in tokenizer_config.json, and have no such file.
    special_file = folder / "special_tokens_map.json"
    listed = read_json(special_file) if special_file.exists() else {}
    try:
        special: Any = {key: _content(listed[key]) for key in SPECIAL_TOKENS if listed.get(key)}
        loaded: Any = PreTrainedTokenizerFast.from_pretrained(
            str(folder),
            clean_up_tokenization_spaces=False,
            local_files_only=True,
            trust_remote_code=False,
            **special,
        )
    except Exception as error:
        # The tokenizers library raises nothing more precise for a damaged file.
        raise WeightsError(
            f"the tokenizer in {folder} is damaged ({type(error).__name__}: {error}); "
            "delete it and download it again"
        ) from error
    _add_unnamed_tokens(loaded, folder, named={*config, *listed})
    if loaded.eos_token_id is None:
        raise WeightsError(
            f"the tokenizer in {folder} names no EOS token, neither in special_tokens_map.json "
            "nor in tokenizer_config.json or config.json; its files are of another layout"
        )
    return loaded


def _add_unnamed_tokens(tokenizer: Any, folder: Path, *, named: set[str]) -> None:
    """Set BOS and EOS where the tokenizer's files do not mention them, not even as null.

    Args:
        tokenizer: it is changed.
        folder: of its files, and of the model's config.
        named: the keys of the tokenizer's files.
    """
    unnamed = [key for key in ("eos_token", "bos_token") if key not in named]
    if not unnamed:
        return
    of_class = _class_defaults(folder)
    ids = _ids_in_config(folder)
    vocabulary = tokenizer.get_vocab()
    for key in unnamed:
        token: Any = of_class.get(key)
        if token not in vocabulary:
            token = ids.get(key)
            # Qwen's config gives one id for both, though its tokenizer has no BOS.
            if key == "bos_token" and token == tokenizer.eos_token_id:
                token = None
            token = None if token is None else tokenizer.convert_ids_to_tokens(token)
        if token is not None:
            setattr(tokenizer, key, token)


def _class_defaults(folder: Path) -> dict[str, str | None]:
    """BOS and EOS of the tokenizer's class, which the model's config names."""
    from transformers import AutoTokenizer

    path = folder / "config.json"
    if not path.exists() or "model_type" not in read_json(path):
        return {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError):
        # transformers has no class for this model, so there are no defaults.
        return {}
    return {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}


def _ids_in_config(folder: Path) -> dict[str, int]:
    """BOS and EOS ids of the model's configs; generation's own comes first."""
    ids: dict[str, int] = {}
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        config = read_json(path) if path.exists() else {}
        for key in ("bos_token", "eos_token"):
            given = config.get(f"{key}_id")
            if isinstance(given, list):
                given = given[0] if given else None  # Gemma 3 lists two
            if isinstance(given, int):
                ids[key] = given
    return ids


def _content(token: str | Mapping[str, str]) -> str:
    """A special token's text; some files store it as an object."""
    return token if isinstance(token, str) else token["content"]
