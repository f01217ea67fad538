"""Serves the MLflow UI of a store on this machine, and prints links to comparisons."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from harness.errors import InputError, input_error_on_os_error
from harness.tracking.store import is_server

HOST = "127.0.0.1"
START_SECONDS, STOP_SECONDS = 120.0, 10.0


def compare_link(address: str, experiment: str, runs: Sequence[str]) -> str:
    """The page that shows runs side by side."""
    chosen = quote(json.dumps(list(runs), separators=(",", ":")))
    return f"{address}/#/compare-runs?runs={chosen}&experiments={quote(json.dumps([experiment]))}"


@contextmanager
def serving(uri: str, port: int, log: Path) -> Iterator[str]:
    """The address of a UI on a tracking store: our own for as long as the block lasts, or that of a server.

    Args:
        uri: Where the store is.
        port: The port of our own UI.
        log: Where ours writes what it has to say.

    Raises:
        InputError: The port is taken, or the UI does not start.
    """
    if is_server(uri):
        yield uri.rstrip("/")
        return
    _check_free(port)
    address = f"http://{HOST}:{port}"
    options = ["--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            # Its own workers end with it, and Ctrl-C reaches us first.
            start_new_session=True,
        )
    try:
        _wait(address, process, log)
        yield address
    finally:
        _end(process)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        # As the server itself does: a port that was in use a minute ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with input_error_on_os_error(f"--port {port} cannot be used on {HOST}", "; choose another one"):
            probe.bind((HOST, port))


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise InputError(f"the MLflow UI does not start: {''.join(last) or 'it printed nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, sign)
            process.wait(STOP_SECONDS)
