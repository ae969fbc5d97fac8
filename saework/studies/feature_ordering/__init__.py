"""Does it change anything to order an SAE's features by activity while it is trained?"""

from saework.studies.feature_ordering.data import study_data
from saework.studies.feature_ordering.live import live_variants
from saework.studies.feature_ordering.study import (
    SETTINGS,
    Study,
    paired_differences,
    read_study,
    study,
)
from saework.studies.feature_ordering.trained_run import TrainedRun
from saework.studies.feature_ordering.training import train
from saework.studies.feature_ordering.variants import REAL, SMALL, Setting, Variant, variants

__all__ = [
    "REAL",
    "SETTINGS",
    "SMALL",
    "Setting",
    "Study",
    "TrainedRun",
    "Variant",
    "live_variants",
    "paired_differences",
    "read_study",
    "study",
    "study_data",
    "train",
    "variants",
]
