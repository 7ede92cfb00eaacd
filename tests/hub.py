"""A Hugging Face Hub on this machine, and what a process of its own gets from it."""

import contextlib
import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextlib.contextmanager
def serving(handler):
    """A server that answers as a class of its own below `handler` does, so that tests may set its attributes."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (handler,), {}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def answer_of(script: str, folder: Path, endpoint: str, **more: str) -> str:
    """What a script prints that is given a folder and takes `endpoint` for the Hub; its cache begins empty."""
    names = ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", **more}
    done = subprocess.run([sys.executable, "-c", script, str(folder / "s")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
