"""One job, once, in this process: started by speed.py, in the environment of the way.

    python one.py '{"way": "saework", "call": "rates", ...}'

It prints a line of JSON; the result goes to a safetensors file.
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

# each first called by one thread, on one number, as saework does: see saework/core/torch_setup.py
ELEMENTWISE = (torch.sqrt, torch.exp, torch.log, torch.tanh, torch.erf)


def nothing(setting) -> None:
    """For ways that need no preparation."""


def main(request: dict) -> None:
    """Prepare, measure one call, save its result, and print the measurement."""
    module = importlib.import_module(f"ways.{request['way']}")
    s = setting.load(request["shape"], request["folder"], request["hook"], request["rows"])
    s.features = request["features"]
    s.folder = Path(request["folder"])
    if request["tokenizer"]:
        s.tokenizer = setting.tokenizer()
    for function in ELEMENTWISE:
        function(torch.ones(1))
        function(torch.ones(1, dtype=torch.float64))
    prepare = getattr(module, f"before_{request['call']}", nothing)
    measured = getattr(module, request["call"])
    with torch.no_grad():
        prepare(s)
        gigaflops = matrix_product_rate()
        reset_peak()
        start = time.perf_counter()
        result = measured(s)
        seconds = time.perf_counter() - start
    measurement = {
        "seconds": seconds,
        "peak_gb": peak_bytes() / 1e9,
        "gigaflops": gigaflops,
        "threads": torch.get_num_threads(),
    }
    save_file({name: value.contiguous() for name, value in result.items()}, request["out"])
    print(json.dumps(measurement))


def reset_peak() -> None:
    """Let the system count this process's peak memory from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """This process's peak memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            kilobytes = int(line.split()[1])
            return kilobytes * 1024
    raise OSError("/proc/self/status has no VmHWM; run this on Linux")


def matrix_product_rate() -> float:
    """Billions of float32 operations a second: the encoding of 1,024 tokens, the best of five.

    The product goes into memory that was touched before.
    """
    x, w = torch.randn(1024, 2048), torch.randn(2048, 16_384)
    out = torch.zeros(1024, 16_384)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(x, w, out=out)
        times.append(time.perf_counter() - start)
    return 2 * x.shape[0] * w.numel() / min(times) / 1e9


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
