"""What a training run is asked to do. No torch here: the command line reads these to make its flags."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from foundling.core.config import Config, option

OptimizerName = Literal["muon", "adamw", "sgd"]
ScheduleName = Literal["cosine", "wsd", "linear", "constant", "inverse_sqrt"]
ObjectiveName = Literal[
    "causal", "prefix_lm", "fill_in_the_middle", "masked", "masked_diffusion", "span_corruption", "ul2"
]
Recompute = Literal["none", "alternate", "all"]
Precision = Literal["bf16", "fp32", "fp8"]
Packing = Literal["concat", "best_fit"]
MAX_RATE = 10.0


class TrainingConfig(Config):
    """The loop's options, shared by every stage that trains. A row is one packed sequence or one example."""

    seed: int = option(0, "seed of the data order, of dropout and of whatever else is drawn", ge=0)
    steps: int = option(800, "optimizer steps", ge=1)
    batch_size: int = option(16, "rows in one step, over all processes and micro-batches", ge=1)
    micro_batch: int = option(0, "rows in one forward pass; 0: the whole batch of the process at once", ge=0)
    context: int = option(256, "longest row, in tokens", ge=2)

    optimizer: OptimizerName = option("muon", "muon (matrices; the rest by AdamW), adamw or sgd")
    learning_rate: float = option(3e-3, "peak rate of AdamW or SGD: vectors, embeddings, head", gt=0, le=MAX_RATE)
    matrix_learning_rate: float = option(0.02, "peak rate of Muon, for the matrices of the blocks", gt=0, le=MAX_RATE)
    weight_decay: float = option(0.0, "decoupled weight decay of the matrices", ge=0, lt=1)
    beta1: float = option(0.9, "AdamW: decay of the mean gradient", ge=0, lt=1)
    beta2: float = option(0.95, "AdamW: decay of the mean squared gradient", ge=0, lt=1)
    momentum: float = option(0.95, "Muon and SGD: decay of the momentum", ge=0, lt=1)
    clip: float = option(1.0, "largest norm of the gradient; 0: do not clip", ge=0)
    dropout: float = option(0.0, "share of each branch's output left out in training", ge=0, lt=1)
    base_width: int = option(
        0, "width at which the rates were found: they are carried over to the model's (muP); 0: taken as they are", ge=0
    )
    find_rates: int = option(
        0, "steps of a sweep that first finds one factor for all rates (at least 20); 0: take them as they are", ge=0
    )

    schedule: ScheduleName = option("wsd", "shape of the learning rate over the steps")
    warmup: float = option(0.02, "part of the steps in which the rate rises from zero", ge=0, lt=1)
    decay: float = option(0.4, "wsd: part of the steps in which the rate falls", gt=0, le=1)
    final_rate: float = option(0.0, "rate at the last step, relative to the peak", ge=0, le=1)

    keep_best: bool = option(False, "the result is the weights of the best evaluation instead of the last step's")
    average: float = option(
        0.0, "decay of a running average of the weights, which is then the result; 0: none", ge=0, lt=1
    )
    rewind_on_spike: float = option(
        0.0, "deviations at which a loss is a spike: back to the last checkpoint, skip that batch; 0: never", ge=0
    )

    precision: Precision = option(
        "bf16", "of the forward and backward pass (fp8: products of the blocks, the rest bf16); weights stay in fp32"
    )

    compile: bool = option(False, "compile the blocks with torch.compile: minutes at first, then faster steps")

    recompute: Recompute = option("none", "blocks recomputed in the backward pass to save memory", affects_result=False)
    shard: int = option(1, "processes that share one copy of the weights (FSDP2); 0: all", affects_result=False, ge=0)
    tensor: int = option(1, "processes that share each matrix (tensor parallel)", affects_result=False, ge=1)

    checkpoint_every_s: float = option(60.0, "seconds between checkpoints", affects_result=False, gt=0)
    checkpoint_every: int = option(0, "steps between checkpoints; 0: by time only", affects_result=False, ge=0)
    tensorboard: str = option("", "folder for TensorBoard's event files; empty: none", affects_result=False)
    evaluate_every: int = option(0, "steps between evaluations; 0: at the end only", affects_result=False, ge=0)
    sample_every: int = option(0, "steps between sample generations; 0: at the end only", affects_result=False, ge=0)
    diagnose_every: int = option(0, "steps between logs of update ratios and weights", affects_result=False, ge=0)
    log_every: int = option(10, "steps between lines of the log", affects_result=False, ge=1)

    @model_validator(mode="after")
    def _rewind_needs_fixed_checkpoints(self) -> TrainingConfig:
        if self.rewind_on_spike and not self.checkpoint_every:
            raise ValueError("rewind_on_spike needs checkpoint_every: by time, the result would depend on the clock")
        return self

    @model_validator(mode="after")
    def _best_needs_evaluations(self) -> TrainingConfig:
        if self.keep_best and not self.evaluate_every:
            raise ValueError("keep_best needs evaluate_every: there is nothing to choose from with one evaluation")
        if 0 < self.find_rates < 20:
            raise ValueError(f"find_rates is {self.find_rates}: a sweep needs at least 20 steps (60 is usual)")
        return self

    @model_validator(mode="after")
    def _whole_matrices_in_float8(self) -> TrainingConfig:
        if self.precision == "fp8" and self.tensor > 1:
            raise ValueError("fp8 and tensor > 1 do not go together: shard the weights instead (shard)")
        return self

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainingConfig:
        if 0 < self.micro_batch < self.batch_size and self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")
        return self


class PretrainConfig(TrainingConfig):
    """The stage `pretrain`: a model from nothing, or the base model trained on."""

    learning_rate: float = option(0.015, "peak rate of AdamW: vectors, embeddings, head", gt=0, le=MAX_RATE)
    preset: str = option("foundling-3m", "architecture and size, see `foundling models`; ignored with a base model")
    untie: bool = option(False, "give the head a matrix of its own where the preset uses the embedding's")
    objective: ObjectiveName = option("causal", "what is learnt from the text")
    packing: Packing = option(
        "concat", "causal: concat cuts the stream at every row's end; best_fit keeps documents whole and pads a little"
    )
    document_mask: bool = option(False, "causal: tokens attend only within their own document")
    z_loss: float = option(0.0, "weight of log²Z, which keeps logits from drifting (1e-4 is usual)", ge=0)
    fill_in_rate: float = option(0.5, "fill_in_the_middle: share of rows that are reordered", ge=0, le=1)
    mask_rate: float = option(0.3, "masked: share of tokens that are predicted", gt=0, lt=1)
    whole_words: bool = option(False, "masked: hide whole words instead of tokens")
    processes: int = option(1, "processes on this machine that train together", affects_result=False, ge=1)
    keep_every: int = option(0, "steps between models kept in the artifact's checkpoints/ folder; 0: none", ge=0)
    validation_tokens: int = option(200_000, "tokens of the validation split that are scored", ge=1)
    prompts: tuple[str, ...] = option(
        ("def ", "import os\n", "class Stack:\n"), "prompts of the sample generations", affects_result=False
    )

    @model_validator(mode="after")
    def _rows_of_documents_are_causal(self) -> PretrainConfig:
        if self.objective != "causal" and (self.document_mask or self.packing != "concat"):
            field = "document_mask" if self.document_mask else "packing"
            raise ValueError(f"{field} is for the objective causal: {self.objective} makes its rows in its own way")
        return self

    @model_validator(mode="after")
    def _keep_alone(self) -> PretrainConfig:
        if self.keep_every and self.processes > 1:
            raise ValueError("keep_every works with one process: several each have only a part of the weights")
        return self
