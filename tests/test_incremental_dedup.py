"""What deduplication does again when the corpus or a knob changes: signatures of touched parts, the decision, and no more.

A part counts as touched if the documents that a step reads in it are others than before; what ran is read off the record.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from starloom.lineage.store import Store
from starloom.tasks.frame.step import Ref
from starloom.tasks.frame.work import opened_ref
from tests.corpus import function, make_repositories, run_recipe
from tests.test_kernel_sources import install

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

STAGES = """\
- license_filter: {allow_classes: [permissive, no-license, unknown-license, non-permissive]}
- exact_dedup
- train_tokenizer: {vocab_size: 400}
- near_dedup
- redact_pii
- encode
"""
SIGNATURES, DECISION = "near_dedup.signatures", "near_dedup"
PARTWISE = (SIGNATURES, "redact_pii", "encode")


class Corpus:
    """Repositories, a recipe over them, and a store with its first run."""

    def __init__(self, folder: Path):
        self.folder, self.repositories = folder, folder / "repositories"
        self.sources = [f"{{kind: directory, name: local, path: {self.repositories}}}"]

    def run(self, *settings):
        recipe = self.folder / "r.yaml"
        sources = ", ".join(self.sources)
        recipe.write_text(f"name: t\nseed: 1\nstages:\n- ingest:\n    sources: [{sources}]\n    part_bytes: 4000\n{STAGES}")
        return run_recipe(recipe, self.folder / "store", *settings)

    def copy(self, folder):
        shutil.copytree(self.folder, folder, symlinks=True)
        return Corpus(folder)

    def parts(self, run, step):
        """The documents that a step reads, part by part."""
        ref = next(ref for ref in run.step(step).inputs.values() if ref["type"] == "Docs")
        view: Any = opened_ref(Store.open(str(self.folder / "store")), Ref("Docs", ref["artifact"], ref["verdicts"]))
        return [tuple(tuple(row.values()) for row in part.read(["doc_id", "swhid"]).to_pylist()) for part in view.parts]

    def num_touched(self, before, after, step):
        known = set(self.parts(before, step))
        return sum(part not in known for part in self.parts(after, step))

    def fates(self, run):
        """repo/path → whether near_dedup kept it, of the documents that it saw."""
        store = Store.open(str(self.folder / "store"))
        docs, verdicts = run.step(DECISION).inputs["docs"], run.step(DECISION).outputs["Verdicts"]["artifact"]
        texts: Any = opened_ref(store, Ref("Docs", docs["artifact"]))
        judged: Any = opened_ref(store, Ref("Verdicts", verdicts))
        rows = zip(texts.read(["repo", "path"]).to_pylist(), judged.read(["keep"]).column("keep").to_pylist(), strict=True)
        return {f"{t['repo']}/{t['path']}": keep for t, keep in rows if keep is not None}


def ran(run):
    """Step → how many of its actions were not in the store."""
    return {step.name: step.num_actions - step.num_cached for step in run.steps}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Twelve repositories; a file of the first is in two others, once almost as it is, once rather changed."""
    corpus = Corpus(tmp_path_factory.mktemp("corpus") / "first")
    make_repositories(corpus.repositories, num_repos=12, files=2)
    lines = (corpus.repositories / "repo0" / "src" / "module0.py").read_text().splitlines()
    (corpus.repositories / "repo1" / "src" / "copied.py").write_text("\n".join([*lines, "# one line more"]))
    (corpus.repositories / "repo2" / "src" / "changed.py").write_text(
        "\n".join([*lines, *(f"other_{i} = value_{i} + {i}" for i in range(10))])
    )
    run = corpus.run()
    assert all(ran(run).values())
    assert run.step(SIGNATURES).num_actions > 8
    copies = [kept for name, kept in corpus.fates(run).items() if name in COPIES]
    assert sorted(copies) == [False, False, True], "the corpus shows nothing"
    return corpus, run


COPIES = ("repo0/src/module0.py", "repo1/src/copied.py", "repo2/src/changed.py")


@pytest.fixture
def corpus(first, tmp_path):
    return first[0].copy(tmp_path / "corpus"), first[1]


def check(corpus, before, after):
    """What must hold of every change of the corpus: each part-wise step ran for touched parts alone."""
    done = ran(after)
    assert done[DECISION] == 1
    for step in (SIGNATURES, "redact_pii"):
        touched = corpus.num_touched(before, after, step)
        assert done[step] == touched < after.step(step).num_actions - 4, step
    return done


# The corpus changes


def test_a_new_source_is_signed_and_no_part_that_it_does_not_reach(corpus):
    corpus, before = corpus
    make_repositories(corpus.folder / "more", num_repos=1, files=1)
    (corpus.folder / "more" / "repo0").rename(corpus.folder / "more" / "newcomer")
    (corpus.folder / "more" / "newcomer" / "src" / "module0.py").write_text(function("newcomer", 5000))
    corpus.sources.append(f"{{kind: directory, name: more, path: {corpus.folder / 'more'}}}")
    after = corpus.run()
    assert 1 <= check(corpus, before, after)[SIGNATURES] <= 2  # its part, or the two that its part was cut into
    assert after.step("ingest").outputs["Docs"]["counts"]["rows"] == before.step("ingest").outputs["Docs"]["counts"]["rows"] + 2


def test_a_new_source_with_a_copy_touches_below_only_its_part_and_that_of_the_copy_which_goes(corpus):
    corpus, before = corpus
    make_repositories(corpus.folder / "more", num_repos=1, files=1)
    (corpus.folder / "more" / "repo0").rename(corpus.folder / "more" / "newcomer")
    text = (corpus.repositories / "repo7" / "src" / "module1.py").read_text()
    (corpus.folder / "more" / "newcomer" / "src" / "module0.py").write_text(text + "# as if it were mine\n")
    corpus.sources.append(f"{{kind: directory, name: more, path: {corpus.folder / 'more'}}}")
    after = corpus.run()
    done, fates = check(corpus, before, after), corpus.fates(after)
    assert {fates["repo7/src/module1.py"], fates["newcomer/src/module0.py"]} == {True, False}
    assert 1 <= done[SIGNATURES] <= 2
    assert done["redact_pii"] <= done[SIGNATURES] + 1


def test_a_repository_that_opts_out_leaves_the_signatures_of_others_alone_and_gives_its_copies_back(corpus):
    corpus, before = corpus
    was = corpus.fates(before)
    survivor = next(name for name in COPIES if was[name])
    shutil.rmtree(corpus.repositories / survivor.partition("/")[0])
    after = corpus.run()
    done, now = check(corpus, before, after), corpus.fates(after)
    assert done[SIGNATURES] <= 1  # what is left of its part, or of two that are one now
    assert sum(now[name] for name in COPIES if name != survivor) == 1, "the next best takes its place"
    assert 1 <= done["redact_pii"] <= done[SIGNATURES] + 1


def test_a_repository_without_copies_that_opts_out_touches_its_part_alone(corpus):
    corpus, before = corpus
    shutil.rmtree(corpus.repositories / "repo9")
    done = check(corpus, before, corpus.run())
    assert done["redact_pii"] == done[SIGNATURES] <= 1


def test_a_distribution_that_is_excluded_touches_its_part_alone(tmp_path):
    corpus = Corpus(tmp_path)
    for i in range(10):
        code = {f"pkg{i}/m{n}.py": function(f"pkg{i}x{n}", 100 * i + n).encode() for n in range(2)}
        install(tmp_path / "site", f"pkg{i}", "1.0", code, "License-Expression: MIT")
    corpus.sources = [f"{{kind: python-environment, prefix: {tmp_path / 'site'}}}"]
    before = corpus.run()
    corpus.sources = [f"{{kind: python-environment, prefix: {tmp_path / 'site'}, exclude: [pkg3]}}"]
    after = corpus.run()
    assert before.step(SIGNATURES).outputs["Signatures"]["counts"]["rows"] == 20
    assert after.step(SIGNATURES).outputs["Signatures"]["counts"]["rows"] == 18
    done = check(corpus, before, after)
    assert done["redact_pii"] == done[SIGNATURES] <= 1


# A knob changes


@pytest.mark.parametrize(
    ("settings", "num_touched"),
    [
        (["near_dedup.threshold=0.85"], 1),  # the changed copy comes back
        (["near_dedup.threshold=0.75", "near_dedup.bands=20", "near_dedup.rows=10"], None),
        (["near_dedup.threshold=1.0"], 2),  # both copies come back
        (["near_dedup.verify=estimated"], None),
        (["near_dedup.verify=exact"], None),
        (["near_dedup.survivor=[size desc]"], None),
        (["near_dedup.survivor=[size asc]"], None),
        (["near_dedup.scope=global"], 0),
        (["near_dedup.license_conflicts=strictest"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_knob_of_the_decision_signs_nothing_again_and_only_parts_whose_kept_rows_changed_go_on(corpus, settings, num_touched):
    corpus, before = corpus
    after = corpus.run(*settings)
    done, touched = ran(after), corpus.num_touched(before, after, "redact_pii")
    assert {step: number for step, number in done.items() if step not in ("redact_pii", "encode")} == {
        step.name: int(step.name == DECISION) for step in after.steps if step.name not in ("redact_pii", "encode")
    }
    assert after.step(SIGNATURES).status == "cached"
    assert done["redact_pii"] == done["encode"] == touched
    assert num_touched is None or touched == num_touched
    assert touched <= 3, "more than the parts of the copies"


def test_who_survives_touches_the_parts_of_those_that_changed_places(corpus):
    corpus, before = corpus
    largest, smallest = corpus.run("near_dedup.survivor=[size desc]"), corpus.run("near_dedup.survivor=[size asc]")
    assert [corpus.fates(largest)[name] for name in COPIES] == [False, False, True]
    assert [corpus.fates(smallest)[name] for name in COPIES] == [True, False, False]
    assert ran(smallest)[SIGNATURES] == 0
    assert corpus.num_touched(largest, smallest, "redact_pii") == 2
    assert ran(corpus.run()) == dict.fromkeys(ran(before), 0), "what was is taken from the store"


def test_a_knob_of_the_signatures_signs_everything_again(corpus):
    corpus, before = corpus
    after = corpus.run("near_dedup.ngram=4")
    assert ran(after)[SIGNATURES] == after.step(SIGNATURES).num_actions == before.step(SIGNATURES).num_actions
    assert ran(after)["redact_pii"] == corpus.num_touched(before, after, "redact_pii") <= 3
