"""The metrics of an SAE whose reconstruction is known."""

from __future__ import annotations

import pytest
import torch
from conftest import random_sae

from saework.studies.feature_ordering.evaluation import evaluate


def test_evaluation_at_known_points():
    sae = random_sae(4, 8, "h", torch.Generator().manual_seed(0))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    identity = torch.cat([torch.eye(4), -torch.eye(4)])
    sae.load_state_dict(
        {"W_enc": identity.T, "W_dec": identity, "b_enc": torch.zeros(8), "b_dec": torch.zeros(4)}
    )
    perfect = evaluate(sae, x)
    assert (
        perfect["variance_explained"] == pytest.approx(1)
        and perfect["l0"] == 4
        and perfect["dead"] == 0
    )
    assert perfect["l1"] == pytest.approx(float(x.abs().sum(1).mean()), rel=1e-5)
    sae.load_state_dict(
        {
            "W_enc": identity.T,
            "W_dec": identity,
            "b_enc": torch.full((8,), -99.0),
            "b_dec": x.mean(0),
        }
    )
    nothing = evaluate(sae, x)
    sae.load_state_dict(
        {
            "W_enc": identity.T / 2,
            "W_dec": 2 * identity,
            "b_enc": torch.zeros(8),
            "b_dec": torch.zeros(4),
        }
    )
    assert evaluate(sae, x)["l1"] == pytest.approx(perfect["l1"]), (
        "as if decoder rows had unit norm"
    )
    assert (
        nothing["variance_explained"] == pytest.approx(0, abs=1e-6)
        and nothing["l0"] == 0
        and nothing["dead"] == 8
    )
    assert nothing["mse"] == pytest.approx(float((x - x.mean(0)).pow(2).sum(1).mean()), rel=1e-5)
