"""A Hugging Face Hub on loopback, and files of the exact layout of gelu-1l at any size.

The Hub serves folders over HTTP, writes down what it was asked for, and can be told to misbehave
(gated, missing, cut short). Its clients run in processes of their own, since huggingface_hub reads
its environment when it is imported.
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
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "saework" / "data" / "gelu-1l-mini" / "tokenizer"
PARQUET = "data/train-00000-of-00001-97684e149eb4d6aa.parquet"
MODEL, TOKENIZER_REPO = "NeelNanda/GELU_1L512W_C4_Code", "NeelNanda/gpt-neox-tokenizer-digits"
SAE, TEXT = "NeelNanda/sparse_autoencoder", "NeelNanda/c4-code-20k"
# As in ../shared/facts.md, and on purpose not read from saework.catalogue:
MODEL_COMMIT, TOKENIZER_COMMIT = "bddc0e332f0ae84279e6a6a45d91b314899e1603", "0f6671571a20be9756b9991d978047c03b75e749"
SAE_COMMIT, TEXT_COMMIT = "5" * 40, "7" * 40


# ---- the Hub ----


@dataclass
class Served:
    """One repository, and how it misbehaves."""

    folder: Path
    commits: tuple[str, ...]
    """Revisions that exist; the first is ``main``. All have the same files."""
    gated: int | None = None
    """401 or 403 to every request for a file."""
    cut: dict[str, int] = field(default_factory=dict)
    """Files of which only so many bytes come, in a whole answer."""
    drop: dict[str, int] = field(default_factory=dict)
    """Files whose first answer breaks off after so many bytes."""


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    status: int
    authorized: bool


class LocalHub:
    """``with LocalHub() as hub: hub.add("owner/name", folder)``, then ``HF_ENDPOINT=hub.url``."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Served] = {}
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add(self, name: str, folder: Path, *, kind: str = "model", commits=("0" * 40,), **misbehaviour) -> Served:
        served = self.repositories[kind, name] = Served(Path(folder), tuple(commits), **misbehaviour)
        return served

    def downloads(self) -> list[str]:
        """Paths whose contents were sent, in order."""
        return [r.path for r in self.requests if r.method == "GET" and "/resolve/" in r.path and r.status in (200, 206)]

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: LocalHub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer()

        def do_GET(self):
            self._answer()

        def log_message(self, *args):
            pass

        def _answer(self) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
            if parts[0] == "api":
                self._api(parts[1].removesuffix("s"), parts[2:])
            else:
                kind = "dataset" if parts[0] == "datasets" else "model"
                self._resolve(kind, parts[1:] if kind == "dataset" else parts)

        def _api(self, kind: str, parts: list[str]) -> None:
            served = self._repository(kind, "/".join(parts[:2]))
            if served is None:
                return
            question, *rest = parts[2:] or ["revision", "main"]
            if question not in ("revision", "tree"):
                return self._fail(404, "EntryNotFound")
            commit = self._commit(served, rest[0])
            if commit is None:
                return
            if question == "tree":
                return self._json([_entry(served, name) for name in _files(served) if name.startswith("/".join(rest[1:]))])
            siblings = [{"rfilename": name} for name in _files(served)]
            self._json({"id": "/".join(parts[:2]), "sha": commit, "siblings": siblings, "private": False, "gated": bool(served.gated)})

        def _resolve(self, kind: str, parts: list[str]) -> None:
            served = self._repository(kind, "/".join(parts[:2]))
            if served is None:
                return
            if served.gated:
                return self._fail(served.gated, "GatedRepo")
            commit = self._commit(served, parts[3])
            if commit is None:
                return
            name = "/".join(parts[4:])
            if name not in _files(served):
                return self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
            self._file(served, name, commit)

        def _file(self, served: Served, name: str, commit: str) -> None:
            path = served.folder / name
            whole = size = path.stat().st_size
            if self.command == "GET":
                size = served.cut.get(name, size)
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            headers = {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes", "Content-Length": size - start}
            if "Range" in self.headers:
                headers["Content-Range"] = f"bytes {start}-{size - 1}/{whole}"
            self._head(206 if "Range" in self.headers else 200, headers)
            if self.command == "GET":
                stop = served.drop.pop(name, size)
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
                self._fail(401, "RepoNotFound")  # the real Hub does not tell a stranger missing from private
            return served

        def _commit(self, served: Served, revision: str) -> str | None:
            if revision == "main":
                return served.commits[0]
            if revision not in served.commits:
                self._fail(404, "RevisionNotFound")
                return None
            return revision

        def _json(self, value) -> None:
            body = json.dumps(value).encode()
            self._head(200, {"Content-Type": "application/json", "Content-Length": len(body)})
            if self.command == "GET":
                self.wfile.write(body)

        def _fail(self, status: int, code: str, headers: dict | None = None) -> None:
            self._head(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": 0, **(headers or {})})

        def _head(self, status: int, headers: dict) -> None:
            hub.requests.append(Request(self.command, unquote(urlsplit(self.path).path), status, "Authorization" in self.headers))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, str(value))
            self.end_headers()

    return Handler


def _files(served: Served) -> list[str]:
    return sorted(path.relative_to(served.folder).as_posix() for path in served.folder.rglob("*") if path.is_file())


def _etag(path: Path) -> str:
    """Like the Hub's for large files, 64 hex digits, but of the file's name and size: quick."""
    return hashlib.sha256(f"{path} {path.stat().st_size}".encode()).hexdigest()


def _entry(served: Served, name: str) -> dict:
    path = served.folder / name
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)[:40]}


# ---- a client in a process of its own ----


def run_client(script: str, *, cache: Path, endpoint: str, offline: bool = False, **environment: str) -> subprocess.CompletedProcess:
    """Run Python code with ``huggingface_hub`` pointed at ``endpoint`` and an own cache."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
    environment = {
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
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=300
    )


def result_of(script: str, **arguments):
    """What the code handed to ``report(...)``, from its last line."""
    prelude = "import json\ndef report(value): print('\\n' + json.dumps(value))\n"
    done = run_client(prelude + textwrap.dedent(script), **arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- files of the published layout ----


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
    """Keys and shapes of ``model_final.pth``, written out from facts.md rather than taken from saework."""
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
        name: torch.empty(shape, dtype=dtype or torch.float32).normal_(0, scale, generator=generator)
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
    shapes = {"W_enc": (sizes.d_mlp, sizes.d_sae), "W_dec": (sizes.d_sae, sizes.d_mlp), "b_enc": (sizes.d_sae,), "b_dec": (sizes.d_mlp,)}
    state = {
        name: torch.empty(shape, dtype=dtype or torch.float32).normal_(0, 0.1, generator=generator) for name, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}_cfg.json").write_text(json.dumps(sae_config(sizes, seed=number)))
    torch.save(state, folder / f"{number}.pt")
    return state


def documents(n: int = 60) -> list[str]:
    """Texts of uneven length, with what tokenizers stumble over: tabs, runs of spaces, emoji, no final newline."""
    words = "import os\n\tdef f(x):\n    return x  # why? don't — naïve 🙂 <b>&amp;</b> 1234 ".split(" ")
    return [" ".join(words[(i * j) % len(words)] + str(i) for j in range(3 + i % 40)) for i in range(n)]


def write_text(folder: Path, texts: list[str] | None = None) -> list[str]:
    """The parquet with its ``text`` column, and the README that lies beside it on the Hub."""
    import pyarrow
    import pyarrow.parquet as parquet

    texts = documents() if texts is None else texts
    (folder / PARQUET).parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"text": texts}), folder / PARQUET)
    (folder / "README.md").write_text("---\ndataset_info: {}\n---\n")
    return texts


def write_gelu(root: Path, sizes: Sizes = SMALL, *, checkpoints=(25, 47, 12)) -> Path:
    """All four repositories of gelu-1l as folders ``model``, ``tokenizer``, ``sae``, ``text``."""
    write_model(root / "model", sizes)
    shutil.copytree(TOKENIZER, root / "tokenizer")
    for number in checkpoints:
        write_sae(root / "sae", number, sizes)
    write_text(root / "text")
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
