"""Is the new deployment as good as the old one: verdicts that may be asked for at any moment."""

from mlmon.canary.arms import Arm, ArmPair, Cells
from mlmon.canary.config import CanaryConfig
from mlmon.canary.verdict import Check, State, Verdict, judge

__all__ = ["Arm", "ArmPair", "CanaryConfig", "Cells", "Check", "State", "Verdict", "judge"]
