"""What a stage leaves for whoever looks at a run: pictures and files that are no artifact and enter no key.

On a copy of the project with two such stages: one trains, as it were, over the whole; one works part by part.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from starloom.lineage.audit import repair, verify
from starloom.lineage.collect import collect
from starloom.lineage.store import Store
from starloom.queries.curves import loss_rows
from tests.checkouts import copy_house
from tests.corpus import make_repositories, write_recipe
from tests.test_code_changes import Checkout

pytestmark = pytest.mark.slow

WHOLE = '''"""Pretend to train.

Reads   Docs    doc_id
Writes  Losses      step, tokens, loss, learning_rate, grad_norm
        Validation  step, language, loss, tokens
"""

from __future__ import annotations

from starloom.tasks.frame.stage import Config, Runtime, RuntimeOnly, stage
from starloom.tasks.schemas import Docs, Losses, Validation


class Pretend(Config):
    """Knobs of `pretend`."""

    num_steps: int = 40
    """Rows of Losses."""
    fails: RuntimeOnly[bool] = False
    """Whether it breaks off."""


@stage(over="whole")
def pretend(docs: Docs, cfg: Pretend, runtime: Runtime) -> tuple[Losses, Validation]:
    import pyarrow as pa

    steps = list(range(1, cfg.num_steps + 1))
    table = pa.table({
        "step": steps, "tokens": [8 * step for step in steps], "loss": [8 / step for step in steps],
        "learning_rate": [0.5] * len(steps), "grad_norm": [1.0 + step % 2 for step in steps],
        "skipped": [False] * len(steps),
    })
    board = runtime.scratch / "board"
    board.mkdir(exist_ok=True)
    (board / "events.1").write_text("first")
    (board / "events.2").write_text("second")
    if cfg.fails:
        raise ValueError("broken off")
    heldout = {"step": [20, 40, 40], "language": [None, None, "Python"], "loss": [3.0, 2.0, 1.5], "tokens": [9, 9, 5]}
    runtime.show(board)
    rates = table["learning_rate"].to_numpy()
    runtime.draw("loss.png", "training_curves", steps=table["step"].to_numpy(), losses=table["loss"].to_numpy(), learning_rates=rates,
                 heldout=heldout, title="pretended")
    validation = {name: pa.array(heldout[name], Validation.SCHEMA.field(name).type) for name in Validation.SCHEMA.names}
    return Losses.of(table), Validation.of(pa.table(validation))
'''
BY_PART = '''"""Say how many documents a part has.

Reads   Docs      doc_id
Writes  Verdicts  keep
"""

from __future__ import annotations

from starloom.tasks.frame.stage import Config, Runtime, stage
from starloom.tasks.schemas import Docs, Verdicts


class Told(Config):
    """No knobs."""


@stage()
def told(docs: Docs, cfg: Told, runtime: Runtime) -> Verdicts:
    (runtime.scratch / "rows.txt").write_text(str(docs.num_rows))
    runtime.show(runtime.scratch / "rows.txt")
    return docs.verdicts([True] * docs.num_rows)
'''
SHOWN = ["board/events.1", "board/events.2", "loss.png"]


@pytest.fixture
def checkout(tmp_path):
    copy_house(tmp_path / "checkout")
    (tmp_path / "checkout" / "tasks" / "pretend.py").write_text(WHOLE)
    (tmp_path / "checkout" / "tasks" / "told.py").write_text(BY_PART)
    recipe = write_recipe(tmp_path / "r.yaml", make_repositories(tmp_path / "repositories"), "- told\n- pretend\n")
    return Checkout(tmp_path / "checkout", recipe, tmp_path / "s")


def view(checkout, run, step):
    folder = checkout.store / "runs" / run / step
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()}


def test_a_run_shows_them_and_so_does_a_later_one_that_took_the_step_from_the_store(checkout):
    first = checkout.call("run", "--no-prefect", "--workers", "1")["run"]
    shown = view(checkout, first, "pretend")
    assert sorted(shown) == sorted([*SHOWN, "losses/part-00000.parquet", "validation/part-00000.parquet"])
    assert shown["board/events.2"].read_text() == "second"
    assert shown["loss.png"].read_bytes().startswith(b"\x89PNG")
    rows = [path.read_text() for name, path in view(checkout, first, "told").items() if name.endswith("/rows.txt")]
    assert len(rows) > 1
    assert sum(map(int, rows)) == 6 * (4 + 1)  # modules and a licence
    second = checkout.call("run", "--no-prefect", "--workers", "1", "--force", "told")["run"]
    assert second != first
    assert {name: path.read_bytes() for name, path in view(checkout, second, "pretend").items()} == {
        name: path.read_bytes() for name, path in shown.items()
    }
    told = checkout_show(checkout, f"{second}/pretend")
    assert sorted(told["shown"]) == SHOWN


def checkout_show(checkout, name):
    command = [sys.executable, "-m", "starloom.cli", "show", name, "--store", str(checkout.store), "--json"]
    return json.loads(subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_how_a_picture_is_drawn_is_in_no_key(checkout):
    checkout.ran()
    checkout.edit("tasks/reporting/charts.py", 'BLUE = "#2f6fb3"', 'BLUE = "#2f6fb4"')
    assert "pretend" not in checkout.reasons()
    checkout.edit("tasks/pretend.py", "8 / step", "9 / step")
    assert set(checkout.reasons()) == {"pretend"}


def test_they_are_collected_with_their_run_and_not_before(checkout):
    run = checkout.call("run", "--no-prefect", "--workers", "1")["run"]
    store = Store.open(str(checkout.store))
    collect(store, older_than_seconds=0)
    assert view(checkout, run, "pretend")["board/events.1"].read_text() == "first"
    assert verify(store).mismatches == ()
    collect(store, keep_last=0, older_than_seconds=0)
    assert list(store.storage.names("objects")) == []
    assert not (checkout.store / "runs" / run).exists()


def test_one_that_is_damaged_is_named_and_costs_no_work(checkout):
    run = checkout.call("run", "--no-prefect", "--workers", "1")["run"]
    picture = view(checkout, run, "pretend")["loss.png"].resolve()
    picture.write_bytes(b"no picture")
    store = Store.open(str(checkout.store))
    report = verify(store)
    assert [mismatch.name for mismatch in report.mismatches] == [picture.relative_to(checkout.store.resolve()).as_posix()]
    repair(store, report)
    assert verify(store).mismatches == ()
    assert checkout.reasons() == {}


def test_the_folder_of_a_step_that_broke_off_can_be_looked_into_until_it_is_collected(checkout):
    command = [
        sys.executable,
        "-m",
        "starloom.cli",
        "run",
        str(checkout.recipe),
        "--store",
        str(checkout.store),
        "--no-prefect",
        "--workers",
        "1",
    ]
    failed = subprocess.run(
        [*command, "--set", "pretend.fails=true"], cwd=checkout.root, capture_output=True, text=True, check=False, timeout=180
    )
    assert failed.returncode == 1
    assert "broken off" in failed.stderr
    store = Store.open(str(checkout.store))
    (run,) = store.run_ids()
    assert (checkout.store / "runs" / run / "pretend" / "live" / "board" / "events.1").read_text() == "first"
    assert any(name.endswith("/rows.txt") for name in view(checkout, run, "told")), "what was done before it is there too"
    done = checkout.call("run", "--no-prefect", "--workers", "1")["run"]
    assert "live" not in view(checkout, done, "pretend")
    collect(store, keep_last=1, older_than_seconds=0)
    assert not (checkout.store / "runs" / run).exists()


def test_the_rows_of_a_curve_are_means_of_equal_stretches(checkout):
    run_id = checkout.call("run", "--no-prefect", "--workers", "1")["run"]
    store = Store.open(str(checkout.store))
    step = store.run(run_id).step("pretend")
    rows = loss_rows(store, step, num_rows=4)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    assert [row["tokens"] for row in rows] == [80, 160, 240, 320]
    assert rows[0]["loss"] == pytest.approx(sum(8 / step for step in range(1, 11)) / 10)
    assert {(row["learning_rate"], row["grad_norm"]) for row in rows} == {(0.5, 1.5)}
    assert [row["held_out"] for row in rows] == [{}, {"all": 3.0}, {}, {"all": 2.0, "Python": 1.5}]
    assert len(loss_rows(store, step, num_rows=100)) == 40


@pytest.mark.slow
def test_prefect_has_the_curve_with_its_numbers(checkout, prefect_server):
    command = [sys.executable, "-m", "starloom.cli", "run", str(checkout.recipe), "--store", str(checkout.store), "--workers", "1"]
    subprocess.run(command, cwd=checkout.root, env=prefect_server.environment, capture_output=True, check=True, timeout=300)
    ((data,),) = prefect_server.rows("select data from artifact where key = 'pretend-loss'")
    told = json.loads(data)
    assert told.startswith("![Loss of pretend in ")
    assert "](data:image/png;base64,iVBOR" in told
    assert "| step | tokens | loss | learning rate | gradient norm | held out: all | held out: Python |" in told
    assert told.count("\n|") == 2 + 12


def test_a_stage_run_alone_leaves_them_beside_what_it_wrote(checkout, tmp_path):
    pq.write_table(pa.table({"content": ["x = 1\n"]}), tmp_path / "in.parquet")
    command = [sys.executable, "-m", "starloom.cli", "stage", "pretend", str(tmp_path / "in.parquet"), str(tmp_path / "out"), "--json"]
    told = subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, check=True, timeout=60)
    assert set(SHOWN) < set(json.dumps(json.load(io.StringIO(told.stdout))).split('"'))
    assert (tmp_path / "out" / "board" / "events.1").read_text() == "first"
    assert (tmp_path / "out" / "losses.parquet").exists()
