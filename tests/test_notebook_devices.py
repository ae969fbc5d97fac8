"""No device is mixed up: the notebooks' code cells on a GPU that is not there."""

from __future__ import annotations

import pytest
from device_notebooks import NAMES, run_notebook
from pretended_device import GPU, DeviceMixUp, pretended_gpu


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # less text, empty groups
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_on_a_gpu(name):
    with pretended_gpu():
        run_notebook(name, str(GPU))


def test_a_deliberate_mix_up_in_a_notebook_is_caught():
    with pretended_gpu(), pytest.raises(DeviceMixUp):
        run_notebook("03_gelu_1l_reconstruction", str(GPU), {".to(log_probs.device)": ""})
