"""Runs inside the jail's process: gives up everything, then executes one program. Standard library only.

`code_sandbox` starts this file's text with `python -I -S -c`. In order: become nobody, enter new user, mount, PID,
network, IPC and UTS namespaces, see only a read-only copy of Python's own files, set resource limits, drop all
capabilities, and filter system calls (no sockets, no processes or threads, no tracing, no signals to others). Only
then is the program read and executed. Its verdict is the token it must write at the very end.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import json
import os
import resource
import struct
import sys
import sysconfig
from pathlib import Path
from types import FrameType

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MS_PRIVATE, MNT_DETACH = 1 << 18, 2
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38
PR_SET_PDEATHSIG, SIGKILL = 1, 9
NOBODY = 65534
TOKEN_FD = 3
FINISHED = "foundling.finished"

# Numbers of x86-64 and of the generic table (aarch64). Everything else is refused: the machine is not known.
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Refused with EPERM. x86-64, aarch64 (None: has no such call).
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "bind": (49, 200),
    "listen": (50, 201),
    "socketpair": (53, 199),
    "sendmmsg": (307, 269),
    "clone": (56, 220),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_open": (434, 434),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "personality": (135, 92),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "syslog": (103, 116),
    "memfd_create": (319, 279),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "setrlimit": (160, 164),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    "prctl": (157, 167),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "link": (86, None),
    "linkat": (265, 37),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "sethostname": (170, 161),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "vhangup": (153, 58),
    "settimeofday": (170, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
}
NOT_THERE = {"clone3": (435, 435)}  # ENOSYS, so that libc falls back to clone


def main() -> None:
    """Set up the jail and run the program that arrives on standard input."""
    job = json.load(sys.stdin)
    os.dup2(job["token_fd"], TOKEN_FD)
    os.closerange(TOKEN_FD + 1, 4096)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
    as_root = _enter_namespaces(libc)
    child = os.fork()  # the new PID namespace begins with the next process
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    _check(libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl")
    _hide_files(libc)
    _limit(job)
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails past the last one that the kernel knows
    if as_root:
        _become_nobody()
    _drop_capabilities(libc)
    _check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    _filter_calls(libc)
    _run(job)


def _enter_namespaces(libc: ctypes.CDLL) -> bool:
    """Leave the machine's mounts, processes, network, IPC and name. Returns whether we came as real root.

    Root needs no user namespace and can become nobody afterwards; anyone else gets one in which it is root.
    """
    kinds = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    if os.geteuid() == 0 and libc.unshare(kinds) == 0:
        return True
    uid, gid = os.getuid(), os.getgid()
    _check(libc.unshare(kinds | CLONE_NEWUSER), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path(f"/proc/self/{name}").write_text(text)
    return False


def _become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _hide_files(libc: ctypes.CDLL) -> None:
    """A new root with Python's library and the system's shared libraries, all read-only, and nothing else."""
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount /")
    root = Path("/tmp")  # only a place to mount on, in our own mount namespace
    _check(libc.mount(b"jail", bytes(root), b"tmpfs", MS_NOSUID | MS_NODEV, b"size=64k,mode=755"), "mount tmpfs")
    wanted = [sysconfig.get_path("stdlib"), "/lib", "/lib64", "/usr/lib", f"{sys.base_prefix}/lib"]
    for source in dict.fromkeys(Path(path).resolve() for path in wanted if Path(path).is_dir()):
        target = root / source.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        _check(libc.mount(bytes(source), bytes(target), None, MS_BIND, None), f"bind {source}")
        flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | _locked_flags(source)
        _check(libc.mount(None, bytes(target), None, flags, None), f"read-only {source}")
    for link in (Path("/lib"), Path("/lib64")):
        if link.is_symlink():
            (root / link.name).symlink_to(link.resolve())
    old = root / "old"
    old.mkdir()
    os.chdir(root)
    _check(libc.pivot_root(b".", b"old"), "pivot_root")
    os.chdir("/")
    _check(libc.umount2(b"/old", MNT_DETACH), "umount")
    Path("/old").rmdir()
    _check(libc.mount(None, b"/", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, b"size=64k"), "read-only /")


def _locked_flags(path: Path) -> int:
    """Flags of the mount that holds `path` which a new user namespace may not take away."""
    now = os.statvfs(path).f_flag
    table = ((2, MS_NOSUID), (4, MS_NODEV), (8, MS_NOEXEC), (1024, 1024), (2048, 2048), (4096, 1 << 21))
    return sum(mount for stat, mount in table if now & stat)


def _limit(job: dict) -> None:  # type: ignore[type-arg]
    limits = {
        resource.RLIMIT_CPU: (job["cpu_s"],) * 2,
        resource.RLIMIT_AS: (job["memory_bytes"],) * 2,
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_NOFILE: (64, 64),
        resource.RLIMIT_NPROC: (1, 1),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_STACK: (64 << 20,) * 2,
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
    }
    for which, pair in limits.items():
        resource.setrlimit(which, pair)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3: two words of each set
    _check(libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)), "capset")


def _filter_calls(libc: ctypes.CDLL) -> None:
    """A seccomp filter: another architecture's calls kill, refused ones fail with EPERM, the rest go through."""
    machine = os.uname().machine
    column = list(ARCHITECTURES).index(machine)
    load, jump_equal, jump_more, answer = 0x20, 0x15, 0x35, 0x06
    kill, allow, fail = 0x80000000, 0x7FFF0000, 0x00050000
    program = [(load, 0, 0, 4), (jump_equal, 1, 0, ARCHITECTURES[machine]), (answer, 0, 0, kill), (load, 0, 0, 0)]
    program += [(jump_more, 0, 1, 0x40000000), (answer, 0, 0, kill)]  # x32 calls by another door
    for table, code in ((REFUSED, errno.EPERM), (NOT_THERE, errno.ENOSYS)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                program += [(jump_equal, 0, 1, number), (answer, 0, 0, fail | code)]
    program.append((answer, 0, 0, allow))
    code_bytes = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code_bytes, len(code_bytes))
    header = struct.pack("@HxxxxxxP" if struct.calcsize("P") == 8 else "@HxxP", len(program), ctypes.addressof(buffer))
    _check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(header), 0, 0), "seccomp")


def _run(job: dict) -> None:  # type: ignore[type-arg]
    """Execute the program; the token is written only if it ran to its end."""
    _install_guard(job.pop("token").encode())
    source = job.pop("program")
    sys.stdin.close()
    sys.setrecursionlimit(5000)
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    gc.freeze()  # what is frozen is not listed by gc.get_objects or get_referrers
    code = 0
    try:
        exec(compile(source, "<program>", "exec"), names)  # noqa: S102 - this process is the sandbox
    except MemoryError:
        code = 3
    except BaseException as error:
        code = 1
        os.write(2, f"{type(error).__name__}: {error}"[:500].encode(errors="replace"))
    else:
        sys.audit(FINISHED)
    os._exit(code)


def _install_guard(token: bytes) -> None:
    """An audit hook, which cannot be removed or reached from the program: it refuses ctypes and keeps the token.

    The token is written when `_run` says that the program has ended and no frame of the program is on the stack, so
    neither an early exit nor a call from inside the program can bring it out.
    """
    write, getframe = os.write, sys._getframe
    expected = [_run.__code__, main.__code__]

    def guard(event: str, arguments: object) -> None:
        if event.startswith("ctypes."):
            raise PermissionError("ctypes is not available here")
        if event == FINISHED:
            callers = []
            frame: FrameType | None = getframe(1)
            while frame is not None:
                callers.append(frame.f_code)
                frame = frame.f_back
            if len(callers) == 3 and callers[:2] == expected:
                write(TOKEN_FD, token)

    sys.addaudithook(guard)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        os.write(2, f"JAIL {what}: {os.strerror(number)}".encode())
        os._exit(125)


if __name__ == "__main__":
    main()
