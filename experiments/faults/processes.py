# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of whole runs.

Every fault ends with runs that are left alone; what they end with must equal an unbroken run bit
for bit: arrays, data position, rows of metrics.
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.stop import HUNG, INTERRUPTED, IO_ERROR, NOT_FINITE
from experiments.faults.broken import KILLS
from experiments.faults.outcome import Outcome
from experiments.faults.runs import LONGEST, Process, Runs, limit_files

BROKEN = "experiments.faults.broken"
# From a signal to the end of the process, or as long as a whole run takes on a machine so busy.
EXIT_SECONDS = 10.0
TOO_SMALL_BYTES = 40_000  # for a checkpoint's largest file; for all others of a run it is enough
HANG_SECONDS = 20.0  # a busy machine may take some for a step, too


def alone(runs: Runs, count: int) -> Outcome:
    """Runs that nothing happens to: every process has another PYTHONHASHSEED."""
    outcome = Outcome("a run left alone, another hash seed")
    for _ in range(count):
        outcome.caused += 1
        outcome.add_problem(runs.ends_like_the_whole(runs.new_workdir()))
    return outcome


def _disturbed(
    runs: Runs,
    count: int,
    name: str,
    disturb: Callable[[Process], tuple[bool, str | None]],
    start: Callable[[Path], Process] | None = None,
) -> Outcome:
    """`disturb` hits `count` processes, about three in a row on the same directory.

    It returns whether it did, and what was wrong; a process that had finished by itself is not
    counted, and the last of its directory.
    """
    outcome, missed = Outcome(name), 0
    while outcome.caused < count and missed <= 9 + 2 * count:
        workdir = runs.new_workdir()
        for _ in range(min(count - outcome.caused, int(runs.rng.integers(1, 5)))):
            hit, problem = disturb((start or runs.start)(workdir))
            outcome.add_problem(problem)
            outcome.add_problem(runs.lost_too_much(workdir))
            if not hit:
                missed += 1
                outcome.add_problem(None if problem else runs.unlike_the_whole(workdir))
                break
            outcome.caused += 1
        else:
            outcome.add_problem(runs.ends_like_the_whole(workdir))
    if outcome.caused < count:
        outcome.add_problem(f"only {outcome.caused} of {count} were hit")
    return outcome


def kill(runs: Runs, count: int) -> Outcome:
    """SIGKILL at moments anywhere in a run, from its import to its last evaluation."""

    def disturb(process: Process) -> tuple[bool, str | None]:
        if not process.ends_within(runs.random_moment()):
            process.popen.kill()
        code, said = process.end()
        problem = None if code in (-signal.SIGKILL, 0) else f"exit code {code}: {said[-500:]}"
        return code == -signal.SIGKILL, problem

    return _disturbed(runs, count, "kill -9 at a random moment", disturb)


def kill_in_commit(runs: Runs, count: int) -> Outcome:
    """SIGKILL between two steps of a save's commit, at one of the first saves."""

    def start(workdir: Path) -> Process:
        place = sorted(KILLS)[int(runs.rng.integers(len(KILLS)))]
        return runs.start(workdir, module=(BROKEN, place, str(runs.rng.integers(1, 4))))

    def disturb(process: Process) -> tuple[bool, str | None]:
        code, said = process.end()
        # 0: too few saves were left for the one it was to be killed in.
        problem = None if code in (-signal.SIGKILL, 0) else f"exit code {code}: {said[-500:]}"
        return code == -signal.SIGKILL, problem

    return _disturbed(runs, count, "kill -9 between writing and commit", disturb, start)


def terminate(runs: Runs, count: int) -> Outcome:
    """SIGTERM or SIGINT anywhere after the imports; the code must be the documented one."""
    slowest = 0.0

    def disturb(process: Process) -> tuple[bool, str | None]:
        nonlocal slowest
        number = signal.SIGTERM if runs.rng.integers(2) else signal.SIGINT
        # Before the handlers are there a signal ends the process as always; nothing is done yet.
        process.ends_within(0.5 * runs.seconds + 0.5 * runs.random_moment())
        process.popen.send_signal(number)
        began = time.monotonic()
        code, said = process.end()
        seconds = time.monotonic() - began
        name = signal.Signals(number).name
        if code not in (0, INTERRUPTED, -number):  # 0: it was finished
            return False, f"{name}: exit code {code}: {said[-500:]}"
        if code == INTERRUPTED:
            slowest = max(slowest, seconds)
            if seconds > max(EXIT_SECONDS, runs.seconds):
                return True, f"{name}: ended {seconds:.1f} s later"
        return code != 0, None

    outcome = _disturbed(runs, count, "SIGTERM or SIGINT at a random moment", disturb)
    outcome.figures = {"slowest_seconds_from_signal_to_end": slowest}
    return outcome


def full_disk(runs: Runs, count: int) -> Outcome:
    """No file can grow beyond a random size: refused, or ended with the documented code."""
    outcome = Outcome("files cannot grow (disk full)")
    for _ in range(count):
        workdir = runs.new_workdir()
        limit = int(runs.rng.integers(2_000, 20_000))
        code, said = runs.start(workdir, limit_bytes=limit).end()
        outcome.caused += 1
        problem = runs.ends_like_the_whole(workdir)
        # Orbax logs traces of its own; the run's last word must be its own too.
        if code not in (1, IO_ERROR) or "\nerror: " not in said:
            problem = f"exit code {code}: {said[-500:]}"
        outcome.add_problem(problem)
    return outcome


def full_for_a_while(runs: Runs, count: int) -> Outcome:
    """Checkpoints do not fit for some twenty steps: each is said once, and the run goes on."""
    outcome = Outcome("checkpoints that do not fit for twenty steps")
    for _ in range(count):
        workdir = runs.new_workdir()
        rows = workdir / "metrics.jsonl"
        process = runs.start(workdir, "--on_save_error=continue", limit_bytes=TOO_SMALL_BYTES)

        def twenty_more(rows=rows) -> bool:
            return rows.exists() and len(read_metrics(rows)) > 20

        _wait_for([process], twenty_more)
        limit_files(process.popen.pid)
        code, said = process.end()
        failed = re.findall(r"checkpoint of step (\d+) could not be saved: .*; going on", said)
        outcome.caused += 1
        problem = runs.unlike_the_whole(workdir)
        if code or len(failed) < 2 or len(set(failed)) < len(failed):
            problem = f"exit code {code}, failed saves {failed}: {said[-500:]}"
        outcome.add_problem(problem)
    return outcome


def _wait_for(pair: list[Process], happened: Callable[[], bool]) -> None:
    while not happened() and all(process.running() for process in pair):
        time.sleep(0.005)


def two_processes(runs: Runs, count: int) -> Outcome:
    """A signal to one of two processes: both save the same step, and go on together after."""
    outcome = Outcome("SIGTERM to one of two processes")
    for number in range(count):
        workdir = runs.new_workdir()
        pair = runs.start_pair(workdir)
        rows, saves = workdir / "metrics.jsonl", workdir / "checkpoints"
        hit = int(runs.rng.integers(2))
        match number % 3:
            case 0:
                _wait_for(pair, lambda rows=rows: rows.exists() and bool(read_metrics(rows)))
            case 1:  # while compiling; the first process has the lock, and its handlers before it
                hit = 0
                _wait_for(pair, (workdir / "machine.json").exists)
            case 2:
                _wait_for(pair, lambda saves=saves: any(saves.glob("*.saving*")))
        pair[hit].popen.send_signal(signal.SIGTERM)
        ends = [process.end() for process in pair]
        steps = [re.findall(r"error: interrupted; step (\d+) is saved", said) for _, said in ends]
        with Checkpoints(saves) as checkpoints:
            saved = [[str(checkpoints.newest() or 0)]] * 2
        codes = [code for code, _ in ends + [process.end() for process in runs.start_pair(workdir)]]
        outcome.caused += 1
        if codes != [INTERRUPTED, INTERRUPTED, 0, 0] or steps != saved:
            outcome.add_problem(f"exit codes {codes}, steps {steps}, saved {saved[0]}")
    return outcome


def kill_one_of_two(runs: Runs, count: int) -> Outcome:
    """SIGKILL of one of two processes: the other one ends too, and both start again."""
    outcome = Outcome("kill -9 of one of two processes")
    slowest = 0.0
    for number in range(count):
        workdir = runs.new_workdir()
        pair = runs.start_pair(workdir)
        saves = workdir / "checkpoints"
        _wait_for(pair, lambda saves=saves: (saves / "5").exists())
        pair[number % 2].popen.kill()
        began = time.monotonic()
        left, _ = pair[1 - number % 2].end()
        slowest = max(slowest, time.monotonic() - began)
        pair[number % 2].end()
        codes = [process.end()[0] for process in runs.start_pair(workdir)]
        with Checkpoints(saves) as checkpoints:
            newest = checkpoints.newest()
        outcome.caused += 1
        if left == 0 or codes != [0, 0] or newest != 60:
            outcome.add_problem(f"exit codes {[left, *codes]}, newest step {newest}")
    outcome.figures = {"slowest_seconds_until_the_other_ends": slowest}
    return outcome


def hang(runs: Runs, count: int) -> Outcome:
    """A step that never ends: the run does, with its code and its stacks, and goes on after."""
    outcome = Outcome("a step that hangs")
    for _ in range(count):
        workdir = runs.new_workdir()
        step = str(runs.rng.integers(2, 30))
        flag = f"--hang_seconds={HANG_SECONDS}"
        code, said = runs.start(workdir, flag, module=(BROKEN, "hangs", step)).end()
        outcome.caused += 1
        problem = runs.ends_like_the_whole(workdir)
        if code != HUNG or "in _hang" not in said:
            problem = f"exit code {code}: {said[-500:]}"
        outcome.add_problem(problem)
    return outcome


def clock(runs: Runs, count: int) -> Outcome:
    """Clocks that jump by ten years: at worst a save fails (Orbax has a time limit for it)."""
    outcome = Outcome("a clock that jumps by ten years")
    for _ in range(count):
        workdir = runs.new_workdir()
        looks = str(runs.rng.integers(2, 60))
        code, said = runs.start(workdir, module=(BROKEN, "clock_jumps", looks)).end()
        outcome.caused += 1
        problem = runs.lost_too_much(workdir) or runs.ends_like_the_whole(workdir)
        if code not in (0, IO_ERROR):
            problem = f"exit code {code}: {said[-500:]}"
        outcome.add_problem(problem)
    return outcome


def not_finite(runs: Runs, count: int) -> Outcome:
    """Weights that overflow: the run stops with its code, and the step can be run again."""
    outcome = Outcome("losses that are not finite")
    for _ in range(count):
        workdir = runs.new_workdir()
        code, said = runs.start(workdir, "--learning_rate=1e38", "--max_skipped_steps=3").end()
        command = [sys.executable, "-m", "experiments.replay", f"--workdir={workdir}"]
        again = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
        outcome.caused += 1
        if code != NOT_FINITE or "3 skipped in a row" not in said:
            outcome.add_problem(f"exit code {code}: {said[-500:]}")
        elif again.returncode or not json.loads(again.stdout)["not_finite"]:
            outcome.add_problem(f"replay: {again.returncode} {again.stdout}{again.stderr[-500:]}")
    return outcome


def second_run(runs: Runs, count: int) -> Outcome:
    """A second run in a directory that is in use is refused; the first one goes on."""
    outcome = Outcome("a second run in the same directory")
    slowest = 0.0
    for _ in range(count):
        workdir = runs.new_workdir()
        first = runs.start(workdir)
        _wait_for([first], (workdir / "lock").exists)
        began = time.monotonic()
        second_code, second_said = runs.start(workdir).end()
        if second_code:
            slowest = max(slowest, time.monotonic() - began)
        first_code, first_said = first.end()
        outcome.caused += 1
        problem = runs.ends_like_the_whole(workdir)
        # A second one that comes after the end of the first finds nothing to do.
        if second_code and "in use by another run" not in second_said:
            problem = f"second run: exit code {second_code}: {second_said[-500:]}"
        if first_code:
            problem = f"first run: exit code {first_code}: {first_said[-500:]}"
        outcome.add_problem(problem)
    outcome.figures = {"slowest_seconds_until_it_is_refused,_imports_included": slowest}
    return outcome
