"""Run the published benchmarks of Qwen-VL on a model or a server, and score the answers.

    %(prog)s list
    %(prog)s data gqa --data_dir data --convert downloads/gqa
    %(prog)s data gqa --data_dir data --check
    %(prog)s run gqa textvqa --model_name_or_path qwen-vl/qwen-vl-chat-7b --limit 500 --output_dir results
    %(prog)s run refcoco:testA --shard 3/8 --output_dir results
    %(prog)s import gqa gqa_testdev.json --output_dir published
    %(prog)s score results/gqa-testdev published/gqa-testdev --compat original
    %(prog)s report results/* --output report.html

A run that was ended goes on where it was: run the same command again. docs/evaluation.md has the benchmarks, their
files and the published scores. It needs the extra `evaluate`: pip install -e '.[cpu,evaluate]' in the checkout.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...options import IMAGES, MODEL, split_options
from .. import common as cli

if TYPE_CHECKING:
    from ...evaluation.backends import Backend
    from ...evaluation.tasks import RunOptions

KEY_VARIABLE = "PADDLEMIX_API_KEY"
MIB = 1 << 20


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    result = cli.Parser(
        prog=prog, usage="%(prog)s ACTION [options]", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = result.add_subparsers(
        dest="action", metavar="ACTION", required=True, parser_class=cli.Parser, prog=prog or "paddlemix evaluate"
    )
    _add_list(actions)
    _add_data(actions)
    _add_run(actions)
    _add_import(actions)
    _add_score(actions)
    _add_judge(actions)
    _add_report(actions)
    _add_export(actions)
    return result


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command and return its exit status."""
    options = parser(prog).parse_args(arguments)
    action: Callable[[argparse.Namespace], int] = options.run_action
    return action(options)


def _add_action(
    actions: Any, name: str, words: str, run_action: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    result: argparse.ArgumentParser = actions.add_parser(name, help=words, description=words)
    result.set_defaults(run_action=run_action)
    return result


def _add_benchmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmarks", nargs="+", metavar="BENCHMARK", help="name, or name:split, as `list` has them")
    _add_data_dir(parser)


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data_dir", default="data", metavar="DIR", help="holds the benchmarks' files (default: %(default)s)"
    )


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of a benchmark below a run's --output_dir")
    _add_data_dir(parser)
    parser.add_argument(
        "--compat", choices=["original"], help="also compute what the original's evaluation would, with its quirks"
    )
    parser.add_argument("--partial", action="store_true", help="score what is answered of a run under way")


def _add_list(actions: Any) -> None:
    _add_action(actions, "list", "list the benchmarks, their splits and metrics", _list)


def _add_data(actions: Any) -> None:
    parser = _add_action(actions, "data", "say which files a benchmark needs, and where to get them", _data)
    _add_benchmarks(parser)
    parser.add_argument("--check", action="store_true", help="read the files; exit status 1 if any is wrong")
    parser.add_argument(
        "--convert",
        metavar="DIR",
        help="make the files from those of the data set's authors, or from a mirror's parquet files; BENCHMARK:train "
        "makes the file that examples are drawn from",
    )


def _add_run(actions: Any) -> None:
    parser = _add_action(actions, "run", "ask a model the questions of benchmarks, and score its answers", _run)
    _add_benchmarks(parser)
    parser.add_argument(
        "--output_dir",
        default="evaluation",
        metavar="DIR",
        help="gets a folder for each (default: %(default)s)",
    )
    parser.add_argument("--plan", action="store_true", help="print the plan with its hours, and end")
    questions = parser.add_argument_group("questions")
    questions.add_argument("--limit", type=cli.positive, metavar="N", help="so many of each, the same for everyone")
    questions.add_argument("--seed", type=int, default=0, metavar="N", help="of --limit and --shots (default: 0)")
    questions.add_argument("--shots", type=int, default=0, metavar="N", help="examples before each question (0)")
    questions.add_argument("--shard", metavar="I/N", help="one of N parts, from 1 (default: the launcher's)")
    questions.add_argument(
        "--compat", choices=["original"], help="draw examples and compute scores as the original does, beside ours"
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument("--max_rows", type=cli.positive, metavar="N", help="answers computed at once (8; 32 on a GPU)")
    engine.add_argument(
        "--cache_mib", type=cli.positive, metavar="N", help="for keys and values (1024; 16384 on a GPU)"
    )
    _add_server(parser.add_argument_group("server", "Instead of a model in this process."))
    cli.add_options(parser, MODEL, IMAGES)


def _add_server(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--server", metavar="URL", help="such as http://127.0.0.1:8000/v1")
    group.add_argument("--served_model_name", metavar="NAME", help="what the server calls the model")
    group.add_argument(
        "--api",
        choices=["chat", "completions"],
        default="chat",
        help="chat: in the server's own template, which any server has; completions: raw prompts, as published, which "
        "`paddlemix serve` takes (default: %(default)s)",
    )
    group.add_argument("--concurrency", type=cli.positive, default=8, metavar="N", help="requests at once (8)")
    _add_client(group)


def _add_client(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    group.add_argument(
        "--api_key_variable", default=KEY_VARIABLE, metavar="NAME",
        help="environment variable with the key (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--timeout", type=float, default=300.0, metavar="S", help="seconds for one request (300)")
    group.add_argument("--retries", type=int, default=4, metavar="N", help="further attempts of a request (4)")


def _add_import(actions: Any) -> None:
    parser = _add_action(actions, "import", "take answers from a result file of the published scripts", _import)
    parser.add_argument("benchmark", metavar="BENCHMARK", help="name, or name:split")
    parser.add_argument("results", metavar="FILE", help="JSON list or JSON lines; for mme a directory of text files")
    _add_data_dir(parser)
    parser.add_argument(
        "--output_dir", default="evaluation", metavar="DIR", help="gets a folder to score (default: %(default)s)"
    )


def _add_score(actions: Any) -> None:
    parser = _add_action(actions, "score", "score answers; no model is needed", _score)
    _add_folders(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object for each folder instead of the table")


def _add_judge(actions: Any) -> None:
    parser = _add_action(actions, "judge", "let a judge compare the answers of TouchStone", _judge)
    _add_folders(parser)
    parser.add_argument("--judge", required=True, metavar="URL", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("--judge_model", required=True, metavar="NAME", help="what the server calls the judge")
    parser.add_argument("--judge_prompt", metavar="FILE", help="JSON with the judge's texts, system and user")
    parser.add_argument("--concurrency", type=cli.positive, default=4, metavar="N", help="requests at once (4)")
    _add_client(parser)


def _add_report(actions: Any) -> None:
    parser = _add_action(actions, "report", "write scores, categories and the worst cases as one HTML page", _report)
    _add_folders(parser)
    parser.add_argument("--output", default="report.html", metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="cases shown of each benchmark (12)")


def _add_export(actions: Any) -> None:
    parser = _add_action(actions, "export", "write the file that a benchmark's own server scores", _export)
    parser.add_argument("folder", metavar="FOLDER", help="of a benchmark below a run's --output_dir")
    _add_data_dir(parser)
    parser.add_argument("--output", metavar="FILE", help="(default: submission with the right ending, in FOLDER)")


# ---------------------------------------------------------------- actions


def _list(options: argparse.Namespace) -> int:
    from ...evaluation.listing import benchmark_table

    cli.output(benchmark_table())
    return 0


def _data(options: argparse.Namespace) -> int:
    from ...evaluation.data.checks import check_data
    from ...evaluation.data.convert import convert

    is_fine, data_dir = True, Path(options.data_dir)
    for text in options.benchmarks:
        name, _, split = text.partition(":")
        if options.convert is not None:
            count = convert(name, split or None, Path(options.convert), data_dir, cli.note)
            cli.output(f"{text}: {count:,} records made from {options.convert}")
            continue
        report = check_data(name, split or None, data_dir, reads=options.check)
        cli.output("\n".join(report.lines))
        is_fine = is_fine and report.is_whole
    return 0 if is_fine else 1


def _run(options: argparse.Namespace) -> int:
    from ...evaluation.run import run
    from ...evaluation.scoring import table
    from ...evaluation.tasks import make_task, refuse_doubles

    refuse_doubles(options.benchmarks)
    run_options = _run_options(options)
    if options.server is None:
        cli.model_note(options.model)
    tasks = [make_task(name, run_options) for name in options.benchmarks]
    try:
        reports = run(tasks, run_options, lambda: _backend(options), cli.note, plan_only=options.plan)
    except KeyboardInterrupt:
        cli.note(f"interrupted; the answers are in {run_options.output_dir}: run the same command again to go on")
        return cli.INTERRUPTED
    if options.plan:
        return 0
    for report in reports:
        if report.failures:
            cli.note(
                f"{report.task.title}: {len(report.failures):,} questions got no answer; run the same command again to "
                "ask them again"
            )
    complete = [report.task.folder for report in reports if report.is_complete]
    if run_options.shard.is_whole:
        results = _scored(complete, options, partial=False)
        if results:
            cli.output(table(results))
    else:
        cli.note(f"shard {run_options.shard} is done; when all are: paddlemix evaluate score FOLDER")
    return 0 if all(report.is_complete for report in reports) else 1


def _import(options: argparse.Namespace) -> int:
    from ...evaluation.imported import import_answers

    name, _, split = options.benchmark.partition(":")
    folder = import_answers(
        name, split or None, Path(options.results), Path(options.data_dir), Path(options.output_dir)
    )
    cli.output(f"{options.benchmark}: answers in {folder}")
    return 0


def _score(options: argparse.Namespace) -> int:
    from ...evaluation.scoring import as_json, table

    results = _scored(map(Path, options.folders), options, partial=options.partial)
    if options.json:
        for result in results:
            cli.output_json(as_json(result))
    else:
        cli.output(table(results))
    return 0


def _judge(options: argparse.Namespace) -> int:
    from ...evaluation.judge import JudgeOptions, JudgePrompt, judge_folder

    prompt = JudgePrompt() if options.judge_prompt is None else JudgePrompt.from_file(Path(options.judge_prompt))
    judge = JudgeOptions(_client(options, options.judge), options.judge_model, options.concurrency, prompt)
    failed = sum(judge_folder(folder, Path(options.data_dir), judge, cli.note) for folder in map(Path, options.folders))
    if failed:
        cli.note(f"{failed:,} rounds have no scores; run the same command again to ask for them again")
    _score(argparse.Namespace(**vars(options), json=False))
    return 1 if failed else 0


def _report(options: argparse.Namespace) -> int:
    from ...evaluation.report import write_report

    results = _scored(map(Path, options.folders), options, partial=options.partial)
    write_report(Path(options.output), results, worst=options.worst)
    cli.output(f"report: {options.output}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from ...evaluation.scoring import export

    path = export(Path(options.folder), Path(options.data_dir), options.output and Path(options.output))
    cli.output(f"submission: {path}")
    return 0


# ---------------------------------------------------------------- what they have in common


def _scored(folders: Any, options: argparse.Namespace, *, partial: bool) -> list[Any]:
    from ...evaluation.scoring import score_folder, write_result

    results = []
    for folder in folders:
        result = score_folder(folder, Path(options.data_dir), compat=options.compat is not None, partial=partial)
        write_result(folder, result)
        results.append(result)
    return results


def _run_options(options: argparse.Namespace) -> RunOptions:
    from ...evaluation.shards import Shard
    from ...evaluation.tasks import RunOptions

    shard = Shard.from_environment(os.environ) if options.shard is None else Shard.parse(options.shard)
    return RunOptions(
        Path(options.data_dir),
        Path(options.output_dir),
        options.limit,
        options.seed,
        options.shots,
        options.compat,
        shard,
    )


def _backend(options: argparse.Namespace) -> Backend:
    if options.server is not None:
        from ...evaluation.backends.server import ServerBackend, ServerOptions

        name = options.served_model_name or options.model or ""
        return ServerBackend(ServerOptions(_client(options, options.server), name, options.api, options.concurrency))
    from ...evaluation.backends.engine import EngineBackend, engine_config
    from ...evaluation.shards import launched_device
    from ...inference import resolve_device

    options.device = options.device or launched_device(os.environ)
    config = engine_config(
        resolve_device(options.device), options.max_rows, options.cache_mib and options.cache_mib * MIB
    )
    model, session, _ = split_options(cli.given_options(options, MODEL, IMAGES))
    return EngineBackend(model, config, session.max_pixels)


def _client(options: argparse.Namespace, url: str) -> Any:
    from ...evaluation.openai_client import ClientOptions

    key = os.environ.get(options.api_key_variable) or None
    return ClientOptions(url, key, options.timeout, options.retries)
