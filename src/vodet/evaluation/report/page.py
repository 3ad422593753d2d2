"""Writes the report as one HTML file, which needs no network and no other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vodet.errors import ConfigError
from vodet.evaluation.measures import Measures
from vodet.evaluation.report import sections
from vodet.evaluation.report.analysis import Analysis, EvaluatedData, Run
from vodet.evaluation.report.comparison import by_group, differences
from vodet.evaluation.report.events import find_events
from vodet.evaluation.report.gallery import Gallery
from vodet.files import replacing
from vodet.names import visible


def write_report(
    path: str | Path, data: EvaluatedData, runs: Sequence[Run], measures: Measures
) -> None:
    """Write the report of one run, or of several runs on the same data.

    Args:
        path: The HTML file.
        data: The data set.
        runs: The runs. Later runs are compared with the first.
        measures: The metrics that were computed, for the names of the protocols and the minimum
            score of detections.

    Raises:
        ConfigError: If there is no run, or two runs have the same name.
        OutputError: If the file cannot be written.
    """
    names = [run.name for run in runs]
    if not names or len(set(names)) < len(names):
        msg = f"A report needs one or more runs with different names, found {names}."
        raise ConfigError(msg)
    analyses = [Analysis(data.ground_truth, run, measures.score_threshold) for run in runs]
    text = _environment().get_template("page.html").render(_content(data, analyses, measures))
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _content(
    data: EvaluatedData, analyses: Sequence[Analysis], measures: Measures
) -> dict[str, Any]:
    truth = data.ground_truth
    gallery = Gallery(data, analyses)
    found = differences(analyses) if len(analyses) > 1 else []
    tide = sections.tide_rows(analyses)
    gains = [value for row in tide for value in row.values if not math.isnan(value)]
    return {
        "runs": [analysis.run.name for analysis in analyses],
        "source": truth.source,
        "class_names": truth.class_names,
        "empty": [run.run.name for run in analyses if not len(run.run.predictions)],
        "num_with_objects": len(np.unique(truth.labels[~truth.iscrowd])),
        "counts": sections.counts(truth),
        "score_threshold": measures.score_threshold,
        "has_images": data.images is not None,
        "numbers": sections.numbers(analyses, measures),
        "differences": by_group(found),
        "subsets": sections.subset_rows(analyses),
        "classes": sections.class_rows(analyses),
        "curves": sections.curves(analyses),
        "tide": tide,
        "most_gained": max(gains, default=0.0),
        "confusions": sections.confusions(analyses),
        "ages": sections.age_chart(analyses),
        "videos": sections.video_rows(analyses),
        "gallery": [
            {"group": group, "items": [gallery.item(event, group.runs) for event in group.events]}
            for group in find_events(analyses)
        ],
    }


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vodet.evaluation.report"),
        autoescape=True,  # names in the data are not trusted
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "signed": signed}
    return environment


def _shown(value: Any) -> Any:
    """Make control codes in names visible; text of the templates themselves is not changed."""
    is_name = isinstance(value, str) and not isinstance(value, Markup)
    return visible(value) if is_name else value


def percent(value: float, scale: float = 100.0) -> str:
    """Format a number, by default in percent; NaN becomes a dash."""
    return "-" if math.isnan(value) else f"{scale * value:.1f}"


def signed(value: float, scale: float = 100.0) -> str:
    """Format a difference with its sign."""
    return "-" if math.isnan(value) else f"{scale * value:+.1f}"
