"""Read, check and compare SAEBench result files."""

from saework.studies.saebench.comparison import bfloat16_step, compare
from saework.studies.saebench.conversion import convert
from saework.studies.saebench.definitions import definitions
from saework.studies.saebench.export import export
from saework.studies.saebench.lint import lint
from saework.studies.saebench.literals import ResultError
from saework.studies.saebench.noise import smallest_shown
from saework.studies.saebench.rerun import rerun_absorption, rerun_cross_check, rerun_ledger
from saework.studies.saebench.results import EXAMPLES, Evaluation, read

__all__ = [
    "EXAMPLES",
    "Evaluation",
    "ResultError",
    "bfloat16_step",
    "compare",
    "convert",
    "definitions",
    "export",
    "lint",
    "read",
    "rerun_absorption",
    "rerun_cross_check",
    "rerun_ledger",
    "smallest_shown",
]
