"""`quintet tokenizer`: vocabularies, made of text or of larger ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quintet.cli import options
from quintet.cli.failures import Failure, in_one_line
from quintet.cli.outputs import refuse_existing, refuse_unwritable_folder

tokenizer = typer.Typer(no_args_is_help=True, help="Make vocabularies.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where it is written.")]


@tokenizer.command()
def trim(
    model: options.ModelArgument,
    output: Folder,
    *,
    config: Annotated[Path, typer.Option(metavar="FILE", help="Settings of `quintet train`: pieces of its data stay.")],
    max_pieces: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of these, only the N that occur most often.")
    ] = None,
    characters: Annotated[str, typer.Option(metavar="TEXT", help="Characters to add, which were <unk> so far.")] = "",
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Write a model with only those pieces of its vocabulary that the data of a training run uses.

    Characters, special tokens and sentinels stay too. The model's scores of what is left do not change. With
    --max-pieces rarer words are spelled in smaller pieces. T5's own vocabulary lacks some characters of languages
    it was pre-trained on (œ, À, Ç, Ä): --characters adds them, and a training run teaches the model to write them.

    Example:

      quintet tokenizer trim google/flan-t5-small small --config config.yaml
    """
    with in_one_line(debug):
        refuse_unwritable_folder(output)
        refuse_existing(output, overwrite)
        from quintet.auto import AutoModelForSeq2SeqLM, AutoTokenizer
        from quintet.tokenizers import T5TokenizerFast
        from quintet.training.config import TrainingConfig
        from quintet.training.sets import task_caches
        from quintet.training.settings import build, read_yaml
        from quintet.training.trimming import pieces_used, trim_vocabulary

        settings = build(TrainingConfig, read_yaml(config))
        whole = AutoTokenizer.from_pretrained(model)
        if not isinstance(whole, T5TokenizerFast):
            raise Failure(f"{model} has a {type(whole).__name__}, which has no pieces to leave out")
        used = pieces_used(task_caches(settings, whole), max_pieces)
        network = AutoModelForSeq2SeqLM.from_pretrained(model, dtype="auto")
        smaller = trim_vocabulary(network, whole, used, output, characters)
        typer.echo(f"{output}: {len(smaller):,} of {len(whole):,} tokens, {network.num_parameters():,} parameters")


@tokenizer.command()
def train(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Text, UTF-8.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where it is written.")],
    vocab_size: Annotated[int, typer.Option(min=1, metavar="N", help="Pieces; 100 sentinels come on top.")] = 32_000,
    overwrite: options.Overwrite = False,
    debug: options.Debug = False,
) -> None:
    """Make a vocabulary of text: SentencePiece's unigram model, numbered as T5's.

    Example:

      quintet tokenizer train text.txt --vocab-size 8000 -o tokenizer
    """
    with in_one_line(debug):
        refuse_unwritable_folder(output)
        refuse_existing(output, overwrite)
        from quintet.training.vocabulary import train_vocabulary

        made = train_vocabulary(files, output, vocab_size)
        typer.echo(f"{output}: {len(made):,} tokens")
