"""Read, check and compare SAEBench result files."""

from saework.studies.saebench.lint import bfloat16_step, compare, lint
from saework.studies.saebench.literals import ResultError
from saework.studies.saebench.results import EXAMPLES, Evaluation, export, read

__all__ = [
    "EXAMPLES",
    "Evaluation",
    "ResultError",
    "bfloat16_step",
    "compare",
    "export",
    "lint",
    "read",
]
