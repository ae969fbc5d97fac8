"""A Hugging Face Hub on loopback, and files of the exact published layouts at any size.

The Hub serves folders over HTTP, writes down what it was asked for, and can be told to misbehave
(gated, missing, cut short, a token refused). Its clients run in processes of their own, since
huggingface_hub reads its environment when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "saework" / "data" / "gelu-1l-mini" / "tokenizer"
PARQUET = "data/train-00000-of-00001-97684e149eb4d6aa.parquet"
MODEL, TOKENIZER_REPO = "NeelNanda/GELU_1L512W_C4_Code", "NeelNanda/gpt-neox-tokenizer-digits"
SAE, TEXT = "NeelNanda/sparse_autoencoder", "NeelNanda/c4-code-20k"
# On purpose not read from saework.loading.catalogue:
MODEL_COMMIT = "bddc0e332f0ae84279e6a6a45d91b314899e1603"
TOKENIZER_COMMIT = "0f6671571a20be9756b9991d978047c03b75e749"
SAE_COMMIT, TEXT_COMMIT = "5" * 40, "7" * 40

TRIED = """
import traceback, warnings

def tried(call, *arguments, **keywords):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            done = {"value": call(*arguments, **keywords)}
        except Exception as error:
            words = {"text": str(error), "traceback": traceback.format_exc()}
            done = {"error": type(error).__name__, **words}
    return done | {"warnings": [str(w.message) for w in caught if w.category is UserWarning]}

"""
# For clients: what a call gave, or how it failed, and its warnings.


@dataclass
class Served:
    """One repository, and how it misbehaves."""

    folder: Path
    commits: tuple[str, ...]
    """Revisions that exist; the first is ``main``. All have the same files."""
    branches: dict[str, tuple[str, Path]] = field(default_factory=dict)
    """Other revisions, such as ``refs/convert/parquet``: their commit and their folder."""
    gated: int | None = None
    """401 or 403 to every request for a file."""
    key: str | None = None
    """The token that opens the gate."""
    cut: dict[str, int] = field(default_factory=dict)
    """Files of which only so many bytes come, in a whole answer."""
    drop: dict[str, int] = field(default_factory=dict)
    """Files whose first answer breaks off after so many bytes."""
    ranges: str = "right"
    """How requests for a range are answered: ``right``, ``whole`` (all of the file), ``416``,
    ``short`` (ten bytes fewer), ``shifted`` (the next bytes), ``moved`` (as from another commit),
    ``changed`` (as from another file), ``long`` (ten bytes more than were asked for and are said),
    or ``broken`` (each answer breaks off ten bytes before its end)."""
    locked: tuple[str, ...] = ()
    """Files behind the gate, though the others are open."""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    status: int
    authorized: bool
    size: int = 0
    """Bytes of the answer, as announced."""


class LocalHub:
    """``with LocalHub() as hub: hub.add("owner/name", folder)``, then ``HF_ENDPOINT=hub.url``."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Served] = {}
        self.requests: list[Request] = []
        self.refused: set[str] = set()
        """Tokens that are no longer valid: whatever is asked for with one of them gets a 401."""
        self.is_silent = False
        """Whether questions get no answer, until the Hub is closed."""
        self.waiting: list[str] = []
        """Paths whose questions got none."""
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add(
        self, name: str, folder: Path, *, kind: str = "model", commits=("0" * 40,), **misbehaviour
    ) -> Served:
        served = self.repositories[kind, name] = Served(
            Path(folder), tuple(commits), **misbehaviour
        )
        return served

    def downloads(self) -> list[str]:
        """Paths whose contents were sent, in order."""
        return [
            r.path
            for r in self.requests
            if r.method == "GET" and "/resolve/" in r.path and r.status in (200, 206)
        ]

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: LocalHub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer()

        def do_GET(self):
            self._answer()

        def do_POST(self):
            self._answer()

        def log_message(self, *args):
            pass

        def _token(self) -> str:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

        def _answer(self) -> None:
            if hub.is_silent:
                hub.waiting.append(self.path)
                hub.closing.wait()
                self.close_connection = True
                return
            self.form = parse_qs(
                self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            )
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if self._token() in hub.refused:
                return self._fail(
                    401, None, {"X-Error-Message": "Invalid credentials in Authorization header"}
                )
            if parts == ["api", "whoami-v2"]:
                return (
                    self._json({"type": "user", "name": "someone"})
                    if self._token()
                    else self._fail(401, None)
                )
            if parts[0] == "api":
                return self._api(parts[1].removesuffix("s"), parts[2:])
            kind = "dataset" if parts[0] == "datasets" else "model"
            self._resolve(kind, parts[1:] if kind == "dataset" else parts)

        def _named(self, kind: str, parts: list[str]) -> tuple[str, list[str]]:
            n = 1 if (kind, parts[0]) in hub.repositories else 2  # gpt2 has no owner
            return "/".join(parts[:n]), parts[n:]

        def _api(self, kind: str, parts: list[str]) -> None:
            name, rest = self._named(kind, parts)
            served = self._repository(kind, name)
            if served is None:
                return
            question, *rest = rest or ["revision", "main"]
            if question not in ("revision", "tree", "paths-info"):
                return self._fail(404, "EntryNotFound")
            commit, folder = self._commit(served, rest[0])
            if commit is None:
                return
            if question == "paths-info":
                return self._json(
                    [_entry(folder, name) for name in _files(folder) if name in self.form["paths"]]
                )
            if question == "tree":
                return self._json(
                    [
                        _entry(folder, name)
                        for name in _files(folder)
                        if name.startswith("/".join(rest[1:]))
                    ]
                )
            siblings = [{"rfilename": name} for name in _files(folder)]
            self._json(
                {
                    "id": name,
                    "sha": commit,
                    "siblings": siblings,
                    "private": False,
                    "gated": bool(served.gated),
                }
            )

        def _resolve(self, kind: str, parts: list[str]) -> None:
            repository, (_, revision, *path) = self._named(kind, parts)
            served = self._repository(kind, repository)
            if served is None:
                return
            if served.gated and self._token() != (served.key or object()):
                return self._fail(served.gated, "GatedRepo")
            commit, folder = self._commit(served, revision)
            if commit is None:
                return
            name = "/".join(path)
            if name in served.locked:
                return self._fail(403, "GatedRepo")
            if name not in _files(folder):
                return self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
            self._file(served, folder / name, name, commit)

        def _file(self, served: Served, path: Path, name: str, commit: str) -> None:
            whole = size = path.stat().st_size
            if self.command == "GET":
                size = served.cut.get(name, size)
            wanted = self.headers.get("Range")
            answered = served.ranges if wanted else "right"
            if answered == "416":
                return self._fail(416, None, {"Content-Range": f"bytes */{whole}"})
            if answered == "whole":
                wanted = None
            start, _, end = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
            start, size = int(start), min(size, int(end) + 1) if end else size
            if answered == "shifted":
                start, size = start + 1, size + 1
            if answered == "short":
                size = max(start, size - 10)
            headers = {
                "ETag": f'"{_etag(path)}"' if answered != "changed" else f'"{"a" * 64}"',
                "X-Repo-Commit": commit if answered != "moved" else "b" * 40,
                "Accept-Ranges": "bytes",
                "Content-Length": size - start,
            }
            if answered == "long":
                headers["Content-Length"] += 10
            if wanted:
                headers["Content-Range"] = f"bytes {start}-{size - 1}/{whole}"
            self._head(206 if wanted else 200, headers)
            if self.command == "GET":
                stop = served.drop.pop(name, size)
                if wanted and answered in ("long", "broken"):
                    stop += 10 if answered == "long" else -10
                with path.open("rb") as file:
                    file.seek(start)
                    remaining = stop - start
                    while remaining > 0 and (chunk := file.read(min(1 << 20, remaining))):
                        self.wfile.write(chunk)
                        remaining -= len(chunk)
                self.close_connection = stop < size

        def _repository(self, kind: str, name: str) -> Served | None:
            served = hub.repositories.get((kind, name))
            if served is None:
                self._fail(
                    401, "RepoNotFound"
                )  # the real Hub does not tell a stranger missing from private
            return served

        def _commit(self, served: Served, revision: str) -> tuple[str | None, Path | None]:
            for name, (commit, folder) in served.branches.items():
                if revision in (name, commit):
                    return commit, folder
            if revision == "main" or revision in served.commits:
                return served.commits[0] if revision == "main" else revision, served.folder
            self._fail(404, "RevisionNotFound")
            return None, None

        def _json(self, value) -> None:
            body = json.dumps(value).encode()
            self._head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
            if self.command != "HEAD":
                self.wfile.write(body)

        def _fail(self, status: int, code: str | None, headers: dict | None = None) -> None:
            said = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
            self._head(status, {**said, "Content-Length": 0, **(headers or {})})

        def _head(self, status: int, headers: dict) -> None:
            path, size = unquote(urlsplit(self.path).path), int(headers["Content-Length"])
            hub.requests.append(
                Request(self.command, path, status, "Authorization" in self.headers, size)
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()

    return Handler


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def _etag(path: Path) -> str:
    """Like the Hub's for large files, 64 hex digits, but of the file's name and size: quick."""
    return hashlib.sha256(f"{path} {path.stat().st_size}".encode()).hexdigest()


def _entry(folder: Path, name: str) -> dict:
    path = folder / name
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)[:40]}


def client_environment(
    cache: Path, endpoint: str, *, offline: bool = False, **environment: str
) -> dict[str, str]:
    """This process's environment, with the Hub at ``endpoint`` and an own cache."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
    }
    return {
        **inherited,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        **environment,
    }


def run_client(
    script: str, *, cache: Path, endpoint: str, offline: bool = False, **environment: str
) -> subprocess.CompletedProcess:
    """Run Python code with ``huggingface_hub`` pointed at ``endpoint`` and an own cache."""
    environment = client_environment(cache, endpoint, offline=offline, **environment)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def result_of(script: str, **arguments):
    """What the code handed to ``report(...)``, from its last line."""
    prelude = "import json\ndef report(value): print('\\n' + json.dumps(value))\n"
    done = run_client(prelude + textwrap.dedent(script), **arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@dataclass(frozen=True)
class Sizes:
    """Of a model and its SAEs."""

    d_model: int = 16
    d_mlp: int = 32
    d_head: int = 8
    n_heads: int = 2
    n_ctx: int = 128
    d_vocab: int = 4096
    dict_mult: int = 8

    @property
    def d_sae(self) -> int:
        return self.d_mlp * self.dict_mult


SMALL = Sizes()
REAL = Sizes(d_model=512, d_mlp=2048, d_head=64, n_heads=8, n_ctx=1024, d_vocab=48262)


def model_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of ``model_final.pth``, written out rather than taken from saework."""
    d, m, h, k, v = sizes.d_model, sizes.d_mlp, sizes.n_heads, sizes.d_head, sizes.d_vocab
    return {
        "embed.W_E": (v, d),
        "pos_embed.W_pos": (sizes.n_ctx, d),
        "blocks.0.ln1.w": (d,),
        "blocks.0.ln1.b": (d,),
        "blocks.0.ln2.w": (d,),
        "blocks.0.ln2.b": (d,),
        "blocks.0.attn.W_Q": (h, d, k),
        "blocks.0.attn.W_K": (h, d, k),
        "blocks.0.attn.W_V": (h, d, k),
        "blocks.0.attn.W_O": (h, k, d),
        "blocks.0.attn.b_Q": (h, k),
        "blocks.0.attn.b_K": (h, k),
        "blocks.0.attn.b_V": (h, k),
        "blocks.0.attn.b_O": (d,),
        "blocks.0.mlp.W_in": (d, m),
        "blocks.0.mlp.b_in": (m,),
        "blocks.0.mlp.W_out": (m, d),
        "blocks.0.mlp.b_out": (d,),
        "ln_final.w": (d,),
        "ln_final.b": (d,),
        "unembed.W_U": (d, v),
        "unembed.b_U": (v,),
    }


def model_config(sizes: Sizes) -> dict:
    """``config.json`` of the published model's keys."""
    return {
        "n_layers": 1,
        "d_model": sizes.d_model,
        "d_mlp": sizes.d_mlp,
        "d_head": sizes.d_head,
        "n_heads": sizes.n_heads,
        "n_ctx": sizes.n_ctx,
        "d_vocab": sizes.d_vocab,
        "act_fn": "gelu",
        "attn_only": False,
        "normalization": "LN",
        "shortformer_pos": False,
        "tokenizer_name": TOKENIZER_REPO,
    }


def sae_config(sizes: Sizes, seed: int) -> dict:
    """``25_cfg.json`` with the keys that the published notebook prints."""
    return {
        "batch_size": 4096,
        "beta1": 0.9,
        "beta2": 0.99,
        "buffer_batches": 12288,
        "buffer_mult": 384,
        "buffer_size": 1572864,
        "d_mlp": sizes.d_mlp,
        "dict_mult": sizes.dict_mult,
        "enc_dtype": "fp32",
        "l1_coeff": 0.0003,
        "lr": 0.0001,
        "model_batch_size": 512,
        "num_tokens": 2000000000,
        "seed": seed,
        "seq_len": 128,
    }


def write_model(folder: Path, sizes: Sizes = SMALL, *, seed: int = 0, dtype=None) -> dict:
    """``config.json`` and ``model_final.pth`` with random weights; returns the tensors."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    scale = 0.4 if sizes.d_model < 100 else 0.05
    state = {
        name: torch.empty(shape, dtype=dtype or torch.float32).normal_(
            0, scale, generator=generator
        )
        for name, shape in model_shapes(sizes).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model_config(sizes)))
    torch.save(state, folder / "model_final.pth")
    return state


def write_sae(folder: Path, number: int, sizes: Sizes = SMALL, *, dtype=None) -> dict:
    """``{number}_cfg.json`` and ``{number}.pt`` with random weights; returns the tensors."""
    import torch

    generator = torch.Generator().manual_seed(number)
    shapes = {
        "W_enc": (sizes.d_mlp, sizes.d_sae),
        "W_dec": (sizes.d_sae, sizes.d_mlp),
        "b_enc": (sizes.d_sae,),
        "b_dec": (sizes.d_mlp,),
    }
    state = {
        name: torch.empty(shape, dtype=dtype or torch.float32).normal_(0, 0.1, generator=generator)
        for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}_cfg.json").write_text(json.dumps(sae_config(sizes, seed=number)))
    torch.save(state, folder / f"{number}.pt")
    return state


def documents(n: int = 60) -> list[str]:
    """Texts of uneven length: with tabs, runs of spaces, emoji, and no final newline."""
    text = "import os\n\tdef f(x):\n    return x  # why? don't — naïve 🙂 <b>&amp;</b> 1234 "
    words = text.split(" ")
    texts = []
    for i in range(n):
        chosen = [words[(i * j) % len(words)] for j in range(3 + i % 40)]
        texts.append(" ".join(word + str(i) for word in chosen))
    return texts


def write_text(folder: Path, texts: list[str] | None = None) -> list[str]:
    """The parquet with its ``text`` column, and the README that lies beside it on the Hub."""
    import pyarrow
    import pyarrow.parquet as parquet

    texts = documents() if texts is None else texts
    (folder / PARQUET).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": texts}), folder / PARQUET)
    (folder / "README.md").write_text("---\ndataset_info: {}\n---\n")
    return texts


def write_gelu(
    root: Path, sizes: Sizes = SMALL, *, checkpoints=(25, 47, 12), texts: list[str] | None = None
) -> Path:
    """All four repositories of gelu-1l as folders ``model``, ``tokenizer``, ``sae``, ``text``."""
    write_model(root / "model", sizes)
    shutil.copytree(TOKENIZER, root / "tokenizer")
    for number in checkpoints:
        write_sae(root / "sae", number, sizes)
    write_text(root / "text", texts)
    return root


def serve_gelu(hub: LocalHub, root: Path) -> None:
    """The four repositories under their published names and revisions."""
    hub.add(MODEL, root / "model", commits=("a" * 40, MODEL_COMMIT))  # main has moved on since
    hub.add(TOKENIZER_REPO, root / "tokenizer", commits=("b" * 40, TOKENIZER_COMMIT))
    hub.add(SAE, root / "sae", commits=(SAE_COMMIT,))
    hub.add(TEXT, root / "text", kind="dataset", commits=(TEXT_COMMIT,))


def prepare_cache(cache: Path, root: Path) -> None:
    """A Hub cache of plain files, laid out by hand."""
    layout = {
        "models--" + MODEL.replace("/", "--"): ("model", MODEL_COMMIT),
        "models--" + TOKENIZER_REPO.replace("/", "--"): ("tokenizer", TOKENIZER_COMMIT),
        "models--" + SAE.replace("/", "--"): ("sae", SAE_COMMIT),
        "datasets--" + TEXT.replace("/", "--"): ("text", TEXT_COMMIT),
    }
    for name, (part, commit) in layout.items():
        shutil.copytree(root / part, cache / "hub" / name / "snapshots" / commit)
        (cache / "hub" / name / "refs").mkdir()
        (cache / "hub" / name / "refs" / "main").write_text(commit)


GEMMA_SCOPE, JBLOOM, QRESEARCH = (
    "google/gemma-scope-2b-pt-res",
    "jbloom/Gemma-2b-Residual-Stream-SAEs",
    "qresearch/Llama-3.2-1B-Instruct-SAE-l9",
)
GEMMA_SCOPE_ID = "layer_0/width_16k/average_l0_105"
QRESEARCH_FILE = "Llama-3.2-1B-Instruct-SAE-l9.pt"


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int, *, scale: float = 0.1) -> dict:
    """Normal float32 tensors; a large one repeats its first million values, which is quick."""
    import torch

    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        n = torch.Size(shape).numel()
        block = torch.empty(min(n, 1_000_003)).normal_(0, scale, generator=generator)
        return block.repeat(-(-n // len(block)))[:n].reshape(shape)

    return {name: draw(shape) for name, shape in shapes.items()}


def sae_tensors(d_in: int, d_sae: int, seed: int = 0, *, threshold: bool = False) -> dict:
    """``W_enc``, ``W_dec``, ``b_enc``, ``b_dec``; activations are near 1 for inputs near 1."""
    state = random_tensors(
        {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,)}, seed
    )
    state["W_enc"].mul_(10 / d_in**0.5)
    if threshold:
        state["threshold"] = random_tensors({"threshold": (d_sae,)}, seed + 1, scale=0.5)[
            "threshold"
        ].abs()
    return state


def write_gemma_scope(
    root: Path,
    path: str = GEMMA_SCOPE_ID,
    *,
    d_in: int,
    d_sae: int,
    seed: int = 0,
    state: dict | None = None,
) -> dict:
    """``{path}/params.npz``: five float32 arrays. Returns them as tensors."""
    import numpy as np

    state = state or sae_tensors(d_in, d_sae, seed, threshold=True)
    (root / path).mkdir(parents=True, exist_ok=True)
    np.savez(root / path / "params.npz", **{name: value.numpy() for name, value in state.items()})
    return state


def legacy_sae_lens_config(hook: str, d_in: int, d_sae: int, **changes) -> dict:
    """A ``cfg.json`` of spring 2024.

    It has the old names (``hook_point``), CUDA, training's own keys, no architecture, no version.
    """
    return {
        "model_name": "gemma-2b",
        "hook_point": hook,
        "hook_point_layer": int(hook.split(".")[1]),
        "hook_point_head_index": None,
        "dataset_path": "HuggingFaceFW/fineweb",
        "is_dataset_tokenized": False,
        "context_size": 1024,
        "use_cached_activations": False,
        "cached_activations_path": None,
        "d_in": d_in,
        "n_batches_in_buffer": 16,
        "total_training_tokens": 614400000,
        "store_batch_size": 4,
        "device": "cuda",
        "seed": 42,
        "dtype": "torch.float32",
        "b_dec_init_method": "zeros",
        "expansion_factor": 8,
        "from_pretrained_path": None,
        "l1_coefficient": 5,
        "lp_norm": 1,
        "lr": 0.0004,
        "lr_scheduler_name": "constant",
        "use_ghost_grads": False,
        "d_sae": d_sae,
        "tokens_per_buffer": 67108864,
        **changes,
    }


def write_jbloom(
    folder: Path,
    hook: str,
    *,
    d_in: int,
    d_sae: int,
    seed: int = 0,
    state: dict | None = None,
    **changes,
) -> dict:
    """``cfg.json``, ``sae_weights.safetensors``, ``sparsity.safetensors``.

    The weights have the ``scaling_factor`` of ones that is in older files.
    """
    import torch
    from safetensors.torch import save_file

    state = state or sae_tensors(d_in, d_sae, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(
        json.dumps(legacy_sae_lens_config(hook, d_in, d_sae, **changes))
    )
    save_file(state | {"scaling_factor": torch.ones(d_sae)}, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.full((d_sae,), -2.0)}, folder / "sparsity.safetensors")
    return state


def write_qresearch(
    root: Path,
    name: str = QRESEARCH_FILE,
    *,
    d_in: int,
    d_sae: int,
    seed: int = 0,
    state: dict | None = None,
) -> dict:
    """Two linear layers, as ``torch.save`` of their state dict.

    Returns: ``W_enc``, ``W_dec``, ``b_enc``, ``b_dec``.
    """
    import torch

    state = state or sae_tensors(d_in, d_sae, seed)
    root.mkdir(parents=True, exist_ok=True)
    layers = {
        "encoder.weight": state["W_enc"].T,
        "encoder.bias": state["b_enc"],
        "decoder.weight": state["W_dec"].T,
        "decoder.bias": state["b_dec"],
    }
    torch.save({key: value.contiguous() for key, value in layers.items()}, root / name)
    return state


SPECIAL = {
    "gemma": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "llama": {
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
    },
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"},
}
LLAMA_TEMPLATE = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}"
    "{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n"
    "Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim }}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{%- endif %}"
)
"""Llama 3.2's, without its tools: a system header with today's date unless one is given."""


def write_byte_level_tokenizer(folder: Path, family: str, *, n_tokens: int = 320) -> int:
    """A tokenizer in the very files that GPT-2 or Qwen publish; returns the id of its last token.

    Neither has a ``special_tokens_map.json``. GPT-2's ``tokenizer_config.json`` names no special
    token, and Qwen's says that there is no BOS. The last token is ``<|endoftext|>``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens - 1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents(), trainer)
    end, end_id = "<|endoftext|>", tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([end])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_text()) | {end: end_id}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    stored = json.loads(tokenizer.to_str())
    stored["model"]["vocab"] = vocabulary
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    qwen = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": end,
        "pad_token": end,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    config = {"gpt2": {"model_max_length": 1024}, "qwen2": qwen}[family]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = {"bos_token_id": end_id, "eos_token_id": end_id}
    (folder / "generation_config.json").write_text(json.dumps(ids))
    return end_id


def hf_config(
    architecture: str, *, d_model: int = 32, n_layers: int = 2, real: bool = False, **changes
):
    """A transformers config of Gemma 1 to 3, Llama 3.2, Qwen 2 or 3, or GPT-2.

    ``real`` takes the published model's other widths.
    """
    import transformers

    small = dict(
        intermediate_size=2 * d_model, num_attention_heads=2, num_key_value_heads=1, head_dim=16
    )
    published = {
        "gemma2": dict(
            intermediate_size=9216, num_attention_heads=8, num_key_value_heads=4, head_dim=256
        ),
        "gemma": dict(
            intermediate_size=16384, num_attention_heads=8, num_key_value_heads=1, head_dim=256
        ),
        "llama": dict(
            intermediate_size=8192, num_attention_heads=32, num_key_value_heads=8, head_dim=64
        ),
        "gemma3": dict(
            intermediate_size=2048, num_attention_heads=4, num_key_value_heads=1, head_dim=256
        ),
    }
    if architecture == "gpt2":
        return transformers.GPT2Config(
            n_layer=n_layers,
            n_embd=d_model,
            n_positions=1024,
            **{"n_head": 2, "vocab_size": 4096, "bos_token_id": 1, "eos_token_id": 0} | changes,
        )
    cls = {
        "gemma2": transformers.Gemma2Config,
        "gemma": transformers.GemmaConfig,
        "llama": transformers.LlamaConfig,
        "gemma3": transformers.Gemma3TextConfig,
        "qwen2": transformers.Qwen2Config,
        "qwen3": transformers.Qwen3Config,
    }[architecture]
    common = dict(
        hidden_size=d_model,
        num_hidden_layers=n_layers,
        vocab_size=4096,
        max_position_embeddings=2048,
    )
    common |= dict(bos_token_id=1, eos_token_id=0, pad_token_id=2, tie_word_embeddings=True)
    return cls(**common | (published[architecture] if real else small) | changes)


def write_hf_model(folder: Path, config, *, seed: int = 0, shards: int = 1, dtype=None) -> None:
    """``config.json`` and the model's safetensors with random weights.

    With ``shards`` above 1 there are several files, and their index.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = "lm_head.weight" if config.tie_word_embeddings else None
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters() if name != tied}
    state = {
        name: value.to(dtype or torch.float32)
        for name, value in random_tensors(shapes, seed, scale=1 / config.hidden_size**0.5).items()
    }
    config.architectures, config.dtype = [type(model).__name__], dtype or torch.float32
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    names = (
        [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
        if shards > 1
        else ["model.safetensors"]
    )
    where = {key: names[i * shards // len(state)] for i, key in enumerate(state)}
    for name in names:
        save_file(
            {key: value for key, value in state.items() if where[key] == name},
            folder / name,
            metadata={"format": "pt"},
        )
    if shards > 1:
        index = {
            "metadata": {"total_size": sum(value.nbytes for value in state.values())},
            "weight_map": where,
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_hf_tokenizer(folder: Path, family: str, *, template: str | None = None) -> None:
    """The mini's tokenizer, with the special tokens and the files of Gemma, Llama or GPT-2."""
    names = SPECIAL[family]
    text = (TOKENIZER / "tokenizer.json").read_text(encoding="utf-8")
    for old, kind in (("<|BOS|>", "bos_token"), ("<|EOS|>", "eos_token"), ("<|PAD|>", "pad_token")):
        text = text.replace(json.dumps(old)[1:-1], names[kind])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")

    def as_stored(name: str) -> dict:
        switches = ("lstrip", "normalized", "rstrip", "single_word")
        return {"content": name} | dict.fromkeys(switches, False)

    stored = {kind: as_stored(name) for kind, name in names.items()}
    (folder / "special_tokens_map.json").write_text(
        json.dumps(stored | {"additional_special_tokens": [as_stored(names["pad_token"])]})
    )
    config = {
        "tokenizer_class": {
            "gemma": "GemmaTokenizer",
            "llama": "PreTrainedTokenizerFast",
            "gpt2": "GPT2Tokenizer",
        }[family],
        **names,
    }
    config |= {
        "added_tokens_decoder": {
            str(i): as_stored(names[kind]) | {"special": True}
            for i, kind in enumerate(("eos_token", "bos_token", "pad_token"))
        }
    }
    config |= {"additional_special_tokens": [names["pad_token"]], "model_max_length": 131072}
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
