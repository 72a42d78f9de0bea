"""What is said of drift: fields against their baseline, the pager's evidence, baselines and history.

Labels of a field are those of its series plus `monitor` and `field`. Fields shown are the `top_fields` with
the most evidence of each series and monitor, so the number of samples does not grow with the fields watched;
`mlmon_drift_fields` counts all of them by state. Series are joined by one for each service, model, version
and deployment over all its segments, whose `segment` is empty.
"""

from __future__ import annotations

from mlmon.catalog.base import SERIES_LABELS, declare

_FIELD = (*SERIES_LABELS, "monitor", "field")
_GROUP = ("service", "model")

EFFECT = declare(
    "mlmon_drift_effect",
    "gauge",
    "",
    _FIELD,
    "How far the field has moved, beyond noise: standard deviations for means, root of the chi-square "
    "distance for distributions, the share itself for rates. Compare with mlmon_drift_tolerance.",
)
TOLERANCE = declare(
    "mlmon_drift_tolerance", "gauge", "", _FIELD, "The effect that is not worth a page, in the effect's unit."
)
EVIDENCE = declare(
    "mlmon_drift_evidence",
    "gauge",
    "",
    _FIELD,
    "Evidence accumulated that the field moved by more than its tolerance; 1 is none.",
)
FIELD_THRESHOLD = declare(
    "mlmon_drift_threshold", "gauge", "", _FIELD, "Evidence at which this field alone would page."
)
SAMPLE_SIZE = declare(
    "mlmon_drift_sample_size", "gauge", "events", _FIELD, "Effective sample size behind the field's reading."
)
ALARM = declare(
    "mlmon_drift_alarm", "gauge", "", _FIELD, "1 while the field carries a page that is open, else 0."
)
DISTANCE = declare(
    "mlmon_drift_distance",
    "gauge",
    "",
    (*_FIELD, "measure"),
    "Distance of a distribution from its reference (measure: psi, bias-corrected; js, Jensen-Shannon in "
    "bits; ks; wasserstein in reference standard deviations). For people: no alarm reads it.",
)
FIELDS = declare(
    "mlmon_drift_fields",
    "gauge",
    "",
    (*SERIES_LABELS, "monitor", "state"),
    "Fields by state (ok, alarm, insufficient_data, insufficient_reference).",
)
PAGER_EVIDENCE = declare(
    "mlmon_pager_evidence",
    "gauge",
    "",
    _GROUP,
    "Evidence over all detectors of a service and model, as a weighted mean; a page is due at "
    "mlmon_pager_threshold.",
)
PAGER_THRESHOLD = declare(
    "mlmon_pager_threshold",
    "gauge",
    "",
    _GROUP,
    "Evidence at which a page is due: windows in 30 days over the declared false pages in 30 days.",
)
PAGER_ALARM = declare("mlmon_pager_alarm", "gauge", "", _GROUP, "1 while a page is due, else 0.")
PAGES = declare("mlmon_pager_pages", "counter", "", _GROUP, "Pages since the first checkpoint.")
PAGER_CAUSE = declare(
    "mlmon_pager_cause",
    "gauge",
    "",
    (*_GROUP, "version", "segment", "cause", "field"),
    "1 for the likely root cause of the open page (cause: version, tokenizer, embeddings, features, "
    "predictions) and the field that carries most of it.",
)
PAGER_DETECTORS = declare(
    "mlmon_pager_detectors", "gauge", "", _GROUP, "Detectors that share the budget of pages."
)
BASELINE = declare(
    "mlmon_baseline_info",
    "gauge",
    "",
    ("service", "model", "version", "digest"),
    "1 for each service, model and version that a loaded baseline covers.",
)
BASELINE_TIME = declare(
    "mlmon_baseline_newest_event_timestamp_seconds",
    "gauge",
    "seconds",
    ("service", "model", "version"),
    "Event time of the newest event in the baseline.",
)
HISTORY_WINDOWS = declare(
    "mlmon_history_windows", "counter", "", (), "Closed windows written to the history."
)
HISTORY_EXPIRED = declare(
    "mlmon_history_expired_windows",
    "counter",
    "",
    (),
    "Windows deleted from the history because of its age or size.",
)
HISTORY_BYTES = declare("mlmon_history_size_bytes", "gauge", "bytes", (), "Size of the history on disk.")
HISTORY_FAILURES = declare(
    "mlmon_history_failures", "counter", "", (), "Writes to the history that failed; they are tried again."
)
HISTORY_PENDING = declare(
    "mlmon_history_pending_windows", "gauge", "", (), "Closed windows kept in the checkpoint for the history."
)
