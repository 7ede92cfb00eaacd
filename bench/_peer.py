"""Peers that cannot be installed beside us: each in a virtual environment of its own, asked as a process.

A peer's driver (`bench/_peer_NAME.py`) runs under that environment's interpreter and imports nothing of ours. It is
started by the warm-up and stays, so that imports are not timed; then one line of JSON asks and one answers
(`bench/_peer_serve.py`).

Environments lie in the folder `peers` of the environment that runs the benches, or where STARLOOM_BENCH_VENVS says:
several checkouts may share them. `python -m starloom.bench NAME --install` builds those of a bench.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MARK = "requirements.txt"
"""Written last: an environment that was not finished, or that others were asked for, is built again."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with pinned distributions, and the driver that runs in it."""

    name: str
    requirements: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder of the environment."""
        return Path(os.environ.get("STARLOOM_BENCH_VENVS") or Path(sys.prefix, "peers"), self.name)

    def is_built(self) -> bool:
        """Return whether the environment exists, with exactly these requirements."""
        mark = self.folder / MARK
        return mark.exists() and mark.read_text().split("\n") == list(self.requirements)

    def build(self) -> None:
        """Create the environment from scratch.

        Raises:
            subprocess.CalledProcessError: if a distribution cannot be installed.
        """
        venv.create(self.folder, clear=True, with_pip=True)
        install = [str(self.folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *self.requirements]
        subprocess.run(install, check=True)  # noqa: S603 - the requirements are constants of a bench
        (self.folder / MARK).write_text("\n".join(self.requirements))

    def ask(self, **request: Any) -> Any:
        """Return the result of the driver's `run` for these arguments (JSON values); starts the driver if it is not running.

        Raises:
            RuntimeError: with what the driver says, if it fails.
        """
        driver, log = _started(self)
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(json.dumps(request) + "\n")
        driver.stdin.flush()
        answer = json.loads(driver.stdout.readline() or "null")
        if answer is None or "error" in answer:
            reason = answer["error"] if answer else f"its process ended with status {driver.wait()}"
            raise RuntimeError(f"{reason} (log: {log})")
        return answer["result"]

    def processor_seconds(self) -> float:
        """Return the processor seconds of the driver and of its children that have ended; starts the driver if it is not running."""
        import psutil

        times = psutil.Process(_started(self)[0].pid).cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)


@functools.cache
def _started(environment: Environment) -> tuple[subprocess.Popen[str], str]:
    """Start the driver; return its process and the file for its output. It ends with us: its standard input closes."""
    python = environment.folder / "bin" / "python"
    driver = HERE / f"_peer_{environment.name.replace('-', '_')}.py"
    with (environment.folder / "log.txt").open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - a driver of ours in an environment that we built
            # -P: the folder of this file holds modules named like the stages, and must not come first on the path.
            [str(python), "-P", str(HERE / "_peer_serve.py"), str(driver)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        return process, log.name
