"""ClamAV: files that its `clamscan` knows as malware, as StarCoder2 removed them (arXiv 2402.19173 §2.1).

ClamAV is no library but a program with signatures that are fetched daily; which they are decides what is found, and is part of a key.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from starloom.lineage.errors import ConfigError, StageError

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

PROGRAM = "clamscan"
CLEAN, FOUND = 0, 1
_FOUND = re.compile(r"^.*/(\d+): (.+) FOUND$", re.MULTILINE)


def check_installed(knob: str) -> None:
    """Check that the program is there.

    Raises:
        ConfigError: naming the knob that asks for it.
    """
    if shutil.which(PROGRAM) is None:
        raise ConfigError(
            f"{knob}: malware is looked for by ClamAV, and there is no {PROGRAM} on the PATH",
            hint="install it (apt install clamav, then freshclam), or leave malware out of `measure`",
        )


@functools.cache
def signatures() -> str:
    """Return the versions of the engine and of its signatures; `none` where it is not installed."""
    program = shutil.which(PROGRAM)
    if program is None:
        return "none"
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - fixed words


def malware(texts: pa.ChunkedArray, scratch: Path) -> pa.Array:
    """Return the name of the malware that each text is, null for the others.

    Raises:
        ConfigError: if ClamAV is not installed.
        StageError: if it fails.
    """
    import pyarrow as pa

    check_installed("quality_filter.measure")
    folder = scratch / "scanned"
    folder.mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / str(number)).write_bytes(text.as_buffer())
    words = [PROGRAM, "--no-summary", "--infected", "--stdout", "--recursive", str(folder)]
    told = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    shutil.rmtree(folder)
    if told.returncode not in (CLEAN, FOUND):
        last = (told.stderr or told.stdout).strip().splitlines()[-1:] or ["it says nothing"]
        raise StageError(f"{PROGRAM} failed with status {told.returncode}: {last[0]}", hint="has freshclam fetched its signatures?")
    found = dict(_FOUND.findall(told.stdout))
    return pa.array([found.get(str(number)) for number in range(len(texts))], pa.string())
