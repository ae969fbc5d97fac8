"""The form of a reference file: read, and checked against ``data/reference.schema.json``.

A reference is the JSON file that candle-mi publishes (``scripts/sae_reference.json``): a prompt,
the residual stream and the features on its last token, and the error over all of it.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from saework.core.argument_kinds import check_path
from saework.core.errors import in_words, unknown
from saework.core.files import DATA, read_json

SCHEMA = DATA / "reference.schema.json"
N_LISTED = 10  # values of each list
SHOWN_CHARACTERS = 60  # of a wrong value in an error
LISTS = ("resid_last_first10", "encoded_last_first10", "decoded_last_first10")


def read_reference(path: str | Path) -> dict[str, Any]:
    """A reference file, checked.

    Keys beyond the form are kept. -0.0 becomes 0. ``source`` is the file's name if the file says
    none.

    Args:
        path: of a JSON file, or the name of a release that has a reference in this package.

    Raises:
        UnknownNameError: if there is neither such a file nor such a release.
        WeightsError: for a file that is not JSON.
        ValueError: for missing keys, values of another kind, and lengths or features that
            contradict each other.

    >>> reference = read_reference("gemma-mini")
    >>> reference["hook_name"], reference["n_active_last_pos"]
    ('blocks.2.hook_resid_post', 20)
    """
    path = _found(path)
    reference = read_json(path)
    reference.setdefault("source", path.name)
    check_reference(reference, str(path))
    for key in LISTS:
        values = reference[key]
        # + 0.0 turns the -0.0 of a masked negative pre-activation into 0.0
        reference[key] = [value + 0.0 for value in values]
    return reference


def check_reference(reference: Any, where: str = "the reference") -> None:
    """Refuse what is no reference, or contradicts itself.

    Args:
        reference: as ``read_reference`` returns it.
        where: it comes from, such as its path.

    Raises:
        ValueError: it is no mapping, keys are missing, values are of another kind, or lengths or
            features contradict each other.
    """
    if not isinstance(reference, dict):
        raise ValueError(
            f"{where} is {in_words(reference)}; give what read_reference(path) returns"
        )
    required = _schema()["required"]
    missing = [key for key in required if key not in reference]
    if missing:
        lacking = ", ".join(missing)
        form = ", ".join(required)
        raise ValueError(
            f"{where} lacks {lacking}; a reference holds {form}, as write_reference() writes it"
        )
    _check_form(where, reference)
    _check_lengths(where, reference)
    _check_top_features(where, reference)


def _found(path: str | Path) -> Path:
    """The path of a file; the name of a release gives that release's own."""
    check_path("path", path)
    path = Path(path)
    packaged = DATA / path / "reference.json"
    if path.exists():
        return path
    if packaged.exists():
        return packaged
    known = sorted(file.parent.name for file in DATA.glob("*/reference.json"))
    releases = ", ".join(known)
    advice = f"Give the path of a JSON file, or one of {releases}."
    raise unknown("reference", str(path), known, see=advice)


@cache
def _schema() -> dict[str, Any]:
    return read_json(SCHEMA)


def _check_form(path: str, reference: dict[str, Any]) -> None:
    """Raises ValueError for the first value that is not what the schema asks for."""
    errors = _validator().iter_errors(reference)
    error = next(errors, None)
    if error is None:
        return
    where = error.json_path.removeprefix("$.")
    given = json.dumps(error.instance)
    if len(given) > SHOWN_CHARACTERS:
        given = given[: SHOWN_CHARACTERS - 1] + "…"
    allowed = error.schema["description"]
    raise ValueError(f"{path}: {where} is {given}; it must be {allowed}")


@cache
def _validator() -> Any:
    """Of the schema, with stricter numbers: JSON Schema takes 48.0 as whole, and lets NaN pass."""
    draft = jsonschema.Draft202012Validator
    stricter = {"integer": _is_whole, "number": _is_finite}
    types = draft.TYPE_CHECKER.redefine_many(stricter)
    strict_draft = jsonschema.validators.extend(draft, type_checker=types)
    return strict_draft(_schema())


def _is_whole(checker: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(checker: Any, value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_whole(checker, value)


def _check_lengths(path: str, reference: dict[str, Any]) -> None:
    """Raises ValueError for a list that is longer or shorter than the numbers say."""
    lengths = {
        "tokens": reference["n_tokens"],
        "top_features_last_pos": min(N_LISTED, reference["n_active_last_pos"]),
        "resid_last_first10": min(N_LISTED, reference["d_in"]),
        "encoded_last_first10": min(N_LISTED, reference["d_sae"]),
        "decoded_last_first10": min(N_LISTED, reference["d_in"]),
    }
    for key, length in lengths.items():
        n_given = len(reference[key])
        if n_given != length:
            raise ValueError(
                f"{path}: {key} has {n_given} entries; the other values ask for {length}"
            )


def _check_top_features(path: str, reference: dict[str, Any]) -> None:
    """Raises ValueError for features that do not exist, come twice, or are out of order."""
    d_sae = reference["d_sae"]
    top = reference["top_features_last_pos"]
    indices = [item["index"] for item in top]
    values = [item["value"] for item in top]
    n_different = len(set(indices))
    if n_different < len(indices) or any(index >= d_sae for index in indices):
        raise ValueError(
            f"{path}: top_features_last_pos names features {indices}; "
            f"each must be named once, and lie in 0..{d_sae - 1}"
        )
    sizes = [abs(value) for value in values]  # AbsTopK keeps features below zero, too
    if sizes != sorted(sizes, reverse=True) or 0 in sizes:
        raise ValueError(
            f"{path}: top_features_last_pos has values {values}; "
            "none may be 0, and the largest come first"
        )
