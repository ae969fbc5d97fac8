"""``saework``: list what there is, ask what it needs, run it, copy the notebooks."""

from __future__ import annotations

import argparse
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saework.core.terminal import run_command, say
from saework.loading.devices import add_plan_options, plan_options

if TYPE_CHECKING:
    import pandas as pd

FIRST_STEPS = """\
saework: published SAE analyses, reproduced in notebooks

  saework reproduce gelu-1l-mini   run the first notebooks here, offline
  saework notebooks DIR            copy the notebooks, to open them in JupyterLab
  saework list                     the releases
  saework --help                   all commands"""
Commands = Any
"""What ``add_subparsers`` returns; argparse has no public name for its type."""


def main(argv: list[str] | None = None) -> int:
    """Run a command, and return the exit code.

    ``reproduce`` exits 0 if every claim of the release held, 1 if one failed or a notebook broke,
    and 3 if one could not be run. A mistake in what was typed exits 2, and a signal 128 and its
    number.

    Args:
        argv: the words typed after ``saework``; by default those of this process.
    """
    arguments = argparse.Namespace(run=_first_steps, kept="run the command again")

    def run() -> int:
        _parser().parse_args(argv, arguments)
        return arguments.run(arguments)

    return run_command(run, lambda: arguments.kept)


def _first_steps(arguments: argparse.Namespace) -> int:
    print(FIRST_STEPS)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saework", description="Published SAE analyses, reproduced in notebooks."
    )
    parser.add_argument("--version", action="version", version=f"saework {version('saework')}")
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_list(commands)
    _add_preflight(commands)
    _add_reproduce(commands)
    _add_page(commands)
    _add_replay(commands)
    _add_notebooks(commands)
    _add_record(commands)
    return parser


def _add_list(commands: Commands) -> None:
    command = commands.add_parser("list", help="list the releases: model, hook, licence, size")
    command.add_argument(
        "--all",
        action="store_true",
        help="all releases of sae_lens, and the functions that refuse their SAEs",
    )
    command.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> int:
    from saework.loading.catalogue import releases
    from saework.loading.coverage import coverage

    if not arguments.all:
        _print_releases(releases())
        return 0
    table = coverage()
    right = table["refused"] == ""
    table["refused"] = table["refused"].mask(right, "none")
    print(table.to_string(index=False))
    n_right = table.loc[right, "saes"].sum()
    print(
        f"\n{table['saes'].sum():,} SAEs; every function is right with {n_right:,} of them, and "
        "with the others all functions but those that refuse"
    )
    return 0


def _print_releases(table: pd.DataFrame) -> None:
    """One release a line, at most 80 columns."""
    print(f"{'release':26}{'model':32}{'download':>8}{'memory':>7} login")
    for name, row in table.iterrows():
        size_mb = row["download_mb"]
        download = "offline" if row["offline"] else f"{size_mb / 1000:.1f} GB"
        memory = f"{row['memory_gb']:.2g} GB"
        login = {True: "yes", False: "no", None: "?"}[row["gated"]]
        print(f"{name:26}{row['model']:32}{download:>8}{memory:>7} {login}")
    print("\nMore columns: saework.releases(). Other releases of sae_lens: saework list --all")


def _add_preflight(commands: Commands) -> None:
    command = commands.add_parser(
        "preflight", help="say what a release needs, and whether this machine can run it"
    )
    command.add_argument("name", metavar="NAME", help="a release, such as gelu-1l-mini")
    command.add_argument(
        "sae_id",
        metavar="ID",
        nargs="?",
        help="an SAE, such as run1; the release's first if left out",
    )
    add_plan_options(command)
    command.set_defaults(run=_preflight)


def _preflight(arguments: argparse.Namespace) -> int:
    planned = plan_options(arguments)
    from saework.loading.catalogue import STUDIES
    from saework.loading.requirements import preflight

    name = arguments.name
    if name in STUDIES:
        print(f"{name} is a study, and its model is that of {STUDIES[name].release}")
        name = STUDIES[name].release
    report = preflight(name, arguments.sae_id, **planned)
    print(report)
    return 0 if report.ok else 3


def _add_reproduce(commands: Commands) -> None:
    command = commands.add_parser(
        "reproduce", help="run the notebooks of a release; write them, HTML pages and the ledger"
    )
    command.add_argument("name", metavar="NAME", help="a release or study, such as gelu-1l-mini")
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the results (saework-NAME if left out)"
    )
    command.add_argument(
        "--verbose", action="store_true", help="also each claim's tolerance, unit, note and source"
    )
    add_plan_options(command)
    command.set_defaults(run=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> int:
    planned = plan_options(arguments)
    from saework.loading.catalogue import STUDIES, release_named
    from saework.loading.hub_patience import LIMIT_S
    from saework.loading.requirements import forced, preflight

    name = arguments.name
    is_study = name in STUDIES
    release = release_named(STUDIES[name].release if is_study else name)
    # The notebooks of a release read all the SAEs that it shows.
    sae_ids = [None] if is_study else release.shown
    report = preflight(release.name, *sae_ids, wait_s=LIMIT_S, **planned)
    print(report)
    blocked = report.problems if is_study else report.problems_of_notebooks
    if blocked:
        return 3
    from saework.reproduction.run import reproduce

    out = arguments.out or Path(f"saework-{name}")
    arguments.kept = f"what was finished is in {out}; the same command runs the notebooks again"
    parameters = _train(name, out, report.plan.device) if is_study else {}
    parameters |= {
        word.upper(): planned[word] for word in ("device", "dtype") if planned[word] is not None
    }
    try:
        with forced(arguments.force):
            ledger = reproduce(
                name,
                out,
                parameters=parameters,
                plans={} if is_study else report.notebook_plans,
                left_out=() if is_study else report.too_large,
            )
    except RuntimeError as error:
        say(f"saework: {error}")
        return 1
    packs = "" if is_study else ", with a replay pack beside each notebook"
    table = ledger.text(verbose=arguments.verbose)
    print(f"\n{table}\n\nStart with {out / 'index.html'}: notebooks, pages, ledger.json{packs}")
    is_whole = is_study or not report.too_large
    return ledger.exit_code or (0 if is_whole else 3)


def _train(name: str, out: Path, device: str) -> dict[str, str]:
    """Train a study, or resume it; returns the notebook's parameter for it.

    A study that only reads figures trains nothing.
    """
    from saework.studies.feature_ordering.study import SETTINGS, study

    if name not in SETTINGS:
        return {}
    folder = (out / "study").resolve()
    print(f"training into {folder}; if it is interrupted, run the command again to resume it")
    study(SETTINGS[name], folder, device=device)
    return {"STUDY": str(folder)}


def _add_page(commands: Commands) -> None:
    command = commands.add_parser("page", help="write a page about each feature, and an index")
    command.add_argument("name", metavar="NAME", help="a release, such as gelu-1l-mini")
    command.add_argument(
        "features", metavar="FEATURE", nargs="+", help="numbers and ranges, such as 7 or 0-999"
    )
    command.add_argument(
        "--id",
        dest="sae_id",
        metavar="ID",
        help="an SAE, such as run1; the release's first if left out",
    )
    command.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="how many tokens to scan; all of the release's if left out",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the pages (saework-pages-NAME if left out)",
    )
    command.add_argument(
        "--note", metavar="TEXT", help="your own words, at the top of each of these pages"
    )
    command.set_defaults(run=_page)


def _page(arguments: argparse.Namespace) -> int:
    from saework.core.files import check_own_page
    from saework.core.folders import make_folder
    from saework.core.typed import feature_numbers
    from saework.loading.catalogue import release_named

    features = feature_numbers(arguments.features)
    release_named(arguments.name)  # a typo is told before the slow imports
    out = arguments.out or Path(f"saework-pages-{arguments.name}")
    make_folder(out)
    check_own_page(out / "index.html")
    print(f"loading {arguments.name}", flush=True)
    from saework.loading.workbook import load
    from saework.views.feature_page.write import check_notes, feature_pages, write_pages

    if arguments.note is None:
        check_notes(out, features)
    book = load(arguments.name, arguments.sae_id, n_tokens=arguments.tokens)
    other_id = book.release.another_run(book.sae_id) if book.release else None
    other = book.with_sae(other_id) if other_id else None
    written = feature_pages(book, features, other=other, note=arguments.note or "")
    index = write_pages(written, out, command=_page_command(arguments))
    pages = "page" if len(features) == 1 else "pages"
    print(f"{len(features)} {pages} written; start with {index}")
    return 0


def _page_command(arguments: argparse.Namespace) -> str:
    """The command as it was typed, without the folder and the note, which stands on the page."""
    words = ["saework", "page", arguments.name, *arguments.features]
    if arguments.sae_id is not None:
        words += ["--id", arguments.sae_id]
    if arguments.tokens is not None:
        words += ["--tokens", str(arguments.tokens)]
    return shlex.join(words)


def _add_replay(commands: Commands) -> None:
    command = commands.add_parser(
        "replay", help="run a notebook again from its replay pack, without its model"
    )
    command.add_argument(
        "pack",
        metavar="PACK",
        type=Path,
        help="the .safetensors file that reproduce wrote beside the notebook",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("saework-replay"),
        help="folder for the results (saework-replay if left out)",
    )
    command.set_defaults(run=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    from saework.reproduction.run import rerun

    try:
        notebook = rerun(arguments.pack, arguments.out)
    except RuntimeError as error:
        say(f"saework: {error}")
        return 1
    print(f"{notebook} is ready, without a model: jupyter lab {notebook}")
    return 0


def _add_notebooks(commands: Commands) -> None:
    command = commands.add_parser("notebooks", help="copy the notebooks to a folder")
    command.add_argument("folder", metavar="DIR", type=Path)
    command.set_defaults(run=_notebooks)


def _notebooks(arguments: argparse.Namespace) -> int:
    from saework.reproduction.run import copy_notebooks

    folder = arguments.folder
    copied = copy_notebooks(folder)
    print(f"{len(copied)} notebooks copied to {folder}; open them with: jupyter lab {folder}")
    return 0


def _add_record(commands: Commands) -> None:
    command = commands.add_parser(
        "record", help="for developers: execute the repository's notebooks in place"
    )
    command.add_argument(
        "names",
        metavar="NOTEBOOK",
        nargs="*",
        help="such as 00_start_here; all if left out",
    )
    command.add_argument(
        "--setup-only",
        action="store_true",
        help="write the badges and the cells that install saework; nothing is executed",
    )
    command.set_defaults(run=_record)


def _record(arguments: argparse.Namespace) -> int:
    from saework.core.errors import unknown
    from saework.reproduction.colab import origin_of
    from saework.reproduction.record import record, set_up
    from saework.reproduction.run import notebook_folder

    folder = notebook_folder()
    if not (folder.parent / "pyproject.toml").exists():
        raise ValueError(
            f"{folder} is not in the repository; run this in an editable install of a checkout"
        )
    paths = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    for name in arguments.names:
        if name not in paths:
            raise unknown("notebook", name, paths, see=f"There are {', '.join(paths)}.")
    origin = origin_of(folder.parent)
    if origin.repository is None:
        print("no project.urls.Repository in pyproject.toml, so no Colab badges", file=sys.stderr)
    write = set_up if arguments.setup_only else record
    for name, path in paths.items():
        if not arguments.names or name in arguments.names:
            print(path.name)
            write(path, origin=origin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
