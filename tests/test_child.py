"""Children of a stage: their lines, their failures, their end."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from starloom.lineage.errors import Cancelled, StageError
from starloom.tasks.frame.stage import Runtime

pytestmark = pytest.mark.slow

TRAINER = """
import pathlib, signal, sys, time
def saved(*_):
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, saved)
print("ready", flush=True)
time.sleep(60)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[2], sys.argv[1]])"


def python(script: str, *words: str) -> list[str]:
    return [sys.executable, "-u", "-c", script, *words]


def test_lines_arrive_as_they_are_written(tmp_path):
    lines = []
    Runtime.alone(tmp_path).subprocess(python("print('a'); print('b')"), lines.append)
    assert lines == ["a", "b"]


def test_what_it_says_is_the_log_of_its_step_errors_too_and_figures_not(tmp_path):
    told, lines = [], []
    runtime = Runtime(tmp_path, on_append=lambda series, entry: told.append((series, entry)))
    runtime.subprocess(python("import sys; print('{\"step\": 1}'); print('a'); print('why', file=sys.stderr)"), lines.append)
    assert lines == ['{"step": 1}', "a", "why"]
    assert told == [("log", {"text": "a"}), ("log", {"text": "why"})]


def test_a_failure_shows_the_last_lines(tmp_path):
    with pytest.raises(StageError, match=r"status 3(?s:.*)the reason"):
        Runtime.alone(tmp_path).subprocess(python("print('the reason'); raise SystemExit(3)"))


def test_when_cancelled_the_whole_group_is_asked_first_and_has_time_to_save(tmp_path):
    asked = threading.Event()
    runtime = Runtime(tmp_path, is_cancelled=asked.is_set)
    with pytest.raises(Cancelled):
        runtime.subprocess(python(LAUNCHER, str(tmp_path / "state"), TRAINER), lambda _: asked.set())
    assert (tmp_path / "state").read_text() == "saved"


def test_a_child_may_be_given_more_time_to_save(tmp_path):
    asked = threading.Event()
    runtime = Runtime(tmp_path, is_cancelled=asked.is_set)
    slow = TRAINER.replace("sleep(0.5)", "sleep(4)")
    with pytest.raises(Cancelled):
        runtime.subprocess(python(slow, str(tmp_path / "state")), lambda _: asked.set(), grace_seconds=30)
    assert (tmp_path / "state").read_text() == "saved"


def test_what_ignores_the_request_is_ended_all_the_same(tmp_path):
    asked = threading.Event()
    runtime = Runtime(tmp_path, is_cancelled=asked.is_set)
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    started = time.monotonic()
    with pytest.raises(Cancelled):
        runtime.subprocess(python(script), lambda _: asked.set())
    assert time.monotonic() - started < 60
