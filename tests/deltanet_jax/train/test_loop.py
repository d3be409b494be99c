# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The loop: learning, exact resume, NaN, records; sharded runs equal single-device ones."""

import contextlib
import functools
import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltanet_jax.sharding import MeshConfig
from deltanet_jax.train import loop
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.config import OptimizerConfig, TrainConfig
from deltanet_jax.train.evaluate import evaluate, put_batch
from deltanet_jax.train.loop import Trainer, train
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.optimizer import make_optimizer, make_schedule
from deltanet_jax.train.step import gradients, init_state, model_graph, sum_losses
from deltanet_jax.train.sweep import train_members
from tests.helpers.compare import equal_bits
from tests.helpers.models import MIXERS, quick_config, small_config, small_task
from tests.helpers.tasks import Crash, Wrapped, crash_at, without_speed

MODEL = small_config(MIXERS["delta_net"], embed_dropout=0.1, init_std=0.05)
CONFIG = TrainConfig(
    num_steps=40,
    batch_size=8,
    log_every_steps=1,
    eval_every_steps=20,
    checkpoint_every_steps=20,
    mesh=MeshConfig(data=8),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=4),
)


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """All runs of one model and config share one trainer, which is what costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Trainer", functools.cache(Trainer))
        yield


def final_state(workdir):
    trainer = loop.Trainer(MODEL, CONFIG)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.newest() == 40
        return checkpoints.restore(40, trainer.abstract_state)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(MODEL, CONFIG, small_task().make(), workdir)


def test_a_crash_and_a_resume_equal_one_run_bit_for_bit(whole_run, tmp_path):
    """Crash at step 27, seven steps after a checkpoint: weights, optimiser, RNG, data, metrics."""
    workdir, result = whole_run
    with pytest.raises(Crash):
        train(MODEL, CONFIG, Wrapped(small_task().make(), crash_at(27)), tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] > 20
    assert train(MODEL, CONFIG, small_task().make(), tmp_path) == result

    assert equal_bits(final_state(tmp_path), final_state(workdir))
    rows = [without_speed(read_metrics(d / "metrics.jsonl")) for d in (tmp_path, workdir)]
    assert rows[0] == rows[1]
    assert [r["step"] for r in rows[1] if "train/loss" in r] == list(range(1, 41))


def test_the_loss_falls(whole_run):
    losses = [
        r["train/loss"] for r in read_metrics(whole_run[0] / "metrics.jsonl") if "train/loss" in r
    ]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_a_finished_run_trains_no_further(whole_run):
    workdir, result = whole_run
    before = (workdir / "metrics.jsonl").read_text()
    assert train(MODEL, CONFIG, small_task().make(), workdir) == result
    assert (workdir / "metrics.jsonl").read_text() == before


def test_records_are_written(whole_run):
    workdir, result = whole_run
    config = json.loads((workdir / "config.json").read_text())
    assert config == {"model": MODEL.to_dict(), "train": CONFIG.to_dict()}
    machine = json.loads((workdir / "machine.json").read_text())
    assert {"device", "jax", "commit", "command", "date"} <= machine.keys()
    assert list((workdir / "tensorboard").iterdir())
    last = read_metrics(workdir / "metrics.jsonl")[-1]
    assert last == {"step": 40} | {f"eval/{k}": v for k, v in result.items()}


def test_another_config_in_the_same_workdir_is_refused(whole_run):
    other = TrainConfig.from_dict(CONFIG.to_dict() | {"batch_size": 16})
    with pytest.raises(ValueError, match="workdir: .*train.batch_size was 8, is 16"):
        train(MODEL, other, small_task().make(), whole_run[0])


def test_a_run_of_an_earlier_version_goes_on_and_one_of_a_later_version_does_not(tmp_path):
    record = loop._Record(MODEL, CONFIG)
    old = record.to_dict()
    del old["train"]["keep_every_steps"]

    def enter():
        with contextlib.ExitStack() as resources:
            loop.enter_workdir(tmp_path, record.to_dict(), {}, 0, resources, record.completed)

    path = tmp_path / "config.json"
    path.write_text(json.dumps(old))
    enter()
    old["train"]["of_next_year"] = 1
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="workdir: .*another config: .*unknown keys.*of_next_year"):
        enter()


def test_float16_weights_are_not_trained(tmp_path):
    """A first step made them NaN, where a gradient was 0 or small."""
    model = MODEL.replace(param_dtype="float16")
    with pytest.raises(ValueError, match="^param_dtype: wanted float32, .* got 'float16'"):
        train(model, CONFIG, small_task().make(), tmp_path)
    with pytest.raises(ValueError, match="^param_dtype: wanted float32, .* got 'float16'"):
        train_members(model, CONFIG.replace(mesh=MeshConfig()), None, [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_task_of_another_vocabulary_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="vocab_size: wanted the task's 64, got 32"):
        train(MODEL, CONFIG, small_task(vocab_size=64).make(), tmp_path / "new")
    with pytest.raises(ValueError, match="profile_steps: wanted steps of num_steps = .*, got 901"):
        train(MODEL, CONFIG, small_task().make(), tmp_path / "new", profile_steps=(900, 901))
    assert not (tmp_path / "new").exists()


MESHES = {
    "fsdp": MeshConfig(data=1, fsdp=8),
    "tensor_and_sequence": MeshConfig(data=2, tensor=2, sequence=2),
    "all": MeshConfig(data=1, fsdp=2, tensor=2, sequence=2),
}


def three_steps(mesh, devices, model=MODEL, config=CONFIG):
    config = config.replace(mesh=mesh)
    trainer = Trainer(model, config, devices)
    state, data = trainer.init(), iter(small_task().make().train_dataset(8))
    losses = []
    for _ in range(3):
        state, metrics = trainer.train_step(state, put_batch(next(data), trainer.mesh))
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.fixture(scope="module")
def single_device():
    return three_steps(MeshConfig(data=1), jax.devices()[:1])


@pytest.mark.parametrize(
    "name", [n if n == "all" else pytest.param(n, marks=pytest.mark.slow) for n in MESHES]
)
def test_sharded_equals_single_device(single_device, name):
    losses, state = three_steps(MESHES[name], jax.devices())
    wanted_losses, wanted_state = single_device
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-6)
    for a, b in zip(
        jax.tree.leaves(state.weights), jax.tree.leaves(wanted_state.weights), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_weights_are_really_cut():
    trainer = Trainer(MODEL, CONFIG.replace(mesh=MESHES["all"]))
    state = trainer.init()
    kernel = state.weights["period"][0]["mixer"]["out_proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 8)  # of (2, 16, 16)
    moments = state.opt_state[1][0].mu["period"][0]["mixer"]["out_proj"]["kernel"]
    assert moments.sharding == kernel.sharding


@pytest.mark.parametrize(
    ("mesh", "batch_size", "message"),
    [
        (MeshConfig(data=3), 8, r"mesh_data: wanted .* = 8 devices, got 3 \* 1 \* 1 \* 1"),
        (MeshConfig(), 12, "batch_size: wanted a multiple of mesh_data .* = 8, got 12"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Trainer(MODEL, CONFIG.replace(mesh=mesh, batch_size=batch_size))


def test_sequences_that_do_not_divide_are_refused():
    trainer = Trainer(MODEL, CONFIG.replace(mesh=MeshConfig(sequence=8)))
    batch = next(iter(small_task(seq_len=12).make().train_dataset(8)))
    with pytest.raises(ValueError, match="mesh_sequence: wanted a divisor of seq_len = 12, got 8"):
        put_batch(batch, trainer.mesh)


def test_heads_that_tensor_parallelism_cannot_split_are_refused():
    model = small_config(MIXERS["delta_net-options"].replace(head_k_dim=3))
    with pytest.raises(ValueError, match="mesh_tensor: wanted a divisor of heads = 6 .*got 4"):
        Trainer(model, CONFIG.replace(mesh=MeshConfig(data=2, tensor=4)))


def test_evaluation_does_not_depend_on_the_batch_size():
    """20 held-out examples in batches of 8 (the last filled up) and of 40."""
    trainer = loop.Trainer(MODEL, CONFIG)
    weights, task = trainer.init().weights, small_task().make()
    small, large = (evaluate(trainer.eval_step, weights, task, n, trainer.mesh) for n in (8, 40))
    assert small["accuracy"] == large["accuracy"]
    assert small["loss"] == pytest.approx(large["loss"], rel=1e-6)


def test_the_loss_is_the_weighted_mean_of_cross_entropies():
    trainer = loop.Trainer(MODEL, CONFIG)
    weights = trainer.init().weights
    batch = {k: jnp.asarray(v) for k, v in next(iter(small_task().make().train_dataset(8))).items()}
    graph = model_graph(MODEL)
    sums = jax.jit(lambda *args: sum_losses(graph, {"positions": 5}, *args))(weights, batch)
    logits, _ = jax.jit(lambda w, x: nnx.merge(graph, w)(x))(weights, batch["inputs"])
    log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
    rows, places = np.arange(8)[:, None], np.asarray(batch["positions"])
    wanted = -log_p[rows, places, np.asarray(batch["targets"])]
    assert float(sums.loss) == pytest.approx(wanted.sum(), rel=1e-5)
    assert float(sums.weight) == places.size


def test_parts_of_a_batch_are_the_whole_batch():
    """Accumulated over two parts on eight devices, against one step on one device."""
    # No dropout: it is drawn by part.
    model = small_config(MIXERS["attention"], init_std=0.05, mlp_hidden_size=0)
    losses, state = three_steps(MeshConfig(data=1), jax.devices()[:1], model)
    parts = CONFIG.replace(accumulation_steps=2, mesh=MeshConfig(data=2, fsdp=2))
    part_losses, part_state = three_steps(parts.mesh, jax.devices()[:4], model, parts)
    np.testing.assert_allclose(part_losses, losses, rtol=1e-6)
    for a, b in zip(
        jax.tree.leaves(part_state.weights), jax.tree.leaves(state.weights), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_float64_gradients_are_added_in_float64(x64):
    """Two parts against the whole; float32 sums would differ by 1e-8."""
    model = quick_config("float64")
    graph, optimizer = model_graph(model), make_optimizer(CONFIG.optimizer, 40)
    state = init_state(model, optimizer, 0)
    batch = {k: jnp.asarray(v) for k, v in next(iter(small_task().make().train_dataset(8))).items()}

    @jax.jit(static_argnums=0)
    def of_parts(parts, state, batch):
        return gradients(graph, {"positions": 5}, parts, state, batch)[0]

    for a, b in zip(*(jax.tree.leaves(of_parts(n, state, batch)) for n in (2, 1)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_wsd_warms_up_stays_and_decays():
    config = OptimizerConfig(
        learning_rate=1.0, min_learning_rate=0.1, schedule="wsd", warmup_steps=2, decay_steps=4
    )
    rates = [float(make_schedule(config, 12)(step)) for step in range(13)]
    wanted = [0.1, 0.55] + [1.0] * 7 + [0.775, 0.55, 0.325, 0.1]
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


@pytest.mark.slow
def test_a_trace_and_weights_and_biases(tmp_path, monkeypatch):
    """A run of six steps: its second and third are traced; W&B gets each row, under one id.

    The third's checkpoint is kept for good.
    """
    runs = []

    class Run:
        def __init__(self, **options):
            self.options, self.rows = options, {}
            runs.append(self)

        def log(self, row, step):
            self.rows[step] = row

        def finish(self):
            self.finished = True

    wandb = types.SimpleNamespace(
        init=Run, util=types.SimpleNamespace(generate_id=lambda: f"id{len(runs)}")
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    model = small_config(MIXERS["attention"])
    for steps in (3, 6):
        changes = {"num_steps": steps, "checkpoint_every_steps": 3, "eval_every_steps": 0}
        changes |= {"keep_checkpoints": 1, "keep_every_steps": 3}
        config = CONFIG.replace(optimizer=OptimizerConfig(schedule="constant"), **changes)
        options = {"profile_steps": (2, 3), "wandb_project": "ours", "record": model}
        train(model, config, small_task().make(), tmp_path, **options)
    assert [run.options["id"] for run in runs] == ["id0", "id0"]
    assert [sorted(run.rows) for run in runs] == [[1, 2, 3], [4, 5, 6]]
    assert all(run.finished for run in runs)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    assert Checkpoints(tmp_path / "checkpoints").steps == [3, 6]
