"""Validation against an implementation that shares no code with ours.

That implementation, the numpy Gemma 2, is tested against Hugging Face's.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy_gemma2
import pytest
import torch
from conftest import random_sae

import saework
from saework import Ledger, Workbook, read_reference, validate, write_reference
from saework.analysis.reference import claims_of_reference
from saework.core.errors import HookError, UnknownNameError

PUBLISHED = Path(saework.__file__).parent / "data" / "gemma-scope-2b-pt-res" / "reference.json"
PROMPT, LAYER = "def visit(self, node): return import", 1
HOOK = f"blocks.{LAYER}.hook_resid_post"
ABOUT = {"model_id": "ours", "sae_repo": "here", "sae_npz_path": "params.npz", "source": "a test"}


@pytest.fixture(scope="module")
def grouped():
    """A Gemma 2 of which each part matters: short window, low cap, two head groups, own scale."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = dict(
        num_hidden_layers=3,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    sizes |= dict(
        vocab_size=64,
        max_position_embeddings=32,
        sliding_window=4,
        attn_logit_softcapping=1.5,
        query_pre_attn_scalar=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hf = Gemma2ForCausalLM(
            Gemma2Config(
                **sizes,
                rms_norm_eps=1e-2,
                attn_implementation="eager",
                bos_token_id=1,
                pad_token_id=0,
            )
        )
        for weight in hf.parameters():
            weight.data.normal_(0, 0.4)
    return hf.eval().requires_grad_(False)


def resid_posts(hf, row) -> list[np.ndarray]:
    """Each block's own output (the last hidden state would be after the final norm)."""
    outputs = []

    def keep(block, args, out):
        outputs.append(out[0] if isinstance(out, tuple) else out)

    handles = [block.register_forward_hook(keep) for block in hf.model.layers]
    with torch.no_grad():
        hf(torch.tensor([row]))
    for handle in handles:
        handle.remove()
    return [out[0].double().numpy() for out in outputs]


def furthest(ours, theirs) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["gemma2", "grouped"])
def test_numpy_is_hugging_face_at_every_layer(name, dtype, request, tmp_path):
    hf = request.getfixturevalue(name)
    hf.save_pretrained(tmp_path)
    row = [
        1,
        *np.random.default_rng(0).integers(3, hf.config.vocab_size, 19).tolist(),
    ]  # five times grouped's window
    theirs = resid_posts(hf, row)
    model = numpy_gemma2.Gemma2(tmp_path, dtype)
    assert len(theirs) == model.n_layers == hf.config.num_hidden_layers
    for layer, expected in enumerate(theirs):
        ours = model.resid_post(row, layer)
        assert ours.dtype == dtype and ours.shape == expected.shape == (20, 16)
        assert furthest(ours, expected) < 1e-5


@pytest.mark.parametrize(
    "attribute, value",
    [
        ("window", 5),
        ("window", 3),
        ("slides", [False, True, False]),
        ("cap", None),
        ("cap", 50.0),
        ("scale", 8**-0.5),
        ("theta", 1000.0),
        ("eps", 1e-6),
    ],
)
def test_that_agreement_depends_on_each_part(attribute, value, grouped, tmp_path):
    grouped.save_pretrained(tmp_path)
    row = [1, *range(10, 29)]
    model = numpy_gemma2.Gemma2(tmp_path)
    assert furthest(model.resid_post(row, 2), resid_posts(grouped, row)[2]) < 1e-5
    setattr(model, attribute, value)
    assert furthest(model.resid_post(row, 2), resid_posts(grouped, row)[2]) > 1e-3


def test_an_older_config_says_the_same_in_other_words(grouped, tmp_path):
    grouped.save_pretrained(tmp_path)
    new = numpy_gemma2.Gemma2(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    del config["layer_types"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    old = numpy_gemma2.Gemma2(tmp_path)
    assert (old.theta, old.slides) == (new.theta, new.slides) == (10000.0, [True, False, True])


def test_jumprelu_by_hand():
    params = {
        "W_enc": np.array([[1.0, 1.0, -1.0, 2.0]]),
        "b_enc": np.zeros(4),
        "threshold": np.array([3.0, 2.5, -9.0, 0.0]),
    }
    params |= {"W_dec": np.array([[1.0], [2.0], [4.0], [8.0]]), "b_dec": np.array([0.5])}
    features = numpy_gemma2.encode(np.array([[3.0]]), params)
    assert features.tolist() == [
        [0.0, 3.0, 0.0, 6.0]
    ]  # at its threshold: off; negative: off; b_dec plays no part
    assert numpy_gemma2.decode(features, params).tolist() == [[54.5]]


def test_a_layer_that_does_not_exist(grouped, tmp_path):
    grouped.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"layer is 3; this model has layers 0\.\.2"):
        numpy_gemma2.Gemma2(tmp_path).resid_post([1], 3)


@pytest.fixture(scope="module")
def case(gemma2, gemma2_bridge, tiny, tmp_path_factory):
    """A model and an SAE of which both sides read the files; ``reference`` is the numpy side's."""
    folder = tmp_path_factory.mktemp("validation")
    gemma2.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    sae = random_sae(16, 48, HOOK, torch.Generator().manual_seed(3), "jumprelu")
    np.savez(
        folder / "params.npz", **{name: value.numpy() for name, value in sae.state_dict().items()}
    )
    ids, tokens = numpy_gemma2.tokenize(folder, PROMPT, bos_id=1)
    reference = numpy_gemma2.reference(
        folder, folder / "params.npz", ids, LAYER, tokens=tokens, prompt=PROMPT, **ABOUT
    )
    top = [item["index"] for item in reference["top_features_last_pos"]]
    return SimpleNamespace(
        model=gemma2_bridge, sae=sae, reference=reference, folder=folder, ids=ids, top=top
    )


def verdicts(reference, measured) -> dict[str, str]:
    ledger = Ledger(claims_of_reference(reference, tier="mini"), tier="mini")
    for id, value in measured.items():
        ledger.record(id, value)
    return {entry.claim.id.removeprefix("validation/"): entry.verdict for entry in ledger.entries}


def differing(reference, measured) -> set[str]:
    found = verdicts(reference, measured)
    assert set(found.values()) <= {"holds", "differs"}  # each claim was measured
    return {id for id, verdict in found.items() if verdict == "differs"}


def test_the_case_has_something_to_compare(case):
    assert 10 < case.reference["n_active_last_pos"] < 48 and len(case.top) == 10
    assert any(value > 0 for value in case.reference["encoded_last_first10"])
    assert len(case.ids) > 6 and case.reference["tokens"][0] == "<|BOS|>"


def test_we_agree_with_numpy(case):
    measured = validate(case.model, case.sae, case.reference)
    assert verdicts(case.reference, measured) == dict.fromkeys(
        [id.removeprefix("validation/") for id in measured], "holds"
    )
    assert len(measured) == 20


def test_the_tolerance_is_a_thousandth(case):
    measured = validate(case.model, case.sae, case.reference)
    for factor, expected in [
        (1.0009, set()),
        (1.0011, {f"value/{case.top[0]}", "resid_norm", "reconstruction_mse", "decoded_first10"}),
    ]:
        reference = copy.deepcopy(case.reference)
        reference["top_features_last_pos"][0]["value"] /= factor
        reference["resid_last_norm"] /= factor
        reference["reconstruction_mse"] /= factor
        reference["decoded_last_first10"] = [
            value / factor for value in reference["decoded_last_first10"]
        ]
        assert differing(reference, measured) == expected


def changed_sae(case, name):
    sae, first, second = copy.deepcopy(case.sae), case.top[0], case.top[1]
    state = sae.state_dict()
    if name == "threshold":
        state["threshold"][first] = 1e6
    elif name == "decoder weight":
        state["W_dec"][first, 0] += 1
    elif name == "encoder weight":
        state["W_enc"][4, second] += 0.1
    elif name == "relu":
        state["threshold"][:] = 0
    elif name == "b_dec left out":
        state["b_dec"][:] = 0
    elif name == "b_dec subtracted":
        return SimpleNamespace(
            cfg=sae.cfg,
            W_enc=sae.W_enc,
            W_dec=sae.W_dec,
            encode=lambda x: sae.encode(x - sae.b_dec),
            decode=sae.decode,
        )
    elif name == "a feature too many":
        off = next(
            i for i in range(10, 48) if i not in case.top and i not in np.flatnonzero(encoded(case))
        )
        state["b_enc"][off] += 1e4
    sae.load_state_dict(state)
    return sae


def encoded(case):
    return case.sae.encode(saework.engine.forward.activations(case.model, PROMPT, HOOK))[
        0, -1
    ].numpy()


DECODED = {"decoded_first10", "decoded_norm", "reconstruction_mse"}
LISTS = {"n_active", "top_features", "encoded_norm"}


@pytest.mark.parametrize(
    "name, must_differ, must_hold",
    [
        (
            "threshold",
            LISTS | DECODED | {"value/first"},
            {"value/second", "tokens", "resid_norm", "resid_first10"},
        ),
        (
            "decoder weight",
            DECODED,
            LISTS | {"value/first", "value/second", "encoded_first10", "resid_norm"},
        ),
        (
            "encoder weight",
            DECODED | {"value/second"},
            {"value/first", "n_active", "resid_norm", "tokens"},
        ),
        ("relu", {"n_active"} | DECODED, {"value/first", "value/second", "resid_norm", "tokens"}),
        ("b_dec left out", DECODED, LISTS | {"value/first", "encoded_first10", "resid_norm"}),
        (
            "b_dec subtracted",
            DECODED | {"value/first", "value/second", "encoded_norm"},
            {"resid_norm", "resid_first10", "tokens"},
        ),
        (
            "a feature too many",
            LISTS | DECODED,
            {"value/first", "value/second", "encoded_first10", "resid_norm"},
        ),
    ],
)
def test_each_change_of_the_sae_shows_where_it_should(name, must_differ, must_hold, case):
    spelled = {"value/first": f"value/{case.top[0]}", "value/second": f"value/{case.top[1]}"}
    must_differ, must_hold = (
        {spelled.get(id, id) for id in ids} for ids in (must_differ, must_hold)
    )
    found = differing(case.reference, validate(case.model, changed_sae(case, name), case.reference))
    assert must_differ <= found
    assert not must_hold & found


def test_another_layer_shows_in_everything_but_the_tokens(case):
    found = differing(
        case.reference,
        validate(case.model, case.sae, case.reference, hook="blocks.0.hook_resid_post"),
    )
    assert {"resid_first10", "resid_norm", "encoded_norm", "top_features"} | DECODED <= found
    assert "tokens" not in found


def test_the_hook_is_the_references_own(case):
    at_zero = {**case.reference, "hook_name": "blocks.0.hook_resid_post"}
    assert validate(case.model, case.sae, at_zero) == validate(
        case.model, case.sae, case.reference, hook="blocks.0.hook_resid_post"
    )


def test_a_workbook_of_another_layer_is_compared_at_the_references_hook(case, tiny):
    tokens = torch.tensor([[1, 5, 6]])
    elsewhere = "blocks.0.hook_resid_post"
    book = Workbook(case.model, case.sae, tokens, tiny.tokenizer, elsewhere)
    assert case.reference["hook_name"] != elsewhere
    assert validate(book, case.reference) == validate(case.model, case.sae, case.reference)


def test_another_prompt_shows_in_the_tokens(case):
    assert "tokens" in differing(
        case.reference, validate(case.model, case.sae, {**case.reference, "prompt": PROMPT + " x"})
    )


def test_tokens_in_ascii_are_compared_in_ascii(case):
    assert not all(
        token.isascii() for token in case.reference["tokens"]
    )  # the tokenizer's space mark is not
    printed = {
        **case.reference,
        "tokens": [token.encode("ascii", "replace").decode() for token in case.reference["tokens"]],
    }
    assert differing(printed, validate(case.model, case.sae, printed)) == set()
    printed["tokens"][1] = "?deg"
    assert differing(printed, validate(case.model, case.sae, printed)) == {"tokens"}


def test_an_sae_of_another_size_is_refused(case):
    other = random_sae(16, 40, HOOK, torch.Generator(), "jumprelu")
    with pytest.raises(
        ValueError,
        match="the SAE has d_in 16 and d_sae 40, the reference d_in 16 and d_sae 48; "
        "load .* here params.npz",
    ):
        validate(case.model, other, case.reference)


def test_a_hook_that_the_model_lacks(case):
    with pytest.raises(UnknownNameError, match="there is no hook 'blocks.7.hook_resid_post'"):
        validate(case.model, case.sae, case.reference, hook="blocks.7.hook_resid_post")


def test_a_hook_of_another_width(case):
    with pytest.raises(HookError, match="24 wide, but this SAE reads 16"):
        validate(case.model, case.sae, case.reference, hook="blocks.1.mlp.hook_post")


def test_what_we_write_is_what_numpy_writes(case, tmp_path):
    ours = write_reference(case.model, case.sae, PROMPT, tmp_path / "ours.json", **ABOUT)
    assert list(ours) == list(case.reference)
    for key, theirs in case.reference.items():
        if key == "top_features_last_pos":
            assert [item["index"] for item in ours[key]] == case.top
            assert [item["value"] for item in ours[key]] == pytest.approx(
                [item["value"] for item in theirs], rel=1e-4
            )
        elif isinstance(theirs, float) or (
            isinstance(theirs, list) and isinstance(theirs[0], float)
        ):
            assert ours[key] == pytest.approx(theirs, rel=1e-4, abs=1e-4), key
        else:
            assert ours[key] == theirs, key


def test_what_is_written_is_read_and_holds(case, tmp_path):
    written = write_reference(case.model, case.sae, PROMPT, tmp_path / "ours.json", **ABOUT)
    read = read_reference(tmp_path / "ours.json")
    assert read == written
    assert differing(read, validate(case.model, case.sae, read)) == set()
    assert '"Ġ' in (tmp_path / "ours.json").read_text(
        encoding="utf-8"
    )  # tokens as they are, not escaped


def firing(case, features):
    """An SAE whose given features are 2 everywhere, and whose reconstruction is 0."""

    def encode(x):
        return torch.zeros(*x.shape[:-1], 48).index_fill_(-1, torch.tensor(features), 2.0)

    return SimpleNamespace(
        W_enc=case.sae.W_enc,
        W_dec=case.sae.W_dec,
        encode=encode,
        decode=lambda features: features[..., :16] * 0,
    )


def test_the_numbers_by_hand(case, tmp_path):
    """The mean squared error is per element, BOS included; what is off is not listed."""
    few = firing(case, [40, 7, 30])
    x = saework.engine.forward.activations(case.model, PROMPT, HOOK)[0].double()
    written = write_reference(case.model, few, PROMPT, tmp_path / "few.json", hook=HOOK)
    assert written["reconstruction_mse"] == pytest.approx(
        sum(value * value for value in x.flatten().tolist()) / (len(case.ids) * 16)
    )
    assert written["top_features_last_pos"] == [{"index": i, "value": 2.0} for i in (7, 30, 40)]
    assert written["n_active_last_pos"] == 3 and written["encoded_last_norm"] == pytest.approx(
        12**0.5
    )
    assert written["resid_last_first10"] == x[-1, :10].tolist()
    assert written["decoded_last_norm"] == 0 and written["encoded_last_first10"] == [0.0] * 7 + [
        2.0,
        0.0,
        0.0,
    ]
    assert (
        differing(read_reference(tmp_path / "few.json"), validate(case.model, few, written))
        == set()
    )


def test_ties_go_by_index(case, tmp_path):
    many = firing(case, list(range(5, 48)))
    written = write_reference(case.model, many, PROMPT, tmp_path / "many.json", hook=HOOK)
    assert [item["index"] for item in written["top_features_last_pos"]] == list(range(5, 15))
    assert written["n_active_last_pos"] == 43


def test_masked_negatives_are_zeros(case, tmp_path):
    sae = SimpleNamespace(
        W_enc=case.sae.W_enc,
        W_dec=case.sae.W_dec,
        encode=lambda x: case.sae.encode(x) * -0.0,
        decode=case.sae.decode,
    )
    written = write_reference(case.model, sae, PROMPT, tmp_path / "off.json", hook=HOOK)
    assert written["top_features_last_pos"] == [] and written["n_active_last_pos"] == 0
    assert "-0.0" not in json.dumps(written["encoded_last_first10"])
    assert (
        differing(read_reference(tmp_path / "off.json"), validate(case.model, sae, written))
        == set()
    )


def test_what_is_not_given(case, tmp_path):
    written = write_reference(
        case.model, case.sae, PROMPT, tmp_path / "plain.json", hook="blocks.0.hook_resid_post"
    )
    assert (written["hook_layer"], written["hook_name"]) == (0, "blocks.0.hook_resid_post")
    assert (
        written["model_id"] == case.model.cfg.model_name
        and written["sae_repo"] == written["sae_npz_path"] == ""
    )
    assert read_reference(tmp_path / "plain.json") == written


@pytest.mark.parametrize("architecture, name", [("jumprelu", "JumpReLU"), ("standard", "ReLU")])
def test_the_architectures_name(architecture, name, case, tmp_path):
    sae = random_sae(16, 48, HOOK, torch.Generator().manual_seed(0), architecture)
    plain = SimpleNamespace(
        **{key: getattr(sae, key) for key in ("W_enc", "W_dec", "encode", "decode")}
    )
    if architecture == "jumprelu":
        plain.threshold = sae.threshold
    for one in (sae, plain):
        assert (
            write_reference(case.model, one, PROMPT, tmp_path / "one.json", hook=HOOK)[
                "architecture"
            ]
            == name
        )


def test_a_hook_outside_the_blocks_is_refused(case, tmp_path):
    with pytest.raises(
        HookError,
        match="hook 'unembed.hook_in' lies in no block.* such as 'blocks.0.hook_resid_post'",
    ):
        write_reference(
            case.model, case.sae, PROMPT, tmp_path / "none.json", hook="unembed.hook_in"
        )
    assert not (tmp_path / "none.json").exists()


def test_a_prompt_is_text(case, tmp_path):
    with pytest.raises(ValueError, match="the prompt is a list; give text"):
        write_reference(case.model, case.sae, [1, 2], tmp_path / "none.json")


def test_weights_that_are_not_finite_are_not_written(case, tmp_path):
    broken = copy.deepcopy(case.sae)
    broken.W_dec.data[case.top[0], 2] = float("nan")
    with pytest.raises(ValueError, match="the reconstruction hold.* NaN"):
        write_reference(case.model, broken, PROMPT, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


def test_the_numpy_side_as_a_command_needs_no_torch(case, tmp_path):
    """From a folder without a tokenizer, as the packaged minis are stored."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((case.folder / name).read_bytes())
    arguments = [
        str(bare),
        str(case.folder / "params.npz"),
        str(LAYER),
        PROMPT,
        str(tmp_path / "out.json"),
    ]
    arguments += [
        "--tokenizer",
        str(case.folder),
        "--model-id",
        "ours",
        "--sae-repo",
        "here",
        "--sae-npz-path",
        "params.npz",
        "--source",
        "a test",
    ]
    script = str(Path(numpy_gemma2.__file__))
    code = f"import runpy, sys; sys.argv = {[script, *arguments]!r}\n"
    code += f"runpy.run_path({script!r}, run_name='__main__')\n"
    code += (
        "print(*sorted({'torch', 'transformers', 'saework', 'sae_lens'} & set(sys.modules)), 'end')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("end", 0), done.stderr
    written = read_reference(tmp_path / "out.json")
    assert list(written) == list(case.reference)
    assert written["top_features_last_pos"] == case.reference["top_features_last_pos"]
    assert (written["tokens"], written["prompt"], written["source"]) == (
        case.reference["tokens"],
        PROMPT,
        "a test",
    )
    assert differing(written, validate(case.model, case.sae, written)) == set()


def test_the_published_reference():
    reference = read_reference(PUBLISHED)
    claims = {
        claim.id: claim for claim in claims_of_reference(reference, tier="gemma-scope-2b-pt-res")
    }
    assert len(claims) == 20
    expected = {
        "validation/tokens": ["<bos>", "The", "▁capital", "▁of", "▁France", "▁is"],
        "validation/n_active": 14,
        "validation/top_features": [10492, 8920, 6887, 5542, 6085, 6735, 14856, 11517, 10034, 688],
        "validation/value/10492": 44.07236099243164,
        "validation/value/688": 2.0419840812683105,
        "validation/encoded_first10": [0.0] * 10,
        "validation/resid_norm": 61.81248474121094,
        "validation/encoded_norm": 49.715003967285156,
        "validation/decoded_norm": 59.745872497558594,
        "validation/reconstruction_mse": 6.912656307220459,
    }
    assert {id: claims[id].value for id in expected} == expected
    assert claims["validation/resid_first10"].value[7] == -2.141545057296753
    assert claims["validation/decoded_first10"].value[:2] == [
        -0.6751449108123779,
        -0.20853310823440552,
    ]
    tolerances = {
        "tokens": 0,
        "n_active": 0,
        "top_features": 0,
        "encoded_first10": 0,
        "value/10492": 0.04407236,
        "reconstruction_mse": 0.006912656,
    }
    tolerances |= {
        "resid_first10": 0.002141545,
        "decoded_first10": 0.0025966146,
        "decoded_norm": 0.05974587,
    }
    assert {id: claims[f"validation/{id}"].tolerance for id in tolerances} == pytest.approx(
        tolerances
    )
    assert {(claim.tier, claim.source) for claim in claims.values()} == {
        ("gemma-scope-2b-pt-res", reference["source"])
    }
    assert "candle-mi 0.1.5" in reference["source"]
    about = (
        "model_id",
        "prompt",
        "hook_layer",
        "hook_name",
        "sae_repo",
        "sae_npz_path",
        "d_in",
        "d_sae",
        "architecture",
        "n_tokens",
    )
    assert [reference[key] for key in about] == [
        "google/gemma-2-2b",
        "The capital of France is",
        0,
        "blocks.0.hook_resid_post",
        "google/gemma-scope-2b-pt-res",
        "layer_0/width_16k/average_l0_105/params.npz",
        2304,
        16384,
        "JumpReLU",
        6,
    ]


def test_the_published_reference_agrees_with_itself():
    """The norm of its features fits the ten values listed of fourteen; its own claims hold."""
    reference = read_reference(PUBLISHED)
    listed = sum(item["value"] ** 2 for item in reference["top_features_last_pos"])
    assert (
        listed
        < reference["encoded_last_norm"] ** 2
        < listed + 4 * reference["top_features_last_pos"][-1]["value"] ** 2
    )
    claims = claims_of_reference(reference, tier="t")
    assert differing(reference, {claim.id: claim.value for claim in claims}) == set()


def test_the_packaged_reference_is_what_numpy_gives():
    """gemma-mini's reference.json, computed again from the packaged weights, without torch."""
    from saework.core.files import DATA

    mini, stored = DATA / "gemma-mini", read_reference("gemma-mini")
    ids, tokens = numpy_gemma2.tokenize(mini / "tokenizer", stored["prompt"], bos_id=2)
    assert tokens == stored["tokens"]
    again = numpy_gemma2.reference(
        mini / "model", mini / "sae" / stored["sae_npz_path"], ids, stored["hook_layer"]
    )
    for key in (
        "reconstruction_mse",
        "resid_last_norm",
        "encoded_last_norm",
        "decoded_last_norm",
        "resid_last_first10",
        "decoded_last_first10",
    ):
        np.testing.assert_allclose(again[key], stored[key], rtol=1e-9)
    assert [f["index"] for f in again["top_features_last_pos"]] == [
        f["index"] for f in stored["top_features_last_pos"]
    ]


def test_activations_of_either_sign_are_listed_by_size(case, tmp_path):
    row = torch.zeros(48).index_copy(0, torch.tensor([1, 3]), torch.tensor([-3.0, 2.0]))
    either = firing(case, [])
    either.encode = lambda x: row.expand(*x.shape[:-1], -1)
    written = write_reference(case.model, either, PROMPT, tmp_path / "either.json", hook=HOOK)
    listed = [{"index": 1, "value": -3.0}, {"index": 3, "value": 2.0}]
    assert written["top_features_last_pos"] == listed
    assert written["n_active_last_pos"] == 2
