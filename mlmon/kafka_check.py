"""What a Kafka source and checkpoint will meet: brokers, topics, rights, looked at without changing a thing.

Rights are asked for in three ways that leave no trace: the brokers' own list of what this user may do with a
topic, creation that is only validated, and requests that name a member and a producer that do not exist,
which are refused for lack of rights before they are refused for that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka import KafkaAdminClient
from kafka.errors import AuthorizationError, CoordinatorNotAvailableError, KafkaError, for_code
from kafka.protocol.consumer import HeartbeatRequest
from kafka.protocol.metadata import CoordinatorType
from kafka.protocol.producer import EndTxnRequest

from mlmon.errors import ConfigError
from mlmon.kafka_client import client_settings, open_client, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlmon.checkpoint.kafka import KafkaCheckpointConfig
    from mlmon.sources.kafka import KafkaConfig

__all__ = ["Finding", "check_kafka"]

OLDEST = (2, 5)  # commits that are fenced by the group's generation
COORDINATOR_SECONDS = 10.0


class Finding(NamedTuple):
    """One thing looked at: whether it is as it must be, what was found, and what to do if it is not."""

    ok: bool
    what: str
    remedy: str


def check_kafka(source: KafkaConfig, checkpoint: KafkaCheckpointConfig | None) -> list[Finding]:
    """Look at everything the Kafka source, and the Kafka checkpoint unless None, will need.

    Takes as long as the brokers take to answer, `connect_timeout_seconds` when none does; raises nothing that
    the brokers cause.
    """
    where = ", ".join(source.bootstrap_servers)
    try:
        admin = open_client(KafkaAdminClient, client_settings(source))
    except ConfigError as error:
        return [Finding(False, "the connection to Kafka is not fully configured", str(error))]
    except (KafkaError, OSError) as error:
        remedy = "start Kafka, or correct source.kafka.bootstrap_servers, TLS and SASL"
        return [Finding(False, f"no Kafka broker answers at {where} ({reason(error)})", remedy)]
    try:
        return list(_Check(admin, source, checkpoint).findings())
    except (KafkaError, OSError) as error:
        return [Finding(False, f"Kafka at {where} failed under the check ({reason(error)})", "try again")]
    finally:
        admin.close()


class _Check:
    def __init__(
        self, admin: KafkaAdminClient, source: KafkaConfig, checkpoint: KafkaCheckpointConfig | None
    ) -> None:
        self._admin = admin
        self._source = source
        self._checkpoint = checkpoint
        self._user = f"User:{source.sasl_username}" if source.sasl_username else "this user"

    def findings(self) -> Iterator[Finding]:
        version = self._admin._manager.broker_version
        text = ".".join(map(str, version))
        if version < OLDEST and self._checkpoint is not None:
            remedy = "use Kafka 2.5 or newer, or the sqlite checkpoint"
            yield Finding(False, f"the brokers speak Kafka {text}; transactions need 2.5", remedy)
        else:
            yield Finding(True, f"Kafka {text} answers at {', '.join(self._source.bootstrap_servers)}", "")
        widths = []
        for topic in self._source.topics:
            width, finding = self._topic(topic, {"READ"}, "create it, or correct source.kafka.topics")
            widths.append(width)
            yield finding
        yield self._group()
        if self._checkpoint is not None:
            yield from self._kept(self._checkpoint, max(widths))

    def _kept(self, checkpoint: KafkaCheckpointConfig, width: int) -> Iterator[Finding]:
        group = self._source.group
        state = checkpoint.state_topic or f"{group}-mlmon-state"
        found, finding = self._topic(state, {"READ", "WRITE"}, None)
        if finding.ok and found and width and found != width:
            remedy = "give it as many, or name another checkpoint.kafka.state_topic"
            finding = Finding(False, f"topic {state} has {found} partitions, the input has {width}", remedy)
        yield finding
        letters = checkpoint.dead_letter_topic or f"{group}-mlmon-dead-letters"
        yield self._topic(letters, {"WRITE"}, None)[1]
        yield self._transactions(checkpoint.transactional_id_prefix or f"{group}-mlmon-")

    def _topic(self, name: str, operations: set[str], create: str | None) -> tuple[int, Finding]:
        """Partitions of a topic (0: none yet) and the finding; `create`: what to do if it does not exist."""
        topic: dict[str, Any] = self._admin.describe_topics([name])[0]
        error = for_code(topic["error_code"])
        if issubclass(error, AuthorizationError):
            return 0, self._missing(f"topic {name}", {"DESCRIBE", *operations}, f"Topic {name}")
        # None: brokers that do not say; then nothing can be held against this user.
        allowed = topic["authorized_operations"]
        lacking = operations - set(operations if allowed is None else allowed)
        if lacking:
            return 0, self._missing(f"topic {name}", lacking, f"Topic {name}")
        if topic["error_code"] == 0:
            count = len(topic["partitions"])
            return count, Finding(True, f"topic {name}: {count} partitions, {_words(operations)} allowed", "")
        if create is not None:
            return 0, Finding(False, f"there is no topic {name}", create)
        try:
            self._admin.create_topics({name: {"num_partitions": 1}}, validate_only=True)
        except AuthorizationError:
            return 0, self._missing(f"topic {name} (it does not exist yet)", {"CREATE"}, f"Topic {name}")
        except KafkaError as problem:
            return 0, Finding(
                False, f"topic {name} cannot be created ({reason(problem)})", "create it by hand"
            )
        return 0, Finding(True, f"topic {name} does not exist yet and can be created", "")

    def _group(self) -> Finding:
        group = self._source.group
        request = HeartbeatRequest(group_id=group, generation_id=1, member_id="mlmon-check")
        what, resource = f"group {group}", f"Group {group}"
        return self._asked(group, CoordinatorType.GROUP, request, (what, "READ", resource))

    def _transactions(self, prefix: str) -> Finding:
        name = f"{prefix}check"
        request = EndTxnRequest(
            transactional_id=name, producer_id=1, producer_epoch=0, committed=False, max_version=3
        )
        what, resource = f"transactional ids {prefix}*", f"TransactionalId {prefix} (prefixed)"
        return self._asked(name, CoordinatorType.TRANSACTION, request, (what, "WRITE", resource))

    def _asked(self, key: str, kind: Any, request: Any, right: tuple[str, str, str]) -> Finding:
        """Ask a coordinator something it refuses in any case, and see whether for lack of rights."""
        what, operation, resource = right

        async def ask() -> Any:
            node = await self._admin._find_coordinator_id(key, kind)
            return await self._admin._manager.send(request, node_id=node)

        deadline = time.monotonic() + COORDINATOR_SECONDS
        while True:
            try:
                answer = for_code(self._admin._manager.run(ask).error_code)
            except AuthorizationError as error:
                answer = type(error)
            except CoordinatorNotAvailableError as error:
                # The first question ever makes the brokers create the topic they keep the answer in.
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                remedy = "see the brokers' logs; their internal topics may want more replicas than brokers"
                return Finding(False, f"{what}: no coordinator ({reason(error)})", remedy)
            if issubclass(answer, AuthorizationError):
                return self._missing(what, {operation}, resource)
            return Finding(True, f"{what}: {_words({operation})} allowed", "")

    def _missing(self, what: str, operations: set[str], resource: str) -> Finding:
        remedy = f"allow {_words(operations)} on {resource} to {self._user}"
        return Finding(False, f"{what}: {_words(operations)} not allowed to {self._user}", remedy)


def _words(operations: set[str]) -> str:
    """Operations as access-control lists write them: Read, DescribeConfigs."""
    return " and ".join(sorted(name.title().replace("_", "") for name in operations))
