"""Whatever a user can get wrong on the command line: one clear paragraph, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


def foundling(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foundling.cli.main", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "FOUNDLING_STORE": str(cwd / "runs")}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=env)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "quikstart"), ("no recipe 'quikstart'", "Did you mean 'quickstart'?")),
        (("run", "quickstart", "--set", "sft.epocks=2"), ("unknown field 'epocks'", "Did you mean 'epochs'?")),
        (("run", "quickstart", "--set", "sfd.epochs=2"), ("no stage 'sfd'", "Did you mean 'sft'?")),
        (("run", "quickstart", "--set", "sft.epochs=many"), ("'epochs'", "'many'")),
        (("run", "quickstart", "--set", "sft.inputs.base=nothing"), ("'nothing'",)),
        (("rum",), ("rum",)),
        (("corpus", "--data", "missing.txt"), ("missing.txt",)),
        (("corpus", "--dat", "x"), ("--dat",)),
        (("pretrain", "--steps", "-1", "--data", "a.txt"), ("steps", "-1")),
        (("sft", "--base", "here"), ("here",)),
        (("evaluate", "not-a-model"), ("not-a-model",)),
        (("chat", "not-a-model"), ("not-a-model",)),
        (("compress", "not-a-model"), ("not-a-model",)),
        (("lineage", "nothing"), ("nothing",)),
        (("generate", "x"), ("no model",)),
        (("init", "recipe.yaml", "--like", "quickstat"), ("quickstat", "quickstart")),
    ],
)
def test_a_mistake_on_the_command_line_is_one_paragraph(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (tmp_path / "a.txt").write_text("some text\n")
    (tmp_path / "here").mkdir()
    refused(foundling(*arguments, cwd=tmp_path), *words)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.txt", b"", "empty"),
        ("binary.txt", bytes(range(256)) * 8, "binary.txt"),
        ("latin.txt", "déjà vu ".encode("latin-1") * 40, "latin.txt"),
        ("broken.jsonl", b'{"text": "ok\n{"text": \n', "broken.jsonl"),
    ],
)
def test_a_corpus_with_nothing_usable_is_refused(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    refused(foundling("corpus", "--data", name, cwd=tmp_path), word)


def test_a_broken_line_is_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    good = [json.dumps({"text": source}) for source in sources()]
    (tmp_path / "mixed.jsonl").write_text("\n".join([*good[:4], '{"text": ', *good[4:]]) + "\n")
    done = foundling("corpus", "--data", "mixed.jsonl", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["path"])
    path = path if path.is_absolute() else tmp_path / path
    report = json.loads((path / "report.json").read_text())
    assert report["quarantine"], "the broken line must be counted"
    assert (path / "quarantine.jsonl").read_text().strip(), "and kept to look at"


def test_sft_rows_that_are_no_chats_are_named_by_file_and_line(tmp_path: Path) -> None:
    rows = [
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}',
        '{"massages": []}',
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(rows))
    tiny = foundling("pretrain", "--data", "text", "--preset", "foundling-1m", "--steps", "1", cwd=text(tmp_path))
    assert tiny.returncode == 0, tiny.stderr
    refused(foundling("sft", "--data", "chats.jsonl", cwd=tmp_path), "chats.jsonl:2", "massages")


def sources() -> list[str]:
    """Real text that every Python has: some modules of the standard library."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [
        path.read_text()
        for path in sorted([*folder.glob("json/*.py"), *folder.glob("email/*.py")])
        if path.stat().st_size > 500
    ]


def text(folder: Path) -> Path:
    (folder / "text").mkdir()
    for number, source in enumerate(sources()):
        (folder / "text" / f"{number}.txt").write_text(source)
    return folder


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    made = foundling("pretrain", "--data", "text", "--preset", "foundling-1m", "--steps", "1", cwd=text(tmp_path))
    assert made.returncode == 0, made.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(foundling("serve", "--port", port, cwd=tmp_path), port)


def test_help_starts_at_once_and_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys\nfrom foundling.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
