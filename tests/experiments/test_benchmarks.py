# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: floors by hand, wrong answers refused, records whole, tables from records."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from absl import flags

from experiments.benchmarks import aot, aot_triton, cuda, records, registry, run, tables, timing
from experiments.benchmarks.delta_rule import DELTA_RULE
from experiments.benchmarks.flags import define_benchmark_flags
from experiments.benchmarks.l2_norm import L2_NORM
from experiments.benchmarks.operation import MODES, floor_bytes, parse_shapes, rms_error, timed_call
from pallas_kernels._common import triton_device

SHAPE = {"B": 16, "T": 2048, "H": 16, "K": 128, "V": 128}


def abstract_inputs(operation, shape):
    return jax.eval_shape(lambda key: operation.make_inputs(key, shape), jax.random.key(0))


def flag_values(*arguments):
    values = flags.FlagValues()
    define_benchmark_flags(values)
    values(["run", *arguments])
    return values


# Of one token of one head: 163,840 FLOP forward and 393,216 backward.
@pytest.mark.parametrize(
    ("mode", "per_token"), [("forward", 163840), ("vjp", 393216), ("forward_and_vjp", 557056)]
)
def test_flop_of_the_delta_rule(mode, per_token):
    assert DELTA_RULE.flop(SHAPE, mode) == per_token * 16 * 2048 * 16
    one_more = SHAPE | {"T": 2049}  # a chunk more for each of 16 x 16 rows
    assert DELTA_RULE.flop(one_more, mode) == DELTA_RULE.flop(SHAPE, mode) + 256 * 64 * per_token


def test_bytes_of_the_delta_rule():
    """q, k, v, output: 1024 bytes a token and head; beta 2; a state 65,536 bytes a row and head."""
    inputs = abstract_inputs(DELTA_RULE, SHAPE)
    tokens, rows = 16 * 2048 * 16, 16 * 16
    forward = tokens * (1024 + 2) + rows * 2 * 65536
    # reads q, k, v, beta, dout and two states, writes dq, dk, dv, dbeta and a state
    vjp = tokens * (1024 + 2 + 768 + 2) + rows * 3 * 65536
    assert floor_bytes(inputs, "forward") == forward
    assert floor_bytes(inputs, "vjp") == vjp
    assert floor_bytes(inputs, "forward_and_vjp") == forward + vjp


def test_every_operation_says_what_it_takes():
    for name, operation in registry.OPERATIONS.items():
        assert name == operation.name
        assert set(operation.modes) <= set(MODES)
        for shape in operation.shapes + operation.reduced_shapes:
            assert "".join(shape) == operation.axes
            inputs = abstract_inputs(operation, shape)
            assert len(inputs.args) == len(operation.arguments)
            assert len(inputs.cotangents) == len(operation.outputs)
            assert all(operation.flop(shape, mode) > 0 for mode in MODES)


def test_thirty_two_thousand_tokens():
    assert len(DELTA_RULE.shapes) == 15
    assert all(s["B"] * s["T"] == 32768 for s in DELTA_RULE.shapes)
    assert all(s["H"] * s["K"] == 2048 for s in DELTA_RULE.shapes)


def test_shapes_from_flags():
    both = parse_shapes(DELTA_RULE, ["K64B1", "B2T5H1K64V64"], DELTA_RULE.shapes)
    assert [tuple(shape.values()) for shape in both] == [(1, 32768, 32, 64, 64), (2, 5, 1, 64, 64)]
    assert parse_shapes(DELTA_RULE, [], DELTA_RULE.shapes) == DELTA_RULE.shapes
    for text, message in (("K3", "no default shape"), ("X3", "wanted sizes of"), ("K", "wanted")):
        with pytest.raises(ValueError, match=f"^shapes: {message}"):
            parse_shapes(DELTA_RULE, [text], DELTA_RULE.shapes)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--op=softmax", "^op: wanted some of"),
        ("--modes=backward", "^modes: wanted some of"),
        ("--peers=mamba", "^peers: wanted some of"),
    ],
)
def test_impossible_flags(argument, message):
    with pytest.raises(ValueError, match=message):
        run.plan(flag_values(argument))


def test_rms_error():
    assert rms_error(jnp.array([3.0, 4.5]), jnp.array([3.0, 4.0])) == pytest.approx(0.1)
    assert rms_error(jnp.array([1.0, jnp.nan]), jnp.ones(2)) == float("inf")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A run at a small size, and the folder that it records to."""
    folder = tmp_path_factory.mktemp("records")
    values = flag_values("--reduced", "--repetitions=3", f"--record_dir={folder}")
    made = run.Bench(values)
    made.start()
    return made, folder


class Progress:
    def update(self):
        pass

    def set_postfix_str(self, text):
        pass


def test_rows_are_written_and_whole(bench):
    bench, folder = bench
    (shape,) = L2_NORM.reduced_shapes
    bench.shape(L2_NORM, shape, {}, Progress())
    assert not bench.failures
    rows = records.read(folder / "cpu" / "l2_norm.jsonl")
    assert [row["mode"] for row in rows] == ["vjp", "forward"]
    for row in rows:
        assert row["method"] == timing.HOST and len(row["times_ms"]) == 3
        assert set(row["rms_error"]) == set(L2_NORM.names(row["mode"]))
        assert 0 < max(row["rms_error"].values()) < 1e-2
        assert row["reference"]["error"] < 1e-6
        # 2 x 64 tokens of 2 heads of 64 in bfloat16, twice read and written, or 3 of each
        arrays = 4 if row["mode"] == "forward" else 6
        assert row["floor"]["bytes"] == arrays * 2 * 2 * 64 * 2 * 64
        assert row["fraction_of_floor"] > 0 and row["memory_bytes"] >= 0


@pytest.mark.parametrize("mode", L2_NORM.modes)
def test_a_wrong_answer_is_refused(bench, mode, capsys):
    bench, folder = bench

    def wrong(q, k):
        right = L2_NORM.implementations["xla"]
        return right(q, k + 0.05)

    operation = dataclasses.replace(
        L2_NORM, name="l2_norm_wrong", modes=(mode,), implementations={"xla": wrong}
    )
    bench.failures.clear()
    bench.shape(operation, L2_NORM.reduced_shapes[0], {}, Progress())
    (failure,) = bench.failures
    assert "refused, wrong" in failure and "FAILED refused" in capsys.readouterr().err
    assert not (folder / "cpu" / "l2_norm_wrong.jsonl").exists()
    bench.failures.clear()


def test_a_reference_that_is_wrong_stops_the_shape(bench):
    bench, folder = bench

    def reference(inputs):
        return L2_NORM.reference(inputs)._replace(error=2e-4)

    operation = dataclasses.replace(L2_NORM, name="l2_norm_unchecked", reference=reference)
    bench.shape(operation, L2_NORM.reduced_shapes[0], {}, Progress())
    assert "the reference's error is 2.0e-04" in bench.failures.pop()
    assert not (folder / "cpu" / "l2_norm_unchecked.jsonl").exists()


def test_the_first_implementation_that_does_not_refuse_is_timed(bench, caplog):
    bench, _ = bench

    def refuses(q, k):
        raise NotImplementedError("not on Tuesdays")

    operation = dataclasses.replace(
        L2_NORM, implementations={**L2_NORM.implementations, "pallas": refuses}
    )
    inputs = L2_NORM.make_inputs(jax.random.key(0), L2_NORM.reduced_shapes[0])
    candidate = bench.ours(operation, "forward", [inputs])
    assert candidate.name == "xla" and "not on Tuesdays" in bench.refusals
    q, _ = candidate.calls[0]()
    expected, _ = timed_call(L2_NORM.implementations["xla"], "forward")(inputs)
    assert (q == expected).all()


def test_the_timed_call_is_the_one_compared():
    """The last repetition's results are those of the first set, whatever the numbers of both."""
    clock = timing.Clock()
    calls = [lambda i=i: jnp.float32(i) for i in range(3)]
    for repetitions in (1, 4, 5):
        times = clock.time(calls, repetitions=repetitions)
        assert times.last == 0 and len(times.ms) == repetitions


def test_actions_run_in_order_with_jax():
    """The foreign function that records events; the stream itself is a GPU's."""
    stream = cuda.JaxStream()
    seen = []
    for i in range(3):
        stream.do(lambda s, i=i: seen.append(i))
    stream.wait(jnp.ones(3) + 1)
    assert seen == [0, 1, 2]

    def fails(stream):
        raise ValueError("no such event")

    stream.do(fails)
    with pytest.raises(ValueError, match="no such event"):
        stream.wait(None)


def test_device_times_come_from_events(monkeypatch):
    """The protocol, with a library in place of CUDA's: runway, event, call, event."""
    log = []

    class Library:
        def __getattr__(self, name):
            def function(*arguments):
                if name == "cuEventElapsedTime":
                    arguments[0]._obj.value = 1.5
                log.append(name)
                return 600 if name == "cuEventQuery" else 0

            return function

    library = Library()
    monkeypatch.setattr(cuda, "_library", lambda: library)
    monkeypatch.setattr(cuda, "l2_bytes", lambda: 60 * 2**20)
    stream = cuda.JaxStream()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        patch.setattr(cuda.JaxStream, "_stream", lambda self, frame: 7)
        clock = timing.Clock()
    assert clock.copy_ms == 1.5 and stream is clock._streams["jax"]
    assert clock.rotation(10**9) == 2 and clock.rotation(60 * 2**20) == 4
    log.clear()
    times = clock.time([lambda: log.append("call") or jnp.ones(2)], repetitions=6)
    assert times.method == timing.EVENTS and times.ms == [1.5] * 6 and times.host_ahead == 1.0
    steps = [name for name in log if name in ("cuMemcpyDtoDAsync_v2", "cuEventRecord", "call")]
    copies = steps.index("cuEventRecord") - steps.index("cuMemcpyDtoDAsync_v2")
    one = ["cuMemcpyDtoDAsync_v2"] * copies + ["cuEventRecord", "call", "cuEventRecord"]
    assert steps[2 : 2 + 6 * len(one)] == one * 6  # after two calls to warm up


def test_kernels_are_found_without_a_gpu():
    """What `make aot` compiles: one kernel forward and one backward at least."""
    with jax.sharding.use_abstract_mesh(aot.MESH):
        traced = jax.jit(aot.outputs_and_gradients).trace(
            *aot.arguments(1, 64, 1, 64, 64, jnp.bfloat16)
        )
    found = list(aot.kernels(traced.jaxpr.jaxpr))
    assert len(found) >= 2 and all(name for name, _ in found)


def row(implementation, mode="forward", *, median=1.0, batch=16, day=1, run="a", **more):
    base = {
        "op": "delta_rule",
        "shape": SHAPE | {"B": batch, "T": 32768 // batch},
        "dtype": "bfloat16",
        "mode": mode,
        "implementation": implementation,
        "method": "a clock",
        "median_ms": median,
        "times_ms": [median],
        "rms_error": {"output": 0.003, "dq": 0.004},
        "first_call_s": 2.0,
        "run": run,
        "device": "NVIDIA H200",
        "driver": "1",
        "jax": "0.11.2",
        "commit": "0123456789",
        "date": f"2026-11-0{day}",
    }
    return base | more


def test_a_row_that_lacks_something_is_not_written(tmp_path):
    for field in records.FIELDS:
        wrong = {k: v for k, v in row("pallas").items() if k != field}
        with pytest.raises(ValueError, match=f"^{field}: wanted"):
            records.append(tmp_path, wrong)
    assert not list(tmp_path.iterdir())
    path = records.append(tmp_path, row("pallas"))
    assert path == tmp_path / "nvidia-h200" / "delta_rule.jsonl"
    assert records.read(path) == [row("pallas")]
    with pytest.raises(ValueError, match="Out of range float"):
        records.append(tmp_path, row("pallas", floor=float("nan")))


def test_ratios_are_of_one_run():
    rows = [
        row("pallas", median=3.0, run="a", day=1),
        row("fla", median=6.0, run="a", day=1),
        row("pallas", median=1.0, run="b", day=2),
        row("fla", median=5.0, run="b", day=3),
        row("pallas", median=0.5, run="c", day=4),  # alone: no ratio from it
        row("fla", batch=8, run="d", day=5),  # nothing of ours
    ]
    cases = records.latest(rows)
    (found,) = cases.values()
    assert {name: r["median_ms"] for name, r in found.items()} == {"pallas": 1.0, "fla": 5.0}
    assert found["pallas"]["first_call_s"] == 2.0
    table = tables.delta_rule_table(cases)
    assert "| 16, 128, 128 | 16, 2048 | 1.000 / 5.000 = 1 / 5.0 | – | not measured |" in table


def test_seconds_to_the_first_result_are_of_the_same_commit():
    cold = row("pallas", run="a", day=1)
    ahead = row("pallas", run="b", day=2, first_call_s=None)
    (found,) = records.latest([cold, ahead]).values()
    assert found["pallas"]["first_call_s"] == 2.0
    (found,) = records.latest([cold, ahead | {"commit": "9876543210"}]).values()
    assert found["pallas"]["first_call_s"] is None


def test_tables_from_records():
    both = {"memory_bytes": 2**21, "fraction_of_floor": 0.625}
    rows = [
        row("pallas", **both),
        row("fla", median=2.5, **both),
        row("pallas", "forward_and_vjp", median=2.0, **both),
        row("pallas_save", "forward_and_vjp", median=1.75, memory_bytes=2**22),
        row("fla", "forward_and_vjp", median=7.0, rms_error={"dk": 0.005}, memory_bytes=2**23),
    ]
    table = tables.delta_rule_table(records.latest(rows))
    assert table.splitlines()[2] == (
        "| 16, 128, 128 | 16, 2048 | 1.000 / 2.500 = 1 / 2.5 | 62% | 2.000 / 7.000 = 1 / 3.5 "
        "| 62% | 1.750 / 7.000 = 1 / 4.0 | 4.0e-03 / 5.0e-03 | 2 / 4 / 8 | 2.0 | 0123456 |"
    )
    recurrent = [
        row("pallas", "forward_and_vjp", median=2.0),
        row("fla_recurrent", "forward_and_vjp", median=80.0),
    ]
    table = tables.speedup_table(records.latest(recurrent))
    assert table.splitlines()[2] == "| 128 | – | – | 40.0 | – | 32.8 | 0123456 |"
    small = [
        row("xla", "vjp", median=3.0),
        row("pallas", "vjp", rms_error={"dq": 0.001}, **both),
    ]
    table = tables.small_table({"l2_norm": records.latest(small)})
    assert table.splitlines()[2].endswith(
        "| backward | pallas | 1.000 / 3.000 = 1 / 3.0 | 62% | 1.0e-03 | 0123456 |"
    )


def test_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(
        tables, "load", lambda name: records.latest([row("pallas", "forward_and_vjp"), row("fla")])
    )
    (tmp_path / tables.DEVICE).mkdir()
    tables.save_pictures()
    for picture in (tmp_path / tables.DEVICE).iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path, monkeypatch, capsys):
    """End to end in this process: rows, then the exit code."""
    values = flag_values(
        "--op=l2_norm",
        "--reduced",
        "--repetitions=2",
        "--modes=forward",
        "--peers=",
        f"--record_dir={tmp_path}",
    )
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(run, "quiet_logs", lambda: None)
    cache = jax.config.jax_enable_compilation_cache
    run.main([])
    jax.config.update("jax_enable_compilation_cache", cache)
    out = capsys.readouterr()
    assert "l2_norm B2T64H2K64 forward xla: " in out.out and "1/1" in out.err
    (line,) = (tmp_path / "cpu" / "l2_norm.jsonl").read_text().splitlines()
    assert json.loads(line)["commit"]


@pytest.mark.parametrize(
    ("capability", "found", "wanted"),
    [
        (80, {"spilled": 256, "shared": 101376}, None),
        (80, {"spilled": 321, "shared": 0}, "spills 321 bytes a thread"),
        (80, {"spilled": 0, "shared": 101377}, "101377 bytes of shared memory, there are 101376"),
        (90, {"spilled": 0, "shared": 232448}, None),
    ],
)
def test_triton_kernels_that_do_not_fit(capability, found, wanted):
    """Code for 8.0 must fit 8.6 and 8.9, whose blocks have less shared memory."""
    tile = triton_device.Tile(64, 64, 4, 2)
    launch = aot_triton.Launch("module", "forward_kernel", {}, {}, tile, capability, (1,))
    failure = aot_triton.failure(launch, found)
    assert failure is None if wanted is None else wanted in failure


def test_triton_kernels_are_compiled_for_all_gpus():
    seen = set()
    for case in aot_triton.CASES:
        first, seen = case.operator not in seen, seen | {case.operator}
        wanted = list(triton_device.SHARED_MEMORY) if first else [80, 90]
        assert aot_triton.capabilities(case) == wanted
    assert seen == set(aot_triton.OPERATORS | aot_triton.OF_ONE_TOKEN)
