"""The story of a GPL file that an MIT repository holds too, from its licence to its end, as an auditor asks for it."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from starloom.cli import main
from tests.corpus import MIT, function, make_repositories, run_recipe, write_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
JUDGE = "- license_filter: {allow_classes: [permissive, no-license, unknown-license, non-permissive]}\n"
NEAR, GATE = "- near_dedup\n", "- license_gate\n"
GPL_FILE, MIT_FILE, MIT_EDITED = "alpha/src/util.py", "beta/src/util.py", "beta/src/edited.py"
RUNS = {
    "report": (JUDGE + NEAR + GATE, ()),
    "strictest": (JUDGE + NEAR + GATE, ("near_dedup.license_conflicts=strictest",)),
    "verified": (JUDGE + "- exact_dedup\n" + NEAR + GATE, ("near_dedup.verify=exact",)),
    "filtered": ("- license_filter\n" + NEAR, ()),
    "unjudged": (NEAR, ()),
    "blind": (JUDGE, ()),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store with a run, so tagged, of each of RUNS."""
    folder = tmp_path_factory.mktemp("licences")
    repositories = make_repositories(folder / "repositories", num_repos=3)
    text = function("shared", 1)
    for repo, license_text in (("alpha", "SPDX-License-Identifier: GPL-3.0-only\n"), ("beta", MIT)):
        (repositories / repo / "src").mkdir(parents=True)
        (repositories / repo / "LICENSE").write_text(license_text)
        (repositories / repo / "src" / "util.py").write_text(text)
    (repositories / MIT_EDITED).write_text(text + "\x1b[31m = 'red'\n")
    for copy in ("repo1", "repo2"):  # a cluster without a conflict
        (repositories / copy / "src" / "module0.py").write_text((repositories / "repo0" / "src" / "module0.py").read_text() + f"# {copy}\n")
    store = str(folder / "store")
    for name, (stages, settings) in RUNS.items():
        run = run_recipe(write_recipe(folder / f"{name}.yaml", repositories, stages), store, *settings)
        assert main(["runs", "--tag", name, run.id, "--store", store]) == 0
    return folder


@pytest.fixture
def say(place, capsys):
    def typed(words):
        assert main([*shlex.split(words), "--store", str(place / "store")]) == 0
        return capsys.readouterr().out

    return typed


@pytest.fixture
def ask(say):
    return lambda words: json.loads(say(f"{words} --json"))


def fates(ask, run):
    told = {path: ask(f"trace path:{path} --run {run}")["fate"] for path in (GPL_FILE, MIT_FILE, MIT_EDITED)}
    return {path: None if fate["kept"] else (fate["step"], fate["rule"]) for path, fate in told.items()}


def only_conflict(ask, run, step="near_dedup"):
    (found,) = [found for found in ask(f"show conflicts --run {run}")["steps"] if found["step"] == step]
    (conflict,) = found["conflicts"]
    return conflict


def test_reported_one_permissive_copy_stays_and_the_others_are_its_duplicates(ask):
    found = fates(ask, "report")
    assert found[GPL_FILE] == ("near_dedup", "near-duplicate")
    assert sorted([found[MIT_FILE], found[MIT_EDITED]], key=str) == [("near_dedup", "near-duplicate"), None]


def test_the_strictest_policy_drops_every_copy(ask):
    assert set(fates(ask, "strictest").values()) == {("near_dedup", "license-conflict")}


def test_trace_tells_each_copy_s_licence_and_the_conflict(ask, say):
    for run in ("report", "strictest"):
        for path, license_class in ((GPL_FILE, "non-permissive"), (MIT_FILE, "permissive"), (MIT_EDITED, "permissive")):
            (event,) = [e for e in ask(f"trace path:{path} --run {run}")["events"] if e["event"] == "clustered"]
            assert (event["license_class"], event["has_license_conflict"]) == (license_class, True)
            assert event["license_classes"] == {"permissive": 2, "non-permissive": 1}
            text = say(f"trace path:{path} --run {run}")
            assert f"licence {license_class}, in conflict: the cluster's are 2 permissive, 1 non-permissive" in text
    assert "dropped: license-conflict, in the cluster of beta/src/" in text
    (event,) = [e for e in ask("trace path:repo1/src/module0.py --run report")["events"] if e["event"] == "clustered"]
    assert (event["license_class"], event["has_license_conflict"]) == ("permissive", False)
    assert "conflict" not in say("trace path:repo1/src/module0.py --run report")
    assert "licence not judged" in say("trace path:repo1/src/module0.py --run unjudged")


def test_a_reported_cluster_shows_who_won_and_why_and_all_licences(ask, say):
    cluster = ask(f"show cluster:{only_conflict(ask, 'report')['cluster_id'][:12]} --run report")
    assert (cluster["step"], cluster["license_conflict"], cluster["also_found_by"]) == ("near_dedup", "reported", [])
    assert cluster["license_classes"] == {"permissive": 2, "non-permissive": 1}
    survivor, *others = cluster["members"]
    assert survivor["doc_id"] == cluster["survivor"] == cluster["cluster_id"]
    assert survivor["is_survivor"]
    assert not any(member["is_survivor"] for member in others)
    gpl = next(member for member in others if member["repo"] == "alpha")
    assert gpl["reason"] == "license_class permissive before non-permissive"
    assert (gpl["license_class"], gpl["license_evidence"]) == ("non-permissive", "GPL-3.0-only (LICENSE, line 1)")
    assert (survivor["license_class"], survivor["license_evidence"]) == ("permissive", "MIT (LICENSE, line 1)")
    edited = {member["path"]: member for member in cluster["members"]}["src/edited.py"]
    assert 0.7 < min(member["jaccard"] for member in cluster["members"]) < 1 == survivor["jaccard"]
    changed = [member["differences"] for member in others if member is edited or survivor is edited]
    assert all(any("= 'red'" in line for line in lines) for lines in changed)

    text = say(f"show cluster:{cluster['cluster_id'][:12]} --run report")
    assert "licence conflict: 2 permissive, 1 non-permissive; reported" in text
    assert "3 documents, 1 stays" in text
    assert "license_class permissive before non-permissive" in text
    assert "GPL-3.0-only (LICENSE, line 1)" in text
    assert f"--- {survivor['repo']}/{survivor['path']}" in text


def test_a_quarantined_cluster_is_shown_though_nobody_survives(ask, say):
    conflict = only_conflict(ask, "strictest")
    assert (conflict["outcome"], conflict["survivor"], conflict["num_members"]) == ("quarantined", None, 3)
    cluster = ask(f"show cluster:{conflict['cluster_id']} --run strictest")
    assert (cluster["survivor"], cluster["license_conflict"]) == (None, "quarantined")
    assert cluster["members"][0]["doc_id"] == cluster["cluster_id"] == only_conflict(ask, "report")["cluster_id"]
    assert all(member["differences"] is not None for member in cluster["members"][1:])
    text = say(f"show cluster:{conflict['cluster_id']} --run strictest")
    assert "licence conflict: 2 permissive, 1 non-permissive; quarantined: all dropped" in text
    assert "none; by the policy it would be beta/src/" in text
    assert "\nkept" not in text


def test_one_command_finds_all_conflicts_of_a_run_whichever_step_saw_them(ask, say):
    found = ask("show conflicts --run verified")
    assert (found["num_conflicts"], [(s["step"], s["num_conflicts"]) for s in found["steps"]]) == (
        1,
        [("exact_dedup", 1), ("near_dedup", 0)],
    )
    exact, near = found["steps"]
    assert exact["by_classes"] == [{"license_classes": ["non-permissive", "permissive"], "clusters": 1, "documents": 2, "quarantined": 0}]
    assert exact["conflicts"][0]["survivor"]["repo"] == "beta"
    assert exact["judged_by"] == near["judged_by"] == "license_filter"
    texts = {"step": "license_filter", "dropped": 5, "rules": {"license-text": 5}}
    assert exact["dropped_before"] == [texts]
    assert near["dropped_before"] == [texts, {"step": "exact_dedup", "dropped": 1, "rules": {"exact-duplicate": 1}}]
    text = say("show conflicts --run verified")
    assert "1 licence conflict in run" in text
    assert "non-permissive + permissive" in text
    assert "exact_dedup: 1 of 1 cluster in licence conflict" in text
    assert "near_dedup: 0 of 2 clusters in licence conflict" in text
    assert "licence conflicts, in clusters: exact_dedup 1: starloom show conflicts --run" in say("show verified")


def test_no_conflict_is_not_claimed_where_none_could_be_seen(ask, say):
    assert ask("show conflicts --run unjudged")["steps"][0]["judged_by"] is None
    assert "no step above judged licences, so conflicts are unknown" in say("show conflicts --run unjudged")
    assert ask("show conflicts --run unjudged")["steps"][0]["dropped_before"] == []
    assert "unseen     license_filter had dropped license-text 5, non-permissive 1\n" in say("show conflicts --run filtered")
    cluster = ask("trace path:repo1/src/module0.py --run unjudged")["events"][1]["cluster_id"]
    assert "licences   3 unjudged" in say(f"show cluster:{cluster} --run unjudged")


def test_a_step_that_verified_says_what_trusting_collisions_would_have_dropped(ask, say):
    notes, text = ask("show verified/near_dedup")["notes"], say("show verified/near_dedup")
    assert notes["duplicates"] == notes["duplicates_if_collisions_were_trusted"] == 3
    assert "3 duplicates in 2 clusters" in text
    assert "3 duplicates if every collision were trusted: verification (exact) spared 0" in text
    assert "every collision was trusted: verify is none" in say("show report/near_dedup")
    assert "collision" not in say("show verified/exact_dedup")


def test_the_exported_table_holds_the_same_conflicts(place, ask, say, tmp_path):
    for run, step in (("report", "near_dedup"), ("strictest", "near_dedup"), ("verified", "exact_dedup")):
        say(f"export {run}/{step}/Clusters {tmp_path / run}")
        rows = [row for path in (tmp_path / run).iterdir() for row in pq.read_table(path).to_pylist() if row["has_license_conflict"]]
        conflict = only_conflict(ask, run, step)
        assert {row["cluster_id"] for row in rows} == {conflict["cluster_id"]}
        assert len(rows) == conflict["num_members"]


def test_a_cluster_is_that_of_the_last_step_that_found_it_unless_a_step_is_named(ask, say):
    near = next(e for e in ask(f"trace path:{MIT_EDITED} --run verified")["events"] if e["event"] == "clustered")
    exact = only_conflict(ask, "verified", "exact_dedup")
    assert ask(f"show cluster:exact_dedup/{exact['cluster_id']} --run verified")["num_members"] == 2
    last = ask(f"show cluster:{near['cluster_id']} --run verified")
    assert (last["step"], last["num_members"], last["is_estimated"]) == ("near_dedup", 2, False)
    assert last["license_conflict"] is None
    assert near["cluster_id"] == exact["cluster_id"], "the corpus shows nothing"
    assert last["also_found_by"] == ["exact_dedup"]
    seen_also = say(f"show cluster:{near['cluster_id']} --run verified").partition("exact_dedup found: starloom ")[2].splitlines()[0]
    assert "2 documents, 1 stays" in say(seen_also.partition(" --store")[0])
    assert say(f"trace path:{GPL_FILE} --run verified").splitlines()[-1].startswith("next: starloom show cluster:exact_dedup/")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("show cluster:near_dedupp/5 --run verified", "did you mean 'near_dedup'"),
        ("show cluster:license_gate/5 --run verified", "no deduplication step 'license_gate'"),
        ("show cluster:near_dedup/zz --run verified", "found no cluster 'zz'"),
        ("show cluster: --run report", "several clusters begin with ''"),
        ("show conflicts --run nobody", "there is no run 'nobody'"),
        ("show conflicts --run blind", "has no deduplication step"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_remedy(place, capsys, words, told):
    assert main([*shlex.split(words), "--store", str(place / "store")]) == 1
    errors = capsys.readouterr().err
    assert told in errors
    assert "→" in errors


def test_no_number_of_rows_is_misuse(place, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["show", "conflicts", "--rows", "-1", "--store", str(place / "store")])
    assert caught.value.code == 2
    assert "not a number of rows" in capsys.readouterr().err


def test_lists_are_bounded_and_say_so_and_json_is_not(ask, say):
    conflict = only_conflict(ask, "report")["cluster_id"]
    assert [m["differences"] is None for m in ask(f"show cluster:{conflict} --run report --rows 1")["members"]] == [True, False, True]
    assert "… and 1 more: --rows N, or --json for all" in say(f"show cluster:{conflict} --run report --rows 1")
    (found,) = ask("show conflicts --run report --rows 0")["steps"]
    assert (found["num_conflicts"], found["conflicts"]) == (1, [])
    assert "… and 1 more: --rows N, or --json for all" in say("show conflicts --run report --rows 0")
    assert "… and 1 more" in say("show report/near_dedup --rows 0")


# On a terminal


def on_a_terminal(words, **environment):
    ours, theirs = pty.openpty()
    env = {**{name: value for name, value in os.environ.items() if name != "NO_COLOR"}, "TERM": "xterm", **environment}
    child = subprocess.Popen([sys.executable, "-m", "starloom.cli", *shlex.split(words)], cwd=ROOT, stdout=theirs, env=env)
    os.close(theirs)
    told = b""
    try:
        while block := os.read(ours, 65_536):
            told += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    return told.decode().replace("\r\n", "\n")


def test_colours_are_for_terminals_only_and_the_texts_own_never_get_there(place, ask, say):
    words = f"show cluster:{only_conflict(ask, 'report')['cluster_id']} --run report"
    plain, told = say(words), on_a_terminal(f"{words} --store {place / 'store'}")
    assert "\x1b" not in plain
    assert "\x1b[33mlicence conflict" in told
    added = "+\\x1b[31m = 'red'"
    assert f"\x1b[32m{added}\x1b[0m\n" in told
    for code in (1, 31, 32, 33, 36, 0):
        told = told.replace(f"\x1b[{code}m", "")
    assert told == plain
    assert on_a_terminal(f"{words} --store {place / 'store'}", NO_COLOR="1") == plain
    assert "\x1b" not in say(f"show doc:{ask(f'trace path:{MIT_EDITED} --run report')['document']['doc_id']}")
