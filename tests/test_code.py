"""Digests of code: what changes them and what does not."""

import ast
import importlib
import json
import sys
import textwrap
from pathlib import Path

import pytest

from starloom.lineage import code

STAGE = '''
"""A stage."""
from __future__ import annotations
from typing import TYPE_CHECKING
from starloom.tasks.kernels.sums import total
import starloom.tasks.kernels.marks as marks
if TYPE_CHECKING:
    from starloom.tasks.kernels.unused import Nothing
LIMIT = 3
OTHER = 4
TABLE: dict[str, int] = {"a": 1}
TABLE["b"] = 2

class Knobs:
    x: int = 1
    """What x is."""

def helper(value):
    # a comment
    return value + LIMIT

def unreached():
    return OTHER

def stage(docs, cfg: Knobs):
    """Do it."""
    from starloom.tasks.kernels.late import later
    return helper(total(docs)) + later() + marks.mark() + TABLE["a"]
'''
FILES = {
    "tasks/__init__.py": "",
    "tasks/kernels/__init__.py": "",
    "tasks/frame/walls.py": "X = 1\n",
    "tasks/a_stage.py": STAGE,
    "tasks/kernels/sums.py": "from starloom.tasks.kernels.deep import base\n\n"
    "def total(x):\n    return base(x)\n\ndef other(x):\n    return x\n",
    "tasks/kernels/deep.py": "STEP = 7\n\ndef base(x):\n    return x * STEP\n",
    "tasks/kernels/late.py": "def later():\n    return 1\n",
    "tasks/kernels/marks.py": "def mark():\n    return 1\n\ndef unmarked():\n    return 2\n",
    "tasks/kernels/unused.py": "class Nothing: ...\n",
    "model/__init__.py": "",
    "model/watching.py": "LINE = 1\n\ndef tell():\n    return LINE\n",
    "model/train.py": "from starloom.model.watching import tell\n\nRATE = 1\n\ndef main():\n    tell()\n    return RATE\n\n"
    "if __name__ == '__main__':\n    main()\n",
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    return tmp_path


def digest(*, runs=()):
    return code.digests("starloom.tasks.a_stage", "stage", runs=runs)


def edit(tree, name, before, after):
    text = (tree / name).read_text()
    assert before in text
    (tree / name).write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("tasks/a_stage.py", "# a comment", "# another comment"),
        ("tasks/a_stage.py", '"""Do it."""', '"""Do it differently said."""'),
        ("tasks/a_stage.py", '"""What x is."""', '"""What x was."""'),
        ("tasks/a_stage.py", "    return value + LIMIT", "\n    return  value  +  LIMIT\n"),
        ("tasks/a_stage.py", "return OTHER", "return OTHER + 1"),
        ("tasks/a_stage.py", "OTHER = 4", "OTHER = 5"),
        ("tasks/kernels/sums.py", "return x\n", "return x + 1\n"),
        ("tasks/kernels/marks.py", "return 2", "return 3"),
        ("tasks/kernels/unused.py", "class Nothing: ...", "class Something: ..."),
        ("tasks/frame/walls.py", "X = 1", "X = 2"),
        ("model/watching.py", "LINE = 1", "LINE = 2"),
    ],
)
def test_what_the_stage_cannot_reach_or_only_reads_as_text_changes_nothing(tree, file, before, after):
    first = digest(runs=("starloom.model.train",))
    edit(tree, file, before, after)
    assert digest(runs=("starloom.model.train",)) == first


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("tasks/a_stage.py", "LIMIT = 3", "LIMIT = 4"),
        ("tasks/a_stage.py", "x: int = 1", "x: int = 2"),
        ("tasks/a_stage.py", 'TABLE["b"] = 2', 'TABLE["b"] = 3'),
        ("tasks/a_stage.py", "return value + LIMIT", "return value - LIMIT"),
        ("tasks/kernels/sums.py", "return base(x)", "return base(x) + 1"),
        ("tasks/kernels/deep.py", "STEP = 7", "STEP = 8"),
        ("tasks/kernels/late.py", "return 1", "return 2"),
        ("tasks/kernels/marks.py", "return 1", "return 5"),
        ("tasks/kernels/deep.py", "STEP = 7", "STEP = 7\nprint('a statement at module level')"),
    ],
)
def test_a_change_that_the_stage_reaches_is_named_by_its_file(tree, file, before, after):
    first = digest()
    edit(tree, file, before, after)
    second = digest()
    assert {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)} == {file}


@pytest.mark.parametrize(
    ("stage", "kernel"),
    [
        ("from starloom.tasks.kernels.sums import *\n\ndef stage(docs):\n    return other(docs)\n", "sums"),
        ("def stage(docs):\n    from .kernels.sums import other\n    return other(docs)\n", "sums"),
        ("from .kernels import sums\n\ndef stage(docs):\n    return sums.other(docs)\n", "sums"),
        ("from . import kernels\n\ndef stage(docs):\n    return kernels.VERSION\n", "__init__"),
        (
            (
                "import starloom.tasks.kernels.sums\nimport starloom.tasks.kernels.marks\n\n"
                "def stage(docs):\n    return starloom.tasks.kernels.sums.other(docs)\n"
            ),
            "sums",
        ),
        ("def stage(docs):\n    import starloom.tasks.kernels.sums\n    return starloom.tasks.kernels.sums.other(docs)\n", "sums"),
        (
            (
                "try:\n    import starloom.tasks.kernels.sums as s\nexcept ImportError:\n    s = None\n\n"
                "def stage(docs):\n    return s.other(docs)\n"
            ),
            "sums",
        ),
        ("from starloom.tasks.kernels.again import other\n\ndef stage(docs):\n    return other(docs)\n", "sums"),
        ("from starloom.tasks.kernels.again import Child\n\ndef stage(docs):\n    return Child.run(docs)\n", "sums"),
        ("from starloom.tasks.kernels import sums\n\ndef stage(docs, how=sums.other):\n    return how(docs)\n", "sums"),
        ("from starloom.tasks.kernels.sums import other\n\n@other\ndef stage(docs):\n    return docs\n", "sums"),
        ("from starloom.tasks.kernels.sums import other\nHOW = {'a': other}\n\ndef stage(docs):\n    return HOW[docs](docs)\n", "sums"),
        (
            (
                "from starloom.tasks.kernels.sums import other\n\n"
                "def stage(docs):\n    def inner():\n        return other(docs)\n    return inner()\n"
            ),
            "sums",
        ),
        ("import starloom.tasks.kernels.sums as s\n\ndef stage(docs, cfg: s.Knobs):\n    return cfg\n", "sums"),
        ("import starloom.model._private as p\n\ndef stage(docs):\n    return p.go()\n", "model/_private"),
    ],
)
def test_however_a_definition_is_reached_it_counts(tree, stage, kernel):
    (tree / "tasks/a_stage.py").write_text(stage)
    files = {
        "tasks/kernels/sums.py": "def other(x):\n    return x + 1\n\nclass Knobs:\n    x: int = other(1)\n",
        "tasks/kernels/again.py": "from starloom.tasks.kernels.sums import other\n\nclass Parent:\n    @staticmethod\n    def run(x):\n"
        "        return other(x)\n\nclass Child(Parent):\n    pass\n",
        "tasks/kernels/__init__.py": "VERSION = 1\n",
        "model/_private.py": "def go():\n    return 1\n",
    }
    for name, text in files.items():
        (tree / name).write_text(text)
    first, file = digest(), kernel if "/" in kernel else f"tasks/kernels/{kernel}"
    edit(tree, f"{file}.py", "1\n", "2\n")
    second = digest()
    assert {name for name in first if first[name] != second.get(name)} == {f"{file}.py"}


def test_what_is_imported_and_then_changed_counts_on_both_sides(tree):
    (tree / "tasks/a_stage.py").write_text(
        "from starloom.tasks.kernels.deep import STEP\nSTEP = STEP + 1\n\ndef stage(docs):\n    return STEP\n"
    )
    first = digest()
    edit(tree, "tasks/a_stage.py", "STEP + 1", "STEP + 2")
    second = digest()
    edit(tree, "tasks/kernels/deep.py", "STEP = 7", "STEP = 8")
    assert len({json.dumps(found) for found in (first, second, digest())}) == 3


def test_what_an_unknown_decorator_may_have_registered_counts_and_what_a_known_one_wraps_does_not(tree):
    register = "import functools\nHOW = {}\n\ndef register(f):\n    HOW['a'] = f\n"
    under = "@register\ndef go():\n    return 1\n\n@functools.cache\ndef no():\n    return 3\n"
    (tree / "tasks/a_stage.py").write_text(f"{register}\n{under}\ndef stage(docs):\n    return HOW[docs]()\n")
    first = digest()
    edit(tree, "tasks/a_stage.py", "return 3", "return 4")
    assert digest() == first
    edit(tree, "tasks/a_stage.py", "return 1", "return 2")
    assert digest() != first


def test_what_a_package_does_when_it_is_imported_counts(tree):
    first = digest()
    (tree / "tasks/kernels/__init__.py").write_text("import os\nos.environ['X'] = '1'\n")
    assert set(digest()) - set(first) == {"tasks/kernels/__init__.py"}


def test_compiled_code_that_is_kept_calls_nothing_of_another_module():
    """Numba keeps machine code by the function's own file: with a callee elsewhere it would run what is gone, under a new key."""
    for file in [*Path(code.ROOT, "tasks").rglob("*.py"), *Path(code.ROOT, "model").rglob("*.py")]:
        tree = ast.parse(file.read_text())
        imports = [
            node
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("starloom.tasks", "starloom.model"))
        ]
        ours = {alias.asname or alias.name for node in imports for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any("njit" in ast.dump(decorator) for decorator in node.decorator_list):
                used = {name.id for part in node.body for name in ast.walk(part) if isinstance(name, ast.Name)}
                assert not used & ours, f"{file.name}: {node.name} uses {used & ours}"


def test_a_module_that_is_run_counts_as_a_whole(tree):
    first = digest(runs=("starloom.model.train",))
    assert "model/train.py" in first
    assert "model/train.py" not in digest()
    edit(tree, "model/train.py", "RATE = 1", "RATE = 2")
    assert digest(runs=("starloom.model.train",)) != first


def test_what_was_parsed_is_remembered_by_its_text(tree):
    memory = {}
    first = code.Reader(memory)
    expected = code.digests("starloom.tasks.a_stage", "stage", reader=first)
    assert first.grew
    again = code.Reader(json.loads(json.dumps(memory)))
    assert code.digests("starloom.tasks.a_stage", "stage", reader=again) == expected
    assert not again.grew
    edit(tree, "tasks/kernels/deep.py", "STEP = 7", "STEP = 8")
    changed = code.Reader(memory)
    assert code.digests("starloom.tasks.a_stage", "stage", reader=changed) != expected
    assert changed.grew


@pytest.mark.slow
def test_every_stage_of_the_project_has_a_digest():
    stages = importlib.import_module("starloom.tasks.frame.stage").registry()
    for name, stage in stages.items():
        found = code.digests(stage.module, stage.name, runs=stage.runs)
        assert f"tasks/{name}.py" in found
        assert not any(file.startswith(("lineage/", "tasks/frame/")) for file in found)


def test_importing_a_stage_imports_nothing_heavy():
    script = textwrap.dedent("""
        import sys
        from starloom.tasks.frame.stage import registry
        registry()
        heavy = {"numba", "torch", "prefect", "presidio_analyzer", "detect_secrets", "tokenizers", "matplotlib", "spacy"} & set(sys.modules)
        assert not heavy, heavy
    """)
    import subprocess

    subprocess.run([sys.executable, "-c", script], check=True)
