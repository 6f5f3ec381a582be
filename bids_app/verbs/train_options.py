"""The words of the verb ``train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["DEMOS", "add_train"]

DEMOS = {"neurostorm-demo": "train_volumes", "brainlm-demo": "train_parcels"}
"""Demo models, and what trains each."""
OBJECTIVES = ("mae", "contrastive", "jepa", "forecast", "codes")
"""Of pre-training."""


def add_train(verb: Any) -> None:
    """Add the kinds of training to the parser of the verb."""
    kinds = verb.add_subparsers(dest="kind", required=True, metavar="KIND")
    about = "train the weights of a demo model on phantoms"
    demo = kinds.add_parser("demo", help=about, description=about, allow_abbrev=False)
    demo.add_argument("name", choices=tuple(DEMOS), metavar="NAME", help=" or ".join(DEMOS))
    _add_demo(demo)
    for name in DEMOS:  # as it was before there were other kinds; cards say so
        older = kinds.add_parser(name, description=about, allow_abbrev=False)
        older.set_defaults(name=name)
        _add_demo(older)
    about = "go on training a network, or train one from scratch, without labels"
    pretrain = kinds.add_parser("pretrain", help=about, description=about, allow_abbrev=False)
    _add_data(pretrain, many=True)
    _add_pretrain(pretrain)
    about = "let a network learn to tell a column of participants.tsv"
    tune = kinds.add_parser("tune", help=about, description=about, allow_abbrev=False)
    _add_data(tune, many=False)
    _add_tune(tune)
    about = "let a language model learn to answer questions about scans, from a closed set"
    language = kinds.add_parser("language", help=about, description=about, allow_abbrev=False)
    _add_data(language, many=False)
    _add_language(language)
    for parser in (pretrain, tune, language):
        _add_plan(parser)


def _add_demo(parser: Any) -> None:
    parser.set_defaults(training="demo")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors file")
    parser.add_argument("--participants", type=int, metavar="N", help="phantoms, two runs of each")
    parser.add_argument("--steps", type=int, metavar="N", help="of the optimiser")
    parser.add_argument("--seed", type=int, metavar="N", help="of everything; default 1")


def _add_data(parser: Any, *, many: bool) -> None:
    more: dict[str, Any] = {"nargs": "+"} if many else {"nargs": 1}
    told = "preprocessed runs, of this app or like fMRIPrep's"
    parser.add_argument("derivatives", type=Path, metavar="DERIVATIVES", help=told, **more)
    parser.add_argument("--model", required=True, metavar="NAME", help="or a folder of a model")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of the new model")
    parser.add_argument("--name", metavar="NAME", help="of the new model; default: that of DIR")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="file to start from")
    parser.add_argument("--weights-dir", type=Path, metavar="DIR", help="where to look for it")
    parser.add_argument("--atlas", type=Path, metavar="PATH", help="a label image")
    parser.add_argument("--statistics", type=Path, metavar="PATH", help="of a cohort's parcels")
    parser.add_argument("--task-label", action="append", metavar="LABEL", help="only this task")
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="only these")
    cache = "runs made ready; default: .neurostorm-cache beside DIR"
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help=cache)
    kinds = ("float16", "float32")
    parser.add_argument("--cache-dtype", choices=kinds, help="default: 16 for volumes")
    parser.add_argument("--demo", action="store_true", help="what comes of it is not for science")


def _add_pretrain(parser: Any) -> None:
    parser.set_defaults(training="pretrain")
    group = parser.add_argument_group("what is learnt")
    told = "default: codes for fMRI-LM's tokenizer, mae for all others"
    group.add_argument("--objective", choices=OBJECTIVES, help=told)
    told = "share of another row that is mixed into rows of voxels (mind-vis); default 0"
    group.add_argument("--mix", type=float, default=0.0, metavar="X", help=told)
    told = "volumes that --objective forecast tells of a window, from those before; default 20"
    group.add_argument("--horizon", type=int, default=20, metavar="N", help=told)
    group.add_argument("--from-scratch", action="store_true", help="draw the first weights")
    told = "JSON of hyper-parameters under upstream's names, with --from-scratch"
    group.add_argument("--config", type=Path, metavar="FILE", help=told)
    told = "of --atlas, for a model of voxels and with --from-scratch: numbers, or parts of names"
    group.add_argument("--labels", nargs="+", metavar="LABEL", help=told)
    group.add_argument("--spatial-mask", choices=("window", "random", "atlas"))
    group.add_argument("--time-mask", choices=("random", "tube"))
    group.add_argument("--mask-ratio", type=float, metavar="X", help="share that is hidden")
    group.add_argument("--redundancy", choices=("none", "paper", "upstream"), default="none")
    group.add_argument("--strength", type=float, default=1.0, metavar="X", help="of --redundancy")
    told = "of contrastive training: 1 two windows, 2 two augmentations; default 1"
    group.add_argument("--type", type=int, choices=(1, 2), default=1, dest="kind_of", help=told)
    told = "compare windows as they are, in contrastive training of type 1"
    group.add_argument("--no-augmentation", action="store_true", help=told)
    group.add_argument("--validation", type=float, default=0.1, metavar="X", help="default 0.1")
    told = "windows of a run to validate by; default 4"
    group.add_argument("--validation-windows", type=int, default=4, metavar="N", help=told)


def _add_tune(parser: Any) -> None:
    parser.set_defaults(training="tune")
    group = parser.add_argument_group("what is learnt")
    group.add_argument("--target", required=True, metavar="COLUMN", help="or FILE:COLUMN")
    strategies = ("linear", "prompt", "prompt+norm", "lora", "full")
    group.add_argument("--strategy", choices=strategies, default="prompt", help="default prompt")
    told = "of the head, its peak; default as all"
    group.add_argument("--head-rate", type=float, metavar="X", help=told)
    told = "learning rate of a block over that of the next one, of --strategy full; default 1"
    group.add_argument("--layer-decay", type=float, metavar="X", help=told)
    group.add_argument("--bids-dir", type=Path, metavar="DIR", help="where the tables are")
    group.add_argument("--participants-file", type=Path, metavar="FILE", help="a table of people")
    group.add_argument("--prompt-len", type=int, default=50, metavar="N", help="default 50")
    group.add_argument("--rank", type=int, default=8, metavar="N", help="of lora; default 8")
    group.add_argument("--validation", type=float, default=0.2, metavar="X", help="default 0.2")
    told = "share of participants that nothing is chosen by; default none"
    group.add_argument("--test", type=float, default=0.0, metavar="X", help=told)
    told = "let each participant count the same, not each class"
    group.add_argument("--no-class-weights", action="store_true", help=told)
    told = "windows of a run to validate by; default all"
    group.add_argument("--validation-windows", type=int, metavar="N", help=told)


def _add_language(parser: Any) -> None:
    parser.set_defaults(training="language")
    group = parser.add_argument_group("what is learnt")
    told = "folder of a GPT-2 or a Qwen3: config.json, tokenizer.json, safetensors"
    group.add_argument("--llm", type=Path, required=True, metavar="DIR", help=told)
    told = "ask for a column of participants.tsv, or FILE:COLUMN; may be given again"
    group.add_argument("--target", action="append", default=[], metavar="COLUMN", help=told)
    told = "ask for a number that --describe writes of each run, as fc_Cont-Vis; may be given again"
    group.add_argument("--descriptor", action="append", default=[], metavar="NAME", help=told)
    told = "index (label) of each parcel and its network, as --describe takes it; for --descriptor"
    group.add_argument("--networks", type=Path, metavar="TSV", help=told)
    told = "JSON: how questions are put and answers are called"
    group.add_argument("--wording", type=Path, metavar="FILE", help=told)
    group.add_argument("--bids-dir", type=Path, metavar="DIR", help="where the tables are")
    group.add_argument("--participants-file", type=Path, metavar="FILE", help="a table of people")
    told = "of the updates; default 16 for GPT-2, 8 for Qwen3"
    group.add_argument("--rank", type=int, metavar="N", help=told)
    group.add_argument("--tags", action="store_true", help="put <fmri> and </fmri> around scans")
    group.add_argument("--validation", type=float, default=0.2, metavar="X", help="default 0.2")
    told = "share of participants that nothing is chosen by; default none"
    group.add_argument("--test", type=float, default=0.0, metavar="X", help=told)
    told = "windows of a run to validate by; default all"
    group.add_argument("--validation-windows", type=int, metavar="N", help=told)


def _add_plan(parser: Any) -> None:
    group = parser.add_argument_group("how")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, metavar="N", help="of the optimiser; default 1000")
    length.add_argument("--epochs", type=float, metavar="X", help="times each participant comes")
    group.add_argument("--batch-size", type=int, metavar="N", help="windows at once; default 4")
    group.add_argument("--accumulate", type=int, metavar="N", help="batches of a step; default 1")
    group.add_argument("--learning-rate", type=float, metavar="X", help="its peak; default 5e-5")
    told = "share of the steps in which the rate rises before the cosine; default the usual way"
    group.add_argument("--warm-up", type=float, metavar="X", help=told)
    told = "share of its peak below which the rate does not fall; default 0"
    group.add_argument("--least-rate", type=float, metavar="X", help=told)
    group.add_argument("--weight-decay", type=float, metavar="X", help="default 0.01")
    group.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default fp32")
    group.add_argument("--device", choices=("cpu", "cuda"), help="default cpu")
    group.add_argument("--seed", type=int, metavar="N", help="of everything; default 0")
    group.add_argument("--checkpoint-every", type=int, metavar="N", help="steps; default 100")
    group.add_argument("--validate-every", type=int, metavar="N", help="steps; default 100")
    told = "validations without a better one before it stops; 0 never stops; default 5"
    group.add_argument("--patience", type=int, metavar="N", help=told)
