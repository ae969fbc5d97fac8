"""One job, once, in this process: started by speed.py, in the environment of the way that is measured.

python one.py '{"way": "ours", "call": "rates", ...}'     # prints a line of JSON; the result goes to a safetensors file
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import setting
import torch
from safetensors.torch import save_file


def main(asked: dict) -> None:
    module = importlib.import_module(f"ways.{asked['way']}")
    s = setting.load(asked["shape"], asked["folder"], asked["hook"], asked["rows"])
    s.features, s.folder = asked["features"], Path(asked["folder"])
    if asked["tokenizer"]:
        s.tokenizer = setting.tokenizer()
    for function in (
        torch.sqrt,
        torch.exp,
        torch.log,
        torch.tanh,
        torch.erf,
    ):  # as saework does, see _torch.call_once_alone
        function(torch.ones(1)), function(torch.ones(1, dtype=torch.float64))
    with torch.no_grad():
        getattr(module, f"before_{asked['call']}", lambda s: None)(
            s
        )  # what is made ready, and not measured
        gigaflops = matrix_product_rate()
        Path("/proc/self/clear_refs").write_text("5")  # a new peak
        start = time.perf_counter()
        result = getattr(module, asked["call"])(s)
        seconds = time.perf_counter() - start
    peak = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    save_file({name: value.contiguous() for name, value in result.items()}, asked["out"])
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_gb": peak * 1024 / 1e9,
                "gigaflops": gigaflops,
                "threads": torch.get_num_threads(),
            }
        )
    )


def matrix_product_rate() -> float:
    """Billions of float32 operations a second, encoding 1,024 tokens into buffers that were touched before; the best of five."""
    x, w, out = torch.randn(1024, 2048), torch.randn(2048, 16_384), torch.zeros(1024, 16_384)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(x, w, out=out)
        times.append(time.perf_counter() - start)
    return 2 * x.shape[0] * w.numel() / min(times) / 1e9


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
