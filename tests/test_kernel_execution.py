"""Hostile and innocent programs: what passes is what reached its last line, and nothing of the others is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from starloom.tasks.kernels.programs.execution import Limits, run_program, run_programs

pytestmark = pytest.mark.slow

LIMITS = Limits(cpu_seconds=1, memory_bytes=256 << 20, wall_seconds=4)
TESTS = "\nassert add(1, 2) == 3\n"
RIGHT = "def add(a, b):\n    return a + b\n"

CASES = {
    "right": (RIGHT + TESTS, "passed"),
    "uses the standard library": ("import math, hashlib, re, collections\n" + RIGHT + TESTS, "passed"),
    "dataclass of a module that is not __main__": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\nassert A().x == 1\nassert __name__ != '__main__'",
        "passed",
    ),
    "wrong": ("def add(a, b):\n    return a - b\n" + TESTS, "failed: AssertionError"),
    "raises": ("def add(a, b):\n    return c\n" + TESTS, "failed: NameError: name 'c' is not defined"),
    "syntax": ("def add(a, b:\n" + TESTS, "syntax-error"),
    "surrogate": ("x = '\ud800'", "syntax-error"),
    "NUL": ("x = 1\0", "syntax-error"),
    "exits before the tests": ("import sys\nsys.exit(0)\n" + TESTS, "exited: SystemExit: 0"),
    "exits hard before the tests": ("import os\nos._exit(0)\n" + TESTS, "exited: status 0"),
    "exits when the tests call it": ("def add(a, b):\n    raise SystemExit\n" + TESTS, "exited"),
    "loops": ("while True: pass", "timed-out"),
    "loops and ignores the signal": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "timed-out"),
    "catches everything": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "timed-out"),
    "sleeps": ("import time\ntime.sleep(1000)", "timed-out"),
    "memory at once": ("x = bytearray(1 << 33)", "memory"),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(1 << 27))", "memory"),
    "floods the output": ("while True: print('x' * 1_000_000)", "timed-out"),
    "prints what looks like a verdict": ("print('passed')\nraise SystemExit(0)", "exited"),
    "forges a verdict": (
        'import os\nfor fd in range(3, 4096):\n    try: os.write(fd, b\'[null, "passed", ""]\\n\')\n    except OSError: pass\nos._exit(0)',
        "failed: it wrote to the descriptor",
    ),
    "floods every descriptor": (
        "import os\nfor fd in range(3, 4096):\n    try: os.write(fd, b'x' * 1_000_000)\n    except OSError: pass\n",
        "failed: it wrote to the descriptor",
    ),
    "closes every descriptor": ("import os\nos.closerange(0, 4096)\n" + RIGHT + TESTS, "exited"),
    "reads input": ("input()", "failed: EOFError"),
    "reads all input": ("import sys\nassert sys.stdin.read() == ''", "passed"),
    "writes a large file": ("open('x', 'wb').write(bytes(1 << 21))", "failed: OSError"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "crashed: SIGSEGV"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "crashed: SIGKILL"),
    "recurses": ("def f(): return f()\nf()", "failed: RecursionError"),
    "no packages": ("import numpy", "failed: ModuleNotFoundError"),
    "no environment": ("import os\nassert 'SECRET_OF_THE_PARENT' not in os.environ", "passed"),
    "an empty folder": ("import os\nassert os.listdir('.') == []", "passed"),
    "addresses are masked": ("raise ValueError(object())", "failed: ValueError: <object object at 0x…>"),
    "an error whose text fails": ("class E(Exception):\n    def __str__(self): raise KeyError\nraise E", "failed"),
}


@pytest.fixture(scope="module")
def outcomes():
    os.environ["SECRET_OF_THE_PARENT"] = "x"
    try:
        return dict(zip(CASES, run_programs([program for program, _ in CASES.values()], LIMITS, workers=8), strict=True))
    finally:
        del os.environ["SECRET_OF_THE_PARENT"]


@pytest.mark.parametrize("name", CASES)
def test_outcome(name, outcomes):
    assert str(outcomes[name]).startswith(CASES[name][1])


def test_only_a_program_that_reached_its_last_line_has_passed(outcomes):
    passed = {name for name, outcome in outcomes.items() if outcome.outcome == "passed"}
    assert passed == {name for name, (_, expected) in CASES.items() if expected == "passed"}


def test_children_of_a_program_are_killed(tmp_path):
    pid_file = tmp_path / "pid"
    program = f"""
import os, time
if os.fork() == 0:
    with open({str(pid_file)!r}, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(1000)
while not (os.path.exists({str(pid_file)!r}) and os.path.getsize({str(pid_file)!r})):
    time.sleep(0.01)
"""
    outcome = run_program(program, LIMITS)
    if os.getuid():
        assert outcome.detail.startswith("BlockingIOError")  # an ordinary user may not fork at all
        return
    assert outcome.outcome == "passed"
    assert not is_running(int(pid_file.read_text()))


def is_running(pid: int) -> bool:
    """Whether it still runs a second from now; a zombie that waits for init to reap it does not."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state in "ZX":
            return False
        time.sleep(0.01)
    return True


def test_a_fork_of_the_program_has_no_say():
    program = "import os\nos.fork() if os.getuid() == 0 else None\nassert os.getpid() == os.getsid(0)"
    assert run_program(program, LIMITS).outcome == "passed"


def test_working_folder_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_program("open('left', 'w').write('x')\nimport os\nos.mkdir('d')", LIMITS).outcome == "passed"
    assert list(tmp_path.iterdir()) == []


def test_sets_and_random_numbers_repeat():
    program = "import random\nraise ValueError(list({'a', 'b', 'c', 'd', 'e'}), random.random())"
    assert len({run_program(program, LIMITS).detail for _ in range(3)}) == 1


def test_order_is_that_of_the_programs():
    programs = [f"raise ValueError({number})" for number in range(20)]
    assert [outcome.detail for outcome in run_programs(programs, LIMITS, workers=4)] == [f"ValueError: {n}" for n in range(20)]
    assert run_programs([], LIMITS) == []
