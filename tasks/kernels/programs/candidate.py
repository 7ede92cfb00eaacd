"""The child that runs one candidate program: limits first, verdict last.

Started by `starloom.tasks.kernels.programs.execution` as a script, with the job as JSON on standard input and one inherited descriptor
to answer on. It imports nothing outside the standard library and nothing of ours.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
import types

MAX_DETAIL_CHARS = 300


def main() -> None:
    """Run the job; answer `[nonce, outcome, detail]` on the descriptor in argv[1] unless the program ends the process."""
    answer_fd, process_id = int(sys.argv[1]), os.getpid()
    os.set_inheritable(answer_fd, False)  # noqa: FBT003 - the builtin takes it by position
    job = json.load(sys.stdin.buffer)
    os.environ.pop("STARLOOM_PARENT", None)  # for whoever looks from outside; the environment is the same in every run
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    limit(job["limits"])
    outcome, detail = run(job["program"])
    if os.getpid() == process_id:  # a fork of the program has no say
        os.write(answer_fd, (json.dumps([job["nonce"], outcome, detail[-MAX_DETAIL_CHARS:]]) + "\n").encode())
    os._exit(0)  # threads, exit handlers and finalizers of the program get no turn


def limit(limits: dict[str, int]) -> None:
    """Lower this process's resource limits for good, e.g. {"RLIMIT_AS": 1 << 29}; a lower one is kept."""
    for name, value in limits.items():
        kind = getattr(resource, name)
        # One more second of processor time to die of SIGXCPU, then SIGKILL.
        wanted = (value, value + 1 if name == "RLIMIT_CPU" else value)
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, wanted if hard == resource.RLIM_INFINITY else (min(wanted[0], hard), min(wanted[1], hard)))


def run(program: str) -> tuple[str, str]:
    """Run the program in a module of its own; return the outcome, and the last line of its error."""
    try:
        code = compile(program, "candidate.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL or a lone surrogate
        return "syntax-error", last_line(error)
    except (MemoryError, RecursionError) as error:
        return "memory", last_line(error)
    if "random" in program:
        import random

        random.seed(0)  # a program that draws numbers draws the same ones in every run
    module = types.ModuleType("candidate")  # not __main__: a block for the command line is not part of the answer
    sys.modules["candidate"] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - this is what the child is for
    except BaseException as error:  # noqa: BLE001 - whatever it raises is the result
        return {SystemExit: "exited", MemoryError: "memory"}.get(type(error), "failed"), last_line(error)
    return "passed", ""


def last_line(error: BaseException) -> str:
    """Return the last line of an error, e.g. `NameError: name 'x' is not defined`."""
    return (traceback.format_exception_only(error)[-1].strip().splitlines() or [type(error).__name__])[-1]


if __name__ == "__main__":
    main()
