"""Languages of files: accuracy on Linguist's own samples by language, and the speed on an installed environment.

    python -m starloom.bench.languages --samples CHECKOUT/samples [--all] [--files N]

CHECKOUT is a clone of github-linguist/linguist (9.6.0 for the figures in docs/performance.md). Each sample lies in the folder of
its language. Ours is judged by path and contents, without and with Magika; Magika alone by contents, and counts as right
if the language is one that its answer may stand for. The table shows languages that any of them gets wrong; `--all`: all.
The second table times `identify` on N files (35,000) of this environment, as ingest would read them.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from starloom.lineage.errors import ConfigError, StarloomError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from starloom.tasks.kernels.languages.content_model import ContentModel

_FOLDERS = {"Fstar": "F*", "ProC": "Pro*C"}
"""Folders of samples that are not named as their language is."""

_LEFT_OUT = {"__pycache__", "licensedcode"}
"""Folders of the environment that are not timed: caches, and ScanCode's 40,000 texts of licences."""

_MAX_BYTES = 10 * 1024 * 1024
Sample = tuple[str, str, bytes]


def main(argv: list[str] | None = None) -> int:
    """Run the command; its exit status is 0 or 2 (misused)."""
    parser = argparse.ArgumentParser(prog="python -m starloom.bench.languages", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=Path, help="the folder `samples` of a clone of github-linguist/linguist")
    parser.add_argument("--all", action="store_true", help="show also the languages that all get right")
    parser.add_argument("--files", type=int, default=35_000, help="files of this environment to time (0: none)")
    options = parser.parse_args(argv)
    try:
        if options.samples:
            print("\n".join(accuracy_lines(read_samples(options.samples), everything=options.all)))
        if options.files:
            print("\n".join(speed_lines(options.files)))
    except StarloomError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def read_samples(folder: Path) -> list[Sample]:
    """Return (language, path, contents) of each sample, ordered.

    Raises:
        ConfigError: the folder holds none.
    """
    found = sorted(path for path in folder.glob("*/**/*") if path.is_file() and not path.is_symlink())
    if not found:
        raise ConfigError(f"{folder} holds no samples", hint="git clone github-linguist/linguist and give its folder `samples`")
    languages = [path.relative_to(folder).parts[0] for path in found]
    return [(_FOLDERS.get(name, name), path.name, path.read_bytes()) for name, path in zip(languages, found, strict=True)]


def accuracy_lines(samples: list[Sample], *, everything: bool) -> list[str]:
    """Return the table of how many samples of each language are told rightly: by name, by rules, with Magika, by Magika alone."""
    from starloom.tasks.kernels.languages.content_model import content_model, label_languages
    from starloom.tasks.kernels.languages.identify import identify
    from starloom.tasks.kernels.languages.names import usual_language

    paths, contents = _columns(samples)
    truth = [language for language, _, _ in samples]
    model = content_model()
    rules, _ = identify(paths, contents)
    counted = _Counted(model)
    both, _ = identify(paths, contents, counted)
    labels = [label_languages().get(label or "", ()) for label in model.labels(contents)]
    known = {language for languages in label_languages().values() for language in languages}
    right = {
        "by name": [usual_language(path) == language for language, path, _ in samples],
        "rules": [found == language for found, language in zip(rules, truth, strict=True)],
        "rules + Magika": [found == language for found, language in zip(both, truth, strict=True)],
        "Magika alone": [language in languages for languages, language in zip(labels, truth, strict=True)],
    }
    counts = {name: Counter(language for language, is_right in zip(truth, told, strict=True) if is_right) for name, told in right.items()}
    sizes = Counter(truth)
    shown = [name for name in sorted(sizes) if everything or any(counts[tool][name] < sizes[name] for tool in ("rules", "rules + Magika"))]
    lines = [_row("language", "files", *right), *(_row(name, sizes[name], *(counts[tool][name] for tool in right)) for name in shown)]
    for label, rows in (("all", range(len(truth))), ("of Magika's languages", [row for row, name in enumerate(truth) if name in known])):
        shares = (f"{100 * sum(told[row] for row in rows) / len(rows):.1f} %" for told in right.values())
        lines.append(_row(label, len(rows), *shares))
    return [*lines, f"asked of Magika: {counted.count} of {len(truth)}"]


def speed_lines(num_files: int) -> list[str]:
    """Return the table of seconds for files of this environment, without and with Magika."""
    import pyarrow.compute as pc

    from starloom.tasks.kernels.languages.content_model import content_model
    from starloom.tasks.kernels.languages.identify import identify
    from starloom.tasks.kernels.languages.origins import are_documentation, are_generated, are_vendored
    from starloom.tasks.kernels.sources.languages import are_license_paths

    paths, contents = _columns(list(_environment(num_files)))
    is_asked = pc.invert(are_license_paths(paths)).to_numpy(zero_copy_only=False)
    counted = _Counted(content_model())
    lines = [f"{len(paths)} files, {contents.nbytes / 1e6:.0f} MB", _row("", "seconds", "of a processor")]
    for name, guess in (("rules", None), ("rules + Magika", counted)):
        began, used = time.perf_counter(), time.process_time()
        _, strategies = identify(paths, contents, guess, is_asked)
        lines.append(_row(name, f"{time.perf_counter() - began:.2f}", f"{time.process_time() - used:.2f}"))
    began, used = time.perf_counter(), time.process_time()
    are_vendored(paths), are_documentation(paths), are_generated(paths, contents)
    lines.append(_row("vendored, …", f"{time.perf_counter() - began:.2f}", f"{time.process_time() - used:.2f}"))
    counts = ", ".join(f"{name} {count}" for name, count in Counter(strategies).most_common())
    return [*lines, f"asked of Magika: {counted.count}; settled by {counts}"]


class _Counted:
    """A model that counts the files that it is asked about."""

    def __init__(self, model: ContentModel) -> None:
        self.model, self.count = model, 0

    def __call__(self, contents: pa.Array, candidates: list[tuple[str, ...]]) -> list[str | None]:
        self.count += len(contents)
        return self.model.guess(contents, candidates)


def _environment(num_files: int) -> Iterator[Sample]:
    """Yield the first files of the environment that ingest would take for text."""
    from starloom.tasks.kernels.sources.languages import may_tell_language

    root = sysconfig.get_paths()["purelib"]
    found = sorted(
        os.path.join(folder, name) for folder, _, names in os.walk(root) if not _LEFT_OUT & set(folder.split(os.sep)) for name in names
    )
    taken = 0
    for path in found:
        if taken < num_files and may_tell_language(os.path.relpath(path, root)) and os.path.getsize(path) <= _MAX_BYTES:
            content = Path(path).read_bytes()
            if b"\0" not in content:
                taken += 1
                yield "", os.path.relpath(path, root), content


def _columns(samples: list[Sample]) -> tuple[pa.Array, pa.Array]:
    import pyarrow as pa

    return pa.array([path for _, path, _ in samples]), pa.array([content for _, _, content in samples], pa.large_binary())


def _row(name: object, *cells: object) -> str:
    return f"{name!s:28}" + "".join(f"{cell!s:>16}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
