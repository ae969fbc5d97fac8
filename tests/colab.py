"""The notebooks' install cell beside Colab's own versions, with numpy and torch already imported.

    python tests/colab.py                           # some minutes, and 5 GB under build/colab
    python tests/colab.py --python /usr/bin/python3.12

It is not part of the test run. It makes an environment with the versions that Colab had in 2026
(from memory; Colab itself cannot be reached from here). In one session there it imports numpy,
torch and pandas, runs the setup cell as if on Colab, and then notebook 00: first with this
checkout's last commit as the repository, and then with a wheel of it, by name, from a folder that
stands for the package index. It fails if numpy or torch were replaced, or if a cell fails. It
prints what else changed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
COLAB = """
numpy==2.0.2 pandas==2.2.2 scipy==1.16.1 scikit-learn==1.6.1 pyarrow==18.1.0 matplotlib==3.10.0
plotly==5.24.1 pillow==11.3.0 psutil==5.9.5 tqdm==4.67.1 requests==2.32.4 ipython==7.34.0
ipykernel==6.17.1 ipywidgets==7.7.1 tornado==6.5.1 nbformat==5.10.4 nbconvert==7.16.6 jinja2==3.1.6
protobuf==5.29.5 datasets==4.0.0 transformers<5 setuptools jedi
""".split()
TORCH = "torch==2.13.0"  # Colab's may be older; this is the one that is available here
SESSION = """
import io, json, sys
from contextlib import redirect_stdout
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions
from importlib.util import module_from_spec
from IPython.core.interactiveshell import InteractiveShell

def installed():
    return {d.metadata["Name"].lower(): d.version for d in distributions()}

def words(name, old, new):
    was_loaded = name.replace("-", "_") in loaded
    return f"  {name} {old} -> {new}" + (" (was loaded)" if was_loaded else "")

def is_code(cell):
    return cell["cell_type"] == "code" and "setup" not in cell["metadata"].get("tags", [])

setup, notebook = sys.argv[1:]
import numpy, torch, pandas
print("session begins: numpy", numpy.__version__, "torch", torch.__version__, flush=True)
before = installed()
loaded = {name.partition(".")[0].lower() for name in sys.modules}
sys.modules["google.colab"] = module_from_spec(ModuleSpec("google.colab", None))
shell = InteractiveShell.instance()
shell.run_cell(setup).raise_error()
after = installed()
changed = {name: old for name, old in before.items() if after.get(name) != old}
n_new = len(after.keys() - before.keys())
print(f"{n_new} packages are new, {len(changed)} were replaced:", flush=True)
for name, old in sorted(changed.items()):
    print(words(name, old, after.get(name)))
assert not {"numpy", "torch"} & changed.keys(), "numpy or torch was replaced"
cells = [cell for cell in json.load(open(notebook))["cells"] if is_code(cell)]
for cell in cells:
    with redirect_stdout(io.StringIO()):
        shell.run_cell("".join(cell["source"])).raise_error()
assert numpy.__version__ == before["numpy"]
assert torch.__version__.partition("+")[0] == before["torch"].partition("+")[0]
print(f"the {len(cells)} cells of the notebook ran in the same session")
print(f"numpy {numpy.__version__} and torch {torch.__version__} are as they were")
"""


def main() -> None:
    """Make the environment, and run the session in it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--python",
        default=shutil.which("python3.12") or sys.executable,
        help="by default 3.12, as Colab's, if it is there",
    )
    parser.add_argument("--find-links", help="a folder of wheels, such as torch's")
    parser.add_argument(
        "--environment",
        type=Path,
        default=ROOT / "build" / "colab",
        help="replaced, unless --keep is given",
    )
    parser.add_argument("--keep", action="store_true", help="use the environment as it is")
    arguments = parser.parse_args()
    links = os.environ.get("PIP_FIND_LINKS", "").split()
    if arguments.find_links:
        links.append(arguments.find_links)
    os.environ["PIP_FIND_LINKS"] = " ".join(links)
    if not arguments.keep:
        shutil.rmtree(arguments.environment, ignore_errors=True)
        subprocess.run([arguments.python, "-m", "venv", arguments.environment], check=True)
        subprocess.run(
            [arguments.environment / "bin" / "pip", "install", "--quiet", *COLAB, TORCH],
            check=True,
        )
    sys.path.insert(0, str(ROOT))
    from saework.reproduction.colab import setup_cell

    notebook = ROOT / "notebooks" / "00_start_here.ipynb"
    python = (arguments.environment / "bin" / "python").absolute()
    index = arguments.environment / "index"
    wheel = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", index, ROOT]
    subprocess.run(wheel, check=True)
    named = os.environ | {"PIP_FIND_LINKS": " ".join([index.as_uri(), *links])}
    for install, environment in ((f"git+{ROOT.as_uri()}", None), ("saework", named)):
        print(f"from {install}:", flush=True)
        subprocess.run(
            [python, "-c", SESSION, setup_cell(notebook.stem, install), notebook],
            cwd=arguments.environment,
            env=environment,
            check=True,
        )
        uninstall = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "saework"]
        subprocess.run(uninstall, check=True)


if __name__ == "__main__":
    main()
