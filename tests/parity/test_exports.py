"""Adapters leave the house and come in: what transformers and PEFT make of them is what the server says.

Everything in float32. TOLERANCE bounds the difference of single log-probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from eztinker import EZTinkerClient
from eztinker.cli.main import app
from eztinker.client.embedded import EmbeddedServer
from eztinker.deploy.merge import merge
from eztinker.engine.worker.peft_folder import read_peft_folder
from eztinker.errors import EZTinkerError
from tests.model_factory import write_model, write_tokenizer

pytestmark = [  # what PEFT has to say of transformers, and of tied weights
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

TOLERANCE = 1e-4
STORIES = Path(__file__).parents[2].parent / "shared/models/stories260K"
NANO = Path(__file__).parents[2] / "src/eztinker/assets/nano"
needs_stories = pytest.mark.skipif(
    not STORIES.is_dir(), reason="needs ../shared/models/stories260K"
)
MODELS = [
    "nano",
    "gpt2",
    pytest.param("stories", marks=[pytest.mark.shared, needs_stories]),
]
IDS = [40, 50, 60, 70, 80, 90, 41]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    gpt2 = write_model(tmp_path_factory.mktemp("models") / "gpt2", "gpt2")
    return {"nano": NANO, "gpt2": gpt2, "stories": STORIES}


@pytest.fixture(scope="module")
def server(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    aliases = {name: str(folders[name]) for name in ("gpt2", "stories")}
    settings = {"aliases": aliases, "num_threads": 1}
    server = EmbeddedServer([], state_dir=tmp_path_factory.mktemp("server"), settings=settings)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server: EmbeddedServer) -> Iterator[EZTinkerClient]:
    with EZTinkerClient(server.base_url) as client:
        yield client


def command(server: EmbeddedServer, *arguments: object) -> str:
    done = CliRunner().invoke(
        app,
        [str(argument) for argument in arguments],
        env={"EZTINKER_BASE_URL": server.base_url, "HF_HUB_OFFLINE": "1"},
    )
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def trained(client: EZTinkerClient, base: str, **kwargs: object) -> str:
    run_id = client.create_run(base, seed=7, **kwargs)
    for _ in range(3):
        client.forward_backward(run_id, IDS)
        client.optim_step(run_id, learning_rate=0.02)
    return run_id


@torch.no_grad()
def logprobs(model) -> np.ndarray:
    tokens = torch.tensor([IDS])
    found = model.eval().float()(tokens).logits[0, :-1].log_softmax(-1)
    return found.gather(1, tokens[0, 1:, None])[:, 0].numpy()


def plain(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


@pytest.mark.parametrize("base", MODELS)
def test_a_run_goes_out_as_adapter_and_as_model_and_comes_back(
    server, client, folders, tmp_path: Path, base: str
) -> None:
    run_id = trained(client, base, lora_rank=4, lora_alpha=12)
    client.save_checkpoint(run_id, "c")
    served = client.get_logprobs(run_id, IDS)
    untrained = client.get_logprobs(base, IDS)
    assert np.abs(np.subtract(served, untrained)).max() > 0.05
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    place = ["--base-model", folders[base]]
    command(server, "export", run_id, adapter, *place, "--prompt", "abcdef")
    command(
        server, "export", f"{run_id}@c", merged, *place, "--format", "merged", "--dtype", "float32"
    )

    peft = PeftModel.from_pretrained(plain(folders[base]), adapter)
    np.testing.assert_allclose(logprobs(peft), served, atol=TOLERANCE)
    np.testing.assert_allclose(logprobs(plain(merged)), served, atol=TOLERANCE)
    for folder, kind in ((adapter, "peft"), (merged, "merged")):
        report = json.loads((folder / "export.json").read_text())
        assert (report["format"], report["run_id"], report["step"]) == (kind, run_id, 3)
        assert report["logprobs"]["max_difference"] < TOLERANCE
        assert report["logprobs"]["within_tolerance"]
        assert str(folder) in report["vllm"]
        assert ("--dtype float32" in report["vllm"]) == (kind == "merged")
        assert all(path.stat().st_mode & 0o044 for path in folder.iterdir())
        assert report["vllm"] in (folder / "README.md").read_text()
        assert not (folder / "optimizer.safetensors").exists()
    assert [entry["name"] for entry in client.get_checkpoints(run_id)] == ["c"]

    again = command(server, "import", adapter, "--base-model", base)
    np.testing.assert_allclose(client.get_logprobs(again, IDS), served, atol=1e-6)
    before = client.forward(again, IDS)["loss"]
    client.forward_backward(again, IDS)
    client.optim_step(again, learning_rate=0.001)
    assert client.forward(again, IDS)["loss"] < before


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_a_quantised_run_goes_out_as_it_was_trained_and_comes_back(
    server, client, folders, tmp_path: Path, kind: str, quantization: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra qlora")
    run_id = trained(client, "nano", lora_rank=4, quantization=quantization)
    served = client.get_logprobs(run_id, IDS)
    full = client.get_logprobs("nano", IDS)
    assert np.abs(np.subtract(served, full)).max() > 0.05
    target = tmp_path / kind
    command(server, "export", run_id, target, "--format", kind, "--dtype", "float32")
    report = json.loads((target / "export.json").read_text())
    assert report["quantization"] == quantization
    assert report["logprobs"]["max_difference"] < TOLERANCE
    if kind == "merged":
        np.testing.assert_allclose(logprobs(plain(target)), served, atol=TOLERANCE)
    else:
        again = command(server, "import", target, "--base-model", f"nano:{quantization}")
        np.testing.assert_allclose(client.get_logprobs(again, IDS), served, atol=1e-6)


def write_adapter(base: Path, folder: Path, seed: int = 0, **config: object) -> Path:
    """A LoRA adapter that PEFT itself made, with weights that matter."""
    model = get_peft_model(plain(base), LoraConfig(task_type="CAUSAL_LM", **config))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)  # a head with an adapter is saved beside it
    return folder


KINDS = {
    "one rank": {"r": 3, "lora_alpha": 6, "target_modules": ["c_attn", "c_proj"]},
    "ranks": {
        "r": 2,
        "lora_alpha": 6,
        "target_modules": ["c_attn", "c_proj", "c_fc", "lm_head"],
        "rank_pattern": {"c_attn": 4, r"h\.1\.mlp\.c_proj": 1},
        "alpha_pattern": {"c_fc": 3},
    },
    "rsLoRA": {"r": 4, "lora_alpha": 3, "target_modules": ["c_attn"], "use_rslora": True},
    "some layers": {"r": 2, "target_modules": ["c_fc"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_plain_lora_comes_in_and_merges(
    server, client, folders, tmp_path: Path, kind: str
) -> None:
    adapter = write_adapter(folders["gpt2"], tmp_path / "a", **KINDS[kind])
    expected = logprobs(PeftModel.from_pretrained(plain(folders["gpt2"]), adapter))
    run_id = client.import_adapter(adapter, "gpt2")
    np.testing.assert_allclose(client.get_logprobs(run_id, IDS), expected, atol=TOLERANCE)
    merged = merge(adapter, folders["gpt2"], tmp_path / "m")
    np.testing.assert_allclose(logprobs(plain(merged.folder)), expected, atol=TOLERANCE)


def test_ranks_stay_what_they_were_in_training(client, folders, tmp_path: Path) -> None:
    adapter = write_adapter(folders["gpt2"], tmp_path / "a", **KINDS["ranks"])
    ranks = {module.name: module.rank for module in read_peft_folder(adapter).modules}
    run_id = client.import_adapter(adapter, "gpt2")
    client.forward_backward(run_id, IDS)
    client.optim_step(run_id, learning_rate=0.01, weight_decay=0.1)
    client.save_checkpoint(run_id, "c")
    saved = client.download_checkpoint(run_id, "c", tmp_path / "c")
    for module in read_peft_folder(saved).modules:
        rank = ranks[module.name]
        assert module.rank == 4
        assert not module.a[rank:].any()
        assert not module.b[:, rank:].any()
        assert module.b[:, :rank].any()


def test_an_import_needs_nothing_that_came_with_it(server, client, folders, tmp_path: Path) -> None:
    adapter = write_adapter(folders["gpt2"], tmp_path / "a", **KINDS["ranks"])
    run_id = client.import_adapter(adapter, "gpt2", run_id="mine")
    client.forward_backward(run_id, IDS)
    client.optim_step(run_id, learning_rate=0.01)
    before = client.get_logprobs(run_id, IDS)
    client.delete_checkpoint(run_id, "imported")
    # The worker forgets the run and rebuilds it from snapshot and log, as after a crash.
    forget = {"model_id": run_id, "type": "unload_model"}
    assert httpx.post(f"{server.base_url}/api/v1/unload_model", json=forget).status_code == 200
    assert client.get_logprobs(run_id, IDS) == before


def test_a_merge_keeps_the_type(folders, tmp_path: Path) -> None:
    base = tmp_path / "base"
    plain(folders["gpt2"]).to(torch.bfloat16).save_pretrained(base)
    adapter = write_adapter(base, tmp_path / "a", **KINDS["one rank"])
    merged = merge(adapter, base, tmp_path / "m")
    assert (merged.dtype, plain(merged.folder).dtype) == ("bfloat16", torch.bfloat16)
    assert 0 < merged.rounding < 0.05
    exact = merge(adapter, folders["gpt2"], tmp_path / "exact")
    expected, rounded = (logprobs(plain(m.folder)) for m in (exact, merged))
    assert np.abs(expected - rounded).max() < 0.3


# Refusals -----------------------------------------------------------------------------------------


def edit(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rename_tensor(adapter: Path, old: str, new: str) -> None:
    path = adapter / "adapter_model.safetensors"
    tensors = {key.replace(old, new): tensor for key, tensor in load_file(path).items()}
    save_file(tensors, path)


def truncate(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "use_dora": lambda a: edit(a, use_dora=True),
    "modules_to_save": lambda a: edit(a, modules_to_save=["lm_head"]),
    "bias": lambda a: edit(a, bias="lora_only"),
    "peft_type": lambda a: edit(a, peft_type="IA3"),
    "init_lora_weights": lambda a: edit(a, init_lora_weights="pissa"),
    "rank": lambda a: edit(a, r=7),
    "no matrix": lambda a: rename_tensor(a, "lora_A.weight", "lora_magnitude_vector"),
    "do not belong together": lambda a: rename_tensor(a, "h.0.attn.c_attn.lora_A", "h.9.lora_A"),
    "h.7": lambda a: rename_tensor(a, "h.0.attn", "h.7.attn"),
    "cannot be read": truncate,
    "adapter_model.safetensors": lambda a: (a / "adapter_model.safetensors").unlink(),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_what_is_not_plain_lora_is_refused_by_name(
    client, folders, tmp_path: Path, words: str
) -> None:
    adapter = write_adapter(folders["gpt2"], tmp_path / "a", **KINDS["one rank"])
    DAMAGES[words](adapter)
    for attempt in (
        lambda: client.import_adapter(adapter, "gpt2", run_id="never"),
        lambda: merge(adapter, folders["gpt2"], tmp_path / "m"),
    ):
        with pytest.raises(EZTinkerError) as caught:
            attempt()
        assert words in caught.value.message
    assert "never" not in [run["run_id"] for run in client.get_runs()]
    assert client.get_checkpoints() == [
        c for c in client.get_checkpoints() if c["run_id"] != "never"
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_head_beside_its_adapter_must_be_the_base_models(client, folders, tmp_path: Path) -> None:
    adapter = write_adapter(folders["gpt2"], tmp_path / "a", **KINDS["ranks"])
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.lm_head.base_layer.weight"][0, 0] += 1
    save_file(tensors, path)
    for attempt in (
        lambda: client.import_adapter(adapter, "gpt2", run_id="never"),
        lambda: merge(adapter, folders["gpt2"], tmp_path / "m"),
    ):
        with pytest.raises(EZTinkerError, match="trained in full"):
            attempt()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_adapter_of_another_architecture_is_refused(client, folders, tmp_path: Path) -> None:
    adapter = write_adapter(folders["gpt2"], tmp_path / "a", **KINDS["one rank"])
    with pytest.raises(EZTinkerError) as caught:
        client.import_adapter(adapter, "nano")
    assert caught.value.code == "other_architecture"
    with pytest.raises(EZTinkerError) as caught:
        merge(adapter, NANO, tmp_path / "m")
    assert caught.value.code == "other_architecture"


@pytest.mark.parametrize("architecture", ["glm4_moe", "laguna"])
def test_an_adapter_that_peft_reads_as_another_is_not_exported(
    server, client, tmp_path: Path, architecture: str
) -> None:
    """PEFT takes the dense layers of some mixtures of experts for experts, or for layers of older names."""
    base = write_mixture(tmp_path / "base", architecture)
    run_id = trained(client, str(base), lora_rank=2)
    adapter, merged = tmp_path / "adapter", tmp_path / "merged"
    place = ["--base-model", str(base)]
    refused = CliRunner().invoke(
        app,
        ["export", run_id, str(adapter), *place],
        env={"EZTINKER_BASE_URL": server.base_url, "EZTINKER_LANG": "en"},
    )
    assert refused.exit_code == 2, refused.output
    assert "PEFT" in refused.output
    assert "--format merged" in refused.output
    assert not adapter.exists()
    command(server, "export", run_id, merged, *place, "--format", "merged")
    assert json.loads((merged / "export.json").read_text())["logprobs"]["within_tolerance"]


def write_mixture(folder: Path, architecture: str) -> Path:
    """A random model with a dense layer before one of experts."""
    config = AutoConfig.for_model(
        architecture,
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=96,
        num_experts_per_tok=2,
        eos_token_id=1,
        **({"num_experts": 4} if architecture == "laguna" else {"n_routed_experts": 4}),
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_a_target_that_exists_is_left_alone(server, client, folders, tmp_path: Path) -> None:
    adapter = write_adapter(folders["gpt2"], tmp_path / "a", **KINDS["one rank"])
    (tmp_path / "kept").write_text("x")
    run_id = client.import_adapter(adapter, "gpt2", run_id="taken")
    for line in (
        ["merge", adapter, tmp_path / "kept", "--base-model", folders["gpt2"]],
        ["export", run_id, tmp_path / "kept", "--base-model", folders["gpt2"]],
        ["import", adapter, "--base-model", "gpt2", "--run-id", "taken"],
    ):
        done = CliRunner().invoke(
            app, [str(word) for word in line], env={"EZTINKER_BASE_URL": server.base_url}
        )
        assert done.exit_code == 2, done.output
        assert "exists" in done.stderr
    assert (tmp_path / "kept").read_text() == "x"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"x", "application/json", 415),
        (b"no archive" * 100, "application/x-tar", 400),
        (b"", "application/x-tar", 400),
    ],
)
def test_a_body_that_is_no_archive(server, content, kind, status) -> None:
    answer = httpx.post(
        f"{server.base_url}/v1/runs/import", content=content, headers={"Content-Type": kind}
    )
    assert answer.status_code == status, answer.text
