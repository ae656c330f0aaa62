"""Runs untrusted programs: each in its own process, without network, files, other processes, or much of anything.

The isolation is Linux's (user, mount, PID, network, IPC and UTS namespaces, seccomp, rlimits); see `code_jail` for
its steps. Where the machine cannot give it, nothing is run: refusing is the only safe answer.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from foundling.core.errors import FoundlingError

_JAIL = Path(__file__).with_name("code_jail.py")
_MACHINES = ("x86_64", "aarch64")


@dataclass(frozen=True)
class ProgramLimits:
    """What one program may use."""

    cpu_s: int = 5
    wall_s: float = 10.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 64 << 10


@dataclass(frozen=True)
class ProgramResult:
    """What became of a program. `reason` is "" if it ran to its end, else one of "error", "timeout", "memory",
    "output", "crash", "ended early" (it left before its last line)."""

    passed: bool
    reason: str = ""
    message: str = ""


def run_programs(
    programs: Sequence[str], limits: ProgramLimits | None = None, workers: int | None = None
) -> list[ProgramResult]:
    """Run each program to its end, several at a time; a program passes if its last line is reached.

    Raises:
        FoundlingError: this machine cannot isolate programs.
    """
    require_isolation()
    chosen = limits or ProgramLimits()
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: _run(program, chosen), programs))


@cache
def require_isolation() -> None:
    """Try the jail once. Raises FoundlingError if it does not hold here."""
    why = "it needs Linux's user namespaces and seccomp on x86-64 or arm64"
    if sys.platform != "linux" or os.uname().machine not in _MACHINES:
        raise FoundlingError("programs cannot be isolated on this machine, so none is run", why)
    trial = _run("import os\nassert os.getpid() == 1 and not os.path.exists('/proc/self')", ProgramLimits(wall_s=30))
    if not trial.passed:
        raise FoundlingError(f"programs cannot be isolated here, so none is run ({trial.message})", why)


def _run(program: str, limits: ProgramLimits) -> ProgramResult:
    token = secrets.token_hex(16)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    job = json.dumps({"program": program, "token": token, "token_fd": write_end, **asdict(limits)})
    process = _start(write_end)
    os.close(write_end)
    try:
        assert process.stdin is not None
        try:
            process.stdin.write(job.encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died early; what it said is read below
        output, problem = _watch(process, limits)
        finished = _read_token(read_end) == token
    finally:
        process.kill()
        process.wait()
        os.close(read_end)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
    return _verdict(process.returncode, output, problem, finished)


def _start(write_end: int) -> subprocess.Popen[bytes]:
    """The jail, with an empty environment and its own session."""
    command = [sys.executable, "-I", "-S", "-c", _JAIL.read_text(encoding="utf-8")]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(write_end,),
        env={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
    )


def _watch(process: subprocess.Popen[bytes], limits: ProgramLimits) -> tuple[bytes, str]:
    """Read what the program writes until it ends; kill it if it takes too long or writes too much."""
    deadline = time.monotonic() + limits.wall_s
    errors, written = b"", 0
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return errors, "timeout"
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    errors = (errors + data)[-2000:]
                written += len(data)
            if written > limits.output_bytes:
                return errors, "output"
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return errors, "timeout"
    return errors, ""


def _read_token(read_end: int) -> str:
    try:
        return os.read(read_end, 4096).decode(errors="replace")
    except BlockingIOError:
        return ""


def _verdict(code: int, output: bytes, problem: str, finished: bool) -> ProgramResult:
    message = output.decode(errors="replace").strip()[-300:]
    if problem:
        return ProgramResult(False, problem, message)
    if finished and code == 0:
        return ProgramResult(True)
    if code == 3:
        return ProgramResult(False, "memory", message)
    if code == 1:
        return ProgramResult(False, "error", message)
    if code == 0:
        return ProgramResult(False, "ended early", message)
    reason = "timeout" if code - 128 in (signal.SIGXCPU, signal.SIGKILL) else "crash"
    return ProgramResult(False, reason, message)
