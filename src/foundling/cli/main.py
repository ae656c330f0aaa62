"""The `foundling` command: one verb per stage. Verbs are imported only when used, so that it starts at once."""

from __future__ import annotations

import os
import sys
import traceback

from cyclopts import App, CycloptsError

from foundling import __version__
from foundling.core.errors import FoundlingError

LIFE = "A whole life"
STAGE = "One stage"
USE = "Use a model"
STUDY = "Studies"
STORE = "What there is"

VERBS: dict[str, tuple[str, str, str]] = {
    # verb: (where, help, group)
    "run": ("foundling.cli.lives:run", "Run a recipe: raw text to a served, measured model.", LIFE),
    "plan": (
        "foundling.cli.planning:app",
        "What a recipe, a run, a model or an answer will cost, before spending.",
        LIFE,
    ),
    "init": ("foundling.cli.lives:init", "Write a commented recipe to start from.", LIFE),
    "corpus": ("foundling.cli.stages:corpus", "Read, filter, deduplicate and split documents.", STAGE),
    "tokenizer": ("foundling.cli.stages:tokenizer", "Train a tokenizer.", STAGE),
    "tokenize": ("foundling.cli.stages:tokenize", "Encode a corpus into token shards.", STAGE),
    "extend": ("foundling.cli.stages:extend", "Add tokens for a domain or a language to a model.", STAGE),
    "pretrain": ("foundling.cli.stages:pretrain", "Train a model on text.", STAGE),
    "synthesize": ("foundling.cli.stages:synthesize", "Let a model write or judge rows to learn from.", STAGE),
    "sft": ("foundling.cli.stages:sft", "Fine-tune on instructions and answers.", STAGE),
    "prefer": ("foundling.cli.stages:prefer", "Learn from preferences (DPO).", STAGE),
    "reward": ("foundling.cli.stages:reward", "Train a reward model on preferences.", STAGE),
    "classify": ("foundling.cli.stages:classify", "Train a classifier or a regression on a model's body.", STAGE),
    "contrast": ("foundling.cli.stages:contrast", "Train an embedding model on pairs of texts.", STAGE),
    "reinforce": ("foundling.cli.stages:reinforce", "Learn from verifiable rewards (GRPO).", STAGE),
    "evaluate": ("foundling.cli.evaluating:evaluate", "Score models, with intervals and baselines.", STAGE),
    "compress": ("foundling.cli.compress:compress", "Make a model smaller: quantize, prune, remove parts.", STAGE),
    "merge": ("foundling.cli.compress:merge", "Join fine-tunes of one base.", STAGE),
    "distill": ("foundling.cli.stages:distill", "Teach a small model a large one's predictions.", STAGE),
    "compare-architectures": (
        "foundling.cli.stages:compare_architectures",
        "What each design buys, at equal cost.",
        STUDY,
    ),
    "probe-architectures": ("foundling.cli.stages:probe_architectures", "The papers' probing tasks, trained.", STUDY),
    "scale": ("foundling.cli.scale:scale", "Train a ladder of small models, fit scaling laws, extrapolate.", STUDY),
    "adapt": (
        "foundling.cli.use:adapt",
        "The cheapest road from a model to a task: prompt, retrieval, LoRA, full.",
        STUDY,
    ),
    "fairness": ("foundling.cli.fairness:fairness", "What tokenizers cost the speakers of each language.", STUDY),
    "structured": (
        "foundling.cli.sampling:structured",
        "Ways to get answers in a form, compared on your own schema.",
        STUDY,
    ),
    "generate": ("foundling.cli.use:generate", "Continue a text, or answer a message.", USE),
    "best-of": ("foundling.cli.sampling:best_of", "Draw several answers and choose one.", USE),
    "sample-explain": ("foundling.cli.sampling:sample_explain", "What each sampling step does to the next token.", USE),
    "chat": ("foundling.cli.use:chat", "Talk to a model in the terminal.", USE),
    "serve": ("foundling.cli.use:serve", "Serve a model behind an OpenAI-compatible URL.", USE),
    "compare": ("foundling.cli.evaluating:compare", "Compare two evaluations, item by item.", USE),
    "judge": ("foundling.cli.evaluating:judge", "Who answers better, by a judge model or by people's votes.", USE),
    "models": ("foundling.cli.store:models", "The model presets, their sizes and costs.", STORE),
    "list": ("foundling.cli.store:list_artifacts", "The lives and artifacts in the store.", STORE),
    "lineage": ("foundling.cli.store:lineage", "What an artifact was made from.", STORE),
    "verify": ("foundling.cli.store:verify", "Re-hash artifacts and name every damaged file.", STORE),
    "gc": ("foundling.cli.store:gc", "Delete artifacts that nothing needs.", STORE),
    "doctor": ("foundling.cli.store:doctor", "What this machine can do, and what is missing.", STORE),
}


def build_app() -> App:
    """The command-line application, with every verb registered by name only."""
    app = App(
        name="foundling",
        version=__version__,
        help="Raise a foundation model: from raw text to a served, measured release.\n\n"
        "Begin with `foundling run quickstart`. Every verb explains itself: `foundling VERB --help`.",
        help_format="markdown",
    )
    for verb, (where, text, group) in VERBS.items():
        app.command(where, name=verb, help=text, group=group)
    app.register_install_completion_command(name="install-completion", help="Install shell completion.", group=STORE)
    return app


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake is one paragraph and exit code 2; `--debug` shows the traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        build_app()(given, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        _fail(error, " ".join(str(error).split()), 2, debug)
    except FoundlingError as error:
        _fail(error, str(error), error.exit_code, debug)
    except BrokenPipeError:  # the reader of our output has gone, as in `foundling list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a path that cannot be read or written; not one of our own rules
        named = f"{error.filename}: " if error.filename else ""
        _fail(error, f"{named}{error.strerror or error}. (--debug shows where.)", 2, debug)
    except KeyboardInterrupt as error:
        _fail(error, "Stopped. What was done is kept: run the same command again to go on.", 130, debug)


def _fail(error: BaseException, message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print(f"foundling: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
