"""The settings of training. Each has one name, in YAML files and as a flag; the reference's, where it has one.

The defaults are T5's own. The T5 paper fine-tunes with Adafactor at a constant 1e-3 (section 3.1.2): its steps are
relative to the size of each parameter, so one rate suits embeddings and small matrices alike, nothing has to be tuned
to the number of steps, and its state is a fraction of Adam's. AdamW's steps are absolute; 1e-4, also constant, is what
the reference's documentation recommends for T5 ("typically, 1e-4 and 3e-4 work well"). Pre-training follows the paper
too: 1e-2 for 10,000 steps, then the inverse square root of the step.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any, Literal

from quintet.training.settings import setting

LEARNING_RATES = {"adafactor": 1e-3, "adamw_torch": 1e-4, "adamw_scaled": 2e-2}
"""Where none is given: T5's, the reference's advice, and nanoT5's."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """A text-to-text task: where its records are, how they become texts, how answers are measured."""

    name: str = setting(MISSING, "what the task is called in logs")
    train_file: list[str] = setting([], "files to train on: .jsonl, .tsv, .csv, .txt, each also .gz, or .parquet")
    validation_file: list[str] = setting([], "held-out files")
    test_file: list[str] = setting([], "files for `quintet evaluate`")
    dataset_name: str | None = setting(None, "instead of files: a data set of the hub, or a folder of `datasets`")
    dataset_config_name: str | None = setting(None, "its configuration")
    train_split_name: str = setting("train", "its split to train on")
    validation_split_name: str | None = setting(None, "its held-out split")
    test_split_name: str | None = setting(None, "its split for `quintet evaluate`")
    columns: list[str] = setting([], "names of the columns, where .tsv and .csv files do not begin with them")
    prefix: str = setting("", "what every source begins with, such as 'summarize: '")
    source: str = setting("{source}", "the source's template: {field}, {field[0]}, {field[key]}")
    target: str = setting("{target}", "the target's template")
    metrics: list[str] = setting([], "of generated answers: sacrebleu, chrf, rouge, squad, exact_match, accuracy")
    rate: float | None = setting(None, "its share of a mixture; all tasks have one or none", minimum=0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network is trained, and which of its parts."""

    model_name_or_path: str | None = setting(None, "a checkpoint to go on from: a folder, or a name on the Hub")
    config_name: str | None = setting(None, "instead: a configuration whose weights are drawn anew")
    config_overrides: dict[str, Any] = setting({}, "values of the configuration, such as dropout_rate: 0.0")
    tokenizer_name: str | None = setting(None, "the tokenizer, if it is not beside the model")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "of the weights; bfloat16 wants optim adamw_scaled")
    quantization_config: dict[str, Any] = setting(
        {}, "train for it: losses with weights rounded so, such as {bits: 4, group_size: 32}; what is saved is precise"
    )
    freeze: list[str] = setting([], "parts that are not trained, such as encoder or decoder.block.[0-3]")
    lora_rank: int | None = setting(None, "train low-rank adapters of this rank instead of the weights", minimum=1)
    lora_alpha: float | None = setting(
        None, "the adapters' scale is lora_alpha / lora_rank; 2 x lora_rank if not given"
    )
    lora_target_modules: list[str] = setting(["q", "v"], "the layers that get adapters")
    attn_implementation: Literal["sdpa", "eager"] = setting("sdpa", "eager is faster for short texts on a CPU")
    gradient_checkpointing: bool = setting(False, "compute blocks twice instead of keeping what they computed")
    torch_compile: bool = setting(False, "compile the stacks")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is trained on: tasks and their mixture."""

    tasks: list[TaskConfig] = setting([], "the tasks; only in a file")
    mixing_maximum: float | None = setting(None, "a task counts as having at most so many examples", minimum=1)
    mixing_temperature: float = setting(1.0, "rates are sizes to the power of 1/temperature", minimum=1)
    max_source_length: int = setting(512, "tokens; longer sources are cut", minimum=1)
    max_target_length: int = setting(128, "tokens; examples with longer targets are left out", minimum=1)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What is pre-trained on: running text, and how examples are made of it."""

    train_file: list[str] = setting([], "files of text: .txt, .jsonl, .tsv, .csv, each also .gz, or .parquet")
    validation_file: list[str] = setting([], "held-out files")
    dataset_name: str | None = setting(None, "instead of files: a data set of the hub, or a folder of `datasets`")
    dataset_config_name: str | None = setting(None, "its configuration")
    train_split_name: str = setting("train", "its split to train on")
    validation_split_name: str | None = setting(None, "its held-out split")
    columns: list[str] = setting([], "names of the columns, where .tsv and .csv files do not begin with them")
    text: str = setting("{text}", "the template of a document")
    objective: Literal["span_corruption", "prefix_lm", "ul2"] = setting("span_corruption", "what is learned from text")
    noise_density: float = setting(0.15, "the share of tokens that span corruption takes out", minimum=0, below=1)
    mean_noise_span_length: float = setting(3.0, "tokens of a span on average", minimum=1)
    max_source_length: int = setting(512, "tokens of a source", minimum=2)
    max_target_length: int | None = setting(None, "tokens of a target; else what the sources' length makes", minimum=2)


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How much is computed at once. A step sees devices x gradient_accumulation_steps of these batches."""

    per_device_train_batch_size: int | None = setting(None, "examples (rows, where packed)", minimum=1)
    per_device_train_tokens: int | None = setting(None, "tokens of source and target, padding included", minimum=1)
    gradient_accumulation_steps: int = setting(1, "batches to a step; normalised as if they were one", minimum=1)
    packing: bool = setting(False, "several examples in a row; rows have the limits' lengths")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move."""

    optim: Literal["adafactor", "adamw_torch", "adamw_scaled"] = setting(
        "adafactor", "T5's own; torch's AdamW; AdamW with steps relative to the parameters, as nanoT5 has it"
    )
    learning_rate: float | None = setting(None, "its peak; else 1e-3, 1e-4 and 2e-2 for these three", minimum=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt"] = setting("constant", "what follows")
    warmup_steps: int = setting(0, "steps from 0 to the peak", minimum=0)
    max_steps: int = setting(MISSING, "steps in all", minimum=1)
    weight_decay: float = setting(0.0, "of matrices and embeddings", minimum=0)
    adam_beta1: float = setting(0.9, "of both kinds of AdamW", minimum=0, below=1)
    adam_beta2: float = setting(0.999, "of both kinds of AdamW", minimum=0, below=1)
    adam_epsilon: float = setting(1e-8, "of both kinds of AdamW", minimum=0)
    scale_parameter: bool = setting(True, "Adafactor's steps are relative to the parameters")
    max_grad_norm: float = setting(1.0, "longer gradients are shortened to this; 0: they are not", minimum=0)
    label_smoothing_factor: float = setting(0.0, "the share of the labels spread over all tokens", minimum=0, below=1)
    z_loss: float = setting(0.0, "times the squared log of the normaliser; T5 pre-trained with 1e-4", minimum=0)


@dataclass(frozen=True, kw_only=True)
class PretrainingOptimizerConfig(OptimizerConfig):
    """T5's pre-training: the peak for 10,000 steps, then the inverse square root."""

    learning_rate: float | None = setting(1e-2, "its peak", minimum=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt"] = setting("inverse_sqrt", "what follows")
    z_loss: float = setting(1e-4, "times the squared log of the normaliser", minimum=0)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How the model is measured while it trains, on the tasks' held-out files."""

    eval_steps: int | None = setting(None, "steps between evaluations; none if not given", minimum=1)
    per_device_eval_batch_size: int = setting(32, "examples at once", minimum=1)
    max_eval_samples: int | None = setting(None, "so many sources of each task are answered; else all", minimum=1)
    generation_num_beams: int = setting(1, "beams of the answers", minimum=1)
    generation_max_length: int | None = setting(None, "tokens of an answer; else max_target_length", minimum=1)
    metric_for_best_model: str = setting("loss", "decides which checkpoint is best, such as sacrebleu or en-fr_loss")
    early_stopping_patience: int | None = setting(
        None, "stop after so many evaluations without a better one", minimum=1
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where, how precisely, and what is kept."""

    output_dir: str = setting(MISSING, "the folder of checkpoints, log, report, and in the end of the model")
    seed: int = setting(42, "of weights drawn anew, the order of the data, and dropout", minimum=0)
    device: str | None = setting(None, "cpu, cuda, cuda:1; else a GPU if there is one")
    bf16: bool = setting(False, "products in bfloat16, weights in float32 (autocast)")
    fsdp: bool = setting(False, "under torchrun: shard weights, gradients and states over the processes (FSDP2)")
    logging_steps: int = setting(50, "steps between lines of the log", minimum=1)
    save_steps: int = setting(500, "steps between checkpoints", minimum=1)
    save_total_limit: int = setting(2, "how many of the last checkpoints are kept, beside the best", minimum=1)
    report_to: list[Literal["tensorboard"]] = setting([], "beside log.jsonl: tensorboard")
    cache_dir: str | None = setting(None, "the folder of token files; else output_dir/tokens")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything `quintet train` can be told."""

    model: ModelConfig
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    evaluation: EvaluationConfig
    run: RunConfig


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Everything `quintet pretrain` can be told."""

    model: ModelConfig
    data: CorpusConfig
    batch: BatchConfig
    optimizer: PretrainingOptimizerConfig
    evaluation: EvaluationConfig
    run: RunConfig


AnyConfig = TrainingConfig | PretrainingConfig


def check(config: AnyConfig) -> None:
    """ValueError for settings that contradict each other, before anything is read or written."""
    model, batch, run = config.model, config.batch, config.run
    if (model.model_name_or_path is None) == (model.config_name is None):
        raise ValueError("give model_name_or_path (weights to go on from) or config_name (weights drawn anew)")
    if batch.per_device_train_batch_size is None and (batch.packing or batch.per_device_train_tokens is None):
        raise ValueError(
            "per_device_train_batch_size is missing" + (": rows of a packed batch" if batch.packing else "")
        )
    if batch.packing and batch.per_device_train_tokens is not None:
        raise ValueError("per_device_train_tokens is not for packing: give per_device_train_batch_size, in rows")
    if batch.packing and config.data.max_target_length is None:
        raise ValueError("packing needs max_target_length")
    if model.dtype == "bfloat16" and run.bf16:
        raise ValueError("bf16 is for weights in float32; with dtype bfloat16 products are in bfloat16 anyway")
    if model.lora_rank is not None and run.fsdp:
        raise ValueError("lora_rank and fsdp exclude each other: adapters are small enough to lie in every process")
    if model.quantization_config and (run.fsdp or model.lora_rank is not None):
        raise ValueError("quantization_config is for whole weights: it excludes fsdp and lora_rank")
    if model.lora_rank is not None and model.freeze:
        raise ValueError("freeze and lora_rank exclude each other: adapters freeze all other weights")
    if config.evaluation.early_stopping_patience is not None and config.evaluation.eval_steps is None:
        raise ValueError("early_stopping_patience needs eval_steps")
    if isinstance(config, TrainingConfig):
        _check_tasks(config.data.tasks)
    _check_metric(config)


def _check_tasks(tasks: list[TaskConfig]) -> None:
    if not tasks:
        raise ValueError("tasks is missing: a list of what to train on, each with a name and a train_file")
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"two tasks have one name, of {', '.join(names)}")
    for task in tasks:
        if bool(task.train_file) == (task.dataset_name is not None):
            raise ValueError(f"task {task.name} needs a train_file or a dataset_name")
    if len({task.rate is None for task in tasks}) > 1:
        raise ValueError("give every task a rate, or none")


def _check_metric(config: AnyConfig) -> None:
    wanted = config.evaluation.metric_for_best_model
    if config.evaluation.eval_steps is None:
        return
    if not has_held_out(config):
        raise ValueError("eval_steps needs held-out data: a validation_file or validation_split_name")
    if isinstance(config, PretrainingConfig) and wanted != "loss":
        raise ValueError(f"metric_for_best_model is loss in pre-training, got {wanted!r}")


def has_held_out(config: AnyConfig) -> bool:
    """Whether there is anything to evaluate on."""
    parts: Any = config.data.tasks if isinstance(config, TrainingConfig) else [config.data]
    return any(part.validation_file or part.validation_split_name for part in parts)
