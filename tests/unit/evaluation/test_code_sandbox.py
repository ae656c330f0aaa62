"""Escapes and bombs: every one must be contained and fail, and nothing outside may change."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundling.core.errors import FoundlingError
from foundling.evaluation import code_sandbox
from foundling.evaluation.code_sandbox import ProgramLimits, run_programs

try:
    code_sandbox.require_isolation()
    ISOLATED = ""
except FoundlingError as error:
    ISOLATED = str(error)

needs_jail = pytest.mark.skipif(bool(ISOLATED), reason=ISOLATED or "isolated")
LIMITS = ProgramLimits(cpu_s=1, wall_s=8, memory_bytes=256 << 20, output_bytes=20_000)

# {secret}: a file outside; {port}: a listening socket outside; {pid}: a process outside.
ATTACKS = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "fork once": "import os\nos.fork()",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/echo', 'x'], check=True)",
    "os.system": "import os\nassert os.system('true') == 0",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "exec python": "import os, sys\nos.execv(sys.executable, ['python'])",
    "multiprocessing": "import multiprocessing as m\np = m.Process(target=print)\np.start()",
    "thread bomb": "import threading, time\nfor _ in range(9999): threading.Thread(target=time.sleep).start()",
    "memory list": "x = [0] * 10**10",
    "memory bytes": "x = bytearray(10**11)",
    "memory slowly": "x = []\nwhile True: x.append(bytearray(10**6))",
    "memory string": "x = 'a'\nwhile True: x += x",
    "memory integer": "x = 10 ** (10 ** 10)",
    "memory map": "import mmap\nmmap.mmap(-1, 1 << 40)",
    "cpu loop": "while True: pass",
    "cpu in C": "sum(range(10**14))",
    "cpu regex": "import re\nre.match('(a+)+$', 'a' * 60 + 'b')",
    "sleep": "import time\ntime.sleep(10**6)",
    "pause": "import signal\nsignal.pause()",
    "ignore cpu signal": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "infinite output": "while True: print('x' * 1000)",
    "infinite errors": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "raw output": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "write secret": "open({secret!r}, 'a').write('changed')",
    "read secret": "open({secret!r}).read()",
    "delete secret": "import os\nos.unlink({secret!r})",
    "rename secret": "import os\nos.rename({secret!r}, {secret!r} + '2')",
    "fill disk": "with open('/tmp/x', 'wb') as f:\n while True: f.write(b'x' * 10**6)",
    "write to home": "import os\nopen(os.path.expanduser('~/x'), 'w')",
    "write to root": "open('/x', 'w')",
    "write to library": "import os\nopen(os.__file__, 'a')",
    "make directory": "import os\nos.mkdir('/d')",
    "temporary file": "import tempfile\ntempfile.NamedTemporaryFile()",
    "shared memory": "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=10)",
    "symbolic link": "import os\nos.symlink('/etc/passwd', '/lib/x')",
    "hard link": "import os\nos.link(os.__file__, '/x')",
    "device": "import os\nos.mknod('/x', 0o600 | 0o20000, os.makedev(1, 1))",
    "passwords": "open('/etc/passwd').read()",
    "proc of the parent": "open('/proc/1/environ').read()",
    "own memory": "open('/proc/self/mem', 'rb+')",
    "system settings": "open('/sys/kernel/mm/transparent_hugepage/enabled', 'w')",
    "chroot up": "import os\nos.chroot('.')\nos.chdir('../../../..')\nopen('etc/passwd')",
    "dot dot": "open('/../../../../etc/passwd')",
    "file descriptors": "import os\nassert any(os.fstat(fd).st_mode & 0o100000 for fd in range(3, 1000))",
    "mount": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'/lib', b'tmpfs', 0, None) == 0",
    "umount": "import ctypes\nassert ctypes.CDLL(None).umount2(b'/lib', 2) == 0",
    "new namespace": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "ptrace": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, {pid}, 0, 0) == 0",
    "raw system call": "import ctypes\nassert ctypes.CDLL(None).syscall(41, 2, 1, 0) >= 0",
    "segmentation fault": "import ctypes\nctypes.string_at(0)",
    "kill outside": "import os\nos.kill({pid}, 9)",
    "kill everyone": "import os\nos.kill(-1, 9)",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)",
    "kill itself": "import os\nos.kill(os.getpid(), 11)",
    "abort": "import os\nos.abort()",
    "raise limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "become root": "import os\nos.setuid(0)\nopen('/etc/shadow')",
    "tcp": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('/run/x')",
    "netlink": "import socket\nsocket.socket(16, 3, 0)",
    "listen": "import socket\nsocket.create_server(('', 0))",
    "dns": "import socket\nsocket.getaddrinfo('localhost', 80)[0][0]\nsocket.gethostbyname('example.invalid')",
    "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}', timeout=2)",
    "import outside": "import sys\nsys.path.append({folder!r})\nimport planted",
    "import package": "import numpy",
    "import by loader": "import importlib.machinery as m\nm.SourceFileLoader('planted', {planted!r}).load_module()",
    "exit early": "import os\nos._exit(0)",
    "exit politely": "raise SystemExit(0)",
    "exit from a hook": "import sys\nsys.excepthook = lambda *a: None\n1 / 0",
    "print success": "print('PASSED')\nraise SystemExit",
    "forge the end": "import sys, os\nsys.audit('foundling.finished')\nos._exit(0)",
    "call the runner": (
        "import os\ntry: 1 / 0\nexcept ZeroDivisionError as e: f = e.__traceback__.tb_frame.f_back\n"
        "f.f_globals['_run']({'token': 'x', 'program': ''})\nos._exit(0)"
    ),
    "find the token": (
        "import gc, os\nfor o in gc.get_objects():\n c = getattr(o, '__closure__', None) or ()\n"
        " for x in c:\n  if isinstance(x.cell_contents, bytes): os.write(3, x.cell_contents)\nos._exit(0)"
    ),
    "no exit": "import os\nos._exit = lambda code: None\nraise ValueError",
    "deep recursion": "def f(): return f()\nf()",
    "recursion in C": "x = []\nfor _ in range(10**6): x = [x]\nrepr(x)",
    "wrong answer": "assert 1 + 1 == 3",
    "not Python": "def f(:",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Things that no program may touch."""
    folder = tmp_path_factory.mktemp("outside")
    folder.chmod(0o777)
    secret, planted = folder / "secret", folder / "planted.py"
    secret.write_text("untouched")
    planted.write_text("open('/tmp/escaped', 'w')")
    secret.chmod(0o666)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    server = socket.create_server(("127.0.0.1", 0))
    calls: list[object] = []

    def listen() -> None:
        while True:
            try:
                calls.append(server.accept())
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    yield {
        "secret": str(secret),
        "planted": str(planted),
        "folder": str(folder),
        "pid": victim.pid,
        "port": server.getsockname()[1],
        "calls": calls,
        "victim": victim,
    }
    server.close()
    victim.kill()
    victim.wait()


def _filled(program: str, outside: dict[str, object]) -> str:
    for name, value in outside.items():
        program = program.replace(f"{{{name}!r}}", repr(value)).replace(f"{{{name}}}", str(value))
    return program


@needs_jail
def test_attacks_are_contained(outside: dict[str, object]) -> None:
    """Guards against any hole in the jail: each attack fails, and afterwards everything outside is as before."""
    assert len(ATTACKS) >= 60
    folder = Path(str(outside["folder"]))
    before = sorted(path.name for path in folder.iterdir())
    results = run_programs([_filled(text, outside) for text in ATTACKS.values()], LIMITS, workers=2)
    passed = [name for name, result in zip(ATTACKS, results, strict=True) if result.passed]
    assert passed == []
    assert Path(str(outside["secret"])).read_text() == "untouched"
    assert sorted(path.name for path in folder.iterdir()) == before
    victim = outside["victim"]
    assert isinstance(victim, subprocess.Popen) and victim.poll() is None
    assert outside["calls"] == []
    reasons = dict(zip(ATTACKS, (result.reason for result in results), strict=True))
    assert reasons["memory list"] == "memory" and reasons["infinite output"] == "output"
    assert reasons["cpu loop"] == "timeout" and reasons["sleep"] == "timeout" and reasons["exit early"] == "ended early"


@needs_jail
def test_ordinary_programs_run() -> None:
    """Guards against a jail so tight that right solutions fail."""
    programs = [
        "import math, re, json, hashlib, decimal, itertools, collections, random, heapq, bisect, string, functools\n"
        "assert hashlib.md5(b'').hexdigest().startswith('d41d8')",
        "from typing import List\ndef f(x: List[int]) -> int:\n    return sum(x)\nassert f([1, 2]) == 3\nprint('fine')",
        "x = list(range(10**6))\nassert len(set(x)) == 10**6",
        "try:\n    open('/x', 'w')\nexcept OSError:\n    pass",
    ]
    assert [result.reason for result in run_programs(programs, LIMITS, workers=2)] == [""] * 4


def test_refuses_where_it_cannot_isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against running programs unprotected on a machine without namespaces."""
    monkeypatch.setattr(sys, "platform", "darwin")
    code_sandbox.require_isolation.cache_clear()
    with pytest.raises(FoundlingError, match="cannot be isolated"):
        run_programs(["pass"])
    code_sandbox.require_isolation.cache_clear()


@needs_jail
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_holds_without_root() -> None:
    """Guards against a jail that works for root only: an ordinary user gets a user namespace."""
    code = Path(code_sandbox.__file__).with_name("code_jail.py").read_text().replace('__name__ == "__main__"', "True")
    program = "import os\nassert os.getpid() == 1\ntry: os.fork()\nexcept OSError: os.write(1, b'held')"
    limits = {"cpu_s": 2, "memory_bytes": 300_000_000}
    job = json.dumps({"program": program, "token": "t", "token_fd": 2, **limits})
    python = "/usr/bin/python3"
    if not os.access(python, os.X_OK):
        pytest.skip("no interpreter that another user may read")
    body = code.replace("from __future__ import annotations\n", "")
    done = subprocess.run(
        [python, "-I", "-S", "-c", body],
        input=job,
        capture_output=True,
        text=True,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    if "unshare" in done.stderr:
        pytest.skip("this machine gives ordinary users no namespaces")
    assert done.stdout == "held", done.stderr
