"""Evidently at work: columns of both sides in, its verdicts and its own page and JSON out.

The only place that imports Evidently and pandas, and only when a report is made. What they warn of is not for
our users, who can change nothing about it, so it is kept in here.

Evidently writes names and categories into a `<script>` of its page as they are, so a category `</script>`
would end the script: a "<" in either is shown as another sign.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlmon.errors import MissingExtraError
from mlmon.reports.model import ColumnVerdict, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from mlmon.reports.columns import Column, Selected

__all__ = ["EMBEDDING", "Page", "compare", "require_evidently"]

#: Name of the embedding among the columns.
EMBEDDING = "embedding"
#: Share of drifted columns from which Evidently calls a data set drifted: its default.
_DRIFT_SHARE = 0.5
#: Below so many reference rows Evidently resamples the threshold of its embedding classifier.
_BOOTSTRAP_BELOW = 1000


class Page(NamedTuple):
    """Evidently's part of the report, and its own page, which needs nothing from a network."""

    peer: Peer
    html: str


def require_evidently() -> tuple[str, str]:
    """Import Evidently, which takes some seconds.

    Returns:
        Its version and that of pandas.

    Raises:
        MissingExtraError: one of them is missing, or they do not go together.
    """
    with _quiet():
        pandas = _version("pandas")
        try:
            import evidently
        except ModuleNotFoundError as error:
            if error.name == "evidently":
                raise MissingExtraError("evidently", "reports") from error
            raise _misfit(pandas, error) from error
        except Exception as error:  # whatever a library raises that meets another than it was made for
            raise _misfit(pandas, error) from error
    return str(evidently.__version__), pandas


def _version(package: str) -> str:
    try:
        return str(__import__(package).__version__)
    except ImportError as error:
        raise MissingExtraError(package, "reports") from error


def _misfit(pandas: str, error: Exception) -> MissingExtraError:
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("evidently")
    except PackageNotFoundError:
        found = "of an unknown version"
    needed = (
        f"a pandas that evidently {found} imports with (at least 2.2, below 3.1; found {pandas}: "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    )
    return MissingExtraError(needed, "reports")


def compare(
    selected: Selected,
    embeddings: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Page:
    """Let Evidently compare both sides with its defaults (`DataDriftPreset`), unweighted.

    Embeddings are judged by its default method for them, a classifier between the two sides; its page shows
    them by their columns. (Its `EmbeddingsDrift` metric calls the same method, then spends most of its time
    on a t-SNE picture.)

    Args:
        selected: columns of both sides; at least one unless there are embeddings.
        embeddings: of the baseline and the window, of one dimension, shapes (n, d) and (m, d).
        step: told what is being done.

    Raises:
        MissingExtraError: see `require_evidently`.
    """
    step("importing Evidently")
    versions = require_evidently()
    with _quiet():
        step("Evidently compares columns")
        verdicts, dataset, report, html = _columns(selected) if selected.baseline else ([], False, {}, "")
        if embeddings is not None:
            step("Evidently compares embeddings")
            verdicts.append(_embedding(*embeddings))
    return Page(Peer(*versions, _DRIFT_SHARE, dataset, verdicts, dict(selected.left_out), report), html)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings and NumPy's global random state are left as they were."""
    state = np.random.get_state()  # Evidently seeds it
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)


def _columns(selected: Selected) -> tuple[list[ColumnVerdict], bool, dict[str, Any], str]:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    shown = _shown_names(selected.baseline)
    definition = DataDefinition(
        numerical_columns=[shown[n] for n, column in selected.baseline.items() if column.numbers is not None],
        categorical_columns=[shown[n] for n, column in selected.baseline.items() if column.numbers is None],
    )
    window, baseline = (
        Dataset.from_pandas(_frame(side, shown), data_definition=definition)
        for side in (selected.window, selected.baseline)
    )
    preset = DataDriftPreset(columns=list(shown.values()), drift_share=_DRIFT_SHARE)
    snapshot = Report([preset], include_tests=True).run(window, baseline)
    report: dict[str, Any] = json.loads(snapshot.json())
    verdicts = _verdicts(report, selected, {name: own for own, name in shown.items()})
    share = next(m["value"]["share"] for m in report["metrics"] if isinstance(m["value"], dict))
    return verdicts, share >= _DRIFT_SHARE, report, snapshot.get_html_str(as_iframe=False)


def _verdicts(report: Mapping[str, Any], selected: Selected, own: Mapping[str, str]) -> list[ColumnVerdict]:
    """What Evidently says of each column: score and method from its metrics, the verdict from its tests."""
    failed = {
        test["metric_config"]["params"]["column"]: test["status"] != "SUCCESS"
        for test in report["tests"]
        if "column" in test["metric_config"]["params"]
    }
    verdicts = []
    for metric in report["metrics"]:
        config = metric["config"]
        if "column" not in config:
            continue
        name = own[config["column"]]
        baseline, window = selected.baseline[name], selected.window[name]
        verdicts.append(
            ColumnVerdict(
                name,
                "categorical" if baseline.numbers is None else "numeric",
                baseline.unit,
                str(config["method"]),
                float(metric["value"]),
                float(config["threshold"]),
                failed[config["column"]],
                baseline.present(),
                window.present(),
            )
        )
    return verdicts


def _embedding(baseline: NDArray[np.float32], window: NDArray[np.float32]) -> ColumnVerdict:
    import pandas
    from evidently.metrics.embeddings import ModelDriftMethod

    names = [f"d{i}" for i in range(baseline.shape[1])]
    few = len(baseline) < _BOOTSTRAP_BELOW
    method = ModelDriftMethod(bootstrap=few)
    score, drifted, _ = method(
        pandas.DataFrame(window, columns=names), pandas.DataFrame(baseline, columns=names)
    )
    return ColumnVerdict(
        EMBEDDING,
        "embedding",
        "",
        "Classifier between the two, ROC AUC",
        float(score),
        None if few else float(method.threshold),
        bool(drifted),
        len(baseline),
        len(window),
    )


def _frame(side: Mapping[str, Column], shown: Mapping[str, str]) -> Any:
    import pandas

    columns = {
        shown[name]: column.numbers
        if column.numbers is not None
        else pandas.Series([None if v is None else _safe(v) for v in column.categories or ()], dtype=object)
        for name, column in side.items()
    }
    return pandas.DataFrame(columns)


def _shown_names(side: Mapping[str, Column]) -> dict[str, str]:
    """Our names to Evidently's: safe in its page, and distinct."""
    shown: dict[str, str] = {}
    taken: set[str] = set()
    for name in side:
        safe = _safe(name)
        while safe in taken:
            safe += "'"
        shown[name] = safe
        taken.add(safe)
    return shown


def _safe(text: str) -> str:
    return text.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")
