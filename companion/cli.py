"""The `companion` command."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from companion import __version__
from companion.cli_study import add_study
from companion.rank_rules import RULES, make_rule

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; errors go to standard error in one line, with exit code 2."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, TypeError, ArithmeticError, OSError, ImportError) as error:
        print(f"companion {arguments.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="companion", description="LoRA ranks from gradient spectra.")
    parser.add_argument("--version", action="version", version=f"companion {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    ranks = commands.add_parser(
        "ranks",
        help="a LoRA rank for every matrix of a model on a task",
        description="Gradient spectrum, noise floor and rank of every target matrix, what they are worth, and a recommendation.",
    )
    ranks.set_defaults(run=_ranks)
    ranks.add_argument("model", metavar="MODEL", help="minilm, a local folder, or a hub id (owner/name[@revision])")
    ranks.add_argument("--task", required=True, help="qnli-mini, stsb-mini, a GLUE task (qnli, sst2, …) or a folder of Parquet files")
    ranks.add_argument("--rule", default="floor", help=f"{', '.join(RULES)}; parameter after a colon, as in energy:0.9")
    ranks.add_argument("--target-modules", nargs="+", metavar="NAME", help="name endings or all-linear (default: PEFT's)")
    ranks.add_argument("--examples", type=int, default=512, help="examples in the gradient (default 512)")
    ranks.add_argument("--warm-up", type=int, default=512, help="other examples the head is fitted to first; 0: fresh head")
    ranks.add_argument("--flips", type=int, default=9, help="sign flips; the floor's level is 1/(flips+1) (default 9)")
    ranks.add_argument("--min-rank", type=int, default=0)
    ranks.add_argument("--max-rank", type=int)
    ranks.add_argument("--scaling", type=float, default=2.0, help="factor on B A, the same for every rank (default 2)")
    ranks.add_argument("--batch-size", type=int, default=32)
    ranks.add_argument("--max-length", type=int, default=128)
    ranks.add_argument("--seed", type=int, default=0)
    ranks.add_argument("--halves", action="store_true", help="also compare the ranks of halves of the examples")
    ranks.add_argument("--sketch", type=int, metavar="K", help="K leading singular values only, for matrices too large to keep")
    ranks.add_argument("--out", type=Path, metavar="FILE.json", help="write target_modules, rank_pattern, alpha_pattern here")
    add_study(commands)
    _add_score(commands)
    return parser


def _ranks(arguments: argparse.Namespace) -> int:
    rule = make_rule(arguments.rule)  # a misspelt rule or folder is found before the minutes of work
    if arguments.flips == 0 and arguments.rule.startswith("floor"):
        raise ValueError("--flips 0 measures no noise floor; --rule floor needs one")
    if arguments.flips == 0 and arguments.halves:
        raise ValueError("--flips 0 splits nothing; --halves needs flips")
    if arguments.halves and arguments.sketch is not None:
        raise ValueError("--halves needs whole gradients; leave out --sketch")
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"--out: the folder of {arguments.out} does not exist")
    from companion.advice import assess
    from companion.recommendation import recommend
    from companion.runs import read_records
    from companion.spectral_lora import spectral_ranks
    from companion.stability import artefacts, split_halves

    spectra, gradients, n_tokens, n_classes, modules = _measure(arguments)
    ranks = spectral_ranks(spectra, rule, arguments.max_rank, arguments.min_rank)
    assessment = assess(spectra) if arguments.flips else None
    advice = str(assessment or "No noise floor was measured (--flips 0).")
    recommendation = recommend(arguments.rule, assessment, read_records("glue"))
    print(_table(spectra, ranks))
    if arguments.out is not None:
        _write(arguments.out, _patterns(arguments, modules, ranks, f"{advice} {recommendation}"))
    if not any(ranks.values()):
        print("Every rank is 0, so there are no patterns; --min-rank 1 adapts every matrix.")
    for name, number in artefacts(ranks, spectra, n_classes, n_tokens).items():
        print(f"{name}: {number}, perhaps a number of the measurement and not of the task")
    if arguments.halves:
        print(f"Stability: {split_halves(gradients, rule)}.")
    print(advice)
    print(recommendation)
    if not recommendation.use_ranks:
        print(_uniform_config(recommendation.uniform, list(spectra), modules, arguments))
    return 0


def _uniform_config(rank: int, adapted: list[str], modules: list[str], arguments: argparse.Namespace) -> str:
    """The configuration to paste; endings of names where these mean the same modules to PEFT."""
    targets: list[str] | str = sorted({name.rpartition(".")[2] for name in adapted})
    if arguments.target_modules == ["all-linear"]:
        targets = "all-linear"
    elif {name for name in modules if name.rpartition(".")[2] in targets} != set(adapted):
        targets = adapted
    return f"LoraConfig(r={rank}, lora_alpha={arguments.scaling * rank:g}, target_modules={targets!r})"


def _measure(arguments: argparse.Namespace) -> tuple[dict, dict, int, int, list[str]]:
    """Load model and task, warm up the head on other examples, take the spectra.

    Also the gradients behind them (for halves only), the numbers of distinct tokens and of classes, and all module names.
    """
    from companion import data
    from companion.finetune import warm_up_head
    from companion.gradients import gradient_spectra, mean_gradients, spectrum_of
    from companion.spectral_lora import default_targets

    task, frame = data.task_of(arguments.task), data.load_task(arguments.task)
    if arguments.examples < 1 or arguments.warm_up < 0:
        raise ValueError(f"--examples {arguments.examples}, --warm-up {arguments.warm_up}: accepted: >= 1 and >= 0")
    if arguments.examples + arguments.warm_up > len(frame):
        raise ValueError(f"--examples {arguments.examples} and --warm-up {arguments.warm_up}: {arguments.task} has {len(frame)}")
    drawn = data.sample(frame, arguments.examples + arguments.warm_up, arguments.seed)
    model, tokenizer = data.load_model(arguments.model, task.n_labels, arguments.seed), data.load_tokenizer(arguments.model)
    loader = {"batch_size": arguments.batch_size, "max_length": arguments.max_length}
    batches = data.make_dataloader(drawn, tokenizer, **loader)
    longest, most = batches.dataset.lengths.max(), getattr(model.config, "max_position_embeddings", None)
    if most is not None and longest > most:
        raise ValueError(f"--max-length {arguments.max_length}: a text has {longest} tokens, and {arguments.model} reads {most} at most")
    if arguments.warm_up:
        warm_up_head(model, data.make_dataloader(drawn[arguments.examples :], tokenizer, **loader))
    batches = data.make_dataloader(drawn[: arguments.examples], tokenizer, **loader)
    targets = arguments.target_modules or default_targets(model)
    targets = "all-linear" if list(targets) == ["all-linear"] else targets
    given, gradients = {"flips": arguments.flips, "rng": arguments.seed}, {}
    if arguments.halves:
        gradients = mean_gradients(model, _progress(batches), targets, **given)
        spectra = {name: spectrum_of(gradient) for name, gradient in gradients.items()}
    else:
        spectra = gradient_spectra(model, _progress(batches), targets, **given, sketch=arguments.sketch)
    tokens = {token for ids in batches.dataset.features["input_ids"] for token in ids}
    return spectra, gradients, len(tokens), task.n_labels, [name for name, _ in model.named_modules() if name]


def _progress(batches):
    from tqdm import tqdm

    return tqdm(batches, desc="gradients", unit="batch", disable=not sys.stderr.isatty(), leave=False)


def _table(spectra: dict, ranks: dict[str, int]) -> str:
    width = max(len(name) for name in spectra)
    lines = [f"{'matrix':<{width}}  {'out x in':>11}  {'s1':>9}  {'s2':>9}  {'s3':>9}  {'floor':>9}  {'s1/floor':>8}  {'rank':>4}"]
    for name, spectrum in spectra.items():
        leading = "  ".join(f"{value:9.3g}" for value in [*spectrum.singular_values[:3], *[0.0] * 3][:3])
        floor = spectrum.noise_floor if len(spectrum.floors) else float("nan")
        ratio = spectrum.singular_values[0] / floor if floor > 0 else float("nan")
        shape = f"{spectrum.shape[0]} x {spectrum.shape[1]}"
        lines.append(f"{name:<{width}}  {shape:>11}  {leading}  {floor:9.3g}  {ratio:8.2f}  {ranks[name]:4d}")
    return "\n".join(lines)


def _patterns(arguments: argparse.Namespace, modules: list[str], ranks: dict[str, int], advice: str) -> dict:
    """What `peft.LoraConfig` takes, and under ``made_by`` where it came from; empty patterns when every rank is 0."""
    from peft import LoraConfig

    from companion.spectral_lora import to_lora_config

    config = LoraConfig(target_modules=[])
    if any(ranks.values()):
        config = to_lora_config(dict.fromkeys(modules, 0) | ranks, config, arguments.scaling)
    targets = config.target_modules
    options = {key: value for key, value in vars(arguments).items() if key not in ("command", "run", "out")}
    return {
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "rank_pattern": config.rank_pattern,
        "alpha_pattern": config.alpha_pattern,
        "made_by": {"companion": __version__, "advice": advice, **options},
    }


def _write(path: Path, content: dict) -> None:
    """Write JSON to a temporary file beside `path` and rename, so that nothing half-written is ever there."""
    with tempfile.NamedTemporaryFile("w", dir=path.absolute().parent, suffix=".tmp", delete=False) as file:
        try:
            json.dump(content, file, indent=2)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _add_score(commands: argparse._SubParsersAction) -> None:
    score = commands.add_parser(
        "score",
        help="a rank rule of your own where the true ranks are known",
        description="Runs your Python file, which defines rule(spectrum) -> int, on planted ranks and against the measured value "
        "of rank, beside the built-in rules. The file is your own code: nothing keeps it from doing what a program can do.",
    )
    score.set_defaults(run=_score)
    score.add_argument("file", type=Path, metavar="FILE.py", help="defines rule(spectrum) -> int")
    score.add_argument("--light", action="store_true", help="a small problem: about a minute on one core; the full one takes an hour or more")
    score.add_argument("--seeds", type=int, help="planted problems (default: those recorded for the built-in rules, or 1 with --light, else 3)")


def _score(arguments: argparse.Namespace) -> int:
    from companion import scoring

    rule = scoring.load_rule(arguments.file)
    seeds = None if arguments.seeds is None else range(arguments.seeds)
    print(scoring.score(rule, arguments.file.stem, arguments.light, seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
