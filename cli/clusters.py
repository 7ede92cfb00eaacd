"""Clusters and licence conflicts, as `starloom show` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starloom.cli.output import table
from starloom.cli.places import again
from starloom.cli.terminal import coloured, printable
from starloom.cli.wording import many
from starloom.queries.formats import count, short

if TYPE_CHECKING:
    import argparse

SHOWN_MEMBERS = 20
SHOWN_DROPS = 5
SHOWN_EVIDENCE = 60
_NUM_HEADER_LINES = 2
_DIFFERENCE_COLOURS = {"@": "cyan", "-": "red", "+": "green"}


# One cluster


def cluster_text(cluster: dict[str, Any], arguments: argparse.Namespace) -> tuple[str, str]:
    """Format a cluster's members, how their texts differ, and the next command."""
    members, first = cluster["members"], cluster["members"][0]
    kept = {0: "none stays", 1: "1 stays"}.get(cluster["num_survivors"], f"{count(cluster['num_survivors'])} stay")
    lines = [f"cluster {cluster['cluster_id']} of {cluster['run']}/{cluster['step']}: {many(len(members), 'document')}, {kept}"]
    who = (
        f"{_name(first)}; over the runner-up by: {cluster['reason']}"
        if cluster["survivor"]
        else f"none; by the policy it would be {_name(first)}"
    )
    lines += [f"  survivor   {who}", f"  licences   {_licences(cluster)}", f"  jaccard    {_similarity(cluster)}"]
    for step in cluster["also_found_by"]:
        words = f"show cluster:{step}/{short(cluster['cluster_id'])} --run {cluster['run']}"
        lines.append(f"  see also   the cluster of this name that {step} found: {again(arguments, words)}")
    rows = [
        [_fate(m, cluster["num_survivors"]), f"{m['jaccard']:.3f}", _licence(m), _name(m), m["reason"], short(m["doc_id"])]
        for m in members[: SHOWN_MEMBERS if arguments.rows is None else arguments.rows + 1]
    ]
    lines += ["", table(["", "jaccard", "licence", "document", "reason", "doc_id"], rows), *_more(len(members) - len(rows))]
    for member in members[1:]:
        lines += [] if member["differences"] is None else ["", *_differences(member)]
    return "\n".join(lines), f"trace {short(members[-1]['doc_id'])} --run {cluster['run']}"


def _fate(member: dict[str, Any], num_survivors: int) -> str:
    if member["is_survivor"]:
        return "kept"
    return f"dropped for {short(member['goes_for'])}" if num_survivors > 1 else "dropped"


def _name(member: dict[str, Any]) -> str:
    return printable(f"{member['repo']}/{member['path']}")


def _licence(member: dict[str, Any]) -> str:
    if member["license_class"] is None:
        return "not judged"
    evidence = printable(member["license_evidence"] or "")
    evidence = evidence if len(evidence) <= SHOWN_EVIDENCE else f"{evidence[:SHOWN_EVIDENCE]}…"
    return f"{member['license_class']}: {evidence}" if evidence else str(member["license_class"])


def _licences(cluster: dict[str, Any]) -> str:
    told = classes_text(cluster["license_classes"])
    if cluster["license_conflict"] is None:
        return told
    policy = "reported" if cluster["license_conflict"] == "reported" else "quarantined: all dropped"
    return coloured(f"licence conflict: {told}; {policy}", "yellow")


def classes_text(classes: dict[str, int]) -> str:
    """Format counts as `2 permissive, 1 non-permissive`."""
    return ", ".join(f"{count(number)} {name}" for name, number in classes.items())


def _similarity(cluster: dict[str, Any]) -> str:
    how = "estimated from the signatures" if cluster["is_estimated"] else "exact"
    threshold = "" if cluster["threshold"] is None else f", threshold {cluster['threshold']:g}"
    to = "the one that would survive" if cluster["num_survivors"] == 0 else "the survivor"
    return f"to {'the one it is dropped for' if cluster['num_survivors'] > 1 else to}, {how}{threshold}"


def _differences(member: dict[str, Any]) -> list[str]:
    if member["differences"]:
        painted = [
            coloured(printable(line), "bold" if number < _NUM_HEADER_LINES else _DIFFERENCE_COLOURS[line[0]])
            for number, line in enumerate(member["differences"])
        ]
        return [*painted, "…"] if member["has_more_differences"] else painted
    same = "only what is beyond the compared lines differs" if member["has_more_differences"] else "the texts do not differ"
    return [f"{_name(member)}: {same}"]


# Licence conflicts


def conflicts_text(found: dict[str, Any], arguments: argparse.Namespace) -> tuple[str, str]:
    """Format the licence conflicts of a run, and the next command."""
    num = found["num_conflicts"]
    lines = [f"{many(num, 'licence conflict') if num else 'no licence conflict'} in run {found['run']} of recipe {found['recipe']}"]
    for step in found["steps"]:
        lines += ["", *conflict_lines(step, found["run"], step["step"], arguments)]
    first = next((step for step in found["steps"] if step["conflicts"]), None)
    following = f"show {found['run']}/{found['steps'][-1]['step']}" if first is None else _next(first, found["run"], first["step"])
    return "\n".join(lines), following


def _next(found: dict[str, Any], run: str, step: str) -> str:
    return f"show cluster:{step}/{short(found['conflicts'][0]['cluster_id'])} --run {run}"


def conflict_lines(found: dict[str, Any], run: str, step: str, arguments: argparse.Namespace) -> list[str]:
    """Format the licence conflicts of one step."""
    of_all = "" if found["num_clusters"] is None else f" of {many(found['num_clusters'], 'cluster')}"
    judged = f"judged by {found['judged_by']}" if found["judged_by"] else "no step above judged licences, so conflicts are unknown"
    lines = [f"{step}: {count(found['num_conflicts'])}{of_all} in licence conflict", f"  licences   {judged}"]
    lines += [f"  unseen     {row['step']} had dropped {_rules(row['rules'])}" for row in found["dropped_before"]]
    if not found["num_conflicts"]:
        return lines
    meeting = [
        [" + ".join(row["license_classes"]), count(row["clusters"]), count(row["documents"]), count(row["quarantined"])]
        for row in found["by_classes"]
    ]
    lines += ["", table(["licence classes that meet", "clusters", "documents", "quarantined"], meeting)]
    rows = [
        [short(c["cluster_id"]), classes_text(c["license_classes"]), c["outcome"], _survivor(c["survivor"])] for c in found["conflicts"]
    ]
    lines += ["", table(["cluster", "documents", "outcome", "survivor"], rows)] if rows else []
    lines += _more(found["num_conflicts"] - len(rows))
    words = again(arguments, f"export {run}/{step}/Clusters OUT")
    return [*lines, "", f"every document of them, in a table: {words}; rows where has_license_conflict"]


def _rules(rules: dict[str, int]) -> str:
    drops = sorted(rules.items(), key=lambda rule: (-rule[1], rule[0]))
    return ", ".join(f"{rule} {count(number)}" for rule, number in drops[:SHOWN_DROPS]) + (" …" if len(drops) > SHOWN_DROPS else "")


def _survivor(survivor: dict[str, Any] | None) -> str:
    return "none" if survivor is None else f"{_name(survivor)} ({survivor['license_class'] or 'not judged'})"


def _more(number: int) -> list[str]:
    return [f"… and {count(number)} more: --rows N, or --json for all"] if number > 0 else []


# A step


def step_lines(step: dict[str, Any], arguments: argparse.Namespace) -> tuple[list[str], str | None]:
    """Format what a deduplication step found, and the next command where licences conflict."""
    found, run = step["license_conflicts"], step["run"]
    lines = ["", "found", *(f"  {line}" for line in _findings(step)), "", *conflict_lines(found, run, step["name"], arguments)]
    return lines, _next(found, run, step["name"]) if found["conflicts"] else None


def _findings(step: dict[str, Any]) -> list[str]:
    notes, verify = step["notes"], step["config"].get("verify")
    seen = step["outputs"]["Verdicts"]["counts"].get("seen", 0)
    lines = []
    if "bands" in notes:
        lines.append(f"{many(notes['bands'], 'band')} of {many(notes['rows'], 'row')}: signatures that agree in a whole band collide")
    if "documents_that_collide" in notes:
        lines.append(f"{count(notes['documents_that_collide'])} of {many(seen, 'document')} collide with another")
        lines.append(f"{many(notes['duplicates'], 'duplicate')} in {many(notes['clusters'], 'cluster')}")
    if "duplicates_if_collisions_were_trusted" in notes:
        trusted = notes["duplicates_if_collisions_were_trusted"]
        spared = f"verification ({verify}) spared {count(trusted - notes['duplicates'])}"
        lines.append(f"{many(trusted, 'duplicate')} if every collision were trusted: {spared}")
    elif verify == "none":
        lines.append("every collision was trusted: verify is none")
    return lines


TOLD_NOTES = frozenset(
    {
        "bands",
        "rows",
        "documents_that_collide",
        "duplicates",
        "clusters",
        "clusters_with_license_conflict",
        "duplicates_if_collisions_were_trusted",
    }
)
"""Notes of a step that `step_lines` formats."""
