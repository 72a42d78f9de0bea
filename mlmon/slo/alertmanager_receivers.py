"""Channels by which somebody is told, and what they are told.

The title names service and root cause, which is what the notification is about; the text lists its alerts
with their runbooks. Webhooks get Alertmanager's own JSON.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

__all__ = ["Opsgenie", "PagerDuty", "Receiver", "Slack", "Webhook", "receiver"]

_TITLE = "{{ .GroupLabels.service }}: {{ .GroupLabels.root_cause }}"
_COUNT = " ({{ len .Alerts.Firing }} firing)"
_FIRST = "{{ with index .Alerts 0 }}{{ .Annotations.summary }}{{ end }}"
_TEXT = (
    "{{ range .Alerts }}{{ .Status }}: {{ .Annotations.summary }}\n"
    "{{ .Annotations.description }}\n"
    "Runbook: {{ .Annotations.runbook_url }}\n"
    "Dashboard: {{ .Annotations.dashboard_url }}\n"
    "{{ if .Annotations.explorer_url }}Explorer: {{ .Annotations.explorer_url }}"
    '&at={{ .StartsAt.UTC.Format "2006-01-02T15:04:05Z" }}\n{{ end }}\n{{ end }}'
)


class PagerDuty(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service of PagerDuty, Events API v2.

    Attributes:
        routing_key_file: file with the integration key.
        url: of the Events API; empty: PagerDuty's own in the USA.
    """

    routing_key_file: str
    url: str = ""

    def __post_init__(self) -> None:
        _file("routing_key_file", self.routing_key_file)
        _url("url", self.url, optional=True)


class Opsgenie(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A team of Opsgenie.

    Attributes:
        api_key_file: file with the API key.
        url: of the API; empty: Opsgenie's own in the USA.
    """

    api_key_file: str
    url: str = ""

    def __post_init__(self) -> None:
        _file("api_key_file", self.api_key_file)
        _url("url", self.url, optional=True)


class Slack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A channel of Slack.

    Attributes:
        api_url_file: file with the incoming webhook's address, which is a secret.
        channel: such as `#ml-oncall`.
    """

    api_url_file: str
    channel: str

    def __post_init__(self) -> None:
        _file("api_url_file", self.api_url_file)
        if not self.channel:
            raise ValueError("channel: expected a channel such as #ml-oncall; got an empty text")


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Anything that takes Alertmanager's JSON.

    Attributes:
        url: its address, without a secret in it.
        token_file: file with a bearer token; empty: none is sent.
    """

    url: str
    token_file: str = ""

    def __post_init__(self) -> None:
        _url("url", self.url)
        if self.token_file:
            _file("token_file", self.token_file)


class Receiver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody, by all the channels by which they are told."""

    pagerduty: tuple[PagerDuty, ...] = ()
    opsgenie: tuple[Opsgenie, ...] = ()
    slack: tuple[Slack, ...] = ()
    webhook: tuple[Webhook, ...] = ()


def receiver(name: str, told: Receiver) -> dict[str, Any]:
    """A receiver in the form of Alertmanager's `receivers`."""
    urgent = name != "product-owner"
    kinds = {
        "pagerduty_configs": [_pagerduty(channel, urgent=urgent) for channel in told.pagerduty],
        "opsgenie_configs": [_opsgenie(channel, urgent=urgent) for channel in told.opsgenie],
        "slack_configs": [_slack(channel, urgent=urgent) for channel in told.slack],
        "webhook_configs": [_webhook(channel) for channel in told.webhook],
    }
    return {"name": name, **{kind: channels for kind, channels in kinds.items() if channels}}


def _pagerduty(channel: PagerDuty, *, urgent: bool) -> dict[str, Any]:
    return {
        "routing_key_file": channel.routing_key_file,
        **({"url": channel.url} if channel.url else {}),
        "severity": "critical" if urgent else "warning",
        "description": f"{_TITLE}{_COUNT}: {_FIRST}",
        "component": "{{ .GroupLabels.service }}",
        "group": "{{ .GroupLabels.root_cause }}",
        "details": {"alerts": _TEXT},
        "send_resolved": True,
    }


def _opsgenie(channel: Opsgenie, *, urgent: bool) -> dict[str, Any]:
    return {
        "api_key_file": channel.api_key_file,
        **({"api_url": channel.url} if channel.url else {}),
        "priority": "P1" if urgent else "P3",
        "message": f"{_TITLE}{_COUNT}: {_FIRST}",
        "description": _TEXT,
        "tags": "{{ .GroupLabels.service }},{{ .GroupLabels.root_cause }}",
        "send_resolved": True,
    }


def _slack(channel: Slack, *, urgent: bool) -> dict[str, Any]:
    firing = "danger" if urgent else "warning"
    return {
        "api_url_file": channel.api_url_file,
        "channel": channel.channel,
        "title": f"[{{{{ .Status }}}}] {_TITLE}{_COUNT}",
        "title_link": "{{ (index .Alerts 0).Annotations.runbook_url }}",
        "text": _TEXT,
        "color": f'{{{{ if eq .Status "firing" }}}}{firing}{{{{ else }}}}good{{{{ end }}}}',
        "send_resolved": True,
    }


def _webhook(channel: Webhook) -> dict[str, Any]:
    made: dict[str, Any] = {"url": channel.url, "send_resolved": True}
    if channel.token_file:
        made["http_config"] = {"authorization": {"credentials_file": channel.token_file}}
    return made


def _file(key: str, path: str) -> None:
    if not path.startswith("/"):
        raise ValueError(
            f"{key}: expected the whole path of a file that holds the secret, such as "
            f"/etc/alertmanager/secrets/{key.removesuffix('_file')}; got {path!r}"
        )


def _url(key: str, url: str, *, optional: bool = False) -> None:
    if optional and not url:
        return
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{key}: expected an address such as https://hooks.example/page; got {url!r}")
    if parts.username or parts.password:
        raise ValueError(f"{key}: expected an address without a password in it; use a file for the secret")
