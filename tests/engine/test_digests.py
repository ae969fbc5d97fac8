"""Digests of SAEs and models: all that changes a number changes them, and nothing else does."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from conftest import draw
from families import hugging_face_and_bridge
from sae_lens import (
    SAE,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from sae_lens.saes.sae import SAEMetadata
from stand_ins import POST, RESID, PlainSAE

import saework
from saework.engine.digests import check_no_hooks, hooks_on, model_digest, sae_digest

D_IN, D_SAE = 8, 12
KINDS = {
    "standard": (StandardSAE, StandardSAEConfig),
    "gated": (GatedSAE, GatedSAEConfig),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig),
    "topk": (TopKSAE, TopKSAEConfig),
    "matching_pursuit": (MatchingPursuitSAE, MatchingPursuitSAEConfig),
    "skip_transcoder": (SkipTranscoder, SkipTranscoderConfig),
}
NEEDED = {"topk": {"k": 3}, "matching_pursuit": {"max_iterations": 3}}
NEEDED["skip_transcoder"] = {"d_out": D_IN}


def make(kind: str, **changes):
    sae_class, config_class = KINDS[kind]
    metadata = {"hook_name": POST, "hook_name_out": RESID, **changes.pop("metadata", {})}
    settings = {"apply_b_dec_to_input": False, **NEEDED.get(kind, {}), **changes}
    config = config_class(d_in=D_IN, d_sae=D_SAE, metadata=SAEMetadata(**metadata), **settings)
    sae = sae_class(config).eval().requires_grad_(False)
    for name, weights in sae.named_parameters():
        weights.copy_(draw(*weights.shape, seed=len(name)))
    return sae


@pytest.mark.parametrize("kind", KINDS)
def test_any_value_of_any_tensor_of_an_sae(kind):
    sae = make(kind)
    before = sae_digest(sae)
    assert sae_digest(make(kind)) == before
    for name, weights in sae.state_dict().items():
        for place in {0, weights.numel() // 2, weights.numel() - 1}:
            value = weights.view(-1)[place].item()
            weights.view(-1)[place] = torch.nextafter(torch.tensor(value), torch.tensor(9e9))
            assert sae_digest(sae) != before, (name, place)
            weights.view(-1)[place] = value
    assert sae_digest(sae) == before


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("standard", {"apply_b_dec_to_input": True}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("standard", {"normalize_activations": "constant_norm_rescale"}),
        ("jumprelu", {"apply_b_dec_to_input": True}),
        ("topk", {"k": 4}),
        ("topk", {"k": 100 % D_SAE}),
        ("topk", {"rescale_acts_by_decoder_norm": True}),
        ("matching_pursuit", {"max_iterations": 2}),
        ("matching_pursuit", {"max_iterations": None, "residual_threshold": 0.5}),
    ],
    ids=str,
)
def test_a_setting_that_changes_features(kind, changes):
    x = draw(5, D_IN, seed=3)
    sae, other = make(kind), make(kind, **changes)
    assert not torch.equal(sae.encode(x), other.encode(x))
    assert sae_digest(sae) != sae_digest(other)


def test_settings_that_only_matter_on_the_way_in_or_out():
    at_heads = {"metadata": {"hook_name": "blocks.0.attn.hook_z"}}
    flat, apart = (
        make("standard", **at_heads),
        make("standard", reshape_activations="hook_z", **at_heads),
    )
    assert sae_digest(flat) != sae_digest(apart)
    sae = make("skip_transcoder")
    other = make("skip_transcoder", metadata={"hook_name_out": POST})
    assert sae_digest(sae) != sae_digest(other)
    assert sae_digest(sae) != sae_digest(sae, RESID)


def test_the_dtype_counts():
    digests = {sae_digest(make("topk").to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    assert len(digests) == 2
    # zero has the same bytes in every dtype of one size
    zeros = {sae_digest(make("topk", dtype=str(d)[6:])) for d in (torch.float16, torch.bfloat16)}
    assert len(zeros) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda sae: setattr(sae.activation_fn, "k", 5),
        lambda sae: setattr(sae, "encode", lambda x: x),
        lambda sae: setattr(sae, "dtype", torch.bfloat16),
        lambda sae: setattr(sae, "gain", 2.0),
        lambda sae: setattr(sae, "_gain", 2.0),
        lambda sae: setattr(sae, "activation_fn", torch.nn.ReLU()),
        lambda sae: setattr(sae.cfg, "gain", 2.0),
        lambda sae: sae.register_buffer("gain", torch.ones(2), persistent=False),
        lambda sae: sae.hook_sae_acts_post.add_hook(lambda x, hook: 2 * x, is_permanent=True),
        lambda sae: sae.activation_fn.register_forward_hook(lambda *_: None),
    ],
    ids="activation encode dtype attribute private function config buffer hook raw-hook".split(),
)
def test_what_is_changed_on_the_object(change):
    sae = make("topk")
    before = sae_digest(sae)
    change(sae)
    assert sae_digest(sae) != before


def test_what_does_not_change_features():
    """Metadata, the device's name, train(), and what a forward pass leaves behind."""
    sae = make("topk", normalize_activations="layer_norm")
    before = sae_digest(sae)
    sae(draw(5, D_IN))
    sae.encode(draw(5, D_IN))
    sae.train()
    sae.cfg.device, sae.device = "cuda:3", torch.device("cuda:3")
    sae.cfg.metadata.dataset_path = "another/corpus"
    sae.cfg.metadata.sae_lens_version = "9.9.9"
    assert sae_digest(sae) == before
    assert sae_digest(copy.deepcopy(sae)) == before
    assert sae_digest(sae.to("cpu")) == before


def test_two_ways_to_the_same_sae(tmp_path):
    sae = make("topk")
    sae.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert sae_digest(loaded) == sae_digest(sae)


def test_a_field_that_a_later_version_adds():
    @dataclass
    class Later(StandardSAEConfig):
        gain: float = 1.0

    def with_config(**changes):
        sae = make("standard")
        known = {key: value for key, value in vars(sae.cfg).items()}
        sae.cfg = Later(**known, **changes)
        return sae_digest(sae)

    assert with_config() == sae_digest(make("standard"))
    assert with_config(gain=2.0) != with_config()


def test_a_digest_that_files_hold_does_not_change():
    """A change here makes every stored scan unreadable; see ``recorded_scan`` too."""
    sae = make("standard")
    for weights in sae.parameters():
        weights.copy_(torch.arange(weights.numel()).reshape(weights.shape) / 8)
    digest = "c97333e9a2f46174"
    assert sae_digest(sae).startswith(digest)


# ---- your own object ----


class Own(PlainSAE):
    threshold = 0.0

    def __init__(self, **held):
        super().__init__(torch.relu, torch.relu)
        vars(self).update(held)


def test_an_own_object():
    digests = [
        sae_digest(own, POST)
        for own in (
            Own(),
            Own(threshold=0.5),
            Own(threshold=0.75),
            Own(_gain=2.0),
            Own(encode=torch.sigmoid),
            Own(encode=lambda x: x),
            Own(inner=SimpleNamespace(scale=1.0)),
            Own(inner=SimpleNamespace(scale=2.0)),
            Own(inner=make("topk")),
            Own(inner=make("topk", k=4)),
            Own(cfg=SimpleNamespace(gain=1.0)),
            Own(cfg=SimpleNamespace(gain=2.0)),
            Own(W_dec=2 * torch.eye(24)),
        )
    ]
    assert len(set(digests)) == len(digests)
    assert sae_digest(Own(), POST) == digests[0] != sae_digest(Own(), RESID)


def test_weights_that_are_computed():
    class Computed:
        scale = 1.0
        W_dec = torch.eye(3)
        encode = decode = torch.relu

        @property
        def W_enc(self):
            return self.weight * torch.eye(3)

        def __init__(self, weight):
            self.weight = weight

    assert sae_digest(Computed(1.0), POST) == sae_digest(Computed(1.0), POST)
    assert sae_digest(Computed(1.0), POST) != sae_digest(Computed(2.0), POST)


# ---- models ----


@pytest.fixture(scope="module", params=["tiny", "Llama", "Gemma2", "Granite"])
def model(request, tiny, tmp_path_factory):
    if request.param == "tiny":
        return copy.deepcopy(tiny.model)
    return hugging_face_and_bridge(request.param, tiny, tmp_path_factory.mktemp("family"))[1]


def test_any_weight_of_a_model(model):
    before = model_digest(model)
    n_tensors = 0
    for name, values in [*model.named_parameters(), *model.named_buffers()]:
        if values.numel() == 0:
            continue
        n_tensors += 1
        flat = values.data.view(-1)
        place = values.numel() // 2
        value = flat[place].item()
        flat[place] = 7.25
        assert model_digest(model) != before, name
        flat[place] = value
    assert n_tensors > 10 and model_digest(model) == before


def test_what_a_run_leaves_on_a_model_does_not_count(model, tiny):
    before = model_digest(model)
    model(tiny.tokens[:2, :6])
    model.generate(tiny.tokens[:1, :4], max_new_tokens=2, verbose=False)
    with model.hooks(fwd_hooks=[(next(iter(model.hook_dict)), lambda value, hook: None)]):
        model(tiny.tokens[:2, :6])
    model.cfg.model_name = "/another/path"
    assert model_digest(model) == before and hooks_on(model) == []


def test_settings_of_a_model(model, monkeypatch):
    before = model_digest(model)
    names = ("scaling", "attn_scale")
    part, name = next(
        (module, name) for module in model.modules() for name in names if name in vars(module)
    )
    with monkeypatch.context() as patch:
        patch.setattr(model.cfg, "eps", 0.5)
        assert model_digest(model) != before
    with monkeypatch.context() as patch:
        patch.setitem(vars(part), name, 0.123)
        assert model_digest(model) != before
    with monkeypatch.context() as patch:
        patch.setitem(vars(part), "act_fn", lambda x: x)
        assert model_digest(model) != before
    assert model_digest(model) == before


def test_the_dtype_of_a_model(tiny):
    assert model_digest(copy.deepcopy(tiny.model).bfloat16()) != model_digest(tiny.model)


def test_hooks_of_a_reader(tiny):
    model, sae = copy.deepcopy(tiny.model), copy.deepcopy(tiny.sae)
    check_no_hooks(model, sae)
    model.add_perma_hook(POST, lambda value, hook: 2 * value)
    words = (
        rf"the model has a function on at {POST}, and what it does cannot be told from a "
        r"checkpoint or in a worker; take it off, for example with "
        r"reset_hooks\(including_permanent=True\), or scan without checkpoint= and executor="
    )
    with pytest.raises(ValueError, match=words):
        check_no_hooks(model, sae)
    model.reset_hooks(including_permanent=True)
    handle = model.blocks[0].register_forward_pre_hook(lambda *_: None)
    assert hooks_on(model) == ["blocks.0"]
    handle.remove()
    sae.hook_sae_acts_post.add_hook(lambda value, hook: value)
    with pytest.raises(ValueError, match="the SAE has a function on at hook_sae_acts_post"):
        check_no_hooks(model, sae)


def test_two_loads_of_one_mini():
    digests = {
        (model_digest(book.model), sae_digest(book.sae, book.hook))
        for book in (saework.load("gemma-mini", n_tokens=512, check=False) for _ in range(2))
    }
    assert len(digests) == 1
