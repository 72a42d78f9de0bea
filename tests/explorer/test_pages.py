"""Every page over a real history, as a browser opens it: by its address."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import explorer_kit
import pytest

from mlmon.explorer import whatif

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamlit.testing.v1 import AppTest

    Opener = Callable[..., AppTest]

PAGES = ("overview", "incident", "fields", "tokenizer", "embeddings", "compare", "simulate")
#: The whole hour.
HOUR = {"from_": "2025-10-09T08:54:00Z", "to": "2025-10-09T09:55:00Z"}


def words(app: AppTest) -> str:
    """All that a page says."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error")
    return "\n".join(str(one.value) for kind in kinds for one in app.get(kind))


def charts(app: AppTest) -> list[dict[str, Any]]:
    return [json.loads(one.proto.spec) for one in app.get("plotly_chart")]


def picker(app: AppTest, label: str, kind: str = "selectbox") -> Any:
    return next(one for one in app.get(kind) if one.label == label)


def metrics(app: AppTest) -> dict[str, str]:
    return {one.label: one.value for one in app.metric}


@pytest.mark.parametrize("name", PAGES)
def test_it_draws_without_a_baseline_too(open_page: Opener, name: str) -> None:
    app = open_page(name, baseline=False)
    assert not app.exception
    assert not app.error
    assert [one.value for one in app.warning if "nobody declared" not in one.value] == []
    assert app.title[0].value


@pytest.mark.parametrize("name", PAGES)
def test_an_empty_history_says_what_to_do(open_page: Opener, tmp_path: Path, name: str) -> None:
    app = open_page(name, history=tmp_path / "none")
    assert not app.exception
    assert "is empty" in words(app)
    assert "--history DIR" in words(app)


@pytest.mark.parametrize("name", ["fields", "tokenizer", "embeddings", "compare"])
def test_axes_have_units(open_page: Opener, name: str) -> None:
    for figure in charts(open_page(name, **HOUR)):
        layout = figure["layout"]
        assert layout["xaxis"]["title"]["text"]
        assert layout["yaxis"]["title"]["text"]
        assert layout["title"]["text"]


def test_overview(open_page: Opener) -> None:
    app = open_page("overview")
    said = words(app)
    assert "**shop** / intent" in said
    assert "likely cause: **version**" in said
    assert "A version serves that nobody declared." in said
    tables = [one.value for one in app.dataframe]
    assert any("budget left" in table or "left" in table for table in tables)
    assert any("tokenizer/unknown" in table.to_numpy() for table in tables)


def test_incident(open_page: Opener) -> None:
    app = open_page("incident", service="shop", alert="ModelDrift")
    assert metrics(app)["likely root cause"] == "version"
    assert metrics(app)["first sign, UTC"] == "10-09 09:31"
    assert "opened from the alert **ModelDrift**" in words(app)
    assert "predictions: class drifted" in app.dataframe[0].value["what"].tolist()
    assert [one.label for one in app.get("download_button")] == [
        "Postmortem draft (Markdown)",
        "Report (HTML)",
    ]


def test_fields_by_an_address(open_page: Opener) -> None:
    app = open_page("fields", monitor="features", field="channel", version="1")
    assert picker(app, "field").value == ("features", "channel")
    assert "features/channel: distribution" in {one["layout"]["title"]["text"] for one in charts(app)}
    picker(app, "field").set_value(("predictions", "class")).run()
    assert app.query_params["monitor"] == "predictions"
    assert app.query_params["field"] == "class"
    assert app.query_params["version"] == "1"


def test_tokenizer(open_page: Opener) -> None:
    app = open_page("tokenizer", **HOUR)
    assert "Band: the baseline of shop/intent/1" in words(app)
    assert "events carry no token ids" in words(app)
    by_title = {one["layout"]["title"]["text"]: one for one in charts(app)}
    assert set(by_title) == {"Unknown tokens", "Fertility", "Length of tokens", "Continuation tokens"}
    figure = by_title["Fertility"]
    assert figure["layout"]["yaxis"]["title"]["text"] == "tokens per word"
    band = next(shape for shape in figure["layout"]["shapes"] if shape["type"] == "rect")
    assert band["y0"] < 1.2 < band["y1"]
    assert len(figure["data"]) == 4  # two versions, two languages
    german = open_page("tokenizer", **HOUR, segment="language=de", version="1")
    figure = next(one for one in charts(german) if one["layout"]["title"]["text"] == "Unknown tokens")
    assert [line["name"] for line in figure["data"]] == ["version 1, language=de"]


def test_embeddings(open_page: Opener) -> None:
    app = open_page("embeddings", **HOUR, show="pca-prediction")
    assert "These two directions have" in words(app)
    figure = next(one for one in charts(app) if "events kept" in one["layout"]["title"]["text"])
    names = [trace["name"].split(" (")[0] for trace in figure["data"]]
    assert names == ["baseline", "refund", "order"]
    assert len({trace["marker"]["symbol"] for trace in figure["data"]}) == 3
    assert "shop/intent/1" in figure["layout"]["title"]["text"]
    picker(app, "colour").set_value("confidence").run()
    assert app.query_params["show"] == "pca-confidence"
    button = next(one for one in app.button if one.label.startswith("Exact MMD of all"))
    button.click().run()
    assert not app.exception
    assert float(metrics(app)["p-value"]) < 0.05
    assert float(metrics(app)["MMD²"]) > 0


def test_embeddings_without_a_baseline(open_page: Opener) -> None:
    app = open_page("embeddings", **HOUR, baseline=False)
    assert "No baseline given covers shop/intent/1" in words(app)
    assert not [one for one in app.button if one.label.startswith("Exact MMD")]


def test_umap_is_asked_for(open_page: Opener) -> None:
    app = open_page("embeddings", **HOUR, show="umap-window")
    assert picker(app, "projection", "radio").value == "umap"
    assert not app.exception


def test_compare_by_an_address(open_page: Opener) -> None:
    later = {"from_": "2025-10-09T09:30:00Z", "to": "2025-10-09T09:55:00Z"}
    app = open_page(
        "compare", **later, version="1", other_version="all", monitor="predictions", field="class"
    )
    assert picker(app, "right: version").value == "all"
    assert picker(app, "right: time").value == "the time before"
    table = app.dataframe[0].value.set_index("reading")
    row = table.loc["unknown token ratio"]
    assert row["left"] > 5 * row["right"]
    assert row["difference"] == pytest.approx(row["left"] - row["right"])
    assert "latency total, p99" in table.index
    figure = next(one for one in charts(app) if one["layout"]["title"]["text"].endswith("left and right"))
    assert [trace["name"].split(" ")[0] for trace in figure["data"]] == ["left", "right"]
    picker(app, "right: time").set_value("the same time").run()
    picker(app, "right: version").set_value("0").run()
    assert (app.query_params["show"], app.query_params["other_version"]) == ("the same time", "0")
    assert "version 0" in words(app)


def test_compare_with_a_time_of_its_own(open_page: Opener) -> None:
    own = {"other_from": "2025-10-09T09:00:00Z", "other_to": "2025-10-09T09:20:00Z"}
    app = open_page("compare", **HOUR, show="another time", **own)
    assert "2025-10-09 09:00:00 UTC to 2025-10-09 09:20:00 UTC" in words(app)
    picker(app, "right: from, UTC", "text_input").set_value("tea time").run()
    assert "expected a time such as" in words(app)
    assert not app.exception


def test_simulate(open_page: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_WINDOWS", 4), ("_LIMIT", 2), ("_REFERENCE", 1_500), ("_EVENTS", 500)):
        monkeypatch.setattr(whatif, name, value)
    monkeypatch.setattr(whatif, "SHIFTS", whatif.SHIFTS[3:6])
    app = open_page("simulate", budget="0.5", window="300", sampling="0.25")
    assert "false_pages_per_month = 0.5" in app.code[0].value
    assert "size_seconds = 300" in app.code[0].value
    assert "sample_rate times 0.25" in app.code[0].value
    assert not app.metric
    next(one for one in app.button if one.label == "Simulate").click().run()
    assert not app.exception
    assert app.query_params["show"] == "run"
    assert metrics(app)["events to a window"] == "1,500"
    assert app.dataframe[0].value["shift"].tolist()[0].startswith(("30 % more tokens", "one more unknown"))
    picker(app, "window, seconds").set_value("600").run()
    assert app.query_params["window"] == "600"
    assert "show" not in app.query_params
    assert "size_seconds = 600" in app.code[0].value


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"span": "2 weeks"}, "span: expected one of 1h"),
        ({"to": "tomorrow"}, "to: expected a time such as"),
        ({"from_": "2026-01-02", "to": "2026-01-01"}, "expected from before to"),
        ({"window": "a minute"}, "window: expected a number from 10"),
    ],
)
def test_what_an_address_says_wrongly_is_told(open_page: Opener, query: dict[str, str], told: str) -> None:
    app = open_page("simulate", **query)
    assert not app.exception
    assert told in words(app)


@pytest.mark.parametrize("name", PAGES)
def test_what_is_not_there_is_no_error(open_page: Opener, name: str) -> None:
    hostile = "x' or '1'='1"
    app = open_page(name, service=hostile, segment=hostile, version=hostile, field=hostile, show=hostile)
    assert not app.exception
    assert app.info


def test_broken_files_are_left_out_with_a_warning(
    open_page: Opener, explored: explorer_kit.Explored, tmp_path: Path
) -> None:
    history = tmp_path / "history"
    shutil.copytree(explored.history, history)
    folder = next((history / "readings").iterdir())
    whole = min(folder.glob("*.parquet"))
    half = folder / f"w-{explorer_kit.START * 1_000_000}-{'0' * 24}.parquet"
    half.write_bytes(whole.read_bytes()[:-100])
    broken = folder / f"w-{explorer_kit.START * 1_000_000}-{'1' * 24}.parquet"
    broken.write_bytes(b"no parquet")
    app = open_page("overview", history=history)
    assert not app.exception
    warned = "\n".join(one.value for one in app.sidebar.warning)
    assert half.name in warned
    assert broken.name in warned
    assert "**shop** / intent" in words(app)
