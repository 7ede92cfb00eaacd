"""Clusters of duplicates, and licence conflicts within them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from starloom.console.pages.documents import RunName, member_columns, member_rows
from starloom.console.pages.steps import conflicts_table
from starloom.console.rendering import Crumb, Here
from starloom.console.tables import Column, Table
from starloom.console.turns import InTurn
from starloom.queries.showing_clusters import COMPARED_MEMBERS, show_cluster, show_conflicts

router = APIRouter(tags=["clusters"], route_class=InTurn)
SHOWN_MEMBERS = 100
SHOWN_CONFLICTS = 100


@router.get("/clusters/{cluster_id}")
def one_cluster(
    here: Here,
    cluster_id: str,
    run: RunName = None,
    step: Annotated[str | None, Query(description="The deduplication step; by default the last that found the cluster.")] = None,
    compared: Annotated[int, Query(ge=0, le=200, description="Members whose texts are compared with the survivor's.")] = COMPARED_MEMBERS,
) -> Response:
    """Show a cluster: its members, why the survivor stayed, their licences, and how each text differs."""
    found = show_cluster(here.store, f"{step}/{cluster_id}" if step else cluster_id, run, compared)
    of_run, members = found["run"], member_rows(found)
    return here.answer(
        "cluster.html",
        found,
        title=f"Cluster {found['cluster_id'][:12]}",
        crumbs=[Crumb(of_run, here.links.run(of_run)), Crumb(found["step"], here.links.step(of_run, found["step"])), Crumb("cluster")],
        tables=[Table("members", member_columns(here, of_run), members[: here.limit(None, SHOWN_MEMBERS)], len(members))],
        command=here.command("show", f"cluster:{found['step']}/{found['cluster_id']}", "--run", of_run),
    )


@router.get("/conflicts")
def licence_conflicts(
    here: Here,
    run: RunName = None,
    limit: Annotated[int | None, Query(ge=0, le=1_000_000, description="At most so many of each step.")] = None,
) -> Response:
    """List the clusters of a run whose members' licences differ in class, step by step."""
    found = show_conflicts(here.store, run, here.limit(limit, SHOWN_CONFLICTS))
    of_run = found["run"]
    meeting = (
        Column("license_classes", "licence classes that meet"),
        Column("clusters", "clusters", "number"),
        Column("documents", "documents", "number"),
        Column("quarantined", "quarantined", "number"),
    )
    tables = [conflicts_table(here, of_run, each["step"], each, each["step"]) for each in found["steps"]]
    tables += [
        Table(
            f"{each['step']}-classes",
            meeting,
            [{**row, "license_classes": " + ".join(row["license_classes"])} for row in each["by_classes"]],
        )
        for each in found["steps"]
    ]
    return here.answer(
        "conflicts.html",
        found,
        title="Licence conflicts",
        crumbs=[Crumb(of_run, here.links.run(of_run)), Crumb("licence conflicts")],
        tables=tables,
        command=here.command("show", "conflicts", "--run", of_run),
    )
