"""Packages that an install replaced under a running session."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest
import torch

from saework.core import versions
from saework.core.versions import check_versions, replaced_versions


def test_packages_that_were_replaced_under_a_session_stop_it_before_anything_else(monkeypatch):
    from saework import versions as table_of_versions
    from saework.loading.requirements import plan_of_load

    assert replaced_versions() == []
    check_versions()
    installed = np.__version__
    monkeypatch.setattr(np, "__version__", "2.0.2")
    message = (
        f"numpy 2.0.2 is loaded but {installed} is installed: "
        "an install replaced it after this session had begun; restart the session"
    )
    with pytest.raises(RuntimeError, match=re.escape(message)):
        check_versions()
    with pytest.raises(RuntimeError, match=re.escape(message)):
        table_of_versions()
    with pytest.raises(RuntimeError, match=re.escape(message)):
        plan_of_load(None, None, dtype=torch.float32)  # no release is even looked at


def test_builds_of_one_version_are_no_other_version(monkeypatch):
    public = torch.__version__.partition("+")[0]
    monkeypatch.setattr(torch, "__version__", f"{public}+cu126")
    assert replaced_versions() == []


def test_what_is_not_loaded_is_not_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert replaced_versions() == []


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", version)
    assert replaced_versions() == []


def test_what_a_page_says_that_it_was_made_with():
    found = versions.installed_versions()
    assert f"torch {version('torch')}" in found and found[0].startswith("saework ")
    assert found[-2] == f"Python {platform.python_version()}"
