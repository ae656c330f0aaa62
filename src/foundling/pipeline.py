"""Recipe → stage graph → artifacts, reusing what exists. The stages' table, and the callables wired between layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from foundling.core import progress
from foundling.core.artifacts import Artifact, Store
from foundling.core.config import Config, parse
from foundling.core.errors import FoundlingError, nearest
from foundling.core.files import locked
from foundling.core.lives import Life, artifact_of, life_path, read_life, write_life
from foundling.core.stages import Node, Port, Stage, check_ports, load_attribute, run_stage
from foundling.core.units import human_bytes, human_time
from foundling.recipes.recipe import Recipe, StageSpec

_MODEL = ("model", "adapter")
_BASE = Port(_MODEL, "the model to start from")
_ROWS = Port(("dataset",), "rows made by `synthesize`, in place of `data`", required=False)

STAGES: dict[str, Stage] = {
    stage.verb: stage
    for stage in (
        Stage(
            "corpus",
            "corpus",
            2,
            "Read, filter, deduplicate and split documents.",
            "foundling.corpus.config:CorpusConfig",
            "foundling.corpus.build:build",
            {"held_out": Port(("corpus",), "a corpus whose validation split is taken over", required=False)},
            outside="foundling.corpus.sources:outside",
        ),
        Stage(
            "tokenizer",
            "tokenizer",
            1,
            "Train a tokenizer on a corpus.",
            "foundling.tokenization.config:TokenizerConfig",
            "foundling.tokenization.train:build",
            {"corpus": Port(("corpus",), "the corpus to train it on")},
        ),
        Stage(
            "tokenize",
            "tokens",
            2,
            "Encode a corpus into token shards.",
            "foundling.tokenization.config:TokenizeConfig",
            "foundling.tokenization.encode:build",
            {"corpus": Port(("corpus",), "the corpus"), "tokenizer": Port(("tokenizer", "model"), "the tokenizer")},
        ),
        Stage(
            "extend",
            "model",
            1,
            "Add tokens for a domain or a language to a model.",
            "foundling.tokenization.config:ExtendConfig",
            "foundling.tokenization.extend:build",
            {"corpus": Port(("corpus",), "text of the domain"), "model": Port(("model",), "the model to extend")},
        ),
        Stage(
            "pretrain",
            "model",
            1,
            "Train a model on token shards, from nothing or from a base.",
            "foundling.training.config:PretrainConfig",
            "foundling.training.pretrain:build_pretrained",
            {
                "tokens": Port(("tokens",), "the token shards"),
                "base": Port(_MODEL, "a model to continue from", required=False),
            },
        ),
        Stage(
            "synthesize",
            "dataset",
            1,
            "Let a model write or judge rows to learn from.",
            "foundling.post_training.config:SynthesizeConfig",
            "foundling.post_training.synthesize:build_dataset",
            {
                "model": Port(_MODEL, "the model that writes", required=False),
                "judge": Port(_MODEL, "the model that judges, if it is another", required=False),
            },
            outside="foundling.post_training.data:outside_of_synthesis",
        ),
        Stage(
            "sft",
            "model",
            1,
            "Fine-tune on instructions and answers.",
            "foundling.post_training.config:SFTConfig",
            "foundling.post_training.sft:build_sft",
            {"base": _BASE, "rows": _ROWS},
            outside="foundling.post_training.data:outside",
        ),
        Stage(
            "reward",
            "model",
            1,
            "Train a reward model on preferences.",
            "foundling.post_training.config:RewardConfig",
            "foundling.post_training.reward_model:build_reward_model",
            {"base": _BASE, "rows": _ROWS},
            outside="foundling.post_training.data:outside",
        ),
        Stage(
            "classify",
            "model",
            1,
            "Train a classifier or a regression on a model's body.",
            "foundling.post_training.config:ClassifyConfig",
            "foundling.post_training.classify:build_classifier",
            {"base": _BASE},
            outside="foundling.post_training.data:outside",
        ),
        Stage(
            "contrast",
            "model",
            1,
            "Train an embedding model on pairs of texts.",
            "foundling.post_training.config:ContrastConfig",
            "foundling.post_training.contrast:build_embedder",
            {"base": _BASE},
            outside="foundling.post_training.data:outside",
        ),
        Stage(
            "prefer",
            "model",
            1,
            "Learn from preferences (DPO).",
            "foundling.post_training.config:PreferConfig",
            "foundling.post_training.prefer:build_preferred",
            {"base": _BASE, "rows": _ROWS},
            outside="foundling.post_training.data:outside",
        ),
        Stage(
            "reinforce",
            "model",
            1,
            "Learn from verifiable rewards (GRPO).",
            "foundling.post_training.config:ReinforceConfig",
            "foundling.post_training.reinforce:build_reinforced",
            {
                "base": _BASE,
                "reward": Port(_MODEL, "a reward model in place of the verifiers", required=False),
                "reward2": Port(_MODEL, "a second reward model: an ensemble", required=False),
                "reward3": Port(_MODEL, "a third", required=False),
            },
            outside="foundling.post_training.data:outside",
        ),
        Stage(
            "evaluate",
            "evaluation",
            2,
            "Score a model, with intervals and baselines.",
            "foundling.evaluation.config:EvaluateConfig",
            "foundling.evaluation.evaluate:build",
            outside="foundling.evaluation.task_file:outside",
            ports={
                "model": Port(_MODEL, "the model to score", required=False),  # or `url`
                "corpus": Port(("corpus",), "where held-out texts come from", required=False),
                "against": Port(("evaluation",), "an evaluation to compare with, item by item", required=False),
            },
        ),
        Stage(
            "compress",
            "model",
            3,
            "Make a model smaller: quantize, prune, remove parts.",
            "foundling.compression.config:CompressConfig",
            "foundling.compression.compress:build",
            {
                "model": Port(_MODEL, "the model to compress"),
                "corpus": Port(("corpus",), "calibration and held-out text", required=False),
            },
            outside="foundling.compression.outside:of_compress",
        ),
        Stage(
            "merge",
            "model",
            1,
            "Join fine-tunes of one base.",
            "foundling.compression.merge_config:MergeConfig",
            "foundling.compression.merge:build",
            {"*": Port(_MODEL, "the models to merge"), "base": Port(_MODEL, "what they began as", required=False)},
        ),
        Stage(
            "distill",
            "model",
            1,
            "Teach a small model a large one's predictions.",
            "foundling.compression.distill_config:DistillConfig",
            "foundling.compression.distill:build_distilled",
            {
                "teacher": Port(_MODEL, "the model to learn from", required=False),
                "base": Port(_MODEL, "the student, if not a preset with random weights", required=False),
                "tokens": Port(("tokens",), "the text to learn on", required=False),
            },
            outside="foundling.compression.outside:of_distill",
        ),
        Stage(
            "compare-architectures",
            "report",
            1,
            "Train architectures side by side at equal cost.",
            "foundling.studies.config:CompareArchitecturesConfig",
            "foundling.studies.architectures:compare_architectures",
            {"tokens": Port(("tokens",), "the token shards to train on")},
        ),
        Stage(
            "probe-architectures",
            "report",
            1,
            "Put architectures to the papers' probing tasks.",
            "foundling.studies.config:ProbesConfig",
            "foundling.studies.probes.run:probe_architectures",
        ),
        Stage(
            "scale",
            "report",
            1,
            "Fit scaling laws to a ladder of models.",
            "foundling.studies.config:ScaleConfig",
            "foundling.studies.scale:scale",
            {"*": Port(("model",), "the models of the ladder")},
        ),
        Stage(
            "report",
            "report",
            1,
            "One page about a whole life.",
            "foundling.releases.report:ReportConfig",
            "foundling.releases.report:build",
            {"*": Port(("corpus", "tokenizer", "tokens", "model", "adapter", "evaluation"), "what it reports on")},
        ),
    )
}


def wired(verb: str) -> dict[str, Callable[..., Any]]:
    """What a stage needs from layers above its own, as callables."""
    if verb == "corpus":
        return {
            "held_out_prompts": load_attribute("foundling.evaluation.tasks.expressions:held_out_prompts"),
            "scorer": lambda model: load_attribute("foundling.evaluation.scorer:bits_per_byte_of")(model),
        }
    if verb == "pretrain":
        return {"sample": load_attribute("foundling.inference.model:sample_texts")}
    return {}


def wired_keys(verb: str) -> dict[str, str]:
    """Versions of what `wired` brings in that affects the result: part of the key."""
    if verb == "corpus":
        version = load_attribute("foundling.evaluation.tasks.expressions:VERSION")
        return {"wired:held_out_prompts": f"version {version}"}
    return {}


def stage_named(verb: str, where: str) -> Stage:
    """The stage of a verb, or a refusal that names the nearest one."""
    if verb not in STAGES:
        raise FoundlingError(
            f"{where}: there is no stage {verb!r}", f"stages: {', '.join(STAGES)}", nearest(verb, STAGES)
        )
    return STAGES[verb]


def check_fields(recipe: Recipe) -> None:
    """Refuse unknown verbs and fields, without reading any data."""
    for name, spec in recipe.stages.items():
        where = f"stage {name!r} of recipe {recipe.name!r}"
        typed_config(stage_named(spec.stage, where), spec, recipe.seed, where)


def resolve(recipe: Recipe, store: Store) -> list[Node]:
    """The recipe's stages in an order in which inputs come first, each with its typed config and its key.

    Raises:
        FoundlingError: unknown verbs, fields or ports, inputs that do not exist or go in a circle.
    """
    nodes: dict[str, Node] = {}
    for name in _ordered(recipe):
        spec = recipe.stages[name]
        where = f"stage {name!r} of recipe {recipe.name!r}"
        stage = stage_named(spec.stage, where)
        config = typed_config(stage, spec, recipe.seed, where)
        inputs: dict[str, Artifact | str] = {}
        kinds = {}
        for port, source in spec.inputs.items():
            if source in recipe.stages:
                inputs[port], kinds[port] = nodes[source].key, nodes[source].stage.kind
            else:
                wanted = stage.ports[port].kinds[0] if port in stage.ports else "model"
                inputs[port] = found = outside_input(source, wanted, store, f"{where}, input {port!r}")
                kinds[port] = found.kind
        check_ports(stage, kinds)
        keys = {port: item if isinstance(item, str) else item.key for port, item in inputs.items()}
        key, _ = stage.key(config, keys, wired_keys(stage.verb))
        nodes[name] = Node(name, stage, config, dict(spec.inputs), inputs, key)
    return list(nodes.values())


def typed_config(stage: Stage, spec: StageSpec, seed: int, where: str) -> Config:
    """The stage's config, with the recipe's seed if it does not set its own."""
    fields = dict(spec.config)
    if "seed" in stage.config_type.model_fields:
        fields.setdefault("seed", seed)
    return parse(stage.config_type, fields, where)


def outside_input(spec: str, kind: str, store: Store, where: str) -> Artifact:
    """An input that is not a stage of the recipe: a path, life/stage, key, package or hub id."""
    artifact = artifact_of(store, spec, kind)
    if artifact is None and kind == "model":
        artifact = Artifact.outside(load_attribute("foundling.models.locate:locate")(spec), "model")
    if artifact is None:
        raise FoundlingError(f"{where}: {spec!r} is neither a stage of the recipe nor a path, life/stage or key")
    return artifact


def run_life(recipe: Recipe, store: Store, life: Life, on_stage: Callable[[Node, Artifact, bool], None]) -> Life:
    """Run every stage of a life that has no artifact yet, recording each as it is done.

    `life` carries the resolved recipe (what the planner chose included). What an earlier run has made stays in it, so
    that it is not taken for garbage if this one is broken off. A second run on the same life waits.
    """
    with locked(life_path(store, recipe.name).with_suffix(".lock"), f"life {recipe.name!r}"):
        nodes = resolve(recipe, store)
        made: dict[str, Artifact] = {}
        with progress.task(f"life {recipe.name}", total=len(nodes), unit="stages", even=False) as bar:
            for node in nodes:
                inputs = {
                    port: made[node.sources[port]] if isinstance(item, str) else item
                    for port, item in node.inputs.items()
                }
                artifact, reused = run_stage(
                    store, node.stage, node.config, inputs, wired(node.stage.verb), wired_keys(node.stage.verb)
                )
                made[node.name] = artifact
                life.stages = {n.name: n.key for n in nodes if n.name in made or store.has(n.key)}
                write_life(store, life)
                on_stage(node, artifact, reused)
                bar.advance(1)
    return life


def announce(node: Node, artifact: Artifact, reused: bool) -> None:
    """One line for a finished stage."""
    took = "reused" if reused else human_time(float(artifact.run.get("seconds", 0)))
    progress.say(
        f"  [green]✓[/] {node.name:<22} {took:>8}   {artifact.kind} {artifact.key}, {human_bytes(artifact.size)}"
    )


def open_life(recipe: Recipe, store: Store) -> Life:
    """The recorded life of that name, or a new one, carrying this recipe."""
    life = read_life(store, recipe.name) or Life(recipe.name)
    life.recipe = recipe.model_dump(mode="json")
    life.updated = time.time()
    return life


def _ordered(recipe: Recipe) -> Iterator[str]:
    """Names in recipe order, moved back only as far as their inputs demand. Raises on a circle."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            circle = " -> ".join((*path, name))
            raise FoundlingError(f"recipe {recipe.name!r}: inputs go in a circle, {circle}")
        if name not in done:
            for source in recipe.stages[name].inputs.values():
                if source in recipe.stages:
                    yield from visit(source, (*path, name))
            done.add(name)
            yield name

    for name in recipe.stages:
        yield from visit(name, ())
