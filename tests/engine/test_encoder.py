"""Blocks of features against ``sae.encode`` and ``sae.decode`` on all tokens at once."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import draw, random_sae
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import StandardSAE, TopKSAE
from stand_ins import top_k_sae

from saework.engine import encoder
from saework.engine.encoder import Encoder, encode_columns

HOOK = "blocks.0.mlp.hook_post"


SAES = {
    name: random_sae(24, 48, HOOK, torch.Generator().manual_seed(3), name)
    for name in ("standard", "jumprelu")
} | {"topk": top_k_sae()}
for normalization in ("layer_norm", "constant_norm_rescale"):
    SAES[normalization] = copy.deepcopy(SAES["standard"])
    SAES[normalization].cfg.normalize_activations = normalization
    SAES[normalization] = type(SAES["standard"]).from_dict(SAES[normalization].cfg.to_dict())
    SAES[normalization].load_state_dict(SAES["standard"].state_dict())
    SAES[normalization].requires_grad_(False)


def features_of(sae, x):
    """``sae.encode``; written out for TopK, which ``Encoder`` gives to ``sae.encode`` itself."""
    if not isinstance(sae, TopKSAE):
        return sae.encode(x)
    before = (x.to(sae.dtype) - sae.b_dec) @ sae.W_enc + sae.b_enc
    values, indices = before.topk(4)
    return torch.zeros_like(before).scatter(-1, indices, values.relu())


def test_rescaling_saes_do_rescale():
    x = draw(9, 24)
    assert not torch.allclose(SAES["layer_norm"].encode(x), SAES["standard"].encode(x))
    assert not torch.allclose(SAES["constant_norm_rescale"].encode(x), SAES["standard"].encode(x))


@pytest.mark.parametrize("name", SAES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_those_of_encode_to_the_last_bit(name, dtype):
    sae = copy.deepcopy(SAES[name]).to(dtype=dtype)
    encode = Encoder(sae)
    for n in (9, 4, 9, 80):  # smaller blocks use a part of the memory, larger ones more of it
        x = draw(n, 24, seed=n)
        features, (token, feature, value) = encode(x)
        assert features.dtype == dtype and torch.equal(features, features_of(sae, x))
        assert torch.equal(torch.stack([token, feature], 1), features.nonzero())
        assert torch.equal(value, features[features != 0]) and 0 < len(value) < features.numel()


@pytest.mark.parametrize("name", SAES)
@settings(max_examples=20, deadline=None, database=None)
@given(block=st.integers(1, 40), always=st.sampled_from([0.0, 1 / 32, 1.0]))
def test_reconstruction_in_blocks(name, block, always):
    """With any blocks, and whether decoder rows are added up (share 1) or multiplied (0)."""
    sae, x = SAES[name], draw(5, 7, 24, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "BLOCK", block)
        patch.setattr(encoder, "SPARSE_BELOW", always)
        ours = Encoder(sae).reconstruct(x)
    features = features_of(sae, x)
    torch.testing.assert_close(ours.x_hat, sae.decode(features), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.l0, (features != 0).sum(-1))
    torch.testing.assert_close(ours.l1, features.double().abs().sum(-1), rtol=1e-5, atol=1e-6)


def test_rows_without_a_feature_give_the_bias():
    sae = copy.deepcopy(SAES["standard"])
    sae.b_enc -= 1000
    ours = Encoder(sae).reconstruct(draw(2, 3, 24))
    assert (
        torch.equal(ours.x_hat, sae.b_dec.expand(2, 3, 24)) and ours.l0.sum() == 0 == ours.l1.sum()
    )


@pytest.mark.parametrize("name", SAES)
def test_features_left_on(name):
    keep = torch.arange(48) % 2 == 0
    sae, x = SAES[name], draw(2, 9, 24)
    ours = Encoder(sae, keep).reconstruct(x)
    features = features_of(sae, x) * keep
    torch.testing.assert_close(ours.x_hat, sae.decode(features), rtol=1e-5, atol=1e-5)
    assert torch.equal(ours.l0, (features != 0).sum(-1))


def test_nan_is_active_and_stays():
    sae = copy.deepcopy(SAES["jumprelu"])
    sae.b_enc[7] = float("nan")
    encode = Encoder(sae)
    _, active = encode(draw(9, 24))
    assert int(active.value.isnan().sum()) == 9 and set(
        active.feature[active.value.isnan()].tolist()
    ) == {7}
    assert encode.reconstruct(draw(1, 9, 24)).x_hat.isnan().all()


def test_results_do_not_change_with_the_next_block():
    encode = Encoder(SAES["standard"])
    first = encode.reconstruct(draw(1, 6, 24))
    kept = copy.deepcopy(first)
    encode.reconstruct(draw(1, 6, 24, seed=5))
    assert torch.equal(first.x_hat, kept.x_hat) and torch.equal(first.l1, kept.l1)
    _, active = encode(draw(6, 24))
    before = active.value.clone()
    encode(draw(6, 24, seed=5))
    assert torch.equal(active.value, before)


@pytest.mark.parametrize("name", SAES)
def test_one_feature(name):
    x = draw(3, 5, 24)
    for feature in (0, 7, 47):
        torch.testing.assert_close(
            encode_columns(SAES[name], x, feature),
            features_of(SAES[name], x)[..., feature],
            rtol=1e-5,
            atol=1e-5,
        )


def test_an_sae_that_trains_is_read_without_gradients():
    sae = copy.deepcopy(SAES["standard"]).requires_grad_(True)
    assert not Encoder(sae).reconstruct(draw(1, 6, 24)).x_hat.requires_grad


class Own:
    """An SAE of one's own, whose methods give what they are told to."""

    W_enc, W_dec = torch.eye(4), torch.eye(4)

    def __init__(self, encoded=None, decoded=None):
        self.encoded, self.decoded = encoded, decoded

    def encode(self, x):
        return x if self.encoded is None else self.encoded

    def decode(self, features):
        return features if self.decoded is None else self.decoded


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"encoded": torch.ones(6, 3)}, r"sae.encode gave shape \(6, 3\); .*d_sae as in W_dec"),
        ({"encoded": torch.ones(6, 8)}, r"gave shape \(6, 8\); here it must give \(6, 4\)"),
        ({"encoded": torch.ones(5, 4)}, r"gave shape \(5, 4\); here it must give \(6, 4\)"),
        ({"encoded": torch.ones(6, 4).bool()}, "sae.encode gave torch.bool; .*tensor of floats"),
        ({"encoded": torch.ones(6, 4).numpy()}, "sae.encode gave float32; it must give a tensor"),
        ({"encoded": (1, 2)}, "sae.encode gave tuple; it must give a tensor of floats"),
        ({"decoded": torch.ones(1, 4)}, r"sae.decode gave shape \(1, 4\); here it must give \(6\)"),
        ({"decoded": 3}, "sae.decode gave int; it must give a tensor of floats"),
    ],
)
def test_what_an_own_sae_gives_is_checked(given, words):
    with pytest.raises(ValueError, match=words):
        Encoder(Own(**given)).reconstruct(torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"encoded": torch.ones(6, 4).to_sparse()}, "sae.encode gave a sparse tensor"),
        ({"decoded": torch.ones(6, 1)}, r"sae.decode gave shape \(6, 1\); .* must give \(6, 4\)"),
    ],
)
def test_what_would_be_broadcast_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Encoder(Own(**given)).reconstruct(torch.ones(2, 3, 4))


class Doubled(StandardSAE):
    """Its features are twice as large, and it decodes to nothing."""

    def encode(self, x):
        return 2 * super().encode(x)

    def decode(self, features):
        return 0 * super().decode(features)


def with_own_methods(sae):
    sae.__class__ = Doubled


def with_a_method_put_on_it(sae):
    encode = sae.encode
    sae.encode = lambda x: 2 * encode(x)


def with_another_activation(sae):
    sae.activation_fn = torch.nn.ReLU6()


def with_a_hook(sae):
    sae.hook_sae_acts_post.add_hook(lambda features, hook: 3 * features)


@pytest.mark.parametrize(
    "change", [with_own_methods, with_a_method_put_on_it, with_another_activation, with_a_hook]
)
def test_code_that_a_user_put_on_an_sae_is_what_runs(change):
    sae = copy.deepcopy(SAES["standard"])
    x = 40 * draw(5, 3, 24, seed=2)
    plain = sae.encode(x)
    change(sae)
    expected = sae.encode(x)
    assert not torch.allclose(expected, plain)
    features, _ = Encoder(sae)(x.flatten(0, 1))
    torch.testing.assert_close(features.reshape(expected.shape), expected)
    torch.testing.assert_close(encode_columns(sae, x, 7), expected[..., 7])
    made = Encoder(sae).reconstruct(x)
    torch.testing.assert_close(made.x_hat, sae.decode(expected))


def test_an_own_object_with_a_config_of_sae_lens_is_encoded_by_itself():
    source = SAES["standard"]

    class WithConfig:
        W_enc, W_dec, cfg = source.W_enc, source.W_dec, source.cfg

        def encode(self, x):
            return x @ self.W_enc

        def decode(self, features):
            return features @ self.W_dec

    x = draw(2, 3, 24, seed=1)
    features, _ = Encoder(WithConfig())(x.flatten(0, 1))
    torch.testing.assert_close(features, x.flatten(0, 1) @ source.W_enc)
