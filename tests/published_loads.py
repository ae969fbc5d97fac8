"""What a process of its own finds when it loads each SAE of ``published_saes`` from a local Hub.

Everything is compared with the Hugging Face model, plain forward hooks and the publisher's formula.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")


def off(found, expected) -> float:
    """The largest difference, as a share of the largest value."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((found - expected).abs().max() / expected.abs().max())


class PlainModel:
    """A Hugging Face model, read and edited by plain hooks at its own modules."""

    def __init__(self, folder: Path):
        import transformers

        self.hf = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager"
        ).eval()

    def _on(self, place: str, act):
        """Call ``act`` on the value at ``module:in`` or ``module:out``; it may return another."""
        name, side = place.split(":")
        module = self.hf.get_submodule(name)
        if side == "in":
            return module.register_forward_pre_hook(
                lambda module, given: None if (new := act(given[0])) is None else (new, *given[1:])
            )

        def after(module, given, value):
            is_tuple = isinstance(value, tuple)
            new = act(value[0] if is_tuple else value)
            if new is None:
                return None
            return (new, *value[1:]) if is_tuple else new

        return module.register_forward_hook(after)

    def run(self, tokens, published, edit=None):
        """The value read, and the mean loss, with ``edit(read)`` in the place of what it writes."""
        import torch

        kept = {}

        def read(value):
            kept["read"] = value
            if edit is not None and not published.writes:
                return edit(value)
            return None

        hooks = [self._on(published.reads, read)]
        if published.writes and edit is not None:
            hooks.append(self._on(published.writes, lambda value: edit(kept["read"])))
        try:
            with torch.no_grad():
                logits = self.hf(tokens).logits.float()
        finally:
            for hook in hooks:
                hook.remove()
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()
        )
        return kept["read"], float(loss)


def compared(published, book, plain: PlainModel, tokens) -> dict:
    """How far the loaded SAE, and what is computed with it, are from the plain values."""
    import torch

    import saework
    from saework.engine import forward
    from saework.engine.architectures import encode, unchanged
    from saework.engine.site import site_of

    w = published.weights()
    read, clean = plain.run(tokens, published)
    x = published.view(read)
    features = published.features(w, x)
    site = site_of(book.model, book.sae)
    found_x = forward.sae_input(book.model, book.sae, tokens).flatten(2)
    found = {
        "hook": book.hook,
        "reads": site.reads,
        "model": book.release.repositories["model"].name,
        "input": off(found_x, x),
        "features": off(encode(book.sae, found_x), features),
        "firing": float((features != 0).double().mean()),
        "mistakes": {
            name: off(wrong(w, x), features) for name, wrong in published.mistakes.items()
        },
    }
    rates = (features != 0).double().mean((0, 1))
    feature = int((rates - 0.3).abs().argmin())
    one = saework.feature_activations(book.model, book.sae, tokens, feature)
    found["one feature"] = off(one, features[..., feature])
    pos = int(features[0].amax(-1).argmax())
    table = saework.active_features(book.model, book.sae, tokens[:1], pos=pos, n=1)
    found["strongest"] = [int(table["index"].iloc[0]), int(features[0, pos].argmax())]
    found["logit effect"] = list(saework.logit_effect(book.model, book.sae, feature).shape)
    if published.refused:
        found["refusals"] = refusals(book, tokens, feature)
    if "temporal" in published.refused:
        return found

    counts = saework.scan(book.model, book.sae, tokens, progress=False).count
    found["counts"] = int((counts - (features != 0).sum((0, 1))).abs().max())
    if published.refused:
        return found
    with unchanged(book.sae):
        output = book.sae(found_x)
    found["output"] = off(output, published.output(w, features, x))

    def spliced(value):
        x = published.view(value)
        return published.output(w, published.features(w, x), x)

    score = saework.recons_score(book.model, book.sae, tokens, progress=False)
    losses = [plain.run(tokens, published, edit)[1] for edit in (spliced, torch.zeros_like)]
    found["losses"] = [score.loss, score.recons_loss, score.ablated_loss]
    found["plain losses"] = [clean, *losses]
    return found


def refusals(book, tokens, feature: int) -> list[str]:
    """The words of each function that has to put the SAE's output in place; empty if it ran."""
    import saework

    def words(call) -> str:
        try:
            call()
        except ValueError as error:
            return str(error)
        return ""

    model, sae = book.model, book.sae
    return [
        words(lambda: saework.recons_score(model, sae, tokens, progress=False)),
        words(lambda: saework.reconstruction_metrics(model, sae, tokens, progress=False)),
        words(lambda: saework.find_site(model, sae, tokens)),
        words(
            lambda: saework.steer(model, sae, tokens[0, :4], feature, strength=1, error_term=False)
        ),
    ]


def installed() -> list[str]:
    return sorted(f"{found.name} {found.version}" for found in metadata.distributions())


def main(root: Path) -> None:
    """Load every SAE, and print what was found as JSON."""
    programs: list[str] = []
    sys.addaudithook(
        lambda event, given: (
            programs.append(f"{event} {given}"[:200]) if event in PROGRAMS else None
        )
    )
    packages = installed()
    import psutil
    import torch
    from local_hub import documents
    from published_saes import PUBLISHED

    import saework
    from saework.loading.sae_ids import registry

    psutil.virtual_memory = lambda: SimpleNamespace(available=10**15)
    table = registry()  # the first import of sae_lens would start git
    from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup

    answers = {}
    plain: dict[str, PlainModel] = {}
    for published in PUBLISHED:
        started = time.monotonic()
        if published.release not in table:
            table[published.release] = PretrainedSAELookup(
                published.release,
                published.repository,
                published.family,
                published.loader,
                {published.sae_id: published.sae_id},
                *({} for _ in range(4)),
                None,
            )
        listed = table[published.release]
        listed.config_overrides = {**(listed.config_overrides or {}), **published.overrides}
        # where the SAE explains too little, ranking the hooks of a deeper model takes seconds
        check = bool(published.refused) or published.family == "gemma3"
        if published.family not in plain:
            plain[published.family] = PlainModel(root / published.family)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                book = saework.load(
                    published.release,
                    published.sae_id,
                    text=documents(60) * 3,
                    n_tokens=128,
                    check=check,
                )
                torch.manual_seed(0)
                tokens = book.tokens.flatten()[:80].reshape(2, 40)
                found = compared(published, book, plain[published.family], tokens)
            except Exception:
                found = {"error": traceback.format_exc()}
        found["warnings"] = [str(w.message) for w in caught if w.category is UserWarning]
        found["seconds"] = time.monotonic() - started
        answers[published.name] = found
    answers["programs"] = programs
    answers["packages changed"] = installed() != packages
    print("\n" + json.dumps(answers))


if __name__ == "__main__":
    main(Path(os.environ["ROOT"]))
