"""How often torch's first large ``sqrt`` is wrong in a fresh process, with and without saework.

    python benchmarks/first_call.py 40      # processes of each kind; about three seconds each

The cause is described in ``saework/core/torch_setup.py``. It takes two threads or more, and a torch
with oneMKL 2024.
"""

from __future__ import annotations

import subprocess
import sys

# A model's first norm: matrix products start the threads, and then comes the square root of a few
# thousand numbers.
NORM = """
import torch
{before}
x = torch.randn(8192, 512)
(x @ torch.randn(512, 512)).sum()
x = x.pow(2).mean(-1) + 1e-5
print(float((x.sqrt().double() / x.double().sqrt() - 1).abs().max()))
"""
KINDS = {
    "first call by all threads": "",
    "after call_once_alone": "import saework.core.torch_setup",
}


def main(processes: int) -> None:
    """Print, for each kind, how many processes got it wrong."""
    for name, before in KINDS.items():
        command = [sys.executable, "-c", NORM.format(before=before)]
        errors = []
        for _ in range(processes):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            errors.append(float(done.stdout))
        n_wrong = sum(error > 1e-6 for error in errors)
        print(f"{name}: {n_wrong} of {processes} wrong, largest relative error {max(errors):.0e}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
