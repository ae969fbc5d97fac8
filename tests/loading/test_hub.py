"""One repository against a Hub on loopback: revisions, gates, broken downloads, no network."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from local_hub import LocalHub, result_of

from saework.core.errors import NotAvailableError
from saework.loading.hub import Repository

PINNED, MAIN = "1" * 40, "2" * 40
SECRET = "hf_thisIsASecretThatNobodyMayRead"
STALE = "hf_thisOneWasTakenBack"
BIG = bytes(range(256)) * 8000  # 2 MB

CLIENT = """
import logging, os, time, traceback, warnings
import huggingface_hub.file_download
from saework.loading.hub import Repository

time.sleep = lambda seconds: None  # the library waits a second before each new try
logging.disable()


def with_token(token, call):
    def run(*arguments):
        before, os.environ["HF_TOKEN"] = os.environ["HF_TOKEN"], token
        try:
            return call(*arguments)
        finally:
            os.environ["HF_TOKEN"] = before

    return run


def tried(call, *arguments, **keywords):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = call(*arguments, **keywords)
            names = (
                sorted(str(p.relative_to(value)) for p in value.rglob("*") if p.is_file())
                if value.is_dir()
                else None
            )
            done = {"value": str(value), "names": names}
        except Exception as error:
            done = {
                "error": type(error).__name__,
                "text": str(error),
                "traceback": traceback.format_exc(),
            }
    return done | {"warnings": [str(w.message) for w in caught if w.category is UserWarning]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    (root / "config.json").write_text('{"a": 1}')
    (root / "big.bin").write_bytes(BIG)
    (root / "data").mkdir()
    for name in ("b", "a"):
        (root / "data" / f"{name}.parquet").write_text(name)
    (root / "README.md").write_text("read me")
    return root


def closed_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture(scope="module")
def session(folder, tmp_path_factory):
    """What one process asks of one Hub; the tests below read the answers."""
    cache = tmp_path_factory.mktemp("cache")
    with LocalHub() as hub:
        hub.refused.add(STALE)
        hub.add("ours/pinned", folder, commits=(MAIN, PINNED))
        hub.add("ours/moved", folder, commits=(MAIN,))
        hub.add("ours/locked401", folder, commits=(MAIN,), gated=401)
        hub.add("ours/locked403", folder, commits=(MAIN,), gated=403)
        hub.add("ours/cut", folder, commits=(MAIN,), cut={"big.bin": 1000, "data/b.parquet": 0})
        hub.add("ours/dropped", folder, commits=(MAIN,), drop={"big.bin": 1_000_000})
        hub.add("ours/set", folder, kind="dataset", commits=(MAIN,))
        answers = result_of(
            CLIENT
            + f"""
pinned = dict(revision={PINNED!r})
locked = lambda status: Repository(f"ours/locked{{status}}", **pinned)
data = Repository("ours/set", kind="dataset")
STALE = {STALE!r}
report({{
    "cached before": Repository("ours/pinned", **pinned).cached("config.json"),
    "pinned": tried(Repository("ours/pinned", **pinned).fetch, "config.json"),
    "cached after": Repository("ours/pinned", **pinned).cached("config.json"),
    "another file": Repository("ours/pinned", **pinned).cached("big.bin"),
    "main": tried(Repository("ours/pinned").fetch, "config.json"),
    "moved": tried(Repository("ours/moved", **pinned).fetch, "config.json"),
    "moved, cached": Repository("ours/moved", **pinned).cached("config.json"),
    "moved, no file": tried(Repository("ours/moved", **pinned).fetch, "99.pt"),
    "no file": tried(Repository("ours/pinned", **pinned).fetch, "99.pt"),
    "missing": tried(Repository("ours/nothing", **pinned).fetch, "config.json"),
    "missing set": tried(
        Repository("ours/nothing", kind="dataset").fetch_folder, ["data/*.parquet"]
    ),
    "401": tried(locked(401).fetch, "config.json"),
    "403": tried(locked(403).fetch, "config.json"),
    "gated set": tried(Repository("ours/locked403").fetch_folder, ["data/*.parquet"]),
    "gate, asked": locked(403).access_problem("big.bin"),
    "pattern, gate, asked": locked(403).access_problem("data/*.parquet"),
    "missing, asked": Repository("ours/nothing").access_problem("config.json"),
    "no file, asked": Repository("ours/pinned", **pinned).access_problem("99.pt"),
    "moved, asked": Repository("ours/moved", **pinned).access_problem("big.bin"),
    "open, asked": Repository("ours/pinned", **pinned).access_problem("big.bin"),
    "pattern without a match, asked": data.access_problem("*.jsonl"),
    "pattern, asked": data.access_problem("data/*.parquet"),
    "refused": tried(with_token(STALE, Repository("ours/pinned").fetch), "README.md"),
    "refused, asked": with_token(STALE, Repository("ours/locked403").access_problem)("big.bin"),
    "refused set": tried(with_token(STALE, data.fetch_folder), ["*.md"]),
    "cut": tried(Repository("ours/cut").fetch, "big.bin"),
    "cut set": tried(Repository("ours/cut").fetch_folder, ["data/*.parquet"]),
    "cut, cached": Repository("ours/cut").cached("big.bin"),
    "dropped": tried(Repository("ours/dropped").fetch, "big.bin"),
    "set before": data.cached("data/*.parquet"),
    "set": tried(data.fetch_folder, ["data/*.parquet"]),
    "set after": data.cached("data/*.parquet"),
    "set, also": tried(data.fetch_folder, ["data/*.parquet"], also=["README.md", "absent.json"]),
    "set, no such": tried(data.fetch_folder, ["*.jsonl"]),
}})
""",
            cache=cache,
            endpoint=hub.url,
            HF_TOKEN=SECRET,
        )
        return answers, hub.requests, cache


def test_pinned_revision_is_what_is_asked_for(session):
    answers, requests, _ = session
    assert PINNED in answers["pinned"]["value"] and not answers["pinned"]["warnings"]
    assert MAIN in answers["main"]["value"]
    asked = {
        r.path
        for r in requests
        if r.path.startswith("/ours/pinned/resolve/") and r.path.endswith("config.json")
    }
    assert asked == {
        f"/ours/pinned/resolve/{PINNED}/config.json",
        "/ours/pinned/resolve/main/config.json",
    }


def test_cached_says_what_is_here(session):
    answers = session[0]
    assert (answers["cached before"], answers["cached after"], answers["another file"]) == (
        False,
        True,
        False,
    )


def test_revision_that_is_gone_takes_main_and_says_so(session):
    answers = session[0]
    assert MAIN in answers["moved"]["value"]
    (text,) = answers["moved"]["warnings"]
    assert PINNED[:8] in text and "ours/moved" in text and "took main" in text
    assert answers["moved, cached"] is True


def test_file_that_does_not_exist(session):
    for case in ("no file", "moved, no file"):
        answer = session[0][case]
        assert (
            answer["error"] == "NotAvailableError" and not answer["warnings"]
        )  # nothing was taken from main
        assert (
            "ours/" in answer["text"]
            and "no file 99.pt" in answer["text"]
            and "check the id" in answer["text"]
        )


def test_missing_repository(session):
    answers = session[0]
    for case, kind in (("missing", "model"), ("missing set", "dataset")):
        assert answers[case]["error"] == "NotAvailableError"
        assert (
            f"no {kind} ours/nothing" in answers[case]["text"]
            and "check the name" in answers[case]["text"]
        )
    assert answers["missing, asked"] == answers["missing"]["text"]


@pytest.mark.parametrize("case", ["401", "403", "gated set"])
def test_gated_repository(session, case):
    answer = session[0][case]
    assert answer["error"] == "NotAvailableError"
    assert (
        "is gated" in answer["text"]
        and "accept its licence" in answer["text"]
        and "HF_TOKEN" in answer["text"]
    )


def test_token_is_sent_but_never_shown(session):
    """Not in any answer, nor in a traceback with its whole chain of causes."""
    answers, requests, _ = session
    assert any(r.authorized for r in requests)
    assert SECRET not in str(answers) and STALE not in str(answers)


def test_a_token_that_the_hub_refuses(session):
    """The Hub then refuses even what everyone may read, so the error must name the token."""
    answers = session[0]
    assert answers["refused"]["error"] == answers["refused set"]["error"] == "NotAvailableError"
    for text in (
        answers["refused"]["text"],
        answers["refused set"]["text"],
        answers["refused, asked"],
    ):
        assert (
            "refuses the token that is set on this machine" in text
            and "make a new one" in text
            and "set HF_TOKEN" in text
        )


@pytest.mark.parametrize("case", ["403", "missing", "no file", "gated set", "cut"])
def test_an_explained_error_spares_its_causes(session, case):
    """Not the forty lines of the libraries below: the error says it all."""
    shown = session[0][case]["traceback"]
    assert shown.count("Traceback (most recent call last)") == 1 and "site-packages" not in shown
    assert len(shown.splitlines()) < 20


def test_access_problem_names_what_a_fetch_would_meet(session):
    answers, requests, _ = session
    assert answers["gate, asked"] == answers["403"]["text"]
    assert answers["pattern, gate, asked"] == answers["403"]["text"]
    assert answers["no file, asked"] == answers["no file"]["text"]
    assert (
        answers["open, asked"] is None
        and answers["pattern, asked"] is None
        and answers["moved, asked"] is None
    )
    assert "no file *.jsonl" in answers["pattern without a match, asked"]
    assert not any(
        r.method == "GET" and r.path.endswith("/big.bin") for r in requests if "pinned" in r.path
    )


@pytest.mark.parametrize("case,file", [("cut", "big.bin"), ("cut set", "data/*.parquet")])
def test_download_that_is_cut_short(session, case, file):
    answer = session[0][case]
    assert answer["error"] == "WeightsError"
    assert (
        file in answer["text"]
        and "ours/cut" in answer["text"]
        and "cut short" in answer["text"]
        and "load again" in answer["text"]
    )


def test_nothing_of_a_cut_download_stays(session):
    answers, _, cache = session
    assert answers["cut, cached"] is False
    assert not list(cache.rglob("*.incomplete"))


def test_connection_that_breaks_off_is_taken_up_again(session):
    answers, requests, _ = session
    with open(answers["dropped"]["value"], "rb") as file:
        assert file.read() == BIG
    assert (
        len(
            [
                r
                for r in requests
                if r.method == "GET" and r.path == "/ours/dropped/resolve/main/big.bin"
            ]
        )
        == 2
    )


def test_folder_holds_what_matches_and_what_else_exists(session):
    answers, requests, _ = session
    assert answers["set"]["names"] == ["data/a.parquet", "data/b.parquet"]
    assert answers["set, also"]["names"] == ["README.md", "data/a.parquet", "data/b.parquet"]
    assert not any(
        r.method == "GET" and "ours/set/resolve" in r.path and r.path.endswith("big.bin")
        for r in requests
    )
    assert (answers["set before"], answers["set after"]) == (False, True)


def test_pattern_without_a_match(session):
    answer = session[0]["set, no such"]
    assert answer["error"] == "NotAvailableError" and "ours/set holds no *.jsonl" in answer["text"]


def test_without_network(session, tmp_path):
    """What is cached is used, even main in place of the pin; other files give a clear error."""
    script = (
        CLIENT
        + f"""
old = Repository("ours/pinned", revision={PINNED!r})
moved = Repository("ours/moved", revision={PINNED!r})
data = Repository("ours/set", kind="dataset")
report({{
    "pinned": tried(old.fetch, "config.json"), "moved": tried(moved.fetch, "config.json"),
    "set": tried(data.fetch_folder, ["data/*.parquet"]),
    "set cached": data.cached("data/*.parquet"),
    "absent": tried(old.fetch, "big.bin"),
    "absent set": tried(Repository("ours/x", kind="dataset").fetch_folder, ["data/*.parquet"]),
    "asked": old.access_problem("big.bin"),
}})
"""
    )
    answers, _, cache = session
    for offline in (True, False):
        found = result_of(script, cache=cache, endpoint=closed_port(), offline=offline)
        assert found["pinned"] == answers["pinned"]
        assert found["moved"]["value"] == answers["moved"]["value"]
        assert "took main" in found["moved"]["warnings"][0]
        assert found["set"]["value"] == answers["set"]["value"] and found["set cached"] is True
        for case, file in (
            ("absent", "big.bin of ours/pinned"),
            ("absent set", "data/*.parquet of ours/x"),
        ):
            assert found[case]["error"] == "NotAvailableError"
            assert file in found[case]["text"]
            assert (
                "cannot be reached" in found[case]["text"]
                and "HF_HUB_OFFLINE" in found[case]["text"]
            )
            assert "one of the minis" in found[case]["text"]
        assert "big.bin of ours/pinned" in found["asked"]


# ---- a folder in place of the Hub ----


def test_folder(folder):
    repository = Repository("saework/x", folder=folder)
    assert repository.fetch("config.json") == folder / "config.json"
    assert repository.fetch_folder(["data/*.parquet", "big.bin"], also=["*.index.json"]) == folder
    assert (
        repository.cached("data/*.parquet")
        and repository.cached("config.json")
        and not repository.cached("x.pt")
    )
    assert repository.size_mb("big.bin") == 0
    assert str(repository) == "saework/x (on this machine)"
    with pytest.raises(NotAvailableError, match="x.pt does not exist; reinstall saework"):
        repository.fetch("x.pt")
    with pytest.raises(
        NotAvailableError,
        match=r"saework/x holds no \*.jsonl; reinstall saework, or build the mini again",
    ):
        repository.fetch_folder(["config.json", "*.jsonl"])


def test_sizes_and_names():
    repository = Repository("a/b", revision=PINNED, sizes_mb={"w.pth": 213})
    assert [repository.size_mb(file) for file in ("w.pth", "25.pt")] == [213, 0]
    assert str(repository) == "a/b (revision 11111111)"
    assert str(Repository("a/b")) == "a/b (revision main)"


ODD = """
import time
from pathlib import Path
from local_hub import TRIED
exec(TRIED)
time.sleep = lambda seconds: None
from saework.loading.hub import Repository

def outcome(call, *arguments):
    done = tried(call, *arguments)
    return done.get("text") or str(done["value"])

report({
    name: outcome(getattr(Repository(f"odd/{name}"), call), *arguments)
    for name, call, arguments in (
        ("portal", "fetch", ["config.json"]),
        ("portal-asked", "access_problem", ["config.json"]),
        ("portal-list", "fetch_folder", [["*.json"]]),
        ("numbers", "fetch_folder", [["*.json"]]),
        ("missing", "fetch", ["config.json"]),
        ("down", "fetch", ["config.json"]),
        ("moves", "fetch_all", [["a.json", "b.json"]]),
        ("next", "fetch_folder", [["*.json"]]),
    )
})
"""


class Odd(BaseHTTPRequestHandler):
    """Answers as no Hub does, by the name of the repository."""

    protocol_version = "HTTP/1.1"
    other = ""
    heard: list = []

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.headers.get("Host") == self.other:
            self.heard.append(self.headers.get("Authorization"))
            return self.answer(200, b"[]")
        repository = self.path.partition("odd/")[2].partition("/")[0]
        if repository.startswith("portal"):
            return self.answer(200, b"<html>log in</html>")
        if repository == "numbers":
            return self.answer(200, b"[1, 2]")
        if repository == "moves":
            commit = "ab"["b.json" in self.path] * 40
            return self.answer(200, b"{}", {"ETag": f'"{commit}"', "X-Repo-Commit": commit})
        if repository == "next":
            if "/tree/" not in self.path:
                return self.answer(200, json.dumps({"id": "x", "sha": "c" * 40}).encode())
            return self.answer(200, b"[]", {"Link": f'<http://{self.other}/api/x>; rel="next"'})
        return self.answer({"missing": 404, "down": 503}[repository], b"")

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def test_what_is_no_hub_is_told_from_no_network(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Odd.other, Odd.heard = f"localhost:{server.server_port}", []
    try:
        told = result_of(
            ODD,
            cache=tmp_path,
            endpoint=f"http://127.0.0.1:{server.server_port}",
            HF_TOKEN=SECRET,
            NO_PROXY="127.0.0.1,localhost",
        )
    finally:
        server.shutdown()
        server.server_close()
    for name in ("portal", "portal-asked", "portal-list", "numbers"):
        assert "something answers, but not as the Hub does" in told[name], told[name]
        assert "may ask you to log in first" in told[name]
    assert "is not in the cache, and the Hub answers with status 404" in told["missing"]
    assert "the Hub answers with status 503; try again later" in told["down"]
    assert (
        "odd/moves changed while its files were downloaded (revisions aaaaaaaa, bbbb"
        in (told["moves"])
    )
    assert Odd.heard and set(Odd.heard) == {None}, "the token stays with the Hub"
