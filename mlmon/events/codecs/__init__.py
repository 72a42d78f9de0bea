"""Records of a log to batches of events, and what is not an event to rejects.

`formats` says which codec, `arrow` and `rows` decode, `checks` refuses what cannot be, `decoder` keeps count.
"""

from __future__ import annotations

from mlmon.events.codecs.config import DecodeConfig
from mlmon.events.codecs.decoder import Decoded, Decoder

__all__ = ["DecodeConfig", "Decoded", "Decoder"]
