"""Every architecture of sae_lens x every model family of its table x every function.

Each cell is right (equal to a plain computation) or refused (by an error that names the property),
as ``saework/loading/refusals.py`` says. Nothing of the caller's changes: neither the SAE's weights
and attributes, nor the model's hooks.

The whole product would have 24 kinds of SAE x 15 families x 9 places x 20 functions = 60,000 cells.
Two things make a part of it enough:

- What an SAE computes does not depend on the family. So all kinds of SAE meet all functions on a
  HookedTransformer and on one bridge.
- How a family reads, writes and predicts does not depend on the kind of SAE, but on where it
  reads. So all families meet all functions that run the model, at all their places, with one ReLU
  SAE and one JumpReLU transcoder with a skip term. The three slow ones are run at three places:
  ``find_site`` reads all places at once, and the other two splice as ``recons_score`` and ``steer``
  do.
"""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import every_sae
import pytest
import sae_lens.registry
import torch
from every_sae import KINDS, architecture_of, build
from families import PARTS, hugging_face_and_bridge
from matrix_cells import FUNCTIONS, Cell, outcome
from plain_runs import HOOKS, LAYER, PlainHooked, PlainHuggingFace

from saework import Workbook
from saework.engine import architectures
from saework.loading import coverage, refusals
from saework.loading.sae_ids import registry

HOOKED = "HookedTransformer"
SLOW = ("find_site", "reconstruction_metrics", "feature_page")
SLOW_AT = ("resid_post", "hook_z", "mlp_in to mlp_out")
WIDTHS = {"mlp_post": 24}


def places_of(family: str) -> list[str]:
    """A ReLU SAE at each place, and transcoders."""
    if family == HOOKED:
        return [*PlainHooked.kinds, "normed to mlp_out"]
    parts = PARTS[family]
    left_out = {"resid_mid": parts.middle, "mlp_post": parts.hidden is not None}
    places = [place for place in HOOKS if left_out.get(place, True)]
    # OLMo 2's second norm reads what the MLP gives
    return [*places, "mlp_in to mlp_out", *(["normed to mlp_out"] if family != "Olmo2" else [])]


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 4096, (5, 12), generator=generator)
    tokens[:, 0] = 1
    return tokens


@pytest.fixture(scope="module")
def model_of(tiny, tmp_path_factory):
    """``model_of(family)``: a model of TransformerLens, and the same to be run plainly."""
    made: dict[str, Any] = {}

    def get(family: str):
        if family == HOOKED:
            return tiny.model, PlainHooked(tiny.model)
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            hf, bridge = hugging_face_and_bridge(family, tiny, folder)
            made[family] = bridge, PlainHuggingFace(hf, family)
        return made[family]

    return get


@pytest.fixture
def cell_of(model_of, tokens, tiny, tmp_path):
    """``cell_of(family, kind, reads, writes)``."""

    def get(family: str, kind: str, reads: str, writes: str) -> Cell:
        model, plain = model_of(family)
        names = {place: name for place, name in HOOKS.items()}
        if family == HOOKED:  # it has one layer
            names = {place: name.replace(f"s.{LAYER}", "s.0") for place, name in names.items()}
        hook = names[reads]
        if reads == "mlp_in" and writes == "mlp_out":
            hook = hook.replace("mlp.hook_in", "hook_mlp_in")  # as Gemma Scope 2's are registered
        sae = build(kind, hook, names[writes], tmp_path, d_in=WIDTHS.get(reads, 16))
        book = Workbook(model, sae, tokens, tiny.tokenizer, hook)
        return Cell(book, plain, reads, writes, tmp_path, site=names[reads])

    return get


def outcomes(cell: Cell, functions: list[str]) -> dict[str, str]:
    """Of each function: ``right``, the words of its refusal, ``WRONG`` or ``CRASH``."""
    found = {}
    for function in functions:
        try:
            found[function] = outcome(cell, function) or "right"
        except AssertionError as error:
            found[function] = f"WRONG {error}"
        except Exception as error:  # each cell is reported
            found[function] = f"CRASH {error!r}"
    return found


def check(found: dict[str, str], refused: dict[str, refusals.Refusal]) -> None:
    """Those that should be refused are, and say why; all others are right."""
    unexpected = {}
    for function, result in found.items():
        refusal = refused.get(function)
        is_expected = result == "right" if refusal is None else refusal.words in result
        if not is_expected:
            unexpected[function] = result[:300]
    assert unexpected == {}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [HOOKED, "GPT2"])
@pytest.mark.parametrize("kind", KINDS)
def test_architectures_by_functions(cell_of, family, kind):
    reads = writes = "resid_post"
    if "transcoder" in kind:
        reads, writes = "normed" if family == HOOKED else "mlp_in", "mlp_out"
    if kind.startswith("heads"):
        reads = writes = "hook_z"
    cell = cell_of(family, kind, reads, writes)
    refused = refusals.refusals(architecture_of(kind), reads)
    check(outcomes(cell, list(FUNCTIONS)), refused)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "family, place",
    [(family, place) for family in (HOOKED, *PARTS) for place in places_of(family)],
)
def test_families_by_places_by_functions(cell_of, family, place):
    reads, _, writes = place.partition(" to ")
    kind = "jumprelu_skip_transcoder" if writes else "standard"
    cell = cell_of(family, kind, reads, writes or reads)
    functions = [name for name in refusals.RUNNING if name not in SLOW or place in SLOW_AT]
    refused = refusals.refusals(kind, reads)
    if family.startswith("Qwen3_5") and place == "normed":
        refused |= dict.fromkeys(refusals.RUNNING, refusals.QWEN_3_5_NORM)
    check(outcomes(cell, functions), refused)


@pytest.mark.filterwarnings("ignore")
def test_a_wrong_number_a_change_and_a_crash_are_seen(cell_of, monkeypatch):
    cell = cell_of(HOOKED, "topk, rescaled by decoder norm", *["resid_post"] * 2)
    monkeypatch.setattr(architectures, "row_scale", lambda sae: None)
    assert outcomes(cell, ["logit_effect"])["logit_effect"].startswith("WRONG")
    monkeypatch.setitem(FUNCTIONS, "scan", lambda cell: setattr(cell.book.sae, "d_head", 1))
    assert outcomes(cell, ["scan"])["scan"].startswith("WRONG")
    monkeypatch.setitem(FUNCTIONS, "scan", lambda cell: cell.none)
    assert outcomes(cell, ["scan"])["scan"].startswith("CRASH")
    with pytest.raises(AssertionError):
        check({"scan": "right"}, {"scan": refusals.REFUSALS[0]})


def test_every_architecture_of_sae_lens_is_in_the_matrix():
    known = sae_lens.registry.SAE_CLASS_REGISTRY.keys()
    known |= sae_lens.registry.SAE_TRAINING_CLASS_REGISTRY.keys()
    assert known == every_sae.ARCHITECTURES.keys()
    assert known == set(refusals.ARCHITECTURES) - {*refusals.OTHERS}
    assert known == {*architectures.CODES, *architectures.TRAINING_ONLY}
    assert {architecture_of(kind) for kind in KINDS} == set(refusals.ARCHITECTURES)


def test_every_scaling_of_sae_lens_is_in_the_matrix():
    annotation = get_type_hints(sae_lens.StandardSAEConfig)["normalize_activations"]
    options = [dict(every_sae.TEMPORAL), *(options for _, options in every_sae.VARIANTS.values())]
    tried = {option.get("normalize_activations", "none") for option in options}
    assert set(get_args(annotation)) <= tried


def test_every_function_is_in_the_matrix():
    assert list(FUNCTIONS) == list(refusals.FUNCTIONS)
    assert {name for refusal in refusals.REFUSALS for name in refusal.functions} <= {*FUNCTIONS}


def test_every_registered_sae_has_its_cells():
    """Each family at each place where the table has an SAE, and each architecture."""
    assert {family for part, family in coverage.FAMILIES.items()} <= PARTS.keys()
    for release, listed in registry().items():
        places = places_of(coverage.family_of(listed.model))
        for kind in coverage.kinds_of(release):
            is_transcoder = "transcoder" in kind.architectures[0]
            assert (f"{kind.place} to mlp_out" if is_transcoder else kind.place) in places
            assert {*kind.architectures} <= {architecture_of(kind) for kind in KINDS}
