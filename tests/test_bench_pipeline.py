"""The bench of the whole pipeline: seconds that add up, and functions that are put back."""

from __future__ import annotations

import gc
import time

import pyarrow as pa
import pytest

from starloom.bench.pipeline import __main__ as command
from starloom.bench.pipeline.clock import COUNTED, Clock
from starloom.lineage import parquet


@pytest.mark.slow
def test_each_step_is_told_by_what_its_seconds_went_into(tmp_path):
    report = command.time_stages(0.3, 0.2, "license_filter", tmp_path)
    assert list(report["steps"]) == ["ingest", "license_filter.statements", "license_filter"]
    assert report["bytes"] > 100_000
    for name in ("kernel", "read", "write", "hash"):
        assert report["steps"]["license_filter"][name] > 0, name
    assert list(tmp_path.iterdir()) == []
    assert "MB/s a core" in command._lines(report)


def test_a_step_that_is_not_there_is_a_problem_told(capsys, monkeypatch):
    monkeypatch.setattr(command, "SETTINGS_OF_LIBRARIES", {})
    monkeypatch.setattr(command, "NEW_OBJECTS_BEFORE_GC", gc.get_threshold()[0])
    assert command.main(["--until", "pack"]) == 2
    assert "pack_fim" in capsys.readouterr().err


def test_what_is_done_between_two_batches_is_not_reading_and_all_is_put_back(tmp_path):
    parquet.write_table(pa.table({"row": [1]}), tmp_path / "t.parquet", 8)
    before = [getattr(home, name) for _, home, name in COUNTED]
    clock = Clock()
    with clock.installed(), clock.counting("all"):
        for _ in parquet.read_batches(tmp_path / "t.parquet", None, 8):
            until = time.process_time() + 0.2
            while time.process_time() < until:
                pass
    assert clock.seconds["read"] < 0.1 < clock.seconds["all"]
    assert [getattr(home, name) for _, home, name in COUNTED] == before
    with pytest.raises(FileNotFoundError), clock.installed():
        parquet.write_table(pa.table({"row": [1]}), tmp_path / "no" / "t.parquet", 8)
    assert [getattr(home, name) for _, home, name in COUNTED] == before
