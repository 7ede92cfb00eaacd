"""Prefect's REST API for whoever starts and cancels runs without loading Prefect: the console, `starloom serve`, `starloom deploy`.

The server is the one that `PREFECT_API_URL` names, with the basic auth of `PREFECT_API_AUTH_STRING` (`user:password`), as Prefect has it.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from starloom.flows.prefect_flow import FLOW
from starloom.lineage.errors import ConfigError, InputError, StarloomError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

TAG = "starloom"
POOL = "starloom"
ALIVE = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING")
"""Types of the states of runs that have not ended."""
TIMEOUT_SECONDS = 30.0
ASK_SECONDS = 2.0
"""How long a server may take to say that it is there."""
QUIET_SECONDS = 1.0
PAGE = 200
BUSY = (429, 502, 503)
"""Answers of a server that is at its limits or whose database is locked: nothing was done, and the same is asked again."""
RETRY_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)
RETRY_SECONDS_AHEAD = 4.0
HTTP_NOT_FOUND, HTTP_CONFLICT, HTTP_UNPROCESSABLE, HTTP_SERVER_ERROR = 404, 409, 422, 500


class PrefectApi:
    """A client of one server."""

    def __init__(self, url: str, auth: str | None = None, timeout: float = TIMEOUT_SECONDS) -> None:
        self.url = url.rstrip("/")
        user, _, password = (auth or "").partition(":")
        self._client = httpx.Client(base_url=self.url, auth=(user, password) if auth else None, timeout=timeout)

    @classmethod
    def from_environment(cls) -> PrefectApi:
        """Return a client of the server that the environment names.

        Raises:
            ConfigError: it names none, or what is no address.
        """
        url = os.environ.get("PREFECT_API_URL")
        if not url:
            raise ConfigError(
                "PREFECT_API_URL names no Prefect server", hint="export PREFECT_API_URL=http://127.0.0.1:4200/api, or use `starloom serve`"
            )
        if not _is_address(url):
            raise ConfigError(f"PREFECT_API_URL is {url!r}, which is no address", hint="e.g. http://127.0.0.1:4200/api")
        return cls(url, os.environ.get("PREFECT_API_AUTH_STRING"))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def is_up(self) -> bool:
        """Return whether the server answers, its database too, and answers us: a wrong password is no answer.

        Raises:
            StarloomError: it refuses the password, or what answers is no server of Prefect's.
        """
        return self.trouble() is None

    def trouble(self) -> str | None:
        """Return what is not there yet, in words; None if all of it is.

        Raises:
            StarloomError: it refuses the password, or what answers is no server of Prefect's.
        """
        try:
            answer = self._client.get("/admin/version", timeout=ASK_SECONDS)
            if answer.status_code in (401, 403):
                raise StarloomError(
                    f"the Prefect server at {self.url} refuses us ({answer.status_code})", hint="set PREFECT_API_AUTH_STRING=user:password"
                )
            if answer.status_code < HTTP_SERVER_ERROR and not _is_version(answer):
                raise ConfigError(
                    f"what answers at {self.url} ({answer.status_code}) is no API of Prefect's",
                    hint="correct PREFECT_API_URL: it ends in /api, as http://127.0.0.1:4200/api does",
                )
            if answer.is_success and self._client.get("/ready", timeout=ASK_SECONDS).is_success:
                return None
        except httpx.HTTPError:
            return f"the Prefect server at {self.url}"
        return f"the database of the Prefect server at {self.url}" if answer.is_success else f"the Prefect server at {self.url}"

    def wait_until_up(self, seconds: float, is_lost: Callable[[], bool] = lambda: False, quiet_seconds: float = QUIET_SECONDS) -> None:
        """Wait for the server and its database to answer; after `quiet_seconds` tell for what, on standard error.

        Raises:
            StarloomError: it does not within this time, is lost before, or will never: it refuses the password, or is something else.
        """
        begun, told = time.monotonic(), ""
        while (trouble := self.trouble()) is not None:
            waited = time.monotonic() - begun
            if is_lost() or waited > seconds:
                raise StarloomError(
                    f"{trouble} does not answer{'' if waited < seconds else f', after {seconds:g} s'}",
                    hint="start it, or correct PREFECT_API_URL; if it runs, look at what it printed: is its database there?",
                )
            if waited > quiet_seconds and trouble != told:
                told = trouble
                print(f"starloom: waiting for {trouble}, at most {seconds:g} s", file=sys.stderr, flush=True)
            time.sleep(0.1)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the server's answer to a request, parsed.

        Raises:
            StarloomError: the server is not there, or refuses; with its words.
        """
        for seconds in (*RETRY_SECONDS, None):
            try:
                answer = self._client.request(method, path, json=body)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise StarloomError(
                    f"the Prefect server at {self.url} cannot be reached: {error}", hint="start it, or correct PREFECT_API_URL"
                ) from error
            if answer.status_code not in BUSY or seconds is None:
                break
            time.sleep(seconds)
        if answer.is_success:
            try:
                return answer.json() if answer.content else None
            except ValueError as error:
                raise ConfigError(
                    f"what answers at {self.url} is no API of Prefect's",
                    hint="correct PREFECT_API_URL: it ends in /api, as http://127.0.0.1:4200/api does",
                ) from error
        raise RefusedError(answer.status_code, f"Prefect refuses {method} {path} ({answer.status_code}): {_reason(answer)}")

    # Deployments

    def ensure_pool(self, name: str) -> None:
        """Make the work pool if there is none of that name.

        Raises:
            ConfigError: there is one, of another type: its workers start no processes.
        """
        try:
            kind = self.call("GET", f"/work_pools/{_quoted(name)}")["type"]
            if kind != "process":
                raise ConfigError(
                    f"the work pool {name!r} has the type {kind!r}, and runs need `process`", hint="name another: --pool NAME"
                )
        except RefusedError as refused:
            if refused.status != HTTP_NOT_FOUND:
                raise
            template = self.call("GET", "/collections/views/aggregate-worker-metadata")["prefect"]["process"][
                "default_base_job_configuration"
            ]
            self.call(
                "POST",
                "/work_pools/",
                {"name": name, "type": "process", "base_job_template": template, "description": "Runs of Starloom's recipes."},
            )

    def deploy(self, name: str, **deployment: Any) -> str:
        """Make a deployment of the flow `starloom`, or change the one of that name, whose schedules stay; return its id."""
        body = {"tags": [TAG], "enforce_parameter_schema": True, **deployment}
        try:
            known = str(self.call("GET", f"/deployments/name/{FLOW}/{_quoted(name)}")["id"])
        except RefusedError as refused:
            if refused.status != HTTP_NOT_FOUND:
                raise
            flow = self.call("POST", "/flows/", {"name": FLOW, "tags": [TAG]})
            return str(self.call("POST", "/deployments/", {"name": name, "flow_id": flow["id"], **body})["id"])
        self.call("PATCH", f"/deployments/{known}", body)
        return known

    def deployments(self) -> list[dict[str, Any]]:
        """Return the deployments of the flow `starloom`, by name."""
        wanted = {"flows": {"name": {"any_": [FLOW]}}, "sort": "NAME_ASC", "limit": PAGE}
        return list(self.call("POST", "/deployments/filter", wanted))

    def deployment(self, recipe: str) -> dict[str, Any]:
        """Return the deployment of a recipe.

        Raises:
            ConfigError: there is none.
        """
        try:
            return dict(self.call("GET", f"/deployments/name/{FLOW}/{_quoted(recipe)}"))
        except RefusedError as refused:
            if refused.status != HTTP_NOT_FOUND:
                raise
            raise ConfigError(f"no deployment starloom/{recipe} on {self.url}", hint=f"starloom deploy {recipe}.yaml") from refused

    def workers(self, pool: str) -> list[dict[str, Any]]:
        """Return the workers of a pool, with their status."""
        return list(self.call("POST", f"/work_pools/{_quoted(pool)}/workers/filter", {"limit": PAGE}))

    # Runs

    def start(self, deployment_id: str, parameters: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """Create a run, to be carried out as soon as a worker is free.

        Raises:
            ConfigError: the parameters do not fit the deployment's schema.
        """
        body = {"parameters": parameters, "state": {"type": "SCHEDULED", "name": "Scheduled"}, "idempotency_key": str(uuid.uuid4())}
        body |= {"name": name} if name else {}
        try:
            return dict(self.call("POST", f"/deployments/{deployment_id}/create_flow_run", body))
        except RefusedError as refused:
            if refused.status not in (HTTP_CONFLICT, HTTP_UNPROCESSABLE):
                raise
            raise ConfigError(refused.message, hint="correct the parameter that it names") from refused

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        """Return a run of Prefect's.

        Raises:
            InputError: there is none.
        """
        try:
            return dict(self.call("GET", f"/flow_runs/{uuid.UUID(flow_run_id)}"))
        except ValueError as error:
            raise InputError(f"{flow_run_id!r} is not the id of a flow run", hint="take it from Prefect's page of runs") from error
        except RefusedError as refused:
            if refused.status != HTTP_NOT_FOUND:
                raise
            raise InputError(f"Prefect knows no flow run {flow_run_id}", hint="it may have been deleted there") from refused

    def flow_runs(self, states: Iterable[str] | None = None, limit: int = PAGE) -> list[dict[str, Any]]:
        """Return runs of the flow `starloom`, the newest first."""
        wanted: dict[str, Any] = {"flows": {"name": {"any_": [FLOW]}}, "sort": "EXPECTED_START_TIME_DESC", "limit": limit}
        if states is not None:
            wanted["flow_runs"] = {"state": {"type": {"any_": list(states)}}}
        return list(self.call("POST", "/flow_runs/filter", wanted))

    def set_state(self, flow_run_id: str, kind: str, message: str, *, name: str | None = None, force: bool = False) -> None:
        """Propose a state of a run; with `force`, whatever its state is now."""
        state = {"type": kind, "name": name or kind.title(), "message": message}
        self.call("POST", f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": force})

    def cancel(self, flow_run_id: str) -> None:
        """Ask a run to end: one that nobody has begun ends at once, any other by whoever carries it out."""
        kind = self.flow_run(flow_run_id)["state_type"]
        if kind == "SCHEDULED":
            self.set_state(flow_run_id, "CANCELLED", "cancelled before it began", force=True)
        elif kind in ALIVE:
            self.set_state(flow_run_id, "CANCELLING", "cancelled by hand")

    def retry(self, flow_run_id: str) -> None:
        """Schedule a run that has ended once more; what it finished is taken from the store.

        In some seconds: its process may not have gone yet, and a worker that is to begin what it still holds ends by an error.
        """
        when = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=RETRY_SECONDS_AHEAD)
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "to be tried again"}
        state["state_details"] = {"scheduled_time": when.isoformat()}  # type: ignore[assignment]
        self.call("POST", f"/flow_runs/{flow_run_id}/set_state", {"state": state, "force": True})

    def logs(self, flow_run_id: str, limit: int = PAGE) -> list[dict[str, Any]]:
        """Return the last lines that a run logged, the oldest first."""
        wanted = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_DESC", "limit": limit}
        return list(self.call("POST", "/logs/filter", wanted))[::-1]


class RefusedError(StarloomError):
    """A request that the server answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message, hint="look at the server's log")
        self.status = status


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def _is_version(answer: httpx.Response) -> bool:
    """Return whether an answer is what Prefect says of itself: one word of JSON, such as "3.8.8"."""
    try:
        return answer.is_success and isinstance(answer.json(), str)
    except ValueError:
        return False


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _reason(answer: httpx.Response) -> str:
    try:
        told = answer.json()
    except ValueError:
        return answer.text[:500]
    return str(told.get("exception_detail") or told.get("detail") or told.get("exception_message") or told)[:1000]
