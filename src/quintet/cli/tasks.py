"""What the tasks of `quintet run` take: an option that does not apply is refused before a model is loaded."""

from __future__ import annotations

from typing import Any

from quintet.cli.failures import Failure
from quintet.cli.inputs import JSON_LINES, Inputs
from quintet.cli.interrupts import leave, on_ctrl_c
from quintet.cli.labels import check_labels


def call_options(
    task: str, inputs: Inputs, as_json: bool, labels: str | None, max_new_tokens: int | None, num_beams: int | None
) -> dict[str, Any]:
    """The options for a call of the task's pipeline.

    Raises Failure for options that are missing or of other tasks, ValueError for an unknown task.
    """
    with on_ctrl_c(leave):
        from quintet import pipelines

    kind = pipelines.class_of_task(task)
    generating = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    generating = {name: value for name, value in generating.items() if value is not None}
    if generating and not generates(kind):
        given = " and ".join("--" + name.replace("_", "-") for name in generating)
        raise Failure(f"{given} cannot be used with {task}, which generates no text")
    if kind is pipelines.FeatureExtractionPipeline and not as_json:
        raise Failure(f"{task} gives no text to print: add --json")
    if kind is pipelines.QuestionAnsweringPipeline and not inputs.are_json:
        given = 'with {"question": ..., "context": ...} on each line'
        raise Failure(f"{task} needs an --input of JSON lines ({' or '.join(JSON_LINES)}), {given}")
    if kind is pipelines.ZeroShotClassificationPipeline:
        check_labels(inputs, labels)
        return {"labels": labels}
    if labels is not None:
        raise Failure(f"--labels is for zero-shot-classification, not for {task}")
    return generating


def generates(kind: type) -> bool:
    """Whether a class of pipelines generates text."""
    from quintet.pipelines import Text2TextGenerationPipeline

    return issubclass(kind, Text2TextGenerationPipeline)
