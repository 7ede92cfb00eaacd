"""A small corpus of repositories on disk, and a way to run a recipe over it."""

from __future__ import annotations

from pathlib import Path

from starloom.flows.run import NoWatcher, Request, execute, prepare, take_cached

SHARED = Path(__file__).parents[1].parent / "shared"
MIT = """MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR
ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH
THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def function(name: str, body: int) -> str:
    """A Python function of some length, of which no two with another `body` resemble each other."""
    words = "\n    ".join(f"value_{name}_{body}_{i} of item_{body}_{i}" for i in range(20))
    lines = "\n".join(f"    {name}_{body}_{i} = compute_{name}_{body}_{i}(alpha_{body}, beta_{i})" for i in range(12))
    return f'def {name}(alpha_{body}, beta):\n    """{words}"""\n{lines}\n    return {name}_{body}_0\n'


def make_repositories(root: Path, *, num_repos: int = 6, files: int = 4) -> Path:
    """MIT repositories of small Python modules below `root`."""
    for r in range(num_repos):
        folder = root / f"repo{r}"
        (folder / "src").mkdir(parents=True)
        (folder / "LICENSE").write_text(MIT)
        for f in range(files):
            (folder / "src" / f"module{f}.py").write_text(function(f"work{r}x{f}", r * 100 + f))
    return root


def write_recipe(path: Path, repositories: Path, stages: str, part_bytes: int = 4000) -> Path:
    """A recipe over a folder of repositories, followed by `stages` (YAML list items)."""
    path.write_text(
        f"name: test\nseed: 1\nstages:\n- ingest:\n    sources: [{{kind: directory, name: local, path: {repositories}}}]\n"
        f"    part_bytes: {part_bytes}\n{stages}"
    )
    return path


def run_recipe(recipe: Path, store: Path | str, *settings_: str, workers: int = 0, **words):
    """Run a recipe without Prefect; returns the run's record."""
    prepared = prepare(Request(str(recipe), settings_, str(store), **words))
    if prepared.is_cached:
        return take_cached(prepared)[0]
    return execute(prepared, NoWatcher(), workers=workers)


def hashes(run) -> dict[str, dict[str, str]]:
    """Step → type → artifact of a run."""
    return {step.name: {kind: out["artifact"] for kind, out in step.outputs.items()} for step in run.steps}
