"""What a reference file must hold, and the words for what is wrong with it."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest

from saework import read_reference
from saework.analysis import reference_file
from saework.core.errors import UnknownNameError, WeightsError
from saework.core.files import DATA, read_json

PUBLISHED = DATA / "gemma-scope-2b-pt-res" / "reference.json"
REFERENCE = {
    "model_id": "ours",
    "prompt": "def f(x):",
    "hook_layer": 1,
    "hook_name": "blocks.1.hook_resid_post",
    "sae_repo": "here",
    "sae_npz_path": "params.npz",
    "d_in": 16,
    "d_sae": 48,
    "architecture": "JumpReLU",
    "tokens": ["<bos>", "def", " f", "(", "x", "):"],
    "n_tokens": 6,
    "reconstruction_mse": 0.5,
    "n_active_last_pos": 12,
    "top_features_last_pos": [{"index": 3 * i, "value": 20.0 - i} for i in range(10)],
    "resid_last_first10": [0.1] * 10,
    "encoded_last_first10": [20.0, 0.0, 0.0, 19.0, 0.0, 0.0, 18.0, 0.0, 0.0, 17.0],
    "decoded_last_first10": [0.2] * 10,
    "resid_last_norm": 1.0,
    "encoded_last_norm": 50.0,
    "decoded_last_norm": 1.5,
    "source": "a test",
}


def test_a_sound_reference_is_read_as_it_is(tmp_path):
    (tmp_path / "sound.json").write_text(json.dumps(REFERENCE))
    assert read_reference(tmp_path / "sound.json") == REFERENCE


def test_the_schema_is_sound_and_has_words_for_each_kind():
    schema = read_json(reference_file.SCHEMA)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema["required"]) | {"source"} == set(schema["properties"]) == set(REFERENCE)
    assert all(kind["description"] for kind in schema["$defs"].values())


@pytest.mark.parametrize("path", sorted(DATA.glob("*/reference.json")), ids=str)
def test_each_packaged_reference_is_sound(path):
    assert read_reference(path) == read_reference(path.parent.name)


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(
        UnknownNameError, match="Give the path of a JSON file, or one of gemma-mini"
    ):
        read_reference(tmp_path / "none.json")


def test_negative_zero_is_read_as_zero():
    assert "-0.0" in PUBLISHED.read_text(encoding="utf-8")
    assert "-0.0" not in json.dumps(read_reference(PUBLISHED)["encoded_last_first10"])


def test_more_keys_are_kept_and_a_source_is_found(tmp_path):
    reference = {**REFERENCE, "seconds": 3}
    del reference["source"]
    (tmp_path / "theirs.json").write_text(json.dumps(reference))
    read = read_reference(tmp_path / "theirs.json")
    assert read["seconds"] == 3 and read["source"] == "theirs.json"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt": 3}, "prompt is 3; it must be text"),
        ({"source": None}, "source is null; it must be text"),
        ({"hook_layer": -1}, "hook_layer is -1; it must be a whole number of at least 0"),
        ({"d_in": True}, "d_in is true; it must be a whole number"),
        ({"d_sae": 48.0}, "d_sae is 48.0; it must be a whole number"),
        (
            {"reconstruction_mse": float("nan")},
            "reconstruction_mse is NaN; it must be a finite number of at least 0",
        ),
        (
            {"resid_last_norm": -1.0},
            "resid_last_norm is -1.0; it must be a finite number of at least 0",
        ),
        ({"decoded_last_norm": "3"}, 'decoded_last_norm is "3"; it must be a finite number'),
        (
            {"resid_last_first10": [1.0] * 9 + [float("inf")]},
            r"resid_last_first10\[9\] is Infinity; it must be a finite number",
        ),
        (
            {"resid_last_first10": 1.0},
            "resid_last_first10 is 1.0; it must be a list of finite numbers",
        ),
        ({"tokens": "def"}, 'tokens is "def"; it must be a list of text'),
        ({"tokens": ["def", 2]}, r"tokens\[1\] is 2; it must be text"),
        (
            {"top_features_last_pos": [[3, 1.0]]},
            r"top_features_last_pos\[0\] is \[3, 1.0\]; it must be an \{index, value\} pair",
        ),
        (
            {"top_features_last_pos": [{"index": 3}]},
            r'top_features_last_pos\[0\] is \{"index": 3\}; it must be an \{index, value\} pair',
        ),
        (
            {"top_features_last_pos": [{"index": 3.5, "value": 1}]},
            r"top_features_last_pos\[0\].index is 3.5; it must be a whole number of at least 0",
        ),
        (
            {"top_features_last_pos": {"index": 3}},
            r'top_features_last_pos is \{"index": 3\}; it must be a list of \{index, value\} pairs',
        ),
        (
            {"hook_name": ["x" * 100]},
            r'hook_name is \["x{57}…; it must be text',
        ),
        ({"n_tokens": 3}, "tokens has .* entries; the other values ask for 3"),
        (
            {"n_active_last_pos": 2},
            "top_features_last_pos has 10 entries; the other values ask for 2",
        ),
        (
            {"decoded_last_first10": [0.0] * 9},
            "decoded_last_first10 has 9 entries; the other values ask for 10",
        ),
        ({"d_in": 4}, "resid_last_first10 has 10 entries; the other values ask for 4"),
    ],
)
def test_what_is_wrong_is_named(change, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**REFERENCE, **change}))
    with pytest.raises(ValueError, match=f"bad.json: {message}"):
        read_reference(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda top: top[0].update(index=48),
            r"names features \[48, .*each must be named once, and lie in 0\.\.47",
        ),
        (lambda top: top[0].update(index=top[1]["index"]), "each must be named once"),
        (lambda top: top.reverse(), "none may be 0, and the largest come first"),
        (lambda top: top[-1].update(value=0.0), "none may be 0, and the largest come first"),
    ],
)
def test_top_features_that_cannot_be(change, message, tmp_path):
    reference = copy.deepcopy(REFERENCE)
    change(reference["top_features_last_pos"])
    (tmp_path / "bad.json").write_text(json.dumps(reference))
    with pytest.raises(ValueError, match=message):
        read_reference(tmp_path / "bad.json")


def test_missing_keys_are_listed(tmp_path):
    reference = {key: value for key, value in REFERENCE.items() if key not in ("prompt", "d_sae")}
    (tmp_path / "short.json").write_text(json.dumps(reference))
    with pytest.raises(
        ValueError,
        match="short.json lacks prompt, d_sae; a reference holds model_id, prompt, .*write_ref",
    ):
        read_reference(tmp_path / "short.json")


@pytest.mark.parametrize(
    "text, message", [("{", "is not JSON"), ("[1]", "holds a list, not an object")]
)
def test_a_file_that_is_no_reference(text, message, tmp_path):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(WeightsError, match=message):
        read_reference(tmp_path / "bad.json")
