"""Where tensors are; the Hub's part of it is in ``test_cut_folders.py``."""

from __future__ import annotations

import json

import pytest
from local_hub import hf_config, write_hf_model

from saework.core.errors import WeightsError
from saework.loading.cut_models import first_blocks
from saework.loading.hub import Repository
from saework.loading.hub_ranges import NoRangesError
from saework.loading.published_tensors import INDEX, PublishedModel

NORM = "model.layers.0.input_layernorm.weight"


@pytest.fixture
def folder(tmp_path):
    write_hf_model(tmp_path, hf_config("gemma2", d_model=32, n_layers=2), shards=2)
    return tmp_path


def tensors(folder, known=(), *, ranges=True):
    model = PublishedModel(Repository("ours/local", folder=folder), folder)
    return model.tensors(first_blocks(folder, 1), dict(known), ranges=ranges)


def test_each_tensor_is_in_the_shard_that_the_index_names(folder):
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    found = tensors(folder)
    assert found.keys() == first_blocks(folder, 1).shapes.keys()
    for name, tensor in found.items():
        assert tensor.source.name == str(folder / weight_map[name])


def test_what_is_known_is_not_looked_for(folder):
    known = tensors(folder)
    (folder / INDEX).write_text("{}")
    assert tensors(folder, known) == known


def test_a_known_tensor_of_another_shape_is_refused(folder):
    known = tensors(folder)
    known[NORM] = known["model.embed_tokens.weight"]
    with pytest.raises(
        WeightsError, match=rf"{NORM} has shape \(4096, 32\), its config says \(32,"
    ):
        tensors(folder, known)


def test_ranges_come_first_and_whole_files_once(folder):
    tried = []

    class Recorded(PublishedModel):
        def tensors(self, blocks, known, *, ranges):
            tried.append(ranges)
            return super().tensors(blocks, known, ranges=ranges)

    def use(found):
        if len(tried) == 1:
            raise NoRangesError
        return len(found)

    model = Recorded(Repository("ours/local", folder=folder), folder)
    blocks = first_blocks(folder, 1)
    assert model.used(blocks, {}, use) == len(blocks.shapes)
    assert tried == [True, False]
