"""``saework``: list what there is, ask what it needs, run it, copy the notebooks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns the exit code.

    ``reproduce`` exits 0 if every claim of the release held, 1 if one failed or a notebook broke,
    and 3 if one could not be run. A mistake in what was typed exits 2.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"saework: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="saework", description="Published SAE analyses, reproduced in notebooks."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="the releases: model, hook, licence, size")
    command.set_defaults(run=_list)

    command = commands.add_parser(
        "preflight", help="what a release needs, and whether it can be had here"
    )
    command.add_argument("name", metavar="NAME")
    command.add_argument(
        "sae_id", metavar="ID", nargs="?", help="such as run1; the release's first by default"
    )
    command.set_defaults(run=_preflight)

    command = commands.add_parser(
        "reproduce", help="run a release's notebooks; write them, HTML pages and the ledger"
    )
    command.add_argument("name", metavar="NAME")
    command.add_argument(
        "--out", type=Path, help="folder for the results (by default saework-NAME)"
    )
    command.set_defaults(run=_reproduce)

    command = commands.add_parser(
        "page", help="write a page about each of some features, and an index"
    )
    command.add_argument("name", metavar="NAME")
    command.add_argument(
        "features", metavar="FEATURE", nargs="+", help="numbers and ranges: 7 or 0-999"
    )
    command.add_argument(
        "--id", dest="sae_id", help="the SAE, such as run1; the release's first by default"
    )
    command.add_argument("--tokens", type=int, metavar="N", help="scan so many tokens only")
    command.add_argument(
        "--out", type=Path, help="folder for the pages (by default saework-pages-NAME)"
    )
    command.set_defaults(run=_page)

    command = commands.add_parser(
        "replay", help="run a notebook again from what reproduce kept of it, without its model"
    )
    command.add_argument(
        "pack",
        metavar="PACK",
        type=Path,
        help="a .safetensors file that reproduce wrote beside the notebook",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("saework-replay"),
        help="folder for the results (by default saework-replay)",
    )
    command.set_defaults(run=_replay)

    command = commands.add_parser("notebooks", help="copy the notebooks to a folder")
    command.add_argument("folder", metavar="DIR", type=Path)
    command.set_defaults(run=_notebooks)

    command = commands.add_parser(
        "record", help="for developers: execute the repository's notebooks in place"
    )
    command.add_argument(
        "names",
        metavar="NOTEBOOK",
        nargs="*",
        help="such as 01_gelu_1l_reconstruction; all by default",
    )
    command.set_defaults(run=_record)
    return parser


def _list(arguments) -> int:
    from saework.loading.catalogue import releases

    print(releases().T.to_string())
    return 0


def _preflight(arguments) -> int:
    from saework.loading.requirements import preflight

    report = preflight(arguments.name, arguments.sae_id)
    print(report)
    return 0 if report.ok else 3


def _reproduce(arguments) -> int:
    from saework.loading.catalogue import STUDIES, release_named
    from saework.loading.requirements import preflight
    from saework.reproduction.run import reproduce

    study = arguments.name in STUDIES
    release = release_named(STUDIES.get(arguments.name, arguments.name))
    report = preflight(
        release.name, *([None] if study else release.shown)
    )  # the notebooks read all of them
    print(report)
    if not report.ok:
        return 3
    out = arguments.out or Path(f"saework-{arguments.name}")
    try:
        ledger = reproduce(
            arguments.name, out, parameters=_train(arguments.name, out) if study else None
        )
    except RuntimeError as error:
        print(f"saework: {error}", file=sys.stderr)
        return 1
    packs = "" if study else ", with a replay pack beside each notebook"
    print(f"\n{ledger}\n\nNotebooks, pages and ledger.json are in {out}{packs}")
    return ledger.exit_code


def _train(name: str, out: Path) -> dict:
    """Train a study, or go on with one; returns the notebook's parameter for it. (One that only reads figures trains nothing.)"""
    import torch

    from saework.studies.feature_ordering.study import SETTINGS, study

    if name not in SETTINGS:
        return {}
    folder = (out / "study").resolve()
    print(
        f"training into {folder}; run the command again if it is cut off, and it goes on from there"
    )
    study(SETTINGS[name], folder, device="cuda" if torch.cuda.is_available() else "cpu")
    return {"STUDY": str(folder)}


def _page(arguments) -> int:
    from saework.loading.catalogue import another_run
    from saework.loading.workbook import load
    from saework.views.feature_page.write import feature_pages, write_pages

    features = _numbers(arguments.features)
    book = load(arguments.name, arguments.sae_id, n_tokens=arguments.tokens)
    other = another_run(book.release, book.sae_id)
    out = arguments.out or Path(f"saework-pages-{arguments.name}")
    index = write_pages(
        feature_pages(book, features, other=book.with_sae(other) if other else None), out
    )
    print(f"{len(features)} page{'s' if len(features) > 1 else ''} written; start with {index}")
    return 0


def _numbers(words: list[str]) -> list[int]:
    """Features as they are typed: ``["7", "0-2"]`` is 7, 0, 1, 2; each once."""
    numbers = []
    for word in words:
        first, dash, last = word.partition("-")
        typed = first + last if dash and last else word
        if not (first and typed.isascii() and typed.isdigit()) or int(last or first) < int(first):
            raise ValueError(
                f"{word!r} is no feature; give a number such as 7, or a range such as 0-999"
            )
        numbers += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(numbers))


def _replay(arguments) -> int:
    from saework.reproduction.run import rerun

    try:
        notebook = rerun(arguments.pack, arguments.out)
    except RuntimeError as error:
        print(f"saework: {error}", file=sys.stderr)
        return 1
    print(f"{notebook} is ready, without a model: jupyter lab {notebook}")
    return 0


def _notebooks(arguments) -> int:
    from saework.reproduction.run import copy_notebooks

    copied = copy_notebooks(arguments.folder)
    print(
        f"{len(copied)} notebooks copied to {arguments.folder}; open them with: jupyter lab {arguments.folder}"
    )
    return 0


def _record(arguments) -> int:
    from saework.reproduction.record import record, repository_address
    from saework.reproduction.run import notebook_folder

    folder = notebook_folder()
    if not (folder.parent / "pyproject.toml").exists():
        raise ValueError(
            f"{folder} is not in the repository; run this in an editable install of a checkout"
        )
    repository = repository_address(folder.parent)
    if repository is None:
        print("no project.urls.Repository in pyproject.toml, so no Colab badges", file=sys.stderr)
    for path in sorted(folder.glob("*.ipynb")):
        if not arguments.names or path.stem in arguments.names:
            print(path.name)
            record(path, repository=repository)
    return 0


if __name__ == "__main__":
    sys.exit(main())
