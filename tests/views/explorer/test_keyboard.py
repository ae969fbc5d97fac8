"""The guard of the explorer's keys; tests/views/test_browser.py presses them."""

from __future__ import annotations

import sys
from types import ModuleType

from saework.views.explorer.keyboard import BOX, KeyboardGuard, keyboard_guards


def test_the_guard_knows_the_explorers_box_and_fetches_nothing():
    script = KeyboardGuard()._esm
    assert f'closest(".{BOX}")' in script and "data-lm-suppress-shortcuts" in script
    assert "http" not in script and "import(" not in script


def test_colab_draws_core_widgets_only(monkeypatch):
    assert len(keyboard_guards()) == 1
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert keyboard_guards() == []
