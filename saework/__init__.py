"""saework: published sparse-autoencoder analyses, reproduced in notebooks.

The names below are the public ones; all other modules are how they are made. `import saework` is
quick and imports no torch: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from saework.analysis import ablation, probing, steering
    from saework.analysis.features import active_features, feature_activations, logit_effect
    from saework.analysis.probing import sparse_probe
    from saework.analysis.rare import RareFeatures, rare_features
    from saework.analysis.reconstruction import (
        ReconsScore,
        recons_score,
        recons_scores,
        reconstruction_metrics,
    )
    from saework.analysis.reference import claims_of_reference, validate, write_reference
    from saework.analysis.reference_file import read_reference
    from saework.analysis.renumbering import permute_features, select_features
    from saework.analysis.scanning.feature_scan import FeatureScan
    from saework.analysis.scanning.run_scan import scan
    from saework.analysis.similarity import compare
    from saework.analysis.sites import find_site
    from saework.analysis.steering import Steering, steer
    from saework.core import formulas
    from saework.core.claims import Claim
    from saework.core.errors import HookError, NotAvailableError, UnknownNameError, WeightsError
    from saework.core.formulas import rule_agreement
    from saework.core.ledger import Ledger
    from saework.core.token_tables import token_df, vocab_df
    from saework.core.tokens import str_tokens
    from saework.engine.forward import activations, token_losses
    from saework.loading import corpus, mutations
    from saework.loading.catalogue import claims_of, release_named, releases
    from saework.loading.corpus import chat_tokens
    from saework.loading.notebook_plans import plans_here
    from saework.loading.requirements import Preflight, preflight
    from saework.loading.workbook import Workbook, load
    from saework.studies import feature_ordering, saebench
    from saework.views import plots
    from saework.views.explorer.explorer import explore
    from saework.views.explorer.feature_search import find_features
    from saework.views.explorer.text_reading import text_heatmap
    from saework.views.feature_page.page import FeaturePage
    from saework.views.feature_page.write import feature_page, feature_pages
    from saework.views.heatmap import TokenHeatmap, token_heatmap
    from saework.views.tables import show, versions

# Where each public name is defined, by room. The block above tells editors and mypy the same.
_NAMES_BY_HOME = {
    "core.claims": ["Claim"],
    "core.errors": ["HookError", "NotAvailableError", "UnknownNameError", "WeightsError"],
    "core.formulas": ["rule_agreement"],
    "core.ledger": ["Ledger"],
    "core.token_tables": ["token_df", "vocab_df"],
    "core.tokens": ["str_tokens"],
    "engine.forward": ["activations", "token_losses"],
    "analysis.features": ["active_features", "feature_activations", "logit_effect"],
    "analysis.probing": ["sparse_probe"],
    "analysis.rare": ["RareFeatures", "rare_features"],
    "analysis.reconstruction": [
        "ReconsScore",
        "recons_score",
        "recons_scores",
        "reconstruction_metrics",
    ],
    "analysis.reference": ["claims_of_reference", "validate", "write_reference"],
    "analysis.reference_file": ["read_reference"],
    "analysis.renumbering": ["permute_features", "select_features"],
    "analysis.scanning.feature_scan": ["FeatureScan"],
    "analysis.scanning.run_scan": ["scan"],
    "analysis.similarity": ["compare"],
    "analysis.sites": ["find_site"],
    "analysis.steering": ["Steering", "steer"],
    "loading.catalogue": ["claims_of", "release_named", "releases"],
    "loading.corpus": ["chat_tokens"],
    "loading.notebook_plans": ["plans_here"],
    "loading.requirements": ["Preflight", "preflight"],
    "loading.workbook": ["Workbook", "load"],
    "views.explorer.explorer": ["explore"],
    "views.explorer.feature_search": ["find_features"],
    "views.explorer.text_reading": ["text_heatmap"],
    "views.feature_page.page": ["FeaturePage"],
    "views.feature_page.write": ["feature_page", "feature_pages"],
    "views.heatmap": ["TokenHeatmap", "token_heatmap"],
    "views.tables": ["show", "versions"],
}
_HOME = {name: home for home, names in _NAMES_BY_HOME.items() for name in names}

# Public as modules, since the names inside need the module's name: saework.saebench.read(...).
_MODULES = {
    "ablation": "analysis.ablation",
    "corpus": "loading.corpus",
    "feature_ordering": "studies.feature_ordering",
    "formulas": "core.formulas",
    "mutations": "loading.mutations",
    "plots": "views.plots",
    "probing": "analysis.probing",
    "saebench": "studies.saebench",
    "steering": "analysis.steering",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _HOME:
        return getattr(importlib.import_module(f"saework.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"saework.{_MODULES[name]}")
    raise AttributeError(f"module 'saework' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, *_MODULES, "__version__"]
