"""Stand-ins and slow references that several test files share."""

from __future__ import annotations

import copy
from dataclasses import fields
from itertools import groupby

import nbformat
import torch
from conftest import draw, slow_features
from sae_lens import TopKSAE, TopKSAEConfig

from saework import FeatureScan
from saework.analysis.scanning.firings import BIN_EDGES, SAMPLES_PER_BIN

POST, RESID = "blocks.0.mlp.hook_post", "blocks.0.hook_resid_post"
NAN = float("nan")


def must_not_run(x):
    raise AssertionError("this method of the SAE must not run")


class PlainSAE:
    """The least that is accepted as an SAE: no config, no hook. None: a method not to be run."""

    def __init__(self, encode, decode, d_in: int = 24, d_sae: int = 24):
        self.encode, self.decode = encode or must_not_run, decode or must_not_run
        self.W_enc, self.W_dec = torch.eye(d_in, d_sae), torch.eye(d_sae, d_in)


IDENTITY = PlainSAE(lambda x: x, lambda x: x)


NOTHING = PlainSAE(lambda x: x, torch.zeros_like)


def with_weights(module, **changes):
    """A copy in which ``name=function`` was applied, in place, to a weight."""
    module = copy.deepcopy(module)
    for name, change in changes.items():
        change(module.get_parameter(name.replace("__", ".")))
    return module


def hooks_are_clean(model) -> bool:
    return not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())


def top_k_sae():
    sae = TopKSAE(TopKSAEConfig(d_in=24, d_sae=48, k=4)).requires_grad_(False)
    for name, weights in sae.named_parameters():
        weights.copy_(draw(*weights.shape, seed=len(name)))
    return sae


def assert_same(a: FeatureScan, b: FeatureScan, *, but=()):
    """Equal to the last bit, dtypes too."""
    for name in {field.name for field in fields(FeatureScan)} - set(but):
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype and torch.equal(left, right), name
        else:
            assert left == right, name


def slow_bin(value: float) -> int:
    return sum(edge <= value for edge in BIN_EDGES) - 1


def slow_firings(model, sae, tokens, hook, mask=None, first_row=0):
    """``(feature, value, row, pos)`` of each firing, and how many features fire on each token."""
    table, l0 = [], []
    for b, row in enumerate(tokens):
        features = slow_features(model, sae, row[None], hook)[0].float()
        for p, values in enumerate(features.tolist()):
            if mask is None or mask[b, p]:
                active = [
                    (feature, value, first_row + b, p)
                    for feature, value in enumerate(values)
                    if value != 0
                ]
                table += active
                l0.append(len(active))
    return table, l0


def slow_strongest(table, k):
    return first_of_each(table, order=lambda f: (-abs(f[1]), f[2], f[3]), group=lambda f: f[0], k=k)


def slow_samples(table):
    return first_of_each(
        table,
        order=lambda f: slow_hash(f[2], f[3]),
        group=lambda f: (f[0], slow_bin(abs(f[1]))),
        k=SAMPLES_PER_BIN,
    )


NO_MODEL = """import gc, torch
modules = [module for module in gc.get_objects() if isinstance(module, torch.nn.Module)]
ours = ("transformer_lens", "sae_lens", "saework")  # transformers makes activations at its import
made = [type(one) for one in modules if type(one).__module__.startswith(ours)]
assert not made, f"a model or an SAE was made: {made}"
"""


def text_of(notebook):
    shown = [
        output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]
    return [text for text in shown if text]


def first_of_each(table, order, group, k) -> list[tuple]:
    """The first k of each group."""
    ordered = sorted(table, key=lambda firing: (group(firing), order(firing)))
    return [firing for _, members in groupby(ordered, key=group) for firing in list(members)[:k]]


def slow_hash(row: int, pos: int) -> int:
    """Splitmix64's finalizer, in Python's own integers."""
    x, word = row * 2**20 + pos, 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % word
    x = (x ^ x >> 27) * 0x94D049BB133111EB % word
    return x ^ x >> 31


def slow_losses(model, tokens, hook=None, edit=None, mask=None) -> list[list[float]]:
    """Nats of each next token; ``edit`` takes and gives the activations of one token."""
    losses = []
    for b, row in enumerate(tokens):

        def replace(x, hook, b=b):
            x = x.clone()
            for p in range(x.shape[1]):
                if mask is None or mask[b, p]:
                    x[0, p] = edit(x[0, p])
            return x

        fwd_hooks = [(hook, replace)] if edit else []
        logits = model.run_with_hooks(row[None], fwd_hooks=fwd_hooks)[0].double()
        targets = row[1:].tolist()
        losses.append(
            [
                (logits[p].logsumexp(-1) - logits[p, target]).item()
                for p, target in enumerate(targets)
            ]
        )
    return losses


def executed_notebook(*outputs):
    """A notebook as papermill leaves it: a title, and a cell with these data as outputs."""
    cell = nbformat.v4.new_code_cell(
        "1",
        execution_count=1,
        outputs=[nbformat.v4.new_output("display_data", data=data) for data in outputs],
    )
    cell.metadata = {"execution": {"iopub.status.busy": "2026"}, "tags": ["parameters"]}
    metadata = {
        "widgets": {"application/vnd.jupyter.widget-state+json": {}},
        "papermill": {"duration": 1},
    }
    return nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Title?"), cell], metadata=metadata
    )
