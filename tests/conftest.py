"""Small random models for speed, and what nbval must not compare."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, settings

from saework.core.ledger import LEDGER_MIME
from saework.reproduction.execute import ENVIRONMENT
from saework.reproduction.html import PLOTLY_MIME
from saework.views.tables import RAW_MIME

os.environ.update(ENVIRONMENT)  # the notebooks' kernels inherit it
if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads that wait for each other waste both cores. The variable is for the programs that tests
    # start: torch has read it already.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# an example may take long on a busy machine
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
# tests that need the local Hub start a process of their own
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(items):
    """Figures and raw numbers hold last bits: the notebooks assert what matters in them instead."""
    for item in items:
        if hasattr(item.parent, "skip_compare"):
            item.parent.skip_compare = (
                *item.parent.skip_compare,
                PLOTLY_MIME,
                LEDGER_MIME,
                RAW_MIME,
            )


@pytest.fixture(scope="session")
def tiny():
    """A random model and SAE with each trap: norm weights, biases, decoder rows of unlike norms.

    ``model`` [1 layer, d_model 16, d_mlp 24, d_vocab 4096, n_ctx 32], ``sae`` 24 to 48,
    ``tokens`` [6, 20], BOS first, ``tokenizer`` (the mini's), ``hook``, ``config``, ``state``
    (unprocessed).
    """
    import torch

    from saework.core.files import DATA
    from saework.loading import models
    from saework.loading.tokenizer_files import read_tokenizer

    generator = torch.Generator().manual_seed(0)
    tokenizer = read_tokenizer(DATA / "gelu-1l-mini" / "tokenizer")
    config = dict(
        d_model=16,
        n_layers=1,
        d_mlp=24,
        d_head=8,
        n_heads=2,
        n_ctx=32,
        d_vocab=4096,
        act_fn="gelu",
        attn_only=False,
    )
    config |= dict(normalization="LN", shortformer_pos=False)
    state = {
        name: 0.4 * torch.randn(shape, generator=generator)
        for name, shape in models.neel_shapes(config).items()
    }
    model = models.neel_model_shell(config, tokenizer=tokenizer)
    model.load_and_process_state_dict({name: value.clone() for name, value in state.items()})
    model.eval().requires_grad_(False)
    hook = "blocks.0.mlp.hook_post"
    sae = random_sae(24, 48, hook, generator)
    tokens = torch.randint(3, 4096, (6, 20), generator=generator)
    tokens[:, 0] = tokenizer.bos_token_id
    return SimpleNamespace(
        model=model,
        sae=sae,
        tokens=tokens,
        tokenizer=tokenizer,
        hook=hook,
        config=config,
        state=state,
    )


@pytest.fixture(scope="session")
def book(tiny):
    """The tiny model, SAE and tokens as a workbook."""
    from saework import Workbook

    return Workbook(tiny.model, tiny.sae, tiny.tokens, tiny.tokenizer, tiny.hook)


def draw(*shape, seed=0):
    """Normal numbers, the same ones each time."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_features(model, sae, tokens, hook):
    """``[batch, pos, d_sae]``: the whole model on all rows, and the whole dictionary."""
    return sae.encode(model.run_with_cache(tokens, names_filter=hook)[1][hook])


def random_sae(d_in: int, d_sae: int, hook: str, generator, architecture: str = "standard"):
    """An sae_lens SAE with random weights, a few of whose features never fire."""
    import torch
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    classes = {
        "standard": (StandardSAE, StandardSAEConfig),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig),
    }
    cls, config = classes[architecture]
    sae = cls(
        config(
            d_in=d_in,
            d_sae=d_sae,
            apply_b_dec_to_input=architecture == "standard",
            metadata=SAEMetadata(hook_name=hook),
        )
    )

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    state = {
        "W_enc": normal(d_in, d_sae),
        "W_dec": 0.3 * normal(d_sae, d_in),
        "b_enc": 0.1 * normal(d_sae),
        "b_dec": 0.1 * normal(d_in),
    }
    state["b_enc"][:3] = -100.0
    if architecture == "jumprelu":
        state["threshold"] = normal(d_sae).abs()
    sae.load_state_dict(state)
    return sae.eval().requires_grad_(False)


def weights_error(call, *arguments) -> str:
    """The words of the WeightsError that a call must raise."""
    from saework.core.errors import WeightsError

    with pytest.raises(WeightsError) as caught:
        call(*arguments)
    return str(caught.value)


def bridged(hf, tiny, folder, cls=None):
    """A Hugging Face model on disk, and the TransformerLens bridge to it."""
    from transformer_lens.model_bridge import TransformerBridge

    hf.eval().requires_grad_(False).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return (cls or TransformerBridge).boot_transformers(str(folder))


def loudly_drawn(build):
    """A model with random weights that react to what they read, the same ones each time."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = build()
        for weight in hf.parameters():
            weight.data.normal_(0, 0.3)
    return hf


@pytest.fixture(scope="session")
def gpt2():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            n_layer=2,
            n_embd=16,
            n_head=2,
            vocab_size=4096,
            n_positions=32,
            bos_token_id=1,
            eos_token_id=2,
        )
        hf = GPT2LMHeadModel(config)
    for weight in hf.parameters():
        # the usual initialization hardly reacts to anything
        weight.data.mul_(8 if weight.ndim > 1 else 1)
    return hf


@pytest.fixture(scope="session")
def gpt2_bridge(gpt2, tiny, tmp_path_factory):
    return bridged(gpt2, tiny, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def gemma2():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = dict(
        num_hidden_layers=2,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    sizes |= dict(vocab_size=4096, max_position_embeddings=32, final_logit_softcapping=2.0)
    return loudly_drawn(
        lambda: Gemma2ForCausalLM(
            Gemma2Config(
                **sizes, attn_implementation="eager", bos_token_id=1, eos_token_id=2, pad_token_id=0
            )
        )
    )


@pytest.fixture(scope="session")
def gemma2_bridge(gemma2, tiny, tmp_path_factory):
    return bridged(gemma2, tiny, tmp_path_factory.mktemp("gemma2"))


@pytest.fixture(scope="session")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(
        num_hidden_layers=3,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return loudly_drawn(
        lambda: LlamaForCausalLM(
            LlamaConfig(
                **sizes,
                vocab_size=4096,
                max_position_embeddings=32,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
    )


@pytest.fixture(scope="session")
def llama_bridge(llama, tiny, tmp_path_factory):
    return bridged(llama, tiny, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Small files of gelu-1l's four repositories, with random weights."""
    from local_hub import write_gelu

    return write_gelu(tmp_path_factory.mktemp("folders"))


@pytest.fixture
def release(folders, monkeypatch):
    """Those files as a release of the name ``small``."""
    from saework.loading import catalogue
    from saework.loading.hub import Repository

    parts = {
        part: Repository(f"ours/{part}", folder=folders / part)
        for part in ("model", "tokenizer", "sae", "text")
    }
    small = replace(catalogue._RELEASES["gelu-1l"], name="small", repositories=parts)
    monkeypatch.setitem(catalogue._RELEASES, "small", small)
    return small


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """A Hub cache with nothing in it; the test session is offline."""
    from huggingface_hub import constants

    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


@pytest.fixture
def machine(monkeypatch):
    """A machine with so much disk and memory: ``machine(disk_gb=, memory_gb=)``."""

    def set_to(disk_gb=1000.0, memory_gb=1000.0):
        monkeypatch.setattr(
            "shutil.disk_usage", lambda path: SimpleNamespace(free=int(disk_gb * 1e9))
        )
        monkeypatch.setattr(
            "psutil.virtual_memory", lambda: SimpleNamespace(available=int(memory_gb * 1e9))
        )

    set_to()
    return set_to


@pytest.fixture(scope="module")
def browser():
    """An installed Chromium that reaches loopback only; without one, the test is skipped.

    It ends with the module: Playwright keeps an event loop running, which would break kernels that
    other tests start.
    """
    import lab

    if lab.missing():
        pytest.skip(f"browser tests: {lab.missing()}")
    lab.SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with lab.chromium() as chromium:
        yield chromium


@pytest.fixture
def axe():
    """``axe(page)``: the accessibility faults of a page that is open in ``browser``, as lines."""
    from lab import violations

    return violations


@pytest.fixture(scope="module")
def lively(tiny):
    """The tiny model with a louder MLP, on its own words, so that ablation costs something."""
    model = copy.deepcopy(tiny.model)
    model.blocks[0].mlp.W_in.mul_(4)
    model.blocks[0].mlp.W_out.mul_(4)
    model.unembed.W_U.mul_(2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokens = model.generate(tiny.tokens[:, :2], max_new_tokens=18, verbose=False)
    return SimpleNamespace(model=model, sae=tiny.sae, tokens=tokens)


@pytest.fixture(scope="module")
def mask(lively):
    """BOS out, two rows padded, and a hole in the middle of another."""
    mask = lively.tokens != 1
    mask[0, 15:] = mask[3, 4:] = mask[2, 9] = False
    return mask
