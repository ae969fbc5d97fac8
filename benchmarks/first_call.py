"""How often torch's first large ``sqrt`` is wrong in a fresh process, and after ``saework.core.torch_setup.call_once_alone``.

    python benchmarks/first_call.py 40      # processes of each kind; some three seconds each

The cause is described there. It takes two threads or more, and a torch with oneMKL 2024.
"""

from __future__ import annotations

import subprocess
import sys

# A model's first norm: matrix products have woken the threads, and then comes a square root of a few thousand numbers.
NORM = """
import torch
{before}
x = torch.randn(8192, 512)
(x @ torch.randn(512, 512)).sum()
x = x.pow(2).mean(-1) + 1e-5
print(float((x.sqrt().double() / x.double().sqrt() - 1).abs().max()))
"""


def main(processes: int) -> None:
    for name, before in (
        ("first call by all threads", ""),
        ("after call_once_alone", "import saework.core.torch_setup"),
    ):
        command = [sys.executable, "-c", NORM.format(before=before)]
        errors = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(processes)
        ]
        print(
            f"{name}: {sum(error > 1e-6 for error in errors)} of {processes} wrong, largest relative error {max(errors):.0e}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
