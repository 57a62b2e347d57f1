"""The `fedrec` command: `simulate`, `compare`, `report`, `audit`, `data ...`, `version`.

Exit codes: 0 done, 1 failed, 2 bad usage or input, 3 budget exhausted or consent missing,
4 verification failed, 130 interrupted. With `--json` standard output is one JSON object; progress,
notices and errors go to standard error. Everything heavy is imported inside the commands.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.errors import ConfigError, FedrecError, VerificationError

if TYPE_CHECKING:
    from shared.config import Settings

__all__ = ["app", "main"]

app = typer.Typer(
    help="A federated recommender that learns from histories without collecting them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Look at interactions, or obtain a known set.", no_args_is_help=True)
app.add_typer(data, name="data")

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}

FLAGS = {
    "dataset": "data.dataset",
    "items": "data.items",
    "model": "model.name",
    "algorithm": "algorithm.name",
    "unit": "privacy.unit",
    "trust": "privacy.trust",
    "epsilon": "privacy.epsilon",
    "delta": "privacy.delta",
    "rounds": "training.rounds",
    "seed": "seed",
    "users_per_node": "simulation.users_per_node",
    "grid": "simulation.grid",
    "protocol": "protocol",
}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def simulate(
    config: Annotated[
        Path | None, typer.Argument(help="Settings as TOML; experiments/default.toml if absent.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="ml-100k, ml-1m, synthetic, a folder or a file.")
    ] = None,
    items: Annotated[str | None, typer.Option(help="A file of item content.")] = None,
    model: Annotated[str | None, typer.Option(help="What is learned.")] = None,
    algorithm: Annotated[
        str | None, typer.Option(help="How; the model's usual one if absent.")
    ] = None,
    unit: Annotated[str | None, typer.Option(help="Protected: user, interaction or none.")] = None,
    trust: Annotated[
        str | None, typer.Option(help="Who adds the noise: distributed, central or local.")
    ] = None,
    epsilon: Annotated[float | None, typer.Option(help="Privacy budget of the run.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="Picked from the number of users if absent.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Most rounds of the run.")] = None,
    seed: Annotated[int | None, typer.Option(help="Never reaches protective noise.")] = None,
    users_per_node: Annotated[
        int | None, typer.Option(help="1 is one Flower node a user; 0 is one a core.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="local or ray.")] = None,
    protocol: Annotated[str | None, typer.Option(help="leave-last-out, strong, ...")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; runs/DATASET-MODEL-TIME if absent.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Show what the run will cost, and stop.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Learn a recommender from a data set whose users are simulated devices."""
    given = {key: value for key, value in locals().items() if key in FLAGS and value is not None}
    with _reported(debug=debug):
        from simulations.display import Display
        from simulations.options import settings_for
        from simulations.run import simulate as run

        settings = settings_for(
            config=config,
            flags={FLAGS[name]: value for name, value in given.items()},
            assignments=assign or [],
            out=out,
            resume=resume,
        )
        if plan_only:
            _show_plan(settings, as_json=as_json)
            return
        with Display() as display:
            result = run(settings=settings, out=out, resume=resume, display=display)
        if as_json:
            _show_json(result)
        else:
            display.result(result)


def _show_plan(settings: "Settings", *, as_json: bool) -> None:
    """Print what a run will cost before it runs, and the plans beside it."""
    from simulations.display import Display
    from simulations.forecast import forecast
    from simulations.outlook import show_forecast

    with Display() as display:
        found = forecast(settings=settings, display=display)
    if as_json:
        _show_json(found)
    else:
        show_forecast(found)


@app.command()
def compare(
    config: Annotated[
        list[Path] | None, typer.Argument(help="Settings as TOML; each is a curve.")
    ] = None,
    models: Annotated[str, typer.Option(help="Models for each file, such as mf,popularity.")] = "",
    epsilons: Annotated[str, typer.Option(help="Budgets, such as none,10,3,1,0.5.")] = "",
    seeds: Annotated[str, typer.Option(help="Each run is repeated with these.")] = "0,1,2",
    baselines: Annotated[
        str, typer.Option(help="Central: popularity,item-knn,ease,ials,bpr,sasrec; none if empty.")
    ] = "popularity,item-knn,ease",
    reference: Annotated[
        str | None, typer.Option(help="Row that differences are taken to; the first one if absent.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="ml-100k, ml-1m, synthetic, a folder or a file.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.")
    ] = None,
    buckets: Annotated[
        bool, typer.Option("--buckets", help="Also print who pays: by activity and popularity.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Directory; what is finished in it is not run again.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare models, budgets and seeds with each other and with central baselines."""
    with _reported(debug=debug):
        from simulations.comparison import compare_and_write
        from simulations.lineup import lineup, names, whole_numbers

        lines = lineup(
            configs=config or [],
            models=names(models, option="--models"),
            epsilons=names(epsilons, option="--epsilons"),
            seeds=whole_numbers(seeds, option="--seeds"),
            flags={} if dataset is None else {"data.dataset": dataset},
            assignments=assign or [],
        )
        found = compare_and_write(
            lines=lines,
            baselines=names(baselines, option="--baselines"),
            reference=reference,
            out=out,
            show=not as_json,
            buckets=buckets,
        )
        if as_json:
            _show_json(found)


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="The directory of a run.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the page `report.html` of a finished run anew."""
    with _reported(debug=debug):
        from simulations.report.page import write_report

        place = write_report(path)
        if as_json:
            _show_json({"report": str(place)})
        else:
            typer.echo(place)


@app.command()
def audit(
    path: Annotated[Path, typer.Argument(help="The directory of a run, or a ledger file.")],
    witness: Annotated[
        list[Path] | None, typer.Option(help="A device's ledger that saw heads of this one.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write the disclosure there, as Markdown and JSON.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a ledger, recompute what was spent and compare it with the claim."""
    with _reported(debug=debug):
        from simulations.audit import audit as run
        from simulations.audit import export as write
        from simulations.audit import failures
        from simulations.findings import in_words

        evidence, report = run(path, witnesses=witness or [])
        if as_json:
            _show_json(report)
        else:
            typer.echo("\n".join(in_words(report)))
        if export is not None:
            for place in write(evidence, report, export):
                typer.echo(f"written: {place}", err=True)
        if failed := failures(report):
            raise VerificationError(f"{path} does not verify ({'; '.join(failed)}).")


@data.command()
def inspect(
    path: Annotated[str, typer.Argument(help="A known name, a folder or a file.")],
    items: Annotated[str | None, typer.Option(help="A file of item content.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show counts, density, popularity and lengths of histories."""
    with _reported(debug=debug):
        from shared.data.profile import profile
        from shared.data.sources import load
        from simulations.display import announce, show_profile

        described = profile(load(path, items=items, announce=announce))
        if as_json:
            _show_json(described.as_dict())
        else:
            show_profile(described.as_dict())


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="ml-100k, ml-1m or synthetic.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Obtain a known data set and keep it in the cache."""
    with _reported(debug=debug):
        from shared.data.cache import cache_folder, obtain
        from shared.data.sources import SOURCES, load
        from simulations.display import announce

        if name not in SOURCES:
            raise ConfigError(f"No known data set is called {name!r}; known: {', '.join(SOURCES)}.")
        source = SOURCES[name]
        if source is not None:
            obtain(source, cache_folder(None), announce)
        dataset = load(name, announce=announce)
        found = {
            "name": dataset.name,
            "users": dataset.interactions.n_users,
            "items": dataset.interactions.n_items,
            "interactions": len(dataset.interactions),
            "digest": dataset.digest,
            "synthetic": dataset.synthetic,
        }
        if as_json:
            _show_json(found)
        else:
            typer.echo("\n".join(f"{key}: {value}" for key, value in found.items()))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    typer.echo(f"fedrec {installed('fedrec')}")


def _show_json(value: dict[str, Any]) -> None:
    """Print one JSON object; a number that JSON cannot hold is an error, not a NaN."""
    typer.echo(json.dumps(value, allow_nan=False))


@contextmanager
def _reported(*, debug: bool) -> Iterator[None]:
    """Turn an exception into one sentence on standard error and an exit code."""
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise _ended(130, "Interrupted.") from None
    except BrokenPipeError:
        _open_null(1)
        raise typer.Exit(1) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, FedrecError):
            raise _ended(error.exit_code, str(error)) from None
        # The text of a foreign exception may hold a datum, so only its type is shown.
        kind = type(error).__name__
        raise _ended(1, f"Something failed inside fedrec ({kind}); --debug shows where.") from None


def _ended(code: int, sentence: str) -> typer.Exit:
    """Print one sentence on standard error and return the exit with its code."""
    typer.echo(f"fedrec: {' '.join(sentence.split())}", err=True)
    return typer.Exit(code)


def main() -> None:
    """Run the command: the entry point of the `fedrec` script."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    _mend_streams()
    app()


def _mend_streams() -> None:
    """Give closed streams the null device, and unencodable characters a substitute."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _open_null(number: int) -> None:
    """Put the null device at a descriptor, so that no file opened later takes its place."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)


if __name__ == "__main__":
    main()
