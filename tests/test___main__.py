"""The commands as a module."""

from __future__ import annotations

import subprocess
import sys

import saework


def test_python_m_saework_is_the_command():
    command = [sys.executable, "-m", "saework"]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "") and saework.__version__ in shown.stdout
    mistyped = subprocess.run([*command, "reproduse"], capture_output=True, text=True)
    assert mistyped.returncode == 2 and "saework" in mistyped.stderr
    assert "__main__" not in mistyped.stderr
