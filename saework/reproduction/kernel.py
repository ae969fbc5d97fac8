"""The kernel of a notebook: this Python, and nothing of the user's profile or of the folder.

A kernel named ``python3`` may be another environment, with another saework. A file ``torch.py``
beside the notebook would be imported in torch's place, and a start-up file of IPython's could
change the numbers.
"""

from __future__ import annotations

import sys

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

START = (
    "import sys; sys.path[:] = [folder for folder in sys.path if folder]; "
    "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
)
"""What the kernel's process runs: without the current folder among those it imports from."""


def kernel_arguments(profile: str) -> list[str]:
    """Arguments of a kernel that reads nothing of the user's.

    Args:
        profile: an empty folder, for IPython's files.
    """
    return [
        f"--ipython-dir={profile}",
        "--InteractiveShellApp.ignore_cwd=True",
        "--InteractiveShellApp.exec_PYTHONSTARTUP=False",
        # Below it each kernel warns that its (local) messages are not encrypted, and that it was
        # interrupted when it is ended.
        "--log-level=CRITICAL",
    ]


class _ThisPython(KernelSpecManager):
    """Knows one kernel."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Of this process's own Python, whatever the name."""
        return KernelSpec(
            argv=[sys.executable, "-c", START, "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            env={"PYTHONOPTIMIZE": ""},  # it would leave out the notebooks' own checks
        )


class OwnKernelManager(AsyncKernelManager):
    """Starts kernels of this process's own Python."""

    @default("kernel_spec_manager")
    def _own_kernel_spec_manager(self) -> KernelSpecManager:
        return _ThisPython(parent=self)
