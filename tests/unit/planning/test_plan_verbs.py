"""`foundling plan ...` as a user types it: every command answers, in JSON too, and refuses nonsense in one line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from foundling.cli.main import main
from foundling.core import hardware
from foundling.core.artifacts import Store
from foundling.core.hardware import Rates
from foundling.core.lives import Life, write_life

RUNS = "parameters,tokens,loss\n" + "\n".join(
    f"{n},{d},{(1.8 + 400 / n**0.35 + 2000 / d**0.37) * (1 + 0.002 * math.sin(n + d))}"
    for n in (1e8, 3e8, 1e9, 3e9)
    for d in (1e9, 1e10, 1e11)
)


@pytest.fixture(autouse=True)
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, whose store knows a machine's rates."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOUNDLING_STORE", str(tmp_path / "runs"))
    rates = Rates(bandwidth=30e9, fp32=150e9, bf16=400e9, threads=2, device="cpu")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "machine.json").write_text(json.dumps({"machine": hardware.describe(), **asdict(rates)}))
    (tmp_path / "runs.csv").write_text(RUNS)
    return tmp_path


COMMANDS = [
    "memory 7B",
    "memory mixtral-8x7b --bits 4 --sparsity 0.5",
    "cache llama-3.1-405b --context 128K --batch 8",
    "experts deepseek-v3",
    "compute 3.14e23 --devices 256 --rate 5.2e18/day --utilisation 0.7 --price 2",
    "compute --model gpt-3-175b --tokens 300B --hardware a100 --devices 1024",
    "compute 1e15 --hardware this",
    "units 1e21 --hardware b200",
    "train foundling-3m --tokens 4M",
    "train llama-3-8b --tokens 15T --hardware h100 --devices 1K --batch 1K --micro-batch 1 --context 8K --recompute",
    "hardware",
    "labels --examples 13K",
    "last-mile 1000=0.70 2000=0.78 4000=0.84 8000=0.88",
    "serving --tokens-per-s 2500 --price 2",
    "serving llama-3-8b --price 2 --hardware l40s",
    "buy --tokens 1B --api-price 3 --tune 5000,1500,0.4 --build 200000,1500,0.2",
    "fit runs.csv --budget 1e24 --predict 7B,1.4T --bootstraps 20 --out law.json",
    "optimal 1e21",
    "overtrain 1e22 --served 1T",
    "repeat 1e22 --unique 20B",
    "ceilings",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_people_and_machines(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An answer has figures, a formula, and says what it assumes or where it comes from."""
    main(["plan", *command.split()])
    printed = capsys.readouterr().out
    assert "formula: " in printed and ("assumes: " in printed or "source: " in printed)
    main(["plan", *command.split(), "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["figures"] and data["formulas"]
    assert all(name in " ".join(printed.split()) for name in data["figures"])


def test_a_fitted_law_is_used_by_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "fit", "runs.csv", "--bootstraps", "20", "--out", "law.json", "--plot", "fit.png"])
    main(["plan", "optimal", "1e26", "--law", "law.json", "--json"])
    data = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert data["figures"]["parameters"]["low"] < data["figures"]["parameters"]["value"]
    assert "an extrapolation: the loss there lies in [" in data["warnings"][0]
    assert Path("fit.png").read_bytes()[:4] == b"\x89PNG"


def test_what_never_happens_is_a_word_for_people_and_null_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no infinity."""
    command = ["plan", "buy", "--tokens", "1B", "--api-price", "0.1", "--tune", "5000,1500,0.4"]
    main(command)
    assert "never" in capsys.readouterr().out
    main([*command, "--json"])
    figures = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["figures"]
    assert figures["fine-tune breaks even with buy at (tokens a month)"]["value"] is None


def test_tokens_by_language_from_files(capsys: pytest.CaptureFixture[str]) -> None:
    """The same text in more bytes costs more under a byte tokenizer."""
    from foundling.tokenization.config import TokenizerConfig
    from foundling.tokenization.train import train

    text = "all people are born free and equal"
    train(iter([text] * 3), TokenizerConfig(vocab_size=300)).save(Path("tokenizer"))
    Path("eng.txt").write_text(text)
    Path("xyz.txt").write_text("ⴰⵎⴷⴰⵏ ⵏⵏⴰ ⴷ ⵉⵍⵓⵍⵏ ⵎⴰⵔⵔⴰ")
    main(["plan", "tokens", "eng.txt", "xyz.txt", "--tokenizer", "tokenizer", "--price", "3", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["figures"]["dearest language over the reference"]["value"] > 2
    assert data["table"]["rows"][0][0] == "xyz"


def test_plan_against_actual_of_a_life(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a run, each stage's plan stands beside what it took."""
    store = Store()
    with store.draft("model", "pretrain", 1, {}, {}) as draft:
        draft.timings |= {"seconds": 30.0, "peak_memory_bytes": 600_000_000}
    plan = {
        "stages": [{"name": "base", "seconds": 20.0, "memory": 500e6}, {"name": "later", "seconds": 1, "memory": 1}]
    }
    write_life(store, Life("mine", stages={"base": draft.key}, plan=plan))
    main(["plan", "actual", "mine", "--json"])
    data = json.loads(capsys.readouterr().out)
    assert data["table"]["rows"] == [["base", "20.0s", "30.0s", "1.50", "500 MB", "600 MB", "1.20"]]
    assert data["figures"]["actual over planned"]["value"] == 1.5


def test_a_recipe_is_still_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """`foundling plan RECIPE` was there first."""
    main(["plan", "tiny", "--json"])
    assert json.loads(capsys.readouterr().out)["stages"][0]["name"] == "corpus"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("memory lama-3-8b", "did you mean 'llama-3-8b'?"),
        ("memory 7B --bits 0", "bits is 0"),
        ("cache 7B", "depends on the architecture"),
        ("compute", "there is nothing to compute"),
        ("compute -1e20", "is -1e+20"),
        ("compute much", "much"),
        ("compute 1e20 --devices 0", "number of devices is 0"),
        ("compute 1e20 --hardware h1000", "did you mean 'h100'?"),
        ("compute 1e20 --utilisation 40", "Write 40% as 0.4"),
        ("compute 1e20 --rate 5e18/week", "5.2e18/day"),
        ("train llama-2-7b --tokens 1B --hardware h100 --context 2048", "What would fit"),
        ("train llama-2-7b --tokens 1B --optimizer adam", "did you mean 'adamw'?"),
        ("last-mile 10=0.5 20=0.6", "2 points are too few"),
        ("last-mile 10", "not EFFORT=SCORE"),
        ("serving --price 2", "give a MODEL or --tokens-per-s"),
        ("buy --tokens 1B --api-price 3", "only one way"),
        ("buy --tokens 1B --api-price 3 --tune 5", "FIXED,MONTHLY,PER_MILLION"),
        ("fit nothing.csv", "there is no file"),
        ("fit runs.csv --predict 7B", "not PARAMETERS,TOKENS"),
        ("fit runs.csv --drop-highest 10", "2 runs are too few"),
        ("optimal 1e21 --law mine", "no law 'mine'"),
        ("ceilings --growth 1", "growth is 1"),
        ("actual", "has no lives"),
        ("memori 7B", "did you mean 'memory'?"),
        ("compute 1e20 --model llama-3-8b", "both an amount of FLOPs and"),
        ("train llama-2-7b --tokens 1B --hardware h100 --devices 64", "Set --batch 64 or more"),
        ("fit runs.csv --bootstraps 0", "0 bootstrap fits are too few"),
        ("fit runs.csv --drop-highest -3", "drop_highest is -3"),
        ("quikstart", "did you mean 'quickstart'?"),
    ],
)
def test_nonsense_is_one_paragraph_and_exit_code_2(command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *command.split()])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert said.lower() in message.lower() and len(message.strip().splitlines()) == 1, message


def test_planning_loads_no_torch_and_allocates_no_weight(measured: Path) -> None:
    """Under two seconds for any preset and recipe: the slow imports stay out, and 405B parameters are only counted."""
    code = "import sys\nfrom foundling.cli.main import main\n"
    for command in (
        "memory llama-3.1-405b",
        "train deepseek-v3 --tokens 1T --hardware b200 --devices 2048 --batch 2048",
        "optimal 1e21",
        "quickstart",
        "ablation",
    ):
        code += f"main(['plan', *{command!r}.split()])\n"
    code += "slow = {'torch', 'scipy', 'matplotlib', 'transformers'} & set(sys.modules)\n"
    code += "assert not slow, slow\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
