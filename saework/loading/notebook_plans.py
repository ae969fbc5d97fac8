"""What a notebook can run on this machine, in a few lines, before anything is downloaded."""

from __future__ import annotations

from saework.core.errors import unknown
from saework.core.versions import check_versions
from saework.loading.catalogue import NOTEBOOKS, STUDIES, release_named
from saework.loading.plans import Machine, plan_notebook, this_machine
from saework.loading.release import Release


def plans_here(notebook: str) -> str:
    """What this machine has, and which releases a notebook can run on it.

    Asks no server, and downloads nothing. ``preflight`` says more of one release: how much would
    be downloaded, and whether a licence has to be accepted.

    Args:
        notebook: its name, such as ``00_start_here``.

    Raises:
        UnknownNameError: for a notebook that does not exist.
        RuntimeError: for packages whose loaded version is not the installed one.

    >>> print(plans_here("10_reading_saebench"))
    This machine: ... GB of memory, ...
    """
    check_versions()
    known = dict.fromkeys(name for names in NOTEBOOKS.values() for name in names)
    if notebook not in known:
        raise unknown("notebook", notebook, known, see=f"There are {', '.join(known)}.")
    machine = this_machine()
    lines = [f"This machine: {_in_words(machine)}."]
    names = [name for name in NOTEBOOKS if name not in STUDIES and notebook in NOTEBOOKS[name]]
    releases = sorted(map(release_named, names), key=lambda release: not release.offline)
    lines += [_line(release, notebook, machine) for release in releases]
    return "\n".join(lines)


def _in_words(machine: Machine) -> str:
    memory = f"{machine.memory_gb:.1f} GB of memory"
    if machine.gpu is None:
        return f"{memory}, no CUDA GPU"
    return f"{memory}, and a GPU ({machine.gpu.name}) with {machine.gpu.free_gb:.1f} GB"


def _line(release: Release, notebook: str, machine: Machine) -> str:
    plan, fits = plan_notebook(release, notebook, machine)
    needed = f"{plan.memory_gb:.1f} GB"
    if not fits:
        return f"{release.name}: does not fit; {plan.dtype} on the {plan.device} needs {needed}"
    if release.offline:
        return f"{release.name}: fits ({needed}), nothing is downloaded"
    return f'{release.name}: fits with DEVICE = "{plan.device}", DTYPE = "{plan.dtype}" ({needed})'
